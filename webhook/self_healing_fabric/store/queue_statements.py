"""How much work waits: what is due and in nobody's hands. Asked at every scrape, so one look has to do."""

from __future__ import annotations

from sqlalchemy import Connection, bindparam, func, or_, select

from self_healing_fabric.store.schema import incidents

_DUE = (
    select(func.count(), func.min(incidents.c.due_at))
    .where(incidents.c.due_at <= bindparam("_now"))
    .where(or_(incidents.c.lease_until.is_(None), incidents.c.lease_until < bindparam("_now")))
)


def due_incidents(connection: Connection, now: float) -> tuple[int, float]:
    """How many incidents are due that nobody works on, and for how many seconds the first has been."""
    number, since = connection.execute(_DUE, {"_now": now}).one()
    return number, 0.0 if since is None else now - since
