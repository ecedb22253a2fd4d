"""What replicas see of the world: a Prometheus and many targets, over HTTP, counted at the target.

Both live in the test's own process, so a test can hold an order back, or let the target be slow to accept it.
Every service is silent until its target was restarted once.
"""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

from shf_queries.catalogue import HEARTBEAT

SAMPLES_EVERY = 0.2  # seconds
HELD_AT_MOST = 120.0  # seconds: no order outlives its test for long


@dataclass(frozen=True)
class Effect:
    """One restart at the target: its Idempotency-Key, and when the order came (on the monotonic clock)."""

    service: str
    key: str
    ordered_at: float


class Surroundings:
    """`with Surroundings(services) as world:` serves them at `world.url`."""

    def __init__(self, services: Sequence[str], *, takes: float = 0.0) -> None:
        self.services = tuple(services)
        self.takes = takes  # seconds that a restart takes
        self.effects: list[Effect] = []
        self.orders: list[Effect] = []  # that came, done or not
        self.on_read: Callable[[], None] = lambda: None  # before the next answer to what a target is asked
        self.may_end = threading.Event()
        self.may_end.set()
        self._since = time.time()
        self._well: dict[str, float] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.may_end.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def counts(self) -> dict[str, int]:
        """How often each service was restarted."""
        counted = dict.fromkeys(self.services, 0)
        with self._lock:
            for effect in self.effects:
                counted[effect.service] += 1
        return counted

    def keys(self) -> list[str]:
        """The Idempotency-Key of every effect."""
        with self._lock:
            return [effect.key for effect in self.effects]

    def configuration(self, service: str, *, timeout: float) -> dict[str, Any]:
        """How the fabric repairs the service."""
        url = f"{self.url}/{service}"
        http = {"restart": f"{url}/restart", "started_at": f"{url}/started_at", "timeout": timeout}
        return {"recovery": {"http": http}}

    def notification(self, *services: str) -> dict[str, Any]:
        """What Alertmanager sends about them."""
        return {
            "version": "4",
            "alerts": [
                {
                    "status": "firing",
                    "labels": _labels(service),
                    "annotations": {"summary": f"{service} is silent"},
                    "startsAt": "2026-01-01T00:00:00Z",
                    "fingerprint": f"f-{service}",
                }
                for service in services
            ],
        }

    def restart(self, service: str, key: str) -> None:
        """The target does it."""
        order = Effect(service, key, time.monotonic())
        with self._lock:
            self.orders.append(order)
        time.sleep(self.takes)
        self.may_end.wait(HELD_AT_MOST)
        with self._lock:
            self.effects.append(order)
            self._well.setdefault(service, time.time())

    def mend(self, service: str) -> None:
        """People do it."""
        self._well[service] = time.time()

    def answer(self, path: str, asked: Mapping[str, str]) -> Any:
        """What is asked with GET."""
        if path == "/api/v1/query":
            return {"status": "success", "data": {"result": self._result(asked["query"])}}
        if path == "/api/v1/query_range":
            return {"status": "success", "data": {"result": []}}  # no history
        if path == "/api/v1/alerts":
            failing = [name for name in self.services if not self._is_well(name, time.time())]
            return {"status": "success", "data": {"alerts": [_listed(name) for name in failing]}}
        service, what = path.strip("/").split("/")
        assert what == "started_at"
        on_read, self.on_read = self.on_read, lambda: None
        on_read()
        return {"started_at": self.counts()[service]}

    def _named(self, query: str) -> list[str]:
        """The services that a query asks for."""
        named = set(re.findall(r"[\w-]+", query.replace("\\", "")))
        return [name for name in self.services if name in named]

    def _result(self, query: str) -> list[Any]:
        now = time.time()
        if query == "vector(time())":
            return [{"metric": {}, "value": [now, str(now)]}]
        if query.startswith("{__name__"):
            return [
                {"metric": {"__name__": series, "service": name}, "value": [now, self._value(name, now)]}
                for name in self._named(query)
                for series in (HEARTBEAT.series, HEARTBEAT.fresh_series)
            ]
        found = re.fullmatch(r'service:shf_up:ratio\{service="([^"]+)"\}\[(\d+)ms\]', query)
        if found is None:
            return []
        name, seconds = found[1], min(int(found[2]) / 1000, now - self._since)
        newest = int(now / SAMPLES_EVERY)
        times = [(newest - index) * SAMPLES_EVERY for index in range(int(seconds / SAMPLES_EVERY), -1, -1)]
        return [{"metric": {"service": name}, "values": [[at, self._value(name, at)] for at in times]}]

    def _value(self, service: str, at: float) -> str:
        return "1" if self._is_well(service, at) else "0"

    def _is_well(self, service: str, at: float) -> bool:
        return self._well.get(service, float("inf")) <= at


def _labels(service: str) -> dict[str, str]:
    return {"alertname": "Silent", "signal": "heartbeat", "severity": "critical", "service": service}


def _listed(service: str) -> dict[str, Any]:
    return {"labels": _labels(service), "state": "firing"}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, *_: Any) -> None: ...  # whoever asked may be dead


def _handler(world: Surroundings) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            self._answer(world.answer(parts.path, dict(parse_qsl(parts.query))))

        def do_POST(self) -> None:
            world.restart(self.path.split("/")[1], self.headers["Idempotency-Key"])
            self._answer({"done": True})

        def _answer(self, content: Any) -> None:
            body = json.dumps(content).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None: ...

    return Handler


class SlowToAccept:
    """In front of the targets: a port whose queue of connections is full, until it is opened.

    A process that connects to it waits in the kernel, between the last look into the store and the request.
    """

    def __init__(self, target: str) -> None:
        self._target = urlsplit(target)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=0)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._fillers: list[socket.socket] = []
        self._proxy: threading.Thread | None = None
        self._closed = False

    def __enter__(self) -> Self:
        while True:  # until one is not accepted at once: then the queue is full
            filler = socket.socket()
            filler.settimeout(0.3)
            self._fillers.append(filler)
            try:
                filler.connect(self._listener.getsockname())
            except TimeoutError:
                return self

    def __exit__(self, *_: object) -> None:
        self._closed = True
        for each in (*self._fillers, self._listener):
            each.close()

    def in_front_of(self, configuration: dict[str, Any]) -> dict[str, Any]:
        """The configuration of a service whose restarts come this way."""
        http = configuration["recovery"]["http"]
        restart = http["restart"].replace(self._target.geturl(), self.url)
        return {**configuration, "recovery": {"http": {**http, "restart": restart}}}

    def open(self) -> None:
        """Accept from now on, and hand on to the target."""
        for filler in self._fillers:
            filler.close()
        self._listener.settimeout(0.2)
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while not self._closed:
            try:
                client, _ = self._listener.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            threading.Thread(target=self._pass_on, args=(client,), daemon=True).start()

    def _pass_on(self, client: socket.socket) -> None:
        address = (self._target.hostname, self._target.port)
        with client, socket.create_connection(address, 5.0) as server:
            back = threading.Thread(target=_copy, args=(server, client), daemon=True)
            back.start()
            _copy(client, server)
            back.join()


def _copy(source: socket.socket, sink: socket.socket) -> None:
    try:
        while chunk := source.recv(65536):
            sink.sendall(chunk)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        return


def grouped(services: Sequence[str], size: int) -> list[list[str]]:
    """The services in groups, as Alertmanager would send them."""
    groups: dict[int, list[str]] = defaultdict(list)
    for index, service in enumerate(services):
        groups[index // size].append(service)
    return list(groups.values())
