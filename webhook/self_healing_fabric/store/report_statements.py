"""The statements of the status report: who holds leases, and on how much."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, func, select

from self_healing_fabric.store.schema import incidents, leases
from self_healing_fabric.store.statements import AnyRow


def all_leases(connection: Connection) -> Sequence[AnyRow]:
    """What one replica does for all: name, owner, until."""
    return connection.execute(select(leases)).all()


def incidents_by_owner(connection: Connection) -> Mapping[str, int]:
    """On how many incidents each replica works."""
    owner = incidents.c.lease_owner
    query = select(owner, func.count().label("number")).where(
        owner.is_not(None), incidents.c.closed_at.is_(None)
    )
    return {row.lease_owner: row.number for row in connection.execute(query.group_by(owner))}
