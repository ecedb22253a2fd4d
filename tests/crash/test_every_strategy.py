"""SIGKILL around the effect of every strategy over HTTP: exactly one effect, counted at the target.

The matrix kills one strategy at every point of the state machine. What differs between strategies is only how
the target is asked afterwards, so here each is killed at the two moments that matter for that: after the
record of its beginning, and when the effect is done and its end is not recorded. (Restarts of containers and
effects on workloads are killed in the tests of their platforms.)
"""

from __future__ import annotations

import hashlib
import importlib
import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from one_step import INCIDENT, fabric_on, open_incident, release, step
from self_healing_fabric.orchestration import journal
from self_healing_fabric.orchestration.context import Context
from self_healing_fabric.store import statements
from state_replica import StateReplica

GOOD, BAD = b"state: good\n", b"state: bad\n"
WANTED, RUNNING = b"pool: 20\n", b"pool: 5\n"
BEGUN, DONE = "begun", "done"
LATER = 300.0  # seconds after which every effect has ended


class Target:
    """A service that can be restarted, scaled and configured; it counts what it was told."""

    def __init__(self) -> None:
        self.orders: list[str] = []
        self.replicas = 2
        self.configuration = RUNNING
        target = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path == "/config":
                    self._answer(target.configuration)
                else:
                    told = {"replicas": target.replicas, "started_at": len(target.orders)}
                    self._answer(json.dumps(told).encode())

            def do_POST(self) -> None:
                target.orders.append(self.path)
                self._answer(b"{}")

            def do_PUT(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.path == "/config":
                    target.configuration = body
                else:
                    target.replicas = json.loads(body)["replicas"]
                target.orders.append(self.path)
                self._answer(b"{}")

            def _answer(self, body: bytes) -> None:
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("ETag", f'"{hashlib.sha256(target.configuration).hexdigest()}"')
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        """End it."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def statuses(context: Context) -> list[str]:
    """How the actions of the strategy ended."""
    rows = context.store.read(lambda connection: statements.actions_of(connection, INCIDENT))
    return [row.status for row in rows if row.id != "earlier"]


def do_before(context: Context) -> None:
    """An earlier scale, which can be undone."""
    at = time.time() - 99
    earlier = {
        "id": "earlier", "incident_id": INCIDENT, "strategy": "scale", "platform": "http",
        "target": context.strategies["scale"].on("cart").target, "disruptive": True, "attempt": 1,
        "status": "succeeded",
        "verdict": "not_healed", "before": {"replicas": 2, "wanted": 3}, "intended_at": at, "started_at": at,
    }  # fmt: skip
    context.store.write(lambda connection: statements.insert_action(connection, earlier))


def live_and_die(values: Mapping[str, Any], strategy: str, moment: str) -> None:
    """The life of a fabric that is killed: in a process of its own."""

    def die(*_: object, **__: object) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)

    announce = journal.announce

    def announce_and_die(*arguments: Any, **options: Any) -> Any:
        announce(*arguments, **options)
        die()

    if moment == BEGUN:
        journal.announce = announce_and_die
    else:
        # The package has a function of the module's name.
        steps = "self_healing_fabric.orchestration.steps.recovering"
        vars(importlib.import_module(steps))["_after_action"] = die
    with fabric_on(values) as context:
        open_incident(context, strategy, service="cart")
        if strategy == "undo":
            do_before(context)
        step(context)


@pytest.fixture
def target() -> Iterator[Target]:
    """A service."""
    target = Target()
    yield target
    target.close()


@pytest.fixture
def replicas() -> Iterator[dict[str, StateReplica]]:
    """Three, of which c holds another state."""
    with ExitStack() as running:
        states = {"a": GOOD, "b": GOOD, "c": BAD}
        yield {name: running.enter_context(StateReplica(name, state)) for name, state in states.items()}


@pytest.mark.parametrize("moment", [BEGUN, DONE])
@pytest.mark.parametrize("strategy", ["restart", "scale", "undo", "repair", "sync"])
def test_a_kill_around_the_effect_leaves_exactly_one(
    target: Target, replicas: dict[str, StateReplica], tmp_path: Path, strategy: str, moment: str
) -> None:
    """Begun: the target says that nothing happened, so it is done. Done: it says so, and that is all."""
    (tmp_path / "wanted.yaml").write_bytes(WANTED)
    state = {
        "replicas": [
            {"name": name, "url": each.url, "failure_domain": name} for name, each in replicas.items()
        ],
        "keep_aside": str(tmp_path / "aside"),
        "pause": 0,
    }
    configuration = {
        "desired": {"file": str(tmp_path / "wanted.yaml")},
        "live": {"http": f"{target.url}/config"},
    }
    http = {
        "restart": f"{target.url}/restart", "started_at": target.url, "scale": f"{target.url}/replicas"
    }  # fmt: skip
    values = {
        "store": f"sqlite:///{tmp_path}/shf.db",
        "guardrails": {"cooldown": 0},
        "services": {
            "cart": {
                "recovery": {
                    "http": http, "scale": {"max": 5}, "state": state, "configuration": configuration,
                }
            }
        },
    }  # fmt: skip
    if strategy == "undo":
        target.replicas = 3
    process = multiprocessing.get_context("spawn").Process(
        target=live_and_die, args=(values, strategy, moment)
    )
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    process.close()
    counted = [*target.orders, *(each.name for each in replicas.values() for _ in each.puts)]
    assert len(counted) == (moment == DONE)

    with fabric_on(values, later=LATER) as context:
        release(context)
        step(context)
        if moment == BEGUN:
            assert statuses(context) == ["failed"]
            step(context)
        assert statuses(context) == (["failed", "succeeded"] if moment == BEGUN else ["succeeded"])
    counted = [*target.orders, *(each.name for each in replicas.values() for _ in each.puts)]
    assert len(counted) == 1
    expected = {
        "restart": ["/restart"], "scale": ["/replicas"], "undo": ["/replicas"], "repair": ["c"],
        "sync": ["/config"],
    }  # fmt: skip
    assert counted == expected[strategy]
    assert target.replicas == {"scale": 3}.get(strategy, 2)
    assert replicas["c"].state == (GOOD if strategy == "repair" else BAD)
    assert target.configuration == (WANTED if strategy == "sync" else RUNNING)
