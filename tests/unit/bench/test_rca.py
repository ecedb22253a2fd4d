"""The benchmark: what it may read, what it scores, and that the committed report is what it says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.rca import drawn, fitting, methods, report, scores, synthetic
from bench.rca.cases import Case, CasePrometheus, Table, read_case, read_cases
from bench.rca.methods import Prediction
from bench.rca.scores import Label
from self_healing_fabric.diagnosis.calibration import WEIGHTS, Support
from shf_queries import catalogue

DATA = Path("tests/data/rca")
SAMPLE = DATA / "nezha-ob" / "2022-08-22_0427_cartservice_network_delay"


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    """The sample."""
    return list(read_cases(DATA))


def prediction(*services: str, **more: object) -> Prediction:
    """A prediction of one case."""
    return replace(Prediction("set/case", services), **more)


LABEL = Label("cart", frozenset({"cpu"}), "code_bug", frozenset({"code_bug", "configuration_error"}))


def test_the_report_on_the_sample_is_the_committed_one(
    cases: list[Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All figures of the sample but the times, to the last digit."""
    monkeypatch.setattr(report, "BASELINES", {k: v for k, v in report.BASELINES.items() if k != "BARO"})
    monkeypatch.setattr(report, "SYNTHETIC_RUNS", 1)
    judged = report.judge(DATA, "nezha-ob", cases)
    written, _, _ = report.write_report(DATA, [("All cases", [judged])]).partition("## Time and memory")
    assert written.rstrip() == (DATA / "report.md").read_text().rstrip()


def test_the_sample_is_predicted_as_in_the_whole_report(cases: list[Case]) -> None:
    """The committed predictions of all cases hold those of the sample: the report was made by this code."""
    committed = {
        line["id"]: line
        for line in map(json.loads, Path("bench/rca/predictions.jsonl").read_text().splitlines())
    }
    for case in cases:
        told = methods.fabric(case).as_dict()
        assert {**told, "elapsed_ms": 0} == {**committed[case.id], "elapsed_ms": 0}


def test_no_method_reads_the_label(tmp_path: Path) -> None:
    """Without label.json the case is read and predicted all the same."""
    copy = tmp_path / "set" / "case"
    copy.mkdir(parents=True)
    for name in ("metrics.csv", "input.json"):
        (copy / name).write_bytes((SAMPLE / name).read_bytes())
    (copy.parent / "graph.csv").write_bytes((DATA / "nezha-ob" / "graph.csv").read_bytes())
    assert methods.fabric(read_case(copy)).services == methods.fabric(read_case(SAMPLE)).services


def test_a_case_is_served_as_prometheus_would() -> None:
    """The query of production, the labels of recorded series, no sample where the table has none."""
    table = Table(
        np.array([0.0, 60.0]), ("cart|cpu", "cart|rtt|from=web"), np.array([[1.0, np.nan], [2.0, 3.0]])
    )
    prometheus = CasePrometheus(table)
    one, edge = prometheus.range(catalogue.diagnosed(["cart"]), start=0, end=60, step=60)
    assert (one.labels["__name__"], one.values.tolist()) == ("service:shf_custom:cpu", [1.0, 2.0])
    assert (edge.labels["peer"], edge.times.tolist()) == ("web", [60.0])
    with pytest.raises(ValueError, match="answers the query of a diagnosis only"):
        prometheus.range("up", start=0, end=60, step=60)


def test_a_prediction_is_one_line_of_the_agreed_form(cases: list[Case]) -> None:
    """The keys that other judges read, services ranked, shares of patterns by their product names."""
    line = methods.fabric(cases[0]).as_dict()
    assert set(line) >= {"id", "services", "primary_metric", "root_confidence", "patterns", "elapsed_ms"}
    assert line["services"][0] == "frontend"
    assert line["primary_metric"] == "frontend|cpu"
    assert next(iter(line["patterns"])) == "resource_exhaustion"


def test_ranks_and_their_scores() -> None:
    """AC@k and Avg@5 as the papers define them; a service that is not named is never found."""
    ranks = [scores.rank(prediction(*"abcdef"), replace(LABEL, service=name)) for name in "acf?"]
    assert ranks == [1, 3, 6, float("inf")]
    assert (scores.accuracy_at(ranks, 1), scores.accuracy_at(ranks, 3)) == (0.25, 0.5)
    assert scores.average_at_5(ranks) == pytest.approx((0.25 + 0.25 + 0.5 + 0.5 + 0.5) / 5)
    low, high = scores.interval(ranks, lambda some: scores.accuracy_at(some, 3))
    assert 0 <= low < 0.5 < high <= 1


def test_patterns_are_scored_strictly_leniently_and_among_the_first_two() -> None:
    """The likeliest alone, with what a person could defend, and with the second."""
    named = [
        prediction(patterns=(("code_bug", 0.9), ("network_issue", 0.1))),
        prediction(patterns=(("configuration_error", 0.9), ("network_issue", 0.1))),
        prediction(patterns=(("unknown", 0.9), ("code_bug", 0.1))),
        prediction(),
    ]
    found = scores.pattern_scores(named, [LABEL] * 4)
    assert (found.strict, found.lenient, found.first_two) == (0.25, 0.5, 0.75)
    assert found.confusion["code_bug", "none"] == 1


def test_the_calibration_error_is_the_mean_distance_of_bins() -> None:
    """Sure and right, or as often right as said: 0; sure and wrong: the confidence."""
    assert scores.calibration_error([1.0] * 4, [True] * 4) == 0
    assert scores.calibration_error([0.5] * 4, [True, False] * 2) == 0
    assert scores.calibration_error([0.9] * 4, [False] * 4) == pytest.approx(0.9)
    sure = prediction(support=Support(9.0, 0.0, 3.0, (1.0, 1.1, 1.2), 3, 1.0, True, 60))
    assert sure.uncalibrated > 0.9
    assert scores.error_after_verdicts([sure] * 50, [False] * 50) < 0.15


def test_series_count_with_their_service_and_only_where_labelled() -> None:
    """The right kind at the wrong service is wrong."""
    named = [prediction(primary_metric=name) for name in ("cart|cpu", "cart|mem", "db|cpu", "x|y")]
    labels = [LABEL, LABEL, LABEL, replace(LABEL, kinds=frozenset())]
    assert scores.metric_accuracy(named, labels) == pytest.approx(1 / 3)


def test_baselines_rank_by_what_they_say() -> None:
    """N-sigma by the highest sample upwards, always-first by the alert."""
    values = np.vstack([np.tile([[1.0, 1.0], [2.0, 2.0]], (10, 1)), [[1.0, 9.0]]])
    table = Table(60.0 * np.arange(21), ("a|cpu", "b|cpu"), values)
    case = Case("s/c", "s", table, 1200.0, "a", "", (), ())
    assert methods.n_sigma(case).services == ("b", "a")
    assert methods.always_first(case).services == ("a", "b")


def test_evidence_removed_is_unknown(cases: list[Case]) -> None:
    """No samples after the onset, or none at all: every case abstains."""
    for case in cases:
        removed, _, nothing = report.blinded_cases(case)
        assert methods.diagnose(removed).abstained
        assert methods.diagnose(nothing).abstained


def test_quiet_windows_end_before_the_fault(cases: list[Case]) -> None:
    """No sample of a quiet window is later than three quarters of the history and its length."""
    for case in cases:
        windows = list(report.quiet_cases(case))
        assert len(windows) == len(report.QUIET_AT)
        assert all(window.table.times[-1] < case.alerted_at for window in windows)


def test_five_hundred_series_are_quick_and_the_faulty_service_is_found() -> None:
    """The fault of the synthetic case is found; its time stands in the report, since CI machines differ."""
    assert methods.fabric(report.synthetic_case()).services[0] in {"service-4", "service-5"}


def test_the_error_by_chance_is_what_true_confidences_score() -> None:
    """With ten cases it is large, with a thousand small, and certainties have none."""
    few, many = (scores.error_by_chance([0.75] * count) for count in (10, 1000))
    assert 0.05 < few[0] < few[1]
    assert many[1] < 0.05
    assert scores.error_by_chance([1.0] * 10) == (0.0, 0.0)


def test_drawn_cases_are_the_same_every_time_and_hold_their_fault() -> None:
    """By the numbers alone; a fault that names its alert shows in the series that alerted."""
    system = next(one for number in range(20) if (one := synthetic.draw_system(number)).names_alert)
    once, again = (list(synthetic.draw_cases(system, 4)) for _ in range(2))
    for one, other in zip(once, again, strict=True):
        assert (one.service, one.case.id) == (other.service, other.case.id)
        assert np.array_equal(one.case.table.values, other.case.table.values, equal_nan=True)
        assert one.service in system.services
    assert sum(synthetic.fires(one.case) for one in once) >= 3
    for window in synthetic.draw_quiet(system, 2):
        assert window.service == ""
        assert window.disturbed <= {*system.services}
        assert window.case.alerted_at in window.case.table.times


def test_of_a_window_without_a_fault_it_is_known_what_else_happened() -> None:
    """In a system that is always disturbed something happens in most of them, in a calm one nothing."""
    system = replace(synthetic.draw_system(3), restarts=0.0, warm_up=0)
    for rate, expected in ((0.0, False), (1.0, True)):
        windows = list(synthetic.draw_quiet(replace(system, disturbances=rate), 5))
        assert [bool(window.disturbed) for window in windows] == [expected] * 5


def test_of_quiet_windows_at_most_one_in_twenty_is_told_with_confidence() -> None:
    """On the drawn systems of the report, restless ones among them, 20 windows of each."""
    told = [
        methods.fabric(quiet.case).root_confidence
        for number in drawn.NUMBERS
        for quiet in synthetic.draw_quiet(synthetic.draw_system(number), 20)
    ]
    assert np.mean(np.array(told) >= scores.CONFIDENT) <= 0.05


def test_verdicts_on_a_drawn_system_correct_the_cases_after_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fifty come first and are not judged; what they teach is applied to the others."""
    for name, count in (("VERDICTS", 6), ("JUDGED", 3), ("QUIET", 2)):
        monkeypatch.setattr(drawn, name, count)
    one = drawn.measure(1000)
    assert (len(one.told), len(one.right), len(one.corrected), len(one.quiet)) == (3, 3, 3, 2)
    assert len(one.quiet_corrected) == len(one.disturbed) == 2
    assert one.quiet_corrected != one.quiet
    assert one.corrected != one.told
    rows = [line for line in drawn.write_section([one]) if line.startswith("| synthetic-1000 |")]
    assert len(rows) == 1


def test_the_weights_are_those_that_fitting_finds_where_confidence_is_true() -> None:
    """On outcomes drawn from a known logistic law the regression returns it."""
    generator = np.random.default_rng(1)
    supports = [
        Support(score, score * part, 1.0, (), 0, 0.0, None, 60)
        for score, part in zip(generator.uniform(0, 9, 4000), generator.uniform(0, 1, 4000), strict=True)
    ]
    right = [
        generator.random() < 1 / (1 + np.exp(4.0 - 2.0 * one.terms["strength"] - one.terms["lead"]))
        for one in supports
    ]
    found = fitting.fit(
        [fitting.Sample("one", False, one, bool(hit), True) for one, hit in zip(supports, right, strict=True)]
    )
    assert dict(zip(WEIGHTS, found[1:], strict=True))["lead"] == pytest.approx(1.0, abs=0.3)
    assert dict(zip(WEIGHTS, found[1:], strict=True))["strength"] == pytest.approx(2.0, abs=0.4)
