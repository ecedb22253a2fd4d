"""SIGKILL amid what plugins bring, and amid the undo of it: exactly one effect, counted at the target.

A plugin's effects are others' code: what keeps them from being done twice is the record before, and `observe`
after, through the same wrapping in which they may raise and hang.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from one_step import INCIDENT, fabric_on, open_incident, release, step
from plugin_packages import write_package
from self_healing_fabric.orchestration import journal
from self_healing_fabric.orchestration.context import Context
from self_healing_fabric.store import statements

SOURCE = """
    import json
    import urllib.request

    from pydantic import BaseModel

    from self_healing_fabric.recovery.effects import Effect
    from self_healing_fabric.recovery.outcomes import Outcome, Status

    class Options(BaseModel):
        url: str

    class Change(Effect):
        platform, longest_effect = "acme", 10.0

        def __init__(self, url, order):
            self.target, self._url, self._order = f"acme:{url}", url, order

        def _done(self):
            with urllib.request.urlopen(self._url) as answer:
                return json.load(answer)

        def snapshot(self):
            return {"done": self._done()}

        def perform(self, *, key, attempt, before, permit):
            if not permit():
                return Outcome(Status.FAILED, "not permitted", 0.0)
            urllib.request.urlopen(f"{self._url}/{self._order}", data=b"").close()
            return Outcome(Status.SUCCEEDED, "done")

        def observe(self, before):
            happened = self._done() != before["done"]
            return Outcome(Status.SUCCEEDED if happened else Status.FAILED, "the target tells")

        def undo(self, before):
            return Change(self._url, "back")

        def check(self):
            return "there"

    class Tune:
        disruptive = True
        Options = Options

        def __init__(self, settings, options):
            self._url = options.url

        def on(self, service):
            return Change(self._url, "tune")

    class Gadget:
        Options = Options

        def __init__(self, service, options):
            self._url, self.target = options.url, f"acme:{options.url}"

        def effect(self, strategy):
            return Change(self._url, strategy)

        def check(self):
            return "there"
"""
BEGUN, AMID, DONE = "begun", "amid", "done"
LATER = 300.0  # seconds after which every effect has ended


class Target:
    """What the plugin changes. It counts its orders, and may end who gives one before it carries that out."""

    def __init__(self) -> None:
        self.orders: list[str] = []
        self.ends: multiprocessing.process.BaseProcess | None = None
        self.ended, self.carried_out = threading.Event(), threading.Event()
        target = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(target.orders)

            def do_POST(self) -> None:
                if target.ends is not None:
                    target.ends.kill()
                    target.ended.wait(60)  # only one thread may wait for a process itself
                target.orders.append(self.path.rpartition("/")[2])
                target.carried_out.set()
                self._answer({})

            def _answer(self, content: Any) -> None:
                body = json.dumps(content).encode()
                try:
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)
                except OSError:
                    pass  # whoever asked is dead

            def log_message(self, *_: Any) -> None:
                """Nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/thing"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        """End it, when it has carried out what it was told."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def target() -> Iterator[Target]:
    """What the plugin changes."""
    target = Target()
    yield target
    target.close()


def do_before(context: Context, strategy: str) -> None:
    """An earlier action of the plugin, which can be undone."""
    at = time.time() - 99
    earlier = {
        "id": "earlier", "incident_id": INCIDENT, "strategy": strategy, "platform": "acme",
        "target": context.strategies[strategy].on("cart").target, "disruptive": True, "attempt": 1,
        "status": "succeeded", "verdict": "not_healed", "before": {"done": []},
        "intended_at": at, "started_at": at,
    }  # fmt: skip
    context.store.write(lambda connection: statements.insert_action(connection, earlier))


def live(packages: Path, values: Mapping[str, Any], strategy: str, undone: bool, moment: str) -> None:
    """The life of a fabric that is killed: in a process of its own."""
    sys.path.insert(0, str(packages))

    def die(*_: object, **__: object) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)

    announce = journal.announce

    def announce_and_die(*arguments: Any, **options: Any) -> Any:
        announce(*arguments, **options)
        die()

    if moment == BEGUN:
        journal.announce = announce_and_die
    if moment == DONE:
        # The package has a function of the module's name.
        vars(importlib.import_module("self_healing_fabric.orchestration.steps.recovering"))[
            "_after_action"
        ] = die
    with fabric_on(values) as context:
        open_incident(context, "undo" if undone else strategy, service="cart")
        if undone:
            do_before(context, strategy)
        step(context)


@pytest.mark.parametrize("moment", [BEGUN, AMID, DONE])
@pytest.mark.parametrize("undone", [False, True], ids=["does", "undoes"])
@pytest.mark.parametrize("strategy", ["tune", "restart"])
def test_a_kill_amid_a_plugins_effect_leaves_exactly_one(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str, undone: bool, moment: str
) -> None:
    """Its own strategy, and the restart of its platform: what was done is found, what was not is done."""
    packages = tmp_path / "packages"
    write_package(packages, SOURCE, {"strategies": {"tune": "Tune"}, "platforms": {"gadget": "Gadget"}})
    monkeypatch.syspath_prepend(str(packages))
    values = {
        "store": f"sqlite:///{tmp_path}/shf.db",
        "guardrails": {"cooldown": 0},
        "plans": {"service_failure": ["tune", "restart"]},
        "plugins": {"strategies": {"tune": {"url": target.url}}},
        "services": {"cart": {"recovery": {"platform": {"gadget": {"url": target.url}}}}},
    }
    if undone:
        target.orders.append(strategy)
    process = multiprocessing.get_context("spawn").Process(
        target=live, args=(packages, values, strategy, undone, moment)
    )
    if moment == AMID:
        target.ends = process
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    target.ended.set()
    assert moment != AMID or target.carried_out.wait(30)
    target.ends = None

    try:
        with fabric_on(values, later=LATER) as context:
            release(context)
            step(context)
            if moment == BEGUN:
                step(context)
            rows = context.store.read(lambda connection: statements.actions_of(connection, INCIDENT))
            ended = [row.status for row in rows if row.id != "earlier"]
    finally:
        sys.modules.pop("shf_acme", None)
    assert ended == (["failed", "succeeded"] if moment == BEGUN else ["succeeded"])
    assert target.orders == ([strategy, "back"] if undone else [strategy])
