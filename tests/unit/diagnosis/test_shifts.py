"""Distances that survive outliers, flat series and units."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from self_healing_fabric.diagnosis.kinds import kind_of
from self_healing_fabric.diagnosis.shifts import (
    FARTHEST,
    FLAT,
    Shifts,
    baseline_of,
    bits_of,
    quantiles,
    shifts_of,
)


def shift(history: list[float], window: list[float], kind: str = "cpu") -> Shifts:
    """The shift of one series."""
    kinds = [kind_of(kind)]
    baseline = baseline_of(np.array([history], dtype=float), kinds)
    return shifts_of(np.array([window], dtype=float), baseline, kinds)


WAVERING = [10.0 + 0.5 * ((-1) ** number) for number in range(40)]


def test_quantiles_agree_with_numpy_and_leave_nan_out() -> None:
    """Interpolated linearly, per series, over the samples that there are."""
    values = np.random.default_rng(1).normal(size=(5, 30))
    values[2, ::3] = np.nan
    values[4] = np.nan
    shares = (0.05, 0.25, 0.5, 0.95)
    with np.errstate(all="ignore"):
        assert_allclose(quantiles(values[:4], shares), np.nanquantile(values[:4], shares, axis=1))
    assert np.isnan(quantiles(values, shares)[:, 4]).all()


def test_one_outlier_in_the_history_hides_nothing() -> None:
    """A spike a hundred times as high leaves centre and spread where they were."""
    clean = shift(WAVERING, [14.0] * 5).deviations[0]
    spiked = shift([*WAVERING[:-1], 1000.0], [14.0] * 5).deviations[0]
    assert spiked == pytest.approx(clean, rel=0.2)


def test_jumps_between_two_levels_are_no_outliers() -> None:
    """A series that is at its high level a tenth of the time has not shifted when it is there again."""
    history = [1.0] * 36 + [9.0] * 4
    assert abs(shift(history, [9.0] * 4).deviations[0]) < 6


def test_one_sample_decides_nothing() -> None:
    """A single spike among five samples is no shift."""
    assert abs(shift(WAVERING, [10, 10, 500, 10, 10]).deviations[0]) < 3


def test_a_flat_series_counts_any_change_alike() -> None:
    """Without any spread the unit must not decide: a change is 8 deviations."""
    assert shift([0.0] * 20, [1e-6] * 3, "frobnication").deviations[0] == FLAT
    assert shift([0.0] * 20, [1e6] * 3, "frobnication").deviations[0] == FLAT


def test_a_suspiciously_calm_series_has_a_floor() -> None:
    """1 % more of a series that never moved at all is nothing."""
    assert abs(shift([100.0] * 20, [101.0] * 3).deviations[0]) < 1


def test_availability_is_held_against_a_tenth_of_what_alerts() -> None:
    """2 % of lost requests are seen at 100 % availability and as an error ratio alike."""
    assert shift([100.0] * 40, [98.0] * 3, "availability").deviations[0] < -8
    assert shift([0.0] * 40, [0.02] * 3, "error_ratio").deviations[0] > 8


def test_another_share_moves_by_a_point_at_least() -> None:
    """CPU from 0.1 % to 1 % of a core is nothing."""
    assert abs(shift([0.001] * 40, [0.01] * 3, "cpu_utilisation").deviations[0]) < 3


def test_only_the_bad_direction_counts() -> None:
    """Latency that falls and availability that rises are no evidence; load counts both ways."""
    assert shift(WAVERING, [5.0] * 4, "latency_p95").delta[0] == 0
    assert shift([90.0, 91.0] * 20, [100.0] * 4, "availability").delta[0] == 0
    assert shift(WAVERING, [5.0] * 4, "request_rate").delta[0] == -5
    assert shift(WAVERING, [15.0] * 4, "request_rate").delta[0] == 5


def test_a_short_history_is_trusted_less_and_two_samples_not_at_all() -> None:
    """The same shift after five samples and after forty."""
    assert 0 < shift(WAVERING[:5], [14.0] * 4).deviations[0] < shift(WAVERING, [14.0] * 4).deviations[0]
    assert shift(WAVERING[:2], [14.0] * 4).deviations[0] == 0


def test_the_spread_of_a_short_history_is_wider() -> None:
    """With n samples 1 + 3/n times, whatever they are."""
    short, long = (baseline_of(np.array([[9.0, 11.0] * n]), [kind_of("cpu")]).spread[0] for n in (2, 20))
    assert short / long == pytest.approx((1 + 3 / 4) / (1 + 3 / 40))


def test_missing_samples_are_no_shift() -> None:
    """No history or no window: nothing is known."""
    assert shift([np.nan] * 20, [5.0] * 4).deviations[0] == 0
    assert shift(WAVERING, [np.nan] * 4).deviations[0] == 0


def test_bits_grow_with_the_logarithm_and_hardly_below_the_threshold() -> None:
    """3 deviations are worth nearly nothing, from there on each doubling a bit, up to a bound."""
    kinds = [kind_of("cpu")] * 4
    found = bits_of(np.array([2.0, 7.0, -15.0, FARTHEST]), kinds)
    assert_allclose(found, [0.2, 3.0, 4.0, np.log2(1 + FARTHEST)])
    assert bits_of(np.array([7.0]), [kind_of("request_rate")])[0] == pytest.approx(0.4 * 3)
