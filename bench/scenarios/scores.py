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


@dataclass(frozen=True)
class Sureness:
    """Confidences that were told, and whether each was right: in pattern and service, or in the service."""

    told: tuple[float, ...]
    right: tuple[bool, ...]

    @classmethod
    def of_causes(cls, results: Sequence[Result]) -> Sureness:
        """That this pattern in this service is the cause, over all that were diagnosed."""
        some = [(one.first.confidence, one.right_cause) for one in results if one.first]
        return cls(tuple(told for told, _ in some), tuple(right for _, right in some))

    @classmethod
    def of_services(cls, results: Sequence[Result]) -> Sureness:
        """That the cause lies in the service, whatever its pattern; where results hold that."""
        some = [
            (one.first.service_confidence, one.right_service)
            for one in results
            if one.first and one.first.service_confidence is not None
        ]
        return cls(tuple(told for told, _ in some), tuple(right for _, right in some))

    @property
    def error(self) -> float:
        """The expected calibration error; NaN of nothing."""
        return calibration_error(self.told, self.right)

    @property
    def sure_and_right(self) -> Share:
        """Of those told with confidence, how many are right."""
        sure = [right for told, right in zip(self.told, self.right, strict=True) if told >= CONFIDENT]
        return Share(sum(sure), len(sure))


def answered(results: Sequence[Result]) -> Share:
    """How many of them have a cause named."""
    return Share.of(results, lambda one: one.first is not None and one.first.pattern != UNKNOWN)
