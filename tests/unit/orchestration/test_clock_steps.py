"""The clock is set by hours or a day while incidents are open: it is proved all the same, by new samples.

What lies in the future after a step back is waited for by nobody, and a stretch in which nobody looked is no
evidence of a failure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from killed import killed_at
from self_healing_fabric.incidents.lifecycle import State
from self_healing_fabric.orchestration import waits
from self_healing_fabric.orchestration.reconciliation import Reconciliation
from self_healing_fabric.recovery.platforms.http import HttpRestart
from shf_queries import Series

DAY, HOUR = 86_400.0, 3600.0


def set_back(world: Any, by: float = DAY) -> None:
    """Set the clock back; Prometheus, on the same host, tells what is so from then on."""
    world.clock.now -= by
    for series, history in list(world.prometheus.history.items()):
        world.prometheus.history[series] = [(world.clock.now, history[-1][1])]
    reconciliation = Reconciliation(world.context)
    reconciliation.run()
    reconciliation.close()


def wait_for_what_is_due(world: Any) -> None:
    """As long as work may be held up, and some steps of it."""
    world.run(seconds=waits.longest(world.context.settings) + 150, tick=5)


def test_a_verification_goes_on_after_the_clock_was_set_back(world: Any) -> None:
    """Its samples were to be newer than an action of tomorrow: it was proved no sooner."""
    world.silent()
    alert = world.alert()
    world.receive(alert)
    world.target.on_restart = world.healthy
    world.run()
    assert world.incident().state is State.VERIFYING
    set_back(world)
    world.receive(world.alert(starts_at=alert.starts_at, status="resolved"))
    wait_for_what_is_due(world)
    incident = world.incident()
    assert (incident.state, incident.outcome, incident.relapses) == (State.RESOLVED, "healed", 0)
    assert len(world.target.restarts) == 1
    assert [each.reason for each in world.calls] == ["not healed within 5m"]
    assert "note: The clock was set back: what had begun by the old time begins anew." in world.story()


def test_what_people_heal_after_the_clock_was_set_back_is_seen(world: Any) -> None:
    """An escalated incident is watched from now, not from tomorrow."""
    world.silent()
    alert = world.alert()
    world.receive(alert)
    world.run(seconds=70)
    assert world.incident().state is State.ESCALATED
    set_back(world)
    world.healthy()
    world.receive(world.alert(starts_at=alert.starts_at, status="resolved"))
    wait_for_what_is_due(world)
    assert (world.incident().state, world.incident().outcome) == (State.RESOLVED, "recovered")


def test_what_fails_again_after_the_clock_was_set_back_is_healed_again(world: Any) -> None:
    """Its alert has never ended, and it had been resolved tomorrow."""
    world.silent()
    world.target.on_restart = world.healthy
    world.receive(world.alert())
    world.run(seconds=20)
    assert world.incident().state is State.RESOLVED
    set_back(world)
    world.silent()
    world.run(seconds=2 * waits.longest(world.context.settings), tick=5)
    assert world.incident().relapses == 1


def test_who_waits_for_an_answer_is_seen_to_heal_after_the_clock_was_set_back(
    make_world: Callable[..., Any],
) -> None:
    """It goes on waiting for a person, and heals by itself meanwhile."""
    world = make_world(mode="approval")
    world.silent()
    world.receive(world.alert())
    world.run(seconds=2)
    assert world.incident().state is State.AWAITING_APPROVAL
    set_back(world)
    world.run(seconds=waits.longest(world.context.settings) + 5, tick=5)
    assert (world.incident().state, world.incident().waiting_for) == (
        State.AWAITING_APPROVAL,
        "a person's approval",
    )
    world.healthy()
    world.run(seconds=30)
    assert (world.incident().state, world.target.restarts) == (State.RESOLVED, [])


def test_an_action_of_tomorrow_is_asked_after_today(world: Any) -> None:
    """Killed in mid-action, and the host comes up with a clock that is a day behind: the target is asked in
    its time, and nothing is done a second time."""
    world.silent()
    world.target.on_restart = world.healthy
    world.receive(world.alert())
    with killed_at(HttpRestart, done=True):
        world.run()
    world.crash()
    set_back(world)
    wait_for_what_is_due(world)
    assert [row.status for row in world.actions()] == ["succeeded"]
    assert (world.incident().outcome, len(world.target.restarts)) == ("healed", 1)


def test_a_deadline_that_passed_while_nobody_looked_calls_nothing_unproved(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock is set forward, or the whole host was away: no sample tells of the hour in between, and the
    first look after it said that there is no evidence, gave up the plan and the action's verdict."""
    world.silent()
    world.receive(world.alert())
    world.target.on_restart = world.healthy
    world.run(seconds=2)
    world.clock.now += HOUR
    began, raw = world.clock.now, world.prometheus.raw

    def only_since(*arguments: Any, **options: Any) -> Sequence[Series]:
        kept = [(each, each.times > began) for each in raw(*arguments, **options)]
        return [Series(each.labels, each.times[new], each.values[new]) for each, new in kept if new.any()]

    monkeypatch.setattr(world.prometheus, "raw", only_since)
    world.run(seconds=30)
    assert [row.verdict for row in world.actions()] == ["healed"]
    assert world.incident().state is State.RESOLVED


def test_a_deadline_is_put_off_by_no_more_than_nobody_looked(world: Any) -> None:
    """Without a sample for longer than that there is no evidence."""
    world.silent()
    world.receive(world.alert())
    world.run(seconds=2)
    world.prometheus.history.clear()
    world.clock.now += HOUR
    world.run(seconds=70)
    assert [row.verdict for row in world.actions()] == ["no_evidence"]
    assert world.incident().state is State.ESCALATED
