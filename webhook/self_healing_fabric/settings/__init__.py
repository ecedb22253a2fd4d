"""All configuration: one YAML file, any value overridable by environment, secrets in files of their own.

A healer with half a configuration is worse than none, so the whole file is validated before anything starts,
and every mistake is reported at once with its path: a person who fixes one typo must not be sent round again
for the next. Keys that nobody knows are errors too, because a misspelt guardrail that is silently ignored is
a guardrail that is off.
"""

from __future__ import annotations

from self_healing_fabric.settings.access import (
    ALL_RIGHTS,
    AuthSettings,
    CallerSettings,
    Credential,
    Right,
    bearer_headers,
    is_loopback,
    split_listen,
)
from self_healing_fabric.settings.configuration import (
    ConfigMapKey,
    ConfigurationSettings,
    DesiredConfiguration,
    KubernetesObject,
    LiveConfiguration,
)
from self_healing_fabric.settings.escalation import (
    ALL_GUARDIANS,
    DEFAULT_LEVELS,
    LOG,
    AlertmanagerChannel,
    AppriseChannel,
    BoundsSettings,
    ChannelSettings,
    EscalationSettings,
    GuardianChannel,
    LevelSettings,
    PageHoldSettings,
    ServicePolicy,
    TierPolicy,
)
from self_healing_fabric.settings.events import EventSettings
from self_healing_fabric.settings.fabric import ENVIRONMENT_PREFIX, Settings
from self_healing_fabric.settings.guardrails import (
    FleetSettings,
    GuardrailSettings,
    Limits,
    MaintenanceWindow,
    ServiceLimits,
)
from self_healing_fabric.settings.healing import (
    CorrelationSettings,
    DiagnosisSettings,
    RetrySettings,
    ServiceGraphSettings,
    VerificationSettings,
)
from self_healing_fabric.settings.plugins import PluginSettings
from self_healing_fabric.settings.recovery import (
    MAX_EFFECT_TIMEOUT,
    DockerRecovery,
    HttpRecovery,
    KubernetesRecovery,
    RecoverySettings,
    RetryCall,
    ScaleSettings,
)
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
    ServiceThresholds,
    Thresholds,
)
from self_healing_fabric.settings.state import (
    LEAST_DOMAINS,
    RestoreJob,
    StateBackup,
    StateReplica,
    StateSettings,
    VoterName,
)
from self_healing_fabric.settings.values import (
    UNDO,
    CalledUrl,
    CpuAffinity,
    HttpUrl,
    Mode,
    Section,
    ServiceName,
    Share,
    StrategyName,
    called_urls,
    number_of,
)

__all__ = [
    "ALL_GUARDIANS",
    "ALL_RIGHTS",
    "DEFAULT_LEVELS",
    "DEFAULT_PLANS",
    "ENVIRONMENT_PREFIX",
    "LEAST_DOMAINS",
    "LOG",
    "MAX_EFFECT_TIMEOUT",
    "UNDO",
    "AlertmanagerChannel",
    "AlertmanagerSettings",
    "AppriseChannel",
    "AuthSettings",
    "BoundsSettings",
    "CalledUrl",
    "CallerSettings",
    "ChannelSettings",
    "ConfigMapKey",
    "ConfigurationSettings",
    "CorrelationSettings",
    "CpuAffinity",
    "Credential",
    "DesiredConfiguration",
    "DiagnosisSettings",
    "DockerRecovery",
    "EscalationSettings",
    "EventSettings",
    "FleetSettings",
    "GrafanaSettings",
    "GuardianChannel",
    "GuardrailSettings",
    "HttpRecovery",
    "HttpUrl",
    "KubernetesObject",
    "KubernetesRecovery",
    "KubernetesSettings",
    "LevelSettings",
    "Limits",
    "LiveConfiguration",
    "MaintenanceWindow",
    "Mode",
    "PageHoldSettings",
    "Plans",
    "PluginSettings",
    "PrometheusSettings",
    "RecoverySettings",
    "RestoreJob",
    "RetryCall",
    "RetrySettings",
    "Right",
    "ScaleSettings",
    "Section",
    "ServiceGraphSettings",
    "ServiceLimits",
    "ServiceName",
    "ServicePolicy",
    "ServiceSettings",
    "ServiceThresholds",
    "Settings",
    "Share",
    "StateBackup",
    "StateReplica",
    "StateSettings",
    "StrategyName",
    "Thresholds",
    "TierPolicy",
    "VerificationSettings",
    "VoterName",
    "bearer_headers",
    "called_urls",
    "is_loopback",
    "number_of",
    "split_listen",
]
