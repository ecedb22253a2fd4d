"""Replicas that keep to the contract of docs/state-repair.md, on real sockets, and break it when told to.

Everything is counted here, at the target. Run as a program it serves several replicas in one process:

    python tests/state_replica.py '{"a": 8001, "b": 8002}'
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

VERSION_HEADER = "State-Version"
DRIPS = 60  # bytes, 50 ms each


@dataclass(frozen=True)
class Put:
    """One order to replace the state that arrived whole."""

    key: str | None
    if_match: str | None
    status: int


@dataclass
class StateReplica:
    """One replica: its state, and how it misbehaves.

    Attributes:
        says: the digest that it tells, whatever it holds; None for the true one.
        on_read, on_put: called before it answers a GET of the state, before it looks at a PUT.
        answer: what it answers to a PUT instead, having done it.
        deaf: it answers 200 to a PUT and keeps what it had.
        drips: it sends the beginning of its answers byte by byte.
        packs: it says that its answers are packed.
        away: how many reads it does not answer once it got a PUT, for it restarts itself.
    """

    name: str
    state: bytes = b"state"
    version: int = 7
    port: int = 0
    says: str | None = None
    answer: int | None = None
    deaf: bool = False
    drips: bool = False
    packs: bool = False
    away: int = 0
    on_claim: Callable[[], object] = lambda: None
    on_read: Callable[[], None] = lambda: None
    on_put: Callable[[], None] = lambda: None
    puts: list[Put] = field(default_factory=list)
    tokens: list[str | None] = field(default_factory=list)
    lock: Any = field(default_factory=threading.Lock)

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.state).hexdigest()

    @property
    def told(self) -> str:
        return self.says or self.digest

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/state"

    def __enter__(self) -> Self:
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), _handler_of(self))
        self._server.daemon_threads = True
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.vanish()

    def vanish(self) -> None:
        """Nobody listens any more."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()

    def replace(self, data: bytes, headers: Mapping[str, str]) -> int:
        """What a PUT does: all of it, or nothing."""
        with self.lock:
            matches = headers.get("If-Match") == f'"{self.digest}"'
            if matches and not self.deaf:
                self.state, self.version = data, int(headers[VERSION_HEADER])
            status = self.answer or (204 if matches else 412)
            self.puts.append(Put(headers.get("Idempotency-Key"), headers.get("If-Match"), status))
            return status


def _handler_of(replica: StateReplica) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            replica.tokens.append(self.headers.get("Authorization"))
            if self.path == "/state/digest":
                replica.on_claim()
                claim = {"algorithm": "sha256", "digest": replica.told, "version": replica.version}
                self._answer(200, json.dumps(claim).encode())
            elif self.path == "/state" and replica.puts and replica.away:
                replica.away -= 1
                self._answer(503, b"")
            elif self.path == "/state":
                replica.on_read()
                with replica.lock:
                    told = {"ETag": f'"{replica.told}"', VERSION_HEADER: str(replica.version)}
                    self._answer(200, replica.state, **told)
            elif self.path == "/metrics":
                labels = f'replica="{replica.name}",digest="{replica.told[:12]}",version="{replica.version}"'
                self._answer(200, f"shf_state_digest_info{{{labels}}} 1\n".encode())
            else:
                self._answer(404, b"")

        def do_PUT(self) -> None:
            length = int(self.headers["Content-Length"])
            data = self.rfile.read(length)
            if len(data) != length:
                return  # cut off in the middle: nothing happens
            replica.on_put()
            self._answer(replica.replace(data, self.headers), b"")

        def do_POST(self) -> None:
            """/damage: for tests, from outside."""
            replica.state = self.rfile.read(int(self.headers["Content-Length"]))
            self._answer(200, b"")

        def _answer(self, status: int, body: bytes, **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            if replica.packs:
                self.send_header("Content-Encoding", "gzip")
            if status != 204:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with contextlib.suppress(OSError):  # nobody has to listen to the end
                for byte in body[:DRIPS] if replica.drips else b"":
                    self.wfile.write(bytes([byte]))
                    time.sleep(0.05)
                if status != 204:
                    self.wfile.write(body[DRIPS:] if replica.drips else body)

        def log_message(self, *_: Any) -> None: ...

    return Handler


def main() -> None:
    """Serve until the process is ended."""
    replicas = [StateReplica(name, port=port) for name, port in json.loads(sys.argv[1]).items()]
    for replica in replicas:
        replica.__enter__()
    threading.Event().wait()


if __name__ == "__main__":
    main()
