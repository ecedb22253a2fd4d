"""The demo's stack with shops in it: in each lane a web front, a cart, a stock and prices.

A fault in one of four services that depend on each other shows in two or three of them, so locating it has
rivals. Lanes do not know each other; a fault in one is no evidence in another, and several scenarios run at
once. The fabric is the real one in mode `dry_run`: it diagnoses, plans, and then leaves everything to
people, so a fault lasts until the scenario ends it.

The fabric compares with the last hour, and the last hour of a machine on which faults are injected all the
time is not what a service's last hour is like. So the minutes of a finished scenario are taken out of
Prometheus, in its lane, before the next one begins (`forget`).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from bench.scenarios.relay import Relay
from self_healing_fabric.rules import RuleParameters
from shf_demo import shop_service
from shf_demo.errors import DemoError
from shf_demo.fleet import SampleService
from shf_demo.network import Network
from shf_demo.stack import Stack
from shf_demo.supervisor import Supervisor
from shf_demo.timings import Timings
from shf_demo.traffic import Traffic

LANES = "abcdefgh"
CALLS: Mapping[str, tuple[str, ...]] = {
    "web": ("cart", "prices"),
    "cart": ("stock",),
    "stock": (),
    "prices": (),
}
ENTRY = "web"  # what users ask; the only one that can be overloaded
ENTRY_WORKERS = 2  # requests at once
ENTRY_WORK = 0.06  # seconds for each: 33 requests/s at most
AGE = 86400.0  # seconds that a service seems to have been running: deployments are rare
USERS = 12  # of each front: few would ask less as soon as they wait, and a slow service would look idle
MEASURED_DEADLINE = 30.0  # seconds
GROUP_INTERVAL = "5s"  # 20s as shipped
WAIT_FOR_CAUSE = "15s"  # 1m as shipped

TIMINGS = Timings(
    rules=RuleParameters(
        scrape_interval=1,
        heartbeat=10,
        error_window=10,
        latency_window=15,
        latency_for=5,
        resource_window=10,
        resource_for=5,
        keep_firing=5,
        baseline_window=300,
        baseline_offset=15,
    ),
    stability=5,
    verification_deadline=60,
    verification_interval=1,
    cooldown=5,
    fault_deadline=120,
    baseline_deadline=120,
)


def name_of(role: str, lane: str) -> str:
    return f"{role}-{lane}"


def lane_of(service: str) -> str:
    """Which lane a service belongs to; empty for what belongs to none."""
    role, _, lane = service.rpartition("-")
    return lane if role in CALLS else ""


def services_of(lane: str) -> tuple[str, ...]:
    return tuple(name_of(role, lane) for role in CALLS)


class ShopStack(Stack):
    """`with ShopStack(directory, lanes=4) as shop:` runs that many lanes of four services each."""

    _prometheus_flags = ("--web.enable-admin-api",)  # to forget with

    def __init__(self, workdir: Path, *, lanes: int) -> None:
        self.lanes = tuple(LANES[:lanes])
        services = [
            SampleService(
                name_of(role, lane),
                "guardian",
                "/health",
                tuple(name_of(callee, lane) for callee in callees),
                "shf_demo.shop_service",
            )
            for lane in self.lanes
            for role, callees in CALLS.items()
        ]
        super().__init__(workdir, timings=TIMINGS, services=services)
        self.network = Network()
        self.relay = Relay(lane_of)
        self._surroundings = ExitStack()
        self._start = time.time() - AGE
        self._asking = httpx.Client(timeout=10.0, trust_env=False)

    def __enter__(self) -> Self:
        with ExitStack() as starting:
            starting.enter_context(self._asking)
            starting.enter_context(self.network)
            starting.enter_context(self.relay)
            super().__enter__()
            self._surroundings = starting.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._surroundings:
            super().__exit__(kind, error, trace)

    def directory(self, service: str) -> Path:
        """Where the service keeps its settings, records and release."""
        return self.workdir / "shops" / service

    def port(self, service: str) -> int:
        return self.supervisor.state(service).port

    def deploy(self, service: str) -> None:
        """Replace its process as a deployment does: it has started now."""
        shop_service.set_start(self.directory(service), None)
        self.supervisor.replace(service)

    def put_back(self, service: str) -> None:
        """Replace its process by one like that before the fault: it has been running for long."""
        self.seem_old([service])
        self.supervisor.replace(service)

    def seem_old(self, services: Sequence[str]) -> None:
        """Have the services tell the start that they told in the beginning."""
        for service in services:
            shop_service.set_start(self.directory(service), self._start)

    def change_settings(self, service: str, settings: Mapping[str, Any]) -> None:
        """In the running process only."""
        url = f"http://127.0.0.1:{self.port(service)}/settings"
        self._asking.post(url, json=dict(settings)).raise_for_status()

    def alerts(self, lanes: Sequence[str]) -> float:
        """How many alerts of the lanes fire; on a busy machine there is always one that is pending."""
        found = self.ask_prometheus(f'count(ALERTS{{alertstate="firing",{_selector(lanes)}}})')
        return found or 0.0

    def forget(self, lanes: Sequence[str], start: float, end: float) -> None:
        """Take what Prometheus holds of the lanes between two times out of it."""
        asked = {"match[]": f"{{{_selector(lanes)}}}", "start": f"{start:.3f}", "end": f"{end:.3f}"}
        url = f"{self.prometheus_url}/api/v1/admin/tsdb/delete_series"
        self._asking.post(url, params=asked).raise_for_status()

    def incidents(self, lanes: Sequence[str], since: float) -> list[dict[str, Any]]:
        """The stories of the lanes' incidents opened since then, oldest first; merged ones are left out."""
        answer = self._asking.get(f"{self.fabric_url}/api/v1/incidents", params={"limit": 100})
        rows = answer.raise_for_status().json()["incidents"]
        ours = [row for row in rows if lane_of(row["service"] or "") in lanes]
        stories = [self._story(row["id"]) for row in reversed(ours) if _opened(row) >= since]
        return [story for story in stories if story["outcome"] != "merged"]

    def wait_until_measured(self, lanes: Sequence[str]) -> None:
        """Until the rules see the users' requests. DemoError when they do not: no fault would be either."""
        entries = "|".join(name_of(ENTRY, lane) for lane in lanes)
        query = f'count(service:shf_requests:rate{{service=~"{entries}"}} > 0)'
        self.wait_for(
            f"requests to {entries} in Prometheus",
            lambda: self.ask_prometheus(query) == len(lanes),
            MEASURED_DEADLINE,
        )

    def close_incidents(self, lanes: Sequence[str]) -> None:
        """As a person would, so that the next alert opens a new one."""
        for story in self.incidents(lanes, 0.0):
            if story["state"] != "closed":
                body = {"by": "scenarios", "reason": "the scenario is over"}
                url = f"{self.fabric_url}/api/v1/incidents/{story['id']}/close"
                answer = self._asking.post(url, json=body)
                if answer.status_code not in (200, 409):
                    raise DemoError(f"incident {story['id']} cannot be closed: {answer.text}")

    def _story(self, identity: str) -> dict[str, Any]:
        answer = self._asking.get(f"{self.fabric_url}/api/v1/incidents/{identity}")
        return dict(answer.raise_for_status().json())

    def _new_supervisor(self) -> Supervisor:
        return Supervisor(self.services, self.workdir, self._wire)

    def _wire(self, ports: Mapping[str, int]) -> dict[str, list[str]]:
        arguments = {}
        for service in self.services:
            shop_service.prepare(self.directory(service.name))
            self.seem_old([service.name])
            found = ["--directory", str(self.directory(service.name))]
            for callee in service.depends_on:
                edge = self.network.connect(service.name, callee, ports[callee])
                found += ["--call", f"{callee}={edge.port}"]
            if service.name.startswith(f"{ENTRY}-"):
                found += ["--workers", str(ENTRY_WORKERS), "--work", str(ENTRY_WORK)]
            arguments[service.name] = found
        return arguments

    def _traffic(self) -> Traffic:
        return Traffic([self.port(name_of(ENTRY, lane)) for lane in self.lanes], users=USERS)

    def _files(self, ports: Sequence[int]) -> dict[str, dict[str, Any]]:
        files = super()._files(ports)
        self.relay.connect(self.alertmanager_url, self.fabric_url)
        for receiver in files["alertmanager.yml"]["receivers"]:
            for webhook in receiver.get("webhook_configs", ()):
                webhook["url"] = webhook["url"].replace(self.fabric_url, self.relay.url)
        for route in files["alertmanager.yml"]["route"]["routes"]:
            route["group_interval"] = GROUP_INTERVAL
        fabric = files["shf.yaml"]
        fabric["mode"] = "dry_run"
        fabric["alertmanager"] = {"url": self.relay.url}
        fabric["correlation"] = {"wait_for_cause": WAIT_FOR_CAUSE}
        return {**files, "rules/shop.rules.yml": self._recordings()}

    def _recordings(self) -> dict[str, Any]:
        """What the owner of these services would record of their own series for the diagnosis."""
        rules = [
            _record(name, f"sum by (service) (rate({metric}[10s]))")
            for name, metric in (
                ("checksum_failures_rate", "storage_checksum_failures_total"),
                ("unhandled_exceptions_rate", "unhandled_exceptions_total"),
            )
        ]
        rules.append(
            _record("queue_depth", "max by (service) (avg_over_time(http_server_queued_requests[5s]))")
        )
        for service in self.services:
            for callee in service.depends_on:
                rules += _records_of_edge(service.name, callee)
        return {"groups": [{"name": "shop", "interval": "1s", "rules": rules}]}


def _records_of_edge(caller: str, callee: str) -> list[dict[str, Any]]:
    """What a call takes for the caller and in the callee, and which share of the calls gets no answer."""
    edge = {"service": callee, "peer": caller}
    client, calls = "http_client_request_duration_seconds", f'service="{caller}",server="{callee}"'
    server = f'http_request_duration_seconds_bucket{{service="{callee}",path="/work"}}'
    waited = f"{client}_bucket{{{calls}}}"
    mean = f"sum(rate({client}_sum{{{calls}}}[10s])) / (sum(rate({client}_count{{{calls}}}[10s])) > 0)"
    lost = f'sum(rate({client}_count{{{calls},error_type=~"[A-Z].+"}}[10s])) or vector(0)'  # no status
    return [
        _record("edge_client_latency_p50", _quantile(0.5, waited), edge),
        _record("edge_client_latency_p95", _quantile(0.95, waited), edge),
        _record("edge_client_latency_mean", mean, edge),
        _record("edge_server_latency_p50", _quantile(0.5, server), edge),
        _record(
            "edge_client_lost_ratio",
            f"({lost}) / (sum(rate({client}_count{{{calls}}}[10s])) > 0)",
            edge,
        ),
    ]


def _quantile(share: float, buckets: str) -> str:
    return f"histogram_quantile({share}, sum by (le) (rate({buckets}[10s])))"


def _record(name: str, query: str, labels: Mapping[str, str] | None = None) -> dict[str, Any]:
    return {"record": f"service:shf_custom:{name}", "expr": query, "labels": dict(labels or {})}


def _selector(lanes: Sequence[str]) -> str:
    return f'service=~".+-({"|".join(lanes)})"'


def _opened(row: Mapping[str, Any]) -> float:
    return datetime.fromisoformat(row["opened_at"]).timestamp()
