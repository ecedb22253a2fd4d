"""Plugins that raise and hang, on several incidents at once: the others are healed meanwhile.

The fabric runs with its own threads. Targets are real HTTP servers, and what was done is counted there.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Response

from deadline import wait_until
from one_step import Watching, open_incident
from plugin_packages import write_package
from self_healing_fabric.integration.lifecycle import Fabric
from self_healing_fabric.orchestration.healing_orchestrator import HealingOrchestrator
from self_healing_fabric.recovery.verification import Verifier
from self_healing_fabric.settings import Settings
from self_healing_fabric.store import statements

SOURCE = """
    import time

    from self_healing_fabric.guardrails import Refusal
    from self_healing_fabric.recovery.effects import Effect
    from self_healing_fabric.recovery.outcomes import Outcome, Status

    class Change(Effect):
        platform, longest_effect = "test", 2.0

        def __init__(self, service, kind):
            self.target, self.kind = f"test:{service}", kind

        def snapshot(self):
            if self.kind == "hangs_looking":
                time.sleep(120)
            return {}

        def perform(self, *, key, attempt, before, permit):
            if self.kind == "raises":
                raise RuntimeError("out of ideas")
            time.sleep(120)

        def observe(self, before):
            raise RuntimeError("no idea")

    def strategy(kind):
        class Made:
            disruptive = True

            def __init__(self, settings, options): ...

            def on(self, service):
                return Change(service, kind)
        return Made

    raises, hangs, hangs_looking = strategy("raises"), strategy("hangs"), strategy("hangs_looking")

    class Picky:
        def __init__(self, settings, options): ...

        def check(self, proposal):
            if proposal.service == "picked":
                raise LookupError("no table of tides")
            return None
"""
KINDS = ("raises", "hangs", "hangs_looking")
HEALTHY = ("one", "two", "three", "four")


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the plugin is installed."""
    monkeypatch.syspath_prepend(str(tmp_path / "packages"))
    yield tmp_path / "packages"
    sys.modules.pop("shf_acme", None)


def test_the_others_go_on(
    packages: Path, tmp_path: Path, httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers, three broken plugins, a guardrail that raises for one service, four to restart."""
    monkeypatch.setattr("self_healing_fabric.recovery.effects_of_plugins.READ_WITHIN", 1.0)
    strategies = {kind: kind for kind in KINDS}
    write_package(packages, SOURCE, {"strategies": strategies, "guardrails": {"picky": "Picky"}})
    restarted: list[str] = []

    def restart(request: Any) -> Response:
        restarted.append(request.path.split("/")[1])
        return Response(json.dumps({"started_at": len(restarted)}))

    services: dict[str, Any] = {kind: {} for kind in KINDS}
    for name in (*HEALTHY, "picked"):
        httpserver.expect_request(f"/{name}/restart", method="POST").respond_with_handler(restart)
        url = httpserver.url_for(f"/{name}/restart")
        services[name] = {"recovery": {"http": {"restart": url}}}
    settings = Settings(
        store=f"sqlite:///{tmp_path}/shf.db",
        workers=2,
        services=services,
        plans={"service_failure": ("restart", *KINDS)},
        plugins={"guardrails": {"picky": {}}},
        guardrails={"fleet": {"at_once": 100, "storm": "100%", "targets": "100%"}},
        prometheus={"url": "http://127.0.0.1:1"},
    )
    fabric = Fabric(settings)
    context = replace(fabric.context, verifier=cast(Verifier, Watching()))
    for name in services:
        strategy = name if name in KINDS else "restart"
        open_incident(context, strategy, service=name, incident_id=f"20260101-000000-{name}")

    def states() -> dict[str, str]:
        rows = context.store.read(lambda connection: statements.list_incidents(connection))
        return {row.service: row.state for row in rows}

    orchestrator = HealingOrchestrator(context)
    orchestrator.start()
    try:
        wait_until(lambda: set(HEALTHY) <= set(restarted))
        wait_until(lambda: all(states()[name] == "escalated" for name in (*KINDS, "picked")))
        found = context.store.read(
            lambda connection: {
                kind: [
                    (row.status, row.detail)
                    for row in statements.actions_of(connection, f"20260101-000000-{kind}")
                ]
                for kind in (*KINDS, "picked")
            }
        )
    finally:
        orchestrator.stop()
        fabric.stop()
    blocked = context.metrics.blocks.labels("picked", "picky")._value.get()
    assert sorted(restarted) == sorted(HEALTHY)  # each once, and `picked` not at all
    assert found["raises"] == [("indeterminate", "plugin raises raised RuntimeError: out of ideas")]
    assert found["hangs"] == [("indeterminate", "plugin hangs did not return within 2 s")]
    assert found["hangs_looking"] == []  # nothing was begun on a target that could not be read
    assert found["picked"] == []
    assert blocked == 1
