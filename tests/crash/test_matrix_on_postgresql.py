"""The same matrix on a real PostgreSQL: a dead process leaves its leases, and others wait for their end."""

from __future__ import annotations

import pytest
from crew import Crew, Told, assert_well_told
from plans import SEEDS, Reached, hand_over, points_asked_for
from points import POINTS

from postgresql_server import PostgresqlServer

# Leases of the dead are released at once only where no other process can be at work.
ON_POSTGRESQL = tuple(point for point in POINTS if not point.startswith("leases of the dead released"))
FIRST_SEED = 1000  # other stories than on SQLite
EVERY = 4  # one story for so many on SQLite


@pytest.fixture(scope="module")
def told(
    request: pytest.FixtureRequest,
    crew: Crew,
    reached: Reached,
    postgresql: PostgresqlServer,
    migrated: str,
) -> Told:
    """The stories of all points that this run asks for, on databases made from the empty one."""
    server = {"url": postgresql.url, "template": migrated}
    seeds = range(FIRST_SEED, FIRST_SEED + max(1, SEEDS // EVERY))
    return hand_over(crew, points_asked_for(request), seeds, reached, postgresql=server)


@pytest.mark.parametrize("point", ON_POSTGRESQL)
def test_killed_at(point: str, told: Told) -> None:
    """Killed there, and perhaps again: every alert ends in an incident, every repair is done at most once."""
    assert_well_told(told[point])
