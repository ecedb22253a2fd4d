"""The five levels: what rising means. Level 0 is silent; level 4 calls everyone and is the last.

Steps, deadlines and people raise levels, at the same time and on several replicas. So which level comes next
is read from the locked row in the transaction that raises it, never from what a step believed: each level is
called once, and again only for what it was not told of. A deadline is a column of the incident
(`level_due_at`), so a restart in the middle of the wait loses nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from self_healing_fabric.escalation.calls import Kind as CallKind
from self_healing_fabric.escalation.calls import row_again, rows_of_level
from self_healing_fabric.incidents import correlation
from self_healing_fabric.incidents.lifecycle import Rise
from self_healing_fabric.incidents.timeline import Entry, Kind
from self_healing_fabric.settings import LOG, Settings
from self_healing_fabric.store import call_statements, statements
from self_healing_fabric.store.statements import AnyRow

LAST_LEVEL = 4
PUT_OFF = 5.0  # seconds between two looks at whether a silence has ended
HELD = "held"  # in the data of a line: why people would have been called


@dataclass(frozen=True)
class Risen:
    """What a rise changed: the columns, which are written, and the entries, which the caller writes."""

    changes: dict[str, Any]
    entries: tuple[Entry, ...]


def rise(
    connection: Connection,
    incident_id: str,
    wanted: Rise,
    settings: Settings,
    now: float,
    *,
    decided: bool = False,
) -> Risen:
    """Call the level above the one that the incident has now; at the last one only the reason is noted,
    unless whoever has acknowledged hands it on (`decided`): then that is called again.

    The incident's columns and the calls are written; the caller writes the entries into the timeline. Inside
    a maintenance window or a silence nobody is called before its end, unless a person `decided` so.
    """
    row = statements.incident(connection, incident_id, lock=True)
    if row is None or (wanted.first and row.level > 0):
        return Risen({}, ())
    handed_on = decided and row.acknowledged_by
    if row.level >= LAST_LEVEL and not handed_on:
        return Risen({}, (Entry(Kind.ESCALATION, f"Stays at the last level: {wanted.reason}"),))
    held = None if decided else _held(connection, row, wanted.reason, settings, now)
    if held is not None:
        return held
    level = next_level(row, settings)
    configured = settings.escalation.levels[level]
    due_at = now + configured.deadline if wanted.climbs and level < LAST_LEVEL else None
    changes = {"level": level, "level_due_at": due_at, "acknowledged_by": None}
    statements.annotate(connection, incident_id, changes)
    calls = list(rows_of_level(row, level, settings.escalation, reason=wanted.reason, now=now))
    call_statements.insert_calls(connection, calls)
    called = list(settings.escalation.contacts_of(level))
    whom = ", ".join(called) or "nobody"
    message = f"Level {level} ({configured.name}), calling {whom}: {wanted.reason}"
    data = {"level": level, "level_name": configured.name, "called": called, "reason": wanted.reason}
    return Risen(changes, (Entry(Kind.ESCALATION, message, data),))


def silenced(connection: Connection, incident: AnyRow) -> bool:
    """Whether people have silenced all that still fires of an incident."""
    return correlation.silenced(statements.alerts_of(connection, incident.id), incident.service)


def held_back(
    connection: Connection, incident: AnyRow, settings: Settings, now: float
) -> tuple[float, str] | None:
    """Until when nobody is called for an incident, at least, and what ends then; None when somebody is."""
    window_ends = settings.guardrails.maintenance_until(incident.service, now)
    if window_ends is not None:
        return window_ends, "maintenance window"
    return (now + PUT_OFF, "silence") if silenced(connection, incident) else None


def _held(connection: Connection, row: AnyRow, reason: str, settings: Settings, now: float) -> Risen | None:
    """The next level waits for the end of what holds it back; None when nothing does."""
    held_until = held_back(connection, row, settings, now)
    if held_until is None:
        return None
    until, what = held_until
    level = min(row.level, LAST_LEVEL - 1)  # above the last is none that could be called at the end
    changes = {"level": level, "level_due_at": until, "acknowledged_by": None}
    statements.annotate(connection, row.id, changes)
    held = f"Nobody is called before the {what} ends: {reason}"
    return Risen(changes, (Entry(Kind.ESCALATION, held, {HELD: reason}),))


def call_again(
    connection: Connection, incident_id: str, reason: str, settings: Settings, now: float
) -> tuple[Entry, ...]:
    """Tell everybody who was called that there is more; inside a maintenance window or a silence, the next
    level at its end.

    Who has acknowledged took on what was known then: unless they do so again, the next level follows. The
    calls are written; the caller writes the entries.
    """
    row = statements.incident(connection, incident_id, lock=True)
    told: dict[tuple[str | None, str], AnyRow] = {}
    for call in call_statements.calls_of(connection, incident_id):
        if call.kind == CallKind.ESCALATION.value:
            told[call.contact if call.channel != LOG else None, call.channel] = call
    if row is None or not told:
        return ()
    held = _held(connection, row, reason, settings, now)
    if held is not None:
        return held.entries
    statements.annotate(connection, incident_id, {"acknowledged_by": None})
    escalation, again = settings.escalation, CallKind.ESCALATION
    calls = [row_again(each, escalation, kind=again, reason=reason, now=now) for each in told.values()]
    call_statements.insert_calls(connection, calls)
    called = sorted({contact for each in told.values() for contact in each.called})
    name, whom = escalation.levels[row.level].name, ", ".join(called) or "nobody"
    message = f"Level {row.level} ({name}), calling again {whom}: {reason}"
    data = {"level": row.level, "level_name": name, "called": called, "reason": reason}
    return (Entry(Kind.ESCALATION, message, data),)


def next_level(incident: AnyRow, settings: Settings) -> int:
    """One up; the first call may start higher for what much depends on, and the last follows itself."""
    if incident.level > 0:
        return min(int(incident.level) + 1, LAST_LEVEL)
    return settings.escalation_policy(incident.service, tiers_of(incident, settings)).start_level


def tiers_of(incident: AnyRow, settings: Settings) -> set[str]:
    """The tier of the service, and the highest of all that depend on it once that is diagnosed."""
    own = settings.services[incident.service].tier if incident.service in settings.services else None
    impact = (incident.diagnosis or {}).get("impact", {})
    return {str(tier) for tier in (own, impact.get("business_tier")) if tier is not None}
