"""Whoever only holds connections open shuts nobody out: no credentials are needed to connect."""

from __future__ import annotations

import json
import select
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import pytest

from self_healing_fabric import app
from self_healing_fabric.app import BackgroundServer
from shf_demo.ports import reserved_ports

BODY = (Path(__file__).parents[2] / "data" / "webhook" / "firing_single.json").read_bytes()
PAUSE = b'{"mode": "paused"}'
ALLOWED = 60  # connections
LARGEST = 2000  # bytes of a body


class Served:
    """The application of a fabric on a port of its own."""

    def __init__(self, api: Any, port: int, opened: ExitStack) -> None:
        self.api = api
        self._port, self._opened = port, opened

    def connect(self, sent: bytes = b"") -> socket.socket:
        """A connection that stays open, after it has sent this."""
        found = self._opened.enter_context(socket.create_connection(("127.0.0.1", self._port), timeout=10))
        found.sendall(sent)
        return found


@contextmanager
def serving(make_api: Any, **settings: Any) -> Iterator[Served]:
    """The application on a port, until the end of the block."""
    with reserved_ports(1) as (port,), ExitStack() as opened:
        api = make_api(listen=f"127.0.0.1:{port}", **settings)
        server = BackgroundServer(api.app, api.fabric)
        server.start()
        opened.callback(server.stop)
        yield Served(api, port, opened)


def has_ipv6() -> bool:
    """Whether this machine has IPv6's loopback."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
@pytest.mark.parametrize(
    ("listen", "reached"),
    [
        ("[::]", {"127.0.0.1": True, "::1": True}),
        ("0.0.0.0", {"127.0.0.1": True, "::1": False}),  # noqa: S104 - what people write
        ("[::1]", {"127.0.0.1": False, "::1": True}),
        ("127.0.0.1", {"127.0.0.1": True, "::1": False}),
    ],
)
def test_every_address_is_ipv4_too(
    make_api: Any, tmp_path: Path, listen: str, reached: dict[str, bool]
) -> None:
    """On [::] whoever has only IPv4 was refused: Alertmanager on another machine, and the image's own health
    check, by which the container was unhealthy for ever."""
    token = tmp_path / "token"
    token.write_text("a token of some length")
    with reserved_ports(1) as (port,):
        api = make_api(listen=f"{listen}:{port}", auth={"token_file": token})
        server = BackgroundServer(api.app, api.fabric)
        server.start()
        found = {}
        try:
            for address in reached:
                try:
                    with socket.create_connection((address, port), timeout=10) as connection:
                        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
                        found[address] = connection.recv(100).startswith(b"HTTP/1.1 200 ")
                except ConnectionRefusedError:
                    found[address] = False
        finally:
            server.stop()
    assert found == reached


@pytest.fixture
def served(make_api: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """A server that holds few connections."""
    monkeypatch.setattr(app, "CONNECTIONS", ALLOWED)
    with serving(make_api, max_body_bytes=LARGEST) as served:
        yield served


def request(method: bytes, path: bytes, body: bytes) -> bytes:
    """A request as it is sent."""
    return b"%b %b HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n%b" % (
        method,
        path,
        len(body),
        body,
    )


@pytest.mark.parametrize(
    "sent", [b"", b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nX: "], ids=["idle", "half"]
)
def test_connections_that_wait_for_nothing_shut_nobody_out(served: Served, sent: bytes) -> None:
    """More of them than are held: a notification is taken and the kill switch works, on new connections."""
    for _ in range(3 * ALLOWED):
        served.connect(sent)
    answer = served.connect(request(b"POST", b"/api/v1/alerts", BODY)).recv(100)
    assert answer.startswith(b"HTTP/1.1 202 ")
    answer = served.connect(request(b"PUT", b"/api/v1/mode", PAUSE)).recv(100)
    assert answer.startswith(b"HTTP/1.1 200 ")


def test_who_waits_for_an_answer_gets_it(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others that come meanwhile do not take the place of a request in hand, though it came first."""
    put, arrived, may_go_on = served.api.store.inbox.put, threading.Event(), threading.Event()

    def slowly(body: bytes, received_at: float) -> None:
        arrived.set()
        assert may_go_on.wait(30)
        put(body, received_at)

    monkeypatch.setattr(served.api.store.inbox, "put", slowly)
    waiting = served.connect(request(b"POST", b"/api/v1/alerts", BODY))
    assert arrived.wait(10)
    for _ in range(3 * ALLOWED):
        served.connect()
    assert served.connect(request(b"GET", b"/healthz", b"")).recv(100).startswith(b"HTTP/1.1 200 ")
    may_go_on.set()
    assert waiting.recv(100).startswith(b"HTTP/1.1 202 ")


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (b"GET /healthz HTTP/1.1\r\nno header\r\n\r\n", 400),
        (b"POST /api/v1/alerts HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % (3 * LARGEST), 413),
        (b"GET /healthz HTTP/1.1\r\nX: %b\r\n\r\n" % (b"x" * 20_000), 431),
        (b"GET /healthz HTTP/1.1\r\nTransfer-Encoding: rot13\r\n\r\n", 501),
    ],
)
def test_what_never_reaches_the_application_is_refused_as_by_it(
    served: Served, sent: bytes, code: int
) -> None:
    """A program that reads problem documents reads these too."""
    answer = HTTPResponse(served.connect(sent))
    answer.begin()
    document = json.loads(answer.read())
    assert (answer.status, answer.headers["Content-Type"]) == (code, "application/problem+json")
    assert (document["status"], document["title"]) == (code, answer.reason)
    assert document["detail"]


def test_bodies_on_their_way_have_a_limit_together(served: Served) -> None:
    """The largest go first, before anybody is known; a small one that has begun arrives."""
    notification = request(b"POST", b"/api/v1/alerts", BODY)
    small = served.connect(notification[:-100])
    large = request(b"POST", b"/api/v1/alerts", b" " * (2 * LARGEST - 1))[:-1]
    flood = [served.connect(large) for _ in range(2 * app.BODIES)]
    while len(flood) > app.BODIES:
        closed, _, _ = select.select(flood, [], [], 10)
        assert closed
        flood = [each for each in flood if each not in closed]
    small.sendall(notification[-100:])
    assert small.recv(100).startswith(b"HTTP/1.1 202 ")


def test_a_large_notification_needs_no_room_for_temporary_files(
    make_api: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Their folder is full, or read-only: those of a storm are the large ones."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "away"))
    with serving(make_api) as served:
        padded = BODY + b" " * (served.api.fabric.settings.max_body_bytes - len(BODY))
        answer = served.connect(request(b"POST", b"/api/v1/alerts", padded)).recv(100)
    assert answer.startswith(b"HTTP/1.1 202 ")
