"""The demo tells of the incident that its fault led to, each entry once, with seconds since the fault."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pytest_httpserver import HTTPServer

from shf_demo.watching import IncidentWatch

FAULT = datetime(2026, 5, 4, 12, 0, 0, tzinfo=UTC)


def at(seconds: float) -> str:
    return (FAULT + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")


def incident(identity: str, **more: Any) -> dict[str, Any]:
    usual = {
        "id": identity,
        "service": "tokenguard",
        "state": "verifying",
        "opened_at": at(10),
        "resolved_at": None,
    }
    return usual | more


def entry(number: int, seconds: float, kind: str = "alert") -> dict[str, Any]:
    return {"id": number, "at": at(seconds), "kind": kind, "message": f"entry {number}", "data": {}}


@pytest.fixture
def watch(httpserver: HTTPServer) -> Iterator[IncidentWatch]:
    watch = IncidentWatch(httpserver.url_for(""), "tokenguard", FAULT)
    yield watch
    watch.close()


def serve(httpserver: HTTPServer, *incidents: dict[str, Any]) -> None:
    httpserver.clear()
    httpserver.expect_request("/api/v1/incidents").respond_with_json({"incidents": list(incidents)})
    for one in incidents:
        httpserver.expect_request(f"/api/v1/incidents/{one['id']}").respond_with_json(one)


def test_entries_are_told_once_with_their_seconds(httpserver: HTTPServer, watch: IncidentWatch) -> None:
    """What was told is not told again; what is new since then is."""
    serve(httpserver, incident("i-1", timeline=[entry(1, 10.0)]))
    told = [(h.kind, h.message, pytest.approx(h.seconds, abs=0.1)) for h in watch.poll()]
    assert told == [("alert", "entry 1", 10.0)]
    assert watch.poll() == []
    serve(httpserver, incident("i-1", timeline=[entry(1, 10.0), entry(2, 12.5, "action")]))
    assert [happening.message for happening in watch.poll()] == ["entry 2"]


def test_an_earlier_incident_that_ended_is_not_ours(httpserver: HTTPServer, watch: IncidentWatch) -> None:
    """Neither one of another service nor one that was over before the fault is followed."""
    over = incident("i-0", state="resolved", opened_at=at(-60), resolved_at=at(-30), timeline=[entry(1, -60)])
    other = incident("i-1", service="guardian-one", timeline=[entry(2, 5)])
    serve(httpserver, over, other)
    assert watch.poll() == []
    assert watch.detected_after is None


def test_an_open_incident_from_before_is_followed_from_the_fault_on(
    httpserver: HTTPServer, watch: IncidentWatch
) -> None:
    """The fault's alert goes into the incident that is still open; its older entries are no news."""
    serve(httpserver, incident("i-0", opened_at=at(-60), timeline=[entry(1, -60), entry(2, 11)]))
    assert [happening.message for happening in watch.poll()] == ["entry 2"]
    assert watch.detected_after == pytest.approx(11, abs=0.1)


def test_resolution_is_timed_from_the_fault(httpserver: HTTPServer, watch: IncidentWatch) -> None:
    """A resolved incident ends the watch, with the seconds that it took."""
    serve(httpserver, incident("i-1", state="resolved", resolved_at=at(21), timeline=[entry(1, 10)]))
    watch.poll()
    assert watch.ended
    assert watch.resolved_after == pytest.approx(21, abs=0.1)


def test_an_api_that_fails_has_no_news(httpserver: HTTPServer, watch: IncidentWatch) -> None:
    """Errors and silence of the API are waited out, not shown as a traceback."""
    httpserver.expect_request("/api/v1/incidents").respond_with_data("busy", status=503)
    assert watch.poll() == []
    httpserver.stop()
    assert watch.poll() == []
    httpserver.start()
