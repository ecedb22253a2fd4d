"""What the platform, the service itself and its history add to the class, the cause and the report."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from self_healing_fabric.diagnosis import Diagnosis, diagnose
from self_healing_fabric.diagnosis.calibration import Calibration
from self_healing_fabric.diagnosis.call_graph import CallGraph
from self_healing_fabric.diagnosis.evidence import Observations
from self_healing_fabric.diagnosis.failure_classifier import FailureClass, classify
from self_healing_fabric.diagnosis.localization import localize
from self_healing_fabric.diagnosis.patterns import Change, ChangeKind, Pattern
from self_healing_fabric.diagnosis.root_cause_analyzer import analyze
from self_healing_fabric.diagnosis.scoring import Symptom
from self_healing_fabric.diagnosis.sources import Condition, Fact, Report
from self_healing_fabric.diagnosis.windows import window_of
from self_healing_fabric.incidents.evidence import Evidence
from shf_queries import catalogue
from shf_queries.catalogue import CONFIG_DRIFT, STATE_DIGESTS

See = Callable[..., Observations]
ALIVE = {"heartbeat:answered": 1.0, "up:ratio": 1.0}
SILENT = {"heartbeat:answered": 0.0, "up:ratio": 0.0}
MISSED = catalogue.missed_heartbeats_of("cart")
STARTED = catalogue.start_time_of("cart")
LEAST_DRIFT = catalogue.least_of(CONFIG_DRIFT, "cart")
LEAST_DIGESTS = catalogue.least_of(STATE_DIGESTS, "cart")
DRIFTED, DIVERGED = {"config_drift:paths": 2.0}, {"state:digests": 2.0}


def fact(
    sentence: str,
    supports: Mapping[Pattern, float] | None = None,
    *,
    service: str | None = None,
    condition: Condition | None = None,
) -> Fact:
    return Fact(Evidence(sentence, "docker inspect cart", 1.0, 990.0), supports or {}, service, condition)


def diagnosed(seen: Observations) -> Diagnosis:
    return diagnose(
        seen,
        localization=localize(window_of(()), Symptom("cart", "", 1000.0), CallGraph()),
        calibration=Calibration(),
        alert_signals=["heartbeat"],
        opened_at=1000.0,
        severity="critical",
        tier="standard",
        dependants={},
        tiers={},
    )


REFUSED = Fact(
    Evidence("cart: its health endpoint does not answer: Connection refused.", "curl cart", 0.0, 990.0),
    condition=Condition.DOWN,
    is_gone=True,
)


def test_a_process_that_is_gone_is_a_dependency_failure_for_its_failing_callers(see: See) -> None:
    """What its callers' alerts would say, told from its own end: 1 - (1 - 0.6)(1 - 0.5)."""
    seen = see(SILENT, web={"errors:ratio": 0.9}).with_report(Report((REFUSED,)))
    cause, _ = analyze(seen, opened_at=1000.0)
    assert (cause.pattern, cause.service) == (Pattern.DEPENDENCY_FAILURE, "cart")
    assert cause.confidence == pytest.approx(0.8)
    assert [evidence.source for evidence in cause.evidence] == [
        REFUSED.evidence.source,
        Evidence("", "", 0.0, 0.0).source,
    ]


@pytest.mark.parametrize(
    ("signals", "web", "facts"),
    [
        (SILENT, {"errors:ratio": 0.01}, [REFUSED]),  # nobody suffers
        (ALIVE, {"errors:ratio": 0.9}, [REFUSED]),  # it answers its heartbeats
        (SILENT, {"errors:ratio": 0.9}, [fact("it hangs", condition=Condition.DOWN)]),
        (SILENT, {"errors:ratio": 0.9}, [REFUSED, fact("killed", {Pattern.CODE_BUG: 0.6})]),
    ],
    ids=["callers are well", "heartbeats are answered", "it hangs", "its platform knows why"],
)
def test_a_process_that_is_gone_needs_callers_that_fail_and_no_better_reason(
    see: See, signals: Mapping[str, float], web: Mapping[str, float], facts: list[Fact]
) -> None:
    """What hangs or is cut off refuses nothing, and why a process ended its platform knows better."""
    seen = see(signals, web=web).with_report(Report(tuple(facts)))
    cause, others = analyze(seen, opened_at=1000.0)
    assert Pattern.DEPENDENCY_FAILURE not in {each.pattern for each in (cause, *others)}


def test_facts_combine_by_noisy_or_with_the_rules(see: See) -> None:
    """1 - (1 - 0.8)(1 - 0.5): what the engine says beside what is measured, each with its weight."""
    report = Report((fact("killed", {Pattern.DEPENDENCY_FAILURE: 0.5}, service="db"),))
    seen = see(db={"heartbeat:answered": 0}).with_report(report)
    cause, _ = analyze(seen, opened_at=1000.0)
    assert (cause.pattern, cause.service) == (Pattern.DEPENDENCY_FAILURE, "db")
    assert cause.confidence == pytest.approx(0.9)
    assert [evidence.weight for evidence in cause.evidence] == [0.8, 0.5]


def test_a_strong_witness_leaves_nothing_to_the_code(see: See) -> None:
    """A kill for memory explains the silence, so the code is no alternative."""
    report = Report((fact("killed for its memory", {Pattern.RESOURCE_EXHAUSTION: 0.95}),))
    cause, others = analyze(see(SILENT).with_report(report), opened_at=1000.0)
    assert (cause.pattern, cause.confidence) == (Pattern.RESOURCE_EXHAUSTION, pytest.approx(0.95))
    assert others == ()


def change(kind: ChangeKind, at: float) -> Change:
    return Change("cart", at, "Deployment shop/cart was changed", kind, "kubectl rollout history")


@pytest.mark.parametrize(
    ("kind", "supported"),
    [
        (ChangeKind.ROLLOUT, {Pattern.CODE_BUG: 0.35, Pattern.CONFIGURATION_ERROR: 0.35}),
        (ChangeKind.CONFIGURATION, {Pattern.CONFIGURATION_ERROR: 0.5, Pattern.CODE_BUG: 0.15}),
        (ChangeKind.SCALE, {Pattern.SERVICE_OVERLOAD: 0.2}),
        (ChangeKind.RESTART, {}),
    ],
)
def test_a_change_shortly_before_is_evidence(
    see: See, kind: ChangeKind, supported: Mapping[Pattern, float]
) -> None:
    """With its time before the incident; one after it, or long before it, is none."""
    for at, counts in ((940.0, True), (1001.0, False), (-801.0, False)):
        seen = see().with_report(Report(changes=(change(kind, at),)))
        cause, others = analyze(seen, opened_at=1000.0)
        ranked = {each.pattern: pytest.approx(each.confidence) for each in (cause, *others)}
        ranked.pop(Pattern.UNKNOWN, None)
        assert ranked == (supported if counts else {})
        told = [evidence.statement for evidence in diagnosed(seen).changes]
        expected = "cart: Deployment shop/cart was changed, 60 s before the incident."
        assert told == ([expected] if counts else [])


def test_many_rollouts_count_once_and_hide_the_start_that_they_caused(see: See) -> None:
    """The last one is told; the new process is its consequence and no evidence of its own."""
    changes = tuple(change(ChangeKind.ROLLOUT, at) for at in (700.0, 940.0, 800.0))
    seen = see(SILENT, queries={STARTED: 950.0}).with_report(Report(changes=changes))
    cause, others = analyze(seen, opened_at=1000.0)
    for each in (cause, *others):
        told = [evidence.statement for evidence in each.evidence if "changed" in evidence.statement]
        assert told == ["cart: Deployment shop/cart was changed, 60 s before the incident."]
        assert not any("had started" in evidence.statement for evidence in each.evidence)


@pytest.mark.parametrize(
    ("signals", "queries", "pattern", "confidence"),
    [
        (DRIFTED, {LEAST_DRIFT: 0.0}, Pattern.CONFIGURATION_ERROR, 0.7),
        (DRIFTED, {LEAST_DRIFT: 1.0}, Pattern.CONFIGURATION_ERROR, 0.3),
        (DRIFTED, {}, Pattern.CONFIGURATION_ERROR, 0.3),
        (DIVERGED, {LEAST_DIGESTS: 1.0}, Pattern.DATA_CORRUPTION, 0.8),
        (DIVERGED, {LEAST_DIGESTS: 2.0}, Pattern.DATA_CORRUPTION, 0.6),
        ({"config_drift:paths": 0.0, "state:digests": 1.0}, {}, Pattern.UNKNOWN, 0.0),
        (ALIVE, {MISSED: 3.0}, Pattern.NETWORK_ISSUE, 0.35),
        (ALIVE, {MISSED: 3.0, STARTED: -9000.0}, Pattern.NETWORK_ISSUE, 0.55),
        (ALIVE, {MISSED: 2.0, STARTED: -9000.0}, Pattern.UNKNOWN, 0.0),
        (SILENT, {MISSED: 1.0}, Pattern.UNKNOWN, 0.0),
    ],
)
def test_history_speaks_for_a_pattern(
    see: See, signals: Mapping[str, float], queries: Mapping[str, float], pattern: Pattern, confidence: float
) -> None:
    """What is new counts more than what is always so; a first silence is no habit."""
    cause, _ = analyze(see(signals, queries=queries), opened_at=1000.0)
    assert (cause.pattern, cause.confidence) == (pattern, pytest.approx(confidence))
    assert all(evidence.query for evidence in cause.evidence)


def test_a_restart_loop_is_no_network(see: See) -> None:
    """It misses heartbeats as well, but its process is a new one each time."""
    cause, others = analyze(see(ALIVE, queries={MISSED: 9.0, STARTED: -100.0}), opened_at=1000.0)
    assert Pattern.NETWORK_ISSUE not in {each.pattern for each in (cause, *others)}


FAILING = {**ALIVE, "errors:ratio": 0.2}
NEW = {LEAST_DRIFT: 0.0, LEAST_DIGESTS: 1.0}
OLD = {LEAST_DRIFT: 1.0, LEAST_DIGESTS: 2.0}


def test_old_divergence_is_the_class_when_it_is_what_alerts(see: See) -> None:
    """The fabric was away for an hour, or the alert was silenced: the states differ all the same."""
    for signals in (ALIVE, FAILING):
        seen = see({**signals, **DIVERGED}, queries=OLD)
        assert classify(seen, ["state_divergence"]).failure_class is FailureClass.DATA_CORRUPTION


@pytest.mark.parametrize(
    ("signals", "queries", "expected"),
    [
        ({**ALIVE, **DRIFTED}, NEW, FailureClass.CLUSTER_DRIFT),
        ({**FAILING, **DRIFTED}, NEW, FailureClass.CLUSTER_DRIFT),
        ({**ALIVE, **DIVERGED}, NEW, FailureClass.DATA_CORRUPTION),
        ({**FAILING, **DIVERGED}, NEW, FailureClass.DATA_CORRUPTION),
        ({**ALIVE, "cpu:utilisation": 0.99, **DIVERGED}, NEW, FailureClass.DATA_CORRUPTION),
        ({**ALIVE, "cpu:utilisation": 0.99, **DRIFTED}, NEW, FailureClass.DEGRADATION),
        ({**ALIVE, **DRIFTED, **DIVERGED}, NEW, FailureClass.DATA_CORRUPTION),
        ({**SILENT, **DRIFTED, **DIVERGED}, NEW, FailureClass.SERVICE_FAILURE),
        ({**FAILING, **DRIFTED, **DIVERGED}, OLD, FailureClass.DEGRADATION),
        ({**ALIVE, **DRIFTED, **DIVERGED}, OLD, FailureClass.TRANSIENT),
        ({**ALIVE, "up:ratio": 0.5}, {MISSED: 3.0}, FailureClass.TRANSIENT),
        ({**ALIVE, "up:ratio": 0.5}, {MISSED: 1.0}, FailureClass.SERVICE_FAILURE),
        (SILENT, {MISSED: 9.0}, FailureClass.SERVICE_FAILURE),
    ],
)
def test_state_and_history_make_a_class(
    see: See, signals: Mapping[str, float], queries: Mapping[str, float], expected: FailureClass
) -> None:
    """A service that does not answer is restarted first; what was always so explains no new alert."""
    found = classify(see(signals, queries=queries), ["heartbeat"])
    assert found.failure_class is expected
    assert found.evidence
    assert all(evidence.query for evidence in found.evidence)


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (Condition.DOWN, FailureClass.SERVICE_FAILURE),
        (Condition.PARTIAL, FailureClass.DEGRADATION),
        (Condition.WELL, FailureClass.UNKNOWN),
        (None, FailureClass.UNKNOWN),
    ],
)
def test_the_platform_decides_where_nothing_is_measured(
    see: See, condition: Condition | None, expected: FailureClass
) -> None:
    """Prometheus is asked first: what it measures, the platform does not overrule."""
    report = Report((fact("as it says", condition=condition),))
    assert classify(see().with_report(report), ["heartbeat"]).failure_class is expected
    measured = classify(see(ALIVE).with_report(report), ["heartbeat"])
    assert measured.failure_class is FailureClass.TRANSIENT


def test_all_that_was_seen_is_in_the_diagnosis(see: See) -> None:
    """Facts that support nothing are told too; contradictions under `against`, gaps under `missing`."""
    well = fact("cart: its health endpoint answers 200.", condition=Condition.WELL)
    report = Report((well,), (change(ChangeKind.ROLLOUT, 940.0),), ("docker: no container is called cart",))
    told: Any = diagnosed(see(SILENT).with_report(report)).as_dict()
    statements = [evidence["statement"] for evidence in told["evidence"]]
    assert statements[1:] == [
        "cart: its health endpoint answers 200.",
        "cart: Deployment shop/cart was changed, 60 s before the incident.",
    ]
    assert "cart: its health endpoint answers 200." in told["against"]
    assert "docker: no container is called cart" in told["missing"]


@pytest.mark.parametrize(
    ("weight", "service", "expected"),
    [
        (0.6, None, FailureClass.DATA_CORRUPTION),
        (0.5, None, FailureClass.DEGRADATION),
        (0.7, "db", FailureClass.DEGRADATION),  # another one's data
    ],
)
def test_data_that_a_service_itself_calls_damaged_is_its_class(
    see: See, weight: float, service: str | None, expected: FailureClass
) -> None:
    """A restart does not mend it, and may spread it."""
    said = fact("checksum mismatch", {Pattern.DATA_CORRUPTION: weight}, service=service)
    seen = see({**ALIVE, "errors:ratio": 0.3}).with_report(Report((said,)))
    found = classify(seen, ["error_ratio"])
    assert found.failure_class is expected
    assert (said.evidence in found.evidence) is (expected is FailureClass.DATA_CORRUPTION)
