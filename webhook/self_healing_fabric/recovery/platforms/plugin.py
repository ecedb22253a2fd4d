"""A platform that another package adds, held to the protocol: it says where and how, within its time.

The entry point names a factory, called with the service's name and the validated options of
`services.NAME.recovery.platform`; what it returns has `target`, `effect(strategy)` and `check()`.
"""

from __future__ import annotations

from typing import Any

from self_healing_fabric.extensions import PluginUnusable, load
from self_healing_fabric.recovery.effects import Effect, TargetUnreadable
from self_healing_fabric.recovery.effects_of_plugins import EffectOfPlugin, looked


class PlatformOfPlugin:
    """The platform that a plugin made for one service. Raises TargetUnreadable when it is none."""

    def __init__(self, name: str, platform: Any) -> None:
        self.name = name
        self._who, self._platform = f"plugin {name}", platform
        target = getattr(platform, "target", None)
        if not isinstance(target, str) or not target:
            raise TargetUnreadable(f"{self._who} does not say what its `target` is")
        self.target = target

    def effect(self, strategy: str) -> Effect:
        """Its effect for a strategy. Raises NotApplicable, TargetUnreadable."""
        return EffectOfPlugin(self._who, looked(self._who, lambda: self._platform.effect(strategy)))

    def check(self) -> str:
        """What it finds when it asks the target. Raises TargetUnreadable."""
        return str(looked(self._who, self._platform.check))


def platform_of_plugin(name: str, service: str, options: Any) -> PlatformOfPlugin:
    """Make the platform of a service. Raises TargetUnreadable."""
    try:
        factory = load("platforms", name)
    except PluginUnusable as error:
        raise TargetUnreadable(str(error)) from error
    return PlatformOfPlugin(name, looked(f"plugin {name}", lambda: factory(service, options)))
