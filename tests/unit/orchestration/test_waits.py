"""A comparison with the servers leaves every timer alone that a step has asked for."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs

from self_healing_fabric.guardrails import Refusal
from self_healing_fabric.guardrails.outside import Outside
from self_healing_fabric.incidents.lifecycle import State, Transition
from self_healing_fabric.orchestration import journal, waits
from self_healing_fabric.orchestration.decisions import DECISIONS, decide
from self_healing_fabric.orchestration.reconciliation import Reconciliation
from shf_queries.catalogue import ERROR_RATIO
from world import START, World

HOUR = 3600.0


def fails(world: Any, *, since: int = 0) -> None:
    """Cart is silent, and an alert says so."""
    world.silent()
    world.receive(world.alert(starts_at=f"{since}"))
    world.run(2)


def is_left_alone(world: Any) -> bool:
    """Whether a comparison changes no timer of the incident and takes nothing for stuck."""
    before = world.incident()
    reconciliation = Reconciliation(world.context)
    with capture_logs() as logged:
        reconciliation.run()
    reconciliation.close()
    after = world.incident()
    told = [each for each in logged if each["event"] == "stuck_incidents_taken_up"]
    return (after.due_at, after.level_due_at) == (before.due_at, before.level_due_at) and not told


@pytest.mark.parametrize("level", range(5))
@pytest.mark.parametrize(
    "deadlines", [None, (HOUR,) * 5, (60.0, 7 * HOUR, 9 * HOUR, 60.0, 60.0)], ids=["default", "hours", "odd"]
)
def test_people_have_the_time_to_answer_that_they_were_promised(
    make_world: Callable[..., World], deadlines: tuple[float, ...] | None, level: int
) -> None:
    """Until the last level has had its time: a comparison right after it was asked takes none off."""
    changes: dict[str, Any] = {}
    if deadlines is not None:
        levels = [{"name": f"l{number}", "deadline": each} for number, each in enumerate(deadlines)]
        changes = {"escalation": {"levels": levels}}
    world = make_world(mode="approval", **changes)
    world.receive(world.alert())
    world.run()
    incident = world.incident()
    world.silent()
    columns = {"level": level, "state": "recovering", "plan": ["restart"], "due_at": world.clock.now}
    world.context.store.write(lambda c: journal.statements.annotate(c, incident.id, columns))
    world.run(2)
    asked = world.incident()
    assert asked.state is State.AWAITING_APPROVAL
    promised = sum(each.deadline for each in world.context.settings.escalation.levels[asked.level :])
    assert asked.verification["deadline"] - asked.verification["since"] == promised
    assert is_left_alone(world)


def cooling_down(make_world: Callable[..., World]) -> World:
    """Its restart has a cooldown of two hours, and it fails again."""
    world = make_world(guardrails={"cooldown": 0, "strategies": {"restart": {"cooldown": "2h"}}})
    world.target.on_restart = world.healthy
    fails(world)
    world.run(30)
    world.receive(world.alert(starts_at="0", status="resolved"))
    fails(world, since=1)
    return world


def in_maintenance(make_world: Callable[..., World]) -> World:
    """A maintenance window has ten hours left."""
    start = datetime.fromtimestamp(START, UTC) - timedelta(hours=1)
    window = {"start": start.isoformat(), "end": (start + timedelta(hours=11)).isoformat()}
    world = make_world(guardrails={"maintenance": [window]})
    fails(world)
    return world


def refused_for_long(make_world: Callable[..., World]) -> World:
    """A guardrail of somebody else wants to be asked again in a year."""
    world = make_world()
    world.close()
    world.bounds = (
        Outside("theirs", "theirs", lambda asked: Refusal("theirs", "not now", asked.now + 8760 * HOUR)),
    )
    world.open()
    fails(world)
    return world


def lent(make_world: Callable[..., World]) -> World:
    """More replicas are taken back after a calm of three hours."""
    world = make_world(plans={"degradation": ["scale"]})
    world.close()
    cart = world.values["services"]["cart"]
    http = {**cart["recovery"]["http"], "scale": world.target.replicas_url}
    scale = {"max": 3, "calm": "3h"}
    world.values["services"] = {"cart": {**cart, "recovery": {"http": http, "scale": scale}}}
    world.open()
    world.measure(ERROR_RATIO, 0.1)
    world.target.on_scale = lambda: world.measure(ERROR_RATIO, 0.0)
    world.receive(world.alert(signal="error_ratio", starts_at="0"))
    world.run(30)
    world.receive(world.alert(signal="error_ratio", starts_at="0", status="resolved"))
    world.run(400, tick=5)
    assert "calm" in world.incident().waiting_for
    return world


def calm_for_long(make_world: Callable[..., World]) -> World:
    """It stays resolved for five hours before it closes."""
    world = make_world(relapse_window="5h")
    world.target.on_restart = world.healthy
    fails(world)
    world.run(30)
    assert world.incident().state is State.RESOLVED
    return world


def watched_seldom(make_world: Callable[..., World]) -> World:
    """People were called, and it is looked at every two hours."""
    world = make_world(verification={"stability": 5, "deadline": 30_000, "interval": "2h"})
    fails(world)
    decide(world.context, world.incident().id, DECISIONS["escalate"], by="ada")
    return world


def tried_again_later(make_world: Callable[..., World]) -> World:
    """A retry waits for up to a day."""
    retry = {"base": "1d", "cap": "1d"}
    world = make_world(retry=retry, plans={"service_failure": ["retry"]})
    world.target.health = 500
    fails(world)
    return world


@pytest.mark.parametrize(
    "waiting",
    [
        *(cooling_down, in_maintenance, refused_for_long),
        *(lent, calm_for_long, watched_seldom, tried_again_later),
    ],
)
def test_a_wait_is_left_alone(
    make_world: Callable[..., World], waiting: Callable[[Callable[..., World]], World]
) -> None:
    """Whatever an incident waits for, and however long."""
    world = waiting(make_world)
    assert world.incident().due_at > world.clock.now
    assert is_left_alone(world)


def test_a_level_that_a_maintenance_window_holds_is_left_alone(make_world: Callable[..., World]) -> None:
    """It was due inside: then its timer stands behind the window's end, hours away."""
    world = in_maintenance(make_world)
    first = world.incident().level_due_at
    world.run(seconds=400, tick=10)
    assert world.incident().level_due_at > first + 9 * HOUR
    assert is_left_alone(world)


@pytest.mark.parametrize("due_in", [0.5, 7 * HOUR, 1e9])
@pytest.mark.parametrize("by_person", [False, True])
def test_whatever_is_asked_for_is_left_alone(
    make_world: Callable[..., World], due_in: float, by_person: bool
) -> None:
    """Also by a step or a decision that nobody has written yet: a longer wait looks sooner."""
    world = make_world()
    world.prometheus.away = "Prometheus does not answer"
    fails(world)
    wanted = Transition(State.ESCALATED, due_in)
    if by_person:
        decide(world.context, world.incident().id, lambda *_: wanted, by="ada")
    else:
        world.clock.now += 10
        (incident,) = world.orchestrator.claim(8)
        journal.commit(world.context, incident, wanted)
    left = world.incident().due_at - world.clock.now
    assert left == min(due_in, waits.longest(world.context.settings))
    assert is_left_alone(world)


def test_a_wait_that_looks_sooner_ends_no_sooner(make_world: Callable[..., World]) -> None:
    """Restarted again when the cooldown of two hours is over, and told once that it waits for that."""
    world = cooling_down(make_world)
    (first,) = world.actions()
    world.run(seconds=first.intended_at + 2 * HOUR - 10 - world.clock.now, tick=10)
    assert world.restarts() == {"cart": 1}
    assert sum("cooldown refuses" in line for line in world.story()) == 1
    world.run(30)
    assert world.restarts() == {"cart": 2}
