"""The strategies, by name. To add one, add a module with the protocol's methods and a line below."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from self_healing_fabric.recovery.outcomes import Outcome, Permit
from self_healing_fabric.recovery.strategies.restart import Restart
from self_healing_fabric.recovery.strategies.retry import Retry
from self_healing_fabric.settings import ServiceSettings, Settings

__all__ = ["Strategy", "strategies"]


class Strategy(Protocol):
    """One way to repair a service.

    The orchestrator announces an action with what `before` returned, then calls `perform` once; after a crash
    it calls `observe` instead, which may look at the target but not touch it.
    """

    name: str
    disruptive: bool

    def applies_to(self, service: str, settings: ServiceSettings) -> str | None:
        """None when the strategy can be used on the service, else the reason why not."""

    def platform(self, service: str, settings: ServiceSettings) -> tuple[str, str]:
        """The names of the platform and of the target."""

    def before(self, service: str, settings: ServiceSettings) -> Mapping[str, Any]:
        """What to remember of the target before the effect. Raises platforms.TargetUnreadable."""

    def perform(
        self, service: str, settings: ServiceSettings, *, key: str, attempt: int, before: Mapping[str, Any],
        permit: Permit,
    ) -> Outcome:  # fmt: skip
        """Do it, once, unless the permit is over. `attempt` counts from 1; `key` identifies the action."""

    def longest_effect(self, service: str, settings: ServiceSettings) -> float:
        """Seconds after which an interrupted `perform` has ended; `observe` is asked only then."""

    def observe(self, service: str, settings: ServiceSettings, *, before: Mapping[str, Any]) -> Outcome:
        """Learn whether an interrupted `perform` happened."""


def strategies(settings: Settings) -> Mapping[str, Strategy]:
    """All strategies of this fabric, by name."""
    known: tuple[Strategy, ...] = (Retry(settings.retry), Restart())
    return {strategy.name: strategy for strategy in known}
