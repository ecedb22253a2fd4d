"""What surrounds the fabric in a replay: strategies that perform nothing, and witnesses that are not asked.

A target as it is now says nothing of the target as it was, and asking it would be a call that nobody expects
of a report. So the strategies keep what the configuration says of them (whether they apply, what they count
by, how long they take) and lose everything that touches a target; the platforms and health endpoints that a
diagnosis asks beside Prometheus are named as not asked.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from self_healing_fabric.diagnosis.sources import Report, SourceMaker, SourceUnusable, sources_of
from self_healing_fabric.incidents.unfinished import FOLLOWED_BY
from self_healing_fabric.recovery.effects import Effect
from self_healing_fabric.recovery.outcomes import Outcome, Permit, Status
from self_healing_fabric.recovery.strategies import Strategy
from self_healing_fabric.settings import KubernetesSettings, ServiceSettings, Settings

NOT_DONE = "a replay performs nothing"


class Unperformed(Effect):
    """An effect that is counted as done, and never is. It has no way back, for there is nothing to undo."""

    def __init__(self, effect: Effect, before: Mapping[str, Any]) -> None:
        self.platform, self.target, self.longest_effect = (
            effect.platform,
            effect.target,
            effect.longest_effect,
        )
        self._before = before

    def snapshot(self) -> Mapping[str, Any]:
        """Nothing of the target: it is not what it was."""
        return self._before

    def perform(self, *, key: str, attempt: int, before: Mapping[str, Any], permit: Permit) -> Outcome:
        """Nothing."""
        return Outcome(Status.SUCCEEDED, NOT_DONE)

    def observe(self, before: Mapping[str, Any]) -> Outcome:
        """Nothing either; a replay is never interrupted in the middle of an effect."""
        return Outcome(Status.SUCCEEDED, NOT_DONE)

    def check(self) -> str:
        """Not asked."""
        return NOT_DONE


class ReplayedStrategy:
    """A strategy whose effects are not performed."""

    def __init__(self, strategy: Strategy, settings: Settings) -> None:
        self.name, self.disruptive = strategy.name, strategy.disruptive
        self._strategy, self._settings = strategy, settings

    def on(self, service: str) -> Effect:
        """What it would be on the service. Raises NotApplicable, TargetUnreadable, as the strategy does."""
        configuration = self._settings.services[service].recovery.configuration
        restarts = self.name == "sync" and configuration is not None and configuration.restart
        return Unperformed(self._strategy.on(service), {FOLLOWED_BY: "restart"} if restarts else {})


class _NotAsked:
    """A source that a replay does not ask."""

    def __init__(self, name: str) -> None:
        self.name = name

    def look(self, at: float, within: float) -> Report:
        """Say so."""
        raise SourceUnusable("a replay asks nobody but Prometheus")


def unasked_sources(
    name: str, service: ServiceSettings, kubernetes: KubernetesSettings, depends_on: Collection[str]
) -> Mapping[str, SourceMaker]:
    """The configured sources of a service, none of which is asked."""
    configured = sources_of(name, service, kubernetes, depends_on)
    return {source: lambda source=source: _NotAsked(source) for source in configured}  # type: ignore[misc]
