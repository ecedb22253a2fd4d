"""Circumstances in which nothing is done: a deployment, a maintenance window, too few that still answer."""

from __future__ import annotations

import math

from self_healing_fabric.guardrails.ledger import Ledger
from self_healing_fabric.guardrails.proposals import Proposal, Refusal
from self_healing_fabric.incidents.telling import moment_in_words
from self_healing_fabric.settings import Settings

POLL = 15.0  # seconds between two looks at whether a circumstance has passed


def maintenance(ledger: Ledger, proposal: Proposal) -> Refusal | None:
    """Guardrail `maintenance`: people are at work, and know that things fail."""
    return None if proposal.restores else in_maintenance(ledger.settings, proposal.service, proposal.now)


def in_maintenance(settings: Settings, service: str | None, now: float) -> Refusal | None:
    """The refusal of whatever wants to begin inside a maintenance window."""
    until = settings.guardrails.maintenance_until(service, now)
    if until is None:
        return None
    told = f"{service} is in a maintenance window until {moment_in_words(until)}"
    return Refusal("maintenance", told, until)


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
