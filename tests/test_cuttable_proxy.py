"""The proxy cuts what passes through it in the way that was asked for, at once and completely."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator

import psycopg
import pytest

from cuttable_proxy import CuttableProxy
from postgresql_server import PostgresqlServer
from shf_demo.ports import reserved_ports

TIMEOUT = 0.4  # seconds in which nothing may arrive
DEADLINE = 10.0  # seconds, for busy machines


class Echo:
    """A server that sends back what it gets, and counts who came."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.accepted: list[socket.socket] = []
        self.ends: list[str] = []
        self.threads = [threading.Thread(target=self._accept)]
        self.threads[0].start()

    def _accept(self) -> None:
        while True:
            connection, _ = self.listener.accept()
            if self.closing:
                connection.close()
                return
            self.accepted.append(connection)
            thread = threading.Thread(target=self._serve, args=(connection,))
            thread.start()
            self.threads.append(thread)

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                while data := connection.recv(1 << 16):
                    connection.sendall(data)
                self.ends.append("closed")
            except ConnectionError:
                self.ends.append("reset")

    closing = False

    def close(self) -> None:
        self.closing = True
        socket.create_connection(("127.0.0.1", self.port)).close()
        for thread in self.threads:
            thread.join(DEADLINE)
            assert not thread.is_alive()
        self.listener.close()


@pytest.fixture
def echo() -> Iterator[Echo]:
    """The server; all that it started has ended afterwards."""
    server = Echo()
    yield server
    server.close()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[CuttableProxy]:
    """The proxy in front of it."""
    with CuttableProxy(echo.port) as proxy:
        yield proxy


@pytest.fixture
def client(proxy: CuttableProxy) -> Iterator[socket.socket]:
    """A connection through the proxy that has carried something already."""
    with socket.create_connection(("127.0.0.1", proxy.port), DEADLINE) as client:
        assert exchange(client) == b"hello"
        yield client


def exchange(client: socket.socket) -> bytes:
    """Send something and return what comes back."""
    client.sendall(b"hello")
    return client.recv(100)


def connect_and_exchange(proxy: CuttableProxy) -> None:
    """A reset may come as early as in the middle of the connect."""
    with socket.create_connection(("127.0.0.1", proxy.port), DEADLINE) as client:
        exchange(client)


def wait(what: str, condition: Callable[[], bool]) -> None:
    """Wait until the condition holds."""
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, f"not in time: {what}"
        time.sleep(0.01)


def receive(client: socket.socket, number: int) -> bytes:
    """Exactly this many bytes, or what there is until the end."""
    parts = bytearray()
    while len(parts) < number and (data := client.recv(1 << 16)):
        parts += data
    return bytes(parts)


def test_everything_passes_both_ways(client: socket.socket) -> None:
    """Megabytes arrive complete and in order, also when the reader is slow."""
    sent = b"".join(b"%08d" % number for number in range(500_000))
    sender = threading.Thread(target=lambda: (client.sendall(sent), client.shutdown(socket.SHUT_WR)))
    sender.start()
    assert receive(client, len(sent)) == sent
    assert client.recv(1) == b""  # the end passes too, after everything before it
    sender.join()


def test_refuse_resets_what_is_open_and_what_comes(
    proxy: CuttableProxy, client: socket.socket, echo: Echo
) -> None:
    """An open connection is reset on both of its sides, and a new one never reaches the server."""
    proxy.refuse()
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    with pytest.raises(ConnectionError):
        connect_and_exchange(proxy)
    assert len(echo.accepted) == 1
    wait("the server notices", lambda: echo.ends == ["reset"])
    assert proxy.connections == 0


def test_a_black_hole_swallows_without_a_word(
    proxy: CuttableProxy, client: socket.socket, echo: Echo
) -> None:
    """Nothing arrives and nothing is closed; new connections are made and get no answer either."""
    proxy.blackhole()
    client.settimeout(TIMEOUT)
    with pytest.raises(TimeoutError):
        exchange(client)
    with socket.create_connection(("127.0.0.1", proxy.port), DEADLINE) as new:
        new.settimeout(TIMEOUT)
        with pytest.raises(TimeoutError):
            exchange(new)
        assert len(echo.accepted) == 1
        proxy.forward()
        for each in (client, new):  # what was under way arrives
            each.settimeout(DEADLINE)
            assert each.recv(100) == b"hello"


def test_from_a_black_hole_to_refusal(proxy: CuttableProxy, client: socket.socket) -> None:
    """Also those that were made in the black hole are reset."""
    proxy.blackhole()
    with socket.create_connection(("127.0.0.1", proxy.port), DEADLINE) as new:
        proxy.refuse()
        for each in (client, new):
            with pytest.raises(ConnectionResetError):
                each.recv(1)


def test_after_a_cut_it_forwards_again(proxy: CuttableProxy, client: socket.socket) -> None:
    """Connections made after a cut work as before."""
    proxy.refuse()
    proxy.forward()
    with socket.create_connection(("127.0.0.1", proxy.port), DEADLINE) as new:
        assert exchange(new) == b"hello"


def test_an_idle_cut_answers_at_once_and_often(proxy: CuttableProxy, client: socket.socket) -> None:
    """Cuts may follow each other without a pause; the connection survives every black hole."""
    for _ in range(200):
        proxy.blackhole()
        proxy.forward()
        assert exchange(client) == b"hello"


def test_a_server_that_is_gone_is_a_reset() -> None:
    """Without anything behind it, a connection ends instead of hanging."""
    with reserved_ports(1) as (port,), CuttableProxy(port) as proxy, pytest.raises(ConnectionError):
        connect_and_exchange(proxy)


def test_nothing_is_left_running(echo: Echo) -> None:
    """Leaving the block ends the thread and the connections, in every mode."""
    before = threading.active_count()
    for cut in (CuttableProxy.forward, CuttableProxy.refuse, CuttableProxy.blackhole):
        with CuttableProxy(echo.port) as proxy, socket.create_connection(("127.0.0.1", proxy.port)) as client:
            cut(proxy)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", proxy.port))
        client.close()
    wait("all threads have ended", lambda: threading.active_count() == before)


def test_a_database_is_reached_through_it(postgresql: PostgresqlServer) -> None:
    """The URL keeps its user and database, and the cut is what a driver sees."""
    url = postgresql.create_database("through_the_proxy")
    with CuttableProxy(postgresql.port) as proxy:
        through = proxy.through(url).replace("+psycopg", "")
        connection = psycopg.connect(through, autocommit=True)
        try:
            row = connection.execute("SELECT current_database()").fetchone()
            assert row == ("through_the_proxy",)
            proxy.refuse()
            with pytest.raises(psycopg.OperationalError):
                connection.execute("SELECT 1")
            with pytest.raises(psycopg.OperationalError):
                psycopg.connect(through, connect_timeout=5)
        finally:
            connection.close()
