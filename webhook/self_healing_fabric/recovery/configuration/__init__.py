"""The configuration of a service: what is wanted, what runs, and in what they differ.

To add a place where configuration lives, add a module with the methods of `live.Live` and a line below.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from self_healing_fabric.recovery.configuration.desired import Wanted, read_wanted
from self_healing_fabric.recovery.configuration.drift import Drift, Unparsable
from self_healing_fabric.recovery.configuration.http_endpoint import HttpEndpoint
from self_healing_fabric.recovery.configuration.live import Live, Running
from self_healing_fabric.recovery.configuration.masking import Masker
from self_healing_fabric.recovery.effects import TargetUnreadable
from self_healing_fabric.settings import ConfigurationSettings, Settings

__all__ = ["Comparison", "Configuration", "Drift", "configuration_of", "reports"]


@dataclass(frozen=True)
class Comparison:
    """Both configurations as they were read, and in what they differ."""

    wanted: Wanted
    running: Running
    drift: Drift


class Configuration:
    """The configuration of one service. Asks nothing until it is told to."""

    def __init__(self, settings: ConfigurationSettings, live: Live) -> None:
        self.settings = settings
        self.live = live

    def compare(self) -> Comparison:
        """Read both and compare. Raises TargetUnreadable, whose text holds nothing of either."""
        wanted = read_wanted(self.settings.desired)
        running = self.live.read()
        try:
            return Comparison(wanted, running, self.live.drift(running, wanted.content))
        except Unparsable as error:
            raise TargetUnreadable(f"the wanted configuration, {wanted.origin}: {error}") from error

    def check(self) -> str:
        """What a comparison found, for people. Raises TargetUnreadable."""
        found = self.compare()
        if not found.drift:
            return f"{self.live.target} is as {found.wanted.origin} wants it"
        return f"{self.live.target} differs from {found.wanted.origin} in {places(found.drift)}"


def places(drift: Drift) -> str:
    """In how many places, in words."""
    return f"{drift.places} place{'s' if drift.places != 1 else ''}"


def reports(services: Iterable[str], settings: Settings) -> list[dict[str, Any]]:
    """What a comparison finds, now, for each of the services that have a configuration; fit to be shown."""
    return [_report(name, settings) for name in services if settings.services[name].recovery.configuration]


def _report(service: str, settings: Settings) -> dict[str, Any]:
    report = {"service": service, "places": None, "lines": (), "notes": (), "problem": None}
    try:
        configuration = configuration_of(service, settings)
        if configuration is None:
            return report
        found = configuration.compare()
    except TargetUnreadable as error:
        return {**report, "problem": str(error)}
    drift = found.drift
    where = {"target": configuration.live.target, "wanted": found.wanted.origin}
    return {**report, **where, "places": drift.places, "lines": drift.lines, "notes": drift.notes}


def configuration_of(service: str, settings: Settings) -> Configuration | None:
    """The configuration of a configured service, or None when it names none. May raise TargetUnreadable."""
    configured = settings.services[service].recovery.configuration
    if configured is None:
        return None
    return Configuration(configured, _live(configured, settings))


def _live(configured: ConfigurationSettings, settings: Settings) -> Live:
    masker, place = Masker(configured.secrets), configured.live
    # Imported only when needed: a configuration behind a URL must not need the Kubernetes client.
    if place.configmap is not None:
        from self_healing_fabric.recovery.configuration.config_map import ConfigMapEntry

        return ConfigMapEntry(configured, place.configmap, settings.kubernetes, masker)
    if place.object is not None:
        from self_healing_fabric.recovery.configuration.kubernetes_object import AppliedObject

        return AppliedObject(configured, place.object, settings.kubernetes, masker)
    return HttpEndpoint(configured, masker)
