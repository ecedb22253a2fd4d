"""`shf status` on the running stack: what real servers answered, and how the guardians are."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from shf_demo.servers import Programs
from shf_demo.stack import Stack

pytestmark = pytest.mark.e2e


def test_status_of_a_running_fabric(stack: Stack, fabric: Any, programs: Programs) -> None:
    """Healthy, with Prometheus and Alertmanager answering, their versions, and every guardian seen."""
    command = [sys.executable, "-m", "self_healing_fabric.cli", "status", "--json"]

    def asked() -> tuple[int, dict[str, Any]]:
        done = subprocess.run(
            [*command, "--config", str(stack.configuration_file)], capture_output=True, text=True
        )
        return done.returncode, json.loads(done.stdout)

    guardians = {each.name for each in stack.services if each.kind == "guardian"}

    def all_seen() -> bool:
        answering = asked()[1]["guardians"]["answering"]
        return set(answering) == guardians and set(answering.values()) == {1.0}

    stack.wait_for("guardians seen", all_seen, 60)
    code, report = asked()
    assert code == 0, report["problems"]
    assert {server["kind"]: server["answers"] for server in report["servers"]} == {
        "prometheus": True,
        "alertmanager": True,
    }
    for server in report["servers"]:
        program = getattr(programs, server["kind"])
        told = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
        assert f"version {server['version']} " in told.stdout + told.stderr
    assert all(0 < server["latency_seconds"] < 5 for server in report["servers"])
