"""The plan: strategies by failure class, what cannot be used left out with its reason."""

from typing import Any

import pytest

from self_healing_fabric.recovery.planning import Plan, make_plan
from self_healing_fabric.recovery.strategies import strategies
from self_healing_fabric.settings import Settings

HTTP = {"http": {"restart": "http://127.0.0.1:9/restart"}}


def plan(
    failure_class: str = "service_failure",
    *,
    cause: str = "cart",
    confidence: float = 0.9,
    service: dict[str, Any] | None = None,
    **more: Any,
) -> Plan:
    """Plan the recovery of `cart`."""
    configured = {"health": "http://127.0.0.1:9/health", "recovery": HTTP} if service is None else service
    settings = Settings(services={"cart": configured, "db": {}}, **more)
    return make_plan(
        failure_class=failure_class,
        cause_service=cause,
        confidence=confidence,
        service="cart",
        settings=settings,
        known=strategies(settings),
    )


@pytest.mark.parametrize(
    ("failure_class", "expected"),
    [
        ("transient", ("retry", "restart")),
        ("degradation", ("restart",)),
        ("service_failure", ("restart",)),
        ("data_corruption", ()),
        ("cluster_drift", ()),
        ("critical", ()),
        ("unknown", ()),
    ],
)
def test_the_class_decides_what_is_tried(failure_class: str, expected: tuple[str, ...]) -> None:
    """What is unknown or critical is not experimented with."""
    assert plan(failure_class).strategies == expected


def test_the_configured_plan_wins() -> None:
    """A person who forbids restarts of degraded services is obeyed."""
    assert plan("degradation", plans={"degradation": ["retry"]}).strategies == ("retry",)


def test_what_cannot_be_used_is_left_out_with_its_reason() -> None:
    """Without a health endpoint there is no retry, without a target no restart."""
    found = plan("transient", service={})
    assert found.strategies == ()
    assert found.left_out == (
        "retry, because cart has no `health` endpoint",
        "restart, because cart has no `recovery` target",
    )
    assert str(found).startswith("Plan: nothing that may be tried. Left out: retry, because")


@pytest.mark.parametrize(("confidence", "strategies"), [(0.5, ()), (0.49, ("restart",))])
def test_a_service_that_suffers_from_another_is_left_alone(
    confidence: float, strategies: tuple[str, ...]
) -> None:
    """Restarting it would not heal its dependency; a mere suspicion does not count."""
    found = plan(cause="db", confidence=confidence)
    assert found.strategies == strategies
    assert ("db" in str(found)) is (not strategies)
