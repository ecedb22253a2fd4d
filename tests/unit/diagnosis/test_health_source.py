"""What a service says of itself: real answers over HTTP, in the shapes that frameworks give them."""

import json
import socket
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from deadline import within_deadline
from self_healing_fabric.diagnosis.patterns import Pattern
from self_healing_fabric.diagnosis.sources import Condition, Report
from self_healing_fabric.diagnosis.sources.health import (
    LARGEST_BODY,
    MOST_TOLD,
    HealthSource,
    failing_checks,
)
from self_healing_fabric.settings import ServiceSettings
from shf_demo.ports import free_ports

ACTUATOR = {
    "status": "DOWN",
    "components": {
        "db": {"status": "DOWN", "details": {"error": "Connection to postgres:5432 refused"}},
        "diskSpace": {"status": "UP", "details": {"total": 1, "exists": True, "readonly": False}},
        "broker": {"status": "OUT_OF_SERVICE", "components": {"orders": {"status": "DOWN"}}},
    },
}
HEALTH_JSON = {
    "status": "fail",
    "checks": {
        "orders:connections": [{"componentType": "datastore", "status": "fail", "output": "timed out"}],
        "memory:utilization": [{"status": "warn"}, {"status": "fail"}],
        "uptime": [{"status": "pass"}],
    },
}
MICROPROFILE = {
    "status": "DOWN",
    "checks": [{"name": "migrations", "status": "DOWN"}, {"name": "queue", "status": "UP"}],
}
ASP_NET = {"status": "Unhealthy", "entries": {"redis": {"status": "Unhealthy", "description": "no PONG"}}}

BODIES: list[tuple[str, Any, list[tuple[str, str]]]] = [
    ("Spring Boot", ACTUATOR, [("db", "Connection to postgres:5432 refused"), ("orders", "")]),
    ("health+json", HEALTH_JSON, [("orders:connections", "timed out"), ("memory:utilization", "")]),
    ("MicroProfile", MICROPROFILE, [("migrations", "")]),
    ("ASP.NET", ASP_NET, [("redis", "no PONG")]),
    ("names and words", {"status": "error", "db": "down", "cache": "ok"}, [("db", "")]),
    ("names and words below", {"status": "degraded", "checks": {"db": False, "cache": True}}, [("db", "")]),
    ("healthy with a setting", {"status": "UP", "debug": False}, []),
    ("healthy details", {"components": {"db": {"status": "UP", "details": {"pool": False}}}}, []),
    ("only a status", {"status": "fail"}, []),
    ("a list", [{"name": "db", "status": "DOWN"}], []),
    ("a word", "DOWN", []),
]


@pytest.mark.parametrize(("body", "expected"), [row[1:] for row in BODIES], ids=[row[0] for row in BODIES])
def test_failing_checks_are_found_in_every_shape(body: Any, expected: list[tuple[str, str]]) -> None:
    """The names of those that fail, with their own reasons, and not one that passes."""
    assert [(check.name, check.reason) for check in failing_checks(body)] == expected


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text() | st.sampled_from(["DOWN", "fail", "UP"]),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.text() | st.sampled_from(["checks", "components", "status", "name"]), inner)
    ),
    max_leaves=30,
)


@given(JSON)
def test_no_body_is_too_strange(body: Any) -> None:
    """Whatever a stranger answers, the walk ends and its words are bounded."""
    assert all(len(check.name) <= 200 and len(check.reason) <= 200 for check in failing_checks(body))


def test_a_body_without_end_is_bounded() -> None:
    """A thousand nested checks, and a thousand beside each other, are read to a limit."""
    deep: Any = {"status": "DOWN"}
    for _ in range(900):
        deep = {"status": "DOWN", "components": {"inner": deep}}
    assert len(failing_checks(deep)) <= 1
    wide = {"checks": {f"check{number}": "fail" for number in range(1000)}}
    assert len(failing_checks(wide)) <= 200


def source(url: str, *depends_on: str) -> HealthSource:
    return HealthSource("cart", ServiceSettings(health=url), depends_on)


def look(server: HTTPServer, *depends_on: str, within: float = 5.0) -> Report:
    return source(server.url_for("/health"), *depends_on).look(1000.0, within)


def supported(report: Report) -> dict[str, tuple[Pattern | None, str | None]]:
    """By the name of the check: the pattern that it speaks for, and the service."""
    return {
        fact.evidence.statement.split()[4]: (next(iter(fact.supports), None), fact.service)
        for fact in report.facts[1:]
    }


def test_a_failing_check_speaks_for_what_its_name_says(httpserver: HTTPServer) -> None:
    """A configured dependency by name, in whatever spelling; other names by their meaning; else nothing."""
    names = ("orderDb:connections", "diskSpace", "configServer", "flyway", "redis", "weirdness")
    httpserver.expect_request("/health").respond_with_json(
        {"checks": dict.fromkeys(names, "fail")}, status=503
    )
    assert supported(look(httpserver, "order-db", "db")) == {
        "orderDb:connections": (Pattern.DEPENDENCY_FAILURE, "order-db"),
        "diskSpace": (Pattern.RESOURCE_EXHAUSTION, None),
        "configServer": (Pattern.CONFIGURATION_ERROR, None),
        "flyway": (Pattern.CONFIGURATION_ERROR, None),
        "redis": (Pattern.DEPENDENCY_FAILURE, None),
        "weirdness": (None, None),
    }


@pytest.mark.parametrize(
    ("reason", "pattern"),
    [
        ("checksum mismatch in 3 records", Pattern.DATA_CORRUPTION),
        ("write /data: no space left on device", Pattern.RESOURCE_EXHAUSTION),
        ("FATAL: password authentication failed for user", Pattern.CONFIGURATION_ERROR),
        ("connect: no route to host", Pattern.NETWORK_ISSUE),
        ("something is odd", Pattern.RESOURCE_EXHAUSTION),  # then the name decides
    ],
)
def test_the_reason_of_a_check_is_more_exact_than_its_name(
    httpserver: HTTPServer, reason: str, pattern: Pattern
) -> None:
    """Storage can be full, damaged, or not reachable."""
    body = {"checks": {"storage": {"status": "fail", "output": reason}}}
    httpserver.expect_request("/health").respond_with_json(body, status=503)
    assert supported(look(httpserver))["storage"] == (pattern, None)


def test_a_healthy_answer_says_so(httpserver: HTTPServer) -> None:
    """It speaks for no pattern, and against a service that does not work."""
    httpserver.expect_request("/health").respond_with_json({"status": "UP"})
    (fact,) = look(httpserver).facts
    assert fact.evidence.statement.startswith("cart: its health endpoint answers 200 within 0.")
    assert fact.evidence.query == f"curl -s -i {httpserver.url_for('/health')}"
    assert (fact.evidence.value, fact.condition, dict(fact.supports)) == (200.0, Condition.WELL, {})


def test_an_answer_that_is_no_json_counts_by_its_status(httpserver: HTTPServer) -> None:
    """Its text is neither shown nor believed."""
    httpserver.expect_request("/health").respond_with_data("<b>db is down</b>", status=500)
    (fact,) = look(httpserver).facts
    assert (fact.evidence.value, fact.condition) == (500.0, Condition.PARTIAL)
    assert "db" not in fact.evidence.statement


def test_many_failing_checks_become_a_few_facts(httpserver: HTTPServer) -> None:
    """All are counted, the first ones are told."""
    body = {"checks": {f"check{number}": "fail" for number in range(30)}}
    httpserver.expect_request("/health").respond_with_json(body, status=503)
    report = look(httpserver)
    assert "30 checks fail" in report.facts[0].evidence.statement
    assert len(report.facts) == 1 + MOST_TOLD


def test_a_body_that_is_too_long_is_not_read(httpserver: HTTPServer) -> None:
    """Its status still counts."""
    body = json.dumps({"checks": {"db": "fail"}, "more": "x" * LARGEST_BODY})
    httpserver.expect_request("/health").respond_with_data(body, status=503)
    (fact,) = look(httpserver).facts
    assert fact.evidence.value == 503.0


def test_an_answer_that_trickles_is_given_up(httpserver: HTTPServer) -> None:
    """Each byte comes in time, all of them do not."""

    given_up = threading.Event()

    def trickle(_: Request) -> Response:
        def parts() -> Any:
            while not given_up.wait(0.1):
                yield b" "

        return Response(parts(), status=200)

    httpserver.expect_request("/health").respond_with_handler(trickle)
    try:
        (fact,) = within_deadline(lambda: look(httpserver, within=0.5)).facts
    finally:
        given_up.set()
    assert fact.condition is Condition.DOWN


def test_a_service_that_hangs_is_not_waited_for_long() -> None:
    """However much time the diagnosis has: its repair waits for this."""
    with socket.create_server(("127.0.0.1", 0)) as listening:  # accepts, and never answers
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/health"
        (fact,) = within_deadline(lambda: source(url).look(1000.0, 3600.0)).facts
    assert fact.condition is Condition.DOWN
    assert not fact.is_gone
    assert "does not answer" in fact.evidence.statement


def test_no_redirect_is_followed(httpserver: HTTPServer) -> None:
    """It would send the question to a host that the configuration does not name."""
    httpserver.expect_request("/health").respond_with_data(
        "", 302, {"Location": httpserver.url_for("/other")}
    )
    (fact,) = look(httpserver).facts
    assert fact.evidence.value == 302.0


def test_a_refused_connection_is_a_fact_and_no_gap() -> None:
    """That nobody answers is what was to be learnt."""
    (port,) = free_ports(1)
    report = source(f"http://127.0.0.1:{port}/health").look(1000.0, 2.0)
    (fact,) = report.facts
    assert report.missing == ()
    assert "does not answer" in fact.evidence.statement
    assert fact.condition is Condition.DOWN
    assert fact.is_gone


def test_a_name_that_does_not_resolve_speaks_for_the_network() -> None:
    """The resolver's error, not the service's."""
    (fact,) = source("http://cart.invalid/health").look(1000.0, 5.0).facts
    assert list(fact.supports) == [Pattern.NETWORK_ISSUE]
