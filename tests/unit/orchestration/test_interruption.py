"""A process that dies at any point: the next one asks the target what happened, and does nothing twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from killed import Killed, killed_at
from refused_alert import REFUSALS, refuse
from self_healing_fabric.incidents import correlation
from self_healing_fabric.incidents.lifecycle import State
from self_healing_fabric.recovery.platforms.http import HttpRestart
from self_healing_fabric.store import statements


@pytest.fixture
def killed_world(world: Any) -> Any:
    """A world whose incident is about to be healed."""
    world.silent()
    world.target.on_restart = world.healthy
    world.receive(world.alert())
    return world


def die_after_the_effect(world: Any) -> None:
    """Die between the restart and its record."""
    with killed_at(HttpRestart, done=True):
        world.run()
    world.crash()


def test_killed_after_the_effect_does_not_repeat_it(killed_world: Any) -> None:
    """Killed between the effect and its record: the target says it was restarted, so it is only verified."""
    world = killed_world
    die_after_the_effect(world)
    assert len(world.target.restarts) == 1
    world.run(seconds=60)
    assert len(world.target.restarts) == 1
    assert world.incident().outcome == "healed"
    assert [row.status for row in world.actions()] == ["succeeded"]


def test_a_target_that_comes_up_after_the_fabric_is_waited_for(killed_world: Any) -> None:
    """Their host starts anew: the fabric is there first. Nobody is called for what the target tells then."""
    world = killed_world
    die_after_the_effect(world)
    world.target.starting = True
    world.run(seconds=120)
    assert [row.status for row in world.actions()] == ["started"]
    assert "whether restart happened is not known yet" in world.incident().waiting_for
    world.target.starting = False
    world.run(seconds=120)
    assert len(world.target.restarts) == 1
    assert [row.status for row in world.actions()] == ["succeeded"]
    assert (world.incident().outcome, world.incident().level) == ("healed", 0)


def test_a_target_that_never_tells_is_given_up(killed_world: Any) -> None:
    """After `escalation.max_wait`, and not counting the time for which the fabric itself was away."""
    world = killed_world
    die_after_the_effect(world)
    world.target.starting = True
    world.run(seconds=60)
    world.clock.now += 3600.0
    world.run(seconds=60)
    assert [row.status for row in world.actions()] == ["started"]
    world.run(seconds=400)
    assert len(world.target.restarts) == 1
    assert [row.status for row in world.actions()] == ["indeterminate"]
    assert world.incident().level > 0  # people were called


def test_killed_before_the_effect_does_it_once(killed_world: Any) -> None:
    """Killed between the start's record and the effect: it did not happen, so it is done later."""
    world = killed_world
    with killed_at(HttpRestart, done=False):
        world.run()
    world.crash()
    assert world.target.restarts == []
    world.run(seconds=20)
    assert world.target.restarts == []  # the effect may still be on its way: nothing is done yet
    world.run(seconds=100)
    assert len(world.target.restarts) == 1
    assert [row.status for row in world.actions()] == ["failed", "succeeded"]


def test_a_clock_that_is_set_forward_does_not_ask_the_target_too_early(
    killed_world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Taken over in the middle of a restart, because the clock jumped: it is not restarted a second time."""
    world = killed_world
    with killed_at(HttpRestart, done=False):
        world.run()
    world.crash()
    world.clock.now += 3600.0
    jumped_at = world.clock.now
    monkeypatch.setattr(world.context.store, "since_set_forward", lambda: world.clock.now - jumped_at)
    world.run(seconds=30)
    assert "was interrupted" in world.incident().waiting_for
    world.target.restarts.append("the one that was under way")  # the target says that it happened
    world.healthy()
    world.run(seconds=120)
    assert [row.status for row in world.actions()] == ["succeeded"]
    assert len(world.target.restarts) == 1


def test_what_0_1_0_only_intended_is_done_at_once(killed_world: Any) -> None:
    """It wrote down the beginning by itself, later: what had none certainly did not begin."""
    world = killed_world
    with killed_at(HttpRestart, done=False):
        world.run()
    world.crash()
    (action,) = world.actions()
    intended = {"status": "intended", "started_at": None}
    world.context.store.write(lambda connection: statements.update_action(connection, action.id, intended))
    world.run(seconds=5)
    assert len(world.target.restarts) == 1
    assert [row.status for row in world.actions()] == ["failed", "succeeded"]


def test_killed_and_the_target_cannot_tell(make_world: Callable[..., Any]) -> None:
    """Without `started_at` nobody can learn whether it happened: indeterminate, people, no second effect."""
    world = make_world()
    world.close()
    recovery = {"http": {"restart": world.target.restart_url}}
    world.values["services"] = {"cart": {"recovery": recovery}}
    world.open()
    world.silent()
    world.receive(world.alert())
    die_after_the_effect(world)
    world.run(seconds=60)
    assert len(world.target.restarts) == 1
    assert [row.status for row in world.actions()] == ["indeterminate"]
    assert world.incident().state is State.ESCALATED


def test_notification_leaves_the_inbox_only_together_with_its_correlation(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Correlation fails: nothing is half taken in, and the notification is worked in again."""
    world.keep("f1")

    def explode(*_: Any) -> None:
        raise RuntimeError("boom")

    with monkeypatch.context() as patch:
        patch.setattr(correlation, "open_incidents", explode)
        with pytest.raises(RuntimeError, match="boom"):
            world.orchestrator.take_in()
    assert world.context.store.read(statements.count_inbox) == (1, 0)
    assert world.context.store.read(statements.firing_alerts) == []
    world.orchestrator.take_in()
    assert world.context.store.read(statements.count_inbox) == (0, 0)
    assert [row.fingerprint for row in world.alerts_of(world.incident())] == ["f1"]


@pytest.mark.parametrize("error", REFUSALS)
def test_a_notification_that_cannot_be_worked_in_does_not_hold_up_the_others(
    world: Any, monkeypatch: pytest.MonkeyPatch, error: Callable[[], Exception]
) -> None:
    """Its round is done again, each by itself: the others are begun with at once, and it keeps its error."""
    refuse(monkeypatch, "odd", error)
    for fingerprint in ("odd", "f1"):
        world.keep(fingerprint)
    assert [each.service for each in world.orchestrator.take_in_and_claim(8)] == ["cart"]
    assert [row.fingerprint for row in world.alerts_of(world.incident())] == ["f1"]
    query = "SELECT faults, error FROM inbox"
    ((faults, told),) = world.context.store.read(lambda c: c.exec_driver_sql(query).all())
    assert faults == 1
    assert told.startswith(f"{type(error()).__name__}: ")


@pytest.mark.parametrize("step", range(1, 9))
def test_killed_at_any_commit_heals_with_one_restart(
    killed_world: Any, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Killed right before the n-th write of the incident's life: one restart at the target, then healed."""
    world = killed_world
    writes = 0
    write = world.context.store.write

    def count(function: Any) -> Any:
        nonlocal writes
        writes += 1
        if writes == step:
            raise Killed
        return write(function)

    with monkeypatch.context() as patch:
        patch.setattr(world.context.store, "write", count)
        with pytest.raises(Killed):
            world.run(seconds=20)
    world.crash()
    world.run(seconds=150)
    assert len(world.target.restarts) == 1
    assert world.incident().outcome == "healed"
    assert world.incident().state is State.RESOLVED
