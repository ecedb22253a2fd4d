"""The network between two services: a TCP proxy for each caller and callee that delays, loses or cuts.

On one machine nothing is ever lost, and what the kernel offers to make it so needs root and hits everything
that the machine does. So a call goes through a proxy of its own. What TCP makes of a lost packet is not an
error but silence until it is sent again, after a time that doubles with each loss; that is what callers see
here too, and why their latency tells of loss and their errors hardly do.
"""

from __future__ import annotations

import asyncio
import random
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

CHUNK = 64 * 1024  # bytes
RETRANSMISSION = 0.2  # seconds until a lost packet is sent again for the first time (Linux's least)
MOST_RETRANSMISSIONS = 4  # of one packet; then it passes
_STOP_DEADLINE = 5.0  # seconds


@dataclass(eq=False)
class Edge:
    """The way from a caller to a callee; `port` is where the caller connects.

    Attributes:
        delay: seconds that every message takes longer, each way.
        loss: share of the messages that are lost and sent again, 0 to below 1.
        cut: whether connections are reset, those that are open and those to come.
    """

    caller: str
    callee: str
    target_port: int
    port: int = 0
    delay: float = 0.0
    loss: float = 0.0
    cut: bool = False
    _dice: random.Random = field(default_factory=random.Random, repr=False)

    def mend(self) -> None:
        """Let everything pass at once."""
        self.delay, self.loss, self.cut = 0.0, 0.0, False

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of the caller, to its end."""
        if self.cut:
            writer.transport.abort()
            return
        try:
            back_reader, back_writer = await asyncio.open_connection("127.0.0.1", self.target_port)
        except OSError:
            writer.transport.abort()
            return
        ways = [
            asyncio.ensure_future(self._pass_on(reader, back_writer)),
            asyncio.ensure_future(self._pass_on(back_reader, writer)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            for each in (writer, back_writer):
                each.transport.abort()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(CHUNK):
                await asyncio.sleep(self._transit())
                if self.cut:
                    return
                writer.write(data)
                await writer.drain()

    def _transit(self) -> float:
        """Seconds that a message is under way: the delay, and every loss of it."""
        seconds, wait = self.delay, RETRANSMISSION
        for _ in range(MOST_RETRANSMISSIONS):
            if self._dice.random() >= self.loss:
                break
            seconds, wait = seconds + wait, 2 * wait
        return seconds


class Network:
    """`with Network() as network:` holds edges until it ends; one thread carries everything."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="network", daemon=True)
        self._connections: set[asyncio.Task[None]] = set()
        self._servers: list[asyncio.Server] = []
        self.edges: dict[tuple[str, str], Edge] = {}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(_STOP_DEADLINE)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_STOP_DEADLINE)
        self._loop.close()

    def connect(self, caller: str, callee: str, target_port: int) -> Edge:
        """A way from caller to callee, which listens on the target port of loopback."""
        edge = Edge(caller, callee, target_port)
        asyncio.run_coroutine_threadsafe(self._listen(edge), self._loop).result(_STOP_DEADLINE)
        self.edges[caller, callee] = edge
        return edge

    def into(self, callee: str) -> list[Edge]:
        """All ways that lead to a service."""
        return [edge for edge in self.edges.values() if edge.callee == callee]

    async def _listen(self, edge: Edge) -> None:
        async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            if task is not None:
                self._connections.add(task)
                task.add_done_callback(self._connections.discard)
            with suppress(asyncio.CancelledError):
                await edge.carry(reader, writer)

        server = await asyncio.start_server(carry, "127.0.0.1", 0)
        self._servers.append(server)
        edge.port = server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        for server in self._servers:
            server.close()
        connections = list(self._connections)
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
