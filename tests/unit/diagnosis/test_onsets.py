"""The onset lies where what is abnormal at the alert began."""

from __future__ import annotations

import numpy as np
import pytest

from self_healing_fabric.diagnosis.onsets import find_onset, first_shifts
from self_healing_fabric.diagnosis.windows import Window, window_of
from shf_queries import Series, catalogue

STEP = 15.0


def window(**starts: int) -> Window:
    """Series of 100 samples that rise tenfold for good at the given sample (100: never)."""
    made = []
    for seed, (service, start) in enumerate(starts.items()):
        values = 10 + 0.1 * np.random.default_rng(seed).normal(size=100)
        values[start:] *= 10
        labels = {"__name__": f"{catalogue.CUSTOM}cpu", "service": service}
        made.append(Series(labels, STEP * np.arange(100), values))
    return window_of(made)


@pytest.mark.parametrize("late", [0, 4, 20])
def test_the_walk_goes_back_to_where_it_began(late: int) -> None:
    """However late the alert is within ten minutes."""
    onset = find_onset(window(a=60, b=60, calm=100), STEP * (60 + late))
    assert (onset.index, onset.before_alert) == (60, STEP * late)


def test_an_earlier_burst_is_another_matter() -> None:
    """Seven calm samples lie between a burst and the onset: the walk stops there."""
    burst = window(a=60)
    burst.values[0, 50:53] = 100
    assert find_onset(burst, STEP * 64).index == 60


def test_a_gap_does_not_end_the_walk() -> None:
    """Five scrapes were lost between the onset and the alert."""
    holed = window(a=60)
    holed.values[0, 64:69] = np.nan
    assert find_onset(holed, STEP * 75).index == 60


def test_the_series_that_alerted_is_followed() -> None:
    """Others that began earlier do not move the onset of this alert."""
    both = window(a=60, b=70)
    assert find_onset(both, STEP * 80, [1]).index == 70
    assert find_onset(both, STEP * 80).index == 60


def test_what_was_so_long_before_is_not_followed() -> None:
    """A level that changed before the look-back leaves the onset to the rest."""
    assert find_onset(window(old=35, new=78), STEP * 85).index == 78


def test_nothing_abnormal_leaves_the_alert_as_the_onset() -> None:
    """No walk through noise."""
    assert find_onset(window(a=100, b=100), STEP * 80) == find_onset(window(a=100), STEP * 80)
    assert find_onset(window(a=100), STEP * 80).index == 80


def test_at_the_end_of_the_samples_two_remain() -> None:
    """Asked before a sample after the alert exists, the last two are looked at."""
    assert find_onset(window(a=100), STEP * 101).index == 98


def test_samples_that_ended_before_the_alert_say_nothing_of_it() -> None:
    """The last two of a history that stopped minutes ago are not the failure."""
    assert find_onset(window(a=100), STEP * 105).index == 100


def test_each_series_has_its_own_start() -> None:
    """The first of two samples in a row outside; NaN for a series that stays."""
    found = first_shifts(window(a=60, b=62, calm=100), 60, np.arange(3))
    assert found[:2].tolist() == [STEP * 60, STEP * 62]
    assert np.isnan(found[2])


def test_a_failure_that_ends_with_the_alert_is_followed_back() -> None:
    """Three ill samples, and calm ones from the alert on: the rule fired on what it had seen before."""
    short = window(a=60, calm=100)
    short.values[0, 64:] = short.values[0, :36]
    assert find_onset(short, STEP * 64).index == 60


def test_what_goes_on_is_followed_by_what_it_shows_after_the_alert() -> None:
    """A blip in another series just before the alert does not move the onset of the failure that follows."""
    both = window(a=62, b=62, blip=100)
    both.values[2, 57:60] *= 3
    assert find_onset(both, STEP * 62).index == 62
