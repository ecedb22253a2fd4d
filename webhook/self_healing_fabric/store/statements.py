"""The statements on incidents, alerts, actions and the timeline, each with a line on what it is for.

Every function takes a connection inside a transaction of the caller and returns plain rows; nothing here
decides. What must not race is one statement or stands in one transaction: the claim, the fenced update, the
alert's upsert.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, and_, case, delete, func, insert, or_, select, update
from sqlalchemy.dialects.sqlite import insert as upsert

from self_healing_fabric.errors import LeaseLost
from self_healing_fabric.store.schema import actions, alerts, controls, heartbeats, incidents, timeline

AnyRow = Row[Any]
Changes = Mapping[str, Any]

UNFINISHED = ("intended", "started")


def insert_incident(connection: Connection, values: Changes) -> None:
    """Open an incident."""
    connection.execute(insert(incidents), dict(values))


def incident(connection: Connection, incident_id: str) -> AnyRow | None:
    """One incident, or None."""
    return connection.execute(select(incidents).where(incidents.c.id == incident_id)).first()


def open_incident_of(connection: Connection, subject: str) -> AnyRow | None:
    """The one incident of this subject that is not closed, or None."""
    query = select(incidents).where(incidents.c.subject == subject, incidents.c.closed_at.is_(None))
    return connection.execute(query).first()


def list_incidents(
    connection: Connection,
    *,
    states: Sequence[str] = (),
    service: str | None = None,
    since: float | None = None,
    before: tuple[float, str] | None = None,
    limit: int = 50,
) -> Sequence[AnyRow]:
    """Incidents, newest first; `before` is (opened_at, id) of the last one of the page before."""
    query = select(incidents).order_by(incidents.c.opened_at.desc(), incidents.c.id.desc()).limit(limit)
    if states:
        query = query.where(incidents.c.state.in_(states))
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


def count_incidents(connection: Connection) -> Sequence[AnyRow]:
    """How many unclosed incidents there are by service, class, severity and state, for /metrics."""
    columns = (incidents.c.service, incidents.c.failure_class, incidents.c.severity, incidents.c.state)
    query = select(*columns, func.count().label("number"), func.max(incidents.c.level).label("level"))
    return connection.execute(query.where(incidents.c.closed_at.is_(None)).group_by(*columns)).all()


def claim_due(
    connection: Connection, *, owner: str, now: float, lease: float, limit: int
) -> Sequence[AnyRow]:
    """Claim incidents whose timer is due and that nobody works on; each claim raises the epoch."""
    due = (
        select(incidents.c.id)
        .where(
            incidents.c.due_at <= now, or_(incidents.c.lease_until.is_(None), incidents.c.lease_until < now)
        )
        .order_by(incidents.c.due_at)
        .limit(limit)
    )
    query = (
        update(incidents)
        .where(incidents.c.id.in_(due))
        .values(lease_owner=owner, lease_until=now + lease, epoch=incidents.c.epoch + 1)
        .returning(*incidents.c)
    )
    return connection.execute(query).all()


def next_due(connection: Connection) -> float | None:
    """When the next incident can be claimed: its timer is due and no lease on it is left."""
    free_at = case(
        (incidents.c.lease_until > incidents.c.due_at, incidents.c.lease_until), else_=incidents.c.due_at
    )
    value = connection.execute(select(func.min(free_at)).where(incidents.c.due_at.is_not(None))).scalar()
    return None if value is None else float(value)


def release_all_leases(connection: Connection) -> None:
    """At start on SQLite: the process that held these leases is dead, for it no longer holds the lock."""
    connection.execute(update(incidents).values(lease_owner=None, lease_until=None))


def update_claimed(connection: Connection, incident_id: str, epoch: int, changes: Changes) -> None:
    """Change an incident under its lease. Raises LeaseLost when another worker has taken it over."""
    query = update(incidents).where(incidents.c.id == incident_id, incidents.c.epoch == epoch)
    if connection.execute(query.values(**changes)).rowcount != 1:
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


def upsert_alert(connection: Connection, values: Changes) -> None:
    """Store an alert by its identity. `resolved` ends it; a stale `firing` does not revive it."""
    statement = upsert(alerts).values(**values)
    ended = statement.excluded.status == "resolved"
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=["fingerprint", "starts_at"],
            set_={"status": statement.excluded.status, "ended_at": statement.excluded.ended_at},
            where=and_(ended, alerts.c.status == "firing"),
        )
    )


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


def unassigned_alerts(connection: Connection, limit: int) -> Sequence[AnyRow]:
    """Firing alerts that belong to no incident yet, oldest first."""
    query = select(alerts).where(alerts.c.incident_id.is_(None), alerts.c.status == "firing")
    return connection.execute(query.order_by(alerts.c.id).limit(limit)).all()


def firing_alerts(connection: Connection) -> Sequence[AnyRow]:
    """All alerts that fire as far as we know."""
    return connection.execute(select(alerts).where(alerts.c.status == "firing")).all()


def alerts_of(connection: Connection, incident_id: str) -> Sequence[AnyRow]:
    """The alerts of one incident, oldest first."""
    return connection.execute(
        select(alerts).where(alerts.c.incident_id == incident_id).order_by(alerts.c.id)
    ).all()


def assign_alert(connection: Connection, alert_id: int, incident_id: str) -> None:
    """Make the alert part of the incident."""
    connection.execute(update(alerts).where(alerts.c.id == alert_id).values(incident_id=incident_id))


def insert_action(connection: Connection, values: Changes) -> None:
    """Announce an action before it happens."""
    connection.execute(insert(actions), dict(values))


def update_action(connection: Connection, action_id: str, changes: Changes) -> None:
    """Note how an action went on."""
    connection.execute(update(actions).where(actions.c.id == action_id).values(**changes))


def actions_of(connection: Connection, incident_id: str) -> Sequence[AnyRow]:
    """The actions of one incident, oldest first."""
    query = select(actions).where(actions.c.incident_id == incident_id)
    return connection.execute(query.order_by(actions.c.number)).all()


def unfinished_action_of(connection: Connection, incident_id: str) -> AnyRow | None:
    """The action that was announced and never finished: a crash came between. None when there is none."""
    query = select(actions).where(actions.c.incident_id == incident_id, actions.c.status.in_(UNFINISHED))
    return connection.execute(query).first()


def disruptive_actions_on(connection: Connection, target: str, since: float) -> Sequence[AnyRow]:
    """Disruptive actions on a target that were announced since then or are not finished, newest first.

    An action that failed before its effect began has disturbed nothing and is not among them.
    """
    recent = or_(actions.c.intended_at >= since, actions.c.status.in_(UNFINISHED))
    never_began = and_(actions.c.status == "failed", actions.c.started_at.is_(None))
    query = select(actions).where(actions.c.target == target, actions.c.disruptive, recent, ~never_began)
    return connection.execute(query.order_by(actions.c.number.desc())).all()


def append_timeline(connection: Connection, rows: Sequence[Changes]) -> None:
    """Append to the timeline: the only thing that can be done to it."""
    if rows:
        connection.execute(insert(timeline), [dict(row) for row in rows])


def timeline_of(connection: Connection, incident_id: str) -> Sequence[AnyRow]:
    """The timeline of one incident in the order in which it was written."""
    query = select(timeline).where(timeline.c.incident_id == incident_id)
    return connection.execute(query.order_by(timeline.c.id)).all()


def register_heartbeats(connection: Connection, services: Collection[str], now: float) -> None:
    """Begin to wait for the heartbeats of services that are new, and forget those that are gone."""
    connection.execute(delete(heartbeats).where(heartbeats.c.service.not_in(services)))
    for service in services:
        statement = upsert(heartbeats).values(service=service, at=now)
        connection.execute(statement.on_conflict_do_nothing(index_elements=["service"]))


def beat(connection: Connection, service: str, now: float) -> bool:
    """Note a heartbeat; False when the service is not registered for it."""
    statement = update(heartbeats).where(heartbeats.c.service == service).values(at=now)
    return connection.execute(statement).rowcount == 1


def heartbeat_times(connection: Connection) -> Mapping[str, float]:
    """When each service that pushes heartbeats was heard last."""
    return {row.service: row.at for row in connection.execute(select(heartbeats))}


def control(connection: Connection, name: str) -> AnyRow | None:
    """A control's value, such as the mode, or None when nobody has set it."""
    return connection.execute(select(controls).where(controls.c.name == name)).first()


def set_control(connection: Connection, *, name: str, value: str, by: str, now: float) -> None:
    """Set a control; it stays set across restarts."""
    statement = upsert(controls).values(name=name, value=value, changed_at=now, changed_by=by)
    changed = {key: statement.excluded[key] for key in ("value", "changed_at", "changed_by")}
    connection.execute(statement.on_conflict_do_update(index_elements=["name"], set_=changed))
