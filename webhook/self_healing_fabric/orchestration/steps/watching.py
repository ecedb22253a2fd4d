"""Escalated and resolved: nothing is done any more, but the fabric keeps looking.

People heal too, and services recover by themselves: both are proved by the same fresh samples. A resolved
incident whose alert outlives the relapse window starts over, for then the proof was wrong.
"""

from __future__ import annotations

from self_healing_fabric.incidents.correlation import reopened
from self_healing_fabric.incidents.lifecycle import Outcome, State, Transition
from self_healing_fabric.incidents.models import Incident
from self_healing_fabric.incidents.timeline import Entry, Kind
from self_healing_fabric.orchestration.context import Context
from self_healing_fabric.orchestration.escalation_manager import escalate
from self_healing_fabric.orchestration.steps.common import Step, look_interval
from self_healing_fabric.orchestration.steps.verifying import look_at, resolve
from self_healing_fabric.recovery.verification import Verdict
from self_healing_fabric.store import statements
from shf_queries import QueryError


def escalated(incident: Incident, context: Context) -> Step:
    """Watch whether it heals, and call the next level when its time has come."""
    if not incident.known_service:
        return _close_when_alerts_ended(incident, context)
    now, unseen = context.clock(), None
    try:
        look = look_at(incident, context)
    except QueryError as error:
        unseen = str(error)  # the levels' deadlines run on: nobody may wait for a Prometheus that is away
    else:
        if look.verdict is Verdict.HEALED:
            told = Entry(Kind.VERIFICATION, look.statement, look.as_dict())
            return Step(resolve(context, Outcome.RECOVERED, told))
    stay = Transition(State.ESCALATED, look_interval(context), waiting_for=unseen)
    if incident.level_due_at is None or incident.acknowledged_by or now < incident.level_due_at:
        return Step(stay)
    return Step(
        escalate(incident, context, stay, "not healed and not acknowledged within the level's deadline")
    )


def _close_when_alerts_ended(incident: Incident, context: Context) -> Step:
    if _firing(incident, context):
        return Step(Transition(State.ESCALATED, context.settings.reconcile_interval))
    ended = Entry(Kind.STATE, "All of its alerts ended. Nothing had been done about it.")
    return Step(Transition(State.CLOSED, None, (ended,), {"closed_at": context.clock()}))


def resolved(incident: Incident, context: Context) -> Step:
    """The relapse window is over: close when all alerts ended, start over when one still fires."""
    if not _firing(incident, context):
        return Step(Transition(State.CLOSED, None, changes={"closed_at": context.clock()}))
    again = Entry(Kind.STATE, "Re-opened: an alert still fires although the incident was resolved.")
    changes = reopened(incident.relapses, context.clock())
    return Step(Transition(State.DIAGNOSING, 0.0, (again,), {**changes, "state": State.DIAGNOSING.value}))


def _firing(incident: Incident, context: Context) -> bool:
    rows = context.store.read(lambda connection: statements.alerts_of(connection, incident.id))
    return any(row.status == "firing" for row in rows)
