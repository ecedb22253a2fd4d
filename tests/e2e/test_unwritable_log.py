"""What takes the log is a full disk, closed, or a pipe of which nobody reads: the fabric starts, heals and
ends as ever."""

from __future__ import annotations

import fcntl
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import yaml
from served_fabric import World, healing_settings, one_alert_each, stubbed_world

from shf_demo.ports import reserved_ports
from shf_demo.servers import Server

pytestmark = pytest.mark.e2e

SHF = (sys.executable, "-m", "self_healing_fabric.cli")
SERVICES = 20  # that heal write some 20 kB
UNBOUNDED = {"at_once": "100%", "targets": "100%", "storm": "100%"}


@contextmanager
def fabric_logging_to(where: str, tmp_path: Path, world: World, services: int) -> Iterator[None]:
    """A fabric that was told of a failure of each service, and has healed them."""
    with reserved_ports(1) as (port,):
        settings = {"listen": f"127.0.0.1:{port}", "store": f"sqlite:///{tmp_path}/shf.db"}
        settings |= {"guardrails": {"fleet": UNBOUNDED}, **healing_settings(world, services)}
        (tmp_path / "shf.yaml").write_text(yaml.safe_dump(settings))
        url = f"http://127.0.0.1:{port}"
        command = ["sh", "-c", f'exec "$@" 2{where}', "sh", *SHF, "serve"]
        command += ["--config", f"{tmp_path}/shf.yaml"]
        with Server(
            "fabric", command, f"{url}/readyz", tmp_path / "rest.log", environment=os.environ
        ) as fabric:
            fabric.wait_ready()
            for delivery in one_alert_each(services):
                httpx.post(f"{url}/api/v1/alerts", content=delivery.body()).raise_for_status()
            end = time.monotonic() + 60
            while httpx.get(f"{url}/api/v1/incidents").text.count('"healed"') < services:
                fabric.check_running()
                assert time.monotonic() < end
                time.sleep(0.2)
            yield


@pytest.mark.parametrize("where", ["> /dev/full", ">&-"], ids=["full", "closed"])
def test_a_log_that_takes_nothing_stops_no_healing(where: str, tmp_path: Path) -> None:
    """/dev/full refuses every byte, as a full disk does; counted at the target."""
    with (
        stubbed_world(tmp_path, services=1, incurable=0, repair_seconds=0.1, alerts=1) as world,
        fabric_logging_to(where, tmp_path, world, 1),
    ):
        assert sum(world.counts()["restarts"].values()) == 1


def test_a_pipe_of_which_nobody_reads_stops_no_healing(tmp_path: Path) -> None:
    """Each thread stopped at its next line, for ever: what was acknowledged was not healed, and SIGTERM did
    not end it. Once somebody reads, whole lines go on, and say how many are missing."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
    fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, 8192)  # two pages, and while both are in use none is taken
    with (
        stubbed_world(tmp_path, services=SERVICES, incurable=0, repair_seconds=0.1, alerts=1) as world,
        fabric_logging_to(f"<> {pipe}", tmp_path, world, SERVICES),
    ):
        restarts = world.counts()["restarts"]
        assert restarts == dict.fromkeys(restarts, 1)
        assert len(restarts) == SERVICES
        written = os.read(reader, 1 << 20)
    lines = (written + os.read(reader, 1 << 20)).decode().splitlines()
    os.close(reader)
    told = [json.loads(line) for line in lines]
    assert sum(each["since_start"] for each in told if each["event"] == "log_lines_lost") > 0
    assert told[-1]["event"] == "stopped"
