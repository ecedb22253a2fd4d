"""The failure class: a table of what was observed and what it means."""

from collections.abc import Callable, Mapping

import pytest

from self_healing_fabric.diagnosis.evidence import Observations
from self_healing_fabric.diagnosis.failure_classifier import FailureClass, classify

See = Callable[..., Observations]
ALIVE = {"heartbeat:answered": 1.0, "up:ratio": 1.0}
BASE = {"latency:p95_seconds_baseline": 0.1}

TABLE: list[tuple[str, Mapping[str, float], tuple[str, ...], str]] = [
    (
        "silent for a whole window",
        {"heartbeat:answered": 0, "up:ratio": 0},
        ("heartbeat",),
        "service_failure",
    ),
    ("silent just now", {"heartbeat:answered": 1, "up:ratio": 0}, (), "service_failure"),
    ("one of two replicas silent", {"heartbeat:answered": 1, "up:ratio": 0.5}, (), "service_failure"),
    ("silent and slow", {"heartbeat:answered": 0, "latency:p95_seconds": 9, **BASE}, (), "service_failure"),
    ("most requests fail", {**ALIVE, "errors:ratio": 0.9}, ("error_ratio",), "service_failure"),
    ("half of the requests fail", {**ALIVE, "errors:ratio": 0.5}, ("error_ratio",), "service_failure"),
    ("some requests fail", {**ALIVE, "errors:ratio": 0.49}, ("error_ratio",), "degradation"),
    ("5.1 % fail", {**ALIVE, "errors:ratio": 0.051}, ("error_ratio",), "degradation"),
    ("5.0 % fail", {**ALIVE, "errors:ratio": 0.05}, ("error_ratio",), "transient"),
    (
        "the errors have stopped",
        {**ALIVE, "errors:ratio": 0.9, "errors:ratio_short": 0.0},
        ("error_ratio",),
        "transient",
    ),
    (
        "the errors go on",
        {**ALIVE, "errors:ratio": 0.9, "errors:ratio_short": 0.9},
        ("error_ratio",),
        "service_failure",
    ),
    ("slow", {**ALIVE, "latency:p95_seconds": 0.201, **BASE}, ("latency_p95",), "degradation"),
    ("exactly twice as slow", {**ALIVE, "latency:p95_seconds": 0.2, **BASE}, ("latency_p95",), "transient"),
    ("slow without a baseline", {**ALIVE, "latency:p95_seconds": 9}, ("latency_p95",), "unknown"),
    ("CPU exhausted", {**ALIVE, "cpu:utilisation": 0.91}, ("cpu",), "degradation"),
    ("memory exhausted", {**ALIVE, "memory:utilisation": 0.96}, ("memory",), "degradation"),
    ("all calm again", {**ALIVE, "cpu:utilisation": 0.5}, ("cpu", "heartbeat"), "transient"),
    ("one of two alerts unexplained", {**ALIVE}, ("cpu", "heartbeat"), "unknown"),
    ("nothing is known", {}, ("heartbeat",), "unknown"),
    ("nothing is known and nothing alerted", {}, (), "unknown"),
    ("healthy, but the alert names no signal", {**ALIVE}, (), "unknown"),
]


@pytest.mark.parametrize(
    ("signals", "alerts", "expected"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE]
)
def test_the_class_follows_from_what_is_measured(
    see: See, signals: Mapping[str, float], alerts: tuple[str, ...], expected: str
) -> None:
    """Each row of the table has its class, and every class but unknown has its evidence."""
    found = classify(see(signals), alerts)
    assert found.failure_class.value == expected
    assert found.reason
    if expected != "unknown":
        assert found.evidence
        assert all(fact.query and fact.at == 1000.0 for fact in found.evidence)


@pytest.mark.parametrize(
    ("silent", "known", "critical"),
    [(3, 5, True), (5, 5, True), (2, 5, False), (3, 6, False), (4, 6, True), (4, 4, False), (None, 9, False)],
)
def test_more_than_half_of_five_silent_services_are_the_monitoring_path(
    see: See, silent: float | None, known: float, critical: bool
) -> None:
    """Half is not more than half, and of fewer than five services it is one or two failures."""
    found = classify(see({"heartbeat:answered": 0}, silent=silent, known=known), ("heartbeat",))
    expected = FailureClass.CRITICAL if critical else FailureClass.SERVICE_FAILURE
    assert found.failure_class is expected


def test_an_unknown_signal_explains_nothing(see: See) -> None:
    """A signal name that no catalogue knows is not calm."""
    assert classify(see(ALIVE), ("heartbeat", "strange")).failure_class is FailureClass.UNKNOWN


def test_the_same_observations_give_the_same_class(see: See) -> None:
    """The order of the alerts does not matter."""
    signals = {**ALIVE, "cpu:utilisation": 0.1, "memory:utilisation": 0.1}
    first = classify(see(signals), ("cpu", "memory", "heartbeat"))
    assert classify(see(dict(reversed(signals.items()))), ("heartbeat", "memory", "cpu")) == first
