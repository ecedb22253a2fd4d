"""Alertmanager's side of a storm: one notification a group, on hundreds of connections at once.

When nothing is grouped, Alertmanager opens a connection for each group that it flushes, keeps it, and posts
on it again. What is answered with 5xx or not at all is sent again after a pause that grows by half each time;
what is answered with 2xx or 4xx is not. A client library would need more of the machine than what it tests,
so this is the little HTTP that it takes.
"""

from __future__ import annotations

import asyncio
import json
import random
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from stub_world import labels_of

ANSWER_TIMEOUT = 10.0  # seconds; then Alertmanager gives up on an answer and sends again
FIRST_PAUSE = 0.5  # seconds before the second try
LONGEST_PAUSE = 5.0  # seconds; Alertmanager's own is 60


@dataclass
class Delivery:
    """One notification and what became of it."""

    service: str
    alert: int
    acknowledged: bool = False
    answers: list[int | None] = field(default_factory=list)  # a status for each try; None: no answer
    retry_after: list[str | None] = field(default_factory=list)  # of each answer that was no acknowledgement

    @property
    def fingerprint(self) -> str:
        """What makes the alert one of its own."""
        return f"{self.service}{self.alert:04}"

    def body(self) -> bytes:
        """The notification."""
        alert = {
            "status": "firing",
            "labels": labels_of(self.service, self.alert),
            "annotations": {
                "summary": f"{self.service} answers errors",
                "runbook_url": "https://example.org",
            },
            "startsAt": "2026-01-01T00:00:00.000Z",
            "endsAt": "0001-01-01T00:00:00Z",
            "generatorURL": "http://prometheus.example.org/graph",
            "fingerprint": self.fingerprint,
        }
        message = {
            "version": "4",
            "groupKey": f'{{}}:{{alertname="Errors{self.alert}", service="{self.service}"}}',
            "truncatedAlerts": 0,
            "status": "firing",
            "receiver": "self-healing-fabric",
            "groupLabels": {"service": self.service},
            "commonLabels": alert["labels"],
            "commonAnnotations": alert["annotations"],
            "externalURL": "http://alertmanager.example.org",
            "alerts": [alert],
        }
        return json.dumps(message).encode()


class Flood:
    """Deliver notifications, evenly over `seconds`, on `connections` connections at once.

    With `insist` everything is sent until it is acknowledged or the flood is stopped, otherwise once.
    """

    def __init__(
        self,
        url: str,
        deliveries: Sequence[Delivery],
        *,
        connections: int,
        seconds: float = 0.0,
        insist: bool = True,
    ) -> None:
        self.deliveries = deliveries
        self._host, self._port = urlsplit(url).hostname or "", urlsplit(url).port or 0
        self._connections = connections
        self._seconds = seconds
        self._insist = insist
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="flood")

    def __enter__(self) -> Self:
        """Begin in the background."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Send nothing more, and wait for the answers that are still to come."""
        self._stopped.set()
        self._thread.join()

    def join(self, deadline: float) -> None:
        """Wait until all is delivered."""
        self._thread.join(deadline)
        assert not self._thread.is_alive(), f"not delivered within {deadline:g} s"

    @property
    def acknowledged(self) -> list[Delivery]:
        """What was answered with 2xx so far."""
        return [each for each in self.deliveries if each.acknowledged]

    def __str__(self) -> str:
        tries = Counter(status for each in self.deliveries for status in each.answers)
        told = ", ".join(f"{number} x {status or 'no answer'}" for status, number in tries.most_common())
        return f"{len(self.deliveries)} notifications: {told}"

    async def _run(self) -> None:
        begin = asyncio.get_running_loop().time()
        pause = self._seconds / max(1, len(self.deliveries))
        waiting = iter(enumerate(self.deliveries))
        async with asyncio.TaskGroup() as senders:
            for _ in range(self._connections):
                sender = _Sender(self._host, self._port)
                senders.create_task(self._send(sender, lambda: next(waiting, None), begin, pause))

    async def _send(
        self,
        sender: _Sender,
        following: Callable[[], tuple[int, Delivery] | None],
        begin: float,
        pause: float,
    ) -> None:
        await sender.open()
        while not self._stopped.is_set() and (chosen := following()) is not None:
            number, delivery = chosen
            await asyncio.sleep(begin + number * pause - asyncio.get_running_loop().time())
            between = FIRST_PAUSE
            while not self._stopped.is_set():
                await sender.post(delivery)
                if delivery.acknowledged or not self._insist:
                    break
                await asyncio.sleep(between * random.uniform(0.5, 1.5))  # noqa: S311 - no secret
                between = min(between * 1.5, LONGEST_PAUSE)
        sender.close()


class _Sender:
    """One connection, opened anew where the other side has closed it."""

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def open(self) -> None:
        """Connect; whether that went well shows when something is posted."""
        with suppress(OSError):
            self._streams = await asyncio.open_connection(*self._address)

    async def post(self, delivery: Delivery) -> None:
        """One try."""
        status = retry_after = None
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT):
                status, retry_after = await self._ask(delivery.body())
        except (OSError, EOFError, TimeoutError):
            self.close()
        delivery.answers.append(status)
        if status is not None and 200 <= status < 300:
            delivery.acknowledged = True
        elif status is not None:
            delivery.retry_after.append(retry_after)

    async def _ask(self, body: bytes) -> tuple[int, str | None]:
        if self._streams is None:
            self._streams = await asyncio.open_connection(*self._address)
        reader, writer = self._streams
        head = (
            f"POST /api/v1/alerts HTTP/1.1\r\nHost: {self._address[0]}\r\nContent-Type: application/json\r\n"
        )
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {
            name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])
        }
        await reader.readexactly(int(headers["content-length"]))
        if headers.get("connection") == "close":
            self.close()
        return int(lines[0].split(" ")[1]), headers.get("retry-after")

    def close(self) -> None:
        """Hang up."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None
