"""One fact, and the limit that it is held against.

Diagnosis and verification must agree on what is inside a limit, to the last digit: a healer that restarts at
5.0 % and calls 5.0 % healed would go round in circles. So both use the functions of this page.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from self_healing_fabric.settings import Thresholds
from shf_queries.catalogue import DRIFT, HEARTBEAT, LATENCY_P95, Signal

PROMETHEUS = "prometheus"


@dataclass(frozen=True)
class Evidence:
    """One fact: the statement for people, and the query, value and time with which anyone can check it.

    `query` is for Prometheus, unless `source` names another witness: then it is a command for a shell. `at`
    is in seconds since 1970 (UTC). `baseline` is what was normal and `weight` how much the fact counted,
    where it was compared and counted at all.
    """

    statement: str
    query: str
    value: float
    at: float
    baseline: float | None = None
    weight: float | None = None
    source: str = PROMETHEUS

    def as_dict(self) -> dict[str, Any]:
        """The fact as JSON; without a baseline or a weight where it has none, and a source other than
        Prometheus."""
        told = {"statement": self.statement, "query": self.query, "value": self.value, "at": self.at}
        source = None if self.source == PROMETHEUS else self.source
        more = {"baseline": self.baseline, "weight": self.weight, "source": source}
        return told | {name: value for name, value in more.items() if value is not None}


@dataclass(frozen=True)
class Limit:
    """What a signal is held against: the value, and how it came about."""

    value: float
    text: str


def compared(signal: Signal, value: float, limit: Limit) -> str:
    """The sentence that says on which side of its limit a signal is, without its full stop."""
    side = "outside" if is_outside(signal, value, limit.value) else "inside"
    return f"{signal.name} is {value:.3g} ({signal.unit}), {side} its limit: {limit.text}"


def limit_of(signal: Signal, thresholds: Thresholds, baseline: float | None) -> Limit | None:
    """The limit of a signal; None when it needs a baseline and there is none."""
    if signal is HEARTBEAT:
        return Limit(1.0, "all answer")
    if signal is DRIFT:
        return Limit(0.0, "as it is wanted")
    if signal is LATENCY_P95:
        if baseline is None:
            return None
        factor, rise = thresholds.latency_factor, thresholds.latency_min_rise
        if baseline * factor < baseline + rise:
            return Limit(baseline + rise, f"{rise:g} s above the baseline of {baseline:.3g} s")
        return Limit(baseline * factor, f"{factor:g} x the baseline of {baseline:.3g} s")
    fixed = {"error_ratio": thresholds.error_ratio, "cpu": thresholds.cpu, "memory": thresholds.memory}[
        signal.name
    ]
    return Limit(fixed, f"{fixed:g}")


def is_outside(signal: Signal, value: float, limit: float) -> bool:
    """Whether a value is on the bad side of the limit; the limit itself is still good."""
    return value > limit if signal.higher_is_worse else value < limit
