"""Whatever ends the demo, nothing that it started is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from shf_demo import servers
from shf_demo.runner import run
from shf_demo.signals import signals_interrupt
from shf_demo.stack import Stack

RUN = "import sys; from shf_demo.runner import run; sys.exit(run())"


def descendants(pid: int) -> set[int]:
    """All processes below this one, from /proc."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        parents[int(stat.parent.name)] = int(fields[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


def alive(pids: set[int]) -> set[int]:
    """Those that still run; a zombie has ended and only waits to be collected."""
    return {pid for pid in pids if _state(pid) not in ("", "Z")}


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("started", [3, 16])
def test_a_signal_during_the_start_stops_everything(number: int, started: int, tmp_path: Path) -> None:
    """With few and with many processes up: all of them end, and so does the working directory; status 130."""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-c", RUN],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as demo:
        children: set[int] = set()
        while len(children) < started and demo.poll() is None:
            children |= descendants(demo.pid)
            time.sleep(0.01)
        demo.send_signal(number)
        demo.send_signal(number)
        output, _ = demo.communicate(timeout=60)
    assert demo.returncode == 130, output
    assert "Every process that was started has been stopped." in output
    # One that was being started at that moment is ended by the kernel, a little after its parent.
    end = time.monotonic() + 10
    while alive(children) and time.monotonic() < end:
        time.sleep(0.05)
    assert not alive(children)
    assert list(tmp_path.iterdir()) == []


def test_a_signal_between_the_start_of_a_server_and_its_name_leaves_no_process(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The process runs and nobody has been told of it yet: it ends all the same, before the start is over."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen(*arguments, **options))
        signal.raise_signal(signal.SIGINT)
        return started[-1]

    monkeypatch.setattr(servers, "subprocess", SimpleNamespace(Popen=start, DEVNULL=subprocess.DEVNULL))
    with pytest.raises(KeyboardInterrupt), signals_interrupt(), Stack(tmp_path):
        pass
    assert [process.returncode is None for process in started] == [False]


def test_missing_servers_are_a_message_and_not_a_traceback(tmp_path: Path) -> None:
    """Without the programs on PATH the demo says what to install and fails."""
    environment = {**os.environ, "PATH": str(tmp_path), "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", RUN]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "apt-get install --no-install-recommends prometheus prometheus-alertmanager" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_an_unknown_fault_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is started for a fault that does not exist, and those that do are named."""
    assert run(faults=["hang", "sloth"]) == 2
    assert "no such fault: sloth; there are hang, exit," in capsys.readouterr().out
