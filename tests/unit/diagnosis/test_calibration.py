"""The confidence: what raises it, what lowers it, and what verdicts may do to it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from self_healing_fabric.diagnosis.calibration import (
    HIGHEST,
    INTERCEPT,
    Calibration,
    Judged,
    Support,
    raw_confidence,
    refit,
)

SUPPORT = Support(
    score=4.0, second=2.4, agreeing=1.0, quiet=(0.6, 2.0), explains=0.5, alert_seen=None, history=60
)


@pytest.mark.parametrize(
    "changes",
    [
        {"score": 3.0, "second": 1.8},
        {"second": 3.6},
        {"second": None},
        {"agreeing": 0.0},
        {"quiet": (0.6, 4.5)},
        {"quiet": (0.6,)},
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
    ("quiet", "unusual"), [((), 1.0), ((1.0,) * 3, 0.25), ((1.0, 4.0, 9.0), 0.75), ((1.0,) * 12, 1 / 13)]
)
def test_how_unusual_a_score_is_depends_on_how_many_windows_it_was_compared_with(
    quiet: tuple[float, ...], unusual: float
) -> None:
    """One more than the windows that score as high, of one more than all: a few windows prove little."""
    assert replace(SUPPORT, quiet=quiet).unusual == pytest.approx(unusual)


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
