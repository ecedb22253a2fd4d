"""How often, and how surely: shares with their intervals.

A share of ten repeats is worth little without its interval. Wilson's interval (E. B. Wilson, Probable
inference, the law of succession, and statistical inference, JASA 22, 1927) stays inside 0 and 1 and holds
what it promises also when all or none of a few cases are right, where the bootstrap's shrinks to a point.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.rca.scores import calibration_error
from bench.scenarios.results import NOTHING, UNKNOWN, Result

Z = 1.959964  # 95 %, two-sided
CONFIDENT = 0.7


@dataclass(frozen=True)
class Share:
    """`right` of `total`."""

    right: int
    total: int

    @classmethod
    def of(cls, results: Sequence[Result], is_right: Callable[[Result], bool]) -> Share:
        return cls(sum(map(is_right, results)), len(results))

    @property
    def value(self) -> float:
        """NaN of nothing."""
        return self.right / self.total if self.total else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of Wilson; all of 0 to 1 of nothing."""
        if not self.total:
            return 0.0, 1.0
        n, p = self.total, self.value
        middle = (p + Z * Z / (2 * n)) / (1 + Z * Z / n)
        half = Z / (1 + Z * Z / n) * math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n))
        return max(0.0, middle - half), min(1.0, middle + half)

    def __str__(self) -> str:
        if not self.total:
            return "-"
        low, high = self.interval
        return f"{self.value:.2f} [{low:.2f}, {high:.2f}]"


def faulty(results: Sequence[Result]) -> list[Result]:
    """The repeats in which something was broken."""
    return [result for result in results if result.services]


def quiet(results: Sequence[Result]) -> list[Result]:
    """The windows in which nothing was."""
    return [result for result in results if not result.services]


def is_alarmed(result: Result) -> bool:
    """Whether any incident of a quiet window was diagnosed with confidence."""
    return any(told.confidence >= CONFIDENT for told in result.told)


def confusion(results: Sequence[Result], of: str) -> dict[str, Counter[str]]:
    """By label, how often what was told instead or rightly; `of` is `pattern` or `failure_class`."""
    table: dict[str, Counter[str]] = {}
    for result in results:
        named = getattr(result.first, of) if result.first else NOTHING
        table.setdefault(getattr(result, of), Counter())[named] += 1
    return table


def expected_calibration_error(results: Sequence[Result]) -> float:
    """Of the confidence that this pattern in this service is the cause, over all that were diagnosed."""
    told = [(result.first.confidence, result.right_cause) for result in results if result.first]
    return calibration_error([confidence for confidence, _ in told], [right for _, right in told])


def answered(results: Sequence[Result]) -> Share:
    """How many of them have a cause named."""
    return Share.of(results, lambda one: one.first is not None and one.first.pattern != UNKNOWN)


def sure_and_right(results: Sequence[Result]) -> Share:
    """Of those told with confidence, how many name the cause."""
    sure = [one for one in results if one.first is not None and one.first.confidence >= CONFIDENT]
    return Share.of(sure, lambda one: one.right_cause)
