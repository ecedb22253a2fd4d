"""A person's decision on an incident: what it changes, and when it makes no sense.

A decision overtakes the step in hand (its epoch rises, so what the step wanted to write is dropped), because
people must be able to stop the machine and not the other way round.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection

from self_healing_fabric.errors import DecisionRefused, UnknownIncident
from self_healing_fabric.escalation import levels
from self_healing_fabric.incidents import correlation, timeline
from self_healing_fabric.incidents.lifecycle import ENDED, Outcome, State, Transition, check_transition
from self_healing_fabric.incidents.models import Incident, incident_of
from self_healing_fabric.incidents.telling import target_in_words
from self_healing_fabric.incidents.timeline import Entry, Kind
from self_healing_fabric.orchestration import questions, waits
from self_healing_fabric.orchestration.context import Context
from self_healing_fabric.orchestration.effects import not_undone
from self_healing_fabric.orchestration.escalation_manager import hand_to_people
from self_healing_fabric.recovery.effects import NotApplicable, TargetUnreadable
from self_healing_fabric.recovery.strategies import SCALE, undoable
from self_healing_fabric.recovery.verification import Verdict
from self_healing_fabric.store import statements
from self_healing_fabric.telemetry import UNKNOWN_SERVICE

Decide = Callable[[Incident, Context, str], Transition | None]


def decide(
    context: Context,
    incident_id: str,
    decision: Decide,
    *,
    by: str,
    reason: str | None = None,
    seen: str | None = None,
) -> bool:
    """Carry out a decision in one transaction; return whether it changed anything, or had been made before.

    Args:
        context: the fabric's parts.
        incident_id: of the incident.
        decision: one of `DECISIONS`, or a `proposal`.
        by: who decides.
        reason: why, in words.
        seen: the action that the person saw asked for; None: whatever is asked for.

    Raises:
        UnknownIncident: there is no such incident.
        DecisionRefused: the decision does not fit its state, or something else is asked for than was seen.
    """
    incident, transition = context.store.write(
        lambda connection: decide_within(
            connection, context, incident_id, decision, by=by, reason=reason, seen=seen
        )
    )
    count(context, incident, transition)
    return transition is not None


def decide_within(
    connection: Connection,
    context: Context,
    incident_id: str,
    decision: Decide,
    *,
    by: str,
    reason: str | None = None,
    seen: str | None = None,
) -> tuple[Incident, Transition | None]:
    """Carry out a decision inside the caller's transaction; tell `count` what it was after the commit.

    Raises as `decide`.
    """
    now = context.clock()
    row = statements.incident(connection, incident_id, lock=True)
    if row is None:
        raise UnknownIncident(f"no incident has the id {incident_id!r}")
    incident = incident_of(row)
    if seen is not None and seen != questions.action_asked_for(connection, incident_id):
        raise DecisionRefused("something else is asked for by now; look at it again")
    transition = decision(incident, context, by)
    if transition is None:
        # What it says was decided before; why this person says so, too, is kept, and once.
        told = {line.message for line in statements.timeline_of(connection, incident.id)}
        new = [entry for entry in _reason(by, reason) if entry.message not in told]
        timeline.append(connection, incident.id, new, now)
    elif transition.state is incident.state and "plan" not in transition.changes:
        # Only a note on the incident: the step in hand goes on undisturbed.
        statements.annotate(connection, incident.id, transition.changes)
        timeline.append(connection, incident.id, [*transition.entries, *_reason(by, reason)], now)
    else:
        _refuse_during_action(connection, incident)
        _write(connection, context, incident, transition, by=by, reason=reason, now=now)
    return incident, transition


def count(context: Context, incident: Incident, transition: Transition | None) -> None:
    """Tell the metrics of a decision that was committed."""
    if transition is not None and transition.changes.get("outcome") == Outcome.CLOSED_BY_PERSON.value:
        context.metrics.resolved.labels(_label(incident), Outcome.CLOSED_BY_PERSON.value).inc()


def possible_decisions(context: Context, incident: Incident, *, under_way: bool) -> tuple[str, ...]:
    """The decisions that would change something about the incident now, for those who offer them.

    `under_way`: an action of it has begun and not ended, which only an acknowledgement does not disturb.
    """
    found = []
    for name, decision in DECISIONS.items():
        try:
            transition = decision(incident, context, "")
        except DecisionRefused:
            continue
        stays = transition is not None and transition.state is incident.state
        if transition is not None and (not under_way or (stays and "plan" not in transition.changes)):
            found.append(name)
    return tuple(found)


def split_off(context: Context, incident_id: str, service: str, *, by: str, reason: str | None = None) -> str:
    """Give a service that was wrongly taken for a symptom an incident of its own; return its id.

    Asked again, it is the same incident.

    Raises:
        UnknownIncident: there is no such incident.
        DecisionRefused: no alert of the service belongs to it, or the service is its suspected cause.
    """
    now = context.clock()

    def write(connection: Connection) -> tuple[str, bool]:
        statements.serialize(connection, "correlation")
        row = statements.incident(connection, incident_id, lock=True)
        if row is None:
            raise UnknownIncident(f"no incident has the id {incident_id!r}")
        members = {each.service for each in statements.alerts_of(connection, incident_id)} - {
            row.service,
            None,
        }
        if service not in members and (split_id := statements.split_from(connection, incident_id, service)):
            return split_id, False
        if row.state == State.CLOSED.value:
            raise DecisionRefused("the incident is closed already")
        if service not in members:
            others = ", ".join(sorted(members)) or "none"
            raise DecisionRefused(f"{service} is no symptom in this incident; those that are: {others}")
        why = f"{by} decided so" + (f": {reason}" if reason else "")
        return correlation.split(connection, row, service, why, now)

    split_id, opened = context.store.write(write)
    if opened:
        context.metrics.opened.labels(service).inc()
    return split_id


def _refuse_during_action(connection: Connection, incident: Incident) -> None:
    """An effect that has begun cannot be taken back; its end must be recorded by the step that began it."""
    action = statements.unfinished_action_of(connection, incident.id)
    if action is not None:
        what = f"{action.strategy} of {target_in_words(action.target)}"
        raise DecisionRefused(f"{what} is under way: decide when it has ended")


def _write(
    connection: Connection,
    context: Context,
    incident: Incident,
    transition: Transition,
    *,
    by: str,
    reason: str | None,
    now: float,
) -> None:
    check_transition(incident.state, transition.state)
    due_at = waits.due_at(transition, context.settings, now)
    changes = {"state": transition.state.value, "updated_at": now, "due_at": due_at, "waiting_for": None}
    statements.overtake(connection, incident.id, {**changes, **transition.changes})
    entries = list(transition.entries)
    if transition.rise is not None:
        rise, settings = transition.rise, context.settings
        if reason:  # whoever is called must hear it, too
            rise = replace(rise, reason=f"{rise.reason}: {reason}")
        entries += levels.rise(connection, incident.id, rise, settings, now, decided=True).entries
    if transition.state is State.CLOSED:
        entries += _left_in_force(connection, context, incident)
    if transition.state is not incident.state:
        data = {"from": incident.state.value, "to": transition.state.value, "by": by}
        entries.append(Entry(Kind.STATE, f"{incident.state} -> {transition.state}", data))
    timeline.append(connection, incident.id, [*entries, *_reason(by, reason)], now)


def _left_in_force(connection: Connection, context: Context, incident: Incident) -> list[Entry]:
    """Nothing is done any more after a person's end: so people must know what is left to them."""
    may_be_undone = undoable(context.settings)
    actions = statements.actions_held_by(connection, incident.id)
    left = [
        f"{each.strategy} {target_in_words(each.target)}"
        for each in not_undone(actions)
        if each.strategy == SCALE or (each.strategy in may_be_undone and each.verdict != Verdict.HEALED.value)
    ]
    told = f"Stays in force, and is not taken back any more: {', '.join(left)}."
    return [Entry(Kind.NOTE, told)] if left else []


def _reason(by: str, reason: str | None) -> list[Entry]:
    return [Entry(Kind.NOTE, f"{by}: {reason}")] if reason else []


def _acknowledge(incident: Incident, _: Context, by: str) -> Transition | None:
    if incident.acknowledged_by:
        return None
    if incident.state in ENDED:
        raise DecisionRefused(f"the incident is {incident.state} already")
    told = Entry(Kind.NOTE, f"{by} acknowledged: no further level is called.")
    return Transition(incident.state, None, (told,), {"acknowledged_by": by, "level_due_at": None})


def _approve(incident: Incident, _: Context, by: str) -> Transition | None:
    if incident.approved_by:
        return None
    if incident.state is not State.AWAITING_APPROVAL:
        raise DecisionRefused(f"the incident is {incident.state} and awaits no approval")
    allowed = Entry(Kind.NOTE, f"{by} approved it.")
    return Transition(State.RECOVERING, 0.0, (allowed,), {"approved_by": by, "verification": None})


def _reject(incident: Incident, context: Context, by: str) -> Transition | None:
    if _is_taken_over(incident):
        return None
    if incident.state is not State.AWAITING_APPROVAL:
        approved = f", since {incident.approved_by} approved it" if incident.approved_by else ""
        instead = "" if incident.state in ENDED else "; escalate it to have nothing more done about it"
        raise DecisionRefused(f"the incident is {incident.state} and awaits no approval{approved}{instead}")
    if incident.resolved_at is not None:  # what was lent to it stays, and nothing else is left to do
        return _closed(incident, context, Entry(Kind.NOTE, f"{by} rejected the plan."))
    return _taken_over(hand_to_people(context, f"{by} rejected the plan"), by)


def _escalate(incident: Incident, context: Context, by: str) -> Transition | None:
    if incident.state in ENDED:
        raise DecisionRefused(f"the incident is {incident.state} already")
    if _is_taken_over(incident) and not incident.acknowledged_by:
        return None  # they were called for it; whoever took it may hand it on to the next level
    moved = hand_to_people(context, f"{by} asked for it", suspected_for=incident.suspected_for)
    return _taken_over(moved, by)


def _is_taken_over(incident: Incident) -> bool:
    """Whether a person has decided that nothing more is done by itself. Who only was called has not: the
    fabric begins anew when something else is reported."""
    return incident.state is State.ESCALATED and correlation.HANDS_OFF in (incident.verification or {})


def _taken_over(moved: Transition, by: str) -> Transition:
    """Nothing more is done by itself from now on, whatever else comes."""
    watched = {**moved.changes["verification"], correlation.HANDS_OFF: by}
    return replace(moved, changes={**moved.changes, "verification": watched})


def _close(incident: Incident, context: Context, by: str) -> Transition | None:
    if incident.state is State.CLOSED:
        return None
    return _closed(incident, context, Entry(Kind.NOTE, f"{by} closed the incident."))


def _closed(incident: Incident, context: Context, told: Entry) -> Transition:
    now = context.clock()
    changes: dict[str, Any] = {"closed_at": now, "level_due_at": None}
    if incident.resolved_at is None:
        changes |= {"outcome": Outcome.CLOSED_BY_PERSON.value, "resolved_at": now}
    return Transition(State.CLOSED, None, (told,), changes)


def proposal(strategy: str) -> Decide:
    """A guardian's proposal: a plan of one strategy, for an incident for which the fabric does nothing more.

    It may only be one that the service's plans name for some failure, and that can be used on its target. The
    guardrails and the mode judge it when it is about to begin, as any plan.
    """

    def propose(incident: Incident, context: Context, by: str) -> Transition | None:
        if incident.state not in (State.ESCALATED, State.AWAITING_APPROVAL):
            raise DecisionRefused(f"the incident is {incident.state}: the fabric has a plan of its own")
        service, settings = str(incident.service), context.settings
        if not incident.is_of(settings.services):
            raise DecisionRefused("nothing is done about a service that is not configured")
        if strategy not in settings.strategies_of(service):
            raise DecisionRefused(f"no plan of {service} allows {strategy}")
        try:
            context.strategies[strategy].on(service)
        except (NotApplicable, TargetUnreadable) as error:
            raise DecisionRefused(f"{strategy} is not possible: {error}") from error
        told = Entry(
            Kind.PLAN, f"{by} proposed to {strategy} {service}.", {"strategies": [strategy], "by": by}
        )
        changes = {"plan": [strategy], "verification": None, "approved_by": None}
        return Transition(State.RECOVERING, 0.0, (told,), changes)

    return propose


def _label(incident: Incident) -> str:
    return str(incident.service) if incident.known_service else UNKNOWN_SERVICE


DECISIONS: Mapping[str, Decide] = {
    "acknowledge": _acknowledge,
    "approve": _approve,
    "reject": _reject,
    "escalate": _escalate,
    "close": _close,
}
