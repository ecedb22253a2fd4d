"""When it began: walking back from the alert, because alerts fire late.

A rule needs its window, its `for` and a round of evaluation, so half of the failure may lie before the alert.
Counted as "before", it would hide itself: the baseline would already be ill. So whatever is abnormal at the
alert is followed back for as long as it stays so, and the baseline ends there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from self_healing_fabric.diagnosis.shifts import (
    CLEAR,
    Baseline,
    FloatArray,
    Shifts,
    baseline_of,
    deviations_of,
    quantiles,
    shifts_of,
)
from self_healing_fabric.diagnosis.windows import Window

LOOK_BACK = 600.0  # seconds before the alert that may already be ill
SEEN_BEFORE = 120.0  # seconds before the alert that its rule has seen: the failure shows there, or after it
LEAST_LOOK_BACK = 3  # samples, for series that are sampled every few minutes
LARGEST_LOOK_BACK = 0.5  # of the history: the rest must remain to know what is normal
ABNORMAL = 6.0  # deviations
PART_OF_LEVEL = 0.25  # of the rise at the alert: below it the sample counts as before the onset
MISSES = 2  # samples that may be calm in between
FOLLOWED = 20  # series: the farthest ones; more only add noise
LEAST_WINDOW = 2  # samples of the failure; with fewer a single one would decide
ALERTED = 1.0  # deviations of a series that alerted: that it is abnormal is known already
RECENT = 3  # samples before the look-back: what is there already did not begin with the alert
HALF = 0.5
STARTED = 4.0  # deviations, twice in a row: then a single series has started


@dataclass(frozen=True)
class Onset:
    """Index of the first ill sample, and how far before the alert it lies in seconds."""

    index: int
    before_alert: float


def find_onset(window: Window, alerted_at: float, alerting: Sequence[int] = ()) -> Onset:
    """Follow what is abnormal after the alert back to where it began.

    Followed are the series that alerted (`alerting`, rows of the window), for theirs is the failure whose
    start is sought; where they are not known or did not shift, the 20 farthest.

    f(t) is the mean over the followed series of how much of the later shift a sample shows, from 0 to 1. The
    walk goes back from the alert while f(t) >= base + 0.25 (level - base), base being the median of f before
    the look-back and level its median after the alert; two samples below it are allowed.
    """
    at = int(np.searchsorted(window.times, alerted_at, side="left"))
    # A rule fires on what it has seen for a while, so the samples just before the alert are ill too: whoever
    # asks at once still has these.
    if len(window.times) and alerted_at - window.times[-1] <= LEAST_WINDOW * window.step:
        at = max(0, min(at, len(window.times) - LEAST_WINDOW))
    earliest = _earliest(window, at)
    if at >= len(window.times) or earliest >= at:  # nothing after the alert, or nothing before it
        return Onset(at, 0.0)
    baseline = baseline_of(window.values[:, :earliest], window.kinds)
    seen_from = max(earliest, min(at - LEAST_LOOK_BACK, _before(window, at, SEEN_BEFORE)))
    after, before = (
        shifts_of(window.values[:, part], baseline, window.kinds)
        for part in (slice(at, None), slice(seen_from, at))
    )
    # What ended with the alert hardly shows after it; what goes on shows in both, and clearer afterwards.
    around = before if _strength(before) > _strength(after) else after
    rows = _followed(window.values[:, :earliest], baseline, around, alerting)
    onset = _walk_back(
        window.values[rows], baseline.median[rows], around.delta[rows], earliest, at, seen_from
    )
    return Onset(onset, float(max(0.0, alerted_at - window.times[onset])) if onset < at else 0.0)


def _followed(
    history: FloatArray, baseline: Baseline, later: Shifts, alerting: Sequence[int]
) -> npt.NDArray[np.intp]:
    """The series that alerted, where they shifted; else the farthest that were not so long before."""
    own = [row for row in alerting if abs(later.deviations[row]) > ALERTED]
    if own:
        return np.array(own, dtype=np.intp)
    far = np.argsort(-np.abs(later.deviations), kind="stable")[:FOLLOWED]
    new = (np.abs(later.deviations) > ABNORMAL) & (already_so(history, baseline, later) < HALF)
    return far[new[far]]


def _strength(shifts: Shifts) -> float:
    """How much is abnormal: the bits of the farthest series, of as many as are followed."""
    return float(np.sum(np.sort(shifts.bits)[-FOLLOWED:]))


def _walk_back(
    values: FloatArray, median: FloatArray, delta: FloatArray, earliest: int, at: int, seen_from: int
) -> int:
    """The first sample of the unbroken rise that leads to `at`; `at` itself where there is none."""
    known = np.isfinite(values)
    seen = np.any(known, axis=0)
    if not np.any(seen[at:]) or not np.any(seen[:earliest]):
        return at
    share = np.sum(np.where(known, _shown(values, median, delta), 0.0), axis=0)
    share = share / np.maximum(np.sum(known, axis=0), 1)
    level, base = np.median(share[at:][seen[at:]]), np.median(share[:earliest][seen[:earliest]])
    if np.any(seen[seen_from:at]):
        level = max(level, np.median(share[seen_from:at][seen[seen_from:at]]))
    onset, misses = at, 0
    for index in np.flatnonzero(seen[earliest:at])[::-1] + earliest:  # a gap is neither ill nor well
        if level > base and share[index] >= base + PART_OF_LEVEL * (level - base):
            onset, misses = int(index), 0
            continue
        misses += 1
        if misses > MISSES:
            break
    return onset


def already_so(history: FloatArray, baseline: Baseline, shifts: Shifts) -> FloatArray:
    """How much of each series' shift was there already in the last samples of the history, from 0 to 1.

    A level that changed an hour ago is no trace of what alerts now. 0 for a series that has moved on clearly
    since then: a leak is always preceded by a little less of itself.
    """
    recent = history[:, -RECENT:]
    (middle,) = quantiles(recent, (0.5,))
    moved = np.abs(deviations_of(np.nan_to_num(shifts.now - middle), baseline)) > CLEAR
    return np.where(moved, 0.0, _shown(middle[:, None], baseline.median, shifts.delta)[:, 0])


def _shown(values: FloatArray, median: FloatArray, delta: FloatArray) -> FloatArray:
    """Which part of the shift `delta` each value shows, from 0 to 1; 0 where nothing is known."""
    with np.errstate(divide="ignore", invalid="ignore"):
        shown = (values - median[:, None]) / delta[:, None]
    return np.clip(np.nan_to_num(shown, posinf=0.0, neginf=0.0), 0.0, 1.0)


def _earliest(window: Window, at: int) -> int:
    """The first sample that may be ill: 10 min before the alert, or 3 samples, but at most half the
    history."""
    wanted = min(_before(window, at, LOOK_BACK), at - LEAST_LOOK_BACK)
    return max(wanted, int(np.ceil(at * LARGEST_LOOK_BACK)), 0)


def _before(window: Window, at: int, seconds: float) -> int:
    """The first sample that is at most so much older than sample `at`."""
    return int(np.searchsorted(window.times, window.times[min(at, len(window.times) - 1)] - seconds))


def first_shifts(window: Window, onset: int, rows: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
    """When each of the series first left its baseline for two samples in a row; NaN where it did not.

    Looks from three samples before the onset on: the onset is that of the failure as a whole.
    """
    start = max(0, onset - LEAST_LOOK_BACK)
    found = np.full(len(rows), np.nan)
    if len(window.times) - start < 2:
        return found
    kinds = tuple(window.kinds[row] for row in rows)
    baseline = baseline_of(window.values[rows, :start], kinds)
    away = window.values[rows, start:] - baseline.median[:, None]
    left = np.abs(deviations_of(away, baseline)) > STARTED
    twice = left[:, :-1] & left[:, 1:]
    started = np.any(twice, axis=1)
    found[started] = window.times[start + np.argmax(twice, axis=1)[started]]
    return found
