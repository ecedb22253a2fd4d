"""Between Alertmanager and the fabric: lets a notification through later than it came.

When the fabric hears of a fault decides what it can still see: the first error, or a minute of it, or that it
is over. Rules, group waits and networks make that time; here it is drawn. The fabric also asks Alertmanager
by itself for what was never delivered, so that question passes here too, and what is held back is not listed.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

import httpx

LOOK = 0.1  # seconds between two looks at what may be delivered
_TIMEOUT = 5.0  # seconds
_NOTIFY = "/api/v1/alerts"
_LIST = "/api/v2/alerts"


@dataclass
class _Gate:
    """`first_at`: when the first firing alert of the group came, in seconds since 1970."""

    delay: float
    first_at: float | None = None

    def is_open(self, now: float) -> bool:
        return self.first_at is not None and now >= self.first_at + self.delay


class Relay:
    """`with Relay(group_of) as relay:` answers at `relay.url` for the fabric and for Alertmanager.

    `group_of` tells which group a service's alerts belong to; each group is held back by itself.
    """

    def __init__(self, group_of: Callable[[str], str]) -> None:
        self._group_of = group_of
        self._gates: dict[str, _Gate] = {}
        self._held: list[tuple[str, bytes]] = []
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._server = _Server(self)
        self._http = httpx.Client(timeout=_TIMEOUT, trust_env=False)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._alertmanager_url = self._fabric_url = ""

    def __enter__(self) -> Self:
        self._delivery = threading.Thread(target=self._deliver, name="relay-delivery", daemon=True)
        self._delivery.start()
        threading.Thread(target=self._server.serve_forever, name="relay", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._delivery.join()
        self._server.shutdown()
        self._server.server_close()
        self._http.close()

    def connect(self, alertmanager_url: str, fabric_url: str) -> None:
        """Say between which two it stands."""
        self._alertmanager_url, self._fabric_url = alertmanager_url, fabric_url

    def arm(self, group: str, delay: float) -> None:
        """From now on hold back all of the group's alerts until `delay` seconds after its first firing
        one."""
        with self._lock:
            self._gates[group] = _Gate(delay)

    def disarm(self, group: str) -> float | None:
        """Let everything of the group through again; returns when its first firing alert came, if one
        did."""
        with self._lock:
            gate = self._gates.pop(group, None)
        return gate.first_at if gate else None

    def listed(self, group: str) -> int:
        """How many alerts of the group Alertmanager lists, held back or not."""
        return sum(self._group(alert) == group for alert in self._fetch())

    def take(self, body: bytes) -> None:
        """Keep a notification until its time has come. ValueError or KeyError when it is none."""
        alerts = json.loads(body)["alerts"]
        group = self._group(alerts[0])
        with self._lock:
            gate = self._gates.get(group)
            firing = any(alert["status"] == "firing" for alert in alerts)
            if gate is not None and gate.first_at is None and firing:
                gate.first_at = time.time()
            self._held.append((group, body))

    def visible(self) -> list[dict[str, Any]]:
        """Alertmanager's list without what is held back. Raises httpx.HTTPError."""
        alerts = self._fetch()
        now = time.time()
        with self._lock:
            return [alert for alert in alerts if self._passes(self._group(alert), now)]

    def _fetch(self) -> list[dict[str, Any]]:
        return list(self.ask_alertmanager(_LIST))

    def ask_alertmanager(self, path: str) -> Any:
        """What Alertmanager itself answers."""
        return self._http.get(f"{self._alertmanager_url}{path}").raise_for_status().json()

    def _group(self, alert: dict[str, Any]) -> str:
        return self._group_of(alert["labels"].get("service", ""))

    def _passes(self, group: str, now: float) -> bool:
        gate = self._gates.get(group)
        return gate is None or gate.is_open(now)

    def _deliver(self) -> None:
        while not self._stop.wait(LOOK):
            now = time.time()
            with self._lock:
                ready = [item for item in self._held if self._passes(item[0], now)]
            for item in ready:
                if not self._delivered(item[1]):
                    break
                with self._lock:
                    self._held.remove(item)

    def _delivered(self, body: bytes) -> bool:
        try:
            headers = {"Content-Type": "application/json"}
            answer = self._http.post(f"{self._fabric_url}{_NOTIFY}", content=body, headers=headers)
        except httpx.HTTPError:
            return False
        return answer.is_success


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, relay: Relay) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.relay = relay


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    timeout = 60  # seconds an idle connection is kept

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            self.server.relay.take(body)
        except (ValueError, KeyError, IndexError):
            self._answer(400, b"{}")
        else:
            self._answer(202, b"{}")

    def do_GET(self) -> None:
        try:
            relay = self.server.relay
            asked = relay.visible() if self.path == _LIST else relay.ask_alertmanager(self.path)
            content = json.dumps(asked).encode()
        except (httpx.HTTPError, ValueError):
            self._answer(503, b"{}")
        else:
            self._answer(200, content)

    def _answer(self, code: int, body: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """The terminal belongs to the progress of the run."""
