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


@pytest.mark.parametrize("signal", ["SIGTERM", "SIGINT"])
@pytest.mark.parametrize(
    "places",
    [["Fabric.start"], ["HealingOrchestrator.start"], ["Fabric.start", "Caller.stop"]],
    ids=["all has started", "half has started", "twice"],
)
def test_it_ends_in_order_whenever_it_is_told_to(tmp_path: Path, places: list[str], signal: str) -> None:
    """Ctrl-C and SIGTERM alike: everything is closed, and the exit status says that all is well."""
    with reserved_ports(1) as (port,):
        settings = {"listen": f"127.0.0.1:{port}", "prometheus": {"url": "http://127.0.0.1:9"}}
        (tmp_path / "shf.yaml").write_text(json.dumps(settings))
        program = PROGRAM.format(signal=signal, places=places)
        ended = subprocess.run(
            [sys.executable, "-c", program],
            cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
    lines = [json.loads(line) for line in ended.stderr.splitlines() if line.startswith("{")]
    told = [(line["event"], line.get("signal")) for line in lines if line["event"].startswith("stop")]
    assert (ended.returncode, told) == (0, [("stopping", signal), ("stopped", None)]), ended.stderr
