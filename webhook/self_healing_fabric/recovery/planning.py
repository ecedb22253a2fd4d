"""Which strategies to try, in order, and why not the others.

The plan comes from the failure class by the configured table. What cannot be used on the service is left out
with its reason, and a service that only suffers from a failing dependency is not disturbed: restarting it
heals nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from self_healing_fabric.recovery.effects import NotApplicable, TargetUnreadable
from self_healing_fabric.recovery.strategies import Strategy
from self_healing_fabric.settings import Settings

TRUSTED_CAUSE = 0.5  # from this confidence on, a failing dependency is believed to be the cause


@dataclass(frozen=True)
class Plan:
    """The strategies in order, and a reason for each that was left out."""

    strategies: tuple[str, ...]
    left_out: tuple[str, ...] = ()

    def __str__(self) -> str:
        plan = ", then ".join(self.strategies) if self.strategies else "nothing that may be tried"
        return f"Plan: {plan}." + "".join(f" Left out: {reason}." for reason in self.left_out)


def make_plan(
    *,
    failure_class: str,
    cause_service: str,
    confidence: float,
    service: str,
    settings: Settings,
    known: Mapping[str, Strategy],
) -> Plan:
    """Plan the recovery of a configured service."""
    if cause_service != service and confidence >= TRUSTED_CAUSE:
        return Plan((), (f"the cause is {cause_service}; repairing {service} would not heal it",))
    chosen, left_out = [], []
    for name in settings.plans[failure_class]:
        try:
            known[name].on(service)
        except (NotApplicable, TargetUnreadable) as reason:
            left_out.append(f"{name}, because {reason}")
        else:
            chosen.append(name)
    return Plan(tuple(chosen), tuple(left_out))
