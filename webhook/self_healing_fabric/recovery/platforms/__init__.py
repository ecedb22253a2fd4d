"""Where a service runs and can be repaired. To add a platform, add a module with the protocol's methods.

A platform offers effects by the name of their strategy. It never decides whether they may happen. Other
packages add theirs by an entry point (`extensions`).
"""

from __future__ import annotations

from typing import Protocol

from self_healing_fabric.recovery.effects import Effect
from self_healing_fabric.settings import Settings


class Platform(Protocol):
    """One configured target on one platform."""

    name: str
    target: str  # what guardrails count by; the same for every effect on it

    def effect(self, strategy: str) -> Effect:
        """Its effect for a strategy. Raises NotApplicable, which says what is missing for that."""

    def check(self) -> str:
        """Ask the target without touching it; return what was found. Raises TargetUnreadable."""


def platform_of(service: str, settings: Settings) -> Platform | None:
    """The platform on which a configured service can be repaired, or None when it names none."""
    recovery = settings.services[service].recovery
    # Imported only when needed: a fabric that heals over HTTP must not need the Docker SDK.
    for name, options in recovery.platform.items():
        from self_healing_fabric.recovery.platforms.plugin import platform_of_plugin

        return platform_of_plugin(name, service, options)
    if recovery.http is not None:
        from self_healing_fabric.recovery.platforms.http import HttpPlatform

        return HttpPlatform(service, recovery.http, recovery.scale)
    if recovery.docker is not None:
        from self_healing_fabric.recovery.platforms.docker import DockerPlatform

        return DockerPlatform(recovery.docker)
    if recovery.kubernetes is not None:
        from self_healing_fabric.recovery.platforms.kubernetes import KubernetesPlatform

        planned = settings.strategies_of(service)
        return KubernetesPlatform(service, recovery.kubernetes, settings.kubernetes, recovery.scale, planned)
    return None


def owner_of(service: str, settings: Settings) -> str:
    """What guardrails count the actions on a service by: its target, or the service where it has none."""
    platform = platform_of(service, settings)
    return f"service:{service}" if platform is None else platform.target
