"""What the tests of the rules share: names of the contract, a fast rendering, the servers' own checkers."""

import os
import shutil
from typing import Any

import pytest
import yaml

from self_healing_fabric.deployment import deployment_files

RULES = deployment_files("alert_rules")
FILES = tuple(
    f"{name}.rules.yml"
    for name in ("heartbeat", "meta", "paging", "requests", "resources", "slo", "state", "thresholds")
)
SIGNAL_OF_ALERT = {
    "ShfHeartbeatMissed": "heartbeat",
    "ShfServiceAbsent": "heartbeat",
    "ShfErrorRateHigh": "error_ratio",
    "ShfLatencyHigh": "latency_p95",
    "ShfCpuExhausted": "cpu",
    "ShfMemoryExhausted": "memory",
    "ShfErrorBudgetBurnFast": "error_budget",
    "ShfErrorBudgetBurnSlow": "error_budget",
    "ShfConfigDrift": "config_drift",
    "ShfStateDivergence": "state_divergence",
    "ShfRestartLoop": "restarts",
    "ShfServiceFailing": None,
    "ShfServiceUnhealed": None,
    "ShfWatchdog": None,
    "ShfMonitoringBlind": None,
    "ShfFabricDown": None,
    "ShfFabricNotReconciling": None,
    "ShfAlertmanagerNotCompared": None,
    "ShfWebhookFailing": None,
    "ShfRulesFailing": None,
    "ShfAlertsDropped": None,
}
HEALED = (  # the signals that the route takes
    *("heartbeat", "error_ratio", "latency_p95", "cpu", "memory", "config_drift", "state_divergence"),
)
SIGNALS = {
    *("service:shf_heartbeat:answered", "service:shf_up:ratio", "service:shf_requests:rate"),
    *("service:shf_errors:ratio", "service:shf_errors:increase", "service:shf_errors:ratio_short"),
    *("service:shf_latency:p95_seconds", "service:shf_latency:p95_seconds_short"),
    *("service:shf_latency:p95_seconds_baseline", "service:shf_latency:mean_seconds"),
    *("service:shf_heartbeat:age_seconds", "service:shf_heartbeat:absent"),
    *("service:shf_latency:mean_seconds_baseline", "service:shf_cpu:utilisation"),
    *("service:shf_cpu:utilisation_short", "service:shf_memory:utilisation"),
}
FAST: dict[str, Any] = {
    "scrape_interval": "1s",
    "heartbeat": "10s",
    "error_window": "15s",
    "latency_window": "15s",
    "latency_for": "5s",
    "resource_window": "10s",
    "resource_for": "10s",
    "baseline_window": "1m",
    "baseline_offset": "5s",
    "keep_firing": "5s",
    "state_for": "5s",
    "restart_window": "15s",
    "slow_interval": "1s",
}


def tool(name: str) -> str:
    """A server's own checker. Without it a person's run skips, loudly; in CI that would hide a defect."""
    path = shutil.which(name)
    if path is None:
        reason = f"{name} is not on PATH: the alert rules were NOT checked by Prometheus itself"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return path


def rules_of(rendered: dict[str, str]) -> list[dict[str, Any]]:
    groups = [group for text in rendered.values() for group in yaml.safe_load(text)["groups"]]
    return [rule for group in groups for rule in group["rules"]]


def alerts(rendered: dict[str, str]) -> dict[str, dict[str, Any]]:
    return {rule["alert"]: rule for rule in rules_of(rendered) if "alert" in rule}
