"""The five levels: what rising by one means. Level 0 is silent; level 4 calls everyone and is the last.

A deadline is a column of the incident (`level_due_at`), so that a restart in the middle of the wait loses
nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from self_healing_fabric.escalation.calls import Call
from self_healing_fabric.incidents.models import Incident
from self_healing_fabric.settings import EscalationSettings

LAST_LEVEL = 4


@dataclass(frozen=True)
class Rise:
    """The step to the next level: whom it calls, and when the one after is due (None at the last)."""

    call: Call
    due_at: float | None


def rise(incident: Incident, settings: EscalationSettings, *, reason: str, now: float) -> Rise | None:
    """One level up from where the incident is; None when it is at the last one already."""
    if incident.level >= LAST_LEVEL:
        return None
    level = incident.level + 1
    configured = settings.levels[level]
    call = Call(incident.id, incident.service, level, configured.name, configured.call, reason)
    return Rise(call, None if level == LAST_LEVEL else now + configured.deadline)
