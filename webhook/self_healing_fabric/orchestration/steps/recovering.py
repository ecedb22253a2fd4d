"""Recovering: ask once more whether it still fails, ask the guardrails, write down, act.

The order is what keeps the promise "nothing twice, never on doubt": the newest samples are asked right before
the effect; the intent is committed before it; an intent without an end, found after a crash, is never
repeated blindly but looked up at the target.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Row

from self_healing_fabric.errors import StoreUnavailable
from self_healing_fabric.guardrails import Measured, Refusal, mode
from self_healing_fabric.incidents.lifecycle import Rise, State, Transition
from self_healing_fabric.incidents.models import Incident
from self_healing_fabric.incidents.telling import target_in_words
from self_healing_fabric.incidents.timeline import Entry, Kind
from self_healing_fabric.incidents.unfinished import FOLLOWED_BY, completes, finishes
from self_healing_fabric.orchestration import journal, questions, waits
from self_healing_fabric.orchestration.context import Context
from self_healing_fabric.orchestration.effects import (
    AGAIN,
    AWAKE,
    SILENT,
    UNCHANGED,
    UNDOES,
    Next,
    effect_of_action,
    next_effect,
)
from self_healing_fabric.orchestration.escalation_manager import escalate, hand_to_people, watch_from
from self_healing_fabric.orchestration.leases import CLOCK_SPREADS_WITHIN, steady
from self_healing_fabric.orchestration.steps.common import (
    LONGEST_PATIENCE,
    WAIT_POLL,
    Facts,
    Step,
    evidence_entry,
    facts_and_mode_of,
    in_maintenance,
    look_interval,
    merged_into_cause,
    patience,
    to_people,
    until_next_look,
    until_silence_ends,
    wait,
    with_changes,
)
from self_healing_fabric.orchestration.steps.verifying import healed_meanwhile, verify_from
from self_healing_fabric.recovery.effects import (
    ATTEMPTS,
    BUSY_PAUSE,
    WHY,
    Effect,
    NotApplicable,
    TargetAway,
    TargetUnreadable,
    left_open,
    unread,
)
from self_healing_fabric.recovery.outcomes import Outcome as ActionOutcome
from self_healing_fabric.recovery.outcomes import Permit, Status, Untold, Untouched
from self_healing_fabric.recovery.strategies import UNDO
from self_healing_fabric.recovery.verification import Health
from self_healing_fabric.settings import Mode
from self_healing_fabric.store import statements
from shf_queries import QueryError, catalogue
from shf_queries.catalogue import SIGNALS

HELD_UP = 9.0  # of ten seconds that one incident waits for a silent target, a worker waits with it for one
PAUSE_POLL = 1.0  # seconds between two looks at the mode before an effect


def awaiting_approval(incident: Incident, context: Context) -> Step:
    """Watch whether it heals before a person answers, or none need answer; at the deadline people are called.

    Who was called meanwhile is not called over again. Inside a silence or a maintenance window nobody is
    called to answer: the whole time for that begins at its end.
    """
    (facts, mode_in_force), now = facts_and_mode_of(incident, context), context.clock()
    healed = healed_meanwhile(incident, context, facts)
    if healed is not None:
        return healed
    if mode_in_force is Mode.AUTOMATIC and _needs_no_leave(incident, context):
        told = Entry(Kind.NOTE, "The mode has become automatic: nobody is asked any more.")
        return Step(Transition(State.RECOVERING, 0.0, (told,), {"verification": None}))
    if _dropped(incident, context, incident.plan[0], facts.actions) is not None:
        return Step(Transition(State.RECOVERING, 0.0, changes={"verification": None}))
    asked = incident.verification or watch_from(now, deadline=now)["verification"]
    if facts.silenced or in_maintenance(incident, context) is not None:
        asked = {**asked, "deadline": now + waits.for_approval(context.settings, incident.level)}
    left = asked["deadline"] - now
    if left > 0:
        pause, changes = min(patience(incident, context), left), {"verification": asked}
        return Step(
            Transition(State.AWAITING_APPROVAL, pause, changes=changes, waiting_for=incident.waiting_for)
        )
    lapsed = Entry(Kind.NOTE, "Nobody has approved it in time: nothing of the plan is done any more.")
    moved = hand_to_people(context, reason := "nobody approved the plan in time", lapsed)
    return Step(replace(moved, rise=Rise(reason, first=True)))


def recovering(incident: Incident, context: Context) -> Step:
    """Try the first strategy of the plan, if it still fails and the guardrails allow it."""
    seen = context.leases.steady()
    facts, mode_in_force = facts_and_mode_of(incident, context)
    if facts.unfinished_action is not None:
        return _after_interruption(incident, context, facts.unfinished_action, facts.actions)
    strategy = incident.plan[0] if incident.plan else None
    if facts.silenced:
        return healed_meanwhile(incident, context, facts) or until_silence_ends(incident)
    finishing = finishes(incident.plan, str(incident.service), facts.actions)
    merged = None if finishing else merged_into_cause(incident, context)
    if merged is not None:
        return merged
    window = None if strategy == UNDO else in_maintenance(incident, context)
    if window is not None:
        # Before anything is asked of the target, or given up: people may have taken that down.
        healed = healed_meanwhile(incident, context, facts)
        return healed or _refused(incident, context, window, (), str(incident.service))
    if strategy is None:
        return to_people(incident, context, "what was done before is undone, for it did not heal")
    dropped = _dropped(incident, context, strategy, facts.actions)
    if dropped is not None:
        return _next(incident, context, dropped, Entry(Kind.PLAN, f"{dropped}."))
    if finishing:
        return _act(incident, context, strategy, facts, mode_in_force, (), seen)
    if not context.strategies[strategy].disruptive:
        healed = healed_meanwhile(incident, context, facts)
        return healed or _act(incident, context, strategy, facts, mode_in_force, (), seen)
    health, evidence = context.verifier.health(str(incident.service), facts.signals, context.clock())
    entries = tuple(evidence_entry(fact) for fact in evidence)
    if health is Health.UNKNOWN:
        asked = (SIGNALS[name].fresh_series for name in sorted(facts.signals))
        unknown = " and ".join(catalogue.series_of(series, str(incident.service)) for series in asked)
        reason = f"no current samples of {unknown} tell whether it still fails, so nothing is done"
        return wait(incident, context, reason)
    if health is Health.CALM:
        calm = Entry(
            Kind.NOTE, "Inside all limits before anything was done: only watching whether it stays so."
        )
        watched = Step(verify_from(context, action=None, started_before=None, entries=(*entries, calm)))
        return healed_meanwhile(incident, context, facts) or watched
    return _act(incident, context, strategy, facts, mode_in_force, entries, seen)


def _act(
    incident: Incident,
    context: Context,
    strategy: str,
    facts: Facts,
    mode_in_force: Mode,
    entries: tuple[Entry, ...],
    seen: float,
) -> Step:
    if mode_in_force is Mode.PAUSED:
        # Before the target is read: who reads whole states once a second disturbs, too.
        return _refused(incident, context, mode.paused(context.clock()), entries, str(incident.service))
    left = _left_alone_until(strategy, facts.actions) - context.clock()
    if left > 0:
        # What wakes an incident, such as an alert or a level that is due, makes its target no readier.
        return Step(_tried_again(strategy, left, entries))
    disruptive = strategy == UNDO or context.strategies[strategy].disruptive
    asked = steady()
    try:
        following = next_effect(context, incident, strategy, facts.actions)
        effect, service = following.effect, following.service
        if service != incident.service:
            mode_in_force = _mode_of(context, service, strategy)
            if mode_in_force is Mode.PAUSED:
                return _refused(incident, context, mode.paused(context.clock()), entries, service)
        with context.looks.of(effect):
            action = _new_action(incident, context, strategy, following, facts.actions)
    except TargetAway as error:
        return wait(incident, context, f"{strategy} is not possible yet: {error}", _pause_after(asked))
    except (NotApplicable, TargetUnreadable) as error:
        reason = f"{strategy} is not possible: {error}"
        return _next(incident, context, reason, *entries, Entry(Kind.PLAN, f"{reason}."))
    if mode_in_force is Mode.APPROVAL and disruptive:
        part_of = _part_of(strategy, action, facts.actions)
        leave = questions.leave_for(context, incident, action, strategy, facts.actions, part_of)
        if leave.given_to is None:
            measured = _measured(context, service, strategy)
            refusal = journal.ask_guardrails(context, action, strategy, disruptive, measured)
            if refusal is not None and refusal.retry_at is None:
                # Nobody is asked, and waited for, who could not allow it anyway.
                return _refused(incident, context, refusal, entries, service)
            return _ask_for_approval(incident, context, strategy, action, leave, entries)
        action["before"][questions.GIVEN_TO] = leave.given_to
    measured = _measured(context, service, strategy) if disruptive else Measured()
    refused = journal.ask_outside(context, action, strategy, disruptive)
    measured = replace(measured, refused=refused)
    if mode_in_force is Mode.DRY_RUN:
        refusal = journal.ask_guardrails(context, action, strategy, disruptive, measured)
        what, told = f"{strategy} {target_in_words(effect.target)}", journal.told_of(action, strategy)
        would = f"would {what}"
        if refusal is not None:
            would = f"{refusal.guardrail} would refuse to {what}: {refusal.reason}"
            told |= {"refused_by": refusal.guardrail}
        note = Entry(Kind.NOTE, f"Dry run: {would}.", told)
        return to_people(incident, context, f"dry run: {would}", *entries, note)
    answer = journal.announce(
        context,
        incident,
        action=action,
        strategy=strategy,
        disruptive=disruptive,
        measured=measured,
        entries=entries,
        decided_in=mode_in_force,
    )
    if isinstance(answer, Refusal):
        return _refused(incident, context, answer, entries, service)
    return _perform(incident, context, strategy, effect, action, mode_in_force, begun=answer, seen=seen)


def _pause_after(asked: float) -> float:
    """Seconds until a silent target is asked again: who swallows questions keeps a worker for the whole
    timeout, and enough of them would keep all."""
    return min(LONGEST_PATIENCE, max(WAIT_POLL, HELD_UP * (steady() - asked)))


def _needs_no_leave(incident: Incident, context: Context) -> bool:
    """Whether what was asked for may be done without; it may be on another service than the incident's."""
    asked = context.store.ask(lambda connection: questions.asked(connection, incident.id))
    if asked is None:
        return False
    service, strategy = asked.data.get("service", incident.service), asked.data["strategy"]
    return _mode_of(context, service, strategy) is Mode.AUTOMATIC


def _dropped(incident: Incident, context: Context, strategy: str, actions: Sequence[Row[Any]]) -> str | None:
    """Why the first of a plan is not done any more: it was planned, and perhaps approved, before a restart
    with another configuration. None where it is: what is begun may be completed and taken back."""
    if strategy == UNDO:
        return None
    if strategy not in context.strategies:
        return f"{strategy} is not installed any more"
    if finishes(incident.plan, str(incident.service), actions) or _is_planned(incident, context, strategy):
        return None
    return f"the plans do not name {strategy} for this any more"


def _is_planned(incident: Incident, context: Context, strategy: str) -> bool:
    """Whether the configuration names it for such a failure of the service, or for any, where a guardian has
    proposed it."""
    settings, service = context.settings, str(incident.service)
    if incident.failure_class and strategy in settings.plan_of(service, incident.failure_class):
        return True
    lines = context.store.ask(lambda connection: statements.timeline_of(connection, incident.id))
    plans = [line.data for line in lines if line.kind == Kind.PLAN and "strategies" in line.data]
    by_itself = plans and "by" not in plans[-1]
    return not by_itself and strategy in settings.strategies_of(service)


def _mode_of(context: Context, service: str, strategy: str) -> Mode:
    return context.store.ask(
        lambda connection: mode.current(
            connection, context.settings, context.unstored_pauses, service=service, strategy=strategy
        )
    )


def _measured(context: Context, service: str, strategy: str) -> Measured:
    """What the guardrails need of Prometheus; None for what gives no single number, and they refuse then."""
    limits = context.settings.limits_of(service, strategy)

    def ask(query: str | None) -> float | None:
        if query is None:
            return None
        try:
            samples = context.prometheus.instant(query, at=context.clock())
        except QueryError:
            return None
        return samples[0].value if len(samples) == 1 else None

    answering = catalogue.answering_targets_of(service) if limits.min_healthy else None
    return Measured(answering=ask(answering), deploying=ask(limits.deploying))


def _part_of(strategy: str, action: Mapping[str, Any], actions: Sequence[Row[Any]]) -> Row[Any] | None:
    """The action that this one takes back or completes, whose approval holds for it too."""
    if strategy == UNDO:
        return next(each for each in actions if each.id == action["before"][UNDOES])
    return completes(strategy, str(action["service"]), actions)


def _ask_for_approval(
    incident: Incident,
    context: Context,
    strategy: str,
    action: dict[str, Any],
    leave: questions.Leave,
    entries: tuple[Entry, ...],
) -> Step:
    """What is asked for is possible now, and people see what it would change."""
    what = f"{strategy} {action['service']}: {target_in_words(action['target'])}"
    if FOLLOWED_BY in action["before"]:
        what = f"{what}, then {action['before'][FOLLOWED_BY]}"
    message = f"Asks for approval to {what}."
    if leave.outdated:
        message = f"Asks again for approval to {what}. It is no longer what {incident.approved_by} approved."
    told = journal.told_of(action, strategy) | {questions.SEAL: questions.seal(context, action, strategy)}
    now = context.clock()
    deadline = now + waits.for_approval(context.settings, incident.level)
    asking = Transition(
        State.AWAITING_APPROVAL,
        look_interval(context),
        (*entries, Entry(Kind.PLAN, message, told)),
        {"approved_by": None, **watch_from(now, deadline=deadline)},
        waiting_for="a person's approval",
    )
    if incident.resolved_at is None:
        return Step(asking)
    # No level's time runs for what has healed: who is to answer hears of it now.
    reason = "it has healed, and what was lent to it may only be taken back when a person allows it"
    return Step(escalate(with_changes(asking, level=0), reason))


def _refused(
    incident: Incident, context: Context, refusal: Refusal, entries: tuple[Entry, ...], service: str
) -> Step:
    """Wait until the guardrail may allow it, or hand over to people when it never will by itself."""
    reason = f"{refusal.guardrail}: {refusal.reason}"
    blocked = Entry(Kind.GUARDRAIL, f"{refusal.guardrail} refuses: {refusal.reason}.", vars(refusal))
    # Told and counted once, at the first refusal; the looks after it only wait.
    first = not (incident.waiting_for or "").startswith(f"{refusal.guardrail}:")
    if first:
        context.metrics.blocks.labels(service, refusal.guardrail).inc()
    if refusal.next:
        return _next(incident, context, reason, *entries, blocked)
    if refusal.retry_at is None:
        return to_people(incident, context, reason, *entries, blocked)
    pause = min(LONGEST_PATIENCE, refusal.retry_at - context.clock())
    poll = max(PAUSE_POLL, until_next_look(incident, context, pause))
    told = (*entries, blocked) if first else ()
    waiting = Transition(State.RECOVERING, poll, told, waiting_for=reason)
    return Step(escalate(waiting, reason) if refusal.calls else waiting)


def _new_action(
    incident: Incident, context: Context, strategy: str, following: Next, earlier: Sequence[Row[Any]]
) -> dict[str, Any]:
    """Describe the next attempt and what the target looks like before it.

    Raises TargetUnreadable, NotApplicable.
    """
    effect, service = following.effect, following.service
    before = dict(effect.snapshot())
    if effect.renews_process:
        before["process_start"] = context.verifier.start_time(service, context.clock())
    if strategy == UNDO or context.strategies[strategy].disruptive:
        before["signals"] = context.verifier.condition(service, context.clock())
    if following.undoes is not None:
        before[UNDOES] = following.undoes
    return {
        "id": f"{incident.id}/{strategy}-{secrets.token_hex(4)}",
        "service": service,
        "platform": effect.platform,
        "target": effect.target,
        "attempt": 1 + _failures_in_a_row(earlier, service, strategy),
        "before": before,
    }


def _failures_in_a_row(actions: Sequence[Row[Any]], service: str, strategy: str) -> int:
    """How often the strategy has failed since anything else happened: a relapse has its own three tries."""
    count = 0
    for row in reversed([row for row in actions if row.service == service]):
        if row.strategy != strategy or row.status != Status.FAILED.value:
            break
        count += 1
    return count


def _perform(
    incident: Incident,
    context: Context,
    strategy: str,
    effect: Effect,
    action: dict[str, Any],
    decided_in: Mode,
    begun: float,
    seen: float,
) -> Step:
    until = begun + effect.begins_within
    with context.metrics.action_seconds.labels(strategy).time():
        outcome = effect.perform(
            key=action["id"],
            attempt=action["attempt"],
            before=action["before"],
            permit=_permit(incident, context, action["service"], strategy, decided_in, until, seen),
        )
    if isinstance(outcome, Untold):
        return _ask_again(incident, context, strategy, action, outcome, WAIT_POLL)
    return _after_action(incident, context, strategy, action, outcome)


def _permit(
    incident: Incident,
    context: Context,
    service: str,
    strategy: str,
    decided_in: Mode,
    until: float,
    seen: float,
) -> Permit:
    """The leave to begin until then (on the steady clock), by what was `seen` from that moment on.

    Connecting to the target takes a while. Meanwhile people may have stopped the fabric, or want to be asked
    first, and who finds the action unfinished after a crash asks the target when the longest effect should be
    over: a late one would come after that.
    """

    def permit() -> bool:
        try:
            now = _mode_of(context, service, strategy)
        except StoreUnavailable:
            return False
        held = context.leases.holds(incident, since=seen)
        return not mode.is_stricter(now, decided_in) and steady() < until and held

    return permit


def _after_action(
    incident: Incident, context: Context, strategy: str, action: dict[str, Any], outcome: ActionOutcome
) -> Step:
    told = Entry(
        Kind.ACTION,
        f"{strategy} {outcome.status}: {outcome.detail}",
        {"action": action["id"], "strategy": strategy, "status": outcome.status.value},
    )
    finished: dict[str, Any] = {
        "finished": (action["id"], outcome),
        "strategy": strategy,
        "service": action["service"],
    }
    rest = list(incident.plan[1:])
    if outcome.status is Status.SUCCEEDED and FOLLOWED_BY in action["before"]:
        following = action["before"][FOLLOWED_BY]
        plan = rest if rest[:1] == [following] else [following, *rest]
        return Step(Transition(State.RECOVERING, 0.0, (told,), {"plan": plan}), **finished)
    if outcome.status is Status.SUCCEEDED and strategy == UNDO and incident.resolved_at is None:
        # Before people are called, it may turn out to be a symptom.
        return Step(Transition(State.RECOVERING, 0.0, (told,), {"plan": rest}), **finished)
    if outcome.status is Status.SUCCEEDED:
        transition = verify_from(
            context,
            action=action["id"],
            started_before=action["before"].get("process_start"),
            entries=(told,),
            before=action["before"].get("signals"),
        )
        return Step(transition, **finished)
    if outcome.status is Status.INDETERMINATE:
        reason = f"whether {strategy} happened cannot be learnt: {outcome.detail}"
        return to_people(incident, context, reason, told, **finished)
    given_up = action["attempt"] >= ATTEMPTS and (strategy == UNDO or isinstance(outcome, Untouched))
    if outcome.retry_in and not given_up:
        again = {AGAIN: context.clock() + outcome.retry_in}
        moved = _tried_again(strategy, outcome.retry_in, (told,))
        return Step(moved, also=(_noted(action, again),), **finished)
    if outcome.retry_in is not None and not given_up:
        return Step(Transition(State.RECOVERING, 0.0, (told,)), **finished)
    return _next(incident, context, f"{strategy} failed: {outcome.detail}", told, **finished)


def _left_alone_until(strategy: str, actions: Sequence[Row[Any]]) -> float:
    """When what has failed may be tried again, by what its target said; 0 where it is not that any more."""
    last = actions[-1] if actions else None
    if last is None or last.strategy != strategy or last.status != Status.FAILED.value:
        return 0.0
    return float(last.before.get(AGAIN, 0.0))


def _tried_again(strategy: str, left: float, entries: tuple[Entry, ...]) -> Transition:
    """The pause until then; a short one is not worth a word."""
    waiting = f"{strategy} is tried again: in {left:.0f} s" if left >= BUSY_PAUSE else None
    return Transition(State.RECOVERING, left, entries, waiting_for=waiting)


def _next(incident: Incident, context: Context, reason: str, *entries: Entry, **finished: Any) -> Step:
    """Go on to the next strategy of the plan, or to people when there is none."""
    rest = list(incident.plan[1:])
    if not rest:
        return to_people(incident, context, reason, *entries, **finished)
    return Step(Transition(State.RECOVERING, 0.0, entries, {"plan": rest}), **finished)


def _after_interruption(
    incident: Incident, context: Context, row: Row[Any], actions: Sequence[Row[Any]]
) -> Step:
    """An action was announced and its end never written: learn from the target what became of it.

    Asked too early, a target whose restart is under way says that nothing happened, and would be restarted
    again. So a replica that took over because the database's clock was set forward does not count by that
    clock. (Only one that also started anew within the effect's own time cannot know of it.)
    """
    action = {"id": row.id, "service": row.service, "before": row.before, "attempt": row.attempt}
    if row.status == Status.INTENDED.value:
        outcome = ActionOutcome(Status.FAILED, "the fabric was interrupted before it began", 0.0)
        return _after_action(incident, context, row.strategy, action, outcome)
    try:
        effect = effect_of_action(context, row, actions)
    except (NotApplicable, TargetUnreadable) as error:
        outcome = ActionOutcome(Status.INDETERMINATE, f"the fabric was interrupted during it; {error}")
        return _after_action(incident, context, row.strategy, action, outcome)
    awake, now = row.before.get(AWAKE, row.started_at), context.clock()
    if awake is not None and awake - now > CLOCK_SPREADS_WITHIN:
        # The clock was set back: when it began is not known by the new time, only that it has.
        reason = f"{row.strategy} was interrupted, and the clock was set back"
        stay = Transition(State.RECOVERING, 0.0, waiting_for=reason)
        return Step(stay, also=(_noted(action, {AWAKE: now}),))
    if awake is not None:
        left = max(
            awake + effect.longest_effect - now,
            effect.longest_effect + CLOCK_SPREADS_WITHIN - context.store.since_set_forward(),
        )
        if left > 0:
            told = f"the target can be asked in {left:.0f} s what became of it"
            waiting = f"{row.strategy} was interrupted; {told}"
            return Step(Transition(State.RECOVERING, left, waiting_for=waiting))
    asked = steady()
    try:
        with context.looks.of(effect):
            outcome = effect.observe(row.before)
    except TargetAway as error:
        outcome = unread(left_open(row.before), error)
    if isinstance(outcome, Untold):
        return _ask_again(incident, context, row.strategy, action, outcome, _pause_after(asked))
    if outcome.status is Status.FAILED and awake is None:
        # It may carry out only now what it was sent before it fell silent.
        left = effect.longest_effect
        reason = f"{row.strategy}: the target answers and is asked in {left:.0f} s what became of it"
        moved = Transition(State.RECOVERING, left, waiting_for=reason)
        return Step(moved, also=(_noted(action, {AWAKE: now}),))
    if outcome.status is Status.FAILED and row.before.get(UNCHANGED) == Status.INDETERMINATE.value:
        outcome = ActionOutcome(Status.INDETERMINATE, outcome.detail)
    if outcome.status is Status.FAILED and outcome.retry_in is None:
        # It did not happen, so it may be tried. What interrupted the fabric may have been the action itself:
        # then the budget bounds it.
        pause = max(0.0, row.before.get(AGAIN, 0.0) - context.clock())
        failed = Untouched if WHY in row.before else ActionOutcome
        outcome = failed(Status.FAILED, outcome.detail, pause)
    return _after_action(incident, context, row.strategy, action, outcome)


def _ask_again(
    incident: Incident,
    context: Context,
    strategy: str,
    action: dict[str, Any],
    outcome: Untold,
    pause: float,
) -> Step:
    """Wait for a target that is away to tell what became of the action, but not for ever.

    What counts is the time for which it was waited: a fabric that went away together with its target, as
    with their host, has not asked meanwhile. Nor is it counted while people may have taken the target down.
    """
    silent = float(action["before"].get(SILENT, 0.0))
    if silent >= context.settings.escalation.max_wait:
        return _after_action(incident, context, strategy, action, outcome)
    if in_maintenance(incident, context) is None:
        silent += pause
    reason = f"whether {strategy} happened is not known yet: {outcome.detail}"
    stay = Transition(State.RECOVERING, pause, waiting_for=reason)
    noted: dict[str, Any] = {AWAKE: None, SILENT: silent}
    if WHY not in action["before"]:
        noted |= {WHY: outcome.why, UNCHANGED: outcome.unchanged.value}
        if outcome.retry_in is not None:
            noted[AGAIN] = context.clock() + outcome.retry_in
    return Step(stay, also=(_noted(action, noted),))


def _noted(action: Mapping[str, Any], told: Mapping[str, Any]) -> journal.Also:
    action_id, before = action["id"], {**action["before"], **told}
    return lambda connection: statements.update_action(connection, action_id, {"before": before})
