"""The target: an HTTP server in a process of its own, which restarts things and counts what it did.

It is the only witness: it knows nothing of the fabric's records, counts every order that it carries out, also
one whose sender has died meanwhile, and carries out some of them late.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
from board import Board

from shf_demo.tether import die_with

HELD_POLL = 0.001  # seconds between two looks at the clock by an effect that is held


class TargetProcess:
    """`fork` starts it; `record` asks what it did in a story."""

    def __init__(self, board: Board) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        parent = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            die_with(parent)
            _serve(self._listener, board)
            os._exit(0)
        self._listener.close()

    def record(self, story: str) -> list[tuple[str, str]]:
        """What was done in a story, in order: the service and the Idempotency-Key of each effect."""
        answer = httpx.get(f"{self.url}/{story}/record", trust_env=False, timeout=10.0).raise_for_status()
        return [(service, key) for service, key in answer.json()]


def _serve(listener: socket.socket, board: Board) -> None:
    done: dict[str, list[tuple[str, str]]] = {}
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        """/STORY/SERVICE-NUMBER/SERVICE/{restart,started_at,health}, and /STORY/record."""

        def do_POST(self) -> None:
            story, number, service, _ = self.path.strip("/").split("/")
            index, moment = int(number), None
            while (held := board.held_until(index)) is not None:
                if board.now() >= held:
                    moment = held
                    break
                time.sleep(HELD_POLL)
            with lock:
                done.setdefault(story, []).append((service, self.headers["Idempotency-Key"]))
                board.note_effect(index, board.now() if moment is None else moment)
                board.hold(index, 0.0)
            self._answer(200, {"done": True})

        def do_GET(self) -> None:
            story, *rest = self.path.strip("/").split("/")
            if rest == ["record"]:
                with lock:
                    self._answer(200, done.get(story, []))
                return
            index, what = int(rest[0]), rest[2]
            effects = len(board.effects(index))
            if what == "started_at":
                self._answer(200, {"started_at": effects})
            else:
                self._answer(200 if effects or board.always_healthy(index) else 503, {})

        def _answer(self, status: int, content: Any) -> None:
            body = json.dumps(content).encode()
            try:
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
            except OSError:
                pass  # whoever asked is dead

        def log_message(self, *_: Any) -> None: ...

    class Server(ThreadingHTTPServer):
        daemon_threads = True

    server = Server(listener.getsockname(), Handler, bind_and_activate=False)
    server.socket.close()
    server.socket = listener
    server.serve_forever()
