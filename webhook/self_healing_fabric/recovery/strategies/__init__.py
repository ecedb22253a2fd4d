"""The strategies, by name. To add one, add a module with the protocol's method and a line below.

Other packages add theirs by an entry point (`extensions`); `of_plugin` holds those to the protocol.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

from self_healing_fabric.recovery.effects import Effect, NotApplicable, TargetUnreadable
from self_healing_fabric.recovery.strategies.of_plugin import of_plugin
from self_healing_fabric.recovery.strategies.on_platform import OnPlatform
from self_healing_fabric.recovery.strategies.repair import Repair
from self_healing_fabric.recovery.strategies.retry import Retry
from self_healing_fabric.recovery.strategies.sync import Sync
from self_healing_fabric.settings import UNDO, Settings

__all__ = ["SCALE", "UNDO", "Strategy", "strategies", "undoable", "usable"]

SCALE = "scale"
_UNDOABLE = frozenset({SCALE, "rollback", "repair", "sync"})


class Strategy(Protocol):
    """One way to repair a service."""

    name: str
    disruptive: bool

    def on(self, service: str) -> Effect:
        """The effect that it would have on a configured service; asks nothing yet. Raises NotApplicable."""


def usable(settings: Settings, known: Mapping[str, Strategy]) -> Mapping[str, Collection[str]]:
    """For each service the strategies of its plans that it can have, `undo` where one can be undone."""
    found = {}
    can_be_undone = undoable(settings)
    for service in settings.services:
        names = []
        for name in sorted(settings.strategies_of(service)):
            try:
                known[name].on(service)
            except (NotApplicable, TargetUnreadable):
                continue
            names.append(name)
        found[service] = [*names, UNDO] if can_be_undone.intersection(names) else names
    return found


def undoable(settings: Settings) -> frozenset[str]:
    """The strategies whose effects may have a way back; of one of somebody else's, only its effect knows."""
    return _UNDOABLE.union(settings.plugin_strategies())


def strategies(settings: Settings) -> Mapping[str, Strategy]:
    """All strategies of this fabric, by name."""
    known: tuple[Strategy, ...] = (
        Retry(settings),
        OnPlatform("restart", settings),
        OnPlatform(SCALE, settings),
        OnPlatform("evict", settings),
        OnPlatform("rollback", settings),
        Repair(settings),
        Sync(settings),
    )
    options = settings.plugins.strategies
    added = (of_plugin(name, settings, options.get(name)) for name in settings.plugin_strategies())
    return {strategy.name: strategy for strategy in (*known, *added)}
