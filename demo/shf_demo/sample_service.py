"""One sample service: one process, real HTTP, and faults that are real.

A fault that only pretends, by exporting a prepared number, would prove the rules and nothing else. Here a
hang leaves connections unanswered, a memory fault really fills the process's address space, a CPU fault
really burns a core, and Prometheus sees it through the standard metrics that any service of any language
has. What is then repaired is this process, and a restart cures it for the same reason that it cures real
ones: the state is gone.

Fourteen of these share two cores with the servers, so it is the standard library's HTTP server and little
else. What it took to stay honest at that price: one malloc arena and small thread stacks, because glibc
reserves 64 MiB of address space for each arena and would reach the memory limit without any fault; the
answer in one write and no Nagle delay, because 40 ms of delayed ACK would drown the latency being measured;
error series present at 0 from the start, because a counter born at 500 has no increase.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from shf_demo.tether import die_with

MEMORY_LIMIT = 512 * 1024 * 1024  # bytes of address space, set with RLIMIT_AS
MEMORY_FAULT_SHARE = 0.97  # of that limit; the rest keeps the service alive and answering
_MEMORY_STEP = 16 * 1024 * 1024  # bytes
_THREAD_STACK = 256 * 1024  # bytes; by default each connection's thread takes 8 MiB of address space
_BURNERS = 2  # threads
_BURN_NICENESS = -10
_BURN_ACCOUNT = 10.0  # seconds after which what could not be burnt is forgotten
_BUCKETS = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)  # seconds


class Faults:
    """The switch: what is wrong with this process, until it is restarted."""

    def __init__(self) -> None:
        self.error_share = 0.0
        self.extra_delay = 0.0  # seconds
        self._hung = False
        self._kinds: dict[str, Callable[[dict[str, Any]], None]] = {
            "hang": self._hang,
            "errors": self._errors,
            "latency": self._latency,
            "cpu": lambda _: _in_background(*[_burn_cpu] * _BURNERS),
            "memory": lambda _: _in_background(_grow_memory),
            "exit": lambda _: threading.Timer(0.05, os._exit, [1]).start(),  # seconds: lets the answer out
        }

    def inject(self, order: Any) -> None:
        """ValueError or TypeError says what is wrong with the order."""
        kind = order.get("kind") if isinstance(order, dict) else None
        if kind not in self._kinds:
            raise ValueError(f"kind must be one of {', '.join(self._kinds)}, not {kind!r}")
        self._kinds[kind](order)

    def block_if_hung(self) -> None:
        if self._hung:
            threading.Event().wait()

    def _hang(self, _: dict[str, Any]) -> None:
        self._hung = True

    def _errors(self, order: dict[str, Any]) -> None:
        self.error_share = float(order.get("share", 0.5))

    def _latency(self, order: dict[str, Any]) -> None:
        self.extra_delay = float(order.get("delay", 0.4))


def _in_background(*tasks: Callable[[], None]) -> None:
    for task in tasks:
        threading.Thread(target=task, daemon=True).start()


def _burn_cpu() -> None:
    """Burns CPU until this process has used one core's worth, and no more.

    Several threads share that, or a busy machine would give the fault half a core. They burn in C without the
    interpreter lock, so that the service answers beside them.
    """
    import hashlib

    _take_precedence()
    while True:
        begin, burnt = time.monotonic(), time.process_time()
        while (elapsed := time.monotonic() - begin) < _BURN_ACCOUNT:
            if time.process_time() - burnt < elapsed:
                hashlib.pbkdf2_hmac("sha256", b"burn", b"burn", 20_000)
            else:
                time.sleep(0.005)


def _take_precedence() -> None:
    """As root the fault gets its core on a busy machine too; without the right to, it takes what it can get.

    Linux's automatic groups hide a thread's niceness from other sessions, so the session's is set as well.
    """
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, _BURN_NICENESS)
    if os.getsid(0) == os.getpid():  # never the session of a reader's shell
        with suppress(OSError), open("/proc/self/autogroup", "w") as group:  # noqa: PTH123  # as below
            group.write(str(_BURN_NICENESS))


def _grow_memory() -> None:
    """Fills the address space, not the machine: untouched pages cost the reader's computer nothing."""
    import mmap

    kept = []
    while _virtual_memory() < MEMORY_FAULT_SHARE * MEMORY_LIMIT:
        missing = int(MEMORY_FAULT_SHARE * MEMORY_LIMIT) - _virtual_memory()
        kept.append(mmap.mmap(-1, min(_MEMORY_STEP, missing + mmap.PAGESIZE)))
        time.sleep(0.05)
    threading.Event().wait()  # holds on to it


def _virtual_memory() -> int:
    with open("/proc/self/statm") as statm:  # noqa: PTH123  # pathlib is an import that the service needs nowhere else
        return int(statm.read().split()[0]) * resource.getpagesize()


class _MemoryLimit(Collector):
    """The one standard process metric that the Python client leaves out."""

    def collect(self) -> Iterator[GaugeMetricFamily]:
        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        yield GaugeMetricFamily(
            "process_virtual_memory_max_bytes",
            "Maximum amount of virtual memory available in bytes.",
            value=-1 if limit == resource.RLIM_INFINITY else limit,
        )


class SampleServer(ThreadingHTTPServer):
    request_queue_size = 128  # a hung service goes on accepting: in the kernel
    daemon_threads = True

    def __init__(
        self, name: str, port: int, health_path: str, handler: type[SampleHandler] | None = None
    ) -> None:
        super().__init__(("127.0.0.1", port), handler or SampleHandler)
        self.name = name
        self.health_path = health_path
        self.faults = Faults()
        self.durations = Histogram(
            "http_request_duration_seconds",
            "Duration of HTTP requests in seconds.",
            ["method", "path", "code"],
            buckets=_BUCKETS,
        )
        for code in ("200", "500"):
            self.durations.labels("GET", "/work", code)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.faults.block_if_hung()
        super().process_request(request, client_address)


class SampleHandler(BaseHTTPRequestHandler):
    server: SampleServer
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body leave in one write
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self.server.faults.block_if_hung()
        if self.path == "/work":
            self._work()
        elif self.path == "/metrics":
            self._answer(200, generate_latest(REGISTRY), CONTENT_TYPE_LATEST)
        elif self.path == self.server.health_path:
            self._answer_json(200, self.health())
        else:
            self._answer_json(404, {"error": "not found"})

    def do_POST(self) -> None:
        self.server.faults.block_if_hung()
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path != "/fault":
            self._answer_json(404, {"error": "not found"})
            return
        try:
            order = json.loads(body)
            self.server.faults.inject(order)
        except (ValueError, TypeError) as error:
            self._answer_json(400, {"error": str(error)})
        else:
            self._answer_json(202, {"service": self.server.name, "fault": order["kind"]})

    def _work(self) -> None:
        begin = time.perf_counter()
        code, content = self.work()
        self._answer_json(code, content)
        self.server.durations.labels("GET", "/work", str(code)).observe(time.perf_counter() - begin)

    def health(self) -> dict[str, Any]:
        """The body of the health check."""
        return {"status": "ok", "service": self.server.name}

    def work(self) -> tuple[int, dict[str, Any]]:
        """One request of a user: the status code and the body of its answer."""
        faults = self.server.faults
        time.sleep(random.uniform(0.002, 0.006) + faults.extra_delay)
        return 500 if random.random() < faults.error_share else 200, {"sum": sum(range(1000))}

    def _answer_json(self, code: int, content: dict[str, Any]) -> None:
        self._answer(code, json.dumps(content).encode(), "application/json")

    def _answer(self, code: int, body: bytes, content_type: str) -> None:
        self.send_response(code)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Eighty lines a second would bury the one that matters."""


def _limit_memory() -> None:
    threading.stack_size(_THREAD_STACK)
    if sys.platform == "linux":
        import ctypes

        m_arena_max = -8  # malloc.h; an environment variable would be too late
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):  # musl has neither arenas nor this
            libc.mallopt(m_arena_max, 1)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))


def options_parser() -> argparse.ArgumentParser:
    """What the supervisor tells every service."""
    parser = argparse.ArgumentParser(description="One sample service of the demo, on 127.0.0.1.")
    parser.add_argument("--name", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--health-path", default="/health")
    parser.add_argument("--parent", type=int, help="pid of the starting process, to end with it")
    return parser


def settle_in(parent: int | None) -> None:
    """Tie this process to its parent and limit its memory; before the server is made."""
    if parent is not None:
        die_with(parent)
    _limit_memory()
    disable_created_metrics()  # type: ignore[no-untyped-call]  # prometheus_client 0.26 left its types out
    REGISTRY.register(_MemoryLimit())


def serve(server: SampleServer) -> None:
    """Until a signal ends the process, so there is nothing to poll for."""
    server.serve_forever(poll_interval=3600)  # seconds


def main() -> None:
    options = options_parser().parse_args()
    settle_in(options.parent)
    serve(SampleServer(options.name, options.port, options.health_path))


if __name__ == "__main__":
    main()
