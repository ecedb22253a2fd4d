"""A storm: half of the data centre alerts within a minute, and nothing was grouped.

10,000 alerts of 2,000 services arrive as 10,000 notifications on 500 connections, while the fabric repairs
what it can and people look at it. What was done is counted at the targets, what was stored is read from the
database behind the fabric's back. A comparison with the servers only ends alerts here (no Alertmanager is
configured), so it cannot find again what ingestion has lost.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from alert_flood import Delivery, Flood
from served_fabric import ServedFabric, healing_settings, served_fabric, stored_alerts, stubbed_world
from stub_world import service_names

pytestmark = pytest.mark.e2e

SERVICES = 2000
INCURABLE = 100  # of these: restarted as often as the budget allows, and no oftener
ALERTS_EACH = 5
SECONDS = 60.0
CONNECTIONS = 500
WORKERS = 16
MAX_ACTIONS = 2
MOST_MEMORY = 600  # MiB resident; it needs less than half, so only a leak would get there
CLIENT_TIMEOUT = 10.0  # seconds; Prometheus's own default for a scrape
DEADLINE = 300.0  # seconds, for busy machines


class Caller:
    """A person or a Prometheus that asks one URL again and again during the storm."""

    def __init__(self, url: str, pause: float) -> None:
        self.url = url
        self.durations: list[float] = []
        self.failures: list[str] = []
        self._pause = pause
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="caller")

    def __enter__(self) -> Caller:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        with httpx.Client(timeout=CLIENT_TIMEOUT, trust_env=False) as client:
            while not self._stopping.wait(self._pause):
                begin = time.monotonic()
                try:
                    client.get(self.url).raise_for_status()
                except httpx.HTTPError as error:
                    self.failures.append(f"after {time.monotonic() - begin:.1f} s: {error!r}")
                self.durations.append(time.monotonic() - begin)

    def __str__(self) -> str:
        ordered = sorted(self.durations)
        return (
            f"{self.url}: {len(ordered)} calls, p50 {ordered[len(ordered) // 2]:.2f} s, "
            f"p99 {ordered[int(len(ordered) * 0.99)]:.2f} s, highest {ordered[-1]:.2f} s"
        )


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty store."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/shf.db"
        return
    yield request.getfixturevalue("postgresql").create_database("storm")


def memory(pid: int) -> float:
    """The most that was resident so far, in MiB."""
    (line,) = [each for each in Path(f"/proc/{pid}/status").read_text().splitlines() if "VmHWM" in each]
    return int(line.split()[1]) / 1024


def storm() -> list[Delivery]:
    """All notifications, in an order that is random and the same each time."""
    deliveries = [Delivery(name, alert) for name in service_names(SERVICES) for alert in range(ALERTS_EACH)]
    random.Random(4711).shuffle(deliveries)  # noqa: S311 - no secret
    return deliveries


def at_rest(fabric: ServedFabric) -> bool:
    """Whether each service's incident is resolved, or with people where nothing cures it."""
    status = fabric.status()
    settled = status["incidents"].get("resolved", 0) + status["incidents"].get("closed", 0)
    return (settled, status["incidents"].get("escalated", 0)) == (SERVICES - INCURABLE, INCURABLE)


def test_a_storm_loses_nothing_and_stays_inside_the_limits(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """10,000 alerts of 2,000 services in a minute: each is stored once it is acknowledged and becomes part of
    its service's one incident, the API answers meanwhile, memory stays bounded, every curable target is
    restarted exactly once, an incurable one as often as its budget allows, and never two things at once.
    """
    options = {"services": SERVICES, "incurable": INCURABLE, "alerts": ALERTS_EACH, "repair_seconds": 0.2}
    with ExitStack() as stack:
        world = stack.enter_context(stubbed_world(tmp_path, **options))
        settings: dict[str, Any] = healing_settings(world, SERVICES) | {
            "store": store,
            "workers": WORKERS,
            "relapse_window": "1h",  # what is resolved stays so until it is counted
            "guardrails": {
                "max_actions": MAX_ACTIONS,
                "cooldown": "1s",
                "fleet": {"at_once": "100%", "targets": "100%", "storm": "100%"},
            },
            "plans": {"service_failure": ["restart"] * (MAX_ACTIONS + 1)},
        }
        settings["verification"] |= {"deadline": "8s"}
        # Fabrics of other tests may be bound to the CPU on which it would stay: docs/store.md.
        settings["cpu_affinity"] = "all"
        fabric = stack.enter_context(served_fabric(tmp_path, **settings))
        callers = [
            stack.enter_context(Caller(f"{fabric.url}{path}", pause))
            for path, pause in (("/api/v1/status", 0.2), ("/metrics", 5.0))
        ]
        flood = stack.enter_context(Flood(fabric.url, storm(), connections=CONNECTIONS, seconds=SECONDS))
        flood.join(DEADLINE)
        assert len(flood.acknowledged) == SERVICES * ALERTS_EACH
        fabric.wait_worked_in(DEADLINE)
        stored = stored_alerts(store)
        fabric.wait("all at rest", lambda: at_rest(fabric), DEADLINE)
        counts, most = world.counts(), memory(fabric.process.pid)

    with capsys.disabled():
        print(f"\n{store.partition(':')[0]}: most memory {most:.0f} MiB", *callers, flood, sep="\n  ")
    assert {each.fingerprint for each in flood.acknowledged} == stored.keys()
    assert len(set(stored.values())) == SERVICES  # one incident each, and no alert without one
    assert None not in stored.values()
    assert [caller.failures for caller in callers] == [[], []]
    assert most < MOST_MEMORY
    names = service_names(SERVICES)
    curable, incurable = names[:-INCURABLE], names[-INCURABLE:]
    assert {name: counts["restarts"][name] for name in curable} == dict.fromkeys(curable, 1)
    assert {name: counts["restarts"][name] for name in incurable} == dict.fromkeys(incurable, MAX_ACTIONS)
    assert counts["most_at_once_on_one"] == 1
    assert 1 < counts["most_at_once"] <= WORKERS
