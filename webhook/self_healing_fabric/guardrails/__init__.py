"""May this action run now, on this target? Named rules, each with its reason, and closed when in doubt.

All guardrails read rows of the store inside the transaction that announces the action, so two workers cannot
both find the same budget free, and neither a restart nor a crash forgets what was done. Those that others
bring are asked before it (`outside`): they may take their time, and a transaction may not.
"""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Connection

from self_healing_fabric.guardrails import budgets, conditions, fleet, mode
from self_healing_fabric.guardrails.ledger import Ledger
from self_healing_fabric.guardrails.proposals import Measured, Proposal, Refusal
from self_healing_fabric.settings import Settings

__all__ = ["Measured", "Proposal", "Refusal", "check"]

Guardrail = Callable[[Ledger, Proposal], Refusal | None]

GUARDRAILS: tuple[Guardrail, ...] = (
    mode.not_stricter,
    conditions.maintenance,
    fleet.storm,
    fleet.one_at_a_time,
    fleet.fleet_at_once,
    budgets.max_failures,
    budgets.max_heals,
    budgets.max_actions,
    budgets.cooldown,
    fleet.fleet_targets,
    conditions.deploying,
    conditions.min_healthy,
)


def check(connection: Connection, proposal: Proposal, settings: Settings) -> Refusal | None:
    """Return the first refusal, or None when every guardrail allows the action."""
    ledger = Ledger(connection, proposal, settings)
    for guardrail in GUARDRAILS:
        refusal = guardrail(ledger, proposal)
        if refusal is not None:
            return refusal
    return proposal.measured.refused
