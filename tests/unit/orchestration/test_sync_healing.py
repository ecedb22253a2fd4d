"""Drift becomes an incident, sync heals it once, and what heals nothing is put back byte for byte."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from killed import killed_at
from self_healing_fabric.api.incidents import story
from self_healing_fabric.app import create_app
from self_healing_fabric.incidents.lifecycle import State
from self_healing_fabric.recovery.strategies.sync import Synchronization
from shf_queries.catalogue import CONFIG_DRIFT

CANARY, OLD_CANARY = "canary-that-is-wanted", "canary-that-runs"
WANTED = f"pool: 20\npassword: {CANARY}\n".encode()
RUNNING = f"# by hand\r\npool: 5\r\npassword: {OLD_CANARY}\r\n".encode()


class Configured:
    """A world whose service tells and takes its configuration, and what it was sent."""

    def __init__(self, world: Any, server: HTTPServer, wanted: Path, *, restart: bool) -> None:
        self.world = world
        self.content = RUNNING
        self.puts: list[bytes] = []
        self.order: list[str] = []
        self.heals = True
        self.away: int | None = None  # what a question is answered with
        server.expect_request("/config", method="GET").respond_with_handler(self._get)
        server.expect_request("/config", method="PUT").respond_with_handler(self._put)
        wanted.write_bytes(WANTED)
        world.close()
        world.values["services"]["cart"]["recovery"]["configuration"] = {
            "desired": {"file": str(wanted)},
            "live": {"http": server.url_for("/config")},
            "format": "yaml",
            "restart": restart,
        }
        world.open()
        world.target.on_restart = lambda: self.order.append("restart")

    def drift(self) -> None:
        """What the watch would export, and its alert."""
        self.world.set(CONFIG_DRIFT, 2.0)
        self.world.receive(self.world.alert(signal="config_drift"))

    def _etag(self) -> str:
        return f'"{hashlib.sha256(self.content).hexdigest()[:12]}"'

    def _get(self, _: Request) -> Response:
        if self.away is not None:
            return Response("", self.away)
        return Response(self.content, headers={"ETag": self._etag()})

    def _put(self, request: Request) -> Response:
        if request.headers["If-Match"] != self._etag():
            return Response("", 412)
        self.content = request.get_data()
        self.puts.append(self.content)
        self.order.append("put")
        if self.heals and self.content == WANTED:
            self.world.set(CONFIG_DRIFT, 0.0)
        return Response("", 204)


@pytest.fixture
def configured(world: Any, httpserver: HTTPServer, tmp_path: Path) -> Callable[..., Configured]:
    """Build a world with a configuration."""

    def make(*, restart: bool = False) -> Configured:
        return Configured(world, httpserver, tmp_path / "cart.yaml", restart=restart)

    return make


def statuses(world: Any) -> list[tuple[str, str, str | None]]:
    """The actions of the only incident."""
    return [(row.strategy, row.status, row.verdict) for row in world.actions()]


@pytest.mark.parametrize("status", [429, 503])
def test_a_sync_waits_for_who_does_not_tell_what_runs(
    configured: Callable[..., Configured], status: int
) -> None:
    """Its only strategy is not given up for an answer that may come in a moment."""
    there = configured()
    there.away = status
    there.drift()
    there.world.run(seconds=40)
    assert (there.puts, there.world.calls) == ([], [])
    assert "sync is not possible yet" in str(there.world.incident().waiting_for)
    there.away = None
    there.world.run(seconds=60)
    assert (there.puts, there.world.incident().outcome) == ([WANTED], "healed")


def test_drift_is_synced_once_and_healed(configured: Callable[..., Configured]) -> None:
    """One PUT of the wanted bytes, verified by samples after it, and no restart of the service."""
    made = configured()
    made.drift()
    made.world.run(60)
    assert made.puts == [WANTED]
    assert statuses(made.world) == [("sync", "succeeded", "healed")]
    assert made.world.incident().outcome == "healed"
    assert made.world.incident().failure_class == "cluster_drift"
    assert made.world.restarts() == {}
    (intent,) = [
        entry
        for entry in story(made.world.fabric, made.world.incident().id)["timeline"]
        if entry["message"].startswith("Intends to sync")
    ]
    assert intent["data"]["diff"] == [
        *("- pool: 5", "+ pool: 20"),
        *("- password: ******", "+ password: ****** (another value)"),
    ]


def test_drift_that_is_old_is_synced_all_the_same(configured: Callable[..., Configured]) -> None:
    """The alert speaks of it; that it has been so for hours is no reason to leave it."""
    made = configured()
    made.world.set(CONFIG_DRIFT, 2.0)
    made.world.prometheus.set(f'min(min_over_time({CONFIG_DRIFT}{{service="cart"}}[1h]))', 2.0)
    made.drift()
    made.world.run(60)
    assert made.puts == [WANTED]


def test_what_heals_nothing_is_put_back_byte_for_byte(configured: Callable[..., Configured]) -> None:
    """The wanted configuration brings errors: the previous bytes are there again, and people are called."""
    made = configured()
    made.heals = False
    made.drift()
    made.world.run(120)
    assert made.puts == [WANTED, RUNNING]
    assert made.content == RUNNING
    assert statuses(made.world) == [("sync", "succeeded", "not_healed"), ("undo", "succeeded", None)]
    assert made.world.incident().state is State.ESCALATED


def test_what_somebody_changed_meanwhile_is_not_put_back(configured: Callable[..., Configured]) -> None:
    """A colleague has written the configuration while it was verified: it is his."""
    made = configured()
    made.heals = False
    made.drift()
    made.world.run(10)
    assert made.puts == [WANTED]
    made.content = b"pool: 7\n"
    made.world.run(120)
    assert made.puts == [WANTED]
    assert made.content == b"pool: 7\n"
    assert made.world.incident().state is State.ESCALATED


def die_after(world: Any, *, effect: bool) -> None:
    """End the process right before the write, or between it and its record."""
    with killed_at(Synchronization, done=effect):
        world.run(10)
    world.crash()


@pytest.mark.parametrize("effect", [True, False])
def test_a_crash_writes_nothing_twice(configured: Callable[..., Configured], effect: bool) -> None:
    """The target is compared with both sides that were written down before."""
    made = configured()
    made.drift()
    die_after(made.world, effect=effect)
    made.world.run(150)
    assert made.puts == [WANTED]
    assert made.world.incident().outcome == "healed"
    expected = ["succeeded"] if effect else ["failed", "succeeded"]
    assert [row.status for row in made.world.actions()] == expected


def test_what_must_be_read_again_is_followed_by_a_restart(configured: Callable[..., Configured]) -> None:
    """Before anything is verified, although the drift has gone with the write; each is one action."""
    made = configured(restart=True)
    made.drift()
    made.world.run(90)
    assert made.order == ["put", "restart"]
    assert statuses(made.world) == [("sync", "succeeded", None), ("restart", "succeeded", "healed")]


def test_a_crash_between_write_and_restart_loses_no_restart(configured: Callable[..., Configured]) -> None:
    """The write is found at the target, and the restart follows."""
    made = configured(restart=True)
    made.drift()
    die_after(made.world, effect=True)
    made.world.run(150)
    assert made.order == ["put", "restart"]
    assert made.world.incident().outcome == "healed"


def test_what_is_put_back_is_read_again_too(configured: Callable[..., Configured]) -> None:
    """The process must not go on with the configuration that was taken from it."""
    made = configured(restart=True)
    made.heals = False
    made.drift()
    made.world.run(200)
    assert made.order == ["put", "restart", "put", "restart"]
    assert made.content == RUNNING


def test_no_secret_of_the_configuration_is_told_anywhere(
    configured: Callable[..., Configured], capfd: pytest.CaptureFixture[str]
) -> None:
    """Not in the timeline, in no answer of the API, in no metric, in no log; also when all goes wrong."""
    made = configured()
    made.heals = False
    made.drift()
    made.world.run(120)
    fabric = made.world.fabric
    told = json.dumps(story(fabric, made.world.incident().id))
    client = create_app(fabric).test_client()
    for path in ("/api/v1/incidents", "/api/v1/status", "/metrics", f"/incidents/{made.world.incident().id}"):
        told += client.get(path).get_data(as_text=True)
    told += "".join(capfd.readouterr()) + "".join(map(str, made.world.calls))
    assert made.puts  # something was there to be told
    assert "canary" not in told
