"""`shf serve` as a process of its own: however early it is told to end, it ends in order."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from shf_demo.ports import reserved_ports

# A signal to itself is handled before the next line of the main thread runs.
PROGRAM = """
import os, signal, sys
from self_healing_fabric.cli import main
from self_healing_fabric.integration import lifecycle

def signal_after(owner, name):
    part = getattr(lifecycle, owner)
    run = getattr(part, name)

    def run_and_signal(*arguments):
        run(*arguments)
        os.kill(os.getpid(), signal.{signal})

    setattr(part, name, run_and_signal)

for each in {places}:
    signal_after(*each.split("."))
main(["serve", "--log-format", "json"])
"""


COLLECTED = """
import gc, os, signal
from self_healing_fabric.cli import main
from self_healing_fabric.integration.lifecycle import Fabric

start = Fabric.start

def start_and_look(fabric):
    start(fabric)
    print(gc.get_freeze_count(), len(gc.get_objects()))
    os.kill(os.getpid(), signal.SIGTERM)

Fabric.start = start_and_look
main(["serve", "--log-format", "json"])
"""


def run(directory: Path, program: str) -> subprocess.CompletedProcess[str]:
    """A Python program in a folder with a configuration."""
    with reserved_ports(1) as (port,):
        settings = {"listen": f"127.0.0.1:{port}", "prometheus": {"url": "http://127.0.0.1:9"}}
        (directory / "shf.yaml").write_text(json.dumps(settings))
        return subprocess.run(
            [sys.executable, "-c", program],
            cwd=directory, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip


def served(directory: Path, places: list[str], signal: str) -> tuple[int, list[tuple[str, str | None]], str]:
    """The exit status of a fabric that is told to end after these calls, what it logs of that, and all."""
    ended = run(directory, PROGRAM.format(signal=signal, places=places))
    lines = [json.loads(line) for line in ended.stderr.splitlines() if line.startswith("{")]
    told = [(line["event"], line.get("signal")) for line in lines if line["event"].startswith("stop")]
    return ended.returncode, told, ended.stderr


@pytest.mark.parametrize(
    ("places", "signal"),
    [
        (["Fabric.start"], "SIGTERM"),
        (["Fabric.start"], "SIGINT"),
        (["HealingOrchestrator.start"], "SIGTERM"),
        (["HealingOrchestrator.start"], "SIGINT"),
        (["Fabric.start", "Caller.stop"], "SIGTERM"),
    ],
)
def test_it_ends_in_order_whenever_it_is_told_to(tmp_path: Path, places: list[str], signal: str) -> None:
    """Ctrl-C and SIGTERM alike: everything is closed, and the exit status says that all is well."""
    status, told, log = served(tmp_path, places, signal)
    assert (status, told) == (0, [("stopping", signal), ("stopped", None)]), log


def test_a_second_ctrl_c_ends_it_at_once(tmp_path: Path) -> None:
    """Whoever is told that it is stopping, and by what it ends at once, is not made to wait all the same."""
    status, told, log = served(tmp_path, ["Fabric.start", "Caller.stop"], "SIGINT")
    assert (status, told) == (130, [("stopping", "SIGINT")]), log
    assert "Ctrl-C ends it at once" in log


def test_the_garbage_collector_leaves_out_what_is_loaded(tmp_path: Path) -> None:
    """It stops all threads for as long as it looks: what never becomes garbage is most of what there is."""
    ended = run(tmp_path, COLLECTED)
    frozen, looked_at = map(int, ended.stdout.split())
    assert frozen > 10 * looked_at, ended.stderr
