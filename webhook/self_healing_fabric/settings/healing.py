"""How the cause is looked for, how alerts become one problem, and how healing is tried and proved."""

from __future__ import annotations

from pydantic import Field

from self_healing_fabric.durations import Duration
from self_healing_fabric.settings.values import Section


class DiagnosisSettings(Section):
    """How long the diagnosis waits for the platforms and the health endpoint, all asked at once."""

    timeout: Duration = Field(5.0, gt=0, le=30, description="for what is asked besides Prometheus")


class VerificationSettings(Section):
    """How healing is proved: inside limits for `stability`, at the latest `deadline` after the action."""

    stability: Duration = Field(
        30.0, gt=0, description="for how long all signals must be inside their limits"
    )
    deadline: Duration = Field(
        180.0,
        gt=0,
        description="after the action; then the verdict falls, unless all is inside and fills its window",
    )
    interval: Duration = Field(5.0, ge=0.2, description="between two looks")


class RetrySettings(Section):
    """Exponential backoff with full jitter (Marc Brooker, AWS Architecture Blog, 2015)."""

    attempts: int = Field(3, ge=1, le=3, description="at most")
    base: Duration = Field(1.0, gt=0, description="longest wait after the first attempt; doubles")
    cap: Duration = Field(10.0, gt=0, description="longest wait at all")
    timeout: Duration = Field(5.0, gt=0, le=30, description="for one attempt")


class ServiceGraphSettings(Section):
    """A metric that counts the requests between services, such as OpenTelemetry's service graph."""

    metric: str = Field(
        "traces_service_graph_request_total",
        pattern=r"^[a-zA-Z_:][a-zA-Z0-9_:]*$",
        description="a counter with one series for each pair of services",
    )
    client_label: str = Field("client", pattern=r"^[a-zA-Z_]\w*$", description="label that names the caller")
    server_label: str = Field("server", pattern=r"^[a-zA-Z_]\w*$", description="label that names the callee")


class CorrelationSettings(Section):
    """Which alerts of several services are one problem: those of dependent services, close in time."""

    window: Duration = Field(300.0, ge=0, description="after an incident's newest alert")
    wait_for_cause: Duration = Field(
        60.0,
        ge=0,
        description="for a suspect's own alert; then people hear of it",
    )
    service_graph: ServiceGraphSettings | None = Field(
        None, description="dependencies measured by Prometheus, besides `depends_on`"
    )
