"""How often a cause named with such evidence is the right one: a probability, not a score.

The score of the best service says little by itself: on one system 3 bits are a finding, on another the noise
of any quiet hour. So the confidence is a logistic regression on what a person would also ask:

    logit c = INTERCEPT + sum of weight x term

- strength: log2(1 + score), how far the best service's series moved,
- lead: (score - second) / score, how much less the best rival explains; who calls the first and shows no
  more than symptoms is no rival,
- agreement: log2(1 + bits of its second family of series), whether more than one kind of series says so,
- explains: which part of the alert's volume it accounts for, 0 for the alerting service itself,
- unseen: that the series which alerted did not move,
- surprise: -ln max(p, 0.002), p being the chance that a quiet window of the same history holds as much.

For p the terms strength, lead, agreement and explains, added up with their weights, are the evidence of a
window; `unseen` is left out, because whatever alerts has moved. Quiet windows of the history are measured
alike, and p is how likely a further one reaches what the alert's holds, by Student's prediction of one more
normal observation (Geisser, Predictive Inference, 1993). The rank alone, a conformal p-value (Vovk, Gammerman
and Shafer, Algorithmic Learning in a Random World, 2005), assumes nothing, but of n windows it is never below
1 / (n + 1), and an hour seldom holds the 19 that 0.05 takes. That something is far above few windows that
are all alike, the distance shows; below 0.002 the tail of a normal distribution is not trusted either.

Where p is above 0.05, noise as this history holds it alarms too often to be believed: the confidence is held
below 0.7, whatever else speaks for it. So of windows in which nothing happened at most one in twenty is told
with 0.7, as far as they are like those before them. Verdicts do not lift that: people judge what alerted, and
fifty real faults say nothing of how a window looks in which nothing happens. They correct the probability
that was computed, and what comes out is held.

The weights are fitted by `python -m bench.rca.fitting`: half of their weight have faults and fault-free
windows of systems drawn at random, half the first half of the public cases; `explains` rests mostly on
PetShop. How large and how visible faults are differs from system to system, and no weights know that
beforehand (Guo et al., On Calibration of Modern Neural Networks, ICML 2017, fit on the system itself). So
people's verdicts correct them: `refit` shifts and flattens, and never makes it surer of itself than it was
built to be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

INTERCEPT = -3.65
WEIGHTS: Mapping[str, float] = {
    "strength": 0.89,
    "lead": 1.47,
    "agreement": 0.43,
    "surprise": 0.38,
    "explains": 1.37,
    "unseen": -1.15,
}
OWN = ("strength", "lead", "agreement", "explains")  # terms: the evidence of one window by itself
UNUSUAL = 0.05  # chance of a quiet window to hold as much: up to here it is not taken for noise
LEAST_CHANCE = 0.002  # of a quiet window: smaller ones are extrapolated
HELD = 0.69  # the highest confidence in what noise may be
LEAST_SPREAD = 0.3  # of the logit, between quiet windows: those of a flat history do not differ at all
ENOUGH_WINDOWS = 19  # apart; with fewer the rank alone cannot show a chance of 0.05
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

    Attributes:
        score: of the best service, in bits.
        second: of the best rival; None where nothing else is measured.
        agreeing: bits of the second best family of its series.
        quiet: the evidence of each quiet window of the same history.
        apart: how many of these do not overlap: so much they tell.
        explains: part of the alert's volume that it accounts for, 0 for the alerting service itself.
        alert_seen: whether the series that alerted moved; None when it is not known.
        history: samples before the onset.
    """

    score: float
    second: float | None
    agreeing: float
    quiet: tuple[float, ...]
    apart: int
    explains: float
    alert_seen: bool | None
    history: int

    @property
    def evidence(self) -> float:
        """What the window holds by itself: the part of the logit that can be compared with quiet windows."""
        return float(sum(WEIGHTS[name] * value for name, value in self._own_terms.items()))

    @property
    def unusual(self) -> float:
        """The chance that a further quiet window holds as much evidence, by Student's prediction.

        P(T > (e - mean) / (sd x sqrt(1 + 1/n))) with n - 1 degrees of freedom, for n windows that do not
        overlap; sd is at least 0.3. 1 where there are fewer than two.
        """
        count = min(self.apart, len(self.quiet))
        if count < 2:
            return 1.0
        spread = max(float(np.std(self.quiet, ddof=1)), LEAST_SPREAD) * np.sqrt(1.0 + 1.0 / count)
        return student_tail((self.evidence - float(np.mean(self.quiet))) / spread, count - 1)

    @property
    def terms(self) -> dict[str, float]:
        """The terms of the regression, by the names of `WEIGHTS`."""
        return {
            **self._own_terms,
            "surprise": -float(np.log(max(self.unusual, LEAST_CHANCE))),
            "unseen": float(self.alert_seen is False),
        }

    @property
    def _own_terms(self) -> dict[str, float]:
        known = self.second is not None and self.score > 0
        return {
            "strength": float(np.log2(1.0 + self.score)),
            "lead": (self.score - (self.second or 0.0)) / self.score if known else 0.0,
            "agreement": float(np.log2(1.0 + self.agreeing)),
            "explains": self.explains,
        }

    def as_dict(self) -> dict[str, Any]:
        """Each term, and what it adds to the logit, as JSON."""
        return {
            name: {"value": round(value, 4), "adds": round(WEIGHTS[name] * value, 4)}
            for name, value in self.terms.items()
        }


def raw_confidence(support: Support) -> float:
    """The probability before any verdict was given and before it is `held`; the formula is that of the
    module."""
    logit = INTERCEPT + sum(WEIGHTS[name] * value for name, value in support.terms.items())
    known = min(1.0, support.history / SHORT_HISTORY)
    return float(np.clip(known / (1.0 + np.exp(-logit)), 0.0, HIGHEST))


def confidence_of(support: Support, calibration: Calibration) -> float:
    """The confidence that is told: corrected by verdicts, then held where it may be noise."""
    return held(calibration.apply(raw_confidence(support)), support)


def held(confidence: float, support: Support) -> float:
    """The confidence, below 0.7 where a quiet window holds as much evidence with a chance of over 0.05."""
    return confidence if support.unusual <= UNUSUAL else min(confidence, HELD)


def student_tail(t: float, degrees: int) -> float:
    """P(T > t) of Student's distribution with a whole number of degrees of freedom.

    The finite sums of Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4.
    """
    angle = np.arctan(t / np.sqrt(degrees))
    odd = degrees % 2
    power = np.cos(angle) if odd else 1.0
    total = power if degrees > 1 else 0.0
    for step in range(2 + odd, degrees, 2):
        power *= np.cos(angle) ** 2 * (step - 1) / step
        total += power
    within = np.sin(angle) * total
    return float(0.5 - 0.5 * (2.0 / np.pi * (angle + within) if odd else within))


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
