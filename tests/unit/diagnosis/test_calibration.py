"""The confidence: what raises it, what lowers it, and what verdicts may do to it."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from self_healing_fabric.diagnosis.calibration import (
    HELD,
    HIGHEST,
    INTERCEPT,
    LEAST_SPREAD,
    UNUSUAL,
    Calibration,
    Judged,
    Support,
    confidence_of,
    raw_confidence,
    refit,
    student_tail,
)

CALM = (2.0, 2.5, 3.0, 2.4, 2.2, 2.8)
SUPPORT = Support(
    score=4.0, second=2.4, agreeing=1.0, quiet=CALM, apart=6, explains=0.5, alert_seen=None, history=60
)
STRONG = replace(SUPPORT, score=40.0, second=0.0, explains=1.0)
RESTLESS = replace(STRONG, quiet=(*CALM, STRONG.evidence, STRONG.evidence))


@pytest.mark.parametrize(
    "changes",
    [
        {"score": 3.0, "second": 1.8},
        {"second": 3.6},
        {"second": None},
        {"agreeing": 0.0},
        {"quiet": (*CALM, 5.0)},
        {"apart": 2},
        {"quiet": CALM[:1]},
        {"quiet": ()},
        {"explains": 0.0},
        {"alert_seen": False},
        {"history": 5},
    ],
    ids=str,
)
def test_less_support_is_less_confidence(changes: dict[str, float]) -> None:
    """Each part of the support counts by itself."""
    assert raw_confidence(replace(SUPPORT, **changes)) < raw_confidence(SUPPORT)


@pytest.mark.parametrize(
    ("t", "degrees", "chance"),
    [
        (6.314, 1, 0.05),
        (2.920, 2, 0.05),
        (2.353, 3, 0.05),
        (3.365, 5, 0.01),
        (1.6973, 30, 0.05),
        (0.0, 7, 0.5),
        (-1.796, 11, 0.95),
        (math.inf, 4, 0.0),
    ],
)
def test_the_tail_is_that_of_students_tables(t: float, degrees: int, chance: float) -> None:
    """Percentage points as printed in every table of the distribution."""
    assert student_tail(t, degrees) == pytest.approx(chance, abs=5e-5)


def test_how_unusual_it_is_takes_the_distance_from_quiet_windows_and_their_number() -> None:
    """mean + t sd sqrt(1 + 1/n) has the chance of t; windows that overlap count as those that do not."""
    mean, sd = statistics.mean(CALM), statistics.stdev(CALM)
    far = (SUPPORT.evidence - mean) / sd
    assert SUPPORT.unusual == pytest.approx(student_tail(far / math.sqrt(1 + 1 / 6), 5))
    assert replace(SUPPORT, apart=3).unusual == pytest.approx(student_tail(far / math.sqrt(1 + 1 / 3), 2))
    flat = replace(SUPPORT, quiet=(1.0,) * 6)
    steps = (SUPPORT.evidence - 1.0) / LEAST_SPREAD
    assert flat.unusual == pytest.approx(student_tail(steps / math.sqrt(1 + 1 / 6), 5))


def test_of_windows_that_are_all_alike_one_in_twenty_is_unusual() -> None:
    """What is drawn as its quiet windows are is unusual as often as it is said to be, however few."""
    generator = np.random.default_rng(5)
    for count in (2, 4, 12):
        others, own = (
            generator.normal(0.0, 100.0, size=(4000, count)),
            generator.normal(0.0, 100.0, size=4000),
        )
        shifted = others + (SUPPORT.evidence - own)[:, None]
        unusual = [replace(SUPPORT, quiet=tuple(row), apart=count).unusual for row in shifted]
        assert np.mean(np.array(unusual) <= UNUSUAL) == pytest.approx(UNUSUAL, abs=0.015)


@given(st.floats(4, 1e6), st.floats(0, 1), st.lists(st.floats(-5, 5), max_size=1))
def test_without_two_quiet_windows_nothing_is_told_with_confidence(
    score: float, explains: float, quiet: list[float]
) -> None:
    """However strong the evidence is: a history that is so short proves nothing."""
    support = replace(SUPPORT, score=score, explains=explains, quiet=tuple(quiet), apart=len(quiet))
    assert confidence_of(support, Calibration()) <= HELD < 0.7


def test_what_noise_may_be_is_held_below_what_people_act_on() -> None:
    """The strongest of evidence, in a history where one window in four holds as much."""
    assert confidence_of(STRONG, Calibration()) > 0.9
    assert raw_confidence(RESTLESS) > 0.9
    assert confidence_of(RESTLESS, Calibration()) == HELD


def test_verdicts_do_not_lift_what_noise_may_be() -> None:
    """Fifty real faults that were named rightly say nothing of windows in which nothing happens."""
    learned = refit([Judged(0.6, right=True)] * 50)
    assert learned.apply(0.6) > 0.7
    assert confidence_of(RESTLESS, learned) == HELD


def test_verdicts_correct_what_was_computed_and_not_what_was_held() -> None:
    """Where what was computed as 0.9 is right one time in five, what was held is told as that, too."""
    learned = refit([Judged(raw_confidence(RESTLESS), number % 5 == 0) for number in range(50)])
    assert confidence_of(RESTLESS, learned) == learned.apply(raw_confidence(RESTLESS)) < 0.5


def test_how_far_beyond_quiet_windows_it_is_counts_on() -> None:
    """One window in a hundred is more than one in twenty: down to a chance of 0.002."""
    level = SUPPORT.evidence - statistics.mean(CALM)
    near, far, beyond = (
        replace(SUPPORT, quiet=tuple(each + level - above for each in CALM)) for above in (0.9, 1.2, 9.0)
    )
    assert 0.01 < far.unusual < near.unusual < UNUSUAL
    assert raw_confidence(near) < raw_confidence(far) < raw_confidence(beyond)
    assert beyond.terms["surprise"] == pytest.approx(-math.log(0.002))


def test_what_each_term_adds_is_told() -> None:
    """The terms with the intercept make the logit: anyone can recompute the confidence."""
    told = SUPPORT.as_dict()
    logit = INTERCEPT + sum(term["adds"] for term in told.values())
    assert raw_confidence(SUPPORT) == pytest.approx(1 / (1 + math.exp(-logit)), abs=1e-3)
    assert told["lead"]["value"] == pytest.approx(0.4)


def test_metrics_alone_are_never_certain() -> None:
    """The highest confidence has a bound, and without history there is none at all."""
    assert raw_confidence(replace(SUPPORT, score=1e9, second=0.0)) == HIGHEST < 1
    assert raw_confidence(replace(SUPPORT, history=0)) == 0.0


def test_without_verdicts_nothing_changes() -> None:
    """No verdict, no correction."""
    assert refit([]).apply(0.42) == 0.42


def test_verdicts_that_say_wrong_lower_the_confidence() -> None:
    """Fifty times 0.9, right one time in five: then 0.9 means about 0.2."""
    verdicts = [Judged(0.9, number % 5 == 0) for number in range(50)]
    assert refit(verdicts).apply(0.9) == pytest.approx(0.2, abs=0.08)


def test_one_verdict_decides_little() -> None:
    """A single correction moves the confidence, but not across the half."""
    assert 0.5 < refit([Judged(0.9, right=False)]).apply(0.9) < 0.9


def test_weak_verdicts_weigh_less() -> None:
    """A verified heal says less than a person."""
    person = refit([Judged(0.9, right=False)] * 5).apply(0.9)
    heal = refit([Judged(0.9, right=False, weight=0.3)] * 5).apply(0.9)
    assert person < heal < 0.9


def test_verdicts_never_sharpen() -> None:
    """Easy cases (sure ones right, doubtful ones wrong) do not make it surer than it was built to be."""
    verdicts = [Judged(0.8, right=True)] * 50 + [Judged(0.2, right=False)] * 50
    fitted = refit(verdicts)
    assert fitted.slope == 1.0
    assert fitted.apply(0.8) == pytest.approx(0.8, abs=0.02)


@given(
    st.lists(st.builds(Judged, st.floats(0, 1), st.booleans(), st.floats(0, 1)), max_size=30), st.floats(0, 1)
)
def test_a_calibrated_confidence_is_a_share_and_keeps_the_order(
    verdicts: list[Judged], confidence: float
) -> None:
    """Whatever people said: from 0 to 1, and a higher confidence stays the higher one."""
    fitted = refit(verdicts)
    assert isinstance(fitted, Calibration)
    assert 0.0 <= fitted.apply(confidence) <= 1.0
    assert fitted.apply(confidence / 2) <= fitted.apply(confidence) + 1e-9
