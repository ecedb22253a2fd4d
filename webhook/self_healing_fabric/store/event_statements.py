"""The statements that tell the timeline to others: what comes after a cursor, and the cursors.

On PostgreSQL the numbers of the timeline are given when a line is written and seen when it is committed, so a
lower number can appear after a higher one. Writers therefore hold a shared lock until they commit, and who
reads on from a cursor takes the lock alone for a moment: then no lower number can still come.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, bindparam, exists, func, select

from self_healing_fabric.store import statements
from self_healing_fabric.store.schema import incidents, timeline
from self_healing_fabric.store.statements import AnyRow

_PREFIX = "events told to "
_BY = "the fabric"

_EARLIER = timeline.alias("earlier")
_AFTER = (
    select(
        timeline,
        incidents.c.service,
        incidents.c.severity,
        incidents.c.title,
        # Whether it is the first line of its incident, with which it was opened.
        ~exists()
        .where(_EARLIER.c.incident_id == timeline.c.incident_id, _EARLIER.c.id < timeline.c.id)
        .label("first"),
    )
    .join(incidents, incidents.c.id == timeline.c.incident_id)
    .where(timeline.c.id > bindparam("_cursor"))
    .order_by(timeline.c.id)
    .limit(bindparam("_limit"))
)


def nobody_writes(connection: Connection, *, wait: bool = False) -> bool:
    """Take the timeline's lock alone until the transaction ends; False when that would mean to wait."""
    return statements.serialize_if_free(connection, "timeline", wait=wait)


def timeline_after(connection: Connection, cursor: int, limit: int) -> Sequence[AnyRow]:
    """The lines after the one with this number, in order, with what is told of their incidents."""
    return connection.execute(_AFTER, {"_cursor": cursor, "_limit": limit}).all()


def last_timeline_id(connection: Connection) -> int:
    """The number of the newest line; 0 when there is none."""
    return int(connection.execute(select(func.coalesce(func.max(timeline.c.id), 0))).scalar_one())


def begin_cursor(connection: Connection, name: str, at: int, now: float) -> int:
    """The cursor of a receiver; where it has none yet, from now on it is `at`."""
    row = statements.control(connection, _PREFIX + name, lock=True)
    if row is not None:
        return int(row.value)
    statements.set_control(connection, name=_PREFIX + name, value=str(at), by=_BY, now=now)
    return at


def cursor(connection: Connection, name: str) -> int:
    """The cursor of a receiver that has one."""
    row = statements.control(connection, _PREFIX + name)
    return int(row.value) if row is not None else last_timeline_id(connection)


def advance_cursor(connection: Connection, name: str, told: int | None, now: float) -> None:
    """Note what was told; a replica that was frozen meanwhile does not set it back."""
    if told is not None and told > cursor(connection, name):
        statements.set_control(connection, name=_PREFIX + name, value=str(told), by=_BY, now=now)
