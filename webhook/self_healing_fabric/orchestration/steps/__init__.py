"""One function for each state: look, decide, say why. The states and ways are drawn in `incidents.lifecycle`.

A step reads the incident as claimed and returns a `Step`; it commits nothing but the announcement of an
action, so that a step which is repeated after a crash finds what it needs to know.
"""

from __future__ import annotations

from typing import Any

from self_healing_fabric.incidents.lifecycle import State, Transition
from self_healing_fabric.incidents.models import Incident
from self_healing_fabric.incidents.timeline import Entry, Kind
from self_healing_fabric.orchestration.context import Context
from self_healing_fabric.orchestration.leases import CLOCK_SPREADS_WITHIN
from self_healing_fabric.orchestration.steps.common import Step, wait
from self_healing_fabric.orchestration.steps.diagnosing import detected, diagnosing
from self_healing_fabric.orchestration.steps.recovering import awaiting_approval, recovering
from self_healing_fabric.orchestration.steps.strangers import stranger
from self_healing_fabric.orchestration.steps.verifying import verifying
from self_healing_fabric.orchestration.steps.watching import escalated, resolved
from shf_queries import QueryError

__all__ = ["Step", "advance"]

STEPS = {
    State.DETECTED: detected,
    State.DIAGNOSING: diagnosing,
    State.AWAITING_APPROVAL: awaiting_approval,
    State.RECOVERING: recovering,
    State.VERIFYING: verifying,
    State.ESCALATED: escalated,
    State.RESOLVED: resolved,
}


def advance(incident: Incident, context: Context) -> Step:
    """Do the one step that the incident's state asks for. Raises StoreUnavailable, LeaseLost."""
    step = STEPS[incident.state] if incident.is_of(context.settings.services) else stranger
    begun_anew = _after_a_clock_was_set_back(incident, context)
    if begun_anew is not None:
        return begun_anew
    try:
        return step(incident, context)
    except QueryError as error:
        return wait(incident, context, str(error))


def _after_a_clock_was_set_back(incident: Incident, context: Context) -> Step | None:
    """What began in the future begins anew now, for no sample would be newer than that until then; None when
    nothing has."""
    now, pending = context.clock(), incident.verification

    def lies_ahead(moment: float | None) -> bool:
        # The replica that wrote it may be a little ahead of this one.
        return moment is not None and moment - now > CLOCK_SPREADS_WITHIN

    changes: dict[str, Any] = {
        name: now for name in ("waiting_since", "resolved_at") if lies_ahead(getattr(incident, name))
    }
    if pending is not None and lies_ahead(pending.get("since")):
        deadline = pending["deadline"]
        left = None if deadline is None else now + deadline - pending["since"]
        changes["verification"] = {**pending, "since": now, "deadline": left}
    if not changes:
        return None
    told = Entry(Kind.NOTE, "The clock was set back: what had begun by the old time begins anew.")
    stay = Transition(incident.state, 0.0, (told,), changes, waiting_for=incident.waiting_for)
    return Step(stay)
