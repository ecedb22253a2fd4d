"""Time raises levels: whoever was called and does not answer is followed by the next.

The clock runs in every state of an incident, also while an effect is under way or Prometheus hangs, so it is
not a step of the incident. It changes only columns that no step decides on, so the step in hand goes on. Any
replica may do it: a row that another one has locked is left to that.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection

from self_healing_fabric.durations import format_duration
from self_healing_fabric.escalation import levels
from self_healing_fabric.incidents import timeline
from self_healing_fabric.incidents.lifecycle import Rise, State
from self_healing_fabric.orchestration.context import Context
from self_healing_fabric.settings import Settings
from self_healing_fabric.store import call_statements, statements
from self_healing_fabric.store.statements import AnyRow

AT_ONCE = 100  # incidents in one transaction


def run(context: Context) -> int:
    """Raise what is due; how many incidents were looked at. Raises StoreUnavailable."""
    now = context.clock()

    def write(connection: Connection) -> int:
        new = call_statements.without_level_timer(connection, AT_ONCE)
        _set_timers(connection, context, new, now)
        due = call_statements.levels_due(connection, now, AT_ONCE)
        for row in due:
            _raise_level(connection, context, row, now)
        return len(new) + len(due)

    return context.store.write(write)


def _set_timers(connection: Connection, context: Context, rows: Sequence[AnyRow], now: float) -> None:
    """Incidents that were opened, or opened again, wait for their level's deadline; some for nothing."""
    by_time: dict[float, list[str]] = {}
    for row in rows:
        by_time.setdefault(now + _wait(context.settings, row), []).append(row.id)
    for at, ids in by_time.items():
        call_statements.set_level_timer(connection, ids, at)


def _wait(settings: Settings, row: AnyRow) -> float:
    """Seconds that the incident's level has before the next one is called."""
    tiers = {settings.services[row.service].tier} if row.service in settings.services else set()
    at_once = row.level == 0 and settings.escalation_policy(row.service, tiers).call_at_once
    return 0.0 if at_once else settings.escalation.levels[row.level].deadline


def _raise_level(connection: Connection, context: Context, row: AnyRow, now: float) -> None:
    held_until = _held_until(connection, context, row, now)
    if held_until is not None:
        call_statements.set_level_timer(connection, [row.id], held_until)
        return
    # What a maintenance window held back may be a stranger's: people are told of that once.
    wanted = Rise(_reason(connection, context, row, now), climbs=row.known_service or row.level > 0)
    risen = levels.rise(connection, row.id, wanted, context.settings, now)
    timeline.append(connection, row.id, risen.entries, now)
    if row.state == State.ESCALATED.value:
        # A look at once: what has healed just now is not called for.
        statements.annotate(connection, row.id, {"due_at": now})


def _held_until(connection: Connection, context: Context, row: AnyRow, now: float) -> float | None:
    """Until when nobody is called: people have silenced it, or are at work in a maintenance window.

    In a window nothing could be done about it, so its level has its whole time again when that ends.
    """
    window_ends = context.settings.guardrails.maintenance_until(row.service, now)
    if window_ends is not None:
        return window_ends + _wait(context.settings, row)
    return now + levels.PUT_OFF if levels.silenced(connection, row) else None


def _reason(connection: Connection, context: Context, row: AnyRow, now: float) -> str:
    deadline = context.settings.escalation.levels[row.level].deadline
    windows = context.settings.guardrails.maintenance
    if row.resolved_at is None and any(row.level_due_at == each.end.timestamp() for each in windows):
        return "not healed when the maintenance window ended"
    if row.state == State.ESCALATED.value or row.resolved_at is not None:
        line = statements.newest_line(connection, row.id, timeline.Kind.ESCALATION.value)
        if line is not None and levels.HELD in line.data:
            return f"{line.data[levels.HELD]} (held back until now)"
    if row.level > 0:
        return "not healed and not acknowledged within the level's deadline"
    if row.opened_at <= now < row.opened_at + deadline:
        return "it is told at once, whatever the fabric does"
    return f"not healed within {format_duration(deadline)}"
