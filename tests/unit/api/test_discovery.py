"""Services of the registry as Prometheus's HTTP service discovery."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from self_healing_fabric.app import create_app
from self_healing_fabric.integration.lifecycle import Fabric
from self_healing_fabric.settings import Settings


@pytest.fixture
def api(tmp_path: Path) -> Iterator[FlaskClient]:
    """A fabric with a web service, a job that pushes, and one that offers nothing."""
    services = {
        "cart": {
            "metrics": "https://127.0.0.1:8101/internal/metrics?module=cart",
            "health": "http://127.0.0.1:8101/health",
        },
        "nightly": {"pushes_heartbeats": True, "thresholds": {"heartbeat": "26h"}},
        "plain": {"metrics": "http://127.0.0.1:8102", "thresholds": {"error_ratio": 0.2}},
    }
    fabric = Fabric(Settings(store=f"sqlite:///{tmp_path}/shf.db", services=services))
    fabric.start()
    yield create_app(fabric).test_client()
    fabric.stop()


def test_scrape_targets(api: FlaskClient) -> None:
    """Each service with a metrics endpoint is one target group with scheme, path, parameters, service."""
    answer = api.get("/api/v1/targets")
    assert answer.content_type == "application/json"
    assert answer.json == [
        {
            "targets": ["127.0.0.1:8101"],
            "labels": {
                "service": "cart",
                "__scheme__": "https",
                "__metrics_path__": "/internal/metrics",
                "__param_module": "cart",
            },
        },
        {
            "targets": ["127.0.0.1:8102"],
            "labels": {"service": "plain", "__scheme__": "http", "__metrics_path__": "/metrics"},
        },
    ]


def test_probe_targets(api: FlaskClient) -> None:
    """Each health endpoint is a target for the blackbox exporter, with its service."""
    answer = api.get("/api/v1/targets?check=probe").json
    assert answer == [{"targets": ["http://127.0.0.1:8101/health"], "labels": {"service": "cart"}}]


def test_other_checks_are_refused(api: FlaskClient) -> None:
    """A check that does not exist is a 400, not an empty list that would remove all targets."""
    assert api.get("/api/v1/targets?check=scrap").status_code == 400
    misspelt = api.get("/api/v1/targets?chekc=probe")
    assert misspelt.status_code == 400
    assert misspelt.json["detail"] == "chekc: no parameter is called so; known here: check"


def test_thresholds_are_exported_with_the_services_own(api: FlaskClient) -> None:
    """Rules read each service's limits: its own where it has some, else everybody's."""
    text = api.get("/metrics").text
    assert 'shf_signal_threshold{service="plain",signal="error_ratio"} 0.2' in text
    assert 'shf_signal_threshold{service="cart",signal="error_ratio"} 0.05' in text
    assert 'shf_signal_threshold{service="nightly",signal="heartbeat"} 93600.0' in text
