"""The mode of the fabric, kill switch included. Set by a person, kept in the store across restarts.

It is read in the transaction that announces an action and once more right before the effect, so a pause that
was acknowledged stops everything that has not begun.
"""

from __future__ import annotations

from sqlalchemy import Connection

from self_healing_fabric.guardrails.proposals import Proposal, Refusal
from self_healing_fabric.settings import Mode, Settings
from self_healing_fabric.store import statements

CONTROL = "mode"
PAUSE_POLL = 1.0  # seconds between two looks at whether the pause is over


def current(connection: Connection, settings: Settings, *, lock: bool = False) -> Mode:
    """The mode that a person set last, else the configured one. `lock`: it stays so in this transaction."""
    row = statements.control(connection, CONTROL, lock=lock)
    return settings.mode if row is None else Mode(row.value)


def change(connection: Connection, mode: Mode, *, by: str, now: float) -> None:
    """Set the mode from now on."""
    statements.set_control(connection, name=CONTROL, value=mode.value, by=by, now=now)


def not_paused(connection: Connection, proposal: Proposal, settings: Settings) -> Refusal | None:
    """Guardrail `mode`: no effect of any kind while the fabric is paused."""
    if current(connection, settings) is not Mode.PAUSED:
        return None
    return Refusal("mode", "the fabric is paused (kill switch)", proposal.now + PAUSE_POLL)
