"""The whole configuration."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import Field, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from self_healing_fabric.durations import Duration
from self_healing_fabric.extensions import BUILT_IN, options_of
from self_healing_fabric.settings.access import AuthSettings, split_listen
from self_healing_fabric.settings.escalation import EscalationSettings, ServicePolicy, TierPolicy
from self_healing_fabric.settings.events import EventSettings
from self_healing_fabric.settings.guardrails import GuardrailSettings, Limits
from self_healing_fabric.settings.healing import (
    CorrelationSettings,
    DiagnosisSettings,
    RetrySettings,
    VerificationSettings,
)
from self_healing_fabric.settings.plugins import PluginSettings
from self_healing_fabric.settings.servers import (
    AlertmanagerSettings,
    GrafanaSettings,
    KubernetesSettings,
    PrometheusSettings,
)
from self_healing_fabric.settings.services import (
    DEFAULT_PLANS,
    Plans,
    ServiceSettings,
    Thresholds,
)
from self_healing_fabric.settings.values import (
    CpuAffinity,
    HttpUrl,
    Mode,
    Section,
    ServiceName,
    StrategyName,
    given,
)

ENVIRONMENT_PREFIX = "SHF_"


class Settings(BaseSettings):
    """The whole configuration, validated and immutable."""

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX,
        env_nested_delimiter="__",
        frozen=True,
        extra="forbid",
        validate_default=True,
    )

    listen: str = Field(
        "127.0.0.1:9931",
        description="address and port of the webhook, the API and /metrics; `[::]:9931` is every address, "
        "IPv4 too",
    )
    external_url: HttpUrl | None = Field(
        None,
        description="where people reach the fabric, with its path if a proxy gives it one: for links in "
        "messages, pages and dashboards",
    )
    store: str = Field(
        "sqlite:///shf.db",
        description="sqlite:////absolute.db or postgresql+psycopg://user@host/database",
    )
    store_password_file: Path | None = Field(None, description="password of the PostgreSQL user")
    retention: Duration = Field(
        90 * 86400.0, ge=86400.0, description="closed incidents are kept for so long, and then deleted"
    )
    ca_file: Path | None = Field(
        None,
        description="certificates (PEM) of your own authorities, trusted for https beside the public ones; "
        "like the following two, read anew when it has changed",
    )
    cert_file: Path | None = Field(
        None,
        description="certificate (PEM) that the fabric shows to servers which ask for one",
    )
    key_file: Path | None = Field(None, description="its private key (PEM), without a password")
    workers: int = Field(16, ge=1, le=64, description="incidents that one replica works on at a time")
    cpu_affinity: CpuAffinity = Field(
        CpuAffinity.ONE,
        description="`one`: `shf serve` stays on the CPU on which it starts, because Python runs one thread "
        "at a time and waking the next one on another CPU costs more than that CPU gives; `all`: as the "
        "system likes, for machines on which several programs are bound to CPUs",
    )
    mode: Mode = Field(Mode.AUTOMATIC, description="until someone sets another; the store keeps that")
    strategy_modes: Mapping[StrategyName, Mode] = Field(
        {}, description="at most this much for a strategy, whatever `mode` allows"
    )
    max_body_bytes: int = Field(10 * 1024 * 1024, ge=1024, description="largest notification")
    reconcile_interval: Duration = Field(10.0, ge=1, description="between two comparisons with the servers")
    relapse_window: Duration = Field(
        300.0, gt=0, description="after resolution, in which an alert re-opens; alerts may lag for 3 min"
    )
    auth: AuthSettings = Field(AuthSettings(), description="who may call")
    prometheus: PrometheusSettings = Field(PrometheusSettings(), description="where the evidence comes from")
    grafana: GrafanaSettings | None = Field(None, description="for links to the dashboards")
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
    plans: Plans = Field(DEFAULT_PLANS, description="strategies by failure class, in order")
    correlation: CorrelationSettings = Field(
        CorrelationSettings(), description="which alerts are one problem"
    )
    events: EventSettings | None = Field(None, description="tells others what happens to incidents")
    plugins: PluginSettings = Field(PluginSettings(), description="what others add, and its options")
    services: Mapping[ServiceName, ServiceSettings] = Field(
        {}, description="what is watched and healed, by name"
    )

    @model_validator(mode="before")
    @classmethod
    def _given(cls, raw: Any) -> Any:
        return given(cls, raw)

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

    @field_validator("key_file")
    @classmethod
    def _certificate_with_its_key(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if "cert_file" in info.data and (value is None) is not (info.data["cert_file"] is None):
            raise ValueError("`cert_file` and `key_file` belong together: give both, or neither")
        return value

    @field_validator("external_url")
    @classmethod
    def _ready_for_a_path(cls, value: str | None) -> str | None:
        return None if value is None else value.rstrip("/")

    @field_validator("listen")
    @classmethod
    def _host_and_port(cls, value: str) -> str:
        split_listen(value)
        return value

    @model_validator(mode="after")
    def _retention_covers_budgets(self) -> Settings:
        # The budgets count actions; what was deleted would be forgotten by them.
        bounds: dict[str, Section | None] = {
            "guardrails": self.guardrails,
            "guardrails.fleet": self.guardrails.fleet,
        }
        bounds |= {f"guardrails.strategies.{name}": own for name, own in self.guardrails.strategies.items()}
        bounds |= {f"services.{name}.guardrails": each.guardrails for name, each in self.services.items()}
        for where, limits in bounds.items():
            for window in ("per", "cooldown", "failures_within", "heals_within", "within"):
                if self.retention < (getattr(limits, window, None) or 0.0):
                    raise ValueError(
                        f"retention must be at least as long as {where}.{window}, whose actions it keeps"
                    )
        return self

    @model_validator(mode="after")
    def _plugins_can_be_used(self) -> Settings:
        # Those that have a section were validated there; a plan may name one without.
        unnamed = [name for name in self.plugin_strategies() if name not in self.plugins.strategies]
        options_of("strategies", dict.fromkeys(unnamed), under=("plugins", "strategies"))
        return self

    @model_validator(mode="after")
    def _an_alertmanager_to_tell(self) -> Settings:
        """Where an alert is to be posted must be known somewhere."""
        escalation = self.escalation
        telling = {
            f"channels.{name}.alertmanager": each.alertmanager for name, each in escalation.channels.items()
        }
        for where, each in (*telling.items(), ("hold_page", escalation.hold_page)):
            if each is not None and not each.urls and self.alertmanager is None:
                raise ValueError(f"escalation.{where}.urls: give them here, or `alertmanager.url`")
        return self

    @field_validator("plans")
    @classmethod
    def _all_classes(cls, value: Plans) -> Plans:
        return {**DEFAULT_PLANS, **value}

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

    def strategies_of(self, service: str) -> frozenset[StrategyName]:
        """The strategies that some plan of a configured service names: no other is ever used on it."""
        return frozenset(name for failure in self.plans for name in self.plan_of(service, failure))

    @property
    def pushing(self) -> frozenset[str]:
        """The services that push heartbeats."""
        return frozenset(name for name, service in self.services.items() if service.pushes_heartbeats)

    @property
    def events_source(self) -> str:
        """What events name as their source: where people reach the fabric, or its kind."""
        return self.external_url or "urn:self-healing-fabric"

    def plugin_strategies(self) -> tuple[str, ...]:
        """The strategies that are not built in and that the configuration names, in a plan or elsewhere."""
        planned = [*self.plans.values()]
        planned += [plan for service in self.services.values() for plan in service.plans.values()]
        named = {name for plan in planned for name in plan}
        named |= {*self.strategy_modes, *self.guardrails.strategies, *self.plugins.strategies}
        return tuple(sorted(named.difference(BUILT_IN["strategies"])))

    def escalation_policy(self, service: str | None, tiers: Collection[str]) -> TierPolicy:
        """How high the first call goes, and how soon: as for the strictest tier, or as the service says."""
        policies = [policy for tier, policy in self.escalation.tiers.items() if tier in tiers]
        known = self.services.get(service) if service is not None else None
        own = known.escalation if known is not None else ServicePolicy()
        start = max((policy.start_level for policy in policies), default=1)
        at_once = any(policy.call_at_once for policy in policies)
        return TierPolicy(
            start_level=start if own.start_level is None else own.start_level,
            call_at_once=at_once if own.call_at_once is None else own.call_at_once,
        )

    def limits_of(self, service: str, strategy: str) -> Limits:
        """The bounds of a strategy on a service: the service's own, else the strategy's, else everybody's."""
        values = {name: getattr(self.guardrails, name) for name in Limits.model_fields}
        by_strategy = {str(name): each for name, each in self.guardrails.strategies.items()}.get(strategy)
        own = self.services[service].guardrails if service in self.services else None
        for each in (by_strategy, own):
            if each is not None:
                values |= each.model_dump(exclude_none=True)
        return Limits.model_construct(**values)
