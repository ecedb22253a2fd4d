"""Restart: end the process and start it anew, through whatever platform the service is configured for.

The strategy knows nothing of platforms but their protocol, so a new platform restarts without a change here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from self_healing_fabric.recovery.outcomes import Outcome, Permit, Status
from self_healing_fabric.recovery.platforms import Platform, TargetUnreadable, platform_of
from self_healing_fabric.settings import ServiceSettings


class Restart:
    """Restart the service's one configured target."""

    name = "restart"
    disruptive = True

    def applies_to(self, service: str, settings: ServiceSettings) -> str | None:
        """A platform is needed."""
        if platform_of(service, settings):
            return None
        if settings.recovery.kubernetes is not None:
            return f"{service} runs on Kubernetes, where nothing can be restarted yet"
        return f"{service} has no `recovery` target"

    def platform(self, service: str, settings: ServiceSettings) -> tuple[str, str]:
        """The configured platform and its target."""
        platform = self._platform(service, settings)
        return platform.name, platform.target

    def before(self, service: str, settings: ServiceSettings) -> Mapping[str, Any]:
        """When the target was started last."""
        return self._platform(service, settings).snapshot()

    def perform(
        self, service: str, settings: ServiceSettings, *, key: str, attempt: int, before: Mapping[str, Any],
        permit: Permit,
    ) -> Outcome:  # fmt: skip
        """Restart once."""
        try:
            return self._platform(service, settings).restart(key, before, permit)
        except TargetUnreadable as error:
            return Outcome(Status.FAILED, str(error))

    def longest_effect(self, service: str, settings: ServiceSettings) -> float:
        """What the platform says."""
        return self._platform(service, settings).longest_effect

    def observe(self, service: str, settings: ServiceSettings, *, before: Mapping[str, Any]) -> Outcome:
        """Ask the target whether it was started anew since `before`."""
        return self._platform(service, settings).observe(before)

    def _platform(self, service: str, settings: ServiceSettings) -> Platform:
        platform = platform_of(service, settings)
        if platform is None:
            raise TargetUnreadable(f"{service} has no `recovery` target")
        return platform
