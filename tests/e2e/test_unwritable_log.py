"""The disk to which the log goes is full: the fabric starts, heals and ends as ever."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import httpx
import pytest
import yaml
from served_fabric import healing_settings, one_alert_each, stubbed_world

from shf_demo.ports import reserved_ports
from shf_demo.servers import Server

pytestmark = pytest.mark.e2e

SHF = (sys.executable, "-m", "self_healing_fabric.cli")


def test_a_full_disk_stops_no_healing(tmp_path: Path) -> None:
    """/dev/full refuses every byte, as a full disk does; counted at the target."""
    with (
        stubbed_world(tmp_path, services=1, incurable=0, repair_seconds=0.1, alerts=1) as world,
        reserved_ports(1) as (port,),
    ):
        settings = {"listen": f"127.0.0.1:{port}", "store": f"sqlite:///{tmp_path}/shf.db"}
        (tmp_path / "shf.yaml").write_text(yaml.safe_dump(settings | healing_settings(world, 1)))
        url, log = f"http://127.0.0.1:{port}", tmp_path / "rest.log"
        command = ["sh", "-c", 'exec "$@" 2> /dev/full', "sh", *SHF, "serve"]
        command += ["--config", f"{tmp_path}/shf.yaml"]
        with Server("fabric", command, f"{url}/readyz", log, environment=os.environ) as fabric:
            fabric.wait_ready()
            (delivery,) = one_alert_each(1)
            httpx.post(f"{url}/api/v1/alerts", content=delivery.body()).raise_for_status()
            end = time.monotonic() + 60
            while "healed" not in httpx.get(f"{url}/api/v1/incidents").text:
                fabric.check_running()
                assert time.monotonic() < end
                time.sleep(0.2)
        assert sum(world.counts()["restarts"].values()) == 1
