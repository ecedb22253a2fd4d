"""How often one target may be disturbed: one action at a time, a cooldown, and at most so many in a window.

Counted are announced actions, not successful ones: an attempt that failed has disturbed the target too. An
action whose time lies in the future (the clock was set back) still counts.
"""

from __future__ import annotations

from sqlalchemy import Connection

from self_healing_fabric.guardrails.proposals import Proposal, Refusal
from self_healing_fabric.settings import Settings
from self_healing_fabric.store import statements


def one_at_a_time(connection: Connection, proposal: Proposal, _: Settings) -> Refusal | None:
    """Guardrail `one_at_a_time`: no second disruptive action on a target, none on a nameless one."""
    if not proposal.disruptive:
        return None
    if not proposal.target:
        return Refusal("one_at_a_time", "the target has no name to count by")
    running = [
        row
        for row in statements.disruptive_actions_on(connection, proposal.target, proposal.now)
        if row.status in statements.UNFINISHED
    ]
    if not running:
        return None
    return Refusal(
        "one_at_a_time", f"{running[0].id} is still at work on {proposal.target}", proposal.now + 5.0
    )


def max_actions(connection: Connection, proposal: Proposal, settings: Settings) -> Refusal | None:
    """Guardrail `max_actions`: a bounded number of disruptive actions on one target in a sliding window."""
    if not proposal.disruptive or proposal.restores:
        return None
    used, limit, window = actions_used(connection, proposal.target, settings, proposal.now), *_limit(settings)
    if used < limit:
        return None
    return Refusal(
        "max_actions", f"{used} of {limit} actions on {proposal.target} were used in the last {window:g} s"
    )


def cooldown(connection: Connection, proposal: Proposal, settings: Settings) -> Refusal | None:
    """Guardrail `cooldown`: time for a target to settle between two disruptive actions; 0 s is none."""
    seconds = settings.guardrails.cooldown
    if not proposal.disruptive or proposal.restores or not seconds:
        return None
    recent = statements.disruptive_actions_on(connection, proposal.target, proposal.now - seconds)
    until = max((row.intended_at + seconds for row in recent), default=proposal.now)
    if until <= proposal.now:
        return None
    return Refusal("cooldown", f"{proposal.target} was acted on less than {seconds:g} s ago", until)


def actions_used(connection: Connection, target: str, settings: Settings, now: float) -> int:
    """How many disruptive actions on the target count against the budget now."""
    return len(statements.disruptive_actions_on(connection, target, now - settings.guardrails.per))


def _limit(settings: Settings) -> tuple[int, float]:
    return settings.guardrails.max_actions, settings.guardrails.per
