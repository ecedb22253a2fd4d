"""The configuration files of the demo's servers, rendered for the ports of this run.

What is on trial is what is shipped: the rules come from the shipped templates, the route from the shipped
Alertmanager file with nothing but the fabric's address replaced. A demo with a configuration of its own
would go on working on the day the shipped one broke. The rest (who is scraped, probed and healed) is what
every user writes for their own services.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from self_healing_fabric.deployment import deployment_files
from self_healing_fabric.durations import format_duration
from self_healing_fabric.rules import write_rules
from shf_demo.fleet import SampleService
from shf_demo.timings import Timings

_PROBE_MODULE = "http_2xx"


def write(path: Path, content: Mapping[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(dict(content), sort_keys=False))
    return path


def prometheus(
    workdir: Path,
    timings: Timings,
    health_urls: Mapping[str, str],
    addresses: Mapping[str, str],
) -> dict[str, Any]:
    """`addresses` are host:port of alertmanager, blackbox, fabric, and of every service by its name."""
    write_rules(timings.rules, workdir / "rules")
    interval = format_duration(timings.rules.scrape_interval)
    return {
        "global": {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval},
        "rule_files": [str(workdir / "rules" / "*.rules.yml")],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [addresses["alertmanager"]]}]}]},
        "scrape_configs": [
            {
                "job_name": "services",
                "static_configs": [_target(name, addresses[name]) for name in health_urls],
            },
            {
                "job_name": "health",
                "metrics_path": "/probe",
                "params": {"module": [_PROBE_MODULE]},
                "static_configs": [_target(name, url) for name, url in health_urls.items()],
                "relabel_configs": [
                    {"source_labels": ["__address__"], "target_label": "__param_target"},
                    {"source_labels": ["__address__"], "target_label": "instance"},
                    {"target_label": "__address__", "replacement": addresses["blackbox"]},
                ],
            },
            {"job_name": "shf", "static_configs": [{"targets": [addresses["fabric"]]}]},
        ],
    }


def _target(service: str, address: str) -> dict[str, Any]:
    return {"targets": [address], "labels": {"service": service}}


def blackbox() -> dict[str, Any]:
    module = {"prober": "http", "http": {"preferred_ip_protocol": "ip4", "follow_redirects": False}}
    return {"modules": {_PROBE_MODULE: module}}


def alertmanager(fabric_url: str) -> dict[str, Any]:
    """The shipped file with the address of this run's fabric."""
    shipped = (deployment_files("alert_rules") / "alertmanager.yml").read_text()
    content: dict[str, Any] = yaml.safe_load(shipped)
    for receiver in content["receivers"]:
        for webhook in receiver.get("webhook_configs", ()):
            webhook["url"] = f"{fabric_url}/api/v1/alerts"
    return content


def fabric(
    workdir: Path,
    timings: Timings,
    services: Sequence[SampleService],
    health_urls: Mapping[str, str],
    urls: Mapping[str, str],
) -> dict[str, Any]:
    """`urls` are those of prometheus, alertmanager, fabric and supervisor."""
    interval = format_duration(timings.rules.scrape_interval)
    return {
        "listen": urls["fabric"].removeprefix("http://"),
        "store": f"sqlite:///{workdir / 'shf.db'}",
        "prometheus": {
            "url": urls["prometheus"],
            "scrape_interval": interval,
            "evaluation_interval": interval,
        },
        "alertmanager": {"url": urls["alertmanager"]},
        "thresholds": {"heartbeat": format_duration(timings.rules.heartbeat)},
        "verification": {
            "stability": format_duration(timings.stability),
            "deadline": format_duration(timings.verification_deadline),
            "interval": format_duration(timings.verification_interval),
        },
        # People break the same service again and again, to see it healed.
        "guardrails": {"cooldown": format_duration(timings.cooldown), "max_heals": 100},
        "services": {
            service.name: {
                "kind": service.kind,
                "health": health_urls[service.name],
                "metrics": health_urls[service.name].removesuffix(service.health_path) + "/metrics",
                "depends_on": list(service.depends_on),
                "recovery": {"http": _recovery(f"{urls['supervisor']}/services/{service.name}")},
            }
            for service in services
        },
    }


def _recovery(url: str) -> dict[str, str]:
    return {"restart": f"{url}/restart", "started_at": url}
