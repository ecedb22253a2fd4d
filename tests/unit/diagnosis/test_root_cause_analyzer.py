"""The root cause: a table of what was observed, the pattern that it supports, and how much."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from self_healing_fabric.diagnosis import Diagnosis, diagnose
from self_healing_fabric.diagnosis.calibration import Calibration
from self_healing_fabric.diagnosis.call_graph import CallGraph
from self_healing_fabric.diagnosis.evidence import Observations, lost_calls_query, worst_resource_query
from self_healing_fabric.diagnosis.localization import Claim, Localization, Suspect, localize
from self_healing_fabric.diagnosis.patterns import Pattern
from self_healing_fabric.diagnosis.root_cause_analyzer import Cause, analyze, with_localization
from self_healing_fabric.diagnosis.scoring import Symptom
from self_healing_fabric.diagnosis.windows import window_of
from self_healing_fabric.incidents.evidence import Evidence
from self_healing_fabric.settings import Thresholds
from shf_queries import catalogue
from shf_queries.catalogue import CPU, MEMORY, SIGNALS

See = Callable[..., Observations]
SILENT = {"heartbeat:answered": 0.0, "up:ratio": 0.0}
CPU_PEAK, MEMORY_PEAK = worst_resource_query(CPU, "cart"), worst_resource_query(MEMORY, "cart")
STARTED, USUAL = catalogue.start_time_of("cart"), catalogue.usual_request_rate_of("cart")
LOST, DB_STARTED = lost_calls_query("cart", "db"), catalogue.start_time_of("db")
RULED_OUT = {CPU_PEAK: 0.1, MEMORY_PEAK: 0.1, USUAL: 10.0}
NORMAL_LOAD = {"requests:rate": 10.0}

TABLE: list[tuple[str, dict[str, Any], str, str, float]] = [
    ("CPU over its limit", {"queries": {CPU_PEAK: 0.91}}, "resource_exhaustion", "cart", 0.8),
    ("memory over its limit", {"queries": {MEMORY_PEAK: 0.96}}, "resource_exhaustion", "cart", 0.9),
    ("both", {"queries": {CPU_PEAK: 0.91, MEMORY_PEAK: 0.96}}, "resource_exhaustion", "cart", 0.98),
    ("CPU nearly at its limit", {"queries": {CPU_PEAK: 0.9}}, "resource_exhaustion", "cart", 0.3),
    ("dependency silent", {"db": {"heartbeat:answered": 0}}, "dependency_failure", "db", 0.8),
    ("dependency fails", {"db": {"errors:ratio": 0.5}}, "dependency_failure", "db", 0.7),
    ("dependency silent for a moment", {"db": {"up:ratio": 0.0}}, "dependency_failure", "db", 0.8),
    ("dependency began to fail", {"db": {"errors:ratio_short": 0.5}}, "dependency_failure", "db", 0.7),
    (
        "dependency slow",
        {"db": {"latency:p95_seconds": 9, "latency:p95_seconds_baseline": 1}},
        "dependency_failure",
        "db",
        0.6,
    ),
    (
        "calls to a dependency that answers are lost",
        {"db": {"heartbeat:answered": 1}, "queries": {LOST: 0.9, DB_STARTED: 100}},
        "network_issue",
        "db",
        0.6,
    ),
    (
        "the same without a start time",
        {"db": {"heartbeat:answered": 1}, "queries": {LOST: 0.051}},
        "network_issue",
        "db",
        0.6,
    ),
    (
        "calls to a silent dependency are lost",
        {"db": {"heartbeat:answered": 0}, "queries": {LOST: 0.9}},
        "dependency_failure",
        "db",
        0.8,
    ),
    (
        "twice the load",
        {"signals": {"requests:rate": 20}, "queries": {USUAL: 10}},
        "service_overload",
        "cart",
        0.6,
    ),
    (
        "ten times",
        {"signals": {"requests:rate": 100}, "queries": {USUAL: 10}},
        "service_overload",
        "cart",
        0.8,
    ),
    ("three silent", {"signals": SILENT, "silent": 3}, "network_issue", "cart", 1 - 0.75**3),
    ("five silent", {"signals": SILENT, "silent": 5}, "network_issue", "cart", 0.75),
    ("many silent", {"signals": SILENT, "silent": 28}, "network_issue", "cart", 0.75),
    (
        "many silent and its database among them",
        {"signals": SILENT, "silent": 28, "db": {"heartbeat:answered": 0}},
        "dependency_failure",
        "db",
        0.8,
    ),
    ("just started", {"signals": SILENT, "queries": {STARTED: 900}}, "configuration_error", "cart", 0.35),
    (
        "all else ruled out",
        {"signals": {**SILENT, **NORMAL_LOAD}, "db": {"heartbeat:answered": 1}, "queries": RULED_OUT},
        "code_bug",
        "cart",
        1 - 0.75 * 0.85**4,
    ),
]


@pytest.mark.parametrize(
    ("observed", "pattern", "service", "confidence"),
    [row[1:] for row in TABLE],
    ids=[row[0] for row in TABLE],
)
def test_the_pattern_follows_from_what_is_measured(
    see: See, observed: dict[str, Any], pattern: str, service: str, confidence: float
) -> None:
    """Each row of the table has its pattern, in its service, with its confidence and its evidence."""
    cause, _ = analyze(see(**observed), opened_at=1000.0)
    assert (cause.pattern.value, cause.service) == (pattern, service)
    assert cause.confidence == pytest.approx(confidence)
    assert all(fact.query and fact.statement for fact in cause.evidence)
    assert cause.evidence


@pytest.mark.parametrize(
    "observed",
    [
        {},
        {"signals": SILENT},
        {"queries": {CPU_PEAK: 0.5}},
        {"signals": {"requests:rate": 20}},
        {"signals": {"requests:rate": 20}, "queries": {USUAL: 0.0}},
        {"signals": SILENT, "silent": 1},
        {"signals": {"heartbeat:answered": 1}, "silent": 3},
        {"queries": {STARTED: 399}},
        {"queries": {STARTED: 1000}},
        {"db": {"heartbeat:answered": 1}, "queries": {LOST: 0.05}},
        {"db": {"heartbeat:answered": 1, "up:ratio": 0.5}},
        {"db": {"errors:ratio_short": 0.05}},
        {"db": {"heartbeat:answered": 1}, "queries": {LOST: 0.9, DB_STARTED: 401}},
        {"queries": {LOST: 0.9}},
        # The errors have stopped: code does not mend itself.
        {
            "signals": {"errors:ratio": 0.5, "errors:ratio_short": 0.0, **NORMAL_LOAD},
            "db": {"heartbeat:answered": 1},
            "queries": RULED_OUT,
        },
    ],
)
def test_too_little_evidence_is_an_unknown_cause(see: See, observed: dict[str, Any]) -> None:
    """Below the least confidence nothing is named, though the leads are kept."""
    cause, _ = analyze(see(**observed), opened_at=1000.0)
    assert (cause.pattern, cause.confidence, cause.evidence) == (Pattern.UNKNOWN, 0.0, ())


def test_a_strong_explanation_leaves_nothing_to_the_code(see: See) -> None:
    """With exhausted memory a fault of the code is no alternative."""
    seen = see({**SILENT, **NORMAL_LOAD}, queries={**RULED_OUT, MEMORY_PEAK: 0.99})
    cause, others = analyze(seen, opened_at=1000.0)
    assert cause.pattern is Pattern.RESOURCE_EXHAUSTION
    assert Pattern.CODE_BUG not in {other.pattern for other in others}


def test_alternatives_are_ranked(see: See) -> None:
    """The most likely first, each with less confidence than the one before."""
    seen = see(SILENT, db={"heartbeat:answered": 0}, silent=2, queries={CPU_PEAK: 0.95, STARTED: 950})
    cause, others = analyze(seen, opened_at=1000.0)
    ranked = [cause, *others]
    assert [each.confidence for each in ranked] == sorted((each.confidence for each in ranked), reverse=True)
    assert len(ranked) == 4


VALUES = st.floats(0, 100)
OBSERVED = st.dictionaries(
    st.sampled_from(
        [name for signal in SIGNALS.values() for name in (signal.series, signal.fresh_series)]
        + ["service:shf_latency:p95_seconds_baseline", catalogue.REQUEST_RATE]
    ),
    VALUES,
)
OTHER = st.dictionaries(
    st.sampled_from(
        [CPU_PEAK, MEMORY_PEAK, STARTED, USUAL, catalogue.silent_services(), catalogue.known_services()]
    ),
    VALUES,
)


@given(cart=OBSERVED, db=OBSERVED, other=OTHER, opened_at=VALUES)
def test_confidence_is_a_share_and_the_diagnosis_repeatable(
    cart: Mapping[str, float], db: Mapping[str, float], other: Mapping[str, float], opened_at: float
) -> None:
    """Whatever is measured: 0 <= confidence < 1, and the same facts give the same diagnosis in any order."""
    values = {catalogue.series_of(name, "cart"): value for name, value in cart.items()}
    values |= {catalogue.series_of(name, "db"): value for name, value in db.items()} | dict(other)

    def run(ordered: Mapping[str, float]) -> Any:
        seen = Observations(
            service="cart", depends_on=["db"], values=ordered, at=50.0, thresholds=Thresholds()
        )
        return diagnose(
            seen,
            localization=localize(window_of(()), Symptom("cart", "", opened_at), CallGraph()),
            calibration=Calibration(),
            alert_signals=["heartbeat"],
            opened_at=opened_at,
            severity="critical",
            tier="standard",
            dependants={},
            tiers={},
        )

    found = run(values)
    assert found.as_dict() == run(dict(reversed(values.items()))).as_dict()
    for cause in (found.cause, *found.alternatives):
        assert 0.0 <= cause.confidence < 1.0


def located(see_db: float, *, abstained: bool = False) -> Localization:
    """A localisation that names resource exhaustion in `db` with a share."""
    claim = Claim("db", "cpu", "db: cpu rose.", "cpu", "above", 0.9, "before", 0.3, 50.0, 12.0, 3.7, ())
    return replace(
        localize(window_of(()), Symptom("cart", "", 40.0), CallGraph()),
        order=("db", "cart"),
        suspects=(Suspect("db", 3.7, (claim,), ()),),
        confidence=0.9,
        pattern=Pattern.UNKNOWN if abstained else Pattern.RESOURCE_EXHAUSTION,
        shares={Pattern.RESOURCE_EXHAUSTION: see_db},
        abstained=abstained,
    )


def test_what_the_series_say_is_ranked_among_the_rules(see: See) -> None:
    """The more confident of the two is the cause, the other an alternative; the claim keeps its baseline."""
    ruled = analyze(see(queries={MEMORY_PEAK: 0.99}), opened_at=1000.0)
    assert ruled[0].confidence == pytest.approx(0.9)
    cause, others = with_localization(ruled, located(0.95))
    assert (cause.service, others) == ("db", (ruled[0],))
    assert (cause.evidence[0].baseline, cause.evidence[0].weight) == (0.3, 3.7)
    cause, others = with_localization(ruled, located(0.5))
    assert (cause, others[0].service) == (ruled[0], "db")


def test_an_unknown_cause_gives_way_to_what_the_series_say(see: See) -> None:
    """Where the rules find nothing, the series' suspect is the cause."""
    cause, others = with_localization(analyze(see({}), opened_at=1000.0), located(0.4))
    assert (cause.pattern, cause.service, others) == (Pattern.RESOURCE_EXHAUSTION, "db", ())


def test_two_views_of_one_cause_do_not_confirm_each_other(see: See) -> None:
    """The same pattern in the same service: the higher confidence, and the evidence of both."""
    ruled = Cause(Pattern.RESOURCE_EXHAUSTION, "db", 0.6, (Evidence("a", "q", 1.0, 50.0),))
    cause, others = with_localization((ruled, ()), located(0.4))
    assert (cause.confidence, len(cause.evidence), others) == (0.6, 2, ())


def test_an_abstaining_localisation_changes_nothing(see: See) -> None:
    """A lead is no cause."""
    ruled = analyze(see(queries={MEMORY_PEAK: 0.99}), opened_at=1000.0)
    assert with_localization(ruled, located(0.95, abstained=True)) == ruled


def eliminated(see: See) -> tuple[Cause, tuple[Cause, ...]]:
    """A fault of cart's code, by nothing but that all else which the rules know was ruled out."""
    seen = see({**SILENT, **NORMAL_LOAD}, db={"heartbeat:answered": 1}, queries=RULED_OUT)
    ruled = analyze(seen, opened_at=1000.0)
    assert ruled[0].by_elimination
    return ruled


def test_what_was_concluded_by_elimination_gives_way_to_what_the_series_say(see: See) -> None:
    """They name another service with 0.9, so not everything else was ruled out."""
    ruled = eliminated(see)
    cause, others = with_localization(ruled, located(0.5))
    assert (cause.service, cause.confidence) == ("db", 0.5)
    assert others[0].pattern is Pattern.CODE_BUG
    assert others[0].confidence == pytest.approx(ruled[0].confidence * (1 - 0.9))


def test_what_has_evidence_of_its_own_does_not_give_way(see: See) -> None:
    """Nor does elimination to series that name the same pattern of the same service, or none."""
    memory = analyze(see(queries={MEMORY_PEAK: 0.99}), opened_at=1000.0)
    assert with_localization(memory, located(0.5))[0].confidence == memory[0].confidence
    ruled = eliminated(see)
    assert with_localization(ruled, located(0.5, abstained=True))[0] == ruled[0]
    same = replace(
        located(0.2), order=("cart", "db"), pattern=Pattern.CODE_BUG, shares={Pattern.CODE_BUG: 0.2}
    )
    assert with_localization(ruled, same)[0].confidence == ruled[0].confidence


def test_elimination_counts_less_where_the_series_of_the_service_name_another_pattern(see: See) -> None:
    """cart's CPU rose, says a share of 0.4: the code is not all that is left."""
    ruled = eliminated(see)
    cause, others = with_localization(ruled, replace(located(0.4), order=("cart", "db")))
    assert (cause.pattern, cause.service, cause.confidence) == (Pattern.RESOURCE_EXHAUSTION, "cart", 0.4)
    assert others[0].confidence == pytest.approx(ruled[0].confidence * (1 - 0.4))


def test_what_is_doubted_by_all_is_unknown(see: See) -> None:
    """Elimination that the series doubt, and a pattern that is one of many: leads, and no cause."""
    ruled = eliminated(see)
    cause, others = with_localization(ruled, located(0.25))
    assert (cause.pattern, cause.service, cause.confidence) == (Pattern.UNKNOWN, "cart", 0.0)
    assert [each.service for each in others] == ["db", "cart"]
    told = diagnosed(see({}), located(0.25), Calibration())
    assert (told.abstained, told.lead) == (True, "db")


CAREFUL = Calibration(shift=-0.5, slope=0.8, verdicts=40)
DOUBTFUL = Calibration(shift=-2.5, slope=0.6, verdicts=40)


def diagnosed(seen: Observations, localization: Localization, calibration: Calibration) -> Diagnosis:
    """A critical alert of `cart`."""
    return diagnose(
        seen,
        localization=localization,
        calibration=calibration,
        alert_signals=["heartbeat"],
        opened_at=1000.0,
        severity="critical",
        tier="standard",
        dependants={},
        tiers={},
    )


def test_verdicts_lower_what_the_rules_say_and_keep_its_order(see: See) -> None:
    """Every cause by the same correction; the confidence before it stays readable."""
    seen = see({"errors:ratio": 0.3}, db={"heartbeat:answered": 0.0, "errors:ratio": 0.9})
    nothing = localize(window_of(()), Symptom("cart", "", 900.0), CallGraph())
    plain = diagnosed(seen, nothing, Calibration())
    doubted = diagnosed(seen, nothing, CAREFUL)
    assert doubted.cause.confidence == pytest.approx(CAREFUL.apply(plain.cause.confidence))
    assert doubted.cause.confidence < plain.cause.confidence
    assert doubted.cause.service == plain.cause.service
    assert doubted.uncalibrated == plain.uncalibrated == plain.cause.confidence
    told = doubted.as_dict()["calibration"]
    assert told == {"shift": -0.5, "slope": 0.8, "verdicts": 40, "uncalibrated": round(plain.uncalibrated, 4)}


def test_what_verdicts_doubt_too_much_is_unknown_with_its_lead(see: See) -> None:
    """Below the least confidence nothing is named, and what was found stays the first alternative."""
    seen = see({"errors:ratio": 0.3}, db={"errors:ratio": 0.9})
    nothing = localize(window_of(()), Symptom("cart", "", 900.0), CallGraph())
    assert diagnosed(seen, nothing, Calibration()).cause.service == "db"
    doubted = diagnosed(seen, nothing, DOUBTFUL)
    assert doubted.abstained
    assert (doubted.cause.service, doubted.cause.confidence) == ("cart", 0.0)
    assert doubted.alternatives[0].service == "db"


def test_verdicts_do_not_turn_a_lead_into_a_finding(see: See) -> None:
    """However often others were right: what was unknown stays so."""
    nothing = localize(window_of(()), Symptom("cart", "", 900.0), CallGraph())
    praised = diagnosed(see({"errors:ratio": 0.3}), nothing, Calibration(shift=5.0, verdicts=99))
    assert praised.abstained


def test_the_series_count_for_the_confidence_before_calibration(see: See) -> None:
    """The higher of what the rules and the series say of the service that is named."""
    found = replace(located(0.8), confidence=0.5, uncalibrated=0.8)
    assert diagnosed(see({}), found, DOUBTFUL).uncalibrated == 0.8


def test_how_sure_the_service_is_whatever_its_pattern(see: See) -> None:
    """The series are surer of `db` than of what it has; of a lead nobody is sure."""
    told = diagnosed(see({}), located(0.55), Calibration()).as_dict()
    assert (told["cause"]["service"], told["cause"]["confidence"]) == ("db", 0.55)
    assert told["service_confidence"] == 0.9
    lead = diagnosed(see({}), located(0.55, abstained=True), Calibration()).as_dict()
    assert (lead["lead"], lead["service_confidence"]) == ("db", 0.0)
