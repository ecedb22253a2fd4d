"""When an incident rises to the next level, and who hears of it.

Rising is part of the transition that caused it, so it happens exactly once however often the step is
repeated. The call itself goes out after the commit: a level that was called but not recorded would be called
again.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import structlog

from self_healing_fabric.escalation.calls import Call
from self_healing_fabric.escalation.levels import rise
from self_healing_fabric.incidents.lifecycle import State, Transition
from self_healing_fabric.incidents.models import Incident
from self_healing_fabric.incidents.timeline import Entry, Kind
from self_healing_fabric.orchestration.context import Context

log = structlog.get_logger()


def escalate(incident: Incident, context: Context, transition: Transition, reason: str) -> Transition:
    """Add a rise by one level to a transition; at the last level only the reason is noted."""
    step = rise(incident, context.settings.escalation, reason=reason, now=context.clock())
    if step is None:
        entry = Entry(Kind.ESCALATION, f"Stays at the last level: {reason}")
        return replace(transition, entries=(*transition.entries, entry))
    call = step.call
    whom = ", ".join(call.called) or "nobody"
    message = f"Level {call.level} ({call.level_name}), calling {whom}: {reason}"
    data = {"level": call.level, "level_name": call.level_name, "called": list(call.called), "reason": reason}
    changes = {"level": call.level, "level_due_at": step.due_at, "acknowledged_by": None}
    return replace(
        transition,
        entries=(*transition.entries, Entry(Kind.ESCALATION, message, data)),
        changes={**transition.changes, **changes},
    )


def watch_from(now: float) -> dict[str, Any]:
    """The columns of an incident that is only watched from now on, without a deadline."""
    return {"verification": {"since": now, "action": None, "started_before": None, "deadline": None}}


def hand_to_people(incident: Incident, context: Context, reason: str, *entries: Entry) -> Transition:
    """Give up acting, call the next level, and only watch from now on."""
    changes = {"plan": [], **watch_from(context.clock())}
    moved = Transition(State.ESCALATED, context.settings.verification.interval, entries, changes)
    return escalate(incident, context, moved, reason)


def send_calls(incident: Incident, context: Context, transition: Transition) -> None:
    """Send what a committed transition calls for. A channel that fails is logged and harms nothing."""
    for entry in transition.entries:
        if entry.kind is not Kind.ESCALATION or "level" not in entry.data:
            continue
        data = entry.data
        call = Call(
            incident.id,
            incident.service,
            data["level"],
            data["level_name"],
            tuple(data["called"]),
            data["reason"],
        )
        for channel in context.channels:
            try:
                channel.send(call)
            except Exception:
                log.exception("channel_failed", channel=channel.name, incident=incident.id)
