"""One service that is watched and healed: its limits, its plans, where it can be repaired."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from self_healing_fabric.durations import Duration
from self_healing_fabric.settings.escalation import ServicePolicy
from self_healing_fabric.settings.guardrails import ServiceLimits
from self_healing_fabric.settings.plugins import EvidenceOptions
from self_healing_fabric.settings.recovery import RecoverySettings
from self_healing_fabric.settings.values import CalledUrl, HttpUrl, Mode, Section, ServiceName, StrategyName


def _failure_class(name: str) -> str:
    if name not in DEFAULT_PLANS:
        raise ValueError(f"no failure class is called so; known: {', '.join(DEFAULT_PLANS)}")
    return name


Plans = Mapping[Annotated[str, AfterValidator(_failure_class)], tuple[StrategyName, ...]]

DEFAULT_PLANS: Plans = {
    "transient": ("retry", "restart"),
    "degradation": ("scale", "restart"),
    "service_failure": ("evict", "rollback", "restart"),
    "data_corruption": ("repair",),
    "cluster_drift": ("sync",),
    "critical": (),
    "unknown": (),
}


class Thresholds(Section):
    """Limits of the signals; `shf rules` renders the alert rules with the same numbers."""

    heartbeat: Duration = Field(30.0, gt=0, description="silent for longer is a failure")
    error_ratio: float = Field(0.05, gt=0, lt=1, description="failed share of the requests")
    latency_factor: float = Field(2.0, gt=1, description="P95 in multiples of its baseline")
    latency_min_rise: Duration = Field(0.05, ge=0, description="and at least this much above it")
    cpu: float = Field(0.90, gt=0, lt=1, description="share of the CPU")
    memory: float = Field(0.95, gt=0, lt=1, description="share of the memory limit")

    @property
    def by_signal(self) -> Mapping[str, float]:
        """The limits by signal, as `shf_signal_threshold` exports them."""
        return {
            "heartbeat": self.heartbeat,
            "error_ratio": self.error_ratio,
            "latency_p95": self.latency_factor,
            "cpu": self.cpu,
            "memory": self.memory,
        }


class ServiceThresholds(Section):
    """Limits of one service where they differ from the others': as `thresholds`."""

    heartbeat: Duration | None = Field(None, gt=0, description="silent for longer is a failure")
    error_ratio: float | None = Field(None, gt=0, lt=1, description="failed share of the requests")
    latency_factor: float | None = Field(None, gt=1, description="P95 in multiples of its baseline")
    cpu: float | None = Field(None, gt=0, lt=1, description="share of the CPU")
    memory: float | None = Field(None, gt=0, lt=1, description="share of the memory limit")


class ServiceSettings(Section):
    """One service that is watched and healed."""

    kind: Literal["guardian", "guard", "service"] = Field(
        "service", description="guardians can be called by escalation"
    )
    tier: Literal["critical", "standard", "low"] = Field("standard", description="how much depends on it")
    health: CalledUrl | None = Field(None, description="health endpoint; 2xx is healthy")
    metrics: HttpUrl | None = Field(None, description="metrics endpoint, for service discovery")
    pushes_heartbeats: bool = Field(
        False, description="a job that cannot be scraped calls POST /api/v1/heartbeats/NAME"
    )
    thresholds: ServiceThresholds = Field(
        ServiceThresholds(), description="limits that differ for this service"
    )
    depends_on: tuple[ServiceName, ...] = Field((), description="services that it cannot work without")
    recovery: RecoverySettings = Field(RecoverySettings(), description="where it can be repaired")
    evidence_sources: EvidenceOptions = Field(
        {}, description="[plugins](plugins.md) that are asked about it too: options by name"
    )
    plans: Plans = Field({}, description="strategies by failure class where they differ from `plans`")
    guardrails: ServiceLimits = Field(ServiceLimits(), description="bounds that differ for this service")
    escalation: ServicePolicy = Field(ServicePolicy(), description="how high and how soon people are called")
    mode: Mode | None = Field(None, description="at most this much, whatever `mode` allows")
