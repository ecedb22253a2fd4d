"""The system gives the fabric less than it would take: what is acknowledged is healed all the same, or it
does not start and says why."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from served_fabric import healing_settings, one_alert_each, served_fabric, stubbed_world

from shf_demo.ports import reserved_ports

pytestmark = pytest.mark.e2e

SERVICES = 20
STACK = 64 << 20  # bytes of each thread, in the fabric under test
HEAP = 48 << 20  # less than that: memory for work, and for no further thread
UNBOUNDED = {"fleet": {"at_once": "100%", "targets": "100%", "storm": "100%"}}


@contextmanager
def large_stacks() -> Iterator[None]:
    """Processes that are started meanwhile need much address space for a thread."""
    before = resource.getrlimit(resource.RLIMIT_STACK)
    resource.setrlimit(resource.RLIMIT_STACK, (STACK, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_STACK, before)


def test_a_limit_of_threads_that_comes_later_stops_nothing(tmp_path: Path) -> None:
    """Others of the same container or user may have taken the rest. What had been claimed was done by nobody,
    for ever, and kept from other replicas, while all was said to be well."""
    with (
        stubbed_world(tmp_path, services=SERVICES, incurable=0, repair_seconds=0.1, alerts=1) as world,
        large_stacks(),
        served_fabric(tmp_path, guardrails=UNBOUNDED, **healing_settings(world, SERVICES)) as fabric,
    ):
        used = int(Path(f"/proc/{fabric.process.pid}/statm").read_text().split()[0]) * resource.getpagesize()
        resource.prlimit(fabric.process.pid, resource.RLIMIT_AS, (used + HEAP, resource.RLIM_INFINITY))
        for delivery in one_alert_each(SERVICES):
            fabric.http.post("/api/v1/alerts", content=delivery.body()).raise_for_status()
        fabric.wait("healed", lambda: all(each["outcome"] for each in fabric.incidents()), 60)
        restarts = world.counts()["restarts"]
        assert restarts == dict.fromkeys(restarts, 1)
        assert len(restarts) == SERVICES


@pytest.mark.parametrize("threads", [10, 50])
def test_too_few_threads_for_a_start_are_said_so(tmp_path: Path, threads: int) -> None:
    """With 10 not all that answer can be started, with 50 not all that work."""
    with reserved_ports(1) as (port,), large_stacks():
        settings = {"listen": f"127.0.0.1:{port}", "store": f"sqlite:///{tmp_path}/shf.db", "services": {}}
        (tmp_path / "shf.yaml").write_text(yaml.safe_dump(settings))
        most = str((300 << 10) + threads * (STACK >> 10))  # kB; the program itself takes less than the first
        served = f"{sys.executable} -m self_healing_fabric.cli serve --config {tmp_path}/shf.yaml"
        ended = subprocess.run(
            ["sh", "-c", f"ulimit -v {most}; exec {served}"],
            capture_output=True,
            text=True,
            env=os.environ,
            timeout=60,
            check=False,
        )
    assert ended.returncode == 1
    assert "the system allows too few threads; with 16 `workers` some 66 are needed" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("more", [1, 2, 8, 16, 32, 48, 64])
def test_too_little_memory_for_a_start_is_said_so(tmp_path: Path, more: int) -> None:
    """Where it runs out, in the middle of loading the program or of opening the store, does not matter."""
    settings = {"store": f"sqlite:///{tmp_path}/shf.db", "services": {}}
    (tmp_path / "shf.yaml").write_text(yaml.safe_dump(settings))
    limited = (
        "import resource, sys; from self_healing_fabric.cli import main; "
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize(); "
        f"resource.setrlimit(resource.RLIMIT_AS, (used + ({more} << 20),) * 2); "
        f"sys.argv[1:] = ['serve', '--config', '{tmp_path}/shf.yaml']; main()"
    )
    ended = subprocess.run(
        [sys.executable, "-c", limited], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith("shf: there is too little memory")
    assert "Traceback" not in ended.stderr
