"""One function for each state: look, decide, say why. The states and ways are drawn in `incidents.lifecycle`.

A step reads the incident as claimed and returns a `Step`; it commits nothing but the announcement of an
action, so that a step which is repeated after a crash finds what it needs to know.
"""

from __future__ import annotations

from self_healing_fabric.incidents.lifecycle import State
from self_healing_fabric.incidents.models import Incident
from self_healing_fabric.orchestration.context import Context
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
    try:
        return step(incident, context)
    except QueryError as error:
        return wait(incident, context, str(error))
