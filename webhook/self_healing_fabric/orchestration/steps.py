"""One function for each state: look, decide, say why. The states and ways are drawn in `incidents.lifecycle`.

A step reads the incident as claimed and returns a `Step`; it commits nothing but the announcement of an
action, so that a step which is repeated after a crash finds what it needs to know. When Prometheus cannot be
asked, every step waits and says so; waiting too long calls people, because an incident must not be forgotten
in a corner.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row

from self_healing_fabric.diagnosis import Diagnosis, diagnose
from self_healing_fabric.diagnosis.evidence import collect
from self_healing_fabric.guardrails import mode
from self_healing_fabric.incidents.correlation import reopened
from self_healing_fabric.incidents.evidence import Evidence
from self_healing_fabric.incidents.lifecycle import Outcome, State, Transition
from self_healing_fabric.incidents.models import Incident
from self_healing_fabric.incidents.timeline import Entry, Kind
from self_healing_fabric.orchestration import journal
from self_healing_fabric.orchestration.context import Context
from self_healing_fabric.orchestration.escalation_manager import escalate
from self_healing_fabric.recovery.outcomes import Outcome as ActionOutcome
from self_healing_fabric.recovery.outcomes import Status
from self_healing_fabric.recovery.planning import Plan, make_plan
from self_healing_fabric.recovery.platforms import TargetUnreadable
from self_healing_fabric.recovery.strategies import Strategy
from self_healing_fabric.recovery.verification import Health, Look, Verdict, watched_signals
from self_healing_fabric.settings import Mode
from self_healing_fabric.store import statements
from shf_queries import QueryError

WAIT_POLL = 5.0  # seconds between two tries while a server is away
PAUSE_POLL = 1.0  # seconds between two looks at the mode before an effect


@dataclass(frozen=True)
class Step:
    """What one step decided, and what it finished on the way."""

    transition: Transition
    finished: journal.Finished | None = None
    verdict: tuple[str, str] | None = None
    strategy: str | None = None  # of the finished action


def advance(incident: Incident, context: Context) -> Step:
    """Do the one step that the incident's state asks for. Raises StoreUnavailable, LeaseLost."""
    steps = {
        State.DETECTED: _detected,
        State.DIAGNOSING: _diagnosing,
        State.AWAITING_APPROVAL: _awaiting_approval,
        State.RECOVERING: _recovering,
        State.VERIFYING: _verifying,
        State.ESCALATED: _escalated,
        State.RESOLVED: _resolved,
    }
    try:
        return steps[incident.state](incident, context)
    except QueryError as error:
        return _wait(incident, context, str(error))


def _wait(incident: Incident, context: Context, reason: str, poll: float = WAIT_POLL) -> Step:
    """Stay and try again; after `escalation.max_wait` call people, and go on waiting as escalated."""
    stay = Transition(incident.state, poll, waiting_for=reason)
    waited = (
        context.clock() - incident.waiting_since if incident.waiting_since and incident.waiting_for else 0.0
    )
    if waited < context.settings.escalation.max_wait or incident.state in (State.ESCALATED, State.RESOLVED):
        return Step(stay)
    moved = Transition(State.ESCALATED, poll, changes=_watch_from(context.clock()))
    return Step(escalate(incident, context, moved, f"has waited {waited:.0f} s: {reason}"))


def _to_people(incident: Incident, context: Context, reason: str, *entries: Entry, **finished: Any) -> Step:
    """Give up acting, call the next level, and only watch from now on."""
    now = context.clock()
    moved = Transition(State.ESCALATED, _look_interval(context), entries, {"plan": [], **_watch_from(now)})
    return Step(escalate(incident, context, moved, reason), **finished)


def _watch_from(now: float) -> dict[str, Any]:
    return {"verification": {"since": now, "action": None, "started_before": None, "deadline": None}}


def _look_interval(context: Context) -> float:
    return context.settings.verification.interval


def _detected(incident: Incident, context: Context) -> Step:
    if incident.known_service:
        return Step(Transition(State.DIAGNOSING, 0.0))
    name = repr(incident.service) if incident.service else "no service"
    reason = f"the alert names {name}, which the configuration does not: nothing will be done about it"
    step = _to_people(incident, context, reason)
    # People are told once; an alert that is not ours to heal must not climb to level 4.
    return Step(_with_changes(step.transition, level_due_at=None))


def _with_changes(transition: Transition, **changes: Any) -> Transition:
    merged = {**transition.changes, **changes}
    return Transition(transition.state, transition.due_in, transition.entries, merged, transition.waiting_for)


def _diagnosing(incident: Incident, context: Context) -> Step:
    now = context.clock()
    service = str(incident.service)
    configured = context.settings.services[service]
    with context.metrics.diagnosis_seconds.time():
        seen = collect(
            context.prometheus,
            service=service,
            depends_on=configured.depends_on,
            thresholds=context.settings.thresholds,
            at=now,
        )
        dependants = [
            name for name, other in context.settings.services.items() if service in other.depends_on
        ]
        diagnosis = diagnose(
            seen,
            alert_signals=_signals(incident, context),
            opened_at=incident.opened_at,
            severity=incident.severity,
            tier=configured.tier,
            dependants=dependants,
        )
    plan = make_plan(
        failure_class=diagnosis.failure_class.value,
        cause_service=diagnosis.cause.service,
        confidence=diagnosis.cause.confidence,
        service=service,
        settings=context.settings,
        known=context.strategies,
    )
    return _diagnosed(incident, context, diagnosis, plan)


def _diagnosed(incident: Incident, context: Context, diagnosis: Diagnosis, plan: Plan) -> Step:
    entries = (
        *_diagnosis_entries(diagnosis),
        Entry(Kind.PLAN, str(plan), {"strategies": list(plan.strategies)}),
    )
    changes = {
        "diagnosis": diagnosis.as_dict(),
        "failure_class": diagnosis.failure_class.value,
        "pattern": diagnosis.cause.pattern.value,
        "confidence": diagnosis.cause.confidence,
        "plan": list(plan.strategies),
    }
    if plan.strategies:
        return Step(Transition(State.RECOVERING, 0.0, entries, changes))
    step = _to_people(
        incident, context, f"nothing may be tried for {diagnosis.failure_class.value}", *entries
    )
    return Step(_with_changes(step.transition, **changes))


def _diagnosis_entries(diagnosis: Diagnosis) -> list[Entry]:
    facts = dict.fromkeys((*diagnosis.classification.evidence, *diagnosis.cause.evidence))
    cause = diagnosis.cause
    message = (
        f"{diagnosis.failure_class.value}: {diagnosis.classification.reason}. "
        f"Cause: {cause.pattern.value} in {cause.service}, confidence {cause.confidence:.2f}."
    )
    told = Entry(Kind.DIAGNOSIS, message, diagnosis.as_dict())
    return [*(_evidence_entry(fact) for fact in facts), told]


def _evidence_entry(fact: Evidence) -> Entry:
    return Entry(Kind.EVIDENCE, fact.statement, fact.as_dict())


def _awaiting_approval(incident: Incident, context: Context) -> Step:
    return _to_people(incident, context, "nobody approved the plan in time")


def _recovering(incident: Incident, context: Context) -> Step:
    unfinished = context.store.read(
        lambda connection: statements.unfinished_action_of(connection, incident.id)
    )
    if unfinished is not None:
        return _after_interruption(incident, context, unfinished)
    if not incident.plan:
        return _to_people(incident, context, "everything that may be tried has been tried")
    service = str(incident.service)
    health, evidence = context.verifier.health(service, _signals(incident, context), context.clock())
    entries = tuple(_evidence_entry(fact) for fact in evidence)
    if health is Health.UNKNOWN:
        return _wait(incident, context, "no current samples tell whether it still fails, so nothing is done")
    if health is Health.CALM:
        calm = Entry(
            Kind.NOTE, "Inside all limits before anything was done: only watching whether it stays so."
        )
        return Step(_verify_from(context, action=None, started_before=None, entries=(*entries, calm)))
    return _act(incident, context, context.strategies[incident.plan[0]], entries)


def _act(incident: Incident, context: Context, strategy: Strategy, entries: tuple[Entry, ...]) -> Step:
    service = str(incident.service)
    configured = context.settings.services[service]
    current = context.store.read(lambda connection: mode.current(connection, context.settings))
    if current is Mode.DRY_RUN:
        would = Entry(
            Kind.NOTE, f"Dry run: would {strategy.name} {strategy.platform(service, configured)[1]}."
        )
        return _to_people(incident, context, "dry run: a person must do it", *entries, would)
    if current is Mode.APPROVAL and strategy.disruptive and not incident.approved_by:
        deadline = context.settings.escalation.levels[incident.level].deadline
        asks = Entry(
            Kind.PLAN, f"Asks for approval to {strategy.name} {service}.", {"strategy": strategy.name}
        )
        return Step(
            Transition(State.AWAITING_APPROVAL, deadline, (*entries, asks), waiting_for="a person's approval")
        )
    try:
        action = _new_action(incident, context, strategy)
    except TargetUnreadable as error:
        return _next(incident, context, f"{strategy.name} is not possible: {error}", *entries)
    refusal = journal.announce(
        context, incident, action=action, strategy=strategy.name, disruptive=strategy.disruptive
    )
    if refusal is not None:
        context.metrics.blocks.labels(service, refusal.guardrail).inc()
        blocked = Entry(Kind.GUARDRAIL, f"{refusal.guardrail} refuses: {refusal.reason}.", vars(refusal))
        if refusal.retry_at is None:
            return _to_people(incident, context, f"{refusal.guardrail}: {refusal.reason}", *entries, blocked)
        # The entry is written once, at the first refusal; the next looks only wait.
        told = () if incident.waiting_for else (*entries, blocked)
        poll = max(PAUSE_POLL, refusal.retry_at - context.clock())
        return Step(
            Transition(State.RECOVERING, poll, told, waiting_for=f"{refusal.guardrail}: {refusal.reason}")
        )
    return _perform(incident, context, strategy, action, entries)


def _new_action(incident: Incident, context: Context, strategy: Strategy) -> dict[str, Any]:
    """Describe the next attempt and what the target looks like before it. Raises TargetUnreadable."""
    service = str(incident.service)
    configured = context.settings.services[service]
    earlier = context.store.read(lambda connection: statements.actions_of(connection, incident.id))
    platform, target = strategy.platform(service, configured)
    before = dict(strategy.before(service, configured))
    if strategy.disruptive:
        before["process_start"] = context.verifier.start_time(service, context.clock())
    return {
        "id": f"{incident.id}/{strategy.name}-{secrets.token_hex(4)}",
        "platform": platform,
        "target": target,
        "attempt": 1 + _failures_in_a_row(earlier, strategy.name),
        "before": before,
    }


def _failures_in_a_row(actions: Sequence[Row[Any]], strategy: str) -> int:
    """How often the strategy has failed since anything else happened: a relapse has its own three tries."""
    count = 0
    for row in reversed(actions):
        if row.strategy != strategy or row.status != Status.FAILED.value:
            break
        count += 1
    return count


def _perform(
    incident: Incident,
    context: Context,
    strategy: Strategy,
    action: dict[str, Any],
    entries: tuple[Entry, ...],
) -> Step:
    service = str(incident.service)
    if not journal.begin(context, incident, action["id"]):
        outcome = ActionOutcome(Status.FAILED, "paused before it began; nothing was done", 0.0)
        paused = Transition(State.RECOVERING, PAUSE_POLL, entries, waiting_for="mode: the fabric is paused")
        return Step(paused, finished=(action["id"], outcome), strategy=strategy.name)
    with context.metrics.action_seconds.labels(strategy.name).time():
        outcome = strategy.perform(
            service,
            context.settings.services[service],
            key=action["id"],
            attempt=action["attempt"],
            before=action["before"],
        )
    return _after_action(incident, context, strategy, action, outcome, entries)


def _after_action(
    incident: Incident,
    context: Context,
    strategy: Strategy,
    action: dict[str, Any],
    outcome: ActionOutcome,
    entries: tuple[Entry, ...] = (),
) -> Step:
    told = Entry(
        Kind.ACTION,
        f"{strategy.name} {outcome.status}: {outcome.detail}",
        {"action": action["id"], "strategy": strategy.name, "status": outcome.status.value},
    )
    entries, finished = (*entries, told), (action["id"], outcome)
    if outcome.status is Status.SUCCEEDED:
        started_before = action["before"].get("process_start")
        transition = _verify_from(
            context, action=action["id"], started_before=started_before, entries=entries
        )
        return Step(transition, finished=finished, strategy=strategy.name)
    if outcome.status is Status.INDETERMINATE:
        reason = f"whether {strategy.name} happened cannot be learnt: {outcome.detail}"
        return _to_people(incident, context, reason, *entries, finished=finished, strategy=strategy.name)
    if outcome.retry_in is not None:
        transition = Transition(State.RECOVERING, outcome.retry_in, entries)
        return Step(transition, finished=finished, strategy=strategy.name)
    return _next(
        incident, context, f"{strategy.name} failed", *entries, finished=finished, strategy=strategy.name
    )  # fmt: skip


def _next(incident: Incident, context: Context, reason: str, *entries: Entry, **finished: Any) -> Step:
    """Go on to the next strategy of the plan, or to people when there is none."""
    rest = list(incident.plan[1:])
    if not rest:
        return _to_people(incident, context, reason, *entries, **finished)
    return Step(Transition(State.RECOVERING, 0.0, entries, {"plan": rest}), **finished)


def _after_interruption(incident: Incident, context: Context, row: Row[Any]) -> Step:
    """An action was announced and its end never written: learn from the target what became of it."""
    service = str(incident.service)
    strategy, configured = context.strategies[row.strategy], context.settings.services[service]
    action = {"id": row.id, "before": row.before}
    if row.status == Status.INTENDED.value:
        outcome = ActionOutcome(Status.FAILED, "the fabric was interrupted before it began", 0.0)
        return _after_action(incident, context, strategy, action, outcome)
    ends = row.started_at + strategy.longest_effect(service, configured)
    if (left := ends - context.clock()) > 0:
        reason = f"{row.strategy} was interrupted; the target can be asked in {left:.0f} s what became of it"
        return Step(Transition(State.RECOVERING, left, waiting_for=reason))
    outcome = strategy.observe(service, configured, before=row.before)
    if outcome.status is Status.FAILED and outcome.retry_in is None:
        outcome = ActionOutcome(outcome.status, outcome.detail, 0.0)  # it did not happen, so it may be tried
    return _after_action(incident, context, strategy, action, outcome)


def _verify_from(
    context: Context, *, action: str | None, started_before: float | None, entries: tuple[Entry, ...]
) -> Transition:
    now = context.clock()
    deadline = now + context.settings.verification.deadline
    pending = {"since": now, "action": action, "started_before": started_before, "deadline": deadline}
    return Transition(State.VERIFYING, _look_interval(context), entries, {"verification": pending})


def _look(incident: Incident, context: Context) -> Look:
    pending = incident.verification or {}
    return context.verifier.look(
        str(incident.service),
        _signals(incident, context),
        since=pending["since"],
        deadline=pending["deadline"],
        now=context.clock(),
        started_before=pending["started_before"],
    )


def _verifying(incident: Incident, context: Context) -> Step:
    pending = incident.verification or {}
    try:
        look = _look(incident, context)
    except QueryError as error:
        if context.clock() < pending["deadline"]:
            return Step(Transition(State.VERIFYING, _look_interval(context), waiting_for=str(error)))
        look = Look(Verdict.NO_EVIDENCE, f"No evidence until the deadline: {error}", ())
    if look.verdict is None:
        return Step(Transition(State.VERIFYING, _look_interval(context)))
    entry = Entry(Kind.VERIFICATION, look.statement, look.as_dict())
    action = pending["action"]
    verdict = (action, look.verdict.value) if action else None
    if look.verdict is Verdict.HEALED:
        return Step(_resolve(context, _outcome(incident, context), entry), verdict=verdict)
    return _not_healed(incident, context, look, entry, verdict)


def _outcome(incident: Incident, context: Context) -> Outcome:
    """Only a disruptive action can claim to have healed; after a mere probe it recovered by itself."""
    actions = context.store.read(lambda connection: statements.actions_of(connection, incident.id))
    verified = (incident.verification or {}).get("action")
    healed = any(row.id == verified and row.disruptive for row in actions)
    return Outcome.HEALED if healed else Outcome.RECOVERED


def _resolve(context: Context, outcome: Outcome, entry: Entry) -> Transition:
    changes = {"outcome": outcome.value, "resolved_at": context.clock(), "level_due_at": None}
    return Transition(State.RESOLVED, context.settings.relapse_window, (entry,), changes)


def _not_healed(
    incident: Incident, context: Context, look: Look, entry: Entry, verdict: tuple[str, str] | None
) -> Step:
    """One level up in any case; on with the plan only when it is known that the service still fails."""
    rest = list(incident.plan[1:]) if verdict else list(incident.plan)
    if look.verdict is Verdict.NO_EVIDENCE or not rest:
        return _to_people(incident, context, look.statement, entry, verdict=verdict)
    onward = Transition(State.RECOVERING, 0.0, (entry,), {"plan": rest, "verification": None})
    return Step(escalate(incident, context, onward, look.statement), verdict=verdict)


def _escalated(incident: Incident, context: Context) -> Step:
    if not incident.known_service:
        return _close_when_alerts_ended(incident, context)
    now, unseen = context.clock(), None
    try:
        look = _look(incident, context)
    except QueryError as error:
        unseen = str(error)  # the levels' deadlines run on: nobody may wait for a Prometheus that is away
    else:
        if look.verdict is Verdict.HEALED:
            told = Entry(Kind.VERIFICATION, look.statement, look.as_dict())
            return Step(_resolve(context, Outcome.RECOVERED, told))
    stay = Transition(State.ESCALATED, _look_interval(context), waiting_for=unseen)
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


def _resolved(incident: Incident, context: Context) -> Step:
    """The relapse window is over: close when all alerts ended, start over when one still fires."""
    if not _firing(incident, context):
        return Step(Transition(State.CLOSED, None, changes={"closed_at": context.clock()}))
    again = Entry(Kind.STATE, "Re-opened: an alert still fires although the incident was resolved.")
    changes = reopened(incident.relapses, context.clock())
    return Step(Transition(State.DIAGNOSING, 0.0, (again,), {**changes, "state": State.DIAGNOSING.value}))


def _firing(incident: Incident, context: Context) -> bool:
    rows = context.store.read(lambda connection: statements.alerts_of(connection, incident.id))
    return any(row.status == "firing" for row in rows)


def _signals(incident: Incident, context: Context) -> tuple[str, ...]:
    rows = context.store.read(lambda connection: statements.alerts_of(connection, incident.id))
    return watched_signals([row.labels for row in rows])
