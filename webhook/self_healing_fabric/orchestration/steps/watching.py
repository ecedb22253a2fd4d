"""Escalated and resolved: nothing is done any more about what is known, but the fabric keeps looking.

People heal too, and services recover by themselves: both are proved by the same fresh samples. Where no known
signal tells, nothing can be proved, and the incident is over when its alerts are. A resolved incident whose
alert outlives the relapse window starts over, for then the proof was wrong; one whose alert outlives the next
proof, too, goes to people.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sqlalchemy import Row

from self_healing_fabric.escalation.calls import Status
from self_healing_fabric.incidents.correlation import OUTLIVED, reopened
from self_healing_fabric.incidents.lifecycle import Outcome, State, Transition
from self_healing_fabric.incidents.models import Incident
from self_healing_fabric.incidents.timeline import Entry, Kind
from self_healing_fabric.orchestration import journal
from self_healing_fabric.orchestration.context import Context
from self_healing_fabric.orchestration.effects import LEFT, lent, next_effect
from self_healing_fabric.orchestration.steps.common import (
    EVIDENCE,
    Alerts,
    Facts,
    Step,
    evidence_entry,
    facts_of,
    patience,
    to_people,
    with_changes,
)
from self_healing_fabric.orchestration.steps.verifying import (
    doubted,
    look_at,
    resolve,
    split_off,
    split_unhealed,
    telling_signals,
)
from self_healing_fabric.recovery.effects import NotApplicable, TargetUnreadable
from self_healing_fabric.recovery.strategies import UNDO
from self_healing_fabric.recovery.verification import Health, Verdict, watched_signals
from self_healing_fabric.store import call_statements, statements
from shf_queries import QueryError

UNTOLD = "no known signal tells whether it has healed"
CALM = "its signals are inside all limits"


def escalated(incident: Incident, context: Context) -> Step:
    """Watch whether it heals. The next level is called in its time: see `level_timers`."""
    facts, unseen = facts_of(incident, context), None
    if not telling_signals(incident, facts):
        return _close_when_alerts_ended(incident, context, facts)
    pending = incident.verification or {}
    if incident.resolved_at is not None:
        again = _fails_again(incident, context, facts, since=pending["since"])
        if again is not None:
            return again
    if OUTLIVED in pending and any(row.status == "firing" for row in facts.own_alerts):
        again = _fails_again(incident, context, facts, since=pending["since"])
        pause = patience(incident, context)
        return again or Step(Transition(State.ESCALATED, pause, waiting_for=f"the end of its alerts: {CALM}"))
    try:
        look = look_at(incident, context, facts)
    except QueryError as error:
        unseen = f"{EVIDENCE}: {error}"
    else:
        doubt = doubted(look, incident, context, facts)
        if doubt is not None:
            unseen = f"validation: {doubt}"
        elif look.verdict is Verdict.HEALED:
            told = Entry(Kind.VERIFICATION, look.statement, look.as_dict())
            resolved_now = resolve(context, Outcome.RECOVERED, told)
            also = split_unhealed(incident, context, facts)
            if incident.resolved_at is None:
                return Step(resolved_now, also=also)
            # Only what was lent could not be taken back.
            if _is_to_be_told(incident, context):
                waiting = "people hear of what was lent"
                return Step(Transition(State.ESCALATED, patience(incident, context), waiting_for=waiting))
            kept = Entry(Kind.NOTE, "Not scaled back: that was left to people.")
            as_before = replace(with_changes(resolved_now, outcome=incident.outcome), entries=(told, kept))
            return Step(as_before, also=(*also, *_leave(lent(context, facts.actions))))
    stay = Transition(State.ESCALATED, patience(incident, context), waiting_for=unseen)
    return Step(stay)


def _is_to_be_told(incident: Incident, context: Context) -> bool:
    """Whether a call is held back, as in a maintenance window, or on its way: what is over is not told."""
    held = incident.level == 0 and incident.level_due_at is not None
    calls = context.store.read(lambda connection: call_statements.calls_of(connection, incident.id))
    return held or any(call.ended_at is None and call.status == Status.WAITING.value for call in calls)


def _close_when_alerts_ended(incident: Incident, context: Context, alerts: Alerts) -> Step:
    """What no signal tells is over when its alerts are, and nobody is told that it has healed."""
    if any(row.status == "firing" for row in alerts.alerts):
        pause = max(context.settings.reconcile_interval, patience(incident, context))
        return Step(Transition(State.ESCALATED, pause, waiting_for=f"the end of its alerts: {UNTOLD}"))
    ended = Entry(Kind.STATE, f"All of its alerts ended, and {UNTOLD}.")
    return Step(Transition(State.CLOSED, None, (ended,), {"closed_at": context.clock()}))


def resolved(incident: Incident, context: Context) -> Step:
    """The relapse window is over: close when all alerts ended, start over when one of its own still fires.

    A symptom's alert that outlives its cause by so much was no symptom. What was only lent, such as more
    replicas, is taken back first, when the service that has it has been calm for long enough. Before the
    window is over it starts over only when it fails again: see `relapse_watch`.
    """
    facts = facts_of(incident, context)
    left = (incident.resolved_at or 0.0) + context.settings.relapse_window - context.clock()
    if left > 0:
        again = _fails_again(incident, context, facts, since=incident.resolved_at or 0.0)
        return again or Step(Transition(State.RESOLVED, left))
    if any(row.status == "firing" for row in facts.own_alerts):
        return _outlived(incident, context, facts)
    reason = f"{incident.service} has healed, and its alert still fires"
    also = tuple(split_off(incident, each, reason, context) for each in facts.symptoms)
    taking_back = _take_back(incident, context, facts)
    if taking_back is not None:
        return replace(taking_back, also=(*also, *taking_back.also))
    return Step(Transition(State.CLOSED, None, changes={"closed_at": context.clock()}), also=also)


def _outlived(incident: Incident, context: Context, facts: Facts) -> Step:
    """An alert fires on after the proof: the proof is made once more, then people must say which is right.

    Its rule may have another limit, or tell of what no known signal does. What fails again begins anew.
    """
    reason = "an alert still fires although the incident was resolved"
    if not incident.relapses or facts.silenced:
        return _over_again(incident, context, reason)
    try:
        health, shown = context.verifier.health(str(incident.service), facts.signals, context.clock())
    except QueryError:
        health, shown = Health.UNKNOWN, ()
    entries = tuple(evidence_entry(fact) for fact in shown)
    if health is not Health.CALM:
        return _over_again(incident, context, reason, entries)
    step = to_people(incident, context, f"{reason}, and {CALM}", *entries)
    watched = {**step.transition.changes["verification"], OUTLIVED: True}
    # Who was called was told that it is over: the levels begin anew.
    changes = {"verification": watched, "outcome": None, "resolved_at": None, "level": 0}
    return replace(step, transition=with_changes(step.transition, **changes))


def _fails_again(incident: Incident, context: Context, facts: Facts, *, since: float) -> Step | None:
    firing = [row for row in facts.own_alerts if row.status == "firing" and not row.suppressed]
    signals = watched_signals([row.labels for row in firing])
    if not signals:
        return None
    service, now = str(incident.service), context.clock()
    try:
        shown = context.verifier.relapse(service, signals, since=since, now=now)
    except QueryError:
        return None
    if not shown:
        return None
    entries = tuple(evidence_entry(fact) for fact in shown)
    return _over_again(incident, context, "it fails again, and its alert has never ended", entries)


def _over_again(incident: Incident, context: Context, reason: str, entries: tuple[Entry, ...] = ()) -> Step:
    again = Entry(Kind.STATE, f"Re-opened: {reason}.")
    changes = reopened(incident.relapses, context.clock())
    return Step(Transition(State.DIAGNOSING, 0.0, (*entries, again), changes))


def _take_back(incident: Incident, context: Context, facts: Facts) -> Step | None:
    """Scale back to what was there before; None when nothing was scaled or the scaling was taken back.

    What somebody has changed since is theirs.
    """
    # What a service has that is split off now goes with it.
    actions = [row for row in facts.actions if row.service not in facts.symptoms]
    taken = lent(context, actions)
    if taken is None or incident.resolved_at is None:
        return None
    service = taken.service
    bounds = context.settings.services[service].recovery.scale
    left = incident.resolved_at + (bounds.calm if bounds else 0.0) - context.clock()
    if left > 0:
        return Step(Transition(State.RESOLVED, left, waiting_for=f"calm: then {service} is scaled back"))
    pause = context.settings.reconcile_interval
    try:
        next_effect(context, incident, UNDO, actions).effect.snapshot()
        health, evidence = context.verifier.health(service, facts.signals_of(service), context.clock())
    except NotApplicable as error:
        kept = Entry(Kind.NOTE, f"Not scaled back: {error}.")
        return Step(Transition(State.RESOLVED, 0.0, (kept,)), also=_leave(taken))
    except (QueryError, TargetUnreadable) as error:
        reason = f"calm: {service} cannot be looked at: {error}"
        return Step(Transition(State.RESOLVED, pause, waiting_for=reason))
    if health is not Health.CALM:
        reason = f"calm: {service} is not inside all limits"
        return Step(Transition(State.RESOLVED, pause, waiting_for=reason))
    told = Entry(Kind.NOTE, f"{service} has been calm long enough to be scaled back.")
    entries = (*(evidence_entry(fact) for fact in evidence), told)
    return Step(Transition(State.RECOVERING, 0.0, entries, {"plan": [UNDO]}))


def _leave(taken: Row[Any] | None) -> tuple[journal.Also, ...]:
    """What an action has lent stays with people: the fabric does not come back to it."""
    if taken is None:
        return ()
    action_id, before = taken.id, {**taken.before, LEFT: True}
    return (lambda connection: statements.update_action(connection, action_id, {"before": before}),)
