"""What the steps of all states share: their result, waiting, and handing over to people.

When Prometheus cannot be asked, every step waits and says so; waiting too long calls people, because an
incident must not be forgotten in a corner.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from self_healing_fabric.incidents.evidence import Evidence
from self_healing_fabric.incidents.lifecycle import State, Transition
from self_healing_fabric.incidents.models import Incident
from self_healing_fabric.incidents.timeline import Entry, Kind
from self_healing_fabric.orchestration import journal
from self_healing_fabric.orchestration.context import Context
from self_healing_fabric.orchestration.escalation_manager import escalate, hand_to_people, watch_from
from self_healing_fabric.recovery.verification import watched_signals
from self_healing_fabric.store import statements

WAIT_POLL = 5.0  # seconds between two tries while a server is away


@dataclass(frozen=True)
class Step:
    """What one step decided, and what it finished on the way."""

    transition: Transition
    finished: journal.Finished | None = None
    verdict: tuple[str, str] | None = None
    strategy: str | None = None  # of the finished action


def wait(incident: Incident, context: Context, reason: str, poll: float = WAIT_POLL) -> Step:
    """Stay and try again; after `escalation.max_wait` call people, and go on waiting as escalated."""
    stay = Transition(incident.state, poll, waiting_for=reason)
    waited = (
        context.clock() - incident.waiting_since if incident.waiting_since and incident.waiting_for else 0.0
    )
    if waited < context.settings.escalation.max_wait or incident.state in (State.ESCALATED, State.RESOLVED):
        return Step(stay)
    moved = Transition(State.ESCALATED, poll, changes=watch_from(context.clock()))
    return Step(escalate(incident, context, moved, f"has waited {waited:.0f} s: {reason}"))


def to_people(incident: Incident, context: Context, reason: str, *entries: Entry, **finished: Any) -> Step:
    """Give up acting, call the next level, and only watch from now on."""
    return Step(hand_to_people(incident, context, reason, *entries), **finished)


def look_interval(context: Context) -> float:
    """Seconds between two looks at the samples."""
    return context.settings.verification.interval


def with_changes(transition: Transition, **changes: Any) -> Transition:
    """The transition with more changed columns."""
    merged = {**transition.changes, **changes}
    return Transition(transition.state, transition.due_in, transition.entries, merged, transition.waiting_for)


def evidence_entry(fact: Evidence) -> Entry:
    """The timeline's entry for a piece of evidence."""
    return Entry(Kind.EVIDENCE, fact.statement, fact.as_dict())


def signals_of(incident: Incident, context: Context) -> tuple[str, ...]:
    """The known signals that the alerts of the incident name."""
    rows = context.store.read(lambda connection: statements.alerts_of(connection, incident.id))
    return watched_signals([row.labels for row in rows])
