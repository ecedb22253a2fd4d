"""What the examples of the documentation act on: one server that plays cart, db and the others.

On port 8080 it answers health checks, takes restarts, and has a configuration that differs from the wanted
one. It runs inside the sandbox of `test_documented_commands`.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

PORT = 8080
CONFIGURATION = b"pool:\n  size: 20\ndatabase:\n  password: changed-by-hand\n"


class _Handler(BaseHTTPRequestHandler):
    restarts: ClassVar[Counter[str]] = Counter()
    started = time.time()
    lock = threading.Lock()

    def do_GET(self) -> None:
        if self.path == "/metrics":
            self._answer(b"", "text/plain")
        elif self.path.endswith("/config"):
            self._answer(CONFIGURATION, "application/yaml")
        elif self.path.endswith("/restarts"):
            self._answer(json.dumps(self.restarts).encode(), "application/json")
        elif self.path.endswith("/started"):
            self._answer(json.dumps({"started_at": self.started}).encode(), "application/json")
        else:
            self._answer(b'{"status": "ok"}', "application/json")

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with self.lock:
            self.restarts[self.path] += 1
        self._answer(b"{}", "application/json")

    def _answer(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"1"')
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", PORT), _Handler).serve_forever()
