"""What has healed a target before decides what is tried first, and the plan says so."""

from collections.abc import Callable
from typing import Any

import pytest

from self_healing_fabric.store import statements
from shf_queries.catalogue import ERROR_RATIO


@pytest.fixture
def world(make_world: Callable[..., Any]) -> Any:
    """Degraded services are scaled first, unless it is known better."""
    world = make_world(plans={"degradation": ["scale", "restart"]})
    world.close()
    cart = world.values["services"]["cart"]
    http = {**cart["recovery"]["http"], "scale": world.target.replicas_url}
    world.values["services"] = {"cart": {**cart, "recovery": {"http": http, "scale": {"max": 9}}}}
    world.open()
    return world


def remember(world: Any, strategy: str, verdict: str, number: int, *, target: str | None = None) -> None:
    """So many actions of an incident long ago, with their verdicts."""
    world.receive(world.alert(service="a-stranger"))
    world.run(seconds=1)
    values = {
        "incident_id": world.incident_of("a-stranger").id, "strategy": strategy, "platform": "http",
        "disruptive": True,
        "target": target or f"http:{world.target.restart_url}", "attempt": 1, "status": "succeeded",
        "verdict": verdict, "before": {}, "intended_at": 1.0, "failure_class": "degradation",
        "pattern": "unknown",
    }  # fmt: skip

    def write(connection: Any) -> None:
        for each in range(number):
            statements.insert_action(connection, {**values, "id": f"{strategy}-{verdict}-{each}"})

    world.context.store.write(write)


def plans(world: Any) -> list[str]:
    """What the timelines say of plans."""
    lines = [line for incident in world.incidents() for line in world.story(incident)]
    return [line for line in lines if line.startswith("plan:")]


def degrade(world: Any) -> None:
    """It fails a tenth of its requests."""
    world.measure(ERROR_RATIO, 0.1)
    world.receive(world.alert(signal="error_ratio"))
    world.run(seconds=10)


def test_what_has_always_healed_overtakes_what_never_did(world: Any) -> None:
    """Restarted although scaling is configured first."""
    remember(world, "scale", "not_healed", 6)
    remember(world, "restart", "healed", 6)
    degrade(world)
    assert any("By what has worked" in line for line in plans(world))
    assert (len(world.target.restarts), world.target.scalings) == (1, [])


def test_what_was_learnt_on_another_target_does_not_count(world: Any) -> None:
    """Another service's restarts say nothing of this one's."""
    remember(world, "scale", "not_healed", 6, target="http:elsewhere")
    remember(world, "restart", "healed", 6, target="http:elsewhere")
    degrade(world)
    assert world.target.scalings == [3]


def test_an_action_remembers_what_was_diagnosed(world: Any) -> None:
    """So that the next plan can learn from it."""
    degrade(world)
    (action,) = world.actions()
    assert (action.strategy, action.failure_class, action.pattern) == ("scale", "degradation", "unknown")
