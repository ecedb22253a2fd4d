"""What people decide holds, once, and overtakes the machine only where that is safe."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from self_healing_fabric.errors import DecisionRefused, UnknownIncident
from self_healing_fabric.incidents.lifecycle import State
from self_healing_fabric.orchestration.decisions import DECISIONS, decide
from self_healing_fabric.store import statements


def decision(world: Any, name: str) -> None:
    """Carry out a decision on the only incident."""
    decide(world.context, world.incident().id, DECISIONS[name], by="ada")


@pytest.fixture
def waiting(make_world: Callable[..., Any]) -> Any:
    """An incident that awaits approval."""
    world = make_world(mode="approval")
    world.silent()
    world.target.on_restart = world.healthy
    world.receive(world.alert())
    world.run(seconds=1)
    assert world.incident().state is State.AWAITING_APPROVAL
    return world


def test_approval_runs_the_plan_once(waiting: Any) -> None:
    """Approved a hundred times, restarted once, and the timeline names who approved."""
    for _ in range(100):
        decision(waiting, "approve")
    waiting.run(seconds=20)
    assert len(waiting.target.restarts) == 1
    assert waiting.incident().state is State.RESOLVED
    assert sum("ada approved" in line for line in waiting.story()) == 1


def test_rejection_goes_to_people(waiting: Any) -> None:
    """Rejected: no effect, one level up; rejecting again changes nothing."""
    decision(waiting, "reject")
    decision(waiting, "reject")
    waiting.run(seconds=20)
    assert waiting.target.restarts == []
    assert (waiting.incident().state, waiting.incident().level) == (State.ESCALATED, 1)


def test_approving_what_awaits_nothing_is_refused(world: Any) -> None:
    """A decision that does not fit the state changes nothing."""
    world.silent()
    world.receive(world.alert())
    world.run()
    with pytest.raises(DecisionRefused, match="awaits no approval"):
        decision(world, "approve")


def test_acknowledgement_stops_the_clock(world: Any) -> None:
    """Once somebody has acknowledged, no further level is called."""
    world.silent()
    world.target.answer = 403
    world.receive(world.alert())
    world.run(seconds=5)
    decision(world, "acknowledge")
    decision(world, "acknowledge")
    world.run(seconds=2000, tick=20)
    assert [call.level for call in world.calls] == [1]
    assert world.incident().acknowledged_by == "ada"


def test_unacknowledged_levels_rise_to_the_last(world: Any) -> None:
    """Each level is called once, at its deadline, up to level 4; a restart in between loses none."""
    world.silent()
    world.target.answer = 403
    world.receive(world.alert())
    world.run(seconds=100, tick=5)
    world.crash()
    world.run(seconds=400, tick=5)
    world.crash()
    world.run(seconds=2000, tick=20)
    assert [call.level for call in world.calls] == [1, 2, 3, 4]


def test_person_can_escalate(world: Any) -> None:
    """Escalating by hand stops the plan and calls the next level."""
    world.receive(world.alert())
    world.run()
    decision(world, "escalate")
    assert (world.incident().state, world.incident().level) == (State.ESCALATED, 1)
    assert [call.reason for call in world.calls] == ["ada asked for it"]


def test_closing_is_final(world: Any) -> None:
    """Closed by a person: the same alert does not open it again."""
    world.silent()
    alert = world.alert()
    world.target.answer = 403
    world.receive(alert)
    world.run(seconds=5)
    decision(world, "close")
    decision(world, "close")
    world.receive(alert)
    world.run(seconds=50)
    assert (world.incident().state, world.incident().outcome) == (State.CLOSED, "closed_by_person")


def test_decisions_wait_for_an_action_under_way(world: Any) -> None:
    """While an effect is under way its incident cannot be closed: the end would be recorded nowhere."""
    world.silent()
    refused: list[DecisionRefused] = []

    def close_meanwhile() -> None:
        try:
            decision(world, "close")
        except DecisionRefused as error:
            refused.append(error)

    world.target.on_restart = close_meanwhile
    world.receive(world.alert())
    world.run()
    assert "under way" in str(refused[0])
    assert world.incident().state is State.VERIFYING


def test_acknowledging_disturbs_no_step_in_hand(world: Any) -> None:
    """An acknowledgement during an effect is kept, and so is the effect's record."""
    world.silent()
    world.target.on_restart = lambda: (decision(world, "acknowledge"), world.healthy())
    world.receive(world.alert())
    world.run(seconds=20)
    assert world.incident().acknowledged_by == "ada"
    assert world.incident().outcome == "healed"


def test_unknown_incident(world: Any) -> None:
    """A wrong id is said to be one."""
    with pytest.raises(UnknownIncident):
        decide(world.context, "nonsense", DECISIONS["close"], by="ada")


def test_overtaken_step_writes_nothing(world: Any) -> None:
    """A step whose incident was closed meanwhile does not bring it back."""
    world.receive(world.alert())
    ask = world.prometheus.instant

    def close_while_asking(*arguments: Any, **options: Any) -> Any:
        if world.context.store.read(statements.list_incidents)[0].state == State.DIAGNOSING:
            decision(world, "close")
        return ask(*arguments, **options)

    world.prometheus.instant = close_while_asking
    world.run(seconds=5)
    assert world.incident().state is State.CLOSED
    assert not any(line.startswith("diagnosis") for line in world.story())
