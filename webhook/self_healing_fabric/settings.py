"""All configuration: one YAML file, any value overridable by environment, secrets in files of their own.

A healer with half a configuration is worse than none, so the whole file is validated before anything starts,
and every mistake is reported at once with its path: a person who fixes one typo must not be sent round again
for the next. Keys that nobody knows are errors too, because a misspelt guardrail that is silently ignored is
a guardrail that is off.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from self_healing_fabric.durations import Duration

ENVIRONMENT_PREFIX = "SHF_"
# Seconds. A worker waits for so long, and who finds the effect interrupted before it asks the target; a step
# that takes longer than two of them hangs (`leases.LONGEST_STEP`).
MAX_EFFECT_TIMEOUT = 60.0

ServiceName = Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,126}[A-Za-z0-9])?$")]
StrategyName = Literal["retry", "restart", "scale", "evict", "rollback", "repair", "sync"]


class Mode(StrEnum):
    """What the fabric may do: act, ask first, only say what it would do, or nothing at all."""

    AUTOMATIC = "automatic"
    APPROVAL = "approval"
    DRY_RUN = "dry_run"
    PAUSED = "paused"


def _http_url(value: str) -> str:
    """Accept an absolute http(s) URL with a host; anything else could be turned into another kind of call."""
    parts = urlsplit(value)  # raises ValueError for brackets, `port` for ports that cannot be
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0 or not _is_word(value):
        raise ValueError("give an absolute URL that starts with http:// or https://")
    return value.rstrip("/") if parts.path == "/" else value


def _is_word(text: str) -> bool:
    return text.isprintable() and " " not in text


HttpUrl = Annotated[str, AfterValidator(_http_url)]


class Section(BaseModel):
    """A part of the configuration: immutable, and refusing keys that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class PrometheusSettings(Section):
    """The Prometheus that evaluates the rules and answers for the evidence."""

    url: HttpUrl = Field("http://127.0.0.1:9090", description="base URL, with its path prefix if it has one")
    timeout: Duration = Field(5.0, gt=0, le=30, description="for one query")
    scrape_interval: Duration = Field(5.0, gt=0, description="how often the services are scraped")
    evaluation_interval: Duration = Field(5.0, gt=0, description="how often the rules are evaluated")
    bearer_token_file: Path | None = Field(None, description="token to send; read anew for every call")


class AlertmanagerSettings(Section):
    """The Alertmanager whose notifications may be lost: it is asked for them every 10 s."""

    url: HttpUrl = Field(description="base URL")
    receiver: str = Field("self-healing-fabric", description="the receiver that leads to the fabric")
    timeout: Duration = Field(5.0, gt=0, le=30, description="for one call")
    bearer_token_file: Path | None = Field(None, description="token to send; read anew for every call")


class KubernetesSettings(Section):
    """The API server that is asked about the services on Kubernetes, and repairs them.

    Without `kubeconfig` and `context` the fabric takes the service account of the pod that it runs in.
    """

    kubeconfig: Path | None = Field(
        None, description="how to reach the API server; from within it: not needed"
    )
    context: str | None = Field(None, description="of the kubeconfig; its current one by default")
    timeout: Duration = Field(3.0, gt=0, le=30, description="for one call")
    namespaces: tuple[str, ...] = Field(
        (), description="the only ones in which services may be; any by default"
    )


class DiagnosisSettings(Section):
    """How long the diagnosis waits for the platforms and the health endpoint, all asked at once."""

    timeout: Duration = Field(5.0, gt=0, le=30, description="for what is asked besides Prometheus")


class AuthSettings(Section):
    """The bearer token that callers must present; needed unless `listen` is a loopback address."""

    token_file: Path | None = Field(None, description="needed unless `listen` is a loopback address")


class HttpRecovery(Section):
    """Recovery through the service's own HTTP API.

    `restart` is called with POST and an `Idempotency-Key`; `started_at` is a URL whose JSON answer holds
    `started_at`, a value that changes exactly when the service was restarted. Without it a restart whose
    answer got lost can not be learnt from the target and goes to a human.
    """

    restart: HttpUrl | None = Field(
        None, description="called with POST and an Idempotency-Key; 2xx means accepted"
    )
    started_at: HttpUrl | None = Field(
        None, description="answers JSON with `started_at`, new after each restart"
    )
    scale: HttpUrl | None = Field(
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

    url: HttpUrl = Field(description="what is called")
    method: Literal["GET", "PUT", "POST"] = Field("GET", description="GET, PUT or POST")
    expect: tuple[Annotated[int, Field(ge=200, le=399)], ...] = Field(
        (), description="statuses that mean it worked; any 2xx by default"
    )
    bearer_token_file: Path | None = Field(None, description="token to send; read anew for every call")


class DockerRecovery(Section):
    """Recovery of a Docker container by its name or id."""

    container: str = Field(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9_.-]*$", description="name or id")
    host: str = Field("unix:///var/run/docker.sock", description="the engine")
    stop_timeout: Duration = Field(10.0, ge=0, le=30, description="between SIGTERM and SIGKILL")


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


_RELATIVE_PATH = r"^[^/\x00-\x1f][^\x00-\x1f]*$"
_NAMESPACE = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"
_OBJECT_NAME = r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$"


class DesiredConfiguration(Section):
    """Where the wanted configuration is written down: a file, a file of a Git checkout, or a manifest.

    Of a checkout the commit is read, never the working tree: what somebody still edits is not wanted yet.
    """

    file: Path | None = Field(None, description="a file whose bytes are the wanted configuration")
    git: Path | None = Field(
        None, description="a local checkout; its commits are read, its uncommitted edits are not"
    )
    path: str | None = Field(None, pattern=_RELATIVE_PATH, description="with `git`: the file within it")
    revision: str = Field(
        "HEAD",
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9_./@{}^~+-]{0,199}$",
        description="with `git`: the branch, tag or commit",
    )
    manifest: Path | None = Field(None, description="with `live.object`: a file with its manifest")

    @model_validator(mode="after")
    def _one_place(self) -> DesiredConfiguration:
        if sum(each is not None for each in (self.file, self.git, self.manifest)) != 1:
            raise ValueError("give exactly one of `file`, `git` and `manifest`")
        if (self.git is None) is not (self.path is None):
            raise ValueError("`git` is the checkout and `path` the file within it: give both or neither")
        return self


class ConfigMapKey(Section):
    """One key of a ConfigMap."""

    namespace: str = Field("default", pattern=_NAMESPACE, description="where it is")
    name: str = Field(pattern=_OBJECT_NAME, description="name of the ConfigMap")
    key: str = Field(pattern=r"^[-._a-zA-Z0-9]{1,253}$", description="the key that holds the configuration")


class KubernetesObject(Section):
    """One object, by name: a manifest that names another one is not applied."""

    api_version: str = Field(
        "v1", pattern=r"^([a-z0-9.-]+/)?v[0-9][a-z0-9]*$", description="as in the manifest: `apps/v1`"
    )
    kind: str = Field(pattern=r"^[A-Z][A-Za-z0-9]{0,62}$", description="as in the manifest: `Deployment`")
    namespace: str | None = Field(None, pattern=_NAMESPACE, description="where it is; none: of the cluster")
    name: str = Field(pattern=_OBJECT_NAME, description="its name")


class LiveConfiguration(Section):
    """Where the configuration is in force.

    The URL answers GET with the configuration and an `ETag`, and takes PUT with `If-Match`.
    """

    http: HttpUrl | None = Field(None, description="GET answers it with an ETag, PUT with If-Match sets it")
    bearer_token_file: Path | None = Field(None, description="with `http`: token to send; read anew")
    configmap: ConfigMapKey | None = Field(None, description="a key of a ConfigMap")
    object: KubernetesObject | None = Field(None, description="an object, by server-side apply")
    timeout: Duration = Field(10.0, gt=0, le=30, description="for one call")

    @model_validator(mode="after")
    def _one_place(self) -> LiveConfiguration:
        if sum(each is not None for each in (self.http, self.configmap, self.object)) != 1:
            raise ValueError("give exactly one of `http`, `configmap` and `object`")
        return self


class ConfigurationSettings(Section):
    """The wanted and the running configuration of a service, for drift and for `sync`."""

    desired: DesiredConfiguration = Field(description="the wanted configuration")
    live: LiveConfiguration = Field(description="the running one")
    format: Literal["yaml", "json", "text"] = Field(
        "text", description="yaml and json are compared by what they mean, text by its bytes"
    )
    secrets: tuple[str, ...] = Field(
        (),
        description="more parts of keys whose values are masked, besides password, token, key, ...",
    )
    restart: bool = Field(
        False, description="whether the process must be restarted to read it; `sync` is followed by `restart`"
    )
    force: bool = Field(False, description="with `live.object`: take fields over from other field managers")
    interval: Duration = Field(60.0, ge=1, description="between two comparisons")

    @model_validator(mode="after")
    def _fits(self) -> ConfigurationSettings:
        of_object = self.live.object is not None
        if self.desired.manifest is not None and not of_object:
            raise ValueError("`desired.manifest` is for `live.object`; give `desired.file`")
        if self.desired.file is not None and of_object:
            raise ValueError("`live.object` needs `desired.manifest` or `desired.git`")
        if self.force and not of_object:
            raise ValueError("`force` is for `live.object`")
        return self


class ScaleSettings(Section):
    """How far a service may be scaled up while it fails, and when it is scaled back."""

    max: int = Field(ge=1, le=1000, description="replicas at most")
    step: int = Field(1, ge=1, le=100, description="replicas more, each time")
    calm: Duration = Field(600.0, gt=0, description="without an alert; then it is scaled back")


LEAST_DOMAINS = 3  # of two that differ nobody can tell which one is right
VoterName = Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9])?$")]


class StateReplica(Section):
    """A replica that must hold the same state as the others, and serves it."""

    name: VoterName = Field(description="what it is called in timelines")
    url: HttpUrl = Field(description="base URL of its state ([contract](state-repair.md))")
    failure_domain: str | None = Field(
        None,
        min_length=1,
        description="what it fails together with: all in one have one vote; by default the host of `url`",
    )

    @property
    def domain(self) -> str:
        """The failure domain; two ports of one host share its disk and its power."""
        return self.failure_domain or str(urlsplit(self.url).hostname)


class StateBackup(Section):
    """A copy of the state that votes, and is copied from when no replica is right."""

    name: VoterName = Field(description="what it is called in timelines")
    path: str = Field(min_length=1, description="path or URL (fsspec) of the file with the state's bytes")
    manifest: str | None = Field(
        None,
        min_length=1,
        description="JSON with its `digest`, `version` and `bytes`; by default `path` and `.manifest.json`",
    )

    failure_domain: str | None = Field(
        None,
        min_length=1,
        description="as of a replica; by default the bucket or host of `path`, or the local disk",
    )

    @property
    def domain(self) -> str:
        """The failure domain; all files of one bucket, or of the fabric's own disk, are of one."""
        place = urlsplit(self.path.rpartition("::")[2])
        return self.failure_domain or (f"{place.scheme}://{place.netloc}" if place.netloc else "local disk")

    @property
    def manifest_path(self) -> str:
        """Where the manifest is."""
        return self.manifest or f"{self.path}.manifest.json"


class RestoreJob(Section):
    """A CronJob on Kubernetes whose Job restores replicas; it may be suspended."""

    cronjob: str = Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,50}[a-z0-9])?$", description="name of the CronJob")
    namespace: str = Field(
        "default", pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", description="where it is"
    )


class StateSettings(Section):
    """The replicas and backups that must hold one state: the majority of their failure domains is right."""

    replicas: tuple[StateReplica, ...] = Field(min_length=1, description="who holds the state")
    backups: tuple[StateBackup, ...] = Field((), description="where copies of it are")
    keep_aside: str = Field(
        min_length=1,
        description="folder (path or URL, fsspec) where a damaged state is kept before it is replaced",
    )
    restore_job: RestoreJob | None = Field(
        None, description="restores the damaged replicas instead of a PUT to each of them"
    )
    pause: Duration = Field(
        2.0,
        ge=0,
        le=10,
        description="between two looks at all digests; a state that changes meanwhile is left alone",
    )
    timeout: Duration = Field(10.0, gt=0, le=15, description="for each digest, each state, each order")
    max_bytes: int = Field(64 * 1024 * 1024, ge=1, le=1024**3, description="larger states are not repaired")
    bearer_token_file: Path | None = Field(
        None, description="token to send to the replicas; read anew for every call"
    )

    @model_validator(mode="after")
    def _can_be_decided(self) -> StateSettings:
        voters: tuple[StateReplica | StateBackup, ...] = (*self.replicas, *self.backups)
        for what, values in (
            ("name", [voter.name for voter in voters]),
            ("url", [replica.url.rstrip("/") for replica in self.replicas]),
            ("path", [backup.path for backup in self.backups]),
        ):
            twice = sorted({value for value in values if values.count(value) > 1})
            if twice:
                raise ValueError(
                    f"the same {what} twice would be one source with two votes: {', '.join(twice)}"
                )
        domains = sorted({voter.domain for voter in voters})
        if len(domains) < LEAST_DOMAINS:
            raise ValueError(
                f"{len(domains)} failure domains ({', '.join(domains)}) can never out-vote one that is wrong:"
                f" name replicas and backups in at least {LEAST_DOMAINS}"
            )
        return self


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
    scale: ScaleSettings | None = Field(None, description="how far `scale` may go; without it: not at all")
    state: StateSettings | None = Field(
        None, description="replicas whose state is [repaired by majority](state-repair.md)"
    )
    configuration: ConfigurationSettings | None = Field(
        None, description="its wanted and its running configuration, for `sync`"
    )

    @model_validator(mode="after")
    def _can_be_restarted(self) -> RecoverySettings:
        restarts = (self.http is not None and self.http.restart is not None) or self.docker or self.kubernetes
        if self.configuration is not None and self.configuration.restart and not restarts:
            raise ValueError("`configuration.restart` needs a platform that can restart the service")
        return self


Plans = Mapping[str, tuple[StrategyName, ...]]

DEFAULT_PLANS: Plans = {
    "transient": ("retry", "restart"),
    "degradation": ("scale", "restart"),
    "service_failure": ("evict", "rollback", "restart"),
    "data_corruption": ("repair",),
    "cluster_drift": ("sync",),
    "critical": (),
    "unknown": (),
}


def _checked_plans(plans: Plans) -> Plans:
    unknown = sorted(set(plans) - set(DEFAULT_PLANS))
    if unknown:
        raise ValueError(f"no such failure class: {', '.join(unknown)} (known: {', '.join(DEFAULT_PLANS)})")
    return plans


class ServiceThresholds(Section):
    """Limits of one service where they differ from the others': as `thresholds`."""

    heartbeat: Duration | None = Field(None, gt=0, description="silent for longer is a failure")
    error_ratio: float | None = Field(None, gt=0, lt=1, description="failed share of the requests")
    latency_factor: float | None = Field(None, gt=1, description="P95 in multiples of its baseline")
    cpu: float | None = Field(None, gt=0, lt=1, description="share of the CPU")
    memory: float | None = Field(None, gt=0, lt=1, description="share of the memory limit")


def _share(value: int | str) -> int | str:
    """A number, or a share of all services as `25%`."""
    if isinstance(value, int):
        return value
    digits = value.removesuffix("%")
    if not value.endswith("%") or not digits.isascii() or not digits.isdigit() or not 0 <= int(digits) <= 100:
        raise ValueError("give a number, or a percentage from 0% to 100%")
    return value


Share = Annotated[Annotated[int, Field(ge=0)] | str, AfterValidator(_share)]


def number_of(share: int | str, total: int) -> int:
    """The number that a share of `total` is, rounded down; a share that is not 0 % allows at least one."""
    if isinstance(share, int):
        return share
    percent = int(share.removesuffix("%"))
    return max(1, total * percent // 100) if percent else 0


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


class ServiceSettings(Section):
    """One service that is watched and healed."""

    kind: Literal["guardian", "guard", "service"] = Field(
        "service", description="guardians can be called by escalation"
    )
    tier: Literal["critical", "standard", "low"] = Field("standard", description="how much depends on it")
    health: HttpUrl | None = Field(None, description="health endpoint; 2xx is healthy")
    metrics: HttpUrl | None = Field(None, description="metrics endpoint, for service discovery")
    pushes_heartbeats: bool = Field(
        False, description="a job that cannot be scraped calls POST /api/v1/heartbeats/NAME"
    )
    thresholds: ServiceThresholds = Field(
        ServiceThresholds(), description="limits that differ for this service"
    )
    depends_on: tuple[ServiceName, ...] = Field((), description="services that it cannot work without")
    recovery: RecoverySettings = Field(RecoverySettings(), description="where it can be repaired")
    plans: Mapping[str, tuple[StrategyName, ...]] = Field(
        {}, description="strategies by failure class where they differ from `plans`"
    )
    guardrails: ServiceLimits = Field(ServiceLimits(), description="bounds that differ for this service")
    mode: Mode | None = Field(None, description="at most this much, whatever `mode` allows")

    @field_validator("plans")
    @classmethod
    def _known_classes(cls, value: Plans) -> Plans:
        return _checked_plans(value)


class Thresholds(Section):
    """Limits of the signals; `shf rules` renders the alert rules with the same numbers."""

    heartbeat: Duration = Field(30.0, gt=0, description="silent for longer is a failure")
    error_ratio: float = Field(0.05, gt=0, lt=1, description="failed share of the requests")
    latency_factor: float = Field(2.0, gt=1, description="P95 in multiples of its baseline")
    latency_min_rise: Duration = Field(0.05, ge=0, description="and at least this much above it")
    cpu: float = Field(0.90, gt=0, lt=1, description="share of the CPU")
    memory: float = Field(0.95, gt=0, lt=1, description="share of the memory limit")


class VerificationSettings(Section):
    """How healing is proved: inside limits for `stability`, at the latest `deadline` after the action."""

    stability: Duration = Field(
        30.0, gt=0, description="for how long all signals must be inside their limits"
    )
    deadline: Duration = Field(180.0, gt=0, description="after the action; then the verdict falls")
    interval: Duration = Field(5.0, ge=0.2, description="between two looks")


class RetrySettings(Section):
    """Exponential backoff with full jitter (Marc Brooker, AWS Architecture Blog, 2015)."""

    attempts: int = Field(3, ge=1, le=3, description="at most")
    base: Duration = Field(1.0, gt=0, description="longest wait after the first attempt; doubles")
    cap: Duration = Field(10.0, gt=0, description="longest wait at all")
    timeout: Duration = Field(5.0, gt=0, le=30, description="for one attempt")


class LevelSettings(Section):
    """One level of escalation: whom it calls, and how long it waits before the next level."""

    name: str = Field(description="what people call it")
    call: tuple[str, ...] = Field((), description="whom it calls")
    deadline: Duration = Field(300.0, gt=0, description="until the next level, unless someone acknowledges")


DEFAULT_LEVELS = (
    LevelSettings(name="self-healing"),
    LevelSettings(name="execution orchestrator", call=("guardian-five",)),
    LevelSettings(name="memory and alignment", call=("guardian-six", "guardian-three")),
    LevelSettings(name="emergence and synthesis", call=("guardian-seven", "guardian-two")),
    LevelSettings(name="everyone and a human", call=("all guardians", "human")),
)


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


class EscalationSettings(Section):
    """The five levels, and how long an incident may wait for an unreachable server before one is called."""

    levels: tuple[LevelSettings, ...] = Field(
        DEFAULT_LEVELS, min_length=5, max_length=5, description="levels 0 to 4"
    )
    max_wait: Duration = Field(
        300.0, gt=0, description="an incident may wait for a server; then people hear of it"
    )


class Settings(BaseSettings):
    """The whole configuration, validated and immutable."""

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX,
        env_nested_delimiter="__",
        frozen=True,
        extra="forbid",
        validate_default=True,
    )

    listen: str = Field("127.0.0.1:9931", description="address and port of the webhook, the API and /metrics")
    store: str = Field(
        "sqlite:///shf.db",
        description="sqlite:////absolute.db or postgresql+psycopg://user@host/database",
    )
    store_password_file: Path | None = Field(None, description="password of the PostgreSQL user")
    retention: Duration = Field(
        90 * 86400.0, ge=86400.0, description="closed incidents are kept for so long, and then deleted"
    )
    workers: int = Field(16, ge=1, le=64, description="incidents that one replica works on at a time")
    mode: Mode = Field(Mode.AUTOMATIC, description="until someone sets another; the store keeps that")
    strategy_modes: Mapping[StrategyName, Mode] = Field(
        {}, description="at most this much for a strategy, whatever `mode` allows"
    )
    max_body_bytes: int = Field(10 * 1024 * 1024, ge=1024, description="largest notification")
    reconcile_interval: Duration = Field(10.0, ge=1, description="between two comparisons with the servers")
    relapse_window: Duration = Field(300.0, gt=0, description="after resolution, in which an alert re-opens")
    auth: AuthSettings = Field(AuthSettings(), description="who may call")
    prometheus: PrometheusSettings = Field(PrometheusSettings(), description="where the evidence comes from")
    alertmanager: AlertmanagerSettings | None = Field(None, description="asked for lost notifications")
    kubernetes: KubernetesSettings = Field(
        KubernetesSettings(), description="the API server; in the cluster nothing is needed"
    )
    diagnosis: DiagnosisSettings = Field(DiagnosisSettings(), description="how the cause is looked for")
    thresholds: Thresholds = Field(
        Thresholds(), description="limits of the signals; `shf rules` takes them over"
    )
    verification: VerificationSettings = Field(VerificationSettings(), description="how healing is proved")
    guardrails: GuardrailSettings = Field(GuardrailSettings(), description="bounds for disruptive actions")
    retry: RetrySettings = Field(RetrySettings(), description="of the strategy `retry`")
    escalation: EscalationSettings = Field(EscalationSettings(), description="the five levels")
    plans: Mapping[str, tuple[StrategyName, ...]] = Field(
        DEFAULT_PLANS, description="strategies by failure class, in order"
    )
    correlation: CorrelationSettings = Field(
        CorrelationSettings(), description="which alerts are one problem"
    )
    services: Mapping[ServiceName, ServiceSettings] = Field(
        {}, description="what is watched and healed, by name"
    )

    @field_validator("store")
    @classmethod
    def _known_store(cls, value: str) -> str:
        if value.startswith("postgresql+psycopg://"):
            if not urlsplit(value).path.strip("/"):
                raise ValueError("name the database: postgresql+psycopg://user@host:5432/database")
            return value
        path = value.removeprefix("sqlite:///")
        if path in (value, "") or ":memory:" in path or "?" in path:  # SQLite in memory forgets
            raise ValueError(
                "give a SQLite file as sqlite:///relative.db or sqlite:////absolute/path.db, "
                "or a database as postgresql+psycopg://user@host:5432/database"
            )
        return value

    @field_validator("listen")
    @classmethod
    def _host_and_port(cls, value: str) -> str:
        split_listen(value)
        return value

    @model_validator(mode="after")
    def _retention_covers_budgets(self) -> Settings:
        # The budgets count actions; what was deleted would be forgotten by them.
        for name, service in ((None, None), *self.services.items()):
            limits = self.limits_of(name or "", "")
            for window in ("per", "failures_within", "heals_within"):
                if self.retention < getattr(limits, window):
                    where = f"services.{name}.guardrails" if service else "guardrails"
                    raise ValueError(
                        f"retention must be at least as long as {where}.{window}, whose actions it keeps"
                    )
        return self

    @field_validator("plans")
    @classmethod
    def _known_classes(cls, value: Plans) -> Plans:
        return {**DEFAULT_PLANS, **_checked_plans(value)}

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let the environment win over the file, as people expect of a container."""
        return env_settings, init_settings

    def thresholds_of(self, service: str) -> Thresholds:
        """The limits that hold for a service: its own where it has some, else everybody's."""
        own = (
            self.services[service].thresholds.model_dump(exclude_none=True)
            if service in self.services
            else {}
        )
        return self.thresholds.model_copy(update=own)

    def plan_of(self, service: str, failure_class: str) -> tuple[StrategyName, ...]:
        """The strategies for a failure of a configured service: its own where it has some."""
        return self.services[service].plans.get(failure_class, self.plans[failure_class])

    def limits_of(self, service: str, strategy: str) -> Limits:
        """The bounds of a strategy on a service: the service's own, else the strategy's, else everybody's."""
        values = {name: getattr(self.guardrails, name) for name in Limits.model_fields}
        by_strategy = {str(name): each for name, each in self.guardrails.strategies.items()}.get(strategy)
        own = self.services[service].guardrails if service in self.services else None
        for each in (by_strategy, own):
            if each is not None:
                values |= each.model_dump(exclude_none=True)
        return Limits.model_construct(**values)

    def auth_token(self) -> str | None:
        """Read the bearer token anew (it can be rotated); None when no token is configured."""
        path = self.auth.token_file
        return path.read_text(encoding="utf-8").strip() if path else None


def bearer_headers(token_file: Path | None) -> dict[str, str]:
    """The headers that present a token, read anew for every call; none without a file. Raises OSError."""
    if token_file is None:
        return {}
    return {"Authorization": f"Bearer {token_file.read_text(encoding='utf-8').strip()}"}


def split_listen(listen: str) -> tuple[str, int]:
    """Split `host:port` (an IPv6 host in brackets). Raises ValueError with what to write instead."""
    host, separator, port = listen.rpartition(":")
    if not separator or not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError("give an address and a port, for example 127.0.0.1:9931")
    return host.strip("[]"), int(port)


def is_loopback(host: str) -> bool:
    """Whether the host name or address can only be reached from this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
