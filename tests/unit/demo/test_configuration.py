"""The demo runs the shipped configuration, and the real servers accept what it renders."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from self_healing_fabric.configuration import load_settings
from self_healing_fabric.deployment import deployment_files
from shf_demo import configuration
from shf_demo.fleet import FLEET
from shf_demo.timings import SHIPPED, SHORTENED, Timings

HEALTH_URLS = {service.name: f"http://127.0.0.1:2{n:04}/health" for n, service in enumerate(FLEET)}
SERVERS = ("prometheus", "alertmanager", "blackbox", "fabric", "supervisor")
URLS = {name: f"http://127.0.0.1:3{n:04}" for n, name in enumerate(SERVERS)}
ADDRESSES = {name: url.removeprefix("http://") for name, url in URLS.items()} | {
    name: url.removeprefix("http://").removesuffix("/health") for name, url in HEALTH_URLS.items()
}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not on PATH")
@pytest.mark.parametrize("timings", [SHIPPED, SHORTENED])
def test_prometheus_accepts_its_configuration_and_the_rules(tmp_path: Path, timings: Timings) -> None:
    """promtool checks the file together with the rules rendered beside it."""
    content = configuration.prometheus(tmp_path, timings, HEALTH_URLS, ADDRESSES)
    path = configuration.write(tmp_path / "prometheus.yml", content)
    subprocess.run(["promtool", "check", "config", path], check=True, capture_output=True, timeout=60)
    assert list((tmp_path / "rules").glob("*.rules.yml"))


def test_every_service_is_scraped_and_probed_under_its_name(tmp_path: Path) -> None:
    """Both jobs carry the label `service` of every member of the fleet."""
    jobs = configuration.prometheus(tmp_path, SHORTENED, HEALTH_URLS, ADDRESSES)["scrape_configs"]
    for job in jobs[:2]:
        labelled = [target["labels"]["service"] for target in job["static_configs"]]
        assert labelled == [service.name for service in FLEET]


def test_the_route_is_the_shipped_one_but_for_the_address() -> None:
    """Nothing of the shipped Alertmanager file differs except the URL of the fabric."""
    shipped = yaml.safe_load((deployment_files("alert_rules") / "alertmanager.yml").read_text())
    rendered = configuration.alertmanager("http://127.0.0.1:4711")
    urls = [hook.pop("url") for file in (rendered, shipped) for hook in webhooks(file)]
    assert urls[0] == "http://127.0.0.1:4711/api/v1/alerts"
    assert rendered == shipped


def webhooks(content: dict[str, list[dict[str, list[dict[str, str]]]]]) -> list[dict[str, str]]:
    return [hook for receiver in content["receivers"] for hook in receiver.get("webhook_configs", [])]


@pytest.mark.parametrize("timings", [SHIPPED, SHORTENED])
def test_the_fabric_accepts_its_configuration(tmp_path: Path, timings: Timings) -> None:
    """All fourteen services are known to it, each with a health endpoint and a way to restart it."""
    content = configuration.fabric(tmp_path, timings, FLEET, HEALTH_URLS, URLS)
    settings = load_settings(configuration.write(tmp_path / "shf.yaml", content))
    assert list(settings.services) == [service.name for service in FLEET]
    for name, service in settings.services.items():
        assert service.health == HEALTH_URLS[name]
        assert service.recovery.http is not None
        assert service.recovery.http.restart == f"{URLS['supervisor']}/services/{name}/restart"
    assert settings.verification.stability == timings.stability


def test_shortened_durations_are_shown_beside_the_shipped_ones() -> None:
    """A reader sees each duration of the contract as it is here and as it is shipped."""
    compared = {name: (here, shipped) for name, here, shipped in SHORTENED.compared()}
    assert compared["heartbeat"] == ("10s", "30s")
    assert compared["baseline_window"] == ("1m", "6h")
    assert all(here == shipped for _, here, shipped in SHIPPED.compared())
