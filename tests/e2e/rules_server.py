"""A real Prometheus with the shipped rules and a test's own targets, for tests that look at what fires."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from self_healing_fabric.rules import RuleParameters, write_rules
from shf_demo.servers import Server

HEALED = frozenset(
    {"heartbeat", "error_ratio", "latency_p95", "cpu", "memory", "config_drift", "state_divergence"}
)
PAGED_AFTER = 3.0  # seconds after an alert with evaluations of a second: it is counted in another group


def program() -> str:
    """Where prometheus is; skips the test loudly without it, and fails on CI."""
    found = shutil.which("prometheus")
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("prometheus is not on PATH")
        pytest.skip("NOT TESTED: prometheus is not on PATH")
    return found


@contextmanager
def prometheus_with_rules(
    workdir: Path,
    port: int,
    parameters: RuleParameters,
    scrape_configs: Sequence[Mapping[str, Any]],
    *flags: str,
    alertmanager: str | None = None,
) -> Iterator[httpx.Client]:
    """Run Prometheus with these rules and targets, a second between scrapes; yields a client of it.

    `alertmanager` is the host:port of one that gets the alerts.
    """
    write_rules(parameters, workdir / "rules")
    configuration: dict[str, Any] = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "900ms", "evaluation_interval": "1s"},
        "rule_files": [str(workdir / "rules" / "*.rules.yml")],
        "scrape_configs": list(scrape_configs),
    }
    if alertmanager is not None:
        configuration["alerting"] = {"alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}]}
    (workdir / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    url = f"http://127.0.0.1:{port}"
    command = [
        program(),
        f"--config.file={workdir / 'prometheus.yml'}",
        f"--storage.tsdb.path={workdir / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
        *flags,
    ]
    log = workdir / "prometheus.log"
    with Server("prometheus", command, f"{url}/-/ready", log, environment=os.environ) as server:
        server.wait_ready()
        with httpx.Client(base_url=url, trust_env=False, timeout=10) as client:
            yield client


def firing(prometheus: httpx.Client) -> dict[tuple[str, str | None], dict[str, Any]]:
    """The firing alerts, by name and service."""
    alerts = prometheus.get("/api/v1/alerts").raise_for_status().json()["data"]["alerts"]
    return {
        (alert["labels"]["alertname"], alert["labels"].get("service")): alert
        for alert in alerts
        if alert["state"] == "firing"
    }


def paging(found: dict[tuple[str, str | None], dict[str, Any]]) -> set[tuple[str, str | None]]:
    """The alerts that call people unless the fabric heals: one of each service with a critical signal."""
    return {
        ("ShfServiceFailing", alert["labels"].get("service"))
        for alert in found.values()
        if alert["labels"]["severity"] == "critical" and alert["labels"].get("signal") in HEALED
    }
