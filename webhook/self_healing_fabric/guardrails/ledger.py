"""What the store knows of one proposal: each thing is read once, however many guardrails count it.

They are asked one after the other under a lock that all announcements share. Each with statements of its own,
they asked ten times for one action, half of it for the same rows, and the others waited meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

from sqlalchemy import Connection

from self_healing_fabric.guardrails.mode import configured, strictest
from self_healing_fabric.guardrails.proposals import Proposal
from self_healing_fabric.settings import UNDO, Limits, Mode, Settings
from self_healing_fabric.store import statements
from self_healing_fabric.store.statements import AnyRow

STORM = "storm"  # the guardrail, and the control that keeps it open


class Ledger:
    """The rows that count for `proposal`, read inside the caller's transaction when first asked for."""

    def __init__(self, connection: Connection, proposal: Proposal, settings: Settings) -> None:
        self.proposal = proposal
        self.settings = settings
        self._connection = connection

    @cached_property
    def limits(self) -> Limits:
        """The bounds of the strategy on the service."""
        return self.settings.limits_of(self.proposal.service, self.proposal.strategy)

    @cached_property
    def mode(self) -> Mode:
        """The mode in force for the service and the strategy."""
        return strictest(self._modes, self.controls)

    @cached_property
    def controls(self) -> Mapping[str, AnyRow]:
        """What people, or a storm, have set of what could forbid the action."""
        return statements.controls_named(self._connection, [STORM, *self._modes])

    @cached_property
    def _modes(self) -> Mapping[str, Mode | None]:
        return configured(self.settings, self.proposal.service, self.proposal.strategy)

    @cached_property
    def running(self) -> Sequence[AnyRow]:
        """All disruptive actions that were announced and have no end."""
        return statements.running_actions(self._connection)

    @cached_property
    def on_target(self) -> Sequence[AnyRow]:
        """The actions on the target within the longest of the windows, newest first."""
        limits = self.limits
        window = max(limits.per, limits.cooldown, limits.failures_within, limits.heals_within)
        return statements.actions_on(self._connection, self.proposal.target, self.proposal.now - window)

    def disruptive_since(self, since: float) -> list[AnyRow]:
        """Those of them that have disturbed it since then, or are not finished."""
        return [
            row
            for row in self.on_target
            if row.disturbed and (row.intended_at >= since or row.status in statements.UNFINISHED)
        ]

    def verdicts_since(self, since: float, strategy: str | None = None) -> list[str]:
        """What the verifications of repairs since then said, newest first; of one strategy or of all."""
        return [
            row.verdict
            for row in self.on_target
            if row.verdict is not None
            and row.intended_at >= since
            and row.strategy != UNDO
            and strategy in (None, row.strategy)
        ]

    def failing_services(self) -> int:
        """How many configured services have an incident that is neither resolved nor closed."""
        return statements.count_failing_services(self._connection)

    def targets_acted_on(self, since: float) -> tuple[int, bool]:
        """How many targets were acted on since then, and whether this one is among them."""
        return statements.count_targets_acted_on(self._connection, since, self.proposal.target)
