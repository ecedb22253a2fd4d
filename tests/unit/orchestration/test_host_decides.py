"""What the program that embeds the fabric forbids does not happen, and what it doubts is not called healed.

What was done is counted at the target.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pytest_httpserver import HTTPServer

from self_healing_fabric.guardrails import Proposal, outside
from self_healing_fabric.incidents.lifecycle import State
from self_healing_fabric.orchestration import validation
from self_healing_fabric.orchestration.validation import ClaimedHealing
from world import World


def fails(*_: Any) -> bool:
    raise RuntimeError("no policy loaded")


@pytest.fixture
def world(tmp_path: Path, httpserver: HTTPServer) -> Any:
    """A service that is well again once it is restarted."""
    made = World(tmp_path, httpserver)
    made.target.on_restart = made.healthy
    made.close()
    yield made
    made.close()


def break_it(world: World) -> None:
    world.silent()
    world.receive(world.alert())


def with_boundary(world: World, allows: Callable[[Proposal], Any]) -> list[Proposal]:
    asked: list[Proposal] = []

    def ask(proposal: Proposal) -> Any:
        asked.append(proposal)
        return allows(proposal)

    world.bounds = (outside.boundary(ask),)
    world.open()
    return asked


def test_an_allowed_effect_happens_and_was_asked_for(world: World) -> None:
    """The enforcer hears of the service, the strategy and the target before the restart."""
    asked = with_boundary(world, lambda _: True)
    break_it(world)
    world.run(30)
    assert world.restarts() == {"cart": 1}
    (proposal,) = asked
    assert (proposal.service, proposal.strategy) == ("cart", "restart")
    assert proposal.target == f"http:{world.target.restart_url}"
    assert world.incident().outcome == "healed"


@pytest.mark.parametrize("allows", [lambda _: False, lambda _: None, lambda _: "yes", fails])
def test_what_is_not_allowed_does_not_happen(world: World, allows: Callable[[Proposal], Any]) -> None:
    """A no, no answer, what is no True, an error: nothing reaches the target, and people hear of it."""
    with_boundary(world, allows)
    break_it(world)
    world.run(120)
    assert world.restarts() == {}
    assert world.incident().state is State.ESCALATED
    assert world.context.metrics.blocks.labels("cart", "boundary")._value.get() == 1
    assert any(line.startswith("guardrail: boundary refuses") for line in world.story())


def test_every_effect_is_asked_for_also_those_that_disturb_nothing(world: World) -> None:
    """A probe of the health endpoint is a call to the target too."""
    world.values["plans"] = {"service_failure": ["retry"]}
    asked = with_boundary(world, lambda _: False)
    break_it(world)
    world.run(30)
    assert world.target.probes == 0
    assert [proposal.strategy for proposal in asked] == ["retry"]


def with_gate(world: World, confirms: Callable[[ClaimedHealing], Any]) -> list[ClaimedHealing]:
    asked: list[ClaimedHealing] = []

    def gate(healing: ClaimedHealing) -> Any:
        asked.append(healing)
        return confirms(healing)

    world.gate = gate
    world.open()
    return asked


def test_a_confirmed_healing_is_called_so(world: World) -> None:
    """The gate is shown what proves it."""
    asked = with_gate(world, lambda _: True)
    break_it(world)
    world.run(30)
    assert world.incident().outcome == "healed"
    (healing,) = asked
    assert (healing.incident, healing.service) == (world.incident().id, "cart")
    assert healing.statement.startswith("Healed")
    assert healing.evidence[0]["query"]


@pytest.mark.parametrize("confirms", [lambda _: False, lambda _: None, lambda _: 1, fails])
def test_a_doubted_healing_is_none(world: World, confirms: Callable[[ClaimedHealing], Any]) -> None:
    """Not yet until the deadline, then for people; and nothing more is done to a service that looks well."""
    with_gate(world, confirms)
    break_it(world)
    world.run(30)
    assert world.incident().state is State.VERIFYING
    assert world.incident().waiting_for.startswith("validation: the validation gate")
    world.run(60)
    assert world.incident().state is State.ESCALATED
    assert world.incident().outcome is None
    assert world.restarts() == {"cart": 1}
    (action,) = world.actions()
    assert action.verdict == "no_evidence"


def test_an_escalated_incident_resolves_when_the_gate_confirms_it(world: World) -> None:
    """The doubt ends: the fabric keeps asking while it watches."""
    doubts = [True]
    with_gate(world, lambda _: not doubts[0])
    break_it(world)
    world.run(90)
    assert world.incident().state is State.ESCALATED
    doubts[0] = False
    world.run(30)
    assert world.incident().state is State.RESOLVED
    assert world.incident().outcome == "recovered"


def test_a_gate_that_hangs_has_not_confirmed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker goes on."""
    import threading

    monkeypatch.setattr(validation, "ANSWERS_WITHIN", 0.02)
    release = threading.Event()
    with_gate(world, lambda _: release.wait(60))
    break_it(world)
    world.run(10)
    assert world.incident().state is State.VERIFYING
    assert "did not return within 0.02 s" in world.incident().waiting_for
    release.set()
