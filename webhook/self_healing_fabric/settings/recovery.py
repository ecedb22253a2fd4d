"""Where and how one service can be repaired."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from self_healing_fabric.durations import Duration
from self_healing_fabric.settings.configuration import ConfigurationSettings
from self_healing_fabric.settings.plugins import PlatformOptions
from self_healing_fabric.settings.state import StateSettings
from self_healing_fabric.settings.values import CalledUrl, Section

# Seconds. A worker waits for so long, and who finds the effect interrupted before it asks the target; a step
# that takes longer than two of them hangs (`leases.LONGEST_STEP`).
MAX_EFFECT_TIMEOUT = 60.0
LONGEST_STOP = 30.0  # seconds that a container may take of them to end


class HttpRecovery(Section):
    """Recovery through the service's own HTTP API.

    `restart` is called with POST and an `Idempotency-Key`; `started_at` is a URL whose JSON answer holds
    `started_at`, a value that changes exactly when the service was restarted. Without it a restart whose
    answer got lost can not be learnt from the target and goes to a human.
    """

    restart: CalledUrl | None = Field(
        None, description="called with POST and an Idempotency-Key; 2xx means accepted"
    )
    started_at: CalledUrl | None = Field(
        None,
        description="answers JSON with `started_at`, new after each restart; let who restarts it tell, for "
        "a service that hangs does not answer itself",
    )
    scale: CalledUrl | None = Field(
        None,
        description='GET answers JSON with `replicas`; PUT {"replicas": N} sets how many there should be',
    )
    expect: tuple[Annotated[int, Field(ge=200, le=399)], ...] = Field(
        (), description="statuses that mean accepted; any 2xx by default"
    )
    timeout: Duration = Field(30.0, gt=0, le=MAX_EFFECT_TIMEOUT, description="for an order")
    bearer_token_file: Path | None = Field(None, description="token to send; read anew for every call")

    @model_validator(mode="after")
    def _something(self) -> HttpRecovery:
        if self.restart is None and self.scale is None:
            raise ValueError("give `restart`, `scale` or both")
        return self


class RetryCall(Section):
    """A call that may be repeated without harm, made by `retry` instead of a probe of the health endpoint."""

    url: CalledUrl = Field(description="what is called")
    method: Literal["GET", "PUT", "POST"] = Field("GET", description="GET, PUT or POST")
    expect: tuple[Annotated[int, Field(ge=200, le=399)], ...] = Field(
        (), description="statuses that mean it worked; any 2xx by default"
    )
    bearer_token_file: Path | None = Field(None, description="token to send; read anew for every call")


class DockerRecovery(Section):
    """Recovery of a Docker container by its name or id."""

    container: str = Field(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9_.-]*$", description="name or id")
    host: str = Field(
        "unix:///var/run/docker.sock", description="the engine: unix://, tcp://, or https:// for TLS"
    )
    stop_timeout: Duration | None = Field(
        None,
        ge=0,
        le=LONGEST_STOP,
        description="between SIGTERM and SIGKILL; by default the container's own, else 10 s",
    )


class KubernetesRecovery(Section):
    """A workload on Kubernetes: read for evidence, and repaired unless another platform is given."""

    kind: Literal["Deployment", "StatefulSet", "DaemonSet"] = Field(
        "Deployment", description="Deployment, StatefulSet or DaemonSet"
    )
    namespace: str = Field(
        "default", pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", description="where it is"
    )
    name: str = Field(
        pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$", description="name of the workload, not of a pod"
    )


class ScaleSettings(Section):
    """How far a service may be scaled up while it fails, and when it is scaled back."""

    max: int = Field(ge=1, le=1000, description="replicas at most")
    step: int = Field(1, ge=1, le=100, description="replicas more, each time")
    calm: Duration = Field(600.0, gt=0, description="without an alert; then it is scaled back")


class RecoverySettings(Section):
    """Where a service can be repaired: one platform, or none (then it is only retried and escalated)."""

    retry: RetryCall | None = Field(
        None, description="what `retry` calls; without it, it asks the health endpoint again"
    )
    http: HttpRecovery | None = Field(None, description="repair over HTTP")
    docker: DockerRecovery | None = Field(None, description="repair of a container")
    kubernetes: KubernetesRecovery | None = Field(
        None, description="a workload: evidence; and repair, unless `http` or `docker` is given"
    )
    platform: PlatformOptions = Field(
        {}, description="repair by a [plugin](plugins.md), and its options: `{NAME: {...}}`"
    )
    scale: ScaleSettings | None = Field(None, description="how far `scale` may go; without it: not at all")
    state: StateSettings | None = Field(
        None, description="replicas whose state is [repaired by majority](state-repair.md)"
    )
    configuration: ConfigurationSettings | None = Field(
        None, description="its wanted and its running configuration, for `sync`"
    )

    @model_validator(mode="after")
    def _can_be_restarted(self) -> RecoverySettings:
        if len(self.platform) > 1:
            raise ValueError(f"`platform` takes one plugin, not {len(self.platform)}")
        if self.platform and (self.http or self.docker):
            raise ValueError("give one platform: `http`, `docker` or the plugin in `platform`")
        over_http = self.http is not None and self.http.restart is not None
        restarts = over_http or self.docker or self.kubernetes or self.platform
        if self.configuration is not None and self.configuration.restart and not restarts:
            raise ValueError("`configuration.restart` needs a platform that can restart the service")
        return self
