"""The example plugin, installed by pip as a user installs it, works on a real cache."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from one_step import open_incident
from self_healing_fabric.incidents.ingestion import store_alerts
from self_healing_fabric.integration.lifecycle import Fabric
from self_healing_fabric.settings import Settings
from world import World

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the plugin, built from a copy of its sources; nothing is fetched."""
    folder = tmp_path_factory.mktemp("installed")
    source = tmp_path_factory.mktemp("source") / "plugin"
    shutil.copytree(ROOT / "examples/plugin", source)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    options = ["--no-index", "--no-build-isolation", "--no-deps", "--target", str(folder)]
    subprocess.run([*pip, *options, str(source)], check=True)
    return folder


@pytest.fixture
def plugin(installed: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The plugin can be found, for this test."""
    monkeypatch.syspath_prepend(str(installed))
    yield
    for name in [each for each in sys.modules if each.partition(".")[0] == "shf_cache"]:
        del sys.modules[name]


class Cache:
    """A cache whose service is well again when it has been emptied. Counts what was done to it."""

    def __init__(self, server: HTTPServer) -> None:
        self.flushes: list[str] = []
        self.world: World | None = None
        self.url = server.url_for("/cache")
        server.expect_request("/cache", method="GET").respond_with_handler(self._tell)
        server.expect_request("/cache/flush", method="POST").respond_with_handler(self._flush)

    def _tell(self, _: Request) -> Response:
        told = {"generation": len(self.flushes), "fill": 0.0 if self.flushes else 0.99}
        return Response(json.dumps(told), mimetype="application/json")

    def _flush(self, request: Request) -> Response:
        self.flushes.append(request.headers["Idempotency-Key"])
        assert self.world is not None
        self.world.healthy()
        return Response(status=204)


@pytest.fixture
def cache(httpserver: HTTPServer) -> Cache:
    """A real HTTP server."""
    return Cache(httpserver)


def world_of(folder: Path, server: HTTPServer, cache: Cache, **plugins: Any) -> World:
    strategies = {"flush_cache": {"caches": {"cart": cache.url}}}
    world = World(
        folder,
        server,
        plans={"service_failure": ["flush_cache", "restart"]},
        plugins={"strategies": strategies, **plugins},
    )
    cache.world = world
    return world


@pytest.mark.usefixtures("plugin")
def test_its_strategy_heals(tmp_path: Path, httpserver: HTTPServer, cache: Cache) -> None:
    """The cache was emptied once, the service is proved to be well, and was not restarted."""
    world = world_of(tmp_path, httpserver, cache)
    world.silent()
    world.receive(world.alert())
    world.run(30)
    story = world.story()
    assert len(cache.flushes) == 1
    assert world.restarts() == {}
    assert world.incident().outcome == "healed", story
    (action,) = world.actions()
    assert (action.strategy, action.platform, action.target) == ("flush_cache", "cache", f"cache:{cache.url}")
    assert action.id == cache.flushes[0]
    world.close()


@pytest.mark.usefixtures("plugin")
def test_its_guardrail_holds_it_back_until_the_quiet_hours_end(
    tmp_path: Path, httpserver: HTTPServer, cache: Cache
) -> None:
    """Nothing reaches the cache before; afterwards it is emptied."""
    begin = datetime(2027, 1, 15, 8, 0, tzinfo=UTC)
    assert begin.timestamp() == 1_800_000_000.0  # when the world begins
    world = world_of(tmp_path, httpserver, cache, guardrails={"quiet_hours": {"start": 7, "end": 9}})
    world.silent()
    world.receive(world.alert())
    world.run(3590, tick=10)
    assert cache.flushes == []
    assert world.incident().waiting_for == "quiet_hours: nothing is disturbed before 09:00 UTC"
    assert world.context.metrics.blocks.labels("cart", "quiet_hours")._value.get() == 1
    world.run(60)
    assert len(cache.flushes) == 1
    world.close()


@pytest.mark.usefixtures("plugin")
def test_its_evidence_is_part_of_the_diagnosis(tmp_path: Path, httpserver: HTTPServer, cache: Cache) -> None:
    """What it saw stands in the timeline with the command that shows it."""
    world = world_of(tmp_path, httpserver, cache)
    world.close()
    world.values["services"]["cart"]["evidence_sources"] = {"cache_fill": {"url": cache.url}}
    world.open()
    world.silent()
    world.receive(world.alert())
    world.run(1)
    diagnosis = world.incident().diagnosis
    (told,) = [each for each in diagnosis["evidence"] if each.get("source") == "cache_fill"]
    assert told["statement"] == "The cache of cart is 99% full."
    assert told["query"] == f"curl -s {cache.url}"
    world.close()


def test_without_the_package_the_configuration_says_what_is_missing() -> None:
    """The same file on a machine without the plugin does not start half a fabric."""
    with pytest.raises(ValueError, match="no plugin `quiet_hours` is installed among the guardrails"):
        Settings(plugins={"guardrails": {"quiet_hours": {"start": 1, "end": 2}}})


@pytest.mark.usefixtures("plugin")
def test_its_channel_is_written_to_once(tmp_path: Path, httpserver: HTTPServer, cache: Cache) -> None:
    """A fabric that can do nothing calls a person through the file, with one line of what is wrong."""
    book = tmp_path / "calls.jsonl"
    world = world_of(tmp_path, httpserver, cache)
    world.close()
    world.values["plans"] = {"service_failure": []}
    levels = [{"name": str(number), "call": ["human"]} for number in range(5)]
    channels = {"human": {"plugin": {"notebook": {"file": str(book)}}}}
    fabric = Fabric(Settings(**{**world.values, "escalation": {"levels": levels, "channels": channels}}))
    open_incident(fabric.context, "nothing", service="cart")
    # It fires all the while: an incident that is over before its call is sent calls nobody.
    alert, now = world.alert(service="cart"), time.time()
    fabric.store.write(lambda connection: store_alerts(connection, [alert], now))
    fabric.start()
    try:
        end = time.monotonic() + 60
        while not book.exists() or not book.read_text():
            assert time.monotonic() < end
            time.sleep(0.05)
    finally:
        fabric.stop()
    (line,) = book.read_text().splitlines()
    assert "cart" in json.loads(line)["title"]
