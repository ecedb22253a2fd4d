"""What may stand between Alertmanager and the fabric, and lose, hold back or repeat notifications."""

from __future__ import annotations

import json
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

import httpx

PATIENCE = 60.0  # seconds for which an answer is held at most


class _Server(ThreadingHTTPServer):
    """Answers POST with what `receive` returns; HTTP/1.0, so that no connection outlives its answer."""

    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()

    def receive(self, path: str, body: bytes) -> int:
        """The status to answer with."""
        raise NotImplementedError


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        status = self.server.receive(self.path, body)
        with suppress(ConnectionError):  # who asked may have given up
            self.send_response(status)
            self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


class LossyReceiver(_Server):
    """Acknowledges everything and forgets it, as a fabric does whose disk is lost a moment later."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.lost: list[tuple[str, str]] = []  # status and service of each alert

    def receive(self, path: str, body: bytes) -> int:
        self.lost += [(alert["status"], alert["labels"]["service"]) for alert in json.loads(body)["alerts"]]
        return 200


@dataclass(frozen=True)
class Forwarded:
    """A notification that went on to the fabric: from which peer, what was in it, and the fabric's answer."""

    peer: str
    alerts: frozenset[tuple[str, str, str]] = field(repr=False)  # status, fingerprint, startsAt
    status: int


class LatePeer(_Server):
    """Between two Alertmanagers and the fabric: the one that comes first is forwarded at once, the other's
    notifications are kept until they are released.

    The first one gets its first answer only when the other one has sent too. Else the two would agree that it
    is delivered, and there would be nothing late.
    """

    def __init__(self, fabric_url: str) -> None:
        super().__init__(0)
        self.forwarded: list[Forwarded] = []
        self._target = f"{fabric_url}/api/v1/alerts"
        self._first: str | None = None
        self._choosing = threading.Lock()
        self._other_came = threading.Event()
        self._released = threading.Event()

    def release(self) -> None:
        """What was kept goes on now."""
        self._released.set()

    @property
    def both_came(self) -> bool:
        """Whether the other peer has sent."""
        return self._other_came.is_set()

    def receive(self, path: str, body: bytes) -> int:
        with self._choosing:
            self._first = self._first or path
        if path == self._first:
            status = self._forward(path, body)
            self._other_came.wait(PATIENCE)
            return status
        self._other_came.set()
        self._released.wait()
        return self._forward(path, body)

    def _forward(self, path: str, body: bytes) -> int:
        status = httpx.post(self._target, content=body, timeout=10, trust_env=False).status_code
        alerts = json.loads(body)["alerts"]
        content = frozenset((each["status"], each["fingerprint"], each["startsAt"]) for each in alerts)
        self.forwarded.append(Forwarded(path, content, status))
        return status


class Pager(_Server):
    """Notes when it is told of which service, and by which alert."""

    def __init__(self) -> None:
        super().__init__(0)
        self.pages: list[tuple[float, str, str]] = []  # at, service, alert
        self.ends: list[tuple[str, str]] = []  # service, alert

    def receive(self, path: str, body: bytes) -> int:
        """Note the alerts."""
        for alert in json.loads(body)["alerts"]:
            told = (alert["labels"].get("service", ""), alert["labels"]["alertname"])
            if alert["status"] == "firing":
                self.pages.append((time.time(), *told))
            else:
                self.ends.append(told)
        return 200

    def first(self, service: str) -> tuple[float, str] | None:
        """When somebody was called for a service, and by which alert."""
        return next(((at, alert) for at, named, alert in self.pages if named == service), None)


class Reader(_Server):
    """What people read, as apprise's `json://` sends it."""

    def __init__(self) -> None:
        super().__init__(0)
        self.bodies: list[str] = []

    def receive(self, path: str, body: bytes) -> int:
        """Keep the text."""
        self.bodies.append(json.loads(body)["message"])
        return 200


class Pretender(_Server):
    """A recovery API that says yes and repairs nothing."""

    def __init__(self) -> None:
        super().__init__(0)

    def receive(self, path: str, body: bytes) -> int:
        """Yes."""
        return 200


def set_pager(content: dict[str, Any], url: str) -> None:
    """Fill in the receiver that people fill in."""
    (receiver,) = [each for each in content["receivers"] if each["name"] == "pager"]
    receiver["webhook_configs"] = [{"url": url}]
