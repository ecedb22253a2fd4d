"""What becomes of a burst: the same 2,000 alerts at once, for the fabric and for a queue in memory.

Each alert is of a service of its own, on 200 connections; a repair takes 2 s. Counted is at the target: how
many services were restarted, and whether one was restarted twice. The peer is Robusta's queue of incoming
alerts, because its last release on PyPI that holds it can be installed; nothing else of Robusta is measured.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import venv
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alert_flood import Flood
from served_fabric import World, healing_settings, one_alert_each, served_fabric, stubbed_world

from shf_demo.ports import reserved_ports
from shf_demo.servers import Server

BURST = 2000
REPAIR_SECONDS = 2.0
CONNECTIONS = 200
PATIENCE = 600.0  # seconds
SETTLED = 30.0  # without a further restart: no more will come; a busy machine pauses for many seconds
ROBUSTA = "robusta-cli==0.10.25"
NEEDED = ("prometheus-client<0.13", "pytz<2022")  # by the two modules that are imported


class PeerMissing(Exception):
    """The peer cannot be installed here; the text says why."""


def of_fabric(folder: Path, workers: int) -> dict[str, Any]:
    """What the fabric makes of it."""
    with _world(folder / "fabric") as (place, world):
        settings = healing_settings(world, BURST) | {
            "workers": workers,
            "guardrails": {"fleet": {"at_once": "100%", "targets": "100%", "storm": "100%"}},
        }
        with served_fabric(place, **settings) as fabric:
            return _deliver(fabric.url, world)


def of_robusta(folder: Path) -> dict[str, Any]:
    """What Robusta's queue makes of it. Raises PeerMissing."""
    python = _environment(folder / "robusta-environment")
    script = Path(__file__).with_name("robusta_queue.py")
    with _world(folder / "robusta") as (place, world), reserved_ports(1) as (port,):
        url = f"http://127.0.0.1:{port}"
        command = [str(python), str(script), str(port), world.url]
        with Server("queue", command, url, place / "queue.log", environment=os.environ) as server:
            server.wait_ready()
            return _deliver(url, world)


def table(figures: Mapping[str, Any]) -> str:
    """Markdown, a row for each receiver."""
    lines = [
        "| receiver | acknowledged | targets repaired | but not repaired | repaired twice | seconds |",
        "|---|---|---|---|---|---|",
    ]
    for name, of in figures.items():
        if "missing" in of:
            lines.append(f"| {name} | not measured: {of['missing']} | | | | |")
            continue
        lines.append(
            f"| {name} | {of['acknowledged']:,} of {of['alerts']:,} | {of['repaired']:,} | "
            f"{of['acknowledged'] - of['repaired']:,} | {of['repaired_twice']:,} | {of['seconds']:.0f} |"
        )
    return "\n".join(lines)


@contextmanager
def _world(folder: Path) -> Iterator[tuple[Path, World]]:
    folder.mkdir()
    options = {"services": BURST, "incurable": 0, "alerts": 1, "repair_seconds": REPAIR_SECONDS}
    with stubbed_world(folder, **options) as world:
        yield folder, world


def _deliver(url: str, world: World) -> dict[str, Any]:
    began = time.monotonic()
    with Flood(url, one_alert_each(BURST), connections=CONNECTIONS) as flood:
        flood.join(PATIENCE)
    ended = _wait_until_settled(world)
    restarts = Counter(world.counts()["restarts"])
    return {
        "alerts": BURST,
        "acknowledged": len(flood.acknowledged),
        "repaired": len(restarts),
        "repaired_twice": sum(number > 1 for number in restarts.values()),
        "seconds": ended - began,
    }


def _wait_until_settled(world: World) -> float:
    """Wait until no further restart comes; returns when the last one was seen, on the monotonic clock."""
    deadline, seen, at = time.monotonic() + PATIENCE, -1, time.monotonic()
    while time.monotonic() < min(deadline, at + SETTLED) or world.counts()["under_way"]:
        number = sum(world.counts()["restarts"].values())
        if number != seen:
            seen, at = number, time.monotonic()
        time.sleep(0.2)
    return at


def _environment(folder: Path) -> Path:
    """The interpreter of an environment that has the peer. Raises PeerMissing."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    try:
        for what in (NEEDED, ("--no-deps", ROBUSTA)):
            subprocess.run([*install, *what], check=True, stdout=sys.stderr)  # noqa: S603 - into its own folder
    except subprocess.CalledProcessError as error:
        raise PeerMissing(f"{ROBUSTA} cannot be installed: {error}") from error
    return python
