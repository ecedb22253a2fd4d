"""The product on one page: the states of an incident and the ways between them.

    detected ------------> diagnosing -----> recovering -----> verifying -----> resolved -----> closed
       |                    |      |          ^      |          |      |            |
       |                    |      v          |      |          |      |            | the alert returned
       |                    |  awaiting_approval     |          |      |            v
       |                    |      |                 |          |      +------> diagnosing
       v                    v      v                 v          v   (not healed: recovering, next strategy)
    escalated <---------------------------------------------------------------- any of them

detected            an alert opened it; nothing has been looked at yet
diagnosing          asking Prometheus what fails and why; waits here while it cannot be asked
awaiting_approval   a plan exists, a person must allow it; ends when it heals by itself meanwhile, or
                    the mode becomes automatic
recovering          asks once more whether it still fails, asks the guardrails, acts
verifying           watches fresh samples until they prove healing, or the deadline passes without proof
escalated           people are called, level by level; the fabric only watches whether it heals, until an
                    alert brings a signal that is new to the incident: then diagnosing again, unless a person
                    has rejected the plan or escalated it
resolved            inside all limits for the whole stability window; a returning alert re-opens it, or the
                    same failure while its alert has not ended; an alert that outlives the relapse window has
                    it diagnosed and proved once more, and one that outlives that, too, calls people; what was
                    lent to it, such as more replicas, is taken back after a calm: recovering and verifying
                    again, and when that was too early, diagnosing again
closed              calm for the relapse window and all alerts ended, or merged into the incident of its
                    cause; never changes again

When an alert arrives of a service that the incident's service depends on, that one is suspected from then on
and the incident goes back to diagnosing, unless an effect is under way, or must be completed or taken back,
or a person has rejected the plan or escalated it: then that service has an incident of its own.

A worker claims an incident that is due, does the one step of its state, and commits a `Transition`: the next
state, when it is due again, the changed fields and what to write into the timeline, all in one transaction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from self_healing_fabric.incidents.timeline import Entry


class State(StrEnum):
    """States of an incident, in the order of the page above."""

    DETECTED = "detected"
    DIAGNOSING = "diagnosing"
    AWAITING_APPROVAL = "awaiting_approval"
    RECOVERING = "recovering"
    VERIFYING = "verifying"
    ESCALATED = "escalated"
    RESOLVED = "resolved"
    CLOSED = "closed"


# As the store and the stories write them.
ENDED = (State.RESOLVED.value, State.CLOSED.value)
OPEN = tuple(state.value for state in State if state.value not in ENDED)


class Outcome(StrEnum):
    """How an incident was resolved."""

    HEALED = "healed"  # by an action of the fabric, proved
    RECOVERED = "recovered"  # by itself or by someone else, proved
    CLOSED_BY_PERSON = "closed_by_person"
    MERGED = "merged"  # it was a symptom of another incident, which goes on


_S = State
TRANSITIONS: Mapping[State, frozenset[State]] = {
    _S.DETECTED: frozenset({_S.DIAGNOSING, _S.ESCALATED, _S.CLOSED}),
    _S.DIAGNOSING: frozenset({_S.AWAITING_APPROVAL, _S.RECOVERING, _S.VERIFYING, _S.ESCALATED, _S.CLOSED}),
    _S.AWAITING_APPROVAL: frozenset({_S.DIAGNOSING, _S.RECOVERING, _S.VERIFYING, _S.ESCALATED, _S.CLOSED}),
    _S.RECOVERING: frozenset({_S.DIAGNOSING, _S.AWAITING_APPROVAL, _S.VERIFYING, _S.ESCALATED, _S.CLOSED}),
    _S.VERIFYING: frozenset({_S.DIAGNOSING, _S.RECOVERING, _S.ESCALATED, _S.RESOLVED, _S.CLOSED}),
    _S.ESCALATED: frozenset({_S.DIAGNOSING, _S.RECOVERING, _S.RESOLVED, _S.CLOSED}),
    _S.RESOLVED: frozenset({_S.DIAGNOSING, _S.RECOVERING, _S.ESCALATED, _S.CLOSED}),
    _S.CLOSED: frozenset(),
}


class IllegalTransition(Exception):
    """A defect of ours: the state machine has no such way."""


def check_transition(old: State, new: State) -> None:
    """Raise IllegalTransition unless the page above has a way from `old` to `new`, or they are equal."""
    if new != old and new not in TRANSITIONS[old]:
        raise IllegalTransition(f"no way from {old} to {new}")


@dataclass(frozen=True)
class Rise:
    """The next level is called. Which one that is, is read when it is written: time raises levels too.

    Attributes:
        reason: why, for those who are called.
        climbs: whether the level after it follows by its deadline.
        first: only when nobody has been called yet.
    """

    reason: str
    climbs: bool = True
    first: bool = False


@dataclass(frozen=True)
class Transition:
    """What one step decided, to be committed at once.

    Attributes:
        state: the next state; the same one when the incident waits.
        due_in: seconds until its next step; None when only an event wakes it.
        entries: what the timeline learns.
        changes: other columns of the incident.
        waiting_for: what the incident waits for, in words, or None. Up to the first colon they name the kind
            of the wait; `waiting_since` goes on from one commit to the next while that stays the same.
        rise: the call to the next level, or None.
    """

    state: State
    due_in: float | None
    entries: tuple[Entry, ...] = ()
    changes: Mapping[str, Any] = field(default_factory=dict)
    waiting_for: str | None = None
    rise: Rise | None = None
