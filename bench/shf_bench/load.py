"""Sends notifications over keep-alive connections and notes how long each answer took; a process of its own.

One thread, raw sockets and bodies that cost two replacements: an HTTP library would take a large part of the
second core and would be what is measured.

    python -m shf_bench.load < SPECIFICATION > RESULT      (both JSON)

Without a rate every connection sends its next request as soon as it has its answer; with one, requests are
sent on time by whichever connection is free.
"""

from __future__ import annotations

import json
import selectors
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

from shf_bench import processes
from shf_bench.notifications import Notifications

CONNECTIONS = 16
SILENCE = 30.0  # seconds without any answer; then something is wrong


@dataclass
class Result:
    """What a load did.

    Attributes:
        seconds: from the first request to the last answer.
        latencies: seconds from sending to the end of the answer, of the requests in order of their answers.
        statuses: how often each status was answered.
        sent: when each request was sent, seconds since 1970.
        late: seconds by which the latest request was sent too late; only with a rate.
    """

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    statuses: dict[str, int] = field(default_factory=dict)
    sent: list[float] = field(default_factory=list)
    late: float = 0.0


def run_load(port: int, notifications: Notifications, count: int, *, rate: float | None = None) -> Result:
    """Send `count` notifications from another process."""
    specification = {
        "port": port,
        "notifications": asdict(notifications),
        "count": count,
        "rate": rate,
    }
    done = subprocess.run(  # noqa: S603 - all of it is ours
        processes.module("load"),
        input=json.dumps(specification),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=processes.environment(),
    )
    return Result(**json.loads(done.stdout))


class Connection:
    """One connection with at most one request under way."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.began = 0.0
        self._unsent = memoryview(b"")
        self._answer = bytearray()

    def send(self, request: bytes) -> None:
        """Begin to send."""
        self._unsent, self._answer = memoryview(request), bytearray()
        self.began = time.perf_counter()
        self.push()

    def push(self) -> None:
        """Send what the kernel takes."""
        while self._unsent:
            try:
                self._unsent = self._unsent[self.socket.send(self._unsent) :]
            except BlockingIOError:
                return

    @property
    def events(self) -> int:
        """What to wait for."""
        return selectors.EVENT_READ | (selectors.EVENT_WRITE if self._unsent else 0)

    def receive(self) -> int | None:
        """Read what has come; the status once the answer is complete."""
        data = self.socket.recv(65536)
        if not data:
            raise ConnectionError("the server closed a connection in the middle of an answer")
        self._answer += data
        head, separator, body = bytes(self._answer).partition(b"\r\n\r\n")
        if not separator:
            return None
        lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        if len(body) < int(lengths[0].partition(b":")[2]):
            return None
        return int(head.split(b" ", 2)[1])


class Load:
    """The loop around the connections."""

    def __init__(self, port: int, request: Callable[[int], bytes], count: int, rate: float | None) -> None:
        self._request = request
        self._count = count
        self._rate = rate
        self._next = 0
        self._result = Result()
        self._selector = selectors.DefaultSelector()
        # In turns: one that rests for two minutes is closed by the server.
        self._free = deque(Connection(port) for _ in range(CONNECTIONS))

    def run(self) -> Result:
        """Send everything and wait for all answers."""
        self._began = time.perf_counter()
        while len(self._result.latencies) < self._count:
            pause = self._send_what_is_due()
            ready = self._selector.select(SILENCE if pause is None else pause)
            if not ready and pause is None:
                raise TimeoutError(f"no answer for {SILENCE:g} s")
            for key, events in ready:
                self._serve(key.data, events)
        self._result.seconds = time.perf_counter() - self._began
        return self._result

    def _send_what_is_due(self) -> float | None:
        """Send on free connections; seconds until the next request, or None when an answer comes first."""
        while self._free and self._next < self._count:
            if self._rate is not None:
                ahead = self._next / self._rate - (time.perf_counter() - self._began)
                if ahead > 0:
                    return ahead
                self._result.late = max(self._result.late, -ahead)
            connection = self._free.popleft()
            request = self._request(self._next)
            self._next += 1
            self._result.sent.append(time.time())
            connection.send(request)
            self._selector.register(connection.socket, connection.events, connection)
        return None

    def _serve(self, connection: Connection, events: int) -> None:
        if events & selectors.EVENT_WRITE:
            connection.push()
            self._selector.modify(connection.socket, connection.events, connection)
        if not events & selectors.EVENT_READ:
            return
        status = connection.receive()
        if status is None:
            return
        self._result.latencies.append(time.perf_counter() - connection.began)
        self._result.statuses[str(status)] = self._result.statuses.get(str(status), 0) + 1
        self._selector.unregister(connection.socket)
        self._free.append(connection)


def main() -> None:
    specification = json.load(sys.stdin)
    notifications = Notifications(**specification["notifications"])
    template, port = notifications.template(), specification["port"]
    head = f"POST /api/v1/alerts HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"

    def request(number: int) -> bytes:
        body = notifications.body(template, number)
        return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body

    load = Load(port, request, specification["count"], specification["rate"])
    json.dump(asdict(load.run()), sys.stdout)


if __name__ == "__main__":
    main()
