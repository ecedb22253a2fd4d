"""The application on a real fabric and store; the orchestrator is not started, so nothing acts.

A test that wants to see what became of a notification lets the orchestrator take in what waits.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from self_healing_fabric.app import create_app
from self_healing_fabric.incidents import correlation
from self_healing_fabric.incidents.ingestion import store_alerts
from self_healing_fabric.incidents.models import Alert
from self_healing_fabric.integration.lifecycle import Fabric
from self_healing_fabric.orchestration.healing_orchestrator import HealingOrchestrator
from self_healing_fabric.settings import Settings
from self_healing_fabric.store import Store, statements

CLOSED = "http://127.0.0.1:9"


class Clock:
    """Seconds since 1970, moved by the test."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class Api:
    """A fabric, its application's client, and what a test wants to know of both."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.clock = Clock()
        self.fabric = Fabric(settings)
        self.fabric.context = replace(self.fabric.context, clock=self.clock)
        self.fabric.orchestrator = HealingOrchestrator(self.fabric.context)
        self.app = create_app(self.fabric)
        self.client: FlaskClient = self.app.test_client()

    @property
    def store(self) -> Store:
        """The store of the fabric."""
        return self.fabric.store

    def inbox(self) -> list[bytes]:
        """The notifications that are stored and not worked in yet, as they came."""
        query = "SELECT body FROM inbox ORDER BY id"
        return [row.body for row in self.store.read(lambda c: c.exec_driver_sql(query).all())]

    def alerts(self) -> list[tuple[Any, ...]]:
        """Fingerprint and status of everything that is stored, once all notifications are worked in."""
        self.fabric.orchestrator.take_in()
        assert self.inbox() == []
        query = "SELECT fingerprint, status FROM alerts ORDER BY id"
        return [tuple(row) for row in self.store.read(lambda c: c.exec_driver_sql(query).all())]

    def metric(self, name: str, **labels: str) -> float | None:
        """The value of one series, as scraped."""
        text = generate_latest(self.fabric.context.metrics.registry).decode()
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == name and sample.labels == labels:
                    return float(sample.value)
        return None

    def receive(self, *services: str) -> None:
        """Post one notification with an alert of each of these services, and take it in."""
        alerts = [
            {
                "status": "firing",
                "labels": {"alertname": "ShfHeartbeatMissed", "service": service},
                "startsAt": "2027-01-15T08:00:00Z",
                "fingerprint": service,
            }
            for service in services
        ]
        assert self.client.post("/api/v1/alerts", json={"version": "4", "alerts": alerts}).status_code == 202
        self.fabric.orchestrator.take_in()

    def open(
        self,
        service: str = "cart",
        fingerprint: str | None = None,
        annotations: dict[str, str] | None = None,
        **columns: Any,
    ) -> str:
        """Open an incident by an alert, then set columns; return its id."""
        labels = {"alertname": "ShfHeartbeatMissed", "severity": "critical", "signal": "heartbeat"}
        alert = Alert(
            fingerprint or service,
            "2027-01-15T08:00:00.000Z",
            "firing",
            {**labels, "service": service},
            annotations or {},
        )
        before = {row.id for row in self.store.read(lambda c: statements.list_incidents(c, limit=500))}

        def write(connection: Any) -> None:
            store_alerts(connection, [alert], self.clock())
            topology, window = self.fabric.context.graph.topology, self.settings.correlation.window
            correlation.open_incidents(connection, topology, window, self.clock())

        self.store.write(write)
        rows = self.store.read(lambda connection: statements.list_incidents(connection, limit=500))
        (opened,) = {row.id for row in rows} - before
        if columns:
            self.store.write(lambda connection: statements.annotate(connection, opened, columns))
        return str(opened)

    def incident(self, incident_id: str) -> Any:
        """The row of an incident."""
        return self.store.read(lambda connection: statements.incident(connection, incident_id))


@pytest.fixture
def make_api(tmp_path: Path) -> Iterator[Callable[..., Api]]:
    """Make a fabric with these settings; it is stopped at the end of the test."""
    made: list[Api] = []

    def make(**settings: Any) -> Api:
        defaults = {
            "store": f"sqlite:///{tmp_path / 'shf.db'}",
            "prometheus": {"url": CLOSED},
            "services": {"cart": {}, "db": {}},
        }
        api = Api(Settings(**{**defaults, **settings}))
        made.append(api)
        return api

    yield make
    for api in made:
        api.fabric.stop()


@pytest.fixture
def api(make_api: Callable[..., Api]) -> Api:
    """A fabric with the services cart and db."""
    return make_api()
