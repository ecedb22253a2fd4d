"""How often the guardrails that count outcomes would have spoken, between the best and the worst outcome.

A replay performs nothing, so whether an action healed is not known, and `max_heals` and `max_failures` cannot
speak in it. What can be said is what they would have stopped had every action healed, and had none: the two
ends between which the truth lies, if what follows an action is left as history has it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from self_healing_fabric.settings import Settings


@dataclass(frozen=True)
class Disruption:
    """A disruptive action that would have begun at a time, in seconds since 1970."""

    at: float
    service: str
    strategy: str
    target: str


def stopped_if_all_healed(actions: Iterable[Disruption], settings: Settings) -> int:
    """How many of these `max_heals` would have given to people, had every one before them healed."""
    healed: defaultdict[str, list[float]] = defaultdict(list)
    stopped = 0
    for each in sorted(actions, key=lambda action: action.at):
        limits, before = settings.limits_of(each.service, each.strategy), healed[each.target]
        if sum(at >= each.at - limits.heals_within for at in before) >= limits.max_heals:
            stopped += 1
        else:
            before.append(each.at)
    return stopped


def stopped_if_none_healed(actions: Iterable[Disruption], settings: Settings) -> int:
    """How many of these `max_failures` would have left out, had none before them healed."""
    failed: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    stopped = 0
    for each in sorted(actions, key=lambda action: action.at):
        limits, before = settings.limits_of(each.service, each.strategy), failed[each.target, each.strategy]
        if sum(at >= each.at - limits.failures_within for at in before) >= limits.max_failures:
            stopped += 1
        else:
            before.append(each.at)
    return stopped
