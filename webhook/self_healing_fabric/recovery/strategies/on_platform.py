"""What a platform does to a service's target: restart, scale, evict one replica, roll back.

The strategy knows nothing of platforms but what they offer, so a new platform needs no change here.
"""

from __future__ import annotations

from self_healing_fabric.recovery.effects import Effect, NotApplicable
from self_healing_fabric.recovery.platforms import platform_of
from self_healing_fabric.settings import Settings


class OnPlatform:
    """The effect of one name that the service's platform offers."""

    disruptive = True

    def __init__(self, name: str, settings: Settings) -> None:
        self.name = name
        self._settings = settings

    def on(self, service: str) -> Effect:
        """The platform's effect on the service's one configured target."""
        platform = platform_of(service, self._settings)
        if platform is None:
            raise NotApplicable(f"{service} has no `recovery` target")
        return platform.effect(self.name)
