"""Thousands of services that fail, and a Prometheus that sees them, in a process of its own.

A burst needs more services than a machine can run, and the count of what was done to each must outlive the
fabric, which is killed in between. So one process plays all of them: every service answers most requests with
errors until it is restarted, a restart takes as long as told, and is counted when it arrives, whatever became
of the one who asked. `Idempotency-Key` is ignored on purpose: a second request is a second restart here, or a
repetition would not show.

It speaks just enough HTTP for that, on bare asyncio: what it costs is taken from the fabric under test.

    python stub_world.py '{"port": 4711, "services": 2000, "incurable": 9, "repair_seconds": 2, "alerts": 1}'

GET /counts tells what was done, at any time.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

RULE_INTERVAL = 0.5  # seconds between two samples; the fabric must be told the same
HEARTBEATS = ("service:shf_up:ratio", "service:shf_heartbeat:answered")
ERRORS = ("service:shf_errors:ratio_short", "service:shf_errors:ratio")
_SERVICE = re.compile(r'service=~?"([^"|]+)"')
_RANGE = re.compile(r"\[(\d+)ms\]$")
_TOGETHER = re.compile(r'label_replace\((.+?), "shf_expression", "(\d+)", "", ""\)')
_REASONS = {200: "OK", 404: "Not Found"}


def service_names(number: int) -> list[str]:
    """The names of so many services; the last ones are the incurable ones."""
    return [f"s{each:04}" for each in range(number)]


def labels_of(service: str, alert: int) -> dict[str, str]:
    """The labels of one of a service's alerts."""
    return {
        "alertname": f"Errors{alert}",
        "service": service,
        "signal": "error_ratio",
        "severity": "critical",
    }


class Service:
    """One target: fails from the beginning, until a restart has cured it."""

    def __init__(self, name: str, *, curable: bool) -> None:
        self.name = name
        self.curable = curable
        self.started_at = time.time() - 3600
        self.healed_at = float("inf")
        self.under_way = 0

    def error_ratio(self, at: float) -> str:
        """The share of failing requests at a time."""
        return "0" if at >= self.healed_at else "1"

    @property
    def failing(self) -> bool:
        """Whether its alerts fire now."""
        return self.healed_at == float("inf")


class World:
    """All services, and what was done to them."""

    def __init__(self, *, services: int, incurable: int, repair_seconds: float, alerts: int) -> None:
        names = service_names(services)
        self.services = {name: Service(name, curable=name in names[: services - incurable]) for name in names}
        self.repair_seconds = repair_seconds
        self.alerts_each = alerts
        self.restarts: Counter[str] = Counter()
        self.under_way = 0
        self.most_at_once = 0
        self.most_at_once_on_one = 0

    def begin_restart(self, name: str) -> None:
        """The order has arrived: from now on it counts."""
        service = self.services[name]
        self.restarts[name] += 1
        self.under_way += 1
        service.under_way += 1
        self.most_at_once = max(self.most_at_once, self.under_way)
        self.most_at_once_on_one = max(self.most_at_once_on_one, service.under_way)

    def end_restart(self, name: str) -> None:
        """A new process runs, and serves without errors where that cures it."""
        service = self.services[name]
        self.under_way -= 1
        service.under_way -= 1
        service.started_at = time.time()
        if service.curable:
            service.healed_at = service.started_at

    def counts(self) -> dict[str, Any]:
        """What was done."""
        return {
            "restarts": self.restarts,
            "under_way": self.under_way,
            "most_at_once": self.most_at_once,
            "most_at_once_on_one": self.most_at_once_on_one,
        }

    def query(self, query: str, at: float) -> list[Any]:
        """What Prometheus would answer to one of the fabric's queries."""
        if query == "vector(time())":
            return [{"metric": {}, "value": [at, str(at)]}]
        if parts := _TOGETHER.findall(query):
            return [
                {**found, "metric": {**found["metric"], "shf_expression": number}}
                for part, number in parts
                for found in self.query(part, at)
            ]
        named = _SERVICE.search(query)
        if named is None:  # how many are silent, of how many: none of two thousand
            silent = "== 0" in query
            return [{"metric": {}, "value": [at, "0" if silent else str(len(self.services))]}]
        service = self.services.get(named[1])
        if service is None:
            return []
        if (wanted := _RANGE.search(query)) is not None:
            return self._samples(service, query.partition("{")[0], at - int(wanted[1]) / 1000, at)
        if "process_start_time_seconds" in query:
            return [{"metric": {}, "value": [at, repr(service.started_at)]}]
        if not query.startswith("{__name__"):
            return []
        values = dict.fromkeys(HEARTBEATS, "1") | dict.fromkeys(ERRORS, service.error_ratio(at))
        return [
            {"metric": {"__name__": name, "service": service.name}, "value": [at, value]}
            for name, value in values.items()
        ]

    def _samples(self, service: Service, series: str, begin: float, end: float) -> list[Any]:
        number = int((end - begin) / RULE_INTERVAL) + 1
        times = [end - RULE_INTERVAL * (number - 1 - each) for each in range(number)]
        if series in HEARTBEATS:
            values = [[at, "1"] for at in times]
        elif series in ERRORS:
            values = [[at, service.error_ratio(at)] for at in times]
        else:
            return []
        return [{"metric": {"__name__": series, "service": service.name}, "values": values}]

    def alerts(self) -> list[Any]:
        """What fires, as Prometheus lists it."""
        return [
            {"labels": labels_of(each.name, number), "annotations": {}, "state": "firing"}
            for each in self.services.values()
            if each.failing
            for number in range(self.alerts_each)
        ]


class Connection(asyncio.Protocol):
    """One client: requests without pipelining, kept alive."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where to answer."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer when the request is complete; no body of one is of interest."""
        self._received += data
        head, complete, body = self._received.partition(b"\r\n\r\n")
        if not complete:
            return
        length = re.search(rb"(?i)content-length: *(\d+)", head)
        if len(body) < (int(length[1]) if length else 0):
            return
        self._received = b""
        method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
        self._route(method, urlsplit(target).path, target)

    def _route(self, method: str, path: str, target: str) -> None:
        world = self._world
        if path == "/api/v1/query":
            asked = parse_qs(urlsplit(target).query)
            at = float(asked["time"][0]) if "time" in asked else time.time()
            self._answer_as_prometheus({"result": world.query(asked["query"][0], at)})
        elif path == "/api/v1/alerts":
            self._answer_as_prometheus({"alerts": world.alerts()})
        elif path == "/counts":
            self._answer(200, world.counts())
        else:
            self._route_to_service(method, path)

    def _route_to_service(self, method: str, path: str) -> None:
        _, folder, name, *rest = [*path.split("/"), ""]
        service = self._world.services.get(name)
        if folder != "services" or service is None:
            self._answer(404, {"error": "not found"})
        elif method == "POST" and rest[0] == "restart":
            self._world.begin_restart(name)
            asyncio.get_running_loop().call_later(self._world.repair_seconds, self._restarted, name)
        else:
            self._answer(200, {"started_at": service.started_at})

    def _restarted(self, name: str) -> None:
        self._world.end_restart(name)  # also when nobody waits for the answer any more
        self._answer(200, {"restarted": name})

    def _answer_as_prometheus(self, data: dict[str, Any]) -> None:
        self._answer(200, {"status": "success", "data": data})

    def _answer(self, status: int, content: dict[str, Any]) -> None:
        if self._transport.is_closing():
            return
        body = json.dumps(content).encode()
        head = f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: application/json\r\n"
        self._transport.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)


async def serve(port: int, world: World) -> None:
    """Run for ever; ended by a signal."""
    protocol: Callable[[], Connection] = lambda: Connection(world)  # noqa: E731 - typed for mypy
    server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", port, backlog=2048)
    await server.serve_forever()


if __name__ == "__main__":
    options = json.loads(sys.argv[1])
    asyncio.run(serve(options.pop("port"), World(**options)))
