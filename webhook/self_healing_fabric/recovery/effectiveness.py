"""What has worked before: of the verified attempts of a strategy on a target, how many healed.

A few attempts say little, so a rate is never used alone but with the interval in which the true one lies. One
strategy is put before another only when their intervals do not touch: until then the configured order stands.
That is also how a strategy is demoted that used to work: only the newest attempts count.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

NEWEST = 20  # attempts of one strategy that count; what worked a year ago may not work any more
ENOUGH = 5  # attempts with one pattern, from which on those with other patterns are left out
Z = 1.645  # of the normal distribution: 90 % of the intervals hold the true rate

COUNTED = ("healed", "not_healed", "relapsed")  # `no_evidence` says nothing of the strategy


@dataclass(frozen=True)
class Attempt:
    """A verified attempt: the strategy, the diagnosed pattern, and the verdict."""

    strategy: str
    pattern: str | None
    verdict: str


@dataclass(frozen=True)
class Record:
    """How often a strategy was tried and how often it healed, newest attempts only."""

    tried: int = 0
    healed: int = 0

    @property
    def lower(self) -> float:
        """The lower end of the interval for the success rate, 0 to 1."""
        return self._interval()[0]

    @property
    def upper(self) -> float:
        """Its upper end."""
        return self._interval()[1]

    def __str__(self) -> str:
        return f"healed {self.healed} of {self.tried} times (rate at least {self.lower:.2f})"

    def _interval(self) -> tuple[float, float]:
        """Score interval of a binomial proportion (E. B. Wilson, "Probable Inference, the Law of Succession,
        and Statistical Inference", Journal of the American Statistical Association 22, 1927)."""
        if not self.tried:
            return 0.0, 1.0
        n, p = self.tried, self.healed / self.tried
        spread = Z * math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n))
        middle, scale = p + Z * Z / (2 * n), 1 + Z * Z / n
        return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)


def records_of(attempts: Iterable[Attempt], pattern: str | None) -> Mapping[str, Record]:
    """The record of each strategy, for incidents of one target and failure class.

    Args:
        attempts: of that target and class, newest first.
        pattern: the diagnosed one; attempts with it count alone when there are enough of them.
    """
    by_strategy: dict[str, list[Attempt]] = {}
    for attempt in attempts:
        if attempt.verdict in COUNTED:
            by_strategy.setdefault(attempt.strategy, []).append(attempt)
    found = {}
    for strategy, all_of_it in by_strategy.items():
        alike = [each for each in all_of_it if each.pattern == pattern]
        newest = (alike if len(alike) >= ENOUGH else all_of_it)[:NEWEST]
        found[strategy] = Record(len(newest), sum(each.verdict == "healed" for each in newest))
    return found


def ordered(strategies: Sequence[str], records: Mapping[str, Record]) -> tuple[str, ...]:
    """The strategies, with one that certainly works better put before one that stood before it."""
    found: list[str] = []
    for strategy in strategies:
        better = records.get(strategy, Record())
        place = len(found)
        while place and better.lower > records.get(found[place - 1], Record()).upper:
            place -= 1
        found.insert(place, strategy)
    return tuple(found)
