"""Where a service runs and can be restarted. To add a platform, add a module with the protocol's methods.

A platform restarts, and can tell from the target whether a restart happened. It never decides whether it may.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from self_healing_fabric.errors import ShfError
from self_healing_fabric.recovery.outcomes import Outcome, Permit
from self_healing_fabric.settings import ServiceSettings


class TargetUnreadable(ShfError):
    """The target does not exist or cannot be asked: an effect on it could not be accounted for."""


class Platform(Protocol):
    """One configured target on one platform."""

    name: str
    target: str  # what guardrails count by; the same for every incident that can touch the same thing
    # Seconds after the record of its beginning until an effect has ended, whether or not we heard of it: at
    # most `outcomes.BEGINS_WITHIN` until the order is sent, and what the target may take from there.
    longest_effect: float

    def snapshot(self) -> Mapping[str, Any]:
        """What the target looks like before an effect, as JSON. Raises TargetUnreadable."""

    def restart(self, key: str, before: Mapping[str, Any], permit: Permit) -> Outcome:
        """Restart the target once. `key` identifies the action for targets that know idempotency keys.

        `permit` is asked when all is ready and only the order itself is left to be sent.
        """

    def observe(self, before: Mapping[str, Any]) -> Outcome:
        """Learn from the target whether a restart happened since `before`; never acts.

        To be asked when `longest_effect` has passed: only then does an unchanged target mean that nothing
        happened.
        """

    def check(self) -> str:
        """Ask the target without touching it; return what was found. Raises TargetUnreadable."""


def platform_of(service: str, settings: ServiceSettings) -> Platform | None:
    """The platform on which the service can be repaired, or None when none is configured."""
    # Imported only when needed: a fabric that heals over HTTP must not need the Docker SDK.
    if settings.recovery.http is not None:
        from self_healing_fabric.recovery.platforms.http import HttpPlatform

        return HttpPlatform(service, settings.recovery.http)
    if settings.recovery.docker is not None:
        from self_healing_fabric.recovery.platforms.docker import DockerPlatform

        return DockerPlatform(settings.recovery.docker)
    return None
