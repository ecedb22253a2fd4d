"""A fabric whose clock and Prometheus the test holds; store, state machine and HTTP targets are real.

Time only moves when a test moves it, and each `run` does what the loop would do at that moment, without its
threads: so a test can stand between any two steps, or end the process there and open the store again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from self_healing_fabric.escalation.calls import Kind as CallKind
from self_healing_fabric.escalation.channels import Receipt
from self_healing_fabric.guardrails.outside import Outside
from self_healing_fabric.incidents.ingestion import store_alerts
from self_healing_fabric.incidents.models import Alert, incident_of
from self_healing_fabric.integration.lifecycle import Fabric
from self_healing_fabric.orchestration.caller import Caller
from self_healing_fabric.orchestration.context import Context
from self_healing_fabric.orchestration.diagnosis_verdicts import Calibrator
from self_healing_fabric.orchestration.healing_orchestrator import HealingOrchestrator
from self_healing_fabric.orchestration.leases import Leases
from self_healing_fabric.orchestration.service_graph import ServiceGraph
from self_healing_fabric.orchestration.validation import Gate
from self_healing_fabric.recovery.verification import Verifier
from self_healing_fabric.settings import Settings
from self_healing_fabric.store import statements
from shf_queries import PrometheusUnavailable, Sample, Series
from shf_queries.catalogue import HEARTBEAT, Signal, series_of

START = 1_800_000_000.0


class Clock:
    """Seconds since 1970, moved by hand."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


class FakePrometheus:
    """Answers as Prometheus would if each recorded series had had the set value since it was set.

    Samples exist once a second, before the first value was set with that one, so the product's own arithmetic
    on fresh samples, gaps and windows is what decides.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.history: dict[str, list[tuple[float, float | None]]] = {}
        self.calls: list[tuple[str, str]] = []  # who called whom, as a service graph tells it
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
        if promql.startswith("label_replace("):
            return tuple(
                Sample({"client": client, "server": server}, at, 1.0) for client, server in self.calls
            )
        value = self.value_at(promql, at)
        return () if value is None else (Sample({}, at, value),)

    def together(self, queries: Sequence[str], *, at: float | None = None) -> tuple[tuple[Sample, ...], ...]:
        return tuple(self.instant(query, at=at) for query in queries)

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
        first = next((since for since, _ in self.history.get(selector, ())), at)
        pairs = [(t, v) for t in times if (v := self.value_at(selector, max(float(t), first))) is not None]
        if not pairs:
            return ()
        return (Series({}, np.array([t for t, _ in pairs]), np.array([v for _, v in pairs])),)

    def range(self, promql: str, *, start: float, end: float, step: float) -> tuple[Series, ...]:
        self._ask(promql)
        times = np.arange(start, end + 1e-6, step)
        matchers = dict(re.findall(r'(\w+)=~?"([^"]*)"', promql))
        found = []
        for query, history in self.history.items():
            recorded = re.fullmatch(r'(service:[\w:]+)\{service="([^"]*)"\}', query)
            if recorded is None:
                continue  # an expression
            labels = {"__name__": recorded[1], "service": recorded[2]}
            if not all(re.fullmatch(wanted, labels[label]) for label, wanted in matchers.items()):
                continue
            # The value of the last change before each time; NaN before the first, and while it is gone.
            values = np.array([np.nan, *(np.nan if value is None else value for _, value in history)])
            sampled = values[np.searchsorted([since for since, _ in history], times, side="right")]
            there = ~np.isnan(sampled)
            found.append(Series(labels, times[there], sampled[there]))
        return tuple(found)

    def alerts(self) -> Sequence[Any]:
        self._ask("alerts")
        return []

    def version(self) -> None: ...

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
        self.pretends = False  # says yes, and restarts nothing
        self.starting = False  # cannot tell yet when it started
        self.on_restart: Callable[[], None] = lambda: None
        self.restart_url = server.url_for(f"/{name}/restart")
        self.started_at_url = server.url_for(f"/{name}")
        self.health_url = server.url_for(f"/{name}/health")
        self.replicas_url = server.url_for(f"/{name}/replicas")
        self.replicas = 2
        self.scalings: list[int] = []
        self.scale_answer = 200
        self.scales = True  # else it says yes, and stays as it is
        self.on_scale: Callable[[], None] = lambda: None
        self.on_refused_scale: Callable[[], None] = lambda: None
        self.health = 200
        self.health_body = ""
        self.probes = 0  # of a retry
        self.examinations = 0  # of a diagnosis, which asks for the body
        server.expect_request(f"/{name}/restart", method="POST").respond_with_handler(self._restart)
        server.expect_request(f"/{name}", method="GET").respond_with_handler(self._state)
        server.expect_request(f"/{name}/replicas").respond_with_handler(self._replicas)
        server.expect_request(f"/{name}/health", method="GET").respond_with_handler(self._health)

    def _restart(self, request: Request) -> Response:
        if self.answer < 400 or self.answer >= 500:
            if not self.pretends:
                self.restarts.append(request.headers["Idempotency-Key"])
            self.on_restart()
        return Response(status=self.answer)

    def _replicas(self, request: Request) -> Response:
        if request.method == "PUT" and self.scale_answer >= 400:
            self.on_refused_scale()
            return Response(status=self.scale_answer)
        if request.method == "PUT":
            wanted = request.get_json()["replicas"]
            self.scalings.append(wanted)
            if self.scales:
                self.replicas = wanted
            self.on_scale()
        return Response(json.dumps({"replicas": self.replicas}), mimetype="application/json")

    def _state(self, _: Request) -> Response:
        if self.starting:
            return Response(status=503)
        return Response(json.dumps({"started_at": len(self.restarts)}), mimetype="application/json")

    def _health(self, request: Request) -> Response:
        if "json" in request.headers.get("Accept", ""):
            self.examinations += 1
        else:
            self.probes += 1
        return Response(self.health_body, status=self.health)


class World:
    """The fabric of one test, and the hands that move its surroundings.

    `depends_on` names the services, each with its dependencies; without it there is only `cart`.
    """

    bounds: Sequence[Outside] = ()  # guardrails of a program that embeds the fabric, from the next `open` on
    gate: Gate | None = None  # likewise

    def __init__(
        self,
        directory: Path,
        server: HTTPServer,
        depends_on: Mapping[str, Sequence[str]] | None = None,
        **changes: Any,
    ) -> None:
        self.directory = directory
        self.calls: list[Any] = []  # of escalation, to people
        self.ends: list[Any] = []  # of what they were called for
        self.clock = Clock()
        self.prometheus = FakePrometheus(self.clock)
        edges = {"cart": ()} if depends_on is None else depends_on
        self.targets = {name: Target(server, name) for name in edges}
        if "cart" in self.targets:
            self.target = self.targets["cart"]
        self.values: dict[str, Any] = {
            "store": f"sqlite:///{directory}/shf.db",
            "services": {name: self._service(name, edges[name]) for name in edges},
            "prometheus": {"scrape_interval": 1, "evaluation_interval": 1},
            "verification": {"stability": 5, "deadline": 60, "interval": 1},
            "guardrails": {"cooldown": 60},
            **changes,
        }
        for name in edges:
            self.healthy(name)
        self.open()

    def _service(self, name: str, depends_on: Sequence[str]) -> dict[str, Any]:
        target = self.targets[name]
        recovery = {"http": {"restart": target.restart_url, "started_at": target.started_at_url}}
        return {"health": target.health_url, "recovery": recovery, "depends_on": depends_on}

    def open(self) -> None:
        """Start the fabric on its store, as a new process would."""
        settings = Settings(**self.values)
        self.fabric = Fabric(settings, bounds=self.bounds, gate=self.gate)
        whole = self.fabric.context
        self.context = Context(
            settings=settings,
            store=whole.store,
            prometheus=self.prometheus,  # type: ignore[arg-type]
            verifier=Verifier(self.prometheus, settings),  # type: ignore[arg-type]
            strategies=whole.strategies,
            channels={**whole.channels, "log": self},
            metrics=whole.metrics,
            leases=Leases(whole.store, self.clock, services=settings.services),
            graph=ServiceGraph(settings, self.prometheus),  # type: ignore[arg-type]
            calibrator=Calibrator(whole.store),
            outside=whole.outside,
            gate=whole.gate,
            clock=self.clock,
        )
        self.orchestrator = HealingOrchestrator(self.context)
        self.caller = Caller(self.context)
        self.context.store.write(statements.release_all_leases)

    # As the channel of escalation that hears everything.
    gathers, alive_for = False, None

    def send(self, message: Any, _: Any) -> Receipt:
        (call,) = message.calls
        (self.calls if call.kind is CallKind.ESCALATION else self.ends).append(call)
        return Receipt()

    def check(self) -> str:
        return ""

    def crash(self) -> None:
        """End the process and start a new one: only the store survives."""
        self.fabric.store.close()
        self.open()

    def close(self) -> None:
        self.fabric.store.close()

    def set(self, series: str, value: float | None, service: str = "cart") -> None:
        self.prometheus.set(series_of(series, service), value)

    def measure(self, signal: Signal, value: float, service: str = "cart") -> None:
        """From now on both of the signal's series have this value."""
        self.set(signal.series, value, service)
        self.set(signal.fresh_series, value, service)

    def healthy(self, service: str = "cart") -> None:
        self.measure(HEARTBEAT, 1.0, service)

    def silent(self, service: str = "cart") -> None:
        self.measure(HEARTBEAT, 0.0, service)

    def restarts(self) -> dict[str, int]:
        """How often each target was restarted, counted there; those that never were are left out."""
        return {name: len(target.restarts) for name, target in self.targets.items() if target.restarts}

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

    def keep(self, fingerprint: str, service: str = "cart") -> None:
        """Keep a notification of one alert in the inbox, as the request path does."""
        alert = {
            "status": "firing",
            "labels": {"alertname": "Test", "service": service},
            "startsAt": "2027-01-15T08:00:00Z",
            "fingerprint": fingerprint,
        }
        body = json.dumps({"version": "4", "alerts": [alert]}).encode()
        self.context.store.inbox.put(body, self.clock.now)

    def run(self, seconds: float = 0.0, tick: float = 0.5) -> None:
        """Do all that is due now, then move the clock in small ticks, doing what falls due."""
        end = self.clock.now + seconds
        while True:
            self._run_due()
            if self.clock.now >= end:
                return
            self.clock.now = min(end, self.clock.now + tick)

    def _run_due(self) -> None:
        self._work(self.orchestrator.take_in_and_claim(8))
        while batches := self.caller.look():
            for batch in batches:
                self.caller.send(batch)
        self._work()

    def _work(self, claimed: Sequence[Any] = ()) -> None:
        while claimed := claimed or self.orchestrator.claim(8):
            for incident in claimed:
                self.orchestrator.work(incident)
            claimed = ()

    def incidents(self, *, merged: bool = False) -> list[Any]:
        """The incidents as people see them listed, oldest first."""
        rows = self.context.store.read(lambda c: statements.list_incidents(c, merged=merged, limit=500))
        return [incident_of(row) for row in reversed(rows)]

    def incident(self) -> Any:
        """The only incident."""
        (incident,) = self.incidents()
        return incident

    def incident_of(self, service: str) -> Any:
        """The only incident of the service."""
        (incident,) = [each for each in self.incidents() if each.service == service]
        return incident

    def alerts_of(self, incident: Any) -> Sequence[Any]:
        return self.context.store.read(lambda connection: statements.alerts_of(connection, incident.id))

    def actions(self) -> Sequence[Any]:
        incident_id = self.incident().id
        return self.context.store.read(lambda connection: statements.actions_of(connection, incident_id))

    def story(self, incident: Any = None) -> list[str]:
        """The messages of an incident's timeline, of the only one's when None."""
        incident_id = (incident or self.incident()).id
        rows = self.context.store.read(lambda connection: statements.timeline_of(connection, incident_id))
        return [f"{row.kind}: {row.message}" for row in rows]
