"""Calls to the people and guardians of one level: who hears what, over which channel.

A call is a row, written in the transaction that raises the level, so that it can neither be lost nor be made
twice; `orchestration.caller` sends it. It is at least once to a channel: after a crash it is sent again under
the same key, by which a receiver recognises what it has heard.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from self_healing_fabric.settings import LOG, EscalationSettings
from self_healing_fabric.store.statements import AnyRow


class Kind(StrEnum):
    """What a call tells: that help is needed, or how it ended."""

    ESCALATION = "escalation"
    ENDED = "ended"


class Status(StrEnum):
    """What became of a call."""

    WAITING = "waiting"  # to be sent, or tried again
    SENT = "sent"  # the channel took it
    FAILED = "failed"  # not until its deadline
    WITHDRAWN = "withdrawn"  # it healed, or somebody acknowledged, before it was sent


@dataclass(frozen=True)
class Call:
    """What one contact is told of one incident over one channel."""

    id: str
    kind: Kind
    incident_id: str
    service: str | None
    level: int
    level_name: str
    contact: str
    called: tuple[str, ...]
    reason: str


def call_of(row: AnyRow) -> Call:
    """Read a call from its row."""
    return Call(
        row.id,
        Kind(row.kind),
        row.incident_id,
        row.service,
        row.level,
        row.level_name,
        row.contact,
        tuple(row.called),
        row.reason,
    )


def rows_of_level(
    incident: AnyRow, level: int, settings: EscalationSettings, *, reason: str, now: float
) -> Iterator[dict[str, Any]]:
    """The rows of everybody whom a level calls, and one for the log."""
    configured = settings.levels[level]
    called = settings.contacts_of(level)
    common = {
        "incident_id": incident.id,
        "service": incident.service,
        "kind": Kind.ESCALATION.value,
        "level": level,
        "level_name": configured.name,
        "called": list(called),
        "reason": reason,
        "created_at": now,
        "deadline_at": now + configured.reach_within,
    }
    yield new_row(common, contact=", ".join(called), channel=LOG, due_at=now)
    for contact in called:
        for channel in settings.channels_of(contact):
            yield new_row(common, contact=contact, channel=channel, due_at=_first_try(channel, settings, now))


def row_again(
    told: AnyRow,
    settings: EscalationSettings,
    *,
    kind: Kind,
    reason: str,
    now: float,
    progress: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The row that tells one who was called more: that there is more to it, or how it ended.

    `progress` is what the channel has to know of the call that it ends.
    """
    kept = {name: getattr(told, name) for name in ("incident_id", "service", "level", "level_name", "called")}
    common = {
        **kept,
        "kind": kind.value,
        "reason": reason,
        "created_at": now,
        "deadline_at": now + settings.levels[told.level].reach_within,
        # Nobody is told of the end of an end.
        "ended_at": now if kind is Kind.ENDED else None,
    }
    due_at = _first_try(told.channel, settings, now)
    return new_row(common, contact=told.contact, channel=told.channel, due_at=due_at, progress=progress or {})


def new_row(common: Mapping[str, Any], **own: Any) -> dict[str, Any]:
    """One row that waits to be sent."""
    key = f"{common['incident_id']}/call-{secrets.token_hex(6)}"
    return {"id": key, "status": Status.WAITING.value, "progress": {}, **common, **own}


def _first_try(channel: str, settings: EscalationSettings, now: float) -> float:
    """Calls to people and guardians are gathered for a moment, so that a storm becomes one message."""
    known = settings.channels.get(channel)
    gathered = known is not None and known.kind != "alertmanager"
    return now + settings.bounds.gather if gathered else now
