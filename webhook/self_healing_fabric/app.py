"""The Flask application around a fabric, and the server that runs it.

Flask's own server is for development. waitress runs the application in a handful of threads and lets requests
in flight finish when its loop ends; it ends by an exception, so SIGTERM becomes `SystemExit`.

Alertmanager keeps a thousand connections open after a storm, and a pair of them twice as many. `select` ends
the process at 1,024 open files, which is also how many a process may have by default on most systems; so the
loop uses `poll`, and the limit is raised as far as it goes.

A connection needs no credentials, and waitress takes no more of them when there are enough: whoever holds
those, idle or sending a byte now and then, would shut out Alertmanager, the probes, and the person who wants
to pause it all; and whoever sends large bodies on all of them would fill the memory. So there is always room
for the next one, at the cost of the longest silent one, or of the largest.
"""

from __future__ import annotations

import contextlib
import gc
import heapq
import json
import os
import resource
import signal
import socket
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

import structlog
import waitress
from flask import Flask, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from waitress import wasyncore
from waitress.channel import HTTPChannel
from waitress.server import BaseWSGIServer
from waitress.task import ErrorTask

from self_healing_fabric.api import (
    alerts,
    approvals,
    auth,
    control,
    discovery,
    heartbeats,
    incidents,
    openapi,
    pages,
    problems,
    strategies,
)
from self_healing_fabric.api.contract import Contract, contract
from self_healing_fabric.api.problems import problem
from self_healing_fabric.errors import ShfError, UsageError
from self_healing_fabric.integration.lifecycle import Fabric
from self_healing_fabric.integration.status import StateCollector
from self_healing_fabric.settings import CpuAffinity, is_loopback, split_listen
from self_healing_fabric.store import statements

log = structlog.get_logger()

THREADS = 32  # requests at a time; they mostly wait for the store's commit, which is one for all that wait
SWITCH_INTERVAL = 0.0005  # seconds; Python's own 5 ms, times the busy workers, is what a request would wait
_PROCESSOR = 36  # in /proc/self/stat, counted from the state on: see proc_pid_stat(5)
CONNECTIONS = 2000  # Alertmanager opens hundreds at once when nothing is grouped
SPARE = 0.05  # of them are kept free for who comes next
BODIES = 8  # of the largest size may be on their way; all that arrives is kept in memory
CROWD_BYTES = 100_000  # of bodies that come are a flood: what they are read for waits for them
LONGEST_TURN = 1.0  # seconds of waiting in one turn of its loop
STOP_POLL = 0.2  # seconds between two looks at whether a server in the background is to stop
EXIT_INTERRUPTED = 128 + signal.SIGINT  # as a shell tells it
FLUSHES = 10  # turns of its loop in which the last answers leave
OWN_FILES = 500  # of the store, of calls to Prometheus and to the targets
MAX_HEADERS = 16 * 1024  # bytes; Alertmanager sends a few hundred, a browser behind a proxy a few thousand


def create_app(fabric: Fabric) -> Flask:
    """Build the application; the fabric is started by the caller."""
    app = Flask("self_healing_fabric", static_folder=None)
    app.extensions["fabric"] = fabric
    app.config["MAX_CONTENT_LENGTH"] = fabric.settings.max_body_bytes
    app.before_request(lambda: pages.refusal_shown(auth.check(fabric.settings)))
    problems.register(app, pages.problem_shown)
    for part in (alerts, approvals, incidents, control, heartbeats, discovery, strategies, openapi):
        app.register_blueprint(part.blueprint)
    pages.register(app, fabric)
    fabric.context.metrics.registry.register(StateCollector(fabric))

    @app.get("/healthz")
    @auth.open_to_all
    @contract(Contract(media_type="text/plain"))
    def healthz() -> Response:
        """Alive: the process answers."""
        return Response("ok\n", mimetype="text/plain")

    @app.get("/readyz")
    @auth.open_to_all
    @contract(Contract(media_type="text/plain", problems=(503,)))
    def readyz() -> Response:
        """Ready: takes notifications and works on them."""
        if fabric.draining:
            return problem(503, "shutting down")
        if not fabric.orchestrator.alive():
            return problem(503, "the orchestrator does not run")
        fabric.store.write(
            statements.try_inbox
        )  # on a full disk what only reads, or writes nothing, goes well
        return Response("ready\n", mimetype="text/plain")

    @app.get("/metrics")
    @auth.open_to_all
    @contract(Contract(media_type="text/plain"))
    def metrics() -> Response:
        """Everything in `telemetry`, and the state of the store."""
        with fabric.orchestrator.scrape():
            content = generate_latest(fabric.context.metrics.registry)
        return Response(content, content_type=CONTENT_TYPE_LATEST)

    return app


def serve(fabric: Fabric) -> None:
    """Run until SIGTERM, SIGHUP or Ctrl-C, then finish what is in hand.

    Raises:
        UsageError: it would listen beyond loopback without credentials.
    """
    app = create_app(fabric)
    ended_by: list[str] = []

    def end(number: int, _: FrameType | None) -> None:
        if fabric.draining:  # what is in hand is being finished already
            if number == signal.SIGINT:  # somebody at a terminal waits no longer: as after a power cut
                os._exit(EXIT_INTERRUPTED)
            return
        ended_by.append(signal.Signals(number).name)
        fabric.drain()
        sys.exit(0)

    server = _Server(app, fabric)
    tune_process(fabric.settings.cpu_affinity)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        # Who started it by `nohup` has it outlive the terminal.
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, end)
    try:
        fabric.start()
        while True:
            server.turn(LONGEST_TURN)
    finally:
        # Not by the handler: the signal may have come while a line was being written.
        told = {"again": "Ctrl-C ends it at once"} if ended_by == [signal.SIGINT.name] else {}
        log.info("stopping", signal=ended_by[0] if ended_by else None, **told)
        server.close()
        fabric.stop()


def tune_process(affinity: CpuAffinity) -> None:
    """How the threads take turns, and what the garbage collector looks at; for a process that is the fabric's
    own, when all is loaded and before anything is done.

    What is loaded lives as long as the process, and nothing else runs while the collector goes through all of
    it again and again: it is left out (`gc.freeze`; measured: docs/store.md).
    """
    gc.collect()
    gc.freeze()
    sys.setswitchinterval(SWITCH_INTERVAL)
    if affinity is CpuAffinity.ONE:
        _stay_on_one_cpu()


def _stay_on_one_cpu() -> None:
    """Keep the threads of this process on the CPU on which it runs just now, where there is a choice.

    Only one of them executes Python at a time. On several CPUs each that goes on has to be woken on another
    one, which costs more than the second CPU gives (D. Beazley, "Understanding the Python GIL", PyCon 2010;
    measured: docs/store.md). Threads that they start and programs that they run stay there too; those of
    libraries, which have no lock to wait for, may go on elsewhere.
    """
    try:
        allowed = os.sched_getaffinity(0)
        after_name = Path("/proc/self/stat").read_text("ascii", "replace").rpartition(")")[2]
        current = int(after_name.split()[_PROCESSOR])
        if len(allowed) == 1 or current not in allowed:
            return
        for thread in threading.enumerate():
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.sched_setaffinity(thread.native_id or 0, {current})
    except (AttributeError, OSError, ValueError, IndexError) as error:  # not Linux, or like it; forbidden
        log.info("on_all_cpus", reason=str(error))
    else:
        log.info("stays_on_cpu", cpu=current)


class BackgroundServer:
    """Serves a fabric from a thread, for a program that has a main thread and signals of its own.

    Raises:
        ShfError: it cannot listen where the configuration says.
        UsageError: it would listen beyond loopback without credentials.
    """

    def __init__(self, app: Flask, fabric: Fabric) -> None:
        try:
            self._server = _Server(app, fabric)
        except OSError as error:
            raise ShfError(f"cannot listen on {fabric.settings.listen}: {error.strerror or error}") from error
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Let the requests in hand finish, then close everything."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()
        else:
            self._server.close()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._server.turn(STOP_POLL)
        self._server.close()


class _Refusal(ErrorTask):  # type: ignore[misc]  # waitress ships no types
    """What waitress refuses before the application sees it is told as the application tells it."""

    def execute(self) -> None:
        """Answer, and close the connection."""
        error = self.request.error
        body = json.dumps(problems.document(error.code, error.body)).encode()
        self.status = f"{error.code} {error.reason}"
        self.response_headers.append(("Content-Type", problems.MEDIA_TYPE))
        self.set_close_on_finish()
        self.content_length = len(body)
        self.write(body)


class _Channel(HTTPChannel):  # type: ignore[misc]
    error_task_class = _Refusal


class _Server:
    """waitress, one turn of its loop after the other, with room for who comes next."""

    def __init__(self, app: Flask, fabric: Fabric) -> None:
        settings = fabric.settings
        host, port = split_listen(settings.listen)
        if not is_loopback(host) and not settings.auth.credentials():  # settings that no file was checked for
            raise UsageError(
                f"`listen` on {host} is reachable from outside: set `auth.token_file` or `auth.callers`"
            )
        self._sockets: dict[int, Any] = {}
        self._limit = _connection_limit()
        self._most_bytes = BODIES * settings.max_body_bytes
        self._unread = 0  # bytes of bodies that have not come whole
        self._orchestrator = fabric.orchestrator
        self._server = waitress.create_server(
            app,
            map=self._sockets,
            # Ours, and before its threads are started: where it cannot bind, waitress leaves both behind.
            sockets=_listening(host, port),
            threads=THREADS,
            connection_limit=self._limit,
            max_request_body_size=2 * settings.max_body_bytes,  # Flask's limit answers as the API does
            max_request_header_size=MAX_HEADERS,
            # A temporary folder that is full would cut the connections of whoever sends large notifications.
            inbuf_overflow=2 * settings.max_body_bytes,
            ident=None,
            # With the path or without: some proxies take it away, and Alertmanager calls us without one.
            url_prefix=urlsplit(settings.external_url or "").path,
        )
        for each in self._sockets.values():
            if isinstance(each, BaseWSGIServer):
                each.channel_class = _Channel

    def turn(self, timeout: float) -> None:
        """Wait so many seconds at most for something to come or to be sent, and see to it."""
        self._make_room()
        wasyncore.loop(timeout=timeout, use_poll=True, map=self._sockets, count=1)

    def close(self) -> None:
        """Let the requests in hand finish, then close everything."""
        self._server.task_dispatcher.shutdown()
        for _ in range(FLUSHES):  # what the last requests answered
            wasyncore.loop(timeout=0, use_poll=True, map=self._sockets, count=1)
        wasyncore.close_all(self._sockets)

    def _make_room(self) -> None:
        channels = [each for each in self._sockets.values() if isinstance(each, HTTPChannel)]
        idle = [each for each in channels if not each.requests]  # whoever waits for an answer, gets it
        too_many = len(self._sockets) - int(self._limit * (1 - SPARE))
        for each in heapq.nsmallest(too_many, idle, key=lambda channel: channel.last_activity):
            each.handle_close()
        bodies = {each: each.request.body_bytes_received for each in idle if each.request is not None}
        before, self._unread = self._unread, sum(bodies.values())
        if self._unread >= CROWD_BYTES and self._unread != before:  # and no connection that hangs
            self._orchestrator.crowd()
        too_much = self._unread - self._most_bytes
        for each in sorted(bodies, key=bodies.__getitem__, reverse=True) if too_much > 0 else ():
            each.handle_close()
            too_much -= bodies[each]
            if too_much <= 0:
                break


def _listening(host: str, port: int) -> list[socket.socket]:
    """A socket for each family of addresses that the host has; all or none. Raises OSError.

    `::` is every address of the machine, those of IPv4 among them, as for other servers; with a socket of
    each family, because one for both tells of 127.0.0.1 as ::ffff:127.0.0.1.
    """
    found: list[socket.socket] = []
    try:
        asked = None if host == "::" else host
        infos = socket.getaddrinfo(asked, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, address in {info[0]: info[4] for info in reversed(infos)}.items():
            found += [socket.create_server(address, family=family)]
    except OSError:
        for each in found:
            each.close()
        raise
    return found


def _connection_limit() -> int:
    """How many leave enough files for our own work; first the limit is raised where that is allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS + OWN_FILES
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return CONNECTIONS
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < wanted:
        log.warning("few_files_allowed", files=allowed, wanted=wanted)
    return min(CONNECTIONS, max(allowed - OWN_FILES, allowed // 2))
