"""How often one target may be disturbed: a cooldown, so many actions in a window, and not what did not help.

Counted are announced actions, not successful ones: an attempt that failed may have disturbed the target, too.
Only one that was put off, and certainly did not touch it (`outcomes.Untouched`), does not count. An action
whose time lies in the future (the clock was set back) still does.
"""

from __future__ import annotations

from self_healing_fabric.guardrails.ledger import Ledger
from self_healing_fabric.guardrails.proposals import Proposal, Refusal
from self_healing_fabric.incidents.telling import target_in_words


def max_actions(ledger: Ledger, proposal: Proposal) -> Refusal | None:
    """Guardrail `max_actions`: a bounded number of disruptive actions on one target in a sliding window."""
    if not proposal.disruptive or proposal.restores:
        return None
    limit, window = ledger.limits.max_actions, ledger.limits.per
    used = len(ledger.disruptive_since(proposal.now - window))
    if used < limit:
        return None
    return Refusal(
        "max_actions",
        f"{used} of {limit} actions on {target_in_words(proposal.target)} were used in the last {window:g} s",
    )


def cooldown(ledger: Ledger, proposal: Proposal) -> Refusal | None:
    """Guardrail `cooldown`: time for a target to settle between two disruptive actions; 0 s is none."""
    seconds = ledger.limits.cooldown
    if not proposal.disruptive or proposal.restores or not seconds:
        return None
    recent = ledger.disruptive_since(proposal.now - seconds)
    until = max((row.intended_at + seconds for row in recent), default=proposal.now)
    if until <= proposal.now:
        return None
    return Refusal(
        "cooldown", f"{target_in_words(proposal.target)} was acted on less than {seconds:g} s ago", until
    )


def max_failures(ledger: Ledger, proposal: Proposal) -> Refusal | None:
    """Guardrail `max_failures`: what did not heal a target so often in a row is not tried there again."""
    if not proposal.disruptive or proposal.restores:
        return None
    limits = ledger.limits
    since = proposal.now - limits.failures_within
    verdicts = ledger.verdicts_since(since, proposal.strategy)
    newest = [verdict for verdict in verdicts if verdict != "no_evidence"][: limits.max_failures]
    if len(newest) < limits.max_failures or "healed" in newest:
        return None
    reason = (
        f"{proposal.strategy} has not healed {target_in_words(proposal.target)} {len(newest)} times in a row"
    )
    return Refusal("max_failures", reason, next=True)


def max_heals(ledger: Ledger, proposal: Proposal) -> Refusal | None:
    """Guardrail `max_heals`: what must be healed again and again has a cause that a person must remove."""
    if not proposal.disruptive or proposal.restores:
        return None
    limits = ledger.limits
    since = proposal.now - limits.heals_within
    healed = ledger.verdicts_since(since).count("healed")
    if healed < limits.max_heals:
        return None
    days = limits.heals_within / 86400
    return Refusal(
        "max_heals", f"{target_in_words(proposal.target)} was healed {healed} times in {days:g} days"
    )
