"""Bounds for all services together: how many at once, how many in a window, and none in a storm.

One service that fails is a job for a healer. Half of them failing at once is a network, a power supply or a
bad rule, and restarting them one by one makes it worse and hides it.
"""

from __future__ import annotations

from self_healing_fabric.guardrails.ledger import STORM, Ledger
from self_healing_fabric.guardrails.proposals import Proposal, Refusal
from self_healing_fabric.incidents.telling import target_in_words
from self_healing_fabric.settings import Settings, number_of

STORM_POLL = 60.0  # seconds between two looks of each incident: who recovers meanwhile is no longer counted
BUSY_POLL = 5.0  # seconds between two looks at whether another action has ended


def one_at_a_time(ledger: Ledger, proposal: Proposal) -> Refusal | None:
    """Guardrail `one_at_a_time`: no second disruptive action on a target or along its dependency path.

    None on a target without a name, either: it could not be counted.
    """
    if not proposal.disruptive:
        return None
    if not proposal.target:
        return Refusal("one_at_a_time", "the target has no name to count by")
    for row in ledger.running:
        if row.target == proposal.target:
            return _busy(
                "one_at_a_time", f"{row.id} is still at work on {target_in_words(proposal.target)}", proposal
            )
        if row.service in proposal.path:
            reason = f"{row.id} is still at work on {row.service}, which {proposal.service} is connected with"
            return _busy("one_at_a_time", reason, proposal)
    return None


def at_once(settings: Settings) -> int:
    """How many disruptive actions may be at work at the same time."""
    return number_of(settings.guardrails.fleet.at_once, len(settings.services))


def fleet_at_once(ledger: Ledger, proposal: Proposal) -> Refusal | None:
    """Guardrail `fleet_at_once`: so many disruptive actions at the same time, on whichever targets."""
    if not proposal.disruptive or proposal.restores:
        return None
    limit = at_once(ledger.settings)
    running = len(ledger.running)
    if running < limit:
        return None
    reason = f"{running} actions are at work, and at most {limit} may be at the same time"
    return _busy("fleet_at_once", reason, proposal)


def fleet_targets(ledger: Ledger, proposal: Proposal) -> Refusal | None:
    """Guardrail `fleet_targets`: so many different targets in a sliding window; then a person looks."""
    if not proposal.disruptive or proposal.restores:
        return None
    fleet = ledger.settings.guardrails.fleet
    limit = limit_of(fleet.targets, ledger.settings)
    since = proposal.now - fleet.within
    acted_on, is_one = ledger.targets_acted_on(since)
    if is_one or acted_on < limit:
        return None
    return Refusal(
        "fleet_targets",
        f"{acted_on} targets were acted on in the last {fleet.within:g} s, and at most {limit} may be",
    )


def storm(ledger: Ledger, proposal: Proposal) -> Refusal | None:
    """Guardrail `storm`: when too many services fail at once, none is acted on, and people are called once.

    It stays so until `storm_cooldown` after the last time that it was seen; the store remembers.
    """
    if not proposal.disruptive or proposal.restores:
        return None
    fleet = ledger.settings.guardrails.fleet
    failing, total = ledger.failing_services(), len(ledger.settings.services)
    control = ledger.controls.get(STORM)
    # A time in the future, after a clock was set back, still counts.
    was_open = control is not None and control.changed_at + fleet.storm_cooldown > proposal.now
    if failing > limit_of(fleet.storm, ledger.settings):
        reason = f"{failing} of {total} services fail at once"
        return Refusal(STORM, reason, proposal.now + STORM_POLL, calls=not was_open, remember=str(failing))
    if control is None or not was_open:
        return None
    until = min(control.changed_at + fleet.storm_cooldown, proposal.now + STORM_POLL)
    return Refusal(STORM, f"{control.value} of {total} services failed at once a moment ago", until)


def limit_of(share: int | str, settings: Settings) -> int:
    """Half of three services is no measure: a share never binds below `least`. A plain number always does."""
    number = number_of(share, len(settings.services))
    return number if isinstance(share, int) else max(number, settings.guardrails.fleet.least)


def _busy(guardrail: str, reason: str, proposal: Proposal) -> Refusal:
    return Refusal(guardrail, reason, proposal.now + BUSY_POLL)
