"""Maintenance windows: whatever is taken down in one, nothing is done and nobody is called before its end."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from self_healing_fabric.guardrails import mode
from self_healing_fabric.incidents.lifecycle import State
from self_healing_fabric.orchestration.decisions import DECISIONS, decide
from self_healing_fabric.settings import Mode
from self_healing_fabric.store import statements
from shf_queries.catalogue import HEARTBEAT
from world import START

NOWHERE = "http://127.0.0.1:9/gone"
ENDS = START + 3600
LEVEL = 300  # seconds until each level is called


def window(begins: float = START) -> dict[str, Any]:
    """The guardrails with an announced window."""
    start, end = (datetime.fromtimestamp(at, UTC).isoformat() for at in (begins, ENDS))
    return {"maintenance": [{"start": start, "end": end}], "cooldown": 0}


def take_down(world: Any) -> None:
    """The service does not answer, and neither does what tells of it and would restart it."""
    world.silent()
    configure(world, recovery={"http": {"restart": NOWHERE, "started_at": NOWHERE}})


def configure(world: Any, **changes: Any) -> None:
    """Start anew with other settings of the service."""
    world.close()
    world.values["services"] = {"cart": {**world.values["services"]["cart"], **changes}}
    world.open()


def unreadable_target(world: Any) -> None:
    """As when its pods were scaled to none."""
    take_down(world)
    world.receive(world.alert())


def nothing_to_try(world: Any) -> None:
    """No plan is known for what fails."""
    configure(world, plans={"service_failure": []})
    world.silent()
    world.receive(world.alert())


def no_prometheus(world: Any) -> None:
    """It is part of what people work on."""
    world.prometheus.away = "connection refused"
    world.receive(world.alert())


def no_samples(world: Any) -> None:
    """The window begins while it waits for its turn, and what tells of it is taken down."""
    world.silent()
    world.receive(world.alert())
    world.run(seconds=2)
    world.measure(HEARTBEAT, None)


def in_vain(world: Any) -> None:
    """Restarted right before the window, and not healed inside it."""
    world.silent()
    world.receive(world.alert())
    world.run(seconds=2)
    assert world.restarts() == {"cart": 1}


def unanswered(world: Any) -> None:
    """A person was asked before the window."""
    world.context.store.write(
        lambda connection: mode.change(connection, Mode.APPROVAL, by="ada", now=world.clock.now)
    )
    world.silent()
    world.receive(world.alert())
    world.run(seconds=2)
    assert world.incident().state is State.AWAITING_APPROVAL


def stranger(world: Any) -> None:
    """Nobody has configured the service of the alert."""
    world.receive(world.alert(service="stranger"))


CASES: dict[str, tuple[Callable[[Any], None], float, float]] = {
    "unreadable target": (unreadable_target, START, 0),
    "nothing to try": (nothing_to_try, START, 0),
    "no Prometheus": (no_prometheus, START, LEVEL),
    "no samples": (no_samples, START, LEVEL),
    "restarted in vain": (in_vain, START + 10, 0),
    "unanswered approval": (unanswered, START + 10, LEVEL),
    "stranger": (stranger, START, 0),
}


@pytest.mark.parametrize("case", CASES)
def test_nobody_is_called_inside_a_window_and_somebody_after_it(
    make_world: Callable[..., Any], case: str
) -> None:
    """What was given up is called for at its end; what was not has the time of its level from there on."""
    begin, begins, wait = CASES[case]
    world = make_world(guardrails=window(begins))
    begin(world)
    world.run(seconds=ENDS - 10 - world.clock.now, tick=5)
    assert (world.calls, world.incident().level) == ([], 0)
    world.run(seconds=5 + wait, tick=5)
    assert world.calls == []
    world.run(seconds=70, tick=5)
    assert [call.level for call in world.calls] == [1]


@pytest.mark.parametrize("held_by", ["window", "silence"])
def test_a_question_has_its_time_when_people_hear_of_it(make_world: Callable[..., Any], held_by: str) -> None:
    """Nobody was called to answer while it was held back: whoever is called at its end may still allow it."""
    guardrails = window(START + 10) if held_by == "window" else {}
    world = make_world(guardrails=guardrails, escalation={"levels": LEVELS})
    unanswered(world)
    world.target.on_restart = world.healthy
    if held_by == "silence":
        world.run(seconds=100, tick=5)
        silence(world, True)
    world.run(seconds=ENDS - world.clock.now - 1, tick=5)
    assert world.calls == []
    silence(world, False)
    world.run(seconds=LEVEL + 20, tick=5)
    assert [call.level for call in world.calls][:1] == [1]
    assert world.incident().state is State.AWAITING_APPROVAL
    decide(world.context, world.incident().id, DECISIONS["approve"], by="ada")
    world.run(seconds=20)
    assert (world.restarts(), world.incident().outcome) == ({"cart": 1}, "healed")


def silence(world: Any, on: bool) -> None:
    """Silence the alerts of the only incident, or end that."""
    ids = [row.id for row in world.alerts_of(world.incident())]
    world.context.store.write(lambda connection: statements.set_suppressed(connection, ids, on))


def test_work_goes_on_when_the_window_ends(make_world: Callable[..., Any]) -> None:
    """The target is back and the service is not: it is restarted and proved, before anybody is called."""
    world = make_world(guardrails=window())
    recovery = world.values["services"]["cart"]["recovery"]
    unreadable_target(world)
    world.run(seconds=1800, tick=5)
    assert "maintenance" in world.incident().waiting_for
    configure(world, recovery=recovery)
    world.target.on_restart = world.healthy
    world.run(seconds=ENDS - 5 - world.clock.now, tick=5)
    assert world.restarts() == {}
    world.run(seconds=30, tick=1)
    assert world.restarts() == {"cart": 1}
    assert world.incident().outcome == "healed"
    assert world.calls == []


def test_what_comes_back_inside_the_window_is_over(make_world: Callable[..., Any]) -> None:
    """People are done before the end: resolved then, and not when the window ends."""
    world = make_world(guardrails=window())
    unreadable_target(world)
    world.run(seconds=1800, tick=5)
    world.healthy()
    world.run(seconds=70, tick=5)
    assert (world.incident().state, world.incident().outcome) == (State.RESOLVED, "recovered")
    assert world.calls == []


def test_who_decides_to_escalate_inside_the_window_is_heard(make_world: Callable[..., Any]) -> None:
    """The window holds back what the fabric wants, not what a person does."""
    world = make_world(guardrails=window())
    unreadable_target(world)
    world.run(seconds=10)
    decide(world.context, world.incident().id, DECISIONS["escalate"], by="ada")
    world.run(seconds=1)
    assert [call.reason for call in world.calls] == ["ada asked for it"]


def test_a_stranger_does_not_climb_after_the_window(make_world: Callable[..., Any]) -> None:
    """People are told once of an alert that is not ours, late or not."""
    world = make_world(guardrails=window())
    stranger(world)
    world.run(seconds=3600 + 4 * LEVEL, tick=5)
    assert [call.level for call in world.calls] == [1]
    assert world.calls[0].reason == "not healed when the maintenance window ended"


@pytest.mark.parametrize(("level", "called"), [(1, 2), (4, 4)])
def test_a_new_signal_inside_the_window_is_told_at_its_end(
    make_world: Callable[..., Any], level: int, called: int
) -> None:
    """Who was called before it does not hear what people at work take down; what is left is called for."""
    world = make_world(guardrails=window(START + 1800), escalation={"levels": LEVELS})
    stuck(world)
    world.run(seconds=(level - 1) * LEVEL + 10, tick=5)
    assert [call.level for call in world.calls] == list(range(1, level + 1))
    decide(world.context, world.incident().id, DECISIONS["acknowledge"], by="ada")
    world.run(seconds=1810 - (world.clock.now - START), tick=5)
    world.calls.clear()
    world.receive(world.alert(signal="cpu"))
    world.run(seconds=ENDS - 10 - world.clock.now, tick=5)
    assert (world.calls, world.incident().acknowledged_by) == ([], None)
    world.run(seconds=20, tick=5)
    assert [call.level for call in world.calls] == [called]


LEVELS = [{"name": f"level {n}", "deadline": LEVEL, "call": ["ops"] if n else []} for n in range(5)]


def stuck(world: Any) -> None:
    """It does not answer, and its restart is refused."""
    world.silent()
    world.target.answer = 403
    world.receive(world.alert())
