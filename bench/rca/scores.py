"""The scores of the papers, with bootstrap intervals. The only module that reads label.json."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.rca.methods import Prediction
from self_healing_fabric.diagnosis.calibration import Judged, refit

RESAMPLES = 1000
SHUFFLES = 200
SEED = 20240101
CONFIDENT = 0.7
BINS = 10
FOLDS = 10


@dataclass(frozen=True)
class Label:
    """The truth of one case."""

    service: str
    kinds: frozenset[str]
    pattern: str
    accepted: frozenset[str]


def read_label(data: Path, case_id: str) -> Label:
    """The label of a case, its patterns in the product's words."""
    told = json.loads((data / case_id / "label.json").read_text(encoding="utf-8"))
    pattern = told["pattern"].replace(" ", "_")
    also = {name.replace(" ", "_") for name in told.get("also_accept") or ()}
    return Label(
        told["root_cause_service"],
        frozenset(told.get("root_cause_kinds") or ()),
        pattern,
        frozenset({pattern, *also}),
    )


def rank(prediction: Prediction, label: Label) -> float:
    """The place of the true service, from 1; infinite when it is not named."""
    services = prediction.services
    return services.index(label.service) + 1.0 if label.service in services else float("inf")


def accuracy_at(ranks: Sequence[float], k: int) -> float:
    """AC@k: the share of cases whose true service is among the first k."""
    return float(np.mean([place <= k for place in ranks])) if ranks else float("nan")


def average_at_5(ranks: Sequence[float]) -> float:
    """Avg@5: the mean of AC@1 to AC@5."""
    return float(np.mean([accuracy_at(ranks, k) for k in range(1, 6)]))


def interval(ranks: Sequence[float], score: Callable[[Sequence[float]], float]) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval over cases (Efron 1979)."""
    generator = np.random.default_rng(SEED)
    values = np.array(ranks)
    draws = [
        score(values[generator.integers(0, len(values), len(values))].tolist()) for _ in range(RESAMPLES)
    ]
    low, high = np.quantile(draws, (0.025, 0.975))
    return float(low), float(high)


def shuffled(predictions: Sequence[Prediction], labels: Sequence[Label]) -> list[float]:
    """AC@1, AC@3 and Avg@5 against labels dealt at random among the cases of the set: what luck gives."""
    generator = np.random.default_rng(SEED)
    found = []
    for _ in range(SHUFFLES):
        order = generator.permutation(len(labels))
        ranks = [rank(one, labels[index]) for one, index in zip(predictions, order, strict=True)]
        found.append((accuracy_at(ranks, 1), accuracy_at(ranks, 3), average_at_5(ranks)))
    return np.mean(found, axis=0).tolist()


def calibration_error(confidences: Sequence[float], right: Sequence[bool]) -> float:
    """Expected calibration error in ten bins of equal width (Naeini et al., AAAI 2015)."""
    if not confidences:
        return float("nan")
    bins = np.minimum((np.array(confidences) * BINS).astype(int), BINS - 1)
    hits, sure = np.array(right, dtype=float), np.array(confidences)
    return float(
        sum(
            abs(np.mean(sure[bins == index]) - np.mean(hits[bins == index])) * np.mean(bins == index)
            for index in range(BINS)
            if np.any(bins == index)
        )
    )


def error_by_chance(confidences: Sequence[float]) -> tuple[float, float]:
    """What the calibration error of the same confidences would be if every one of them were true: mean, 95 %.

    With a dozen cases in ten bins a bin holds one or two, whose share of right ones is 0, a half or 1 and
    hardly ever what was said. So the error has a floor that only more cases lower: outcomes are drawn with
    the very probabilities that were told, 1000 times. An error below the second figure does not show that
    the confidences are wrong.
    """
    if not confidences:
        return float("nan"), float("nan")
    generator = np.random.default_rng(SEED)
    told = np.array(confidences)
    drawn = generator.random((RESAMPLES, len(told))) < told
    bins = np.minimum((told * BINS).astype(int), BINS - 1)
    within = bins[:, None] == np.arange(BINS)
    errors = np.sum(np.abs(drawn @ within.astype(float) - told @ within), axis=1) / len(told)
    return float(np.mean(errors)), float(np.quantile(errors, 0.95))


def error_after_verdicts(predictions: Sequence[Prediction], right: Sequence[bool]) -> float:
    """The calibration error when each tenth is judged with verdicts on the other nine tenths of the same
    system."""
    corrected = [0.0] * len(predictions)
    for fold in range(FOLDS):
        given = [
            Judged(one.uncalibrated, hit)
            for index, (one, hit) in enumerate(zip(predictions, right, strict=True))
            if index % FOLDS != fold
        ]
        calibration = refit(given)
        for index in range(fold, len(predictions), FOLDS):
            corrected[index] = predictions[index].corrected(calibration)
    return calibration_error(corrected, right)


@dataclass(frozen=True)
class PatternScores:
    """Accuracy of the patterns: against the label, against all that a person could defend, among the first
    two."""

    strict: float
    lenient: float
    first_two: float
    confusion: Mapping[tuple[str, str], int]


def pattern_scores(predictions: Sequence[Prediction], labels: Sequence[Label]) -> PatternScores:
    """Scores of the patterns; a prediction without any is wrong."""
    named = [[name for name, _ in one.patterns[:2]] or ["none"] for one in predictions]
    return PatternScores(
        strict=float(
            np.mean([names[0] == label.pattern for names, label in zip(named, labels, strict=True)])
        ),
        lenient=float(
            np.mean([names[0] in label.accepted for names, label in zip(named, labels, strict=True)])
        ),
        first_two=float(
            np.mean([bool(label.accepted & set(names)) for names, label in zip(named, labels, strict=True)])
        ),
        confusion=Counter((label.pattern, names[0]) for names, label in zip(named, labels, strict=True)),
    )


def metric_accuracy(predictions: Sequence[Prediction], labels: Sequence[Label]) -> float:
    """AC@1 of the series: the true service and one of the labelled kinds; NaN where no kinds are labelled."""
    hits = [
        any(one.primary_metric == f"{label.service}|{kind}" for kind in label.kinds)
        for one, label in zip(predictions, labels, strict=True)
        if label.kinds
    ]
    return float(np.mean(hits)) if hits else float("nan")
