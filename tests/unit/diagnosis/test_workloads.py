"""What objects of Kubernetes say where a test has no API server: the same JSON, read without a network."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from self_healing_fabric.diagnosis.patterns import ChangeKind, Pattern
from self_healing_fabric.diagnosis.sources import Condition
from self_healing_fabric.diagnosis.sources.workloads import Workload, read

NOW = 1_800_000_000.0


def moment(ago: float) -> str:
    return datetime.fromtimestamp(NOW - ago, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def deployment(*, wanted: int = 2, ready: int = 2, **status: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "cart", "namespace": "shop", "uid": "u"},
        "spec": {"replicas": wanted},
        "status": {"readyReplicas": ready, "updatedReplicas": wanted, **status},
    }


def pod(state: Mapping[str, Any], last: Mapping[str, Any] | None = None, number: int = 0) -> dict[str, Any]:
    status = {"name": "app", "image": "cart:2", "restartCount": 4, "state": state}
    if last is not None:
        status["lastState"] = {"terminated": last}
    return {
        "metadata": {"name": f"cart-{number}", "uid": f"pod-{number}"},
        "spec": {},
        "status": {"containerStatuses": [status]},
    }


def workload(whole: Any = None, **parts: Any) -> Workload:
    lists = dict.fromkeys(("owned", "pods", "events", "autoscalers", "nodes"), ())
    fixed = {"kubectl": "kubectl -n shop", "selector": "app=cart"}
    return Workload(
        service="cart", kind="Deployment", whole=whole or deployment(), **{**lists, **fixed, **parts}
    )


LOOPING = {"waiting": {"reason": "CrashLoopBackOff"}}


def waits(reason: str, message: str = "") -> dict[str, Any]:
    return {"waiting": {"reason": reason, "message": message}}


def ended(code: int, ago: float = 30.0, reason: str = "Error") -> dict[str, Any]:
    return {"exitCode": code, "reason": reason, "finishedAt": moment(ago)}


CONTAINERS: list[tuple[str, dict[str, Any], dict[str, Any] | None, Pattern | None, float]] = [
    ("OOMKilled and looping", LOOPING, ended(137, reason="OOMKilled"), Pattern.RESOURCE_EXHAUSTION, 0.95),
    (
        "OOMKilled and running",
        {"running": {}},
        ended(137, reason="OOMKilled"),
        Pattern.RESOURCE_EXHAUSTION,
        0.95,
    ),
    ("OOMKilled long ago", {"running": {}}, ended(137, 4000, "OOMKilled"), None, 0.0),
    ("killed, nobody says why", LOOPING, ended(137), None, 0.0),
    ("exit code 1", LOOPING, ended(1), Pattern.CODE_BUG, 0.45),
    ("segmentation fault", LOOPING, ended(139), Pattern.CODE_BUG, 0.75),
    ("no such command", LOOPING, ended(127), Pattern.CONFIGURATION_ERROR, 0.8),
    ("ends at once with 0", LOOPING, ended(0), Pattern.CONFIGURATION_ERROR, 0.5),
    ("looping, nobody knows why", LOOPING, None, None, 0.0),
    ("no such image", waits("ImagePullBackOff"), None, Pattern.CONFIGURATION_ERROR, 0.85),
    ("registry away", waits("ErrImagePull", "dial tcp: i/o timeout"), None, Pattern.NETWORK_ISSUE, 0.7),
    ("no such secret", waits("CreateContainerConfigError"), None, Pattern.CONFIGURATION_ERROR, 0.9),
]


@pytest.mark.parametrize(
    ("state", "last", "pattern", "weight"),
    [row[1:] for row in CONTAINERS],
    ids=[row[0] for row in CONTAINERS],
)
def test_a_containers_state_speaks_for_a_pattern(
    state: dict[str, Any], last: dict[str, Any] | None, pattern: Pattern | None, weight: float
) -> None:
    """However many pods say the same, it is one fact with one weight."""
    facts, _ = read(workload(pods=[pod(state, last, number) for number in range(20)]), NOW)
    strongest = {}
    for fact in facts:
        strongest |= fact.supports
    likeliest = max(strongest, key=lambda each: strongest[each], default=None)
    assert (likeliest, strongest.get(likeliest, 0.0) if likeliest else 0.0) == (pattern, weight)
    assert len(facts) <= 2
    if pattern:
        assert "20 of 20 pods" in facts[1].evidence.statement


@pytest.mark.parametrize(
    ("wanted", "ready", "condition"),
    [(2, 2, Condition.WELL), (2, 1, Condition.PARTIAL), (2, 0, Condition.DOWN), (0, 0, Condition.DOWN)],
)
def test_replicas_tell_how_it_is(wanted: int, ready: int, condition: Condition) -> None:
    """Ready against wanted; nothing wanted is nothing that works."""
    (fact,), _ = read(workload(deployment(wanted=wanted, ready=ready)), NOW)
    assert (fact.condition, fact.evidence.value, fact.evidence.baseline) == (condition, ready, wanted)


@pytest.mark.parametrize(
    ("condition", "words", "pattern"),
    [
        (
            {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"},
            "does not get ahead",
            Pattern.CONFIGURATION_ERROR,
        ),
        (
            {"type": "ReplicaFailure", "status": "True", "message": "exceeded quota: pods"},
            "cannot create its pods: exceeded quota: pods.",
            Pattern.RESOURCE_EXHAUSTION,
        ),
    ],
)
def test_a_stuck_workload_says_so(condition: dict[str, Any], words: str, pattern: Pattern) -> None:
    """A rollout that exceeds its deadline, and pods that cannot be made."""
    facts, _ = read(workload(deployment(conditions=[condition])), NOW)
    assert words in facts[1].evidence.statement
    assert max(facts[1].supports, key=lambda each: facts[1].supports[each]) is pattern


def replica_set(revision: int, ago: float, image: str = "cart:1", **annotations: str) -> dict[str, Any]:
    return {
        "metadata": {
            "name": f"cart-{revision}",
            "uid": f"rs-{revision}",
            "creationTimestamp": moment(ago),
            "annotations": {"deployment.kubernetes.io/revision": str(revision)},
        },
        "spec": {
            "template": {
                "metadata": {"labels": {"pod-template-hash": str(revision)}, "annotations": annotations},
                "spec": {"containers": [{"name": "app", "image": image}]},
            }
        },
    }


def test_the_newest_revision_is_the_change() -> None:
    """By its number and not by its place; with the cause that people gave."""
    whole = deployment()
    whole["metadata"]["annotations"] = {"kubernetes.io/change-cause": "ticket\n4711"}
    owned = [replica_set(10, 60, "cart:2"), replica_set(9, 9000), replica_set(2, 90000)]
    _, (change,) = read(workload(whole, owned=owned), NOW)
    assert change.what == (
        "Deployment shop/cart was rolled out, revision 10 (app: cart:1 -> cart:2), cause given: ticket 4711"
    )
    assert (change.kind, change.at) == (ChangeKind.ROLLOUT, NOW - 60)


def test_the_first_revision_has_nothing_before_it() -> None:
    """It is told without a difference; an old one is no change at all."""
    _, (change,) = read(workload(owned=[replica_set(1, 60)]), NOW)
    assert change.what == "Deployment shop/cart was rolled out, revision 1"
    assert read(workload(owned=[replica_set(1, 3700)]), NOW)[1] == ()


@pytest.mark.parametrize(
    "times",
    [
        {"lastTimestamp": moment(5)},
        {
            "lastTimestamp": None,
            "eventTime": moment(900),
            "series": {"count": 3, "lastObservedTime": moment(5)},
        },
    ],
)
def test_events_of_both_generations_are_counted(times: dict[str, Any]) -> None:
    """Older servers keep `count`, newer ones a series."""
    event = {
        "metadata": {},
        "involvedObject": {"uid": "pod-0"},
        "reason": "FailedMount",
        "message": "no such configmap",
        "count": 3,
        **times,
    }
    facts, _ = read(workload(pods=[pod({"running": {}})], events=[event]), NOW)
    assert (facts[1].evidence.value, facts[1].evidence.at) == (3.0, NOW - 5)


@given(
    st.dictionaries(
        st.sampled_from(["reason", "message", "exitCode", "finishedAt"]), st.none() | st.integers(0, 300)
    )
)
def test_an_end_with_missing_words_is_still_read(last: dict[str, Any]) -> None:
    """Whatever a runtime leaves out or writes as null."""
    facts, _ = read(workload(pods=[pod(LOOPING, last)]), NOW)
    assert all(fact.evidence.statement for fact in facts)
