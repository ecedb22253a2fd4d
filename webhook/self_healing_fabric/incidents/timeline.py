"""What happened, why, on which evidence: the entries of an incident's append-only timeline.

The timeline is written in the same transaction as what it tells, so it can neither miss a step nor tell of
one that did not happen. A message is one sentence for a person; `data` holds the same for machines, queries
included.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Row

from self_healing_fabric.store import statements

MAX_MESSAGE = 2_000  # characters; labels and errors come from outside and can be of any size


class Kind(StrEnum):
    """What an entry tells of."""

    ALERT = "alert"
    STATE = "state"
    EVIDENCE = "evidence"
    DIAGNOSIS = "diagnosis"
    PLAN = "plan"
    GUARDRAIL = "guardrail"
    ACTION = "action"
    VERIFICATION = "verification"
    ESCALATION = "escalation"
    WAITING = "waiting"
    NOTE = "note"


@dataclass(frozen=True)
class Entry:
    """One line of the timeline, before it has a time and a number."""

    kind: Kind
    message: str
    data: Mapping[str, Any] = field(default_factory=dict)


def question(lines: Sequence[Row[Any]]) -> Row[Any] | None:
    """The newest of the lines that asks for an approval; it names the action in its data."""
    return next((each for each in reversed(lines) if each.kind == Kind.PLAN and "action" in each.data), None)


def append(connection: Connection, incident_id: str, entries: Iterable[Entry], now: float) -> None:
    """Append entries to the timeline of an incident, in order, all with the time `now`."""
    append_all(connection, ((incident_id, entry) for entry in entries), now)


def append_all(connection: Connection, entries: Iterable[tuple[str, Entry]], now: float) -> None:
    """Append entries to the timelines of several incidents."""
    rows = [
        {
            "incident_id": incident_id,
            "at": now,
            "kind": entry.kind.value,
            "message": entry.message[:MAX_MESSAGE],
            "data": dict(entry.data),
        }
        for incident_id, entry in entries
    ]
    statements.append_timeline(connection, rows)
