"""What is lent is taken back, and what made things worse is undone: counted at the target.

Scaled up while it fails, scaled back after a calm; back at once when the service is worse than before; never
over what somebody else has set meanwhile.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from deadline import within_deadline
from killed import Killed
from self_healing_fabric.guardrails import mode
from self_healing_fabric.incidents.lifecycle import State
from self_healing_fabric.orchestration.decisions import DECISIONS, decide
from self_healing_fabric.orchestration.leases import steady
from self_healing_fabric.recovery.platforms.http import HttpScale
from self_healing_fabric.settings import Mode
from shf_queries.catalogue import CPU, ERROR_RATIO


@pytest.fixture
def world(make_world: Callable[..., Any]) -> Any:
    """A service that is scaled when it is degraded, and fails five of a hundred requests too many."""
    world = make_world(plans={"degradation": ["scale", "restart"]}, guardrails={"cooldown": 0})
    world.close()
    cart = world.values["services"]["cart"]
    http = {**cart["recovery"]["http"], "scale": world.target.replicas_url}
    recovery = {"http": http, "scale": {"max": 3, "calm": 400}}
    world.values["services"] = {"cart": {**cart, "recovery": recovery}}
    world.open()
    world.measure(ERROR_RATIO, 0.1)
    world.measure(CPU, 0.5)
    return world


def fails(world: Any) -> None:
    """An alert of errors arrives."""
    world.receive(world.alert(signal="error_ratio", starts_at="2026-01-01T00:00:00Z"))


def alert_ends(world: Any) -> None:
    """Prometheus has seen that they are gone."""
    world.receive(world.alert(signal="error_ratio", starts_at="2026-01-01T00:00:00Z", status="resolved"))


def test_scaled_up_while_it_fails_and_back_after_a_calm(world: Any) -> None:
    """One replica more heals it; when it has been calm for 400 s there are as many as before, once."""
    world.target.on_scale = lambda: world.measure(ERROR_RATIO, 0.0)
    fails(world)
    world.run(seconds=30)
    assert (world.target.scalings, world.incident().state) == ([3], State.RESOLVED)
    alert_ends(world)
    world.run(seconds=340, tick=5)
    assert world.target.scalings == [3]  # the relapse window is over, the calm is not
    world.run(seconds=120, tick=5)
    assert world.target.scalings == [3, 2]
    world.run(seconds=400, tick=5)
    incident = world.incident()
    assert (incident.state, incident.outcome) == (State.CLOSED, "healed")
    assert world.target.scalings == [3, 2]
    assert world.restarts() == {}


def test_what_fails_again_when_scaled_back_starts_over(world: Any) -> None:
    """It needs the replica: the incident is open again, and is diagnosed and scaled again."""
    world.target.on_scale = lambda: world.measure(ERROR_RATIO, 0.0 if world.target.replicas > 2 else 0.1)
    fails(world)
    world.run(seconds=30)
    alert_ends(world)
    world.run(seconds=480, tick=5)
    assert world.target.scalings[:2] == [3, 2]
    world.run(seconds=120)
    assert world.target.scalings == [3, 2, 3]
    assert world.incident().relapses == 1
    assert world.target.replicas == 3


def test_a_scale_that_makes_it_worse_is_taken_back_at_once(world: Any) -> None:
    """More replicas strangle what they share: back to two before anything else is tried."""
    world.target.on_scale = lambda: world.measure(CPU, 0.97 if world.target.replicas > 2 else 0.5)
    world.target.on_restart = lambda: world.measure(ERROR_RATIO, 0.0)
    fails(world)
    world.run(seconds=25)
    assert world.target.scalings == [3, 2]
    assert any("worse than before the action: cpu" in line for line in world.story())
    world.run(seconds=30)
    assert len(world.target.restarts) == 1
    assert [(row.strategy, row.verdict) for row in world.actions()] == [
        ("scale", "not_healed"),
        ("undo", None),
        ("restart", "healed"),
    ]


def test_a_scale_that_merely_does_not_help_stays(world: Any) -> None:
    """Not worse: the restart is tried with the replicas that there are, and after the calm there are two."""
    world.target.on_restart = lambda: world.measure(ERROR_RATIO, 0.0)
    fails(world)
    world.run(seconds=90)
    assert world.target.scalings == [3]
    assert len(world.target.restarts) == 1
    alert_ends(world)
    world.run(seconds=500, tick=5)
    assert world.target.scalings == [3, 2]


def test_what_somebody_else_has_set_is_left_alone(world: Any) -> None:
    """A person scaled to five meanwhile: nothing is taken back, and the timeline says why."""
    world.target.on_scale = lambda: world.measure(ERROR_RATIO, 0.0)
    fails(world)
    world.run(seconds=30)
    alert_ends(world)
    world.target.replicas = 5
    world.run(seconds=500, tick=5)
    assert (world.target.scalings, world.target.replicas) == ([3], 5)
    assert any("somebody has set 5 replicas since" in line for line in world.story())
    assert world.incident().state is State.CLOSED
    assert world.calls == []


def test_a_scale_that_did_nothing_is_not_told_as_somebody_elses(world: Any) -> None:
    """It was taken with 200 and there are two replicas as before: nothing is taken back, nobody is blamed."""
    world.target.scales = False
    world.target.on_restart = lambda: world.measure(ERROR_RATIO, 0.0)
    fails(world)
    world.run(seconds=90)
    alert_ends(world)
    world.run(seconds=500, tick=5)
    assert (world.target.scalings, world.target.replicas) == ([3], 2)
    kept = "there are 2 replicas as before: nothing is left to take back"
    assert f"note: Not scaled back: {kept}." in world.story()
    assert not any("somebody" in line for line in world.story())
    assert world.incident().state is State.CLOSED


def test_an_exhausted_budget_does_not_hold_up_what_restores(
    make_world: Callable[..., Any], world: Any
) -> None:
    """One action an hour: the scale used it up, and taking it back is still possible."""
    world.close()
    world.values["guardrails"] = {"cooldown": 3600, "max_actions": 1}
    world.open()
    world.target.on_scale = lambda: world.measure(CPU, 0.97 if world.target.replicas > 2 else 0.5)
    fails(world)
    world.run(seconds=40)
    assert world.target.scalings == [3, 2]


def test_what_can_never_begin_to_take_it_back_goes_to_people(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A target that lets nobody in before the time is over: three tries, not one after the other for ever."""

    def let_nobody_in() -> None:
        world.measure(CPU, 0.97)
        steps = importlib.import_module("self_healing_fabric.orchestration.steps.recovering")
        monkeypatch.setattr(steps, "steady", lambda: steady() + 60)

    world.values["plans"] = {"degradation": ["scale"]}
    world.crash()
    world.target.on_scale = let_nobody_in
    fails(world)
    within_deadline(lambda: world.run(seconds=25))
    assert world.target.scalings == [3]
    assert [row.strategy for row in world.actions()] == ["scale", "undo", "undo", "undo"]
    assert world.incident().state is State.ESCALATED
    assert "undo failed: it might no longer begin" in world.calls[0].reason


@pytest.mark.parametrize("undone", [True, False])
def test_killed_while_taking_back_ends_in_the_old_or_the_new_state(
    world: Any, monkeypatch: pytest.MonkeyPatch, undone: bool
) -> None:
    """Killed before or after the order: the target tells, and there is exactly one order."""
    world.target.on_scale = lambda: world.measure(CPU, 0.97 if world.target.replicas > 2 else 0.5)
    perform = HttpScale.perform

    def die(effect: HttpScale, **options: Any) -> Any:
        if options["before"]["wanted"] > 2:
            return perform(effect, **options)
        if undone:
            perform(effect, **options)
        raise Killed

    fails(world)
    with monkeypatch.context() as patch:
        patch.setattr(HttpScale, "perform", die)
        with pytest.raises(Killed):
            world.run(seconds=40)
    world.crash()
    world.run(seconds=120)
    assert world.target.scalings == [3, 2]
    statuses = [row.status for row in world.actions() if row.strategy == "undo"]
    assert statuses == (["succeeded"] if undone else ["failed", "succeeded"])


def test_a_scale_is_bounded(world: Any) -> None:
    """At its maximum it is not scaled: the plan goes on, and the reason is told."""
    world.target.replicas = 3
    world.target.on_restart = lambda: world.measure(ERROR_RATIO, 0.0)
    fails(world)
    world.run(seconds=30)
    assert world.target.scalings == []
    assert len(world.target.restarts) == 1
    assert any("at most 3 are allowed" in line for line in world.story())


def test_what_was_scaled_to_nothing_stays_off(world: Any) -> None:
    """Zero replicas are somebody's decision."""
    world.target.replicas = 0
    fails(world)
    world.run(seconds=30)
    assert world.target.scalings == []


def lent(world: Any) -> None:
    """One replica more healed it, and its alert has ended; in 400 s it is to be taken back."""
    world.target.on_scale = lambda: world.measure(ERROR_RATIO, 0.0)
    world.values["plans"] = {"degradation": ["scale"]}
    world.crash()
    fails(world)
    world.run(seconds=30)
    alert_ends(world)


def set_mode(world: Any, wanted: Mode) -> None:
    """A person sets it."""
    world.context.store.write(lambda each: mode.change(each, wanted, by="ada", now=world.clock.now))


def closed_as_healed(world: Any) -> bool:
    """Whether the incident ended as what it was, and was counted once."""
    incident = world.incident()
    counted = world.context.metrics.resolved
    outcomes = [counted.labels("cart", each)._value.get() for each in ("healed", "recovered")]
    return (incident.state, incident.outcome, outcomes) == (State.CLOSED, "healed", [1, 0])


def test_a_target_that_refuses_to_be_scaled_back_calls_people_once(world: Any) -> None:
    """It is theirs from then on: not tried again and again, with a level more each time."""
    lent(world)
    world.target.scale_answer = 403
    world.run(seconds=1500, tick=5)
    assert [(call.level, "undo failed" in call.reason) for call in world.calls] == [(1, True)]
    assert closed_as_healed(world)
    assert "note: Not scaled back: that was left to people." in world.story()


def test_a_dry_run_tells_once_that_it_would_scale_back(world: Any) -> None:
    """The service is well, and whoever may do it has heard what is left to do."""
    lent(world)
    set_mode(world, Mode.DRY_RUN)
    world.run(seconds=1500, tick=5)
    assert [call.level for call in world.calls] == [1]
    assert closed_as_healed(world)
    assert world.target.scalings == [3]


def test_a_question_about_what_was_lent_is_told_when_a_window_ends(world: Any) -> None:
    """Asked inside a maintenance window: whoever is called at its end hears it, and may still allow it."""
    start, end = (datetime.fromtimestamp(world.clock.now + each, UTC).isoformat() for each in (60, 3600))
    world.values["guardrails"]["maintenance"] = [{"start": start, "end": end}]
    lent(world)
    set_mode(world, Mode.APPROVAL)
    world.run(seconds=3565, tick=5)
    assert (world.calls, world.incident().state) == ([], State.AWAITING_APPROVAL)
    world.run(seconds=30, tick=5)
    assert [call.level for call in world.calls] == [1]
    assert "only be taken back when a person allows it" in world.calls[0].reason
    decide(world.context, world.incident().id, DECISIONS["approve"], by="ada")
    world.run(seconds=60)
    assert world.target.scalings == [3, 2]


def test_a_target_that_refuses_to_be_scaled_back_inside_a_window_is_told_at_its_end(world: Any) -> None:
    """The window begins while the target is asked: what is left to people, they have to hear of."""
    start, end = world.clock.now + 7200, world.clock.now + 10800
    window = [datetime.fromtimestamp(each, UTC).isoformat() for each in (start, end)]
    world.values["guardrails"]["maintenance"] = [dict(zip(("start", "end"), window, strict=True))]
    lent(world)
    world.target.scale_answer = 403
    world.target.on_refused_scale = lambda: setattr(world.clock, "now", start + 1)
    while world.clock.now < start:
        world.run(seconds=5, tick=5)
    world.run(seconds=end - world.clock.now - 10, tick=10)
    assert (world.calls, world.incident().state) == ([], State.ESCALATED)
    world.run(seconds=600, tick=5)
    assert [(call.level, "undo failed" in call.reason) for call in world.calls] == [(1, True)]
    assert closed_as_healed(world)


def test_nobody_is_called_for_what_has_healed_while_a_pause_keeps_its_replica(world: Any) -> None:
    """Paused for an hour, then scaled back: the time of the levels does not run for what is well."""
    lent(world)
    set_mode(world, Mode.PAUSED)
    world.run(seconds=3600, tick=5)
    assert world.target.scalings == [3]
    set_mode(world, Mode.AUTOMATIC)
    world.run(seconds=400, tick=5)
    assert world.target.scalings == [3, 2]
    assert world.calls == []
    assert closed_as_healed(world)


def test_what_fails_again_while_a_pause_keeps_its_replica_is_a_relapse(world: Any) -> None:
    """Its alert does not join what is over: the levels run again, and people hear of it."""
    lent(world)
    set_mode(world, Mode.PAUSED)
    world.run(seconds=600, tick=5)
    assert world.incident().state is State.RECOVERING
    world.measure(ERROR_RATIO, 0.1)
    world.receive(world.alert(signal="error_ratio", starts_at="2026-01-02T00:00:00Z"))
    world.run(seconds=600, tick=5)
    assert world.incident().relapses == 1
    assert world.calls != []
    assert world.target.scalings == [3]


def test_who_may_allow_to_scale_back_is_asked_at_once_and_their_no_ends_it(world: Any) -> None:
    """A no to that leaves the replica, and calls nobody further: nothing fails."""
    lent(world)
    set_mode(world, Mode.APPROVAL)
    world.run(seconds=420, tick=5)
    assert ["when a person allows it" in call.reason for call in world.calls] == [True]
    decide(world.context, world.incident().id, DECISIONS["reject"], by="ada")
    world.run(seconds=1500, tick=5)
    assert len(world.calls) == 1
    assert closed_as_healed(world)
    assert any("Stays in force" in line for line in world.story())


def test_a_question_whether_to_scale_back_that_nobody_answers_is_asked_once(world: Any) -> None:
    """After its time the replica stays, and the incident is over."""
    lent(world)
    set_mode(world, Mode.APPROVAL)
    world.run(seconds=3600, tick=5)
    assert len(world.calls) == 1
    assert closed_as_healed(world)
