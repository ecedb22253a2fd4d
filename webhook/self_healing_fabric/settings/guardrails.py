"""Bounds for disruptive actions: on one target, for a strategy, for all services together."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from pydantic import Field, model_validator

from self_healing_fabric.durations import Duration
from self_healing_fabric.settings.values import Section, ServiceName, Share, StrategyName


class Limits(Section):
    """Bounds for the disruptive actions on one target."""

    max_actions: int = Field(3, ge=0, description="disruptive actions on one target within `per`")
    per: Duration = Field(3600.0, gt=0, description="the window of `max_actions`")
    cooldown: Duration = Field(60.0, ge=0, description="between two disruptive actions on one target")
    max_failures: int = Field(
        3, ge=1, description="a strategy that did not heal a target so often in a row is not tried there"
    )
    failures_within: Duration = Field(86400.0, gt=0, description="the window of `max_failures`")
    max_heals: int = Field(5, ge=1, description="healed so often within `heals_within`, it goes to people")
    heals_within: Duration = Field(7 * 86400.0, gt=0, description="the window of `max_heals`")
    min_healthy: int = Field(
        0, ge=0, description="targets of the service that must answer before an action; 0: not asked"
    )
    deploying: str | None = Field(
        None, description="PromQL with one result: 0 when no deployment is under way, more while one is"
    )


class ServiceLimits(Section):
    """Bounds of one service or strategy where they differ from the others': as `guardrails`."""

    max_actions: int | None = Field(None, ge=0, description="disruptive actions on one target within `per`")
    per: Duration | None = Field(None, gt=0, description="the window of `max_actions`")
    cooldown: Duration | None = Field(None, ge=0, description="between two disruptive actions on one target")
    max_failures: int | None = Field(None, ge=1, description="in a row, of one strategy on one target")
    failures_within: Duration | None = Field(None, gt=0, description="the window of `max_failures`")
    max_heals: int | None = Field(None, ge=1, description="then it goes to people")
    heals_within: Duration | None = Field(None, gt=0, description="the window of `max_heals`")
    min_healthy: int | None = Field(None, ge=0, description="targets that must answer before an action")
    deploying: str | None = Field(None, description="PromQL: 0 when no deployment is under way")


class FleetSettings(Section):
    """Bounds for all services together: a healer that is wrong everywhere at once is an outage of its own."""

    at_once: Share = Field(
        "25%", description="disruptive actions at the same time: a number, or of the services"
    )
    targets: Share = Field("50%", description="different targets acted on within `within`: likewise")
    within: Duration = Field(3600.0, gt=0, description="the window of `targets`")
    storm: Share = Field(
        "50%", description="more services than that with an open incident: act on none, call people once"
    )
    least: int = Field(5, ge=1, description="so many targets and failing services are always allowed")
    storm_cooldown: Duration = Field(600.0, gt=0, description="after a storm, before anything is acted on")


class MaintenanceWindow(Section):
    """A time in which nothing is acted on, and the incidents wait."""

    start: datetime = Field(description="with its offset from UTC, for example 2026-12-01T22:00:00+01:00")
    end: datetime = Field(description="likewise")
    services: tuple[ServiceName, ...] = Field((), description="which; all when left out")

    @model_validator(mode="after")
    def _ordered(self) -> MaintenanceWindow:
        if self.start.tzinfo is None or self.end.tzinfo is None:
            raise ValueError("give the offset from UTC: a Z, or +01:00, at the end")
        if self.end <= self.start:
            raise ValueError("end must be after start")
        return self


class GuardrailSettings(Limits):
    """Bounds for disruptive actions: on one target, and for all services together."""

    strategies: Mapping[StrategyName, ServiceLimits] = Field({}, description="where they differ by strategy")
    fleet: FleetSettings = Field(FleetSettings(), description="bounds for all services together")
    maintenance: tuple[MaintenanceWindow, ...] = Field((), description="times in which nothing is acted on")

    def maintenance_until(self, service: str | None, now: float) -> float | None:
        """When the maintenance of the service is over that is under way at `now`; None when there is none."""
        ends = [
            window.end.timestamp()
            for window in self.maintenance
            if (not window.services or service in window.services)
            and window.start.timestamp() <= now < window.end.timestamp()
        ]
        return max(ends, default=None)
