"""A fabric whose clock and Prometheus the test holds; store, state machine and HTTP targets are real.

Time only moves when a test moves it, and each `run` does what the loop would do at that moment, without its
threads: so a test can stand between any two steps, or end the process there and open the store again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from self_healing_fabric.incidents import correlation
from self_healing_fabric.incidents.ingestion import store_alerts
from self_healing_fabric.incidents.models import Alert, incident_of
from self_healing_fabric.integration.lifecycle import Fabric
from self_healing_fabric.orchestration.context import Context
from self_healing_fabric.orchestration.healing_orchestrator import HealingOrchestrator
from self_healing_fabric.recovery.verification import Verifier
from self_healing_fabric.settings import Settings
from self_healing_fabric.store import statements
from shf_queries import PrometheusUnavailable, Sample, Series, catalogue
from shf_queries.catalogue import HEARTBEAT, series_of

START = 1_800_000_000.0


class Clock:
    """Seconds since 1970, moved by hand."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


class FakePrometheus:
    """Answers as Prometheus would if each recorded series had had the set value since it was set.

    Samples exist once a second from the moment a value is set, so the product's own arithmetic on fresh
    samples, gaps and windows is what decides.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.history: dict[str, list[tuple[float, float | None]]] = {}
        self.away: str | None = None
        self.queries: list[str] = []

    def set(self, query: str, value: float | None) -> None:
        """From now on the series has this value; None: it vanishes."""
        self.history.setdefault(query, []).append((self._clock.now, value))

    def value_at(self, query: str, at: float) -> float | None:
        value = None
        for since, changed in self.history.get(query, []):
            if since <= at:
                value = changed
        return value

    def instant(self, promql: str, *, at: float | None = None) -> tuple[Sample, ...]:
        self._ask(promql)
        at = self._clock.now if at is None else at
        if promql.startswith("{__name__="):
            return tuple(self._all(at))
        value = self.value_at(promql, at)
        return () if value is None else (Sample({}, at, value),)

    def _all(self, at: float) -> Iterator[Sample]:
        for query in self.history:
            name, _, rest = query.partition("{")
            value = self.value_at(query, at)
            if name.startswith("service:shf_") and value is not None:
                service = json.loads(rest.removeprefix("service=").removesuffix("}"))
                yield Sample({"__name__": name, "service": service}, at, value)

    def raw(self, selector: str, *, seconds: float, at: float | None = None) -> tuple[Series, ...]:
        self._ask(selector)
        at = self._clock.now if at is None else at
        times = np.arange(np.ceil(at - seconds), np.floor(at) + 1, 1.0)
        pairs = [(t, v) for t in times if (v := self.value_at(selector, float(t))) is not None]
        if not pairs:
            return ()
        return (Series({}, np.array([t for t, _ in pairs]), np.array([v for _, v in pairs])),)

    def range(self, promql: str, *, start: float, end: float, step: float) -> tuple[Series, ...]:
        self._ask(promql)
        found = []
        for query in self.history:
            name, _, rest = query.partition("{")
            if catalogue.kind_of_series(name):
                service = json.loads(rest.removeprefix("service=").removesuffix("}"))
                times = np.arange(start, end + 1e-6, step)
                pairs = [(t, v) for t in times if (v := self.value_at(query, float(t))) is not None]
                labels = {"__name__": name, "service": service}
                found.append(Series(labels, np.array([t for t, _ in pairs]), np.array([v for _, v in pairs])))
        return tuple(found)

    def alerts(self) -> Sequence[Any]:
        self._ask("alerts")
        return []

    def close(self) -> None: ...

    def _ask(self, promql: str) -> None:
        self.queries.append(promql)
        if self.away:
            raise PrometheusUnavailable(self.away)


class Target:
    """A service's restart API that counts at the target what was really done."""

    def __init__(self, server: HTTPServer, name: str) -> None:
        self.restarts: list[str] = []
        self.answer = 200
        self.on_restart: Callable[[], None] = lambda: None
        self.restart_url = server.url_for(f"/{name}/restart")
        self.started_at_url = server.url_for(f"/{name}")
        self.health_url = server.url_for(f"/{name}/health")
        self.health = 200
        self.probes = 0
        server.expect_request(f"/{name}/restart", method="POST").respond_with_handler(self._restart)
        server.expect_request(f"/{name}", method="GET").respond_with_handler(self._state)
        server.expect_request(f"/{name}/health", method="GET").respond_with_handler(self._health)

    def _restart(self, request: Request) -> Response:
        if self.answer < 400 or self.answer >= 500:
            self.restarts.append(request.headers["Idempotency-Key"])
            self.on_restart()
        return Response(status=self.answer)

    def _state(self, _: Request) -> Response:
        return Response(json.dumps({"started_at": len(self.restarts)}), mimetype="application/json")

    def _health(self, _: Request) -> Response:
        self.probes += 1
        return Response(status=self.health)


class World:
    """The fabric of one test, and the hands that move its surroundings."""

    def __init__(self, directory: Path, server: HTTPServer, **changes: Any) -> None:
        self.directory = directory
        self.clock = Clock()
        self.prometheus = FakePrometheus(self.clock)
        self.target = Target(server, "cart")
        recovery = {"http": {"restart": self.target.restart_url, "started_at": self.target.started_at_url}}
        services = {"cart": {"health": self.target.health_url, "recovery": recovery}}
        self.values: dict[str, Any] = {
            "store": f"sqlite:///{directory}/shf.db",
            "services": services,
            "prometheus": {"scrape_interval": 1, "evaluation_interval": 1},
            "verification": {"stability": 5, "deadline": 60, "interval": 1},
            "guardrails": {"cooldown": 60},
            **changes,
        }
        self.healthy()
        self.open()

    def open(self) -> None:
        """Start the fabric on its store, as a new process would."""
        settings = Settings(**self.values)
        self.fabric = Fabric(settings)
        whole = self.fabric.context
        self.context = Context(
            settings=settings,
            store=whole.store,
            prometheus=self.prometheus,  # type: ignore[arg-type]
            verifier=Verifier(self.prometheus, settings),  # type: ignore[arg-type]
            strategies=whole.strategies,
            channels=(self,),
            metrics=whole.metrics,
            clock=self.clock,
        )
        self.orchestrator = HealingOrchestrator(self.context)
        self.context.store.write(statements.release_all_leases)

    # As a channel of escalation.
    name = "test"
    calls: list[Any]

    def send(self, call: Any) -> None:
        self.__dict__.setdefault("calls", []).append(call)

    def crash(self) -> None:
        """End the process and start a new one: only the store survives."""
        self.fabric.store.close()
        self.open()

    def close(self) -> None:
        self.fabric.store.close()

    def set(self, series: str, value: float | None, service: str = "cart") -> None:
        self.prometheus.set(series_of(series, service), value)

    def healthy(self) -> None:
        self.set(HEARTBEAT.series, 1.0)
        self.set(HEARTBEAT.fresh_series, 1.0)

    def silent(self) -> None:
        self.set(HEARTBEAT.series, 0.0)
        self.set(HEARTBEAT.fresh_series, 0.0)

    def alert(self, *, signal: str = "heartbeat", service: str | None = "cart", **changes: Any) -> Alert:
        """An alert as it would arrive now."""
        labels = {"alertname": "Test", "signal": signal, "severity": "critical", **changes.pop("labels", {})}
        if service is not None:
            labels["service"] = service
        values = {
            "fingerprint": f"{signal}-{service}",
            "starts_at": f"{self.clock.now:.0f}",
            "status": "firing",
            "labels": labels,
            "annotations": {"summary": "it fails"},
            **changes,
        }
        return Alert(**values)

    def receive(self, *alerts: Alert) -> None:
        self.context.store.write(lambda connection: store_alerts(connection, alerts, self.clock.now))

    def run(self, seconds: float = 0.0, tick: float = 0.5) -> None:
        """Do all that is due now, then move the clock in small ticks, doing what falls due."""
        end = self.clock.now + seconds
        while True:
            self._run_due()
            if self.clock.now >= end:
                return
            self.clock.now = min(end, self.clock.now + tick)

    def _run_due(self) -> None:
        store, now = self.context.store, self.clock.now
        services = self.context.settings.services
        store.write(lambda connection: correlation.open_incidents(connection, services, now))
        while rows := store.write(
            lambda connection: statements.claim_due(connection, owner="test", now=now, lease=120, limit=8)
        ):
            for row in rows:
                self.orchestrator.advance(incident_of(row))

    def incident(self) -> Any:
        """The only incident."""
        (row,) = self.context.store.read(statements.list_incidents)
        return incident_of(row)

    def actions(self) -> Sequence[Any]:
        incident_id = self.incident().id
        return self.context.store.read(lambda connection: statements.actions_of(connection, incident_id))

    def story(self) -> list[str]:
        """The messages of the only incident's timeline."""
        incident_id = self.incident().id
        rows = self.context.store.read(lambda connection: statements.timeline_of(connection, incident_id))
        return [f"{row.kind}: {row.message}" for row in rows]


@pytest.fixture
def make_world(tmp_path: Path, httpserver: HTTPServer) -> Iterator[Callable[..., World]]:
    """Build the world of a test with changed settings."""
    made: list[World] = []

    def make(**changes: Any) -> World:
        made.append(World(tmp_path, httpserver, **changes))
        return made[-1]

    yield make
    for world in made:
        world.close()


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    """The world with the settings of the conftest."""
    return make_world()
