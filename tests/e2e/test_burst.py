"""Bursts, and a store that takes nothing: what was acknowledged is done, and nothing else was acknowledged.

The fabric is a real process, killed and stopped while it works; the services and their Prometheus are stubs
in a process that outlives it and counts what was done to them.
"""

from __future__ import annotations

import contextlib
import json
import resource
import socket
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from alert_flood import Delivery, Flood
from served_fabric import (
    ServedFabric,
    World,
    healing_settings,
    one_alert_each,
    served_fabric,
    stored_alerts,
    stubbed_world,
)
from stub_world import service_names

pytestmark = pytest.mark.e2e

BURST = 2000  # distinct alerts, each of a service of its own
WORKERS = 64
REPAIR_SECONDS = 2.0
KILLED_AT = 600  # of the restarts
CONNECTIONS = 200
DEADLINE = 300.0  # seconds, for busy machines
SMALL_DISK, LARGER_DISK = "3m", "64m"
MANY_CONNECTIONS = 1500  # more than `select` can watch
USUAL_FILES = 1024  # what a process may open on most systems unless somebody raised it


@contextmanager
def fabric_alone(workdir: Path, **settings: Any) -> Iterator[ServedFabric]:
    """A fabric whose Prometheus is away: it takes in and stores, and heals nothing."""
    services: dict[str, Any] = {name: {} for name in service_names(BURST)}
    nobody = {"url": "http://127.0.0.1:1"}
    with served_fabric(workdir, prometheus=nobody, services=services, **settings) as fabric:
        yield fabric


def assert_stored(fabric: ServedFabric, flood: Flood) -> None:
    """Every acknowledged alert is in the store and part of an incident."""
    stored = stored_alerts(fabric.store)
    assert {each.fingerprint for each in flood.acknowledged} - stored.keys() == set()
    assert None not in stored.values()


def refusals(flood: Flood) -> set[tuple[int | None, bool]]:
    """All kinds of answers that were no acknowledgement, and whether each said when to come back."""
    return {
        (status, told is not None)
        for each in flood.deliveries
        for status, told in zip(
            [status for status in each.answers if status not in (202, None)], each.retry_after, strict=True
        )
    }


def test_every_alert_of_a_burst_is_healed_once_although_the_fabric_is_killed(tmp_path: Path) -> None:
    """2,000 alerts on 200 connections, repairs that take 2 s, SIGKILL in the middle of them: every alert was
    acknowledged, its incident ends healed, and its target was restarted exactly once.
    """
    options = {"services": BURST, "incurable": 0, "alerts": 1, "repair_seconds": REPAIR_SECONDS}
    with ExitStack() as stack:
        world = stack.enter_context(stubbed_world(tmp_path, **options))
        settings = healing_settings(world, BURST) | {
            "workers": WORKERS,
            "guardrails": {
                "cooldown": "1s",
                "fleet": {"at_once": "100%", "targets": "100%", "storm": "100%"},
            },
            "relapse_window": "1h",  # what is resolved stays so until it is counted
        }
        fabric = stack.enter_context(served_fabric(tmp_path, **settings))
        flood = stack.enter_context(Flood(fabric.url, one_alert_each(BURST), connections=CONNECTIONS))
        flood.join(DEADLINE)
        fabric.wait("in the middle", lambda: restarts(world) >= KILLED_AT, DEADLINE)
        assert world.counts()["under_way"] > 0
        fabric.process.kill()
        assert restarts(world) < BURST
        fabric.start()
        fabric.wait("all ended", lambda: fabric.status()["incidents"] == {"resolved": BURST}, DEADLINE)
        incidents = fabric.incidents()
        counts = world.counts()

    assert len(flood.acknowledged) == BURST
    names = service_names(BURST)
    assert sorted(incident["service"] for incident in incidents) == names
    assert {incident["outcome"] for incident in incidents} == {"healed"}
    assert {name: counts["restarts"][name] for name in names} == dict.fromkeys(names, 1)
    assert counts["most_at_once_on_one"] == 1


def restarts(world: World) -> int:
    """How many restarts have begun at the targets."""
    return sum(world.counts()["restarts"].values())


def test_sigkill_while_notifications_arrive_loses_no_acknowledged_one(tmp_path: Path) -> None:
    """SIGKILL in the middle of a burst's notifications: started again, it has every one that was answered
    with 2xx.
    """
    with fabric_alone(tmp_path) as fabric:
        with Flood(fabric.url, one_alert_each(BURST), connections=CONNECTIONS, insist=False) as flood:
            fabric.wait("some acknowledged", lambda: len(flood.acknowledged) >= BURST // 5, DEADLINE)
            fabric.process.kill()
        assert BURST // 5 <= len(flood.acknowledged) < BURST
        fabric.start()
        fabric.wait_worked_in(DEADLINE)
        assert_stored(fabric, flood)


def test_sigterm_while_notifications_arrive(tmp_path: Path) -> None:
    """SIGTERM with requests in flight: the process ends tidily, and each request was either acknowledged and
    is stored, or got 503 with Retry-After, or no answer.
    """
    with fabric_alone(tmp_path) as fabric:
        with Flood(fabric.url, one_alert_each(BURST), connections=CONNECTIONS, insist=False) as flood:
            fabric.wait("some acknowledged", lambda: len(flood.acknowledged) >= BURST // 5, DEADLINE)
            fabric.process.stop()
        assert json.loads(fabric.log.read_text().splitlines()[-1])["event"] == "stopped"
        assert BURST // 5 <= len(flood.acknowledged) < BURST
        assert refusals(flood) <= {(503, True)}
        fabric.start()
        fabric.wait_worked_in(DEADLINE)
        assert_stored(fabric, flood)


def test_full_disk_is_503_until_there_is_room_again(tmp_path: Path) -> None:
    """The disk of the store runs full during a burst: 503 with Retry-After, never another error; given room,
    all that is sent again is taken, and nothing that was acknowledged before is missing.
    """
    with small_disk(tmp_path / "disk") as (folder, grow), ExitStack() as stack:
        fabric = stack.enter_context(fabric_alone(tmp_path, store=f"sqlite:///{folder}/shf.db"))
        flood = stack.enter_context(Flood(fabric.url, one_alert_each(BURST), connections=CONNECTIONS))
        fabric.wait("refused", lambda: refusals(flood) != set(), DEADLINE)
        assert fabric.http.get("/healthz").status_code == 200
        grow()
        flood.join(DEADLINE)
        assert len(flood.acknowledged) == BURST
        assert refusals(flood) == {(503, True)}
        fabric.wait_worked_in(DEADLINE)
        assert_stored(fabric, flood)


def test_a_full_temporary_folder_keeps_nothing_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others have filled it: a large notification, such as a storm brings, is taken and worked in."""
    with small_disk(tmp_path / "tmp") as (folder, _), (folder / "others").open("wb", buffering=0) as others:
        with contextlib.suppress(OSError):
            while True:
                others.write(bytes(1024))
        monkeypatch.setenv("TMPDIR", str(folder))
        with fabric_alone(tmp_path) as fabric:
            deliveries = [Delivery(name, 0) for name in service_names(BURST)]
            body = json.loads(deliveries[0].body())
            body["alerts"] = [json.loads(each.body())["alerts"][0] for each in deliveries]
            fabric.http.post("/api/v1/alerts", json=body, timeout=60).raise_for_status()
            fabric.wait_worked_in(DEADLINE)
            stored = stored_alerts(fabric.store)
            assert "disk is full" not in fabric.log.read_text()
        assert {each.fingerprint for each in deliveries} == stored.keys()


@contextmanager
def small_disk(folder: Path) -> Iterator[tuple[Path, Callable[[], None]]]:
    """A file system of its own with little room, and a function that gives it more."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK}", "none", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"NOT TESTED ON A FULL DISK (the unit tests do with a full database): {done.stderr}")

    def grow() -> None:
        subprocess.run(["mount", "-o", f"remount,size={LARGER_DISK}", str(folder)], check=True)

    try:
        yield folder, grow
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_locked_database_is_503_until_it_is_free_again(tmp_path: Path) -> None:
    """Another process holds the database's lock: notifications get 503 with Retry-After before Alertmanager's
    patience ends, readers are answered; once it is free everything is taken.
    """
    with fabric_alone(tmp_path) as fabric:
        other = sqlite3.connect(fabric.store.removeprefix("sqlite:///"), isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with Flood(fabric.url, one_alert_each(10), connections=10, insist=False) as flood:
            flood.join(DEADLINE)
        assert flood.acknowledged == []
        assert {tuple(each.answers) for each in flood.deliveries} == {(503,)}
        assert refusals(flood) == {(503, True)}
        assert fabric.incidents() == []
        other.execute("ROLLBACK")
        other.close()
        with Flood(fabric.url, one_alert_each(10), connections=10) as flood:
            flood.join(DEADLINE)
        fabric.wait_worked_in(DEADLINE)
        assert_stored(fabric, flood)
        assert len(fabric.incidents()) == 10


def test_more_connections_than_select_can_watch(tmp_path: Path) -> None:
    """1,500 connections that Alertmanager keeps open, under the usual limit of 1,024 files: the fabric goes
    on taking notifications on old connections and on new ones.
    """
    with files_allowed(USUAL_FILES) as allow_many, fabric_alone(tmp_path) as fabric, ExitStack() as stack:
        allow_many()
        address = ("127.0.0.1", int(fabric.url.rpartition(":")[2]))
        opened = [
            stack.enter_context(socket.create_connection(address, timeout=10))
            for _ in range(MANY_CONNECTIONS)
        ]
        body = Delivery("s0000", 0).body()
        opened[-1].sendall(
            b"POST /api/v1/alerts HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n%b"
            % (len(body), body)
        )
        assert opened[-1].recv(100).startswith(b"HTTP/1.1 202 ")
        with Flood(fabric.url, one_alert_each(50), connections=50, insist=False) as flood:
            flood.join(DEADLINE)
        assert len(flood.acknowledged) == 50


@contextmanager
def files_allowed(number: int) -> Iterator[Callable[[], None]]:
    """Processes started within may open so many files; the function allows ourselves many again."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2 * MANY_CONNECTIONS:
        pytest.skip(f"NOT TESTED WITH MANY CONNECTIONS: a process may open {hard} files at most")
    many = hard if hard != resource.RLIM_INFINITY else 2 * MANY_CONNECTIONS
    resource.setrlimit(resource.RLIMIT_NOFILE, (number, hard))
    try:
        yield lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (many, hard))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
