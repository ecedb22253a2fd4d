"""The strategies, by name. To add one, add a module with the protocol's method and a line below."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from self_healing_fabric.recovery.effects import Effect
from self_healing_fabric.recovery.strategies.on_platform import OnPlatform
from self_healing_fabric.recovery.strategies.retry import Retry
from self_healing_fabric.recovery.strategies.sync import Sync
from self_healing_fabric.settings import Settings

__all__ = ["SCALE", "UNDO", "Strategy", "strategies"]

SCALE = "scale"
UNDO = "undo"
"""In a plan: the effect that takes back the incident's newest effect that can be taken back."""


class Strategy(Protocol):
    """One way to repair a service."""

    name: str
    disruptive: bool

    def on(self, service: str) -> Effect:
        """The effect that it would have on a configured service; asks nothing yet. Raises NotApplicable."""


def strategies(settings: Settings) -> Mapping[str, Strategy]:
    """All strategies of this fabric, by name."""
    known: tuple[Strategy, ...] = (
        Retry(settings),
        OnPlatform("restart", settings),
        OnPlatform(SCALE, settings),
        OnPlatform("evict", settings),
        OnPlatform("rollback", settings),
        Sync(settings),
    )
    return {strategy.name: strategy for strategy in known}
