"""A TCP proxy on loopback that can be cut: between the fabric and a database that cannot be reached.

A server that is stopped answers at once that it is gone. A network does worse: it resets connections in the
middle of a commit, or swallows everything without a word until somebody's deadline. One thread moves all the
bytes, so that a cut is complete when the call that makes it returns, and nothing is left running.

While it is a black hole nothing is read and nothing is accepted: the kernel completes handshakes by itself,
as a firewall in the middle would let them time out only later, and what was under way arrives when the hole
is closed, as TCP would have it.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from sqlalchemy.engine import make_url

CHUNK = 64 * 1024  # bytes
CONNECT_TIMEOUT = 5.0  # seconds; on loopback it is there at once, or refuses
ANSWER_DEADLINE = 20.0  # seconds; for the proxy's own thread
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # linger for 0 s: close sends RST instead of FIN


@dataclass(eq=False)
class _Side:
    """One socket of a connection, and what is still to be sent to it."""

    socket: socket.socket
    pending: bytes = b""
    ended: bool = False  # it will send no more
    told: bool = False  # it was told that the other side will send no more
    other: _Side = field(init=False)


class CuttableProxy:
    """`with CuttableProxy(port) as proxy:` forwards `proxy.port` to a port on loopback, until it is cut."""

    def __init__(self, target_port: int) -> None:
        self._target = ("127.0.0.1", target_port)
        self._commands: list[tuple[Callable[[], None], threading.Event]] = []
        self._forwarding, self._refusing, self._closed = True, False, False
        self._sides: set[_Side] = set()

    def __enter__(self) -> Self:
        self._selector = selectors.DefaultSelector()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._listener.setblocking(False)
        self._bell, self._rope = socket.socketpair()
        self._bell.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self._selector.register(self._bell, selectors.EVENT_READ, None)
        self._thread = threading.Thread(target=self._run, name="cuttable-proxy", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._do(self._close)
        self._thread.join()
        self._rope.close()

    def through(self, url: str) -> str:
        """The URL of a database, with the proxy in front of its server."""
        location = make_url(url).set(host="127.0.0.1", port=self.port)
        return location.render_as_string(hide_password=False)

    def forward(self) -> None:
        """Let everything pass."""
        self._do(lambda: self._switch(forwarding=True, refusing=False))

    def refuse(self) -> None:
        """Reset all connections, and every new one as soon as it is made."""
        self._do(lambda: self._switch(forwarding=False, refusing=True))

    def blackhole(self) -> None:
        """Keep connections and let new ones be made, and forward nothing."""
        self._do(lambda: self._switch(forwarding=False, refusing=False))

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._sides) // 2

    def _do(self, command: Callable[[], None]) -> None:
        """Have the thread do it; returns when it is done."""
        done = threading.Event()
        self._commands.append((command, done))
        self._rope.send(b"!")
        if not done.wait(ANSWER_DEADLINE):
            raise RuntimeError("the proxy's thread does not answer; has it failed?")

    # All below runs in the thread.

    def _run(self) -> None:
        while not self._closed:
            self._watch()
            for key, events in self._selector.select():
                if key.fileobj is self._bell:
                    self._obey()
                    break  # what was ready is asked for anew: the cut comes first
                if key.fileobj is self._listener:
                    self._accept()
                elif key.data in self._sides:
                    self._move(key.data, events)

    def _obey(self) -> None:
        self._bell.recv(CHUNK)
        while self._commands:
            command, done = self._commands.pop(0)
            command()
            done.set()

    def _switch(self, *, forwarding: bool, refusing: bool) -> None:
        self._forwarding, self._refusing = forwarding, refusing
        if refusing:
            for side in list(self._sides):
                self._drop(side, reset=True)

    def _close(self) -> None:
        self._closed = True
        for side in list(self._sides):
            self._drop(side, reset=True)
        self._selector.close()
        self._listener.close()
        self._bell.close()

    def _watch(self) -> None:
        """Wait for what the mode allows: a side is read only when all it sent before has been passed on."""
        wanted: dict[socket.socket, tuple[int, _Side | None]] = {}
        if self._forwarding or self._refusing:
            wanted[self._listener] = (selectors.EVENT_READ, None)
        for side in self._sides if self._forwarding else ():
            events = selectors.EVENT_WRITE if side.pending else 0
            if not side.ended and not side.other.pending:
                events |= selectors.EVENT_READ
            if events:
                wanted[side.socket] = (events, side)
        for key in list(self._selector.get_map().values()):
            if key.fileobj is not self._bell and key.fileobj not in wanted:
                self._selector.unregister(key.fileobj)
        for watched, (events, data) in wanted.items():
            try:
                self._selector.modify(watched, events, data)
            except KeyError:
                self._selector.register(watched, events, data)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except BlockingIOError:
                return
            except ConnectionAbortedError:
                continue
            if self._refusing:
                _reset(client)
                continue
            try:
                server = socket.create_connection(self._target, CONNECT_TIMEOUT)
            except OSError:
                _reset(client)
                continue
            sides = _Side(client), _Side(server)
            sides[0].other, sides[1].other = sides[1], sides[0]
            for side in sides:
                side.socket.setblocking(False)
                side.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sides |= {*sides}

    def _move(self, side: _Side, events: int) -> None:
        try:
            if events & selectors.EVENT_READ and not side.ended:
                side.other.pending = side.socket.recv(CHUNK)
                side.ended = not side.other.pending
            for each in (side, side.other):
                self._send(each)
        except BlockingIOError:
            return
        except OSError:
            self._drop(side, reset=True)
            return
        if side.told and side.other.told:
            self._drop(side, reset=False)

    def _send(self, side: _Side) -> None:
        if side.pending:
            with contextlib.suppress(BlockingIOError):
                side.pending = side.pending[side.socket.send(side.pending) :]
        if side.other.ended and not side.pending and not side.told:
            side.told = True
            side.socket.shutdown(socket.SHUT_WR)

    def _drop(self, side: _Side, *, reset: bool) -> None:
        if side not in self._sides:
            return
        for each in (side, side.other):
            self._sides.discard(each)
            with contextlib.suppress(KeyError):
                self._selector.unregister(each.socket)
            _reset(each.socket) if reset else each.socket.close()


def _reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    connection.close()
