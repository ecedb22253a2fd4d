"""The examples of an embedded fabric, run as their page says, on real servers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from shf_demo.servers import Programs

pytestmark = pytest.mark.e2e

EXAMPLES = Path(__file__).parents[2] / "examples/embedded"
DEADLINE = 300.0  # seconds; for busy machines, not a measurement


@pytest.fixture(scope="module")
def told(programs: Programs, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What both print, run beside each other."""
    folder = tmp_path_factory.mktemp("examples")
    running = {}
    for name in ("asyncio_program", "thread_program"):
        with (folder / f"{name}.log").open("wb") as log, (folder / f"{name}.json").open("wb") as out:
            command = [sys.executable, "-W", "error", str(EXAMPLES / f"{name}.py")]
            running[name] = subprocess.Popen(command, stdout=out, stderr=log)
    found = {}
    for name, process in running.items():
        assert process.wait(DEADLINE) == 0, (folder / f"{name}.log").read_text()[-3000:]
        text = (folder / f"{name}.json").read_text()
        found[name] = json.loads(text[text.index("\n{\n") :] if not text.startswith("{") else text)
    return found


def test_the_program_heals_what_it_allows_and_nothing_else(told: dict[str, Any]) -> None:
    """One restart of the service that may be touched; none of the other, which goes to people."""
    report = told["asyncio_program"]
    assert report["restarts"] == {"tokenguard": 1, "trustguard": 0}
    assert report["healthy"]["tokenguard"] is True
    assert report["healthy"]["trustguard"] is False
    healed = report["events"]["tokenguard"]
    assert healed[0] == "incident.opened"
    order = ["incident.diagnosed", "action.announced", "action.finished", "incident.verified"]
    assert [event for event in healed if event in order] == order
    assert healed[-1] == "incident.resolved"
    assert "action.refused" in report["events"]["trustguard"]
    assert "action.announced" not in report["events"]["trustguard"]
    assert report["status"]["phase"] == "active"


def test_the_incident_is_not_called_healed_before_the_gate_says_so(told: dict[str, Any]) -> None:
    """Three doubts, one confirmation, one restart; it was still being verified each time it was asked."""
    report = told["thread_program"]
    assert report["restarts"] == 1
    assert report["healthy"] is True
    assert report["asked"] == 4
    assert report["states when asked"] == ["verifying"]
