"""How long everything takes: shortened for a reader who waits, or as shipped.

The shipped rules ask for minutes of evidence, and nobody watches a demo for an hour. So the demo renders
the same rules from the same templates with other durations, never by editing them, and says on the screen
which. With the shipped ones it proves the same things, slowly: the latency baseline alone needs forty
minutes before there is one.
"""

from __future__ import annotations

from dataclasses import dataclass

from self_healing_fabric.durations import format_duration
from self_healing_fabric.rules import RuleParameters

_SHOWN = (
    "scrape_interval",
    "heartbeat",
    "error_window",
    "latency_window",
    "latency_for",
    "resource_window",
    "resource_for",
    "keep_firing",
    "baseline_window",
    "baseline_offset",
)


@dataclass(frozen=True)
class Timings:
    rules: RuleParameters
    stability: float  # seconds that a repaired service must stay inside its limits; so below
    verification_deadline: float
    verification_interval: float
    cooldown: float
    fault_deadline: float  # from the fault until the demo calls it not healed
    baseline_deadline: float  # until there is a latency baseline

    def compared(self) -> list[tuple[str, str, str]]:
        """Name, value here, value as shipped: of every duration that a reader may wonder about."""
        pairs = [(name, getattr(self.rules, name), getattr(SHIPPED.rules, name)) for name in _SHOWN]
        pairs.append(("verification.stability", self.stability, SHIPPED.stability))
        return [(name, format_duration(here), format_duration(shipped)) for name, here, shipped in pairs]


SHIPPED = Timings(
    rules=RuleParameters(),
    stability=30,
    verification_deadline=180,
    verification_interval=5,
    cooldown=60,
    fault_deadline=480,
    baseline_deadline=3000,
)
SHORTENED = Timings(
    rules=RuleParameters(
        scrape_interval=1,
        heartbeat=10,
        error_window=15,
        latency_window=15,
        latency_for=5,
        resource_window=10,
        resource_for=10,
        keep_firing=15,
        baseline_window=60,
        baseline_offset=5,
    ),
    stability=5,
    verification_deadline=60,
    verification_interval=1,
    cooldown=5,
    fault_deadline=120,
    baseline_deadline=120,
)
