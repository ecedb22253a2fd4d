"""The servers are the truth: what was never delivered is found, what ended ends, doubt changes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from self_healing_fabric.incidents.ingestion import identity_time
from self_healing_fabric.incidents.lifecycle import State
from self_healing_fabric.orchestration.reconciliation import Reconciliation
from self_healing_fabric.store import statements

SENT = "2026-11-22T07:31:33.778033912Z"  # as the webhook sends it
LISTED = "2026-11-22T07:31:33.778Z"  # as the API of the same Alertmanager lists it


class Alertmanager:
    """What GET /api/v2/alerts lists."""

    def __init__(self, server: HTTPServer) -> None:
        self.alerts: list[dict[str, Any]] = []
        self.status = 200
        self.url = server.url_for("/am")
        server.expect_request("/am/api/v2/alerts").respond_with_handler(self._answer)

    def _answer(self, _: Request) -> Response:
        return Response(json.dumps(self.alerts), status=self.status, mimetype="application/json")

    def list(self, *, state: str = "active", receiver: str = "self-healing-fabric") -> None:
        """List the alert of `cart`."""
        labels = {"alertname": "Test", "service": "cart", "signal": "heartbeat", "severity": "critical"}
        self.alerts.append(
            {
                "annotations": {"summary": "it fails"},
                "endsAt": "2026-11-22T07:35:33.778Z",
                "fingerprint": "heartbeat-cart",
                "receivers": [{"name": receiver}],
                "startsAt": LISTED,
                "status": {"inhibitedBy": [], "silencedBy": [], "state": state},
                "updatedAt": "2026-11-22T07:31:33.780Z",
                "generatorURL": "http://prom.example/graph",
                "labels": labels,
            }
        )


@pytest.fixture
def alertmanager(httpserver: HTTPServer) -> Alertmanager:
    """An Alertmanager that lists nothing."""
    return Alertmanager(httpserver)


@pytest.fixture
def compared(
    make_world: Callable[..., Any], alertmanager: Alertmanager
) -> Iterator[tuple[Any, Callable[[], None]]]:
    """A world with that Alertmanager, and a function that compares once and does what follows."""
    world = make_world(alertmanager={"url": alertmanager.url})
    reconciliation = Reconciliation(world.context)

    def compare() -> None:
        reconciliation.run()
        world.run()

    yield world, compare
    reconciliation.close()


def alert(world: Any, **changes: Any) -> Any:
    """The alert of `cart` as the webhook takes it in."""
    moment = datetime.fromisoformat(SENT[:26] + "+00:00")
    return world.alert(fingerprint="heartbeat-cart", starts_at=identity_time(moment), **changes)


def statuses(world: Any) -> list[str]:
    """The statuses of the only incident's alerts."""
    incident_id = world.incident().id
    rows = world.context.store.read(lambda connection: statements.alerts_of(connection, incident_id))
    return [row.status for row in rows]


def test_lost_notification_is_found(compared: Any, alertmanager: Alertmanager) -> None:
    """Listed as active and never delivered: taken in, and healed without a notification."""
    world, compare = compared
    world.silent()
    world.target.on_restart = world.healthy
    alertmanager.list()
    compare()
    world.run(seconds=20)
    assert len(world.target.restarts) == 1
    assert world.incident().outcome == "healed"


def test_listed_and_delivered_is_one_alert(compared: Any, alertmanager: Alertmanager) -> None:
    """The webhook's nanoseconds and the list's milliseconds are the same alert."""
    world, compare = compared
    world.receive(alert(world))
    alertmanager.list()
    compare()
    compare()
    assert statuses(world) == ["firing"]


@pytest.mark.parametrize("listed", [{"state": "suppressed"}, {"receiver": "people"}])
def test_silenced_and_foreign_alerts_are_left_alone(
    compared: Any, alertmanager: Alertmanager, listed: dict[str, str]
) -> None:
    """A silenced alert is somebody's decision, another receiver's is not ours: no incident."""
    world, compare = compared
    world.silent()
    alertmanager.list(**listed)
    compare()
    assert world.context.store.read(statements.list_incidents) == []


def test_alert_that_is_no_longer_listed_has_ended(compared: Any, alertmanager: Alertmanager) -> None:
    """`resolved` was lost: after the grace the alert ends, so the resolved incident can close."""
    world, compare = compared
    world.silent()
    world.target.on_restart = world.healthy
    world.receive(alert(world))
    world.run(seconds=20)
    assert world.incident().state is State.RESOLVED
    compare()
    assert statuses(world) == ["firing"]
    world.run(seconds=60, tick=5)
    compare()
    assert statuses(world) == ["resolved"]
    world.run(seconds=300, tick=10)
    assert world.incident().state is State.CLOSED


@pytest.mark.parametrize("status", [500, 503, 401])
def test_server_that_does_not_answer_ends_nothing(
    compared: Any, alertmanager: Alertmanager, status: int
) -> None:
    """No answer is no evidence that an alert ended, and no success of the loop."""
    world, compare = compared
    world.receive(alert(world))
    world.run(seconds=60, tick=5)
    alertmanager.status = status
    compare()
    assert statuses(world) == ["firing"]
    assert world.context.metrics.last_reconcile._value.get() == 0.0


def test_absurd_list_ends_nothing(compared: Any, alertmanager: Alertmanager) -> None:
    """An answer of another shape, or with a time that cannot be, is no answer."""
    world, compare = compared
    world.receive(alert(world))
    world.run(seconds=60, tick=5)
    alertmanager.list()
    alertmanager.alerts[0]["startsAt"] = "0001-01-01T00:00:00+14:00"
    compare()
    assert statuses(world) == ["firing"]


def test_false_end_is_taken_back(compared: Any, alertmanager: Alertmanager) -> None:
    """A `resolved` that was false (Prometheus was away) does not hide an alert that is still listed."""
    world, compare = compared
    world.silent()
    world.target.answer = 403
    world.receive(alert(world))
    world.receive(alert(world, status="resolved"))
    alertmanager.list()
    compare()
    assert statuses(world) == ["firing"]


def test_without_alertmanager_prometheus_tells_what_ended(world: Any) -> None:
    """Prometheus's own list ends an alert; one that it still lists with fewer labels goes on."""
    world.receive(world.alert(), world.alert(signal="cpu"))
    world.run(seconds=60, tick=5)
    listed = {"alertname": "Test", "service": "cart", "signal": "cpu"}  # external labels are missing
    world.prometheus.alerts = lambda: [{"labels": listed, "state": "firing"}]
    reconciliation = Reconciliation(world.context)
    reconciliation.run()
    reconciliation.close()
    assert statuses(world) == ["resolved", "firing"]
