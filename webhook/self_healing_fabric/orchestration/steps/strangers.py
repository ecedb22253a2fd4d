"""Incidents of no configured service: people see them, and nothing acts on them.

A label is a stranger's text and never chooses a target. A service can also be taken out of the configuration
while its incident is open: its target and its limits cannot be looked up any more, so from then on the
incident is a stranger's, whatever its state. What was begun for it stays as it is, and people are told.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from self_healing_fabric.incidents.lifecycle import Rise, State, Transition
from self_healing_fabric.incidents.models import Incident
from self_healing_fabric.incidents.telling import target_in_words
from self_healing_fabric.incidents.timeline import Entry, Kind
from self_healing_fabric.orchestration.context import Context
from self_healing_fabric.orchestration.effects import not_undone
from self_healing_fabric.orchestration.steps.common import (
    Facts,
    Step,
    facts_of,
    patience,
    to_people,
    with_changes,
)
from self_healing_fabric.orchestration.steps.verifying import split_off
from self_healing_fabric.recovery.outcomes import Outcome, Status
from self_healing_fabric.recovery.strategies import undoable

STRANGER = {"known_service": False}


def stranger(incident: Incident, context: Context) -> Step:
    """Tell people once, and close it when its alerts have ended."""
    if incident.state is State.DETECTED:
        unknown = (
            f"{incident.service!r}, which the configuration does not" if incident.service else "no service"
        )
        reason = f"the alert names {unknown}: nothing will be done about it"
        step = to_people(incident, context, reason)
        return _once(replace(step, transition=with_changes(step.transition, **STRANGER)), reason)
    facts = facts_of(incident, context)
    # What was taken for a symptom of it is still ours to heal.
    ours = [service for service in facts.symptoms if service in context.settings.services]
    step = _watched(incident, context, facts, ours) or _left(incident, context, facts)
    also = tuple(split_off(incident, service, _gone(incident), context) for service in ours)
    return replace(step, also=also)


def _watched(incident: Incident, context: Context, facts: Facts, ours: Collection[str]) -> Step | None:
    """Closed, or waiting for the end of its alerts; None when people have to be told first."""
    if facts.unfinished_action is not None:
        return None
    if not any(row.status == "firing" and row.service not in ours for row in facts.alerts):
        done = _in_force(context, facts) or ([] if facts.actions else ["nothing had been done about it"])
        ended = Entry(Kind.STATE, f"{'; '.join(['All of its alerts ended', *done])}.")
        changes = {**STRANGER, "closed_at": context.clock()}
        return Step(Transition(State.CLOSED, None, (ended,), changes))
    if incident.state is State.ESCALATED and not (incident.known_service and _in_force(context, facts)):
        pause = max(context.settings.reconcile_interval, patience(incident, context))
        told = (Entry(Kind.NOTE, f"{_gone(incident)}."),) if incident.known_service else ()
        return Step(Transition(State.ESCALATED, pause, told, STRANGER))
    left = _may_end_until(incident, context) - context.clock()
    if left <= 0:
        return None
    waiting = f"the end of its alerts: {_gone(incident)}"
    poll = min(left, context.settings.reconcile_interval)
    return Step(Transition(incident.state, poll, changes=STRANGER, waiting_for=waiting))


def _may_end_until(incident: Incident, context: Context) -> float:
    """What was repaired, or has healed, needs nobody while its alerts may still end by themselves."""
    if incident.state is State.VERIFYING:
        return float((incident.verification or {})["deadline"])
    if incident.state is State.RESOLVED:
        return (incident.resolved_at or 0.0) + context.settings.relapse_window
    return 0.0


def _left(incident: Incident, context: Context, facts: Facts) -> Step:
    """It was ours: say what becomes of what was begun for it."""
    action, finished = facts.unfinished_action, None
    left = _in_force(context, facts)
    if action is not None:
        what = f"{action.strategy} {target_in_words(action.target)}"
        left.insert(0, f"whether its action, {what}, happened cannot be learnt")
        detail = f"the fabric was interrupted during it; {_gone(incident)}"
        finished = action.id, Outcome(Status.INDETERMINATE, detail)
    told = f"the alert names {incident.service!r}, which the configuration does not any more"
    reason = "; ".join([f"{told}: nothing more will be done about it", *left])
    step = to_people(incident, context, reason, finished=finished)
    # It had perhaps healed, and nothing can prove that any more.
    step = replace(step, transition=with_changes(step.transition, outcome=None, resolved_at=None, **STRANGER))
    # Levels rise only for what is left behind, until somebody acknowledges it.
    return step if left else _once(step, reason)


def _once(step: Step, reason: str) -> Step:
    """People are told once: an alert that is not ours to heal must not climb to level 4."""
    return replace(step, transition=replace(step.transition, rise=Rise(reason, climbs=False)))


def _gone(incident: Incident) -> str:
    return f"{incident.service} is not configured any more"


def _in_force(context: Context, facts: Facts) -> list[str]:
    """What was done that could have been taken back, in words: the target cannot be asked any more."""
    may_be_undone = undoable(context.settings)
    left = [
        f"{row.strategy} {target_in_words(row.target)} is not taken back"
        for row in not_undone(facts.actions)
        if row.strategy in may_be_undone
    ]
    return left[::-1]  # oldest first, as they happened
