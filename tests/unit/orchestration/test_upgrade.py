"""A fabric that follows one of version 0.1.0 finishes what that one began."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import update

from self_healing_fabric.store import statements
from self_healing_fabric.store.schema import actions
from world import World

FIRST_RELEASE = Path(__file__).parents[2] / "data" / "store-0.1.0.sql"
LEFT_AT = 1_800_000_471.0  # when that fabric was killed


@pytest.fixture
def world(make_world: Callable[..., World], tmp_path: Path) -> World:
    """A world whose store 0.1.0 wrote, ten seconds after it was killed in the middle of a restart."""
    with closing(sqlite3.connect(tmp_path / "shf.db")) as shell:
        shell.executescript(FIRST_RELEASE.read_text(encoding="utf-8"))
    world = make_world({"cart": (), "db": ()})
    configured = world.context.strategies["restart"].on("cart").target  # its port is another one each time
    world.context.store.write(lambda c: c.execute(update(actions).values(target=configured)))
    world.clock.now = LEFT_AT + 10.0
    return world


def test_an_interrupted_restart_is_looked_up_and_not_repeated(world: World) -> None:
    """The target says that it was started anew: no second restart, and the incident is resolved by proof."""
    (before,) = (
        row for row in world.context.store.read(statements.list_incidents) if row.state == "recovering"
    )
    told = [row.message for row in world.context.store.read(lambda c: statements.timeline_of(c, before.id))]
    world.run(120)
    after = world.context.store.read(lambda connection: statements.incident(connection, before.id))
    assert after is not None
    assert (after.state, after.outcome) == ("resolved", "healed")
    assert world.target.restarts == []
    (action,) = world.context.store.read(lambda connection: statements.actions_of(connection, before.id))
    assert (action.status, action.verdict) == ("succeeded", "healed")
    story = [row.message for row in world.context.store.read(lambda c: statements.timeline_of(c, before.id))]
    assert story[: len(told)] == told
    assert len(story) > len(told)


def test_a_restart_that_did_not_happen_is_done_once(world: World) -> None:
    """The target is as it was before: the restart is repeated, with an attempt of its own."""
    world.target.restarts.append("of an earlier incident")  # it was started once, as `before` says
    world.silent()
    world.target.on_restart = world.healthy
    world.run(200)
    assert len(world.target.restarts) == 2
    (row,) = (
        row
        for row in world.context.store.read(statements.list_incidents)
        if row.service == "cart" and row.state != "closed"
    )
    assert (row.state, row.outcome) == ("resolved", "healed")


def test_an_alert_that_was_not_taken_in_yet_gets_its_incident(world: World) -> None:
    """Delivered to 0.1.0 and acknowledged by it: nothing of it is lost."""
    known = {row.id for row in world.context.store.read(statements.list_incidents)}
    world.run()
    (new,) = (row for row in world.context.store.read(statements.list_incidents) if row.id not in known)
    assert new.service == "db"
    assert len(world.context.store.read(lambda connection: statements.alerts_of(connection, new.id))) == 1


def test_what_was_used_up_of_the_budgets_still_counts(world: World) -> None:
    """Two restarts of the last hour are two of the three that are allowed."""
    since = LEFT_AT - 3600.0
    rows = world.context.store.read(lambda c: statements.disruptive_actions_since(c, since))
    assert len(rows) == 2
