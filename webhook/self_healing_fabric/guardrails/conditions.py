"""Circumstances in which nothing is done: a deployment, a maintenance window, too few that still answer."""

from __future__ import annotations

import math

from self_healing_fabric.guardrails.ledger import Ledger
from self_healing_fabric.guardrails.proposals import Proposal, Refusal

POLL = 15.0  # seconds between two looks at whether a circumstance has passed


def maintenance(ledger: Ledger, proposal: Proposal) -> Refusal | None:
    """Guardrail `maintenance`: people are at work, and know that things fail."""
    ends = [
        window.end.timestamp()
        for window in ledger.settings.guardrails.maintenance
        if (not window.services or proposal.service in window.services)
        and window.start.timestamp() <= proposal.now < window.end.timestamp()
    ]
    if not ends or proposal.restores:
        return None
    return Refusal("maintenance", f"{proposal.service} is in a maintenance window", max(ends))


def deploying(ledger: Ledger, proposal: Proposal) -> Refusal | None:
    """Guardrail `deploying`: a deployment is under way, and what fails may be half of it."""
    query = ledger.limits.deploying
    if query is None or not proposal.disruptive or proposal.restores:
        return None
    value = proposal.measured.deploying
    if value is None or not math.isfinite(value) or value < 0:
        reason = f"whether a deployment is under way cannot be told: {query} gives no single number from 0 up"
        return Refusal("deploying", reason, proposal.now + POLL)
    if value == 0:
        return None
    return Refusal("deploying", "a deployment is under way", proposal.now + POLL)


def min_healthy(ledger: Ledger, proposal: Proposal) -> Refusal | None:
    """Guardrail `min_healthy`: so many targets of the service must answer; fewer are for people."""
    least = ledger.limits.min_healthy
    if not least or not proposal.disruptive or proposal.restores:
        return None
    value = proposal.measured.answering
    if value is None or not math.isfinite(value):
        return Refusal("min_healthy", f"how many targets of {proposal.service} answer cannot be told")
    if value >= least:
        return None
    return Refusal("min_healthy", f"{value:g} targets of {proposal.service} answer, and {least} must")
