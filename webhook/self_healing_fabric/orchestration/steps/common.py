"""What the steps of all states share: their result, waiting, and handing over to people.

When Prometheus cannot be asked, every step waits and says so, and goes on when it can. Waiting too long calls
people, because an incident must not be forgotten in a corner.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, Row

from self_healing_fabric.errors import LeaseLost
from self_healing_fabric.guardrails import Refusal, conditions, mode
from self_healing_fabric.incidents import correlation
from self_healing_fabric.incidents.evidence import Evidence
from self_healing_fabric.incidents.lifecycle import Rise, State, Transition
from self_healing_fabric.incidents.models import Incident
from self_healing_fabric.incidents.timeline import Entry, Kind
from self_healing_fabric.orchestration import journal
from self_healing_fabric.orchestration.context import Context
from self_healing_fabric.orchestration.escalation_manager import hand_to_people
from self_healing_fabric.recovery.verification import watched_signals
from self_healing_fabric.settings import Mode
from self_healing_fabric.store import statements

WAIT_POLL = 5.0  # seconds between two tries while a server is away
SILENCE_POLL = 5.0  # seconds between two looks at whether a silence has ended
WATCHED_SHARE = 0.05  # of the time for which an incident has been watched passes between two looks
LONGEST_PATIENCE = 60.0  # seconds between two looks at what is only watched

# Kinds of waits that are limited in time; see `Transition.waiting_for`.
EVIDENCE = "evidence"
CAUSE = "cause"


@dataclass(frozen=True)
class Step:
    """What one step decided, and what it finished on the way."""

    transition: Transition
    finished: journal.Finished | None = None
    verdict: tuple[str, str] | None = None
    strategy: str | None = None  # of the finished action
    service: str | None = None  # likewise: whose target it was
    learned: Mapping[str, Any] | None = None  # about the diagnosis, from the verified repair
    also: tuple[journal.Also, ...] = ()  # what else is written in the same transaction


def waited(incident: Incident, context: Context, kind: str) -> float:
    """Seconds for which the incident has been waiting for this kind of thing, without a break."""
    if incident.waiting_since is None or not (incident.waiting_for or "").startswith(f"{kind}:"):
        return 0.0
    return context.clock() - incident.waiting_since


@dataclass(frozen=True)
class Alerts:
    """What the store knows of the alerts of one incident at one moment."""

    service: str | None
    alerts: Sequence[Row[Any]]

    @property
    def own_alerts(self) -> list[Row[Any]]:
        """The alerts of the suspected cause; those of its symptoms say nothing about its own signals."""
        return [row for row in self.alerts if row.service == self.service]

    @property
    def signals(self) -> tuple[str, ...]:
        """The known signals that the alerts of the suspected cause name."""
        return self.signals_of(self.service)

    def signals_of(self, service: str | None) -> tuple[str, ...]:
        """The known signals that the alerts of a service name."""
        return watched_signals([row.labels for row in self.alerts if row.service == service])

    @property
    def silenced(self) -> bool:
        """Whether people have silenced what still fires: then nothing is done and nobody is called."""
        return correlation.silenced(self.alerts, self.service)

    @property
    def symptoms(self) -> dict[str, tuple[str, ...]]:
        """The services other than the cause whose alerts still fire, and the signals that these name."""
        found: dict[str, list[Mapping[str, str]]] = {}
        for row in self.alerts:
            if row.status == "firing" and row.service not in (None, self.service):
                found.setdefault(row.service, []).append(row.labels)
        return {service: watched_signals(labels) for service, labels in found.items()}


@dataclass(frozen=True)
class Facts(Alerts):
    """The same, with the rows of the actions that it answers for."""

    actions: Sequence[Row[Any]]

    @property
    def unfinished_action(self) -> Row[Any] | None:
        """The action that was announced and never finished: a crash came between."""
        return next((row for row in self.actions if row.status in statements.UNFINISHED), None)


def alerts_of(incident: Incident, context: Context) -> Alerts:
    """Read its alerts."""
    rows = context.store.ask(lambda connection: statements.alerts_of(connection, incident.id))
    return Alerts(incident.service, rows)


def facts_of(incident: Incident, context: Context) -> Facts:
    """Read its alerts and actions from one snapshot."""
    return context.store.read(lambda connection: _facts(connection, incident))


def facts_and_mode_of(incident: Incident, context: Context) -> tuple[Facts, Mode]:
    """Read them from one snapshot with the mode in force for what is to be tried next."""
    strategy = incident.plan[0] if incident.plan else None

    def read(connection: Connection) -> tuple[Facts, Mode]:
        in_force = mode.current(
            connection,
            context.settings,
            context.unstored_pauses,
            service=incident.service,
            strategy=strategy,
        )
        return _facts(connection, incident), in_force

    return context.store.read(read)


def _facts(connection: Connection, incident: Incident) -> Facts:
    alerts = statements.alerts_of(connection, incident.id)
    return Facts(incident.service, alerts, statements.actions_held_by(connection, incident.id))


def wait(incident: Incident, context: Context, reason: str, poll: float = WAIT_POLL) -> Step:
    """Stay and try again; after `escalation.max_wait` people hear of it, if nobody has been called yet.

    Only waits for evidence count, whichever error each brings: a silence or a pause that was long is no
    reason to call people at the first query that fails after it.
    """
    ended = incident.state is State.ESCALATED or incident.resolved_at is not None
    if not ended and in_maintenance(incident, context) is not None:
        held = f"maintenance: nobody is called before its window ends: {reason}"
        return Step(Transition(incident.state, poll, waiting_for=held))
    stay = Transition(incident.state, poll, waiting_for=f"{EVIDENCE}: {reason}")
    seconds = waited(incident, context, EVIDENCE)
    if ended or incident.level > 0 or seconds < context.settings.escalation.max_wait:
        return Step(stay)
    return Step(replace(stay, rise=Rise(f"has waited {seconds:.0f} s: {reason}", first=True)))


def in_maintenance(incident: Incident, context: Context) -> Refusal | None:
    """The refusal of a maintenance window that is under way for its service; None when there is none."""
    return conditions.in_maintenance(context.settings, incident.service, context.clock())


def until_silence_ends(incident: Incident, poll: float = SILENCE_POLL) -> Step:
    """Stay, without doing anything or calling anybody, and look again."""
    silenced = "people have silenced its alerts: nothing is done until the silence ends"
    return Step(Transition(incident.state, poll, waiting_for=silenced))


def to_people(
    incident: Incident,
    context: Context,
    reason: str,
    *entries: Entry,
    suspected_for: Collection[str] = (),
    **finished: Any,
) -> Step:
    """Give up acting, call the next level, and only watch from now on.

    Who was called for what had healed was told that it is over: then the levels begin anew.
    """
    moved = hand_to_people(context, reason, *entries, suspected_for=suspected_for)
    return Step(moved if incident.resolved_at is None else with_changes(moved, level=0), **finished)


def look_interval(context: Context) -> float:
    """Seconds between two looks at the samples."""
    return context.settings.verification.interval


def until_next_look(incident: Incident, context: Context, pause: float) -> float:
    """`pause`, or less where the next level is called before its end: what has healed is not called for."""
    if incident.level_due_at is None or incident.acknowledged_by:
        return pause
    interval = look_interval(context)
    return min(pause, max(interval, incident.level_due_at - interval - context.clock()))


def patience(incident: Incident, context: Context) -> float:
    """Seconds until the next look at what is only watched: longer the longer it has lasted, for thousands may
    be watched at once."""
    now = context.clock()
    since = float((incident.verification or {}).get("since", now))
    pause = max(look_interval(context), min(LONGEST_PATIENCE, WATCHED_SHARE * (now - since)))
    return until_next_look(incident, context, pause)


def with_changes(transition: Transition, **changes: Any) -> Transition:
    """The transition with more changed columns."""
    return replace(transition, changes={**transition.changes, **changes})


def evidence_entry(fact: Evidence) -> Entry:
    """The timeline's entry for a piece of evidence."""
    return Entry(Kind.EVIDENCE, fact.statement, fact.as_dict())


def merged_into_cause(incident: Incident, context: Context, *entries: Entry, **finished: Any) -> Step | None:
    """Fold this incident into that of a failing service which it depends on; None when there is none."""
    if not context.graph.topology.direct_dependencies(str(incident.service)):
        return None
    now, window = context.clock(), context.settings.correlation.window
    topology = context.graph.topology
    cause = context.store.read(
        lambda connection: correlation.cause_among(connection, incident, topology, window, now)
    )
    return None if cause is None else merged_into(incident, context, cause, *entries, **finished)


def merged_into(
    incident: Incident, context: Context, cause: Row[Any], *entries: Entry, **finished: Any
) -> Step:
    """Fold this incident into that of its cause, unless it ends meanwhile."""
    now = context.clock()

    def also(connection: Connection) -> None:
        current = statements.incident(connection, cause.id, lock=True)
        if current is None or current.resolved_at is not None or current.closed_at is not None:
            raise LeaseLost(f"incident {cause.id} ended before {incident.id} could join it")
        correlation.merge(connection, incident.id, str(incident.service), cause.id, cause.service, now)

    transition = Transition(State.CLOSED, None, entries, correlation.merged_changes(cause.id, now))
    return Step(transition, also=(also,), **finished)
