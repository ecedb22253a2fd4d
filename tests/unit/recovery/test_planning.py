"""The plan: strategies by failure class, what cannot be used left out with its reason."""

from typing import Any

import pytest

from self_healing_fabric.recovery.effectiveness import Record
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
    records: dict[str, Record] | None = None,
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
        records=records or {},
    )


@pytest.mark.parametrize(
    ("failure_class", "expected"),
    [
        ("transient", ("retry", "restart")),
        ("degradation", ("restart",)),
        ("service_failure", ("restart",)),
        ("data_corruption", ()),  # `repair`, which `cart` has no settings for
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
        "retry, because cart has no `health` endpoint and no `recovery.retry`",
        "restart, because cart has no `recovery` target",
    )
    assert str(found).startswith("Plan: nothing that may be tried. Left out: retry, because")
    assert found.why_nothing == "; ".join(found.left_out)
    assert plan("unknown").why_nothing == "no strategy is configured for it"


def test_only_what_the_platform_can_do_is_planned() -> None:
    """A workload on Kubernetes has replicas and revisions; a DaemonSet no number, an HTTP API neither."""
    workload = {"recovery": {"kubernetes": {"name": "cart"}, "scale": {"max": 3}}}
    assert plan(service=workload).strategies == ("evict", "rollback", "restart")
    assert plan("degradation", service=workload).strategies == ("scale", "restart")
    daemons = {"recovery": {**workload["recovery"], "kubernetes": {"name": "cart", "kind": "DaemonSet"}}}
    found = plan("degradation", service=daemons)
    assert found.strategies == ("restart",)
    assert found.left_out == ("scale, because a DaemonSet has one pod for each node, and no number to scale",)
    assert plan().left_out == (
        "evict, because nothing can evict cart over HTTP",
        "rollback, because nothing can rollback cart over HTTP",
    )


@pytest.mark.parametrize(("confidence", "strategies"), [(0.5, ()), (0.49, ("restart",))])
def test_a_service_that_suffers_from_another_is_left_alone(
    confidence: float, strategies: tuple[str, ...]
) -> None:
    """Restarting it would not heal its dependency; a mere suspicion does not count."""
    found = plan(cause="db", confidence=confidence)
    assert found.strategies == strategies
    assert ("db" in str(found)) is (not strategies)


BOTH = {
    "recovery": {
        "http": {"restart": "http://127.0.0.1:9/restart", "scale": "http://127.0.0.1:9/replicas"},
        "scale": {"max": 3},
    },
    "plans": {"degradation": ["scale", "restart"]},
}


def test_a_service_may_have_a_plan_of_its_own() -> None:
    """It wins over everybody's, for the classes that it names."""
    assert plan("degradation", service=BOTH).strategies == ("scale", "restart")
    assert plan("service_failure", service=BOTH).strategies == ("restart",)


def test_what_certainly_works_better_goes_first_and_the_plan_says_why() -> None:
    """Five of five against none of five: the intervals do not touch."""
    found = plan("degradation", service=BOTH, records={"scale": Record(5, 0), "restart": Record(5, 5)})
    assert found.strategies == ("restart", "scale")
    assert "restart healed 5 of 5 times (rate at least 0.65)." in str(found)
    assert "By what has worked, not in the configured order: scale, restart." in str(found)
    assert found.as_dict()["records"]["scale"] == {"tried": 5, "healed": 0, "rate_at_least": 0.0}


def test_a_few_attempts_change_nothing() -> None:
    """One of one against none of one is luck."""
    found = plan("degradation", service=BOTH, records={"scale": Record(1, 0), "restart": Record(1, 1)})
    assert found.strategies == ("scale", "restart")
