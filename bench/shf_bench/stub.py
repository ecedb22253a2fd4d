"""A Prometheus that answers at once, and restart URLs that count, in one small process.

Its own time would be measured as the fabric's, so it is one thread around raw sockets that answers in
microseconds. As a Prometheus it knows the time and no series, and remembers when each service was first asked
about; as the target of restarts it counts them by service and by `Idempotency-Key`, and sets the service's
byte in a shared file, so that who plays Prometheus elsewhere knows of it without asking.
"""

from __future__ import annotations

import json
import mmap
import re
import selectors
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from shf_bench import processes

_EMPTY = b'{"status":"success","data":{"resultType":"vector","result":[]}}'
_NO_ALERTS = b'{"status":"success","data":{"alerts":[]}}'
# The first question of a diagnosis names the service in a regular expression, here as it stands in a URL.
_SERVICE_ASKED = re.compile(rb"service%3D~%22(s\d+)%22")
_TIME_ASKED = b"query=vector%28time%28%29%29"
_RESTART = re.compile(rb"POST /restart/(s(\d+)) ")
_KEY = re.compile(rb"(?i)\r\nidempotency-key: *([^\r]+)")
_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")


class Stub:
    """`with Stub(folder) as stub:` runs it; `stub.url` leads to it."""

    def __init__(self, folder: Path, services: int = 0) -> None:
        self.flags = folder / "restarted"
        self.flags.write_bytes(bytes(max(services, 1)))

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(  # noqa: S603 - all of it is ours
            processes.module("stub", str(self.flags)),
            stdout=subprocess.PIPE,
            text=True,
            env=processes.environment(),
        )
        assert self._process.stdout is not None  # noqa: S101 - for mypy
        self.url = f"http://127.0.0.1:{int(self._process.stdout.readline())}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.communicate()

    def seen(self) -> dict[str, Any]:
        """`asked`: when each service was first asked about; `restarts` of each; `keys`: how many."""
        with urllib.request.urlopen(f"{self.url}/seen", timeout=10) as answer:  # noqa: S310 - our own
            return dict(json.load(answer))


def serve(listener: socket.socket, flags: Path) -> None:
    """Answer until the process is ended."""
    asked: dict[str, float] = {}
    restarts: Counter[str] = Counter()
    keys: set[bytes] = set()
    buffers: dict[socket.socket, bytes] = {}
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    with flags.open("r+b") as file:
        restarted = mmap.mmap(file.fileno(), 0)

    def answer(request: bytes) -> bytes:
        if request.startswith((b"GET /api/v1/query", b"POST /api/v1/query")):
            if found := _SERVICE_ASKED.search(request):
                asked.setdefault(found[1].decode(), time.time())
            return _time() if _TIME_ASKED in request else _EMPTY
        if found := _RESTART.match(request):
            key = _KEY.search(request)
            keys.add(key[1] if key else b"")
            restarts[found[1].decode()] += 1
            restarted[int(found[2])] = 1
            return b"{}"
        if request.startswith(b"GET /seen"):
            return json.dumps({"asked": asked, "restarts": restarts, "keys": len(keys)}).encode()
        return _NO_ALERTS

    while True:
        for key, _ in selector.select():
            connection = key.fileobj
            assert isinstance(connection, socket.socket)  # noqa: S101 - for mypy
            if connection is listener:
                connection, _ = listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                selector.register(connection, selectors.EVENT_READ)
                buffers[connection] = b""
                continue
            try:
                data = connection.recv(65536)
            except ConnectionError:
                data = b""
            if not data:
                selector.unregister(connection)
                connection.close()
                del buffers[connection]
                continue
            buffers[connection] += data
            while (request := _complete(buffers[connection])) is not None:
                buffers[connection] = buffers[connection][len(request) :]
                body = answer(request)
                head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
                connection.sendall(head % len(body) + body)


def _time() -> bytes:
    now = time.time()
    result = [{"metric": {}, "value": [now, str(now)]}]
    return json.dumps({"status": "success", "data": {"resultType": "vector", "result": result}}).encode()


def _complete(data: bytes) -> bytes | None:
    """The first request, when all of it is there."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    length = _LENGTH.search(data[:end])
    whole = end + 4 + (int(length[1]) if length else 0)
    return data[:whole] if len(data) >= whole else None


if __name__ == "__main__":
    listening = socket.create_server(("127.0.0.1", 0), backlog=256)
    sys.stdout.write(f"{listening.getsockname()[1]}\n")
    sys.stdout.flush()
    serve(listening, Path(sys.argv[1]))
