"""When an incident rises to the next level.

Rising is part of the transition that caused it: the level, its deadline, the calls and the timeline are
written in the same transaction (`escalation.levels`), so it happens exactly once however often the step is
repeated. The calls are sent later, by whichever replica comes first (`orchestration.caller`).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from self_healing_fabric.incidents.lifecycle import Rise, State, Transition
from self_healing_fabric.incidents.timeline import Entry
from self_healing_fabric.orchestration.context import Context


def escalate(transition: Transition, reason: str) -> Transition:
    """Add a rise by one level to a transition."""
    return replace(transition, rise=Rise(reason))


def watch_from(
    now: float, *, deadline: float | None = None, suspected_for: Collection[str] = ()
) -> dict[str, Any]:
    """The columns of an incident that is only watched from now on, until a deadline if there is one.

    `suspected_for`: the signals to be watched beside those that the alerts of its service name.
    """
    pending = {"since": now, "action": None, "started_before": None, "deadline": deadline}
    return {"verification": {**pending, "signals": sorted(suspected_for)}}


def hand_to_people(
    context: Context, reason: str, *entries: Entry, suspected_for: Collection[str] = ()
) -> Transition:
    """Give up acting, call the next level, and only watch from now on."""
    changes = {"plan": [], **watch_from(context.clock(), suspected_for=suspected_for)}
    moved = Transition(State.ESCALATED, context.settings.verification.interval, entries, changes)
    return escalate(moved, reason)
