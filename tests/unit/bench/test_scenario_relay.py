"""The relay between Alertmanager and the fabric holds back, and loses nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from pytest_httpserver import HTTPServer

from bench.scenarios.relay import Relay
from bench.scenarios.shop import lane_of

DELAY = 1.0  # seconds
PATIENCE = 30.0  # seconds, for busy machines


def alert(service: str, status: str = "firing") -> dict[str, Any]:
    return {"status": status, "labels": {"service": service}}


@pytest.fixture
def relay(httpserver: HTTPServer) -> Iterator[Relay]:
    """Both Alertmanager and the fabric are the one stub."""
    httpserver.expect_request("/api/v1/alerts").respond_with_data(status=202)
    listed = [alert("cart-a"), alert("cart-b")]
    httpserver.expect_request("/api/v2/alerts").respond_with_json(listed)
    httpserver.expect_request("/api/v2/receivers").respond_with_json([{"name": "self-healing-fabric"}])
    with Relay(lane_of) as running:
        running.connect(httpserver.url_for(""), httpserver.url_for(""))
        yield running


def notify(relay: Relay, service: str, status: str = "firing") -> None:
    body = {"alerts": [alert(service, status)]}
    assert httpx.post(f"{relay.url}/api/v1/alerts", json=body, trust_env=False).status_code == 202


def listed(relay: Relay) -> set[str]:
    found = httpx.get(f"{relay.url}/api/v2/alerts", trust_env=False).raise_for_status().json()
    return {one["labels"]["service"] for one in found}


def delivered(httpserver: HTTPServer) -> list[str]:
    posts = [request for request, _ in httpserver.log if request.method == "POST"]
    return [one["labels"]["service"] for request in posts for one in request.json["alerts"]]


def wait(httpserver: HTTPServer, expected: list[str]) -> None:
    """Until this has been delivered, and nothing else."""
    end = time.monotonic() + PATIENCE
    while delivered(httpserver) != expected:
        assert time.monotonic() < end, delivered(httpserver)
        time.sleep(0.02)


def test_a_group_is_held_back(relay: Relay, httpserver: HTTPServer) -> None:
    """It is neither told nor listed, and no other waits for it."""
    relay.arm("a", 2 * PATIENCE)
    notify(relay, "cart-a")
    notify(relay, "cart-b")
    wait(httpserver, ["cart-b"])
    assert listed(relay) == {"cart-b"}


def test_a_group_is_let_through_after_its_delay(relay: Relay, httpserver: HTTPServer) -> None:
    """Which begins with the first firing alert; what came before it is told then, too."""
    relay.arm("a", DELAY)
    notify(relay, "cart-a", "resolved")
    time.sleep(0.5)
    fired = time.monotonic()
    notify(relay, "cart-a")
    wait(httpserver, ["cart-a", "cart-a"])
    assert time.monotonic() >= fired + DELAY
    assert listed(relay) == {"cart-a", "cart-b"}


def test_disarming_delivers_what_was_held(relay: Relay, httpserver: HTTPServer) -> None:
    """The end of a scenario loses no notification, and tells when the first one had come."""
    relay.arm("a", 60)
    before = time.time()
    notify(relay, "cart-a")
    first = relay.disarm("a")
    assert first is not None
    assert before <= first <= time.time()
    wait(httpserver, ["cart-a"])
    assert relay.disarm("a") is None


def test_what_is_no_notification_is_refused(relay: Relay) -> None:
    """Alertmanager would say so in its log; a test of the relay that fed it nonsense would pass else."""
    answer = httpx.post(f"{relay.url}/api/v1/alerts", content=b"{}", trust_env=False)
    assert answer.status_code == 400


def test_services_that_are_in_no_lane_belong_to_no_group() -> None:
    """The fabric's own alerts, and services whose names only look like those of a lane."""
    assert [lane_of(name) for name in ("cart-a", "guardian-one", "", "cart")] == ["a", "", "", ""]


def test_what_is_not_the_list_is_alertmanagers(relay: Relay) -> None:
    """The fabric asks whether its receiver exists."""
    asked = httpx.get(f"{relay.url}/api/v2/receivers", trust_env=False).raise_for_status()
    assert asked.json() == [{"name": "self-healing-fabric"}]
