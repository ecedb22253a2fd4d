"""The statements on calls and on the timers of levels, each with a line on what it is for.

As in `statements`: every function takes a connection inside a transaction of the caller, and nothing here
decides.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, cast

from sqlalchemy import (
    Connection,
    Select,
    and_,
    bindparam,
    case,
    exists,
    func,
    insert,
    or_,
    select,
    update,
)

from self_healing_fabric.store.schema import WITHOUT_LEVEL_TIMER, alerts, calls, incidents
from self_healing_fabric.store.statements import AnyRow, Changes

_INSERT = insert(calls)


def insert_calls(connection: Connection, rows: Sequence[Changes]) -> None:
    """Write down who has to be told what."""
    if rows:
        connection.execute(_INSERT, [dict(row) for row in rows])


_FREE = or_(calls.c.lease_until.is_(None), calls.c.lease_until < bindparam("_now"))
_NOT_OVER = calls.c.channel.not_in(bindparam("_not_over", expanding=True))
_DUE = (
    select(calls)
    .where(calls.c.due_at <= bindparam("_now"), _FREE, _NOT_OVER)
    .order_by(calls.c.due_at, calls.c.id)
    .limit(bindparam("_limit"))
)


def due_calls(
    connection: Connection, now: float, limit: int, not_over: Collection[str] = ()
) -> Sequence[AnyRow]:
    """The calls that are due and that nobody sends, the longest due first; none over these channels."""
    values = {"_now": now, "_limit": limit, "_not_over": list(not_over)}
    return connection.execute(_DUE, values).all()


_NEXT = select(func.min(calls.c.due_at)).where(calls.c.due_at.is_not(None), _FREE, _NOT_OVER)


def next_due_call(connection: Connection, now: float, not_over: Collection[str] = ()) -> float | None:
    """When the next call is due that nobody sends; none over these channels."""
    value = connection.execute(_NEXT, {"_now": now, "_not_over": list(not_over)}).scalar()
    return None if value is None else float(value)


_GATHERED = (
    select(calls)
    .where(
        calls.c.channel == bindparam("_channel"),
        calls.c.contact == bindparam("_contact"),
        calls.c.status == "waiting",
        calls.c.message.is_(None),
        calls.c.sent_at.is_(None),  # by itself it is so, and finds them by an index
        calls.c.due_at.is_not(None),
        _FREE,
    )
    .order_by(calls.c.created_at, calls.c.id)
)


def gathered_calls(connection: Connection, channel: str, contact: str, now: float) -> Sequence[AnyRow]:
    """What waits for one contact on one channel and is part of no message yet, oldest first."""
    values = {"_channel": channel, "_contact": contact, "_now": now}
    return connection.execute(_GATHERED, values).all()


def calls_not_over(connection: Connection) -> Sequence[AnyRow]:
    """What was called for, for incidents that are not closed, with when those resolved.

    Over all channels: by one of them its whole past would be read.
    """
    query = (
        select(calls, incidents.c.resolved_at)
        .join(incidents, incidents.c.id == calls.c.incident_id)
        .where(incidents.c.closed_at.is_(None), calls.c.kind == "escalation")
    )
    return connection.execute(query).all()


_MESSAGE = (
    select(calls)
    .where(calls.c.message == bindparam("_message"), calls.c.due_at.is_not(None))
    .order_by(calls.c.created_at, calls.c.id)
)


def calls_of_message(connection: Connection, message: str) -> Sequence[AnyRow]:
    """What one message carries of which something is still to be done."""
    return connection.execute(_MESSAGE, {"_message": message}).all()


_SENT_AT = func.min(func.coalesce(calls.c.sent_at, bindparam("_now")))
_MESSAGES_SENT = (
    select(calls.c.message, _SENT_AT.label("at"), func.count().label("number"))
    .where(
        calls.c.channel == bindparam("_channel"),
        calls.c.contact == bindparam("_contact"),
        or_(
            calls.c.sent_at > bindparam("_since"),
            and_(calls.c.sent_at.is_(None), calls.c.lease_until >= bindparam("_now")),
        ),
    )
    .group_by(calls.c.message)
    .order_by(_SENT_AT)
)


def messages_sent(
    connection: Connection, channel: str, contact: str, *, since: float, now: float
) -> Sequence[AnyRow]:
    """(message, at, number of calls in it) of what one contact heard over one channel, oldest first.

    What is being sent counts: it may be heard any moment.
    """
    values = {"_channel": channel, "_contact": contact, "_since": since, "_now": now}
    return connection.execute(_MESSAGES_SENT, values).all()


_CLAIM = (
    update(calls)
    .where(calls.c.id.in_(bindparam("_ids", expanding=True)))
    .values(
        lease_owner=bindparam("_owner"),
        lease_until=bindparam("_until"),
        message=bindparam("_message"),
        epoch=calls.c.epoch + 1,
    )
    .returning(*calls.c)
)


def claim_calls(
    connection: Connection, ids: Collection[str], *, owner: str, until: float, message: str
) -> Sequence[AnyRow]:
    """Claim calls for one message; each claim raises the epoch."""
    values = {"_ids": list(ids), "_owner": owner, "_until": until, "_message": message}
    return sorted(connection.execute(_CLAIM, values).all(), key=lambda row: (row.created_at, row.id))


_RENEW = update(calls).where(
    calls.c.message == bindparam("_message"),
    calls.c.lease_owner == bindparam("_owner"),
    calls.c.due_at.is_not(None),
)


def renew_calls(connection: Connection, messages: Collection[str], *, owner: str, until: float) -> None:
    """Prolong what is being sent."""
    for message in messages:
        connection.execute(_RENEW.values(lease_until=until), {"_message": message, "_owner": owner})


_EPOCHS = select(calls.c.id, calls.c.epoch).where(calls.c.id.in_(bindparam("_ids", expanding=True)))


def still_claimed(connection: Connection, claimed: Sequence[AnyRow]) -> bool:
    """Whether all of these are as they were claimed: none has ended, and nobody else has claimed one."""
    found = connection.execute(_EPOCHS, {"_ids": [row.id for row in claimed]}).all()
    return {(row.id, row.epoch) for row in claimed} == {(row.id, row.epoch) for row in found}


_UPDATE = update(calls).where(calls.c.id == bindparam("_id"), calls.c.epoch == bindparam("_epoch"))


def update_claimed_call(connection: Connection, call_id: str, epoch: int, changes: Changes) -> bool:
    """Change a call under its lease; False when it has ended meanwhile or somebody else has claimed it."""
    return connection.execute(_UPDATE, {"_id": call_id, "_epoch": epoch, **changes}).rowcount == 1


def put_off(connection: Connection, ids: Collection[str], due_at: float) -> None:
    """These wait until then, and that is no part of the time in which they must be heard."""
    later = calls.c.deadline_at + (due_at - calls.c.due_at)
    query = update(calls).where(calls.c.id.in_(list(ids)))
    connection.execute(query.values(due_at=due_at, deadline_at=later))


_SUPPRESSED = (
    select(alerts.c.incident_id)
    .distinct()
    .where(alerts.c.incident_id.in_(bindparam("_ids", expanding=True)), alerts.c.suppressed)
)


def with_suppressed_alerts(connection: Connection, incident_ids: Collection[str]) -> set[str]:
    """Those of the incidents of which an alert is silenced or inhibited."""
    return set(connection.execute(_SUPPRESSED, {"_ids": list(incident_ids)}).scalars())


def calls_kept_alive(connection: Connection) -> Sequence[AnyRow]:
    """What is sent again and again until its incident is over."""
    alive = (calls.c.due_at.is_not(None), calls.c.ended_at.is_(None), calls.c.status == "sent")
    return connection.execute(select(calls).where(*alive)).all()


def hurry_calls(connection: Connection, ids: Collection[str], now: float) -> None:
    """What is still to be sent of these, or sent again, is due now."""
    connection.execute(
        update(calls).where(calls.c.id.in_(list(ids)), calls.c.due_at > now).values(due_at=now)
    )


_OF_INCIDENT = (
    select(calls).where(calls.c.incident_id == bindparam("_id")).order_by(calls.c.created_at, calls.c.id)
)


def calls_of(connection: Connection, incident_id: str) -> Sequence[AnyRow]:
    """The calls of one incident, oldest first."""
    return connection.execute(_OF_INCIDENT, {"_id": incident_id}).all()


_ENDED: Select[Any] = (
    select(calls.c.incident_id)
    .distinct()
    .join(incidents, incidents.c.id == calls.c.incident_id)
    .where(
        calls.c.ended_at.is_(None),
        calls.c.kind == "escalation",
        or_(incidents.c.closed_at.is_not(None), incidents.c.state == "resolved"),
    )
    .limit(bindparam("_limit"))
)


def incidents_ended_untold(connection: Connection, limit: int) -> Sequence[str]:
    """Incidents that are over, and of which those who were called have not been told."""
    return list(connection.execute(_ENDED, {"_limit": limit}).scalars())


def end_calls(connection: Connection, ids: Collection[str], changes: Changes) -> None:
    """They are over, whoever is sending them."""
    query = update(calls).where(calls.c.id.in_(list(ids)))
    connection.execute(
        query.values(**changes, epoch=calls.c.epoch + 1, lease_owner=None, lease_until=None, due_at=None)
    )


# What had healed and only waits to give back what was lent to it needs nobody.
_UNTIMED = and_(WITHOUT_LEVEL_TIMER, incidents.c.resolved_at.is_(None))
_WITHOUT_TIMER = (
    select(incidents.c.id, incidents.c.service, incidents.c.level)
    .where(_UNTIMED)
    .limit(bindparam("_limit"))
    .with_for_update(skip_locked=True)
)


def without_level_timer(connection: Connection, limit: int) -> Sequence[AnyRow]:
    """Open incidents, locked, that nobody has acknowledged and whose next level has no time yet."""
    return cast(Sequence[AnyRow], connection.execute(_WITHOUT_TIMER, {"_limit": limit}).all())


_SET_TIMER = (
    update(incidents)
    .where(incidents.c.id.in_(bindparam("_ids", expanding=True)))
    .values(level_due_at=bindparam("_at"))
)


def set_level_timer(connection: Connection, ids: Collection[str], at: float) -> None:
    """From then on the next level is due."""
    connection.execute(_SET_TIMER, {"_ids": list(ids), "_at": at})


_OPEN = and_(
    incidents.c.level_due_at.is_not(None),
    incidents.c.closed_at.is_(None),
    incidents.c.acknowledged_by.is_(None),
    # What has healed has no levels to climb, but what is asked of people for it may have been held back.
    or_(incidents.c.resolved_at.is_(None), incidents.c.level == 0),
)
_LEVELS_DUE = (
    select(incidents)
    .where(_OPEN, incidents.c.level_due_at <= bindparam("_now"))
    .order_by(incidents.c.level_due_at)
    .limit(bindparam("_limit"))
    .with_for_update(skip_locked=True)
)


def levels_due(connection: Connection, now: float, limit: int) -> Sequence[AnyRow]:
    """Open incidents, locked, whose next level is due and that nobody has acknowledged."""
    return connection.execute(_LEVELS_DUE, {"_now": now, "_limit": limit}).all()


_NEXT_LEVEL = select(func.min(incidents.c.level_due_at)).where(_OPEN)
_ANY_WITHOUT = select(exists().select_from(incidents).where(_UNTIMED))


def next_level_due(connection: Connection, now: float) -> float | None:
    """When the next level of any incident is due; now where one has no time yet."""
    if connection.execute(_ANY_WITHOUT).scalar():
        return now
    value = connection.execute(_NEXT_LEVEL).scalar()
    return None if value is None else float(value)


def count_calls(connection: Connection) -> Mapping[str, int]:
    """How many calls there are, by status: those that still have something to do."""
    query = select(calls.c.status, func.count()).where(calls.c.due_at.is_not(None)).group_by(calls.c.status)
    return {row[0]: row[1] for row in connection.execute(query)}


def pull_in_calls(connection: Connection, *, timers_to: float, leases_to: float) -> int:
    """Bring what lies further ahead than these times back to them: the clock was set back."""
    late = case((calls.c.due_at > timers_to, timers_to), else_=calls.c.due_at)
    held = case((calls.c.lease_until > leases_to, leases_to), else_=calls.c.lease_until)
    ahead = calls.c.due_at.is_not(None) & or_(calls.c.due_at > timers_to, calls.c.lease_until > leases_to)
    return connection.execute(update(calls).where(ahead).values(due_at=late, lease_until=held)).rowcount
