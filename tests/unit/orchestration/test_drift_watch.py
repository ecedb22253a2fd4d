"""What is exported of drift: the places while they are known, and NaN, never an old value, while not."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import generate_latest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from self_healing_fabric.app import create_app
from self_healing_fabric.integration.lifecycle import Fabric
from self_healing_fabric.orchestration import drift_watch
from self_healing_fabric.orchestration.drift_watch import DriftWatch
from self_healing_fabric.settings import Settings

PATIENCE = 10.0  # seconds


class Services:
    """Two services with their configurations; the second one can hang."""

    def __init__(self, server: HTTPServer, wanted: Path) -> None:
        self.content = {"cart": "pool: 20\n", "slow": "pool: 20\n"}
        self.status = 200
        self.reads: list[str] = []
        self.answered: list[str] = []
        self.release = threading.Event()
        self.release.set()
        wanted.write_text("pool: 20\n")
        configured = {}
        for name in self.content:
            server.expect_request(f"/{name}").respond_with_handler(self._answering(name))
            configured[name] = {
                "recovery": {
                    "configuration": {
                        "desired": {"file": str(wanted)},
                        "live": {"http": server.url_for(f"/{name}")},
                        "format": "yaml",
                    }
                }
            }
        self.values: dict[str, Any] = {"services": {**configured, "plain": {}}}

    def _answering(self, name: str) -> Callable[[Request], Response]:
        def answer(_: Request) -> Response:
            self.reads.append(name)
            if name == "slow":
                self.release.wait(PATIENCE)
            self.answered.append(name)
            return Response(self.content[name], self.status, {"ETag": '"1"'})

        return answer


@pytest.fixture
def server() -> Iterator[HTTPServer]:
    """A server that answers several at once."""
    with HTTPServer(threaded=True) as server:
        yield server


@pytest.fixture
def services(server: HTTPServer, tmp_path: Path) -> Iterator[Services]:
    """Two services that are as they should be."""
    services = Services(server, tmp_path / "wanted.yaml")
    yield services
    services.release.set()


@pytest.fixture
def watch(services: Services) -> Iterator[DriftWatch]:
    """A watch of theirs, by a replica that leads; the test makes it look."""
    watch = DriftWatch(Settings(**services.values), lambda: True)
    yield watch
    services.release.set()
    watch.stop()


def until(condition: Callable[[], bool]) -> None:
    """Wait for what happens in another thread."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_places_are_counted_and_unknown_before_the_first_look(services: Services, watch: DriftWatch) -> None:
    """Each service that has a configuration has a value from the start; it is NaN until it was read."""
    assert set(watch.places()) == {"cart", "slow"}
    assert all(math.isnan(places) for places in watch.places().values())
    services.content["cart"] = "pool: 5\nmore: 1\n"
    watch.look()
    until(lambda: watch.places() == {"cart": 2.0, "slow": 0.0})


def test_one_that_hangs_delays_nobody_and_is_not_asked_twice(services: Services, watch: DriftWatch) -> None:
    """The others are read meanwhile."""
    services.release.clear()
    for _ in range(5):
        watch.look()
    until(lambda: watch.places()["cart"] == 0.0 and "slow" in services.reads)
    assert math.isnan(watch.places()["slow"])
    assert sorted(services.reads) == ["cart", "slow"]


def test_stopping_does_not_wait_for_one_that_hangs(services: Services, watch: DriftWatch) -> None:
    """A fabric that is told to end has steps to finish, and little time."""
    services.release.clear()
    watch.look()
    until(lambda: "slow" in services.reads)
    watch.stop()
    assert "slow" not in services.answered


def test_what_cannot_be_read_any_more_is_unknown(
    services: Services, watch: DriftWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not 0 and not the last value; and it is told in the log, once."""
    told: list[str] = []
    monkeypatch.setattr(drift_watch.log, "warning", lambda event, **_: told.append(event))
    watch.look()
    until(lambda: watch.places() == {"cart": 0.0, "slow": 0.0})
    services.status = 503
    for _ in range(3):
        now = time.monotonic()
        monkeypatch.setattr(watch, "_due", dict.fromkeys(watch.places(), now))
        count = len(services.reads)
        watch.look()
        until(lambda count=count: len(services.reads) == count + 2 and not watch._under_way)  # type: ignore[misc]
    assert all(math.isnan(places) for places in watch.places().values())
    assert told == ["configuration_unreadable"] * 2


def test_an_old_reading_is_not_believed(
    services: Services, watch: DriftWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the readings stop coming, for whatever reason, nobody knows any more."""
    watch.look()
    until(lambda: watch.places()["cart"] == 0.0)
    later = time.monotonic() + 3 * 60 + 1
    monkeypatch.setattr(drift_watch.time, "monotonic", lambda: later)
    assert math.isnan(watch.places()["cart"])


def test_what_drifts_is_looked_at_more_often(services: Services, watch: DriftWatch) -> None:
    """Its repair is proved by readings that come after it."""
    services.content["cart"] = "pool: 5\n"
    watch.look()
    until(lambda: watch.places() == {"cart": 1.0, "slow": 0.0})
    now = time.monotonic()
    assert watch._due["cart"] <= now + 5.0
    assert watch._due["slow"] > now + 50.0


def test_only_the_leader_reads_and_tells(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two replicas' readings of one service would be a quarrel; one that stops to lead stops to tell."""
    monkeypatch.setattr(drift_watch, "TICK", 0.01)
    leads = threading.Event()
    watch = DriftWatch(Settings(**services.values), leads.is_set)
    watch.start()
    try:
        time.sleep(0.1)
        assert services.reads == []
        leads.set()
        until(lambda: watch.places()["cart"] == 0.0)
        leads.clear()
        assert math.isnan(watch.places()["cart"])
    finally:
        watch.stop()


def test_a_running_fabric_exports_it(services: Services, tmp_path: Path) -> None:
    """From its start, for the services that have a configuration and for no other."""
    fabric = Fabric(Settings(store=f"sqlite:///{tmp_path}/shf.db", **services.values))
    create_app(fabric)
    metrics = fabric.context.metrics.registry
    try:
        lines = generate_latest(metrics).decode().splitlines()
        told = [line for line in lines if line.startswith("shf_config_drift{")]
        assert told == ['shf_config_drift{service="cart"} NaN', 'shf_config_drift{service="slow"} NaN']
        fabric.drift.start()
        until(lambda: b'shf_config_drift{service="cart"} 0.0' in generate_latest(metrics))
    finally:
        fabric.drift.stop()
        fabric.store.close()
