"""How often a cause named with such evidence is the right one: a probability, not a score.

The score of the best service says little by itself: on one system 3 bits are a finding, on another the noise
of any quiet hour. So the confidence looks at four things: the score, its lead over the second, how it
compares with the best score on quiet windows of the same history, and whether the alert can be seen in the
series at all.

    logit c = -5.8 + 2 log2(1 + score) + 2.5 lead + 1.5 log2((score + 1) / (quiet + 1))
              + 1.2 [alert seen] - 1.5 [alert not seen]

The weights began as a ridge regression on the first half of the visible cases of three public systems and
their quiet windows, 30 cases, and were then set by hand so that quiet windows stay below 0.7 and cases with
little evidence below 0.3. Such weights do not transfer well from one system to another
(Guo et al., On Calibration of Modern Neural Networks, ICML 2017, fit on the system itself), so people's
verdicts correct them: `refit` shifts and flattens, and never makes it surer of itself than it was built to
be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

INTERCEPT = -5.8
OF_SCORE = 2.0
OF_LEAD = 2.5
OF_QUIET = 1.5
OF_ALERT = {True: 1.2, False: -1.5, None: 0.0}
HIGHEST = 0.95  # nothing is certain that metrics alone say
LOWEST = 0.01
SHORT_HISTORY = 10  # samples before the onset: with n fewer the confidence is n/10 of itself
SHIFT_SPREAD = 1.2  # prior of the shift: normal around 0
SLOPE_SPREAD = 0.5  # prior of the slope: normal around 1
SLOPES = np.linspace(0.05, 1.0, 20)  # at most 1: verdicts may flatten, never sharpen
ROUNDS = 30  # of Newton's method; it converges in five


@dataclass(frozen=True)
class Support:
    """What the confidence of the best service is computed from.

    `quiet` is the best score on quiet windows, None when there was not enough history; `alert_seen` is None
    when the series that alerted is not known.
    """

    score: float
    lead: float
    quiet: float | None
    alert_seen: bool | None
    history: int


def raw_confidence(support: Support) -> float:
    """The probability before any verdict was given; the formula is that of the module."""
    quiet = support.score if support.quiet is None else support.quiet  # not compared: no credit for it
    logit = (
        INTERCEPT
        + OF_SCORE * np.log2(1.0 + support.score)
        + OF_LEAD * support.lead
        + OF_QUIET * np.log2((support.score + 1.0) / (quiet + 1.0))
        + OF_ALERT[support.alert_seen]
    )
    known = min(1.0, support.history / SHORT_HISTORY)
    return float(np.clip(known / (1.0 + np.exp(-logit)), 0.0, HIGHEST))


@dataclass(frozen=True)
class Judged:
    """One confidence that was given and whether the cause was right; heals that were verified weigh less."""

    confidence: float
    right: bool
    weight: float = 1.0


@dataclass(frozen=True)
class Calibration:
    """logit c' = shift + slope x logit c, with 0 < slope <= 1, learned from `verdicts` of one system."""

    shift: float = 0.0
    slope: float = 1.0
    verdicts: int = 0

    def as_dict(self) -> dict[str, float | int]:
        """What was learned, as JSON."""
        return {"shift": round(self.shift, 4), "slope": round(self.slope, 4), "verdicts": self.verdicts}

    def apply(self, confidence: float) -> float:
        """The confidence after what people said of earlier ones."""
        if self.verdicts == 0:
            return confidence
        return float(np.clip(_sigmoid(self.shift + self.slope * _logit(confidence)), 0.0, HIGHEST))


def refit(verdicts: Sequence[Judged]) -> Calibration:
    """Fit shift and slope to verdicts: Platt scaling (1999) with normal priors that keep few verdicts
    harmless.

    Maximises sum of w log p(right) - shift^2 / (2 x 1.2^2) - (slope - 1)^2 / (2 x 0.5^2), over slopes of at
    most 1.
    """
    if not verdicts:
        return Calibration()
    logits = np.array([float(_logit(verdict.confidence)) for verdict in verdicts])
    right = np.array([verdict.right for verdict in verdicts], dtype=float)
    weight = np.array([verdict.weight for verdict in verdicts])
    fits = [(_fit_shift(logits, right, weight, slope), float(slope)) for slope in SLOPES]
    (loss_and_shift, slope) = min(fits, key=lambda fit: (fit[0][0] + _prior(fit[1]), -fit[1]))
    return Calibration(loss_and_shift[1], slope, len(verdicts))


def _prior(slope: float) -> float:
    return (slope - 1.0) ** 2 / (2 * SLOPE_SPREAD**2)


def _fit_shift(
    logits: np.ndarray, right: np.ndarray, weight: np.ndarray, slope: float
) -> tuple[float, float]:
    """The least loss with this slope, and the shift that has it (Newton's method)."""
    shift = 0.0
    for _ in range(ROUNDS):
        p = _sigmoid(shift + slope * logits)
        gradient = float(np.sum(weight * (p - right))) + shift / SHIFT_SPREAD**2
        shift -= gradient / (float(np.sum(weight * p * (1 - p))) + 1 / SHIFT_SPREAD**2)
    p = np.clip(_sigmoid(shift + slope * logits), 1e-12, 1 - 1e-12)
    loss = -float(np.sum(weight * (right * np.log(p) + (1 - right) * np.log(1 - p))))
    return loss + shift**2 / (2 * SHIFT_SPREAD**2), shift


def _sigmoid(x: np.ndarray | float) -> np.ndarray:
    return np.asarray(1.0 / (1.0 + np.exp(-np.asarray(x, dtype=float))))


def _logit(confidence: float) -> float:
    bounded = min(max(confidence, LOWEST), 1.0 - LOWEST)
    return float(np.log(bounded / (1.0 - bounded)))
