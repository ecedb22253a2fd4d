"""A strategy that another package adds, held to the protocol: its name, its time, its errors.

The entry point names a factory, called once with the settings and the validated options of its section
`plugins.strategies.NAME`; what it returns has `disruptive` and `on(service)`, as the built-in ones.
"""

from __future__ import annotations

from typing import Any

from self_healing_fabric.extensions import make
from self_healing_fabric.recovery.effects import Effect
from self_healing_fabric.recovery.effects_of_plugins import READ_WITHIN, EffectOfPlugin, looked
from self_healing_fabric.settings import Settings


class OfPlugin:
    """The strategy of a plugin. What does not say that it disturbs nothing is taken to be disruptive."""

    def __init__(self, name: str, strategy: Any) -> None:
        self.name = name
        self._who = f"plugin {name}"
        self._strategy = strategy
        self.disruptive = getattr(strategy, "disruptive", True) is not False

    def on(self, service: str) -> Effect:
        """Its effect on a service. Raises NotApplicable, TargetUnreadable."""
        return EffectOfPlugin(self._who, looked(self._who, lambda: self._strategy.on(service)))


def of_plugin(name: str, settings: Settings, options: Any) -> OfPlugin:
    """Make the strategy. Raises ConfigurationError when the plugin cannot make it."""
    return OfPlugin(name, make("strategies", name, settings, options, within=READ_WITHIN))
