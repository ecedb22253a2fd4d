"""The kill switch while nothing can be stored: whoever was told to stop stops, at once and for good."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from served_fabric import (
    ServedFabric,
    World,
    healing_settings,
    one_alert_each,
    served_fabric,
    stubbed_world,
)
from stub_world import service_names

from self_healing_fabric.errors import StoreUnavailable
from self_healing_fabric.store import examine

pytestmark = pytest.mark.e2e

SERVICES = 5
DISK = "16m"
DEADLINE = 120.0  # seconds, for busy machines
UNBOUNDED = {"fleet": {"at_once": "100%", "targets": "100%", "storm": "100%"}}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, with little room."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "none", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"NOT TESTED: WHETHER A PAUSE HOLDS THAT CANNOT BE STORED: {done.stderr}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Services that fail until they are restarted."""
    with stubbed_world(tmp_path, services=SERVICES, incurable=0, repair_seconds=0.1, alerts=1) as world:
        yield world


@pytest.fixture
def fabric(disk: Path, world: World, tmp_path: Path) -> Iterator[ServedFabric]:
    """It may act, and its store is on that disk."""
    settings = {"store": f"sqlite:///{disk}/shf.db", "guardrails": UNBOUNDED}
    with served_fabric(tmp_path, **settings, **healing_settings(world, SERVICES)) as fabric:
        yield fabric


def filled(disk: Path, fabric: ServedFabric) -> Callable[[], None]:
    """Fill the disk until nothing is stored any more; the function makes room again."""
    others = disk / "others"

    def refused() -> bool:
        with contextlib.suppress(OSError), others.open("ab", buffering=0) as file:
            while True:
                file.write(bytes(512))
        # What SQLite's log has room for is stored all the same.
        return fabric.http.put("/api/v1/mode", json={"mode": "automatic"}).status_code == 503

    fabric.wait("full", refused, DEADLINE)
    return others.unlink


def test_a_look_at_the_store_finds_a_full_disk(fabric: ServedFabric, disk: Path) -> None:
    """`shf check` says so, before anybody needs the store; and no more when there is room."""
    make_room = filled(disk, fabric)
    with pytest.raises(StoreUnavailable, match="is full: nothing can be stored"):
        examine(fabric.store)
    make_room()
    assert examine(fabric.store)


def test_the_status_does_not_say_that_it_works_on_a_full_disk(fabric: ServedFabric, disk: Path) -> None:
    """As `/readyz` does not either; and both do again when there is room."""
    make_room = filled(disk, fabric)
    assert fabric.http.get("/readyz").status_code == 503
    status = fabric.status()
    assert not status["healthy"]
    assert any("takes no notifications" in each for each in status["problems"])
    assert "▲ no: it takes no notifications" in fabric.http.get("/", headers={"Accept": "text/html"}).text
    make_room()
    fabric.wait("ready", lambda: fabric.http.get("/readyz").is_success, DEADLINE)
    fabric.wait("healthy", lambda: fabric.status()["healthy"], DEADLINE)


@pytest.mark.parametrize("wanted", [{}, {"service": "s0000"}], ids=["everything", "one service"])
def test_a_pause_that_cannot_be_stored_holds(
    fabric: ServedFabric, world: World, disk: Path, wanted: dict[str, str]
) -> None:
    """It says what it does and what not. As soon as there is room it is stored, and a restart knows of it."""
    paused = [wanted["service"]] if wanted else service_names(SERVICES)

    def held_back() -> bool:
        waiting = {each["service"]: str(each["waiting_for"]) for each in fabric.incidents()}
        return all(waiting.get(name, "").startswith("mode: ") for name in paused)

    def told() -> list[str]:
        return [each for each in fabric.status()["problems"] if "pause" in each]

    make_room = filled(disk, fabric)
    answer = fabric.http.put("/api/v1/mode", json={"mode": "paused", "by": "ann", **wanted})
    assert answer.status_code == 503
    assert "nothing more begins here" in answer.json()["detail"]
    in_force = fabric.http.get("/api/v1/mode").json()
    assert wanted or in_force == {"mode": "paused"}
    assert not wanted or in_force == {"mode": "automatic", "services": {"s0000": "paused"}}
    assert told()

    make_room()
    for delivery in one_alert_each(SERVICES):
        fabric.http.post("/api/v1/alerts", content=delivery.body()).raise_for_status()
    fabric.wait("held back", held_back, DEADLINE)
    fabric.wait("stored", lambda: not told(), DEADLINE)
    fabric.process.kill()
    fabric.start()
    assert fabric.http.get("/api/v1/mode").json() == in_force
    others = SERVICES - len(paused)
    fabric.wait("others", lambda: sum(world.counts()["restarts"].values()) == others, DEADLINE)
    assert not world.counts()["restarts"].keys() & set(paused)

    fabric.http.put("/api/v1/mode", json={"mode": "automatic", **wanted}).raise_for_status()
    fabric.wait("healed", lambda: all(each["outcome"] for each in fabric.incidents()), DEADLINE)
    assert world.counts()["restarts"] == dict.fromkeys(service_names(SERVICES), 1)


def test_a_later_word_of_people_goes_before_a_pause_that_was_not_stored(
    fabric: ServedFabric, world: World, disk: Path
) -> None:
    """Who lets it act again means what they say, and the pause does not come back."""
    make_room = filled(disk, fabric)
    assert fabric.http.put("/api/v1/mode", json={"mode": "paused"}).status_code == 503
    assert fabric.http.put("/api/v1/mode", json={"mode": "automatic"}).status_code == 503
    assert fabric.http.get("/api/v1/mode").json() == {"mode": "paused"}
    make_room()
    fabric.http.put("/api/v1/mode", json={"mode": "automatic"}).raise_for_status()
    for delivery in one_alert_each(SERVICES):
        fabric.http.post("/api/v1/alerts", content=delivery.body()).raise_for_status()
    fabric.wait("healed", lambda: all(each["outcome"] for each in fabric.incidents()), DEADLINE)
    assert fabric.http.get("/api/v1/mode").json() == {"mode": "automatic"}
    assert world.counts()["restarts"] == dict.fromkeys(service_names(SERVICES), 1)
