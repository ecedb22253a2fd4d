"""Children of the demo do not outlive it, even when it is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux's kernel ends children by itself")

PARENT = """
import subprocess, sys, time
from shf_demo.tether import tethered
child = subprocess.Popen(tethered(["sleep", "60"]))
print(child.pid, flush=True)
time.sleep(60)
"""
FLEET_PARENT = """
import pathlib, sys, time
from shf_demo.fleet import FLEET
from shf_demo.supervisor import Supervisor
with Supervisor(FLEET[:2], pathlib.Path(sys.argv[1])) as supervisor:
    supervisor.restart("guardian-one")
    print(*(supervisor.state(name).pid for name in supervisor.names()), flush=True)
    time.sleep(60)
"""


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"  # a zombie waits for its new parent to notice, and does nothing


@pytest.mark.parametrize("script", [PARENT, FLEET_PARENT])
def test_children_end_with_a_killed_parent(script: str, tmp_path: Path) -> None:
    """SIGKILL of the parent leaves none of its children, those that were restarted by a request included."""
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        children = [int(word) for word in parent.stdout.readline().split()]
        assert children
        assert all(is_alive(child) for child in children)
        os.kill(parent.pid, signal.SIGKILL)
    end = time.monotonic() + 5
    while any(is_alive(child) for child in children):
        assert time.monotonic() < end, "a child outlived its parent"
        time.sleep(0.02)


def test_a_child_whose_parent_is_not_the_named_one_ends() -> None:
    """The parent may have died before the child asked the kernel: then the child must not start at all."""
    command = [sys.executable, "-m", "shf_demo.tether", "1", "echo", "started"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, done.stdout) == (1, "")
