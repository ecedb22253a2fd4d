"""The confidence: what raises it, what lowers it, and what verdicts may do to it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from self_healing_fabric.diagnosis.calibration import (
    HIGHEST,
    Calibration,
    Judged,
    Support,
    raw_confidence,
    refit,
)

SUPPORT = Support(score=4.0, lead=0.4, quiet=2.0, alert_seen=None, history=60)


@pytest.mark.parametrize(
    "changes",
    [
        {"score": 3.0, "quiet": 1.4},
        {"lead": 0.1},
        {"quiet": 3.5},
        {"quiet": None},
        {"alert_seen": False},
        {"history": 5},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_less_support_is_less_confidence(changes: dict[str, float]) -> None:
    """Each part of the support counts by itself."""
    assert raw_confidence(replace(SUPPORT, **changes)) < raw_confidence(SUPPORT)


def test_an_alert_that_is_seen_is_more_confidence() -> None:
    """The series that alerted shifted: then there is something to explain."""
    assert raw_confidence(replace(SUPPORT, alert_seen=True)) > raw_confidence(SUPPORT)


def test_metrics_alone_are_never_certain() -> None:
    """The highest confidence has a bound, and without history there is none at all."""
    assert raw_confidence(replace(SUPPORT, score=1e9, lead=1.0, quiet=0.0)) == HIGHEST < 1
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
