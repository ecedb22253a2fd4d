"""How long an incident may wait for its next step, in one place.

A clock that was set back leaves timers that lie as far ahead as it was set. They are found because they lie
further ahead than any step may ask for (`reconciliation`), so that must be known; and it should be short,
since they are brought back to no less. Most waits only look again, and lose nothing by looking sooner: for
the end of a maintenance window, of a cooldown, of whatever a plugin refuses for a time. So any wait is cut to
the longest one. Only a wait whose end decides something, as when nobody has answered in time, must be part of
it.
"""

from __future__ import annotations

from self_healing_fabric.incidents.lifecycle import Transition
from self_healing_fabric.orchestration.leases import LONGEST_STEP
from self_healing_fabric.settings import Settings


def for_approval(settings: Settings, level: int) -> float:
    """Seconds that people have to allow what an incident asks on this level.

    Whoever is called while it waits is asked, too: the last level still has its time.
    """
    return sum(each.deadline for each in settings.escalation.levels[level:])


def longest(settings: Settings) -> float:
    """Seconds that no timer of an incident lies ahead of the moment at which it was set."""
    approvals = (for_approval(settings, level) for level in range(len(settings.escalation.levels)))
    return max(LONGEST_STEP, settings.relapse_window, settings.retry.cap, *approvals)


def furthest_called(settings: Settings, now: float) -> float:
    """When a level or a call is due at the latest: a maintenance window holds it, then it has its time."""
    windows = settings.guardrails.maintenance
    ends = [each.end.timestamp() for each in windows if each.start.timestamp() <= now]
    return max([now, *ends]) + longest(settings)


def due_at(transition: Transition, settings: Settings, now: float) -> float | None:
    """When the next step of an incident is due after a transition."""
    if transition.due_in is None:
        return None
    return now + min(transition.due_in, longest(settings))
