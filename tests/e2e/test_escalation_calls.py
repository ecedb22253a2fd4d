"""Two replicas of the fabric on PostgreSQL call level after level; one is killed while it calls.

Everything is counted at the receiver: how often it was called, under which key, and how late.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from served_fabric import ServedFabric, served_fabric
from sqlalchemy import create_engine, text

from shf_demo.ports import reserved_ports

pytestmark = pytest.mark.e2e

DEADLINE = 4.0  # seconds of every level
IN_TIME = 5.0  # seconds after its due time within which a level is called
PATIENCE = 90.0  # seconds, for busy machines


class Guardians:
    """The endpoint of all guardians: notes what it hears, and kills who calls for one level."""

    def __init__(self, store: str) -> None:
        self.heard: dict[int, list[tuple[float, str]]] = defaultdict(list)  # level: at, key
        self.kill_at: int | None = None
        self.killed: int | None = None  # the process
        self._store = store
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if outer.note(body["level"], self.headers["Idempotency-Key"]):
                    return  # nobody is left to be answered
                self.send_response(204)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                """Nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self._thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def note(self, level: int, key: str) -> bool:
        """A call has arrived; whether its caller was killed for it."""
        with self._lock:
            self.heard[level].append((time.time(), key))
            if level != self.kill_at or self.killed is not None:
                return False
            self.killed = self._caller(key)
            os.kill(self.killed, signal.SIGKILL)
            return True

    def _caller(self, key: str) -> int:
        """The process that sends a message, as its lease says."""
        engine = create_engine(self._store)
        with engine.connect() as connection:
            query = text("SELECT lease_owner FROM calls WHERE message = :key")
            owner = connection.execute(query, {"key": key}).scalar_one()
        engine.dispose()
        return int(str(owner).split("/")[1])

    def close(self) -> None:
        """End the server."""
        self.server.shutdown()
        self._thread.join()
        self.server.server_close()


@pytest.fixture
def guardians(postgresql_url: str) -> Iterator[Guardians]:
    """Their endpoint."""
    running = Guardians(postgresql_url)
    yield running
    running.close()


@pytest.fixture
def replicas(postgresql_url: str, guardians: Guardians, tmp_path: Path) -> Iterator[list[ServedFabric]]:
    """Two, whose Prometheus is away: the levels must not wait for it."""
    (tmp_path / "secret").write_text("0123456789abcdef")
    names = [f"guardian-{level}" for level in range(1, 5)]
    levels = [
        {"name": f"l{n}", "call": names[n - 1 : n] if n else [], "deadline": DEADLINE} for n in range(5)
    ]
    guardian = {"url": guardians.url, "secret_file": str(tmp_path / "secret"), "timeout": "2s"}
    with ExitStack() as stack:
        (nobody,) = stack.enter_context(reserved_ports(1))
        settings = {
            "store": postgresql_url,
            "prometheus": {"url": f"http://127.0.0.1:{nobody}", "timeout": "1s"},
            "services": {"cart": {}},
            "escalation": {"levels": levels, "channels": {name: {"guardian": guardian} for name in names}},
        }
        running = []
        for number in range(2):
            folder = tmp_path / str(number)
            folder.mkdir()
            running.append(stack.enter_context(served_fabric(folder, **settings)))
        yield running


def open_incident(fabric: ServedFabric) -> None:
    """The service's heartbeat is missed."""
    alert = {
        "status": "firing", "fingerprint": "f", "startsAt": "2026-01-01T00:00:00Z",
        "endsAt": "0001-01-01T00:00:00Z",
        "generatorURL": "", "annotations": {},
        "labels": {"alertname": "Missed", "service": "cart", "signal": "heartbeat", "severity": "critical"},
    }  # fmt: skip
    body = {
        "version": "4", "groupKey": "g", "truncatedAlerts": 0, "status": "firing", "receiver": "r",
        "groupLabels": {}, "commonLabels": {}, "commonAnnotations": {}, "externalURL": "", "alerts": [alert],
    }  # fmt: skip
    fabric.http.post("/api/v1/alerts", json=body).raise_for_status()


def due_times(fabric: ServedFabric) -> dict[int, float]:
    """When each level was due, from when the one before it was called."""
    (row,) = fabric.incidents()
    story = fabric.http.get(f"/api/v1/incidents/{row['id']}").raise_for_status().json()
    risen = {0: datetime.fromisoformat(row["opened_at"]).timestamp()}
    for entry in story["timeline"]:
        if entry["kind"] == "escalation":
            risen[entry["data"]["level"]] = datetime.fromisoformat(entry["at"]).timestamp()
    return {level + 1: at + DEADLINE for level, at in risen.items() if level < 4}


def test_two_replicas_call_each_level_once_and_in_time(
    replicas: list[ServedFabric], guardians: Guardians
) -> None:
    """Also when the caller is killed before it has the answer: the other one calls again, by the same key."""
    kill_at = guardians.kill_at = 2
    open_incident(replicas[0])
    end = time.monotonic() + PATIENCE
    while not guardians.heard[4]:
        assert time.monotonic() < end, dict(guardians.heard)
        time.sleep(0.1)
    time.sleep(2 * DEADLINE)  # whatever is called twice is called by then
    alive = next(each for each in replicas if each.process.pid != guardians.killed)
    due = due_times(alive)
    for level in range(1, 5):
        calls = guardians.heard[level]
        assert len({key for _, key in calls}) == 1, level
        assert len(calls) == (2 if level == kill_at else 1), level
        assert all(0 <= at - due[level] <= IN_TIME for at, _ in calls), (level, due[level], calls)
    late = {level: f"{guardians.heard[level][-1][0] - due[level]:.2f} s" for level in due}
    print("\nlate:", late)


def test_the_answer_stops_the_clock_of_all_replicas(
    replicas: list[ServedFabric], guardians: Guardians
) -> None:
    """Acknowledged at one replica, no further level is called by the other one."""
    open_incident(replicas[0])
    end = time.monotonic() + PATIENCE
    while not guardians.heard[1]:
        assert time.monotonic() < end
        time.sleep(0.05)
    (row,) = replicas[1].incidents()
    answer = httpx.post(
        f"{replicas[1].url}/api/v1/incidents/{row['id']}/acknowledge", json={"by": "ada"}, trust_env=False
    )
    answer.raise_for_status()
    time.sleep(DEADLINE + IN_TIME)
    assert {level: len(calls) for level, calls in guardians.heard.items() if calls} == {1: 1}
