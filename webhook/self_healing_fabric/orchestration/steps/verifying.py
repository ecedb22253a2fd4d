"""Verifying: watch the fresh samples until they prove healing, or the deadline proves that there is no proof.

A verdict other than healed always raises the level by one. The plan goes on only when it is known that the
service still fails; without evidence nothing more is done.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, Row

from self_healing_fabric.incidents import correlation
from self_healing_fabric.incidents.correlation import reopened
from self_healing_fabric.incidents.lifecycle import Outcome, State, Transition
from self_healing_fabric.incidents.models import Incident
from self_healing_fabric.incidents.timeline import Entry, Kind
from self_healing_fabric.incidents.unfinished import FOLLOWED_BY, finishes
from self_healing_fabric.orchestration import diagnosis_verdicts, journal
from self_healing_fabric.orchestration.context import Context
from self_healing_fabric.orchestration.effects import effect_of_action, to_undo
from self_healing_fabric.orchestration.escalation_manager import escalate
from self_healing_fabric.orchestration.steps.common import (
    EVIDENCE,
    Facts,
    Step,
    facts_of,
    look_interval,
    merged_into_cause,
    to_people,
    until_silence_ends,
)
from self_healing_fabric.orchestration.validation import ClaimedHealing, doubt_of
from self_healing_fabric.recovery.effects import NotApplicable, Progress, Settling, TargetUnreadable
from self_healing_fabric.recovery.strategies import UNDO
from self_healing_fabric.recovery.verification import Health, Look, Verdict
from self_healing_fabric.store import statements
from shf_queries import QueryError


def verify_from(
    context: Context,
    *,
    action: str | None,
    started_before: float | None,
    entries: tuple[Entry, ...],
    before: Mapping[str, float] | None = None,
    since: float | None = None,
) -> Transition:
    """To verifying, until the deadline. `before`: the signals' values before the action; `since`: when the
    samples that may prove it begin, now when left out."""
    now = context.clock()
    deadline = now + context.settings.verification.deadline
    pending = {
        "since": now if since is None else since,
        "action": action,
        "started_before": started_before,
        "deadline": deadline,
        "before": before,
    }
    return Transition(State.VERIFYING, look_interval(context), entries, {"verification": pending})


def telling_signals(incident: Incident, facts: Facts) -> frozenset[str]:
    """The signals that can tell whether it has healed: those that its own alerts name, and those for which a
    cause that does not alert is suspected."""
    return incident.suspected_for.union(facts.signals)


def look_at(incident: Incident, context: Context, facts: Facts) -> Look:
    """One look at the fresh samples of what is verified. Raises QueryError.

    That it answers proves nothing of what no signal tells: without a signal of its own it is never healed.
    """
    pending, service = incident.verification or {}, verified_service(incident, facts)
    own = service == incident.service
    signals = telling_signals(incident, facts) if own else frozenset(facts.signals_of(service))
    look = context.verifier.look(
        service,
        signals,
        since=pending["since"],
        deadline=pending["deadline"],
        now=context.clock(),
        acted=pending["action"] is not None,
        started_before=pending["started_before"],
        before=pending.get("before"),
    )
    if look.verdict is Verdict.HEALED and not signals:
        statement = "No evidence: it answers, but its alerts name no signal that tells whether it has healed."
        return Look(Verdict.NO_EVIDENCE, statement, look.evidence)
    return look


def verified_service(incident: Incident, facts: Facts) -> str:
    """That of the action; what was lent may be taken back from another service than the incident's."""
    action = _verified_action(incident, facts)
    return str(incident.service if action is None else action.service)


def _verified_action(incident: Incident, facts: Facts) -> Row[Any] | None:
    verified = (incident.verification or {}).get("action")
    return next((row for row in facts.actions if row.id == verified), None)


def verifying(incident: Incident, context: Context) -> Step:
    """Look; go on looking, resolve, or take the verdict's consequence."""
    pending, facts = incident.verification or {}, facts_of(incident, context)
    try:
        look = look_at(incident, context, facts)
    except QueryError as error:
        if context.clock() < pending["deadline"]:
            return Step(
                Transition(State.VERIFYING, look_interval(context), waiting_for=f"{EVIDENCE}: {error}")
            )
        look = Look(Verdict.NO_EVIDENCE, f"No evidence until the deadline: {error}", ())
    unseen = context.clock() - incident.updated_at
    if look.verdict is Verdict.NO_EVIDENCE and unseen > context.settings.verification.stability:
        return _later_by(unseen, incident, context)
    if look.verdict is not None:
        look = _as_the_target_says(look, incident, context, facts)
    doubt = doubted(look, incident, context, facts)
    if doubt is not None and context.clock() < pending["deadline"]:
        return Step(Transition(State.VERIFYING, look_interval(context), waiting_for=f"validation: {doubt}"))
    if doubt is not None:
        statement = f"Inside all limits, but it may not be called healed: {doubt}."
        look = Look(Verdict.NO_EVIDENCE, statement, look.evidence)
    if look.verdict is None:
        return Step(Transition(State.VERIFYING, look_interval(context)))
    entry = Entry(Kind.VERIFICATION, look.statement, look.as_dict())
    action = pending["action"]
    verdict = (action, look.verdict.value) if action else None
    if look.verdict is Verdict.HEALED:
        if incident.resolved_at is not None:
            # It had healed before, and stayed so when what was done for it was taken back.
            return Step(_still_resolved(incident, context, entry), verdict=verdict)
        return Step(
            resolve(context, _outcome(incident, facts), entry),
            verdict=verdict,
            learned=_learned(incident, context, facts, healed=True),
            also=split_unhealed(incident, context, facts),
        )
    if facts.silenced:
        return until_silence_ends(incident, look_interval(context))
    if incident.resolved_at is not None:
        service = verified_service(incident, facts)
        if service != incident.service:
            reason = "what had been lent to it was taken back, and it fails again"
            also = (split_off(incident, service, reason, context),)
            return Step(_still_resolved(incident, context, entry), verdict=verdict, also=also)
        return Step(_relapsed(incident, context, entry), verdict=verdict)
    step = _not_healed(incident, context, facts, look, entry, verdict)
    if look.verdict is Verdict.NOT_HEALED:
        step = replace(step, learned=_learned(incident, context, facts, healed=False))
    return step


def _later_by(unseen: float, incident: Incident, context: Context) -> Step:
    """Nobody has looked for so long: the host was away, perhaps with Prometheus, or the clock was set
    forward. That no sample tells of that time says nothing of the service."""
    pending = incident.verification or {}
    told = Entry(Kind.NOTE, f"Nobody has looked for {unseen:.0f} s: the deadline is later by as much.")
    changes = {"verification": {**pending, "deadline": pending["deadline"] + unseen}}
    return Step(Transition(State.VERIFYING, look_interval(context), (told,), changes))


def healed_meanwhile(incident: Incident, context: Context, facts: Facts) -> Step | None:
    """To verifying, when the fresh samples prove already that it has healed while it waited.

    Anything less changes nothing: what waits may be a question that people have heard. And what comes next
    may finish what was done before: that is done, however well it is.
    """
    since = incident.waiting_since
    if not incident.waiting_for or since is None or not facts.signals:
        return None
    if finishes(incident.plan, str(incident.service), facts.actions):
        return None
    try:
        look = context.verifier.look(
            str(incident.service), facts.signals, since=since, deadline=None, now=context.clock()
        )
    except QueryError:
        return None
    if look.verdict is not Verdict.HEALED or doubted(look, incident, context, facts) is not None:
        return None
    told = Entry(Kind.NOTE, "Inside all limits by itself, while it waited: nothing is done about it.")
    proved = verify_from(context, action=None, started_before=None, entries=(told,), since=since)
    return Step(replace(proved, due_in=0.0))


def doubted(look: Look, incident: Incident, context: Context, facts: Facts) -> str | None:
    """Why the validation gate does not let the incident be called healed; None when it does, or need not."""
    if look.verdict is not Verdict.HEALED:
        return None
    evidence = [each.as_dict() for each in look.evidence]
    service = verified_service(incident, facts)
    return doubt_of(context.gate, ClaimedHealing(incident.id, service, look.statement, evidence))


def _as_the_target_says(look: Look, incident: Incident, context: Context, facts: Facts) -> Look:
    """Not healed while the effect is not through: a rollout that hangs half way may look healthy. Where
    nothing can tell that any more, nothing is proved."""
    action, unknown = _verified_repair(incident, facts), False
    if action is None:
        return look
    try:
        effect = effect_of_action(context, action, facts.actions)
        settling = effect.settled(action.before)
    except (NotApplicable, TargetUnreadable) as error:
        unknown, settling = True, Settling(Progress.UNDER_WAY, str(error))
    over = context.clock() >= (incident.verification or {})["deadline"]
    if settling.progress is Progress.FAILED:
        return Look(Verdict.NOT_HEALED, f"Not healed: {settling.detail}.", look.evidence, look.worse)
    if settling.progress is Progress.DONE:
        return look
    if look.verdict is not Verdict.HEALED:
        return replace(look, statement=f"{look.statement} The target does not confirm it: {settling.detail}.")
    how = "whether it is through cannot be learnt" if unknown else "not through"
    verdict = Verdict.NO_EVIDENCE if unknown else Verdict.NOT_HEALED
    return Look(verdict if over else None, f"Inside all limits, but {how}: {settling.detail}.", look.evidence)


def _still_resolved(incident: Incident, context: Context, entry: Entry) -> Transition:
    transition = resolve(context, Outcome.HEALED, entry)
    return replace(transition, changes={**transition.changes, "outcome": incident.outcome})


def _relapsed(incident: Incident, context: Context, entry: Entry) -> Transition:
    """It had healed, and fails again since what was done for it was taken back: it starts over."""
    again = Entry(Kind.STATE, "Re-opened: it was healed, and is not any more since that was taken back.")
    changes = reopened(incident.relapses, context.clock())
    return Transition(State.DIAGNOSING, 0.0, (entry, again), changes)


def _outcome(incident: Incident, facts: Facts) -> Outcome:
    """Only a disruptive action can claim to have healed; after a mere probe it recovered by itself."""
    return Outcome.HEALED if _verified_repair(incident, facts) else Outcome.RECOVERED


def _verified_repair(incident: Incident, facts: Facts) -> Row[Any] | None:
    action = _verified_action(incident, facts)
    return action if action is not None and action.disruptive and action.strategy != UNDO else None


def _learned(incident: Incident, context: Context, facts: Facts, *, healed: bool) -> Mapping[str, Any] | None:
    repair = _verified_repair(incident, facts)
    if repair is None:
        return None
    return diagnosis_verdicts.of_repair(
        incident, healed=healed, strategy=repair.strategy, now=context.clock()
    )


def resolve(context: Context, outcome: Outcome, entry: Entry) -> Transition:
    """To resolved, where the relapse window begins."""
    changes = {"outcome": outcome.value, "resolved_at": context.clock(), "level_due_at": None}
    return Transition(State.RESOLVED, context.settings.relapse_window, (entry,), changes)


def split_unhealed(incident: Incident, context: Context, facts: Facts) -> tuple[journal.Also, ...]:
    """The cause has healed: symptoms that still fail were none, and get incidents of their own."""
    failing = []
    for service, signals in facts.symptoms.items():
        try:
            health, _ = context.verifier.health(service, signals, context.clock())
        except QueryError:
            continue  # looked at again when the relapse window is over
        if health is Health.FAILING:
            failing.append(service)
    reason = f"{incident.service} has healed, and it still fails"
    return tuple(split_off(incident, service, reason, context) for service in failing)


def split_off(incident: Incident, service: str, reason: str, context: Context) -> journal.Also:
    """Give the service's alerts an incident of their own, in the transaction of the step."""
    now = context.clock()

    def also(connection: Connection) -> str | None:
        row = statements.incident(connection, incident.id)
        # A person may have split it off while its samples were asked for.
        if row is None or all(
            each.service != service for each in statements.alerts_of(connection, incident.id)
        ):
            return None
        _, opened = correlation.split(connection, row, service, reason, now)
        return service if opened else None

    return also


def _not_healed(
    incident: Incident,
    context: Context,
    facts: Facts,
    look: Look,
    entry: Entry,
    verdict: tuple[str, str] | None,
) -> Step:
    """One level up in any case; on with the plan only when it is known that the service still fails."""
    merged = merged_into_cause(incident, context, entry, verdict=verdict)
    rest = list(incident.plan[1:]) if verdict else list(incident.plan)
    if look.verdict is Verdict.NO_EVIDENCE:
        rest = []
    if _to_be_undone(incident, context, facts, look):
        # Whoever is called hears what became of that too. Nobody is for what will be merged then.
        back = {"plan": [UNDO, *rest], "verification": None}
        undoing = Transition(State.RECOVERING, 0.0, (entry,), back)
        return Step(escalate(undoing, look.statement) if rest and not merged else undoing, verdict=verdict)
    if merged is not None:
        return merged
    if not rest:
        return to_people(incident, context, look.statement, entry, verdict=verdict)
    onward = Transition(State.RECOVERING, 0.0, (entry,), {"plan": rest, "verification": None})
    return Step(escalate(onward, look.statement), verdict=verdict)


def _to_be_undone(incident: Incident, context: Context, facts: Facts, look: Look) -> bool:
    """Whether the action that was verified is taken back: it made things worse, or its kind always is."""
    action = _verified_repair(incident, facts)
    if action is None:
        return False
    undoable = to_undo(context, incident, facts.actions)
    # What only completed it, such as the restart after a new configuration, was verified in its stead.
    if undoable is None or (undoable.id != action.id and undoable.before.get(FOLLOWED_BY) != action.strategy):
        return False
    effect = effect_of_action(context, undoable, facts.actions)
    return look.worse or effect.undone_unless_healed
