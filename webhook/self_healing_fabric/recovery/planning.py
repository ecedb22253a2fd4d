"""Which strategies to try, in order, and why not the others.

The plan comes from the failure class by the configured table, the service's own where it has one, and from
what is known to have worked on this target. What cannot be used on the service is left out with its reason,
and a service that only suffers from a failing dependency is not disturbed: restarting it heals nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from self_healing_fabric.recovery.effectiveness import Record, ordered
from self_healing_fabric.recovery.effects import NotApplicable, TargetUnreadable
from self_healing_fabric.recovery.strategies import Strategy
from self_healing_fabric.settings import Settings

TRUSTED_CAUSE = 0.5  # from this confidence on, a failing dependency is believed to be the cause


@dataclass(frozen=True)
class Plan:
    """The strategies in order, a reason for each that was left out, and what is known of each."""

    strategies: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    records: Mapping[str, Record] = field(default_factory=dict)
    configured: tuple[str, ...] = ()  # the order before it was known what works

    def __str__(self) -> str:
        plan = ", then ".join(self.strategies) if self.strategies else "nothing that may be tried"
        told = [f" Left out: {reason}." for reason in self.left_out]
        told += [f" {name} {self.records[name]}." for name in self.strategies if name in self.records]
        if self.strategies != self.configured:
            told.append(f" By what has worked, not in the configured order: {', '.join(self.configured)}.")
        return f"Plan: {plan}." + "".join(told)

    @property
    def why_nothing(self) -> str:
        """Why there is nothing in it, for a plan without strategies."""
        return "; ".join(self.left_out) or "no strategy is configured for it"

    def as_dict(self) -> dict[str, Any]:
        """The plan as JSON, for the timeline."""
        records = {
            name: {"tried": each.tried, "healed": each.healed, "rate_at_least": round(each.lower, 4)}
            for name, each in self.records.items()
        }
        return {"strategies": list(self.strategies), "left_out": list(self.left_out), "records": records}


def make_plan(
    *,
    failure_class: str,
    cause_service: str,
    confidence: float,
    service: str,
    settings: Settings,
    known: Mapping[str, Strategy],
    records: Mapping[str, Record],
) -> Plan:
    """Plan the recovery of a configured service.

    `records` is what is known of each strategy on the service's target for this failure class.
    """
    if cause_service != service and confidence >= TRUSTED_CAUSE:
        return Plan((), (f"the cause is {cause_service}; repairing {service} would not heal it",))
    chosen, left_out = [], []
    for name in settings.plan_of(service, failure_class):
        try:
            known[name].on(service)
        except (NotApplicable, TargetUnreadable) as reason:
            left_out.append(f"{name}, because {reason}")
        else:
            chosen.append(name)
    disruptive = ordered([name for name in chosen if known[name].disruptive], records)
    better = iter(disruptive)
    # What disturbs nothing keeps its place: trying it costs nothing.
    order = tuple(next(better) if known[name].disruptive else name for name in chosen)
    tried = {name: records[name] for name in disruptive if name in records}
    return Plan(order, tuple(left_out), tried, tuple(chosen))
