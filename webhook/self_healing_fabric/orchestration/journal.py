"""Writing down: every change of an incident, and every action before it happens.

The order is the whole point. `announce` commits the action as begun, with its guardrails checked in the same
transaction; only then may the effect begin. `commit` writes a step's result under the lease's epoch, so that
a worker that was overtaken writes nothing.

The answer to a COMMIT can get lost: it is on disk, and the worker hears that the store is away. Then a step
is not repeated by the worker, but claimed anew from what is stored. Only the end of an action is kept in hand
and written again, so it is written only while the action has no end yet.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import structlog
from sqlalchemy import Connection

from self_healing_fabric import guardrails
from self_healing_fabric.escalation import levels
from self_healing_fabric.guardrails import Measured, Proposal, Refusal
from self_healing_fabric.guardrails.outside import first_refusal
from self_healing_fabric.incidents import timeline
from self_healing_fabric.incidents.lifecycle import Transition, check_transition
from self_healing_fabric.incidents.models import Incident
from self_healing_fabric.incidents.telling import target_in_words
from self_healing_fabric.incidents.timeline import Entry, Kind
from self_healing_fabric.incidents.unfinished import FOLLOWED_BY
from self_healing_fabric.orchestration import waits
from self_healing_fabric.orchestration.context import Context
from self_healing_fabric.orchestration.leases import LEASE, steady
from self_healing_fabric.recovery.effects import DIFF
from self_healing_fabric.recovery.outcomes import Outcome, Status, Untouched
from self_healing_fabric.recovery.strategies import UNDO
from self_healing_fabric.settings import Mode
from self_healing_fabric.store import statements

log = structlog.get_logger()

Finished = tuple[str, Outcome]  # an action's id and how it ended
NOTHING_MEASURED = Measured()
Also = Callable[[Connection], str | None]  # returns the service of an incident that it opened


class _StoredBefore(Exception):
    """The step was stored by an earlier try, whose answer was lost."""


def commit(
    context: Context,
    incident: Incident,
    transition: Transition,
    *,
    finished: Finished | None = None,
    verdict: tuple[str, str] | None = None,
    learned: Mapping[str, Any] | None = None,
    also: Sequence[Also] = (),
    hold: bool = False,
) -> Incident:
    """Write a step's result in one transaction, or nothing: raises LeaseLost, StoreUnavailable.

    Returns the incident as it is from then on. A step that finished an action may be committed again after
    StoreUnavailable: when the first time was stored after all, nothing is written a second time.

    Args:
        context: the fabric's parts.
        incident: as it was claimed.
        transition: what the step decided.
        finished: an action that ended in this step.
        verdict: an action's id and the verdict of its verification.
        learned: what that says of the diagnosis; see `diagnosis_verdicts.of_repair`.
        also: what else belongs to it, called with the connection inside the transaction.
        hold: keep the lease, because the next step follows at once.
    """
    check_transition(incident.state, transition.state)
    now = context.clock()
    lease = {} if hold else {"lease_owner": None, "lease_until": None}
    changes = {**_columns(context, incident, transition, now), **lease, **transition.changes}

    def write(connection: Connection) -> tuple[dict[str, Any], list[str | None]]:
        if also:
            statements.serialize(connection, "correlation")
        statements.update_claimed(connection, incident.id, incident.epoch, changes)
        if finished is not None:
            action_id, outcome = finished
            ended: dict[str, Any] = {
                "status": outcome.status.value,
                "detail": outcome.detail,
                "finished_at": now,
            }
            # Whoever refuses for good, as with 404, is not to be asked anew with each alert: that counts.
            if isinstance(outcome, Untouched) and outcome.retry_in is not None:
                ended["started_at"] = None
            if not statements.end_action(connection, action_id, ended):
                raise _StoredBefore  # the epoch is still ours, so nobody else has ended it
        if verdict is not None:
            statements.update_action(connection, verdict[0], {"verdict": verdict[1]})
        if learned is not None:
            statements.put_diagnosis_verdict(connection, learned)
        entries, risen = list(transition.entries), {}
        if transition.rise is not None:
            rise = levels.rise(connection, incident.id, transition.rise, context.settings, now)
            entries += rise.entries
            risen = rise.changes
        timeline.append(connection, incident.id, [*entries, *_state_entries(incident, transition)], now)
        return risen, [each(connection) for each in also]

    risen: dict[str, Any] = {}
    try:
        risen, opened = context.store.write(write)
    except _StoredBefore:
        log.info("step_was_stored", incident=incident.id)
    else:
        for service in filter(None, opened):
            context.metrics.opened.labels(service).inc()
    return incident.after({**changes, **risen})


def take_up(
    context: Context, connection: Connection, new: Sequence[tuple[Incident, Transition]], now: float
) -> dict[str, Incident]:
    """Write the first step of incidents that were claimed in the same transaction; return them by their ids.

    In a burst all that is new waits for this one, so it costs no commit and hardly a statement for each.
    """
    changed = {}
    for incident, transition in new:
        check_transition(incident.state, transition.state)
        changes = {**_columns(context, incident, transition, now), **transition.changes}
        statements.update_claimed(connection, incident.id, incident.epoch, changes)
        changed[incident.id] = incident.after(changes)
    entries = [
        (incident.id, entry)
        for incident, transition in new
        for entry in (*transition.entries, *_state_entries(incident, transition))
    ]
    timeline.append_all(connection, entries, now)
    return changed


def _columns(context: Context, incident: Incident, transition: Transition, now: float) -> dict[str, Any]:
    waiting = transition.waiting_for[: timeline.MAX_MESSAGE] if transition.waiting_for else None
    return {
        "state": transition.state.value,
        "updated_at": now,
        "due_at": waits.due_at(transition, context.settings, now),
        "faults": 0,
        "waiting_for": waiting,
        "waiting_since": _waiting_since(incident, waiting, now) if waiting else None,
    }


def _waiting_since(incident: Incident, waiting: str, now: float) -> float:
    """Since when it waits for the same thing: what is counted against one limit must not be used up by
    another wait. Details after the colon, such as the text of an error, may change from look to look.
    """
    same = (incident.waiting_for or "").partition(":")[0] == waiting.partition(":")[0]
    return incident.waiting_since if same and incident.waiting_since is not None else now


def _state_entries(incident: Incident, transition: Transition) -> list[Entry]:
    entries = []
    if transition.state is not incident.state:
        data = {"from": incident.state.value, "to": transition.state.value}
        entries.append(Entry(Kind.STATE, f"{incident.state} -> {transition.state}", data))
    if transition.waiting_for and not incident.waiting_for:
        entries.append(Entry(Kind.WAITING, f"Waiting: {transition.waiting_for}"))
    return entries


def ask_guardrails(
    context: Context,
    action: Mapping[str, Any],
    strategy: str,
    disruptive: bool,
    measured: Measured,
) -> Refusal | None:
    """What the guardrails would say to an action; nothing is announced and nothing is remembered."""
    proposal = _proposal(context, action, strategy, disruptive, measured, context.clock())
    return context.store.read(lambda connection: guardrails.check(connection, proposal, context.settings))


def ask_outside(
    context: Context, action: Mapping[str, Any], strategy: str, disruptive: bool
) -> Refusal | None:
    """What those guardrails say that others bring: asked before the transaction, for they may hang."""
    proposal = _proposal(context, action, strategy, disruptive, NOTHING_MEASURED, context.clock())
    return first_refusal(context.outside, proposal)


def told_of(action: Mapping[str, Any], strategy: str) -> dict[str, Any]:
    """What the timeline tells of an action. Not its whole `before`, which may hold secrets."""
    shown = {name: action["before"][name] for name in (DIFF, FOLLOWED_BY) if name in action["before"]}
    acts_on = {"service": action["service"], "target": action["target"]}
    return {"action": action["id"], "strategy": strategy, **acts_on, **shown}


def _proposal(
    context: Context,
    action: Mapping[str, Any],
    strategy: str,
    disruptive: bool,
    measured: Measured,
    now: float,
    decided_in: Mode = Mode.DRY_RUN,
) -> Proposal:
    service, topology = action["service"], context.graph.topology
    return Proposal(
        service,
        strategy,
        action["target"],
        disruptive,
        now,
        restores=strategy == UNDO,
        path=frozenset(topology.dependencies(service)) | frozenset(topology.dependants(service)),
        measured=measured,
        decided_in=decided_in,
    )


def announce(
    context: Context,
    incident: Incident,
    *,
    action: Mapping[str, Any],
    strategy: str,
    disruptive: bool,
    measured: Measured = NOTHING_MEASURED,
    entries: tuple[Entry, ...] = (),
    decided_in: Mode = Mode.DRY_RUN,
) -> Refusal | float:
    """Ask the guardrails and, if they allow it, write the action down after `entries`, in one transaction.

    It is written down as begun, with a whole lease in hand: what a crash leaves from here on is looked up at
    the target. Returns the refusal, or when it was begun on the steady clock: then the effect may begin.
    """

    def write(connection: Connection) -> Refusal | float:
        # Budgets are counted, then used up: two replicas must not count at the same time.
        statements.serialize(connection, "announcement")
        # A change of the mode waits for us or we for it: once a pause is acknowledged, nothing begins.
        statements.serialize(connection, "control", shared=True)
        mark, now = steady(), context.clock()  # after the waiting, and in this order: see leases.Leases
        proposal = _proposal(context, action, strategy, disruptive, measured, now, decided_in)
        refusal = guardrails.check(connection, proposal, context.settings)
        if refusal is not None:
            if refusal.remember is not None:
                name, by = refusal.guardrail, f"incident {incident.id}"
                statements.set_control(connection, name=name, value=refusal.remember, by=by, now=now)
            return refusal
        prolonged = {"updated_at": now, "lease_until": now + LEASE}
        statements.update_claimed(connection, incident.id, incident.epoch, prolonged)
        values = {
            "status": Status.STARTED.value,
            "intended_at": now,
            "started_at": now,
            "disruptive": disruptive,
            "strategy": strategy,
            "failure_class": incident.failure_class,
            "pattern": incident.pattern,
        }
        statements.insert_action(connection, {**action, **values, "incident_id": incident.id})
        message = f"Intends to {strategy} {target_in_words(action['target'])} (attempt {action['attempt']})."
        data = told_of(action, strategy)
        timeline.append(connection, incident.id, [*entries, Entry(Kind.ACTION, message, data)], now)
        return mark

    answer = context.store.write(write)
    if not isinstance(answer, Refusal):
        context.leases.prolonged(incident, answer)
    return answer
