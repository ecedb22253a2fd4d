"""The statements on incidents, alerts, actions and the timeline, each with a line on what it is for.

Every function takes a connection inside a transaction of the caller and returns plain rows; nothing here
decides. What must not race is one statement, or stands in one transaction that `serialize` or a locked row
orders among replicas; SQLite has one writer and needs neither.

Statements of every step are built once, above their function: building one costs several times its execution.
Conditions of partial indexes stand in them as they stand in the schema: a database does not compare them with
what comes as a parameter, and would read all that is kept of what is over.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import cycle, islice
from typing import Any, TypeVar, cast

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    Table,
    TextClause,
    and_,
    bindparam,
    case,
    delete,
    exists,
    func,
    insert,
    or_,
    select,
    text,
    true,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.dml import ReturningUpdate

from self_healing_fabric.errors import LeaseLost
from self_healing_fabric.store import audit_statements
from self_healing_fabric.store.rows import execute_for
from self_healing_fabric.store.schema import (
    FAILING,
    FIRING,
    IN_HEALING,
    RUNNING,
    actions,
    alerts,
    calls,
    controls,
    diagnosis_verdicts,
    heartbeats,
    inbox,
    incidents,
    leases,
    retired,
    timeline,
)

AnyRow = Row[Any]
Changes = Mapping[str, Any]
Key = TypeVar("Key", str, int)

UNFINISHED = ("intended", "started")
MAX_INBOX_FAULTS = 3  # unexpected errors after which a notification waits for people

_LOCKS = {
    "correlation": 0x5348_4601,
    "announcement": 0x5348_4602,
    "control": 0x5348_4603,
    "timeline": 0x5348_4604,
    "calls": 0x5348_4605,
}  # any of ours
_LOCK = select(func.pg_advisory_xact_lock(bindparam("_key")))
_LOCK_IF_FREE = select(func.pg_try_advisory_xact_lock(bindparam("_key")))
_LOCK_SHARED = select(func.pg_advisory_xact_lock_shared(bindparam("_key")))


def serialize(connection: Connection, what: str, *, shared: bool = False) -> None:
    """Let only one transaction of all replicas do this at a time, until it ends.

    `shared`: several may, but not beside one that does it alone.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(_LOCK_SHARED if shared else _LOCK, {"_key": _LOCKS[what]})


def serialize_if_free(connection: Connection, what: str, *, wait: bool = False) -> bool:
    """As `serialize`, but False instead of waiting for others, unless `wait`."""
    if connection.dialect.name != "postgresql":
        return True
    if wait:
        serialize(connection, what)
        return True
    return bool(connection.execute(_LOCK_IF_FREE, {"_key": _LOCKS[what]}).scalar())


def _upsert(connection: Connection, table: Table) -> Any:
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    return dialect.insert(table)


_OPEN = insert(incidents)


def insert_incidents(connection: Connection, rows: Sequence[Changes]) -> None:
    """Open incidents."""
    if rows:
        execute_for(connection, _OPEN, [dict(row) for row in rows])
        audit_statements.record_openings(connection, rows)


_INCIDENT = select(incidents).where(incidents.c.id == bindparam("_id"))


def incident(connection: Connection, incident_id: str, *, lock: bool = False) -> AnyRow | None:
    """One incident, or None. `lock`: nobody else changes it before this transaction ends."""
    query = _INCIDENT.with_for_update() if lock else _INCIDENT
    return connection.execute(query, {"_id": incident_id}).first()


_OPEN_INCIDENTS_OF = select(incidents).where(
    incidents.c.subject.in_(bindparam("_subjects", expanding=True)), incidents.c.closed_at.is_(None)
)


def open_incidents_of(
    connection: Connection, subjects: Collection[str], *, lock: bool = False
) -> Sequence[AnyRow]:
    """The incidents of these subjects that are not closed, oldest first.

    `lock`: nobody else changes them before this transaction ends.
    """
    rows: list[AnyRow] = []
    query = _OPEN_INCIDENTS_OF.with_for_update() if lock else _OPEN_INCIDENTS_OF
    for part in _parts(subjects):
        rows += connection.execute(query, {"_subjects": part}).all()
    return sorted(rows, key=lambda row: (row.opened_at, row.id))


_MEMBERSHIPS = (
    select(alerts.c.service, alerts.c.incident_id)
    .join(incidents, incidents.c.id == alerts.c.incident_id)
    .where(
        alerts.c.service.in_(bindparam("_services", expanding=True)),
        incidents.c.closed_at.is_(None),
        incidents.c.service != alerts.c.service,
    )
    .distinct()
)


def memberships(connection: Connection, services: Collection[str]) -> Sequence[AnyRow]:
    """(service, incident_id) of the services whose alerts belong to another service's open incident."""
    rows: list[AnyRow] = []
    for part in _parts(services):
        rows += cast(Sequence[AnyRow], connection.execute(_MEMBERSHIPS, {"_services": part}).all())
    return rows


_LAST_ALERT_TIMES = (
    select(alerts.c.incident_id, func.max(alerts.c.received_at).label("at"))
    .where(alerts.c.incident_id.in_(bindparam("_ids", expanding=True)))
    .group_by(alerts.c.incident_id)
)


def last_alert_times(connection: Connection, incident_ids: Collection[str]) -> Mapping[str, float]:
    """When each incident's newest alert came."""
    times: dict[str, float] = {}
    for part in _parts(incident_ids):
        times |= {row.incident_id: row.at for row in connection.execute(_LAST_ALERT_TIMES, {"_ids": part})}
    return times


def _parts(values: Collection[Key], size: int = 500) -> Iterator[list[Key]]:
    """Lists that a statement can take."""
    ordered = sorted(values)
    return (ordered[start : start + size] for start in range(0, len(ordered), size))


def list_incidents(
    connection: Connection,
    *,
    states: Sequence[str] = (),
    service: str | None = None,
    since: float | None = None,
    before: tuple[float, str] | None = None,
    merged: bool = False,
    message: str | None = None,
    limit: int = 50,
) -> Sequence[AnyRow]:
    """Incidents, newest first; `before` is (opened_at, id) of the last one of the page before.

    Those that turned out to be a symptom of another one, and were merged into it, only on demand, or where a
    `message` to people told of them.
    """
    query = select(incidents).order_by(incidents.c.opened_at.desc(), incidents.c.id.desc()).limit(limit)
    if message is not None:
        query = query.where(incidents.c.id.in_(select(calls.c.incident_id).where(calls.c.message == message)))
    elif not merged:
        query = query.where(incidents.c.merged_into.is_(None))
    if states:
        query = query.where(incidents.c.state.in_(states))
        if "closed" not in states:
            query = query.where(incidents.c.closed_at.is_(None))
    if service is not None:
        query = query.where(incidents.c.service == service)
    if since is not None:
        query = query.where(incidents.c.opened_at >= since)
    if before is not None:
        opened_at, incident_id = before
        older = incidents.c.opened_at < opened_at
        query = query.where(
            or_(older, and_(incidents.c.opened_at == opened_at, incidents.c.id < incident_id))
        )
    return connection.execute(query).all()


_NOT_OVER = and_(
    incidents.c.closed_at.is_(None), incidents.c.state != "resolved", incidents.c.merged_into.is_(None)
)
_WAITS_FOR_PERSON = or_(
    incidents.c.state == "awaiting_approval",
    and_(incidents.c.state == "escalated", incidents.c.acknowledged_by.is_(None)),
)


def split_from(connection: Connection, incident_id: str, service: str) -> str | None:
    """The newest incident that a service was given when it was split off from this one."""
    query = select(incidents.c.id).where(
        incidents.c.split_from == incident_id, incidents.c.service == service
    )
    found: str | None = connection.scalar(query.order_by(incidents.c.opened_at.desc()).limit(1))
    return found


def first_of_open_incidents(
    connection: Connection, *, severities: Sequence[str], limit: int
) -> Sequence[AnyRow]:
    """Of the open incidents those that wait for a person, then the most severe, then the oldest."""
    places = {name: place for place, name in enumerate(severities)}
    severity = case(places, value=incidents.c.severity, else_=len(severities))
    order = (case((_WAITS_FOR_PERSON, 0), else_=1), severity, incidents.c.opened_at, incidents.c.id)
    return connection.execute(select(incidents).where(_NOT_OVER).order_by(*order).limit(limit)).all()


def count_open_incidents(connection: Connection) -> tuple[int, int]:
    """How many open incidents wait for a person, and how many do not."""
    waits = func.count().filter(_WAITS_FOR_PERSON)
    waiting, number = connection.execute(select(waits, func.count()).where(_NOT_OVER)).one()
    return int(waiting), int(number - waiting)


_FIRING_OF_RESOLVED: Select[Any] = (
    select(alerts.c.incident_id, alerts.c.service, alerts.c.labels)
    .join(incidents, alerts.c.incident_id == incidents.c.id)
    .where(incidents.c.state == "resolved", incidents.c.service == alerts.c.service)
    .where(FIRING, alerts.c.suppressed.is_(False))
)


def firing_alerts_of_resolved(connection: Connection) -> Sequence[AnyRow]:
    """The alerts of resolved incidents' own services that still fire and that nobody has silenced."""
    return connection.execute(_FIRING_OF_RESOLVED).all()


def look_now(connection: Connection, ids: Collection[str], now: float) -> None:
    """Make these resolved incidents due, where nobody works on them."""
    resolved = incidents.c.state == "resolved", incidents.c.lease_owner.is_(None)
    query = update(incidents).where(incidents.c.id.in_(ids), *resolved, incidents.c.due_at > now)
    connection.execute(query.values(due_at=now))


def count_incidents(connection: Connection) -> Sequence[AnyRow]:
    """How many unclosed incidents there are by service, class, severity and state, for /metrics."""
    columns = (incidents.c.service, incidents.c.failure_class, incidents.c.severity, incidents.c.state)
    query = select(*columns, func.count().label("number"), func.max(incidents.c.level).label("level"))
    return connection.execute(query.where(incidents.c.closed_at.is_(None)).group_by(*columns)).all()


def _claim(condition: ColumnElement[bool] | TextClause) -> ReturningUpdate[Any]:
    """The longest due of the incidents that nobody works on."""
    free = or_(incidents.c.lease_until.is_(None), incidents.c.lease_until < bindparam("_now"))
    due = (
        select(incidents.c.id)
        .where(condition, incidents.c.due_at <= bindparam("_now"), free)
        .where(incidents.c.id.not_in(bindparam("_not_these", expanding=True)))
        .order_by(incidents.c.due_at)
        .limit(bindparam("_limit"))
        .with_for_update(skip_locked=True)
        # A table expression: as a plain subquery PostgreSQL may run it, and lock, more than once.
        .cte("due")
    )
    return (
        update(incidents)
        .where(incidents.c.id.in_(select(due.c.id)))
        .values(lease_owner=bindparam("_owner"), lease_until=bindparam("_until"), epoch=incidents.c.epoch + 1)
        .returning(*incidents.c)
    )


_CLAIM_IN_HEALING, _CLAIM_ANY = _claim(IN_HEALING), _claim(true())


def claim_due(
    connection: Connection,
    *,
    owner: str,
    now: float,
    lease: float,
    limit: int,
    in_turn: int | None = 0,
    not_these: Collection[str] = (),
) -> Sequence[AnyRow]:
    """Claim incidents whose timer is due and that nobody works on; each claim raises the epoch.

    Those that are only watched come last: thousands of them must not keep a new one from being healed. But
    `in_turn` of the limit go to the longest due of all, so that they are looked at too; with None, they are
    left to another claim.
    """
    values = {"_owner": owner, "_now": now, "_until": now + lease, "_not_these": list(not_these)}
    ways = [(_CLAIM_IN_HEALING, limit - (in_turn or 0))]
    if in_turn is not None:
        ways.append((_CLAIM_ANY, limit))
    claimed: list[AnyRow] = []
    for statement, most in ways:
        if len(claimed) < most:
            claimed += connection.execute(statement, {**values, "_limit": most - len(claimed)}).all()
    return claimed


_NEXT_DUE = (
    select(incidents.c.due_at)
    .where(incidents.c.due_at.is_not(None))
    .where(or_(incidents.c.lease_until.is_(None), incidents.c.lease_until < bindparam("_now")))
    .order_by(incidents.c.due_at)
    .limit(1)
)


def next_due(connection: Connection, now: float) -> float | None:
    """The earliest timer of the incidents that nobody works on."""
    value = connection.execute(_NEXT_DUE, {"_now": now}).scalar()
    return None if value is None else float(value)


def renew_leases(
    connection: Connection, *, owner: str, held: Collection[str], now: float, lease: float
) -> Mapping[str, int]:
    """Prolong the leases of the incidents that one works on; return the epochs of those still held."""
    kept: dict[str, int] = {}
    for part in _parts(held):
        query = update(incidents).where(incidents.c.id.in_(part), incidents.c.lease_owner == owner)
        answer = connection.execute(
            query.values(lease_until=now + lease).returning(incidents.c.id, incidents.c.epoch)
        )
        kept |= {row.id: row.epoch for row in answer}
    return kept


def release_leases(connection: Connection, owner: str, held: Collection[str]) -> None:
    """Give incidents back that were claimed and not begun."""
    for part in _parts(held):
        query = update(incidents).where(incidents.c.id.in_(part), incidents.c.lease_owner == owner)
        connection.execute(query.values(lease_owner=None, lease_until=None))


def release_all_leases(connection: Connection) -> None:
    """At start on SQLite: the process that held these leases is dead, for it no longer holds the lock."""
    held = update(incidents).where(incidents.c.lease_owner.is_not(None))
    connection.execute(held.values(lease_owner=None, lease_until=None))
    sending = update(calls).where(calls.c.lease_owner.is_not(None))
    connection.execute(sending.values(lease_owner=None, lease_until=None))
    connection.execute(delete(leases).where(leases.c.name != _LISTENING))


def acquire_lease(connection: Connection, *, name: str, owner: str, now: float, lease: float) -> bool:
    """Become, or remain, the one who does `name`; False while another replica does it."""
    statement = _upsert(connection, leases).values(name=name, owner=owner, until=now + lease)
    free = or_(leases.c.owner == owner, leases.c.until < now)
    mine = statement.on_conflict_do_update(
        index_elements=["name"],
        set_={"owner": statement.excluded.owner, "until": statement.excluded.until},
        where=free,
    )
    return connection.execute(mine.returning(leases.c.owner)).first() is not None


_COMPARED = "compared"  # no lease that anybody holds: `until` is for how long all know what is silenced
_COMPARED_UNTIL = select(leases.c.until).where(leases.c.name == _COMPARED)


def note_compared(connection: Connection, until: float) -> None:
    """What people have silenced was learnt, which holds until then."""
    _note_until(connection, _COMPARED, until)


def _note_until(connection: Connection, name: str, until: float) -> None:
    """Of what nobody holds, but all replicas know."""
    statement = _upsert(connection, leases).values(name=name, owner="", until=until)
    connection.execute(statement.on_conflict_do_update(index_elements=["name"], set_={"until": until}))


def compared_until(connection: Connection) -> float:
    """Until when what people have silenced counts as known; -inf: it was never learnt."""
    until = connection.execute(_COMPARED_UNTIL).scalar()
    return -math.inf if until is None else float(until)


def release_lease(connection: Connection, name: str, owner: str) -> None:
    """Let another replica do it from now on."""
    connection.execute(delete(leases).where(leases.c.name == name, leases.c.owner == owner))


def revive_stuck(connection: Connection, now: float) -> int:
    """Give every open incident that has neither a timer nor a worker a timer again; return how many."""
    stuck = update(incidents).where(incidents.c.due_at.is_(None), incidents.c.closed_at.is_(None))
    return connection.execute(stuck.where(incidents.c.lease_owner.is_(None)).values(due_at=now)).rowcount


def pull_in(connection: Connection, *, timers_to: float, levels_to: float, leases_to: float) -> int:
    """Bring what lies further ahead than these times back to them; return how many incidents it was.

    Nothing does unless the clock was set back.
    """
    latest = {"due_at": timers_to, "level_due_at": levels_to, "lease_until": leases_to}
    ahead = {name: incidents.c[name] > time for name, time in latest.items()}
    values = {name: case((ahead[name], time), else_=incidents.c[name]) for name, time in latest.items()}
    query = update(incidents).where(incidents.c.closed_at.is_(None), or_(*ahead.values()))
    return connection.execute(query.values(values)).rowcount


_UPDATE_CLAIMED = update(incidents).where(
    incidents.c.id == bindparam("_id"), incidents.c.epoch == bindparam("_epoch")
)


def update_claimed(connection: Connection, incident_id: str, epoch: int, changes: Changes) -> None:
    """Change an incident under its lease. Raises LeaseLost when it was taken over."""
    values = {"_id": incident_id, "_epoch": epoch, **changes}
    if connection.execute(_UPDATE_CLAIMED, values).rowcount != 1:
        raise LeaseLost(f"incident {incident_id} was taken over by another worker")


def overtake(connection: Connection, incident_id: str, changes: Changes) -> None:
    """Change an incident by a person's decision or a new alert: a step in hand loses its lease."""
    query = update(incidents).where(incidents.c.id == incident_id)
    connection.execute(
        query.values(**changes, epoch=incidents.c.epoch + 1, lease_owner=None, lease_until=None)
    )


def annotate(connection: Connection, incident_id: str, changes: Changes) -> None:
    """Change columns that no step decides on (severity, acknowledgement): a step in hand is not disturbed."""
    connection.execute(update(incidents).where(incidents.c.id == incident_id).values(**changes))


_PUT = insert(inbox).inline()  # `inline`: nobody asks for the number that the database gives


def put_in_inbox(connection: Connection, notifications: Iterable[tuple[bytes, float]]) -> None:
    """Keep notifications as they came, until they are worked in: the body of each, and when it came."""
    rows = [{"received_at": at, "body": body} for body, at in notifications]
    execute_for(connection, _PUT, rows)


def try_inbox(connection: Connection) -> None:
    """Put something in and take it out again: what a notification needs, room on the disk among it."""
    number = connection.execute(
        insert(inbox).values(body=b"", received_at=0.0).returning(inbox.c.id)
    ).scalar_one()
    connection.execute(delete(inbox).where(inbox.c.id == number))


def _oldest_in_inbox() -> Select[Any]:
    """The ids of the oldest notifications that still wait, at most `_bytes` of them and at least one."""
    size = func.length(inbox.c.body).label("size")
    waiting = (
        select(inbox.c.id, size).where(inbox.c.faults < MAX_INBOX_FAULTS).order_by(inbox.c.id).limit(500)
    )
    sizes = waiting.subquery()
    so_far = func.sum(sizes.c.size).over(order_by=sizes.c.id).label("so_far")
    sums = select(sizes.c.id, sizes.c.size, so_far).subquery()
    first = sums.c.so_far == sums.c.size
    return select(sums.c.id).where(or_(sums.c.so_far <= bindparam("_bytes"), first))


_TAKE = delete(inbox).where(inbox.c.id.in_(_oldest_in_inbox())).returning(*inbox.c)


def take_from_inbox(connection: Connection, max_bytes: int) -> Sequence[AnyRow]:
    """Take out the oldest notifications that still wait, at most so many bytes of them and at least one."""
    return sorted(connection.execute(_TAKE, {"_bytes": max_bytes}).all(), key=lambda row: row.id)


def put_back_in_inbox(connection: Connection, taken: AnyRow, error: str) -> None:
    """It could not be worked in; after a few times it no longer holds up the others."""
    values = {**taken._asdict(), "faults": taken.faults + 1, "error": error}
    connection.execute(_PUT, values)


def count_inbox(connection: Connection) -> tuple[int, int]:
    """How many notifications wait to be worked in, and how many failed for good."""
    failed = func.count().filter(inbox.c.faults >= MAX_INBOX_FAULTS)
    total, given_up = connection.execute(select(func.count(), failed).select_from(inbox)).one()
    return total - given_up, given_up


_ANYTHING_NEW = select(
    or_(
        exists().where(inbox.c.faults < MAX_INBOX_FAULTS),
        exists().where(alerts.c.incident_id.is_(None), alerts.c.status == "firing"),
    )
)


_TO_DO = select(_ANYTHING_NEW.scalar_subquery(), _NEXT_DUE.scalar_subquery())


def to_do(connection: Connection, now: float) -> tuple[bool, float | None]:
    """What `anything_new` and `next_due` say, by one statement: the loop asks at each look."""
    new, due = connection.execute(_TO_DO, {"_now": now}).one()
    return bool(new), due


def anything_new(connection: Connection) -> bool:
    """Whether a notification, or an alert without an incident, waits."""
    return bool(connection.execute(_ANYTHING_NEW).scalar())


def upsert_alerts(connection: Connection, rows: Sequence[Changes]) -> None:
    """Store alerts by their identity. `resolved` ends one; a stale `firing` does not revive it."""
    if not rows:
        return
    # One row for each: a statement of PostgreSQL cannot change the same row twice.
    distinct: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        known = distinct.setdefault((row["fingerprint"], row["starts_at"]), dict(row))
        if row["status"] == "resolved" and known["status"] == "firing":
            known.update(status="resolved", ended_at=row["ended_at"])
    # In one order everywhere: two replicas that lock the same alerts crosswise would stop each other.
    ordered = [distinct[identity] for identity in sorted(distinct)]
    execute_for(connection, _UPSERT_ALERTS[connection.dialect.name], ordered)


def _upsert_alerts(statement: Any) -> Any:
    ended = statement.excluded.status == "resolved"
    return statement.on_conflict_do_update(
        index_elements=["fingerprint", "starts_at"],
        set_={"status": statement.excluded.status, "ended_at": statement.excluded.ended_at},
        where=and_(ended, alerts.c.status == "firing"),
    )


_UPSERT_ALERTS: Mapping[str, Any] = {
    "postgresql": _upsert_alerts(postgresql.insert(alerts).inline()),
    "sqlite": _upsert_alerts(sqlite.insert(alerts).inline()),
}


def revive_alert(connection: Connection, fingerprint: str, starts_at: str) -> None:
    """Alertmanager itself lists the alert as active: an end noted earlier was a false one.

    An incident that was closed meanwhile never changes again, so the alert leaves it and opens another one.
    """
    closed = select(incidents.c.id).where(incidents.c.closed_at.is_not(None))
    still_open = case((alerts.c.incident_id.in_(closed), None), else_=alerts.c.incident_id)
    query = update(alerts).where(alerts.c.fingerprint == fingerprint, alerts.c.starts_at == starts_at)
    connection.execute(query.values(status="firing", ended_at=None, incident_id=still_open))


def end_alert(connection: Connection, alert_id: int, now: float) -> None:
    """Neither server lists the alert any more."""
    query = update(alerts).where(alerts.c.id == alert_id, alerts.c.status == "firing")
    connection.execute(query.values(status="resolved", ended_at=now))


_UNASSIGNED = (
    select(alerts)
    .where(alerts.c.incident_id.is_(None), alerts.c.status == "firing")
    .order_by(alerts.c.id)
    .limit(bindparam("_limit"))
)


def unassigned_alerts(connection: Connection, limit: int) -> Sequence[AnyRow]:
    """Firing alerts that belong to no incident yet, oldest first."""
    return connection.execute(_UNASSIGNED, {"_limit": limit}).all()


def firing_alerts(connection: Connection) -> Sequence[AnyRow]:
    """All alerts that fire as far as we know, without what people read."""
    columns = ("id", "fingerprint", "starts_at", "labels", "received_at", "suppressed")
    query = select(*(alerts.c[name] for name in columns)).where(FIRING)
    return connection.execute(query).all()


_ENDED_OF_OPEN: Select[Any] = (
    select(alerts.c.id, alerts.c.labels, alerts.c.suppressed)
    .join(incidents, alerts.c.incident_id == incidents.c.id)
    .where(_NOT_OVER, alerts.c.status != "firing")
)


def ended_alerts_of_open(connection: Connection) -> Sequence[AnyRow]:
    """The alerts that have ended before their incident is over."""
    return connection.execute(_ENDED_OF_OPEN).all()


_ALERTS_OF = select(alerts).where(alerts.c.incident_id == bindparam("_id")).order_by(alerts.c.id)


def alerts_of(connection: Connection, incident_id: str) -> Sequence[AnyRow]:
    """The alerts of one incident, oldest first."""
    return connection.execute(_ALERTS_OF, {"_id": incident_id}).all()


_LABELS_OF = select(alerts.c.labels).where(
    alerts.c.incident_id == bindparam("_id"), alerts.c.service == bindparam("_service")
)


def signals_of(connection: Connection, incident_id: str, service: str) -> set[str]:
    """What the alerts of one service name as their signals in an incident."""
    # Not by the database: PostgreSQL reads nothing out of JSON that holds a NUL anywhere, as labels may.
    found = connection.execute(_LABELS_OF, {"_id": incident_id, "_service": service}).scalars()
    return {labels["signal"] for labels in found if "signal" in labels}


_ASSIGN = (
    update(alerts)
    .where(alerts.c.id == bindparam("alert_id"))
    .values(incident_id=bindparam("to_incident"), service=bindparam("to_service"))
)


def assign_alerts(connection: Connection, rows: Sequence[Changes]) -> None:
    """Make alerts part of incidents: rows of `alert_id`, `to_incident`, `to_service`."""
    if rows:
        execute_for(connection, _ASSIGN, [dict(row) for row in rows])


def move_alerts(
    connection: Connection, *, from_incident: str, to_incident: str, service: str | None = None
) -> int:
    """Move the alerts of an incident, or only those of one service, to another; return how many."""
    query = update(alerts).where(alerts.c.incident_id == from_incident)
    if service is not None:
        query = query.where(alerts.c.service == service)
    return connection.execute(query.values(incident_id=to_incident)).rowcount


def unassign_alerts(connection: Connection, alert_ids: Collection[int]) -> None:
    """They are part of no incident any more, and taken in again."""
    for part in _parts(alert_ids):
        connection.execute(update(alerts).where(alerts.c.id.in_(part)).values(incident_id=None))


def set_suppressed(connection: Connection, alert_ids: Collection[int], suppressed: bool) -> None:
    """Note that alerts are silenced or inhibited, or no longer so."""
    for part in _parts(alert_ids):
        connection.execute(update(alerts).where(alerts.c.id.in_(part)).values(suppressed=suppressed))


_INSERT_ACTION = insert(actions)


def insert_action(connection: Connection, values: Changes) -> None:
    """Announce an action before it happens."""
    connection.execute(_INSERT_ACTION, dict(values))


_UPDATE_ACTION = update(actions).where(actions.c.id == bindparam("_id"))


def update_action(connection: Connection, action_id: str, changes: Changes) -> None:
    """Note how an action went on."""
    connection.execute(_UPDATE_ACTION, {"_id": action_id, **changes})


_END_ACTION = _UPDATE_ACTION.where(actions.c.status.in_(UNFINISHED))


def end_action(connection: Connection, action_id: str, changes: Changes) -> bool:
    """Note how an action ended; False, and nothing is changed, when that is noted already."""
    return connection.execute(_END_ACTION, {"_id": action_id, **changes}).rowcount == 1


# A replica of a version that knew no service writes none: then it is that of the incident.
_SERVICE_ACTED_ON = func.coalesce(actions.c.service, incidents.c.service).label("service")
_ACTIONS: Select[Any] = (
    select(*(column for column in actions.c if column.name != "service"), _SERVICE_ACTED_ON)
    .join(incidents, incidents.c.id == actions.c.incident_id)
    .order_by(actions.c.number)
)
_ACTIONS_OF = _ACTIONS.where(actions.c.incident_id == bindparam("_id"))


def actions_of(connection: Connection, incident_id: str) -> Sequence[AnyRow]:
    """The actions that one incident announced, oldest first."""
    return connection.execute(_ACTIONS_OF, {"_id": incident_id}).all()


def _held_by(incident_id: Any) -> Any:
    announced = and_(actions.c.incident_id == incident_id, actions.c.held_by.is_(None))
    return or_(actions.c.held_by == incident_id, announced)


_ACTIONS_HELD_BY = _ACTIONS.where(_held_by(bindparam("_id")))


def actions_held_by(connection: Connection, incident_id: str) -> Sequence[AnyRow]:
    """The actions whose effects one incident answers for, oldest first: its own and those it took over."""
    return connection.execute(_ACTIONS_HELD_BY, {"_id": incident_id}).all()


def hand_over_actions(
    connection: Connection, *, from_incident: str, to_incident: str, service: str | None = None
) -> None:
    """Let another incident answer for what this one does, or only for what was done to one service."""
    query = update(actions).where(_held_by(from_incident))
    if service is not None:
        announced_for = select(incidents.c.service).where(incidents.c.id == actions.c.incident_id)
        query = query.where(func.coalesce(actions.c.service, announced_for.scalar_subquery()) == service)
    connection.execute(query.values(held_by=to_incident))


def unfinished_action_of(connection: Connection, incident_id: str) -> AnyRow | None:
    """The action that was announced and never finished: a crash came between. None when there is none."""
    return next((row for row in actions_of(connection, incident_id) if row.status in UNFINISHED), None)


_DISTURBED = and_(actions.c.disruptive, ~and_(actions.c.status == "failed", actions.c.started_at.is_(None)))
_RECENT = or_(actions.c.intended_at >= bindparam("_since"), RUNNING)
_COUNTED = ("target", "strategy", "status", "verdict", "intended_at")
_COUNTING: Select[Any] = select(*(actions.c[name] for name in _COUNTED)).where(_DISTURBED, _RECENT)


def disruptive_actions_since(connection: Connection, since: float) -> Sequence[AnyRow]:
    """The disruptive actions on all targets that count from then on, newest first: see `_DISTURBED`.

    Of each only the target, the strategy, the status, the verdict and the time: there may be thousands.
    """
    rows = connection.execute(_COUNTING, {"_since": since})
    # Not by the database: to have them in order, SQLite reads all that there ever were.
    return sorted(rows, key=lambda row: row.intended_at, reverse=True)


_ON_TARGET: Select[Any] = (
    select(actions.c.id, *(actions.c[name] for name in _COUNTED), _DISTURBED.label("disturbed"))
    .where(actions.c.target == bindparam("_target"), _RECENT)
    .order_by(actions.c.intended_at.desc())
)


def actions_on(connection: Connection, target: str, since: float) -> Sequence[AnyRow]:
    """The actions on a target that were announced since then or are not finished, newest first.

    Each says whether it `disturbed` the target: an action that failed before its effect began has not.
    """
    return connection.execute(_ON_TARGET, {"_target": target, "_since": since}).all()


_RUNNING: Select[Any] = (
    select(actions.c.id, actions.c.target, _SERVICE_ACTED_ON)
    .join(incidents, incidents.c.id == actions.c.incident_id)
    .where(actions.c.disruptive, RUNNING)
)


def running_actions(connection: Connection) -> Sequence[AnyRow]:
    """The disruptive actions that were announced and have no end: id, target and service."""
    return connection.execute(_RUNNING).all()


_TARGETS = select(
    func.count(actions.c.target.distinct()),
    func.count().filter(actions.c.target == bindparam("_target")),
).where(actions.c.intended_at >= bindparam("_since"), _DISTURBED)


def count_targets_acted_on(
    connection: Connection, since: float, target: str | None = None
) -> tuple[int, bool]:
    """How many targets had a disruptive action announced since then, and whether `target` is one of them.

    Not counted are actions that never began.
    """
    number, of_target = connection.execute(_TARGETS, {"_since": since, "_target": target}).one()
    return number, bool(of_target)


_FAILING: Mapping[str, Any] = {
    "postgresql": select(func.count(incidents.c.service.distinct())).where(FAILING),
    # By itself SQLite takes the index of `closed_at` and reads every open incident with its diagnosis.
    "sqlite": text(
        f"SELECT count(DISTINCT service) FROM incidents INDEXED BY incidents_failing WHERE {FAILING.text}"  # noqa: S608
    ),
}


def count_failing_services(connection: Connection) -> int:
    """How many configured services have an incident that is neither resolved nor closed."""
    return int(connection.execute(_FAILING[connection.dialect.name]).scalar_one())


_VERIFIED_ON: Select[Any] = (
    select(actions.c.strategy, actions.c.pattern, actions.c.verdict)
    .where(
        actions.c.target == bindparam("_target"),
        actions.c.failure_class == bindparam("_class"),
        actions.c.verdict.is_not(None),
    )
    .order_by(actions.c.intended_at.desc())
    .limit(bindparam("_limit"))
)


def verified_actions_on(
    connection: Connection, target: str, failure_class: str, limit: int
) -> Sequence[AnyRow]:
    """Strategy, pattern and verdict of the verified actions on a target for a failure class, newest first."""
    values = {"_target": target, "_class": failure_class, "_limit": limit}
    return connection.execute(_VERIFIED_ON, values).all()


def verified_actions(connection: Connection, limit: int) -> Sequence[AnyRow]:
    """Those of all targets, newest first, with target and failure class."""
    query = select(actions).where(actions.c.verdict.is_not(None), actions.c.failure_class.is_not(None))
    return connection.execute(query.order_by(actions.c.intended_at.desc()).limit(limit)).all()


_APPEND = insert(timeline).inline()


def append_timeline(connection: Connection, rows: Sequence[Changes]) -> None:
    """Append to the timeline: the only thing that can be done to it."""
    if not rows:
        return
    # Locked, shared, until the transaction ends: who tells it waits for us, see event_statements.
    lines = audit_statements.chained_from_known(connection, rows, _LOCKS["timeline"])
    if lines is None:
        serialize(connection, "timeline", shared=True)
        lines = audit_statements.chained(connection, rows)
    execute_for(connection, _APPEND, lines)


def timeline_of(connection: Connection, incident_id: str) -> Sequence[AnyRow]:
    """The timeline of one incident in the order in which it was written."""
    query = select(timeline).where(timeline.c.incident_id == incident_id)
    return connection.execute(query.order_by(timeline.c.id)).all()


def newest_line(connection: Connection, incident_id: str, kind: str) -> AnyRow | None:
    """The newest line of one kind in the timeline of one incident."""
    query = select(timeline).where(timeline.c.incident_id == incident_id, timeline.c.kind == kind)
    return connection.execute(query.order_by(timeline.c.id.desc()).limit(1)).first()


def register_heartbeats(
    connection: Connection, services: Collection[str], now: float, *, forget_before: float
) -> None:
    """Begin to wait for the heartbeats of services that are new, and forget those of others that were heard
    last before then."""
    gone = and_(heartbeats.c.service.not_in(services), heartbeats.c.at < forget_before)
    connection.execute(delete(heartbeats).where(gone))
    for service in services:
        statement = _upsert(connection, heartbeats).values(service=service, at=now)
        connection.execute(statement.on_conflict_do_nothing(index_elements=["service"]))


_LISTENING = "heartbeats"  # no lease that anybody holds: `until` is when somebody could last hear them
_LISTENED_UNTIL = select(leases.c.until).where(leases.c.name == _LISTENING).with_for_update()


def listen_for_heartbeats(connection: Connection, now: float, *, longest_pause: float) -> None:
    """Note that they can be heard now, and leave out a longer pause before: while no replica ran, or none
    reached the store, silence says nothing about a service."""
    heard_until = connection.execute(_LISTENED_UNTIL).scalar()
    if heard_until is not None and now - heard_until > longest_pause:
        silent_before = heartbeats.c.at <= heard_until
        at = case((silent_before, heartbeats.c.at + (now - heard_until)), else_=now)
        connection.execute(update(heartbeats).values(at=at))
    _note_until(connection, _LISTENING, now)


def beat(connection: Connection, service: str, now: float, *, expected: bool) -> bool:
    """Note a heartbeat; False when it is neither expected here nor registered by another replica."""
    if expected:
        statement = _upsert(connection, heartbeats).values(service=service, at=now)
        connection.execute(statement.on_conflict_do_update(index_elements=["service"], set_={"at": now}))
        return True
    registered = update(heartbeats).where(heartbeats.c.service == service)
    return connection.execute(registered.values(at=now)).rowcount == 1


def heartbeat_times(connection: Connection) -> Mapping[str, float]:
    """When each service that pushes heartbeats was heard last."""
    return {row.service: row.at for row in connection.execute(select(heartbeats))}


_CONTROL = select(controls).where(controls.c.name == bindparam("_name"))


_AT_ONCE = 4  # a mode for all, for a service and for a strategy, and the storm
_CONTROLS = select(controls).where(
    controls.c.name.in_([bindparam(f"_name_{number}") for number in range(_AT_ONCE)])
)


def control(connection: Connection, name: str, *, lock: bool = False) -> AnyRow | None:
    """A control's value, such as the mode, or None when nobody has set it.

    `lock`: nobody changes it before this transaction ends.
    """
    if lock:  # not of the row, which does not exist before somebody sets it for the first time
        serialize(connection, "control", shared=True)
    return connection.execute(_CONTROL, {"_name": name}).first()


def controls_named(connection: Connection, names: Collection[str]) -> Mapping[str, AnyRow]:
    """The controls with these names, one to four, that somebody has set, by name."""
    if not 1 <= len(names) <= _AT_ONCE:
        raise ValueError(f"one to {_AT_ONCE} controls are read at once, not {len(names)}")
    # Always as many as fit: a list of any length would be written into the statement each time.
    padded = {f"_name_{number}": name for number, name in enumerate(islice(cycle(names), _AT_ONCE))}
    return {row.name: row for row in connection.execute(_CONTROLS, padded)}


def controls_that_begin(connection: Connection, beginning: str) -> Mapping[str, str]:
    """The values of the controls whose names begin so."""
    query = select(controls).where(controls.c.name.startswith(beginning, autoescape=True))
    return {row.name: row.value for row in connection.execute(query)}


def remove_control(connection: Connection, name: str) -> None:
    """As if nobody had ever set it."""
    serialize(connection, "control")
    connection.execute(delete(controls).where(controls.c.name == name))


def set_control(connection: Connection, *, name: str, value: str, by: str, now: float) -> None:
    """Set a control; it stays set across restarts."""
    serialize(connection, "control")
    statement = _upsert(connection, controls).values(name=name, value=value, changed_at=now, changed_by=by)
    changed = {key: statement.excluded[key] for key in ("value", "changed_at", "changed_by")}
    connection.execute(statement.on_conflict_do_update(index_elements=["name"], set_=changed))


_HOLDER = incidents.alias()
_HELD_OPEN = exists().where(
    actions.c.incident_id == incidents.c.id,
    _HOLDER.c.id == actions.c.held_by,
    _HOLDER.c.closed_at.is_(None),
)


def retire_incidents(connection: Connection, *, closed_before: float, now: float, limit: int) -> int:
    """Delete closed incidents with all that belongs to them, leaving one line of each; return how many.

    One for whose actions an open incident answers stays: what is in force would be forgotten.
    """
    old = (
        select(incidents.c.id)
        .where(incidents.c.closed_at < closed_before, ~_HELD_OPEN)
        .order_by(incidents.c.closed_at)
        .limit(limit)
    )
    ids = list(connection.execute(old.with_for_update(skip_locked=True)).scalars())
    if not ids:
        return 0
    kept = ("service", "outcome", "opened_at", "closed_at")
    lines = select(incidents.c.id, *(incidents.c[name] for name in kept), bindparam("now", now).label("at"))
    connection.execute(
        insert(retired).from_select(
            ["incident_id", *kept, "retired_at"], lines.where(incidents.c.id.in_(ids))
        )
    )
    audit_statements.record_retirements(connection, ids, now)
    for table in (timeline, actions, alerts, calls):
        connection.execute(delete(table).where(table.c.incident_id.in_(ids)))
    connection.execute(delete(incidents).where(incidents.c.id.in_(ids)))
    return len(ids)


def forget_ended_alerts(connection: Connection, ended_before: float) -> int:
    """Delete alerts that ended long ago without ever becoming part of an incident; return how many."""
    query = delete(alerts).where(alerts.c.incident_id.is_(None), alerts.c.ended_at < ended_before)
    return connection.execute(query).rowcount


def put_diagnosis_verdict(connection: Connection, values: Changes) -> None:
    """Store what is known of a diagnosis: the newest counts, and a person's always before a repair's."""
    connection.execute(_PUT_VERDICT[connection.dialect.name], dict(values))


def _put_verdict(statement: Any) -> Any:
    changed = {
        each.name: statement.excluded[each.name] for each in diagnosis_verdicts.c if not each.primary_key
    }
    newer = or_(statement.excluded.source == "person", diagnosis_verdicts.c.source != "person")
    return statement.on_conflict_do_update(index_elements=["incident_id"], set_=changed, where=newer)


_PUT_VERDICT: Mapping[str, Any] = {
    "postgresql": _put_verdict(postgresql.insert(diagnosis_verdicts)),
    "sqlite": _put_verdict(sqlite.insert(diagnosis_verdicts)),
}


def diagnosis_verdict(connection: Connection, incident_id: str) -> AnyRow | None:
    """The verdict on the diagnosis of one incident, if there is one."""
    query = select(diagnosis_verdicts).where(diagnosis_verdicts.c.incident_id == incident_id)
    return connection.execute(query).first()


def newest_diagnosis_verdicts(connection: Connection, limit: int) -> Sequence[AnyRow]:
    """The newest verdicts of all incidents, oldest of them first."""
    newest = select(diagnosis_verdicts).order_by(diagnosis_verdicts.c.given_at.desc()).limit(limit)
    return connection.execute(newest).all()[::-1]
