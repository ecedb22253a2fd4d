"""Starts the sample services and restarts them, when asked, exactly once.

This is the platform's side of the demo: what systemd, a process manager or an orchestrator's API is
elsewhere. Left to itself it does nothing: a service that exited stays down, so that whatever comes back was
brought back by the fabric. And it keeps its own count of restarts. What the fabric believes that it did is
no evidence; this count is.

The healer may lose the answer to its request and ask again. A restart is therefore keyed by
`Idempotency-Key`: the same key twice is one restart, and the second request waits for the first one's
answer. Every process is started and ended by one long-lived thread: the kernel ends tethered children with
the thread that started them, not with the process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote

from shf_demo.errors import DemoError
from shf_demo.fleet import SampleService
from shf_demo.ports import reserved_ports

_START_DEADLINE = 15.0  # seconds for a service to answer its health check; it needs 0.2 on an idle core
_STOP_GRACE = 2.0  # seconds between SIGTERM and SIGKILL
_HEALTH_TIMEOUT = 2.0  # seconds

# From the port of each service to the further arguments that services are started with.
Wiring = Callable[[Mapping[str, int]], Mapping[str, Sequence[str]]]


@dataclass(frozen=True)
class _Run:
    """One life of a service's process. Replaced as a whole, so that a reader never sees half a restart."""

    process: subprocess.Popen[bytes]
    started_at: str
    restarts: int


@dataclass(frozen=True)
class ServiceState:
    name: str
    pid: int
    started_at: str
    restarts: int
    port: int
    running: bool


class _Child:
    """One service and its present process. Only the supervisor's one thread starts and ends it."""

    def __init__(self, service: SampleService, port: int, log: Path, arguments: Sequence[str]) -> None:
        self.service = service
        self.port = port
        self._arguments = arguments
        self._log = log
        self.run = self._spawn(restarts=0)

    def wait_healthy(self) -> None:
        self._wait_until(lambda: is_healthy(self.port, self.service.health_path))

    def _wait_until(self, answers: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _START_DEADLINE
        while not answers():
            if self.run.process.poll() is not None or time.monotonic() > deadline:
                raise DemoError(f"{self.service.name} does not answer after its start; see {self._log}")
            time.sleep(0.02)

    def restart(self) -> ServiceState:
        end_process(self.run.process, _STOP_GRACE)
        self.run = self._spawn(self.run.restarts + 1)
        self.wait_healthy()
        return self.state()

    def replace(self) -> ServiceState:
        before, self.run = self.run, self._spawn(self.run.restarts + 1)
        self._wait_until(lambda: instance_of(self.port, self.service.health_path) == self.run.process.pid)
        end_process(before.process, _STOP_GRACE)
        return self.state()

    def state(self) -> ServiceState:
        run = self.run
        running = run.process.poll() is None
        return ServiceState(
            self.service.name, run.process.pid, run.started_at, run.restarts, self.port, running
        )

    def _spawn(self, restarts: int) -> _Run:
        command = [sys.executable, "-m", self.service.module, "--name", self.service.name]
        command += ["--port", str(self.port), "--health-path", self.service.health_path]
        command += ["--parent", str(os.getpid()), *self._arguments]
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        return _Run(process, datetime.now(UTC).isoformat(), restarts)


class Supervisor:
    """`with Supervisor(FLEET, directory) as supervisor:` runs the services; leaving ends all of them.

    `wiring` is told the port of every service before the first one starts.
    """

    def __init__(
        self, services: Sequence[SampleService], log_directory: Path, wiring: Wiring | None = None
    ) -> None:
        self._services = services
        self._wiring = wiring
        self._log_directory = log_directory
        self._processes = ThreadPoolExecutor(max_workers=1, thread_name_prefix="supervisor")
        self._children: dict[str, _Child] = {}
        self._ports = ExitStack()
        self._orders: dict[tuple[str, str], Future[ServiceState]] = {}
        self._orders_lock = threading.Lock()
        self._stopping = False
        self._server = _ApiServer(self)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, name="supervisor-api", daemon=True).start()
        try:
            ports = self._ports.enter_context(reserved_ports(len(self._services)))
            self._processes.submit(self._start_all, ports).result()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        self._stopping = True
        self._server.shutdown()
        self._server.server_close()
        self._processes.submit(self._end_all).result()
        self._processes.shutdown()
        self._ports.close()

    def names(self) -> list[str]:
        return list(self._children)

    def state(self, name: str) -> ServiceState:
        """KeyError for a service that is not ours."""
        return self._children[name].state()

    def health_url(self, name: str) -> str:
        child = self._children[name]
        return f"http://127.0.0.1:{child.port}{child.service.health_path}"

    def restart(self, name: str, key: str | None = None) -> ServiceState:
        """Returns when the new process answers. The same key again returns the first restart's result."""
        if key is None:
            return self._processes.submit(self._restart, name).result()
        with self._orders_lock:
            order = self._orders.get((name, key))
            if order is None:
                order = self._orders[name, key] = self._processes.submit(self._restart, name)
        return order.result()

    def replace(self, name: str) -> ServiceState:
        """As a rolling deployment: the new process answers before the old one ends.

        Only for services that share their port with their successor and tell their `instanceId`.
        """
        return self._processes.submit(lambda: self._children[name].replace()).result()

    def _restart(self, name: str) -> ServiceState:
        if self._stopping:
            raise DemoError("the supervisor is stopping")
        return self._children[name].restart()

    def _start_all(self, ports: list[int]) -> None:
        names = [service.name for service in self._services]
        arguments = self._wiring(dict(zip(names, ports, strict=True))) if self._wiring else {}
        for service, port in zip(self._services, ports, strict=True):
            if self._stopping:
                return
            log = self._log_directory / f"{service.name}.log"
            self._children[service.name] = _Child(service, port, log, arguments.get(service.name, ()))
        for child in self._children.values():
            child.wait_healthy()

    def _end_all(self) -> None:
        for child in self._children.values():
            child.run.process.terminate()
        for child in self._children.values():
            end_process(child.run.process, _STOP_GRACE)


class _ApiServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, supervisor: Supervisor) -> None:
        super().__init__(("127.0.0.1", 0), _ApiHandler)
        self.supervisor = supervisor


class _ApiHandler(BaseHTTPRequestHandler):
    """GET /services, GET /services/NAME, POST /services/NAME/restart."""

    server: _ApiServer
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body leave in one write
    timeout = 60  # seconds an idle connection is kept

    def do_GET(self) -> None:
        supervisor = self.server.supervisor
        match self._parts():
            case ["services"]:
                states = [asdict(supervisor.state(name)) for name in supervisor.names()]
                self._answer(200, {"services": states})
            case ["services", name] if name in supervisor.names():
                self._answer(200, asdict(supervisor.state(name)))
            case _:
                self._answer(404, {"error": "not found"})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        supervisor = self.server.supervisor
        match self._parts():
            case ["services", name, "restart"] if name in supervisor.names():
                try:
                    state = supervisor.restart(name, self.headers.get("Idempotency-Key"))
                except DemoError as error:
                    self._answer(500, {"error": str(error)})
                else:
                    self._answer(200, asdict(state))
            case _:
                self._answer(404, {"error": "not found"})

    def _parts(self) -> list[str]:
        return [unquote(part) for part in self.path.strip("/").split("/")]

    def _answer(self, code: int, content: Mapping[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """The terminal belongs to the demo's story."""


def is_healthy(port: int, path: str) -> bool:
    return _asked(port, path)[0] == 200


def instance_of(port: int, path: str) -> int | None:
    """The process that answered the health check, when it tells."""
    _, body = _asked(port, path)
    try:
        return int(json.loads(body)["instanceId"])
    except (ValueError, KeyError, TypeError):
        return None


def _asked(port: int, path: str) -> tuple[int, bytes]:
    """Status and body; 0 without an answer."""
    connection = HTTPConnection("127.0.0.1", port, timeout=_HEALTH_TIMEOUT)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, HTTPException):
        return 0, b""
    finally:
        connection.close()


def end_process(process: subprocess.Popen[bytes], grace: float) -> None:
    """SIGTERM, and SIGKILL for what is still there after `grace` seconds. Reaps it in any case."""
    process.terminate()
    try:
        process.wait(grace)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
