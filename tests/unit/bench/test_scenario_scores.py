"""Scoring of the live scenarios: what counts as right, with which interval, and what is told of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.scenarios.faults import SCENARIOS
from bench.scenarios.plan import LONGEST_DELAY, plan, planned
from bench.scenarios.report import write_report
from bench.scenarios.results import Result, ResultFile, Told, read_results
from bench.scenarios.run import on_the_same_servers
from bench.scenarios.scores import (
    Share,
    Sureness,
    confusion,
    is_alarmed,
)
from self_healing_fabric.diagnosis import FailureClass, Pattern


def told(**changes: Any) -> Told:
    usual = {
        "service": "cart-a",
        "failure_class": "degradation",
        "pattern": "code_bug",
        "confidence": 0.8,
        "abstained": False,
        "lead": "cart-a",
        "seconds": 20.0,
    }
    return Told(**{**usual, **changes})


def result(*diagnoses: Told, **changes: Any) -> Result:
    usual = {
        "scenario": "faulty-release",
        "repeat": 1,
        "seed": 1,
        "failure_class": "degradation",
        "pattern": "code_bug",
        "services": ("cart-a",),
        "decoy": "",
        "delay": 10.0,
        "notified": 4.0,
    }
    return Result(**{**usual, **changes}, told=diagnoses, incidents=len(diagnoses))


@pytest.mark.parametrize(
    ("right", "total", "low", "high"),
    [(8, 10, 0.4902, 0.9433), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (81, 263, 0.2553, 0.3662)],
)
def test_interval_is_wilsons(right: int, total: int, low: float, high: float) -> None:
    """The last one is the worked example of Newcombe, Statistics in Medicine 17, 1998, method 3."""
    assert Share(right, total).interval == pytest.approx((low, high), abs=5e-5)


def test_nothing_has_no_share() -> None:
    """A share of no cases is told as a dash, and could be anything."""
    assert str(Share(0, 0)) == "-"
    assert Share(0, 0).interval == (0.0, 1.0)


def test_each_part_of_an_answer_is_judged_by_itself() -> None:
    """The right pattern in the wrong service is a right pattern and no right cause."""
    elsewhere = result(told(service="web-a"))
    assert (elsewhere.right_class, elsewhere.right_pattern, elsewhere.right_service) == (True, True, False)
    assert not elsewhere.right_cause
    assert result(told()).right_cause


def test_an_abstained_service_is_not_named() -> None:
    """Who abstains gets no credit for the alerting service, which is shown in place of a cause."""
    assert not result(told(pattern="unknown", confidence=0.0, abstained=True)).right_service


def test_silence_is_wrong() -> None:
    """A fault that nothing was told of is wrong in every respect and shown as such."""
    silent = result()
    assert [silent.right_class, silent.right_pattern, silent.right_service] == [False] * 3
    assert confusion([silent], "pattern") == {"code_bug": {"nothing": 1}}


def test_the_oldest_incident_is_judged() -> None:
    """A second incident that names the cause does not make up for a first that does not."""
    assert not result(told(pattern="network_issue"), told()).right_pattern


def test_calibration_is_that_of_pattern_and_service() -> None:
    """Sure and right in half of the cases at 0.8: off by 0.3."""
    some = Sureness.of_causes([result(told()), result(told(service="web-a")), result()])
    assert some.error == pytest.approx(0.3)
    assert some.sure_and_right == Share(1, 2)


def test_the_confidence_in_the_service_is_judged_by_the_service() -> None:
    """Another pattern in the right service: right in the service and wrong as a cause."""
    some = [result(told(pattern="network_issue", confidence=0.3, service_confidence=0.9))]
    services = Sureness.of_services(some)
    assert services.error == pytest.approx(0.1)
    assert services.sure_and_right == Share(1, 1)
    assert Sureness.of_causes(some).error == pytest.approx(0.3)
    report = write_report(some)
    assert "| the service | 1.00 [0.21, 1.00] | 0.90 | 0.10 |" in report


def test_results_of_older_rules_hold_no_confidence_in_the_service() -> None:
    """They are read, and nothing is told of what they do not hold."""
    old = json.loads(result(told()).as_line())
    del old["told"][0]["service_confidence"]
    (read,) = read_results([json.dumps(old)])
    assert read == result(told())
    assert Sureness.of_services([read]).told == ()
    assert "| the service |" not in write_report([read])


def test_a_quiet_window_is_alarmed_by_any_confident_diagnosis() -> None:
    """An incident without confidence is no false diagnosis; one with is, whichever it is."""
    quiet = {"services": (), "pattern": "none", "failure_class": "none"}
    assert not is_alarmed(result(**quiet))
    assert not is_alarmed(result(told(confidence=0.69), **quiet))
    assert is_alarmed(result(told(confidence=0.2), told(confidence=0.7), **quiet))


def test_results_survive_an_interruption(tmp_path: Path) -> None:
    """Lines come back as they were; one that was being written when the run ended is left out."""
    file = ResultFile(tmp_path / "results.jsonl")
    assert file.read() == []
    file.append(result(told()))
    file.append(result(repeat=2))
    with (tmp_path / "results.jsonl").open("a") as torn:
        torn.write(result(repeat=3).as_line()[:40])
    assert file.read() == [result(told()), result(repeat=2)]
    assert read_results([]) == []


def test_what_is_told_is_read_from_the_api() -> None:
    """The names are those of GET /api/v1/incidents/ID."""
    cause = {"pattern": "network_issue", "service": "stock-a", "confidence": 0.72}
    diagnosis = {"cause": cause, "failure_class": "degradation", "abstained": False, "lead": "stock-a"}
    diagnosis["service_confidence"] = 0.9
    assert Told.of_story({"diagnosis": diagnosis}, 100.0, 131.26) == told(
        service="stock-a",
        pattern="network_issue",
        confidence=0.72,
        lead="stock-a",
        seconds=31.3,
        service_confidence=0.9,
    )


def test_every_class_and_pattern_has_a_scenario() -> None:
    """All labels are words of the fabric, and none is missing; exactly one scenario is free of faults."""
    labelled = [scenario for scenario in SCENARIOS if not scenario.is_quiet]
    assert {one.failure_class for one in labelled} == {each.value for each in FailureClass} - {"unknown"}
    assert {one.pattern for one in labelled} == {each.value for each in Pattern} - {"unknown"}
    assert len(SCENARIOS) - len(labelled) == 1


def test_half_of_the_repeats_have_a_decoy_in_either_half() -> None:
    """So that neither the judging nor the development half is the easier one."""
    for scenario in SCENARIOS:
        for parity in (0, 1):
            some = [planned(scenario, repeat, 7) for repeat in range(1, 9) if repeat % 2 == parity]
            assert sum(bool(one.decoy) for one in some) == 2
            assert all(one.decoy != one.role for one in some)


def test_a_part_of_a_plan_is_that_part() -> None:
    """What a scenario does in a repeat depends on nothing but its name, the repeat and the seed."""
    whole = {(one.scenario.name, one.repeat): one for some in plan(SCENARIOS, 3, 5) for one in some}
    part = {(one.scenario.name, one.repeat): one for some in plan(SCENARIOS[2:4], 3, 5) for one in some}
    assert part.items() <= whole.items()
    assert whole != {(one.scenario.name, one.repeat): one for some in plan(SCENARIOS, 3, 6) for one in some}
    assert all(0 <= one.delay <= LONGEST_DELAY for one in whole.values())


def test_a_transient_fault_is_heard_of_after_its_end() -> None:
    """While it lasts nobody could call it transient."""
    (blip,) = [scenario for scenario in SCENARIOS if scenario.lasts is not None]
    assert all(planned(blip, repeat, 1).delay > blip.lasts for repeat in range(20))  # type: ignore[operator]


def test_a_repeat_with_an_alert_before_its_fault_is_no_case() -> None:
    """What the decoy did by itself is neither right nor wrong about the fault."""
    report = write_report([result(told()), result(told(), repeat=3, notified=-1.4)])
    assert "1 in all. 1 more are left out" in report
    assert "| 3 |" not in report


def test_the_report_tells_the_halves_and_the_false_diagnoses() -> None:
    """Even repeats judge; a wrong pattern is in the table of confusions, a false diagnosis in its own."""
    quiet = {"scenario": "fault-free", "services": (), "pattern": "none", "failure_class": "none"}
    report = write_report(
        [
            result(told()),
            result(told(pattern="network_issue"), repeat=2),
            result(told(), repeat=1, **quiet),
        ]
    )
    assert "2 scenarios, 1 to 2 repeats of each, 3 in all" in report
    judging = report.split("## Judging: even repeats")[1].split("##")[0]
    assert "| all | 1 | 1.00 [0.21, 1.00] | 0.00 [0.00, 0.79] |" in judging
    assert "| code_bug | **1** | 1 |" in report
    assert "| 1 | 1.00 [0.21, 1.00] | 1.00 [0.21, 1.00] |" in report
    assert "must not be tuned on the even repeats" in report


@pytest.mark.parametrize(("lanes", "repeats"), [(3, [1, 1, 1]), (4, [1, 1, 1]), (7, [1, 1, 1]), (8, [2, 1])])
def test_more_lanes_run_more_repeats_on_the_same_servers(lanes: int, repeats: list[int]) -> None:
    """A lane is forgotten about as often with eight as with four; what is done already costs no start."""
    whole = plan(SCENARIOS, 3, 1)
    groups = on_the_same_servers([whole[0], [], *whole[1:]], lanes)
    assert [len(group) for group in groups] == [count * len(SCENARIOS) for count in repeats]
    assert [each for group in groups for each in group] == [each for some in whole for each in some]


def test_what_may_have_no_company_takes_every_lane() -> None:
    """Seven of them on the same servers, however many lanes there are."""
    alone = [each for each in SCENARIOS if each.name == "cpu-burn"]
    assert [len(group) for group in on_the_same_servers(plan(alone, 10, 1), 8)] == [7, 3]
