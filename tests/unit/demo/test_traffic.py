"""The demo's users keep asking, whatever the services do."""

from __future__ import annotations

import time

from pytest_httpserver import HTTPServer

from shf_demo.ports import free_ports
from shf_demo.traffic import REQUESTS_PER_SECOND, Traffic


def test_users_ask_at_the_stated_rate_beside_a_dead_service(httpserver: HTTPServer) -> None:
    """A port that refuses connections takes nothing from the traffic to the others."""
    httpserver.expect_request("/work").respond_with_data("done")
    with Traffic([*free_ports(1), httpserver.port]):
        time.sleep(3)
    assert 0.5 < len(httpserver.log) / 3 / REQUESTS_PER_SECOND < 1.5


def test_users_come_back_after_failures(httpserver: HTTPServer) -> None:
    """A service that answers errors is asked again and again."""
    httpserver.expect_request("/work").respond_with_data("broken", status=500)
    with Traffic([httpserver.port]):
        time.sleep(2)
    assert len(httpserver.log) > 3
