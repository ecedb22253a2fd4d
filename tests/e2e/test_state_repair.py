"""Replicas that diverge, from PromQL to PromQL, on real servers; the states are asked at the replicas."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from rules_server import prometheus_with_rules
from served_fabric import ServedFabric, served_fabric

import state_replica
from self_healing_fabric.rules import RuleParameters
from shf_demo import configuration
from shf_demo.ports import reserved_ports
from shf_demo.servers import Programs, Server

pytestmark = pytest.mark.e2e

REPLICAS = ("a", "b", "c")
DAMAGED = b"stat3"
DEADLINE = 90.0  # seconds, for busy machines
SERVICE = "ledger"


class Ledger:
    """The service, its monitoring and the fabric, running."""

    def __init__(self, workdir: Path, programs: Programs, running: ExitStack) -> None:
        self.aside = workdir / "aside"
        *replicas, prometheus, alertmanager, fabric = running.enter_context(reserved_ports(6))
        self.ports = dict(zip(REPLICAS, replicas, strict=True))
        listing = str(self.ports).replace("'", '"')
        command = [sys.executable, state_replica.__file__, listing]
        first = f"http://127.0.0.1:{replicas[0]}/state/digest"
        running.enter_context(_server("replicas", command, first, workdir)).wait_ready()
        self._monitoring(workdir, programs, running, prometheus, alertmanager, fabric)
        voters = [{"name": name, "url": self.url(name, "state"), "failure_domain": name} for name in REPLICAS]
        state = {"replicas": voters, "keep_aside": str(self.aside), "pause": "500ms"}
        self.fabric: ServedFabric = running.enter_context(
            served_fabric(
                workdir,
                listen=f"127.0.0.1:{fabric}",
                prometheus={
                    "url": f"http://127.0.0.1:{prometheus}",
                    "scrape_interval": "1s",
                    "evaluation_interval": "1s",
                },
                alertmanager={"url": f"http://127.0.0.1:{alertmanager}"},
                thresholds={"heartbeat": "10s"},
                verification={"stability": "5s", "deadline": "60s", "interval": "1s"},
                services={SERVICE: {"recovery": {"state": state}}},
            )
        )

    def _monitoring(
        self,
        workdir: Path,
        programs: Programs,
        running: ExitStack,
        prometheus: int,
        alertmanager: int,
        fabric: int,
    ) -> None:
        routed = configuration.write(
            workdir / "alertmanager.yml", configuration.alertmanager(f"http://127.0.0.1:{fabric}")
        )
        command = [
            programs.alertmanager,
            f"--config.file={routed}",
            f"--storage.path={workdir / 'alertmanager'}",
            f"--web.listen-address=127.0.0.1:{alertmanager}",
            "--cluster.listen-address=",
            "--log.level=warn",
        ]
        ready = f"http://127.0.0.1:{alertmanager}/-/ready"
        running.enter_context(_server("alertmanager", command, ready, workdir)).wait_ready()
        targets = [f"127.0.0.1:{port}" for port in self.ports.values()]
        job = {
            "job_name": "replicas",
            "static_configs": [{"targets": targets, "labels": {"service": SERVICE}}],
        }
        rules = RuleParameters(scrape_interval=1, heartbeat=10, state_for=3, keep_firing=5)
        self.prometheus = running.enter_context(
            prometheus_with_rules(workdir, prometheus, rules, [job], alertmanager=f"127.0.0.1:{alertmanager}")
        )

    def url(self, replica: str, path: str) -> str:
        return f"http://127.0.0.1:{self.ports[replica]}/{path}"

    def damage(self, replica: str, state: bytes) -> None:
        """As a disk would: behind everybody's back."""
        httpx.post(self.url(replica, "damage"), content=state, trust_env=False).raise_for_status()

    def states(self) -> dict[str, bytes]:
        return {name: httpx.get(self.url(name, "state"), trust_env=False).content for name in REPLICAS}

    def digests(self) -> float | None:
        """How many different states Prometheus sees."""
        answer = self.prometheus.get("/api/v1/query", params={"query": "service:shf_state:digests"})
        result = answer.raise_for_status().json()["data"]["result"]
        return float(result[0]["value"][1]) if result else None

    def wait(self, what: str, condition: Callable[[], bool]) -> None:
        self.fabric.wait(what, condition, DEADLINE)

    def story(self) -> dict[str, Any]:
        """The newest incident with everything."""
        newest = self.fabric.incidents()[0]["id"]
        return dict(self.fabric.http.get(f"/api/v1/incidents/{newest}").raise_for_status().json())


def _server(name: str, command: list[str], ready: str, workdir: Path) -> Server:
    return Server(name, command, ready, workdir / f"{name}.log", environment=os.environ)


@pytest.fixture
def ledger(programs: Programs, tmp_path: Path) -> Iterator[Ledger]:
    """Three replicas that agree, as Prometheus sees it."""
    with ExitStack() as running:
        found = Ledger(tmp_path, programs, running)
        found.wait("all agree", lambda: found.digests() == 1)
        yield found


def test_a_replica_that_diverges_is_repaired_and_proved_by_its_digest(ledger: Ledger) -> None:
    """Digest series, alert, data_corruption, repair, one digest for the stability window, resolved."""
    ledger.damage("c", DAMAGED)
    ledger.wait("resolved", lambda: [row["state"] for row in ledger.fabric.incidents()] == ["resolved"])
    told = ledger.story()
    assert (told["signal"], told["failure_class"], told["outcome"]) == (
        "state_divergence",
        "data_corruption",
        "healed",
    )
    assert [(action["strategy"], action["status"]) for action in told["actions"]] == [("repair", "succeeded")]
    assert ledger.states() == dict.fromkeys(REPLICAS, b"state")
    assert [path.read_bytes() for path in ledger.aside.rglob("*") if path.is_file()] == [DAMAGED]
    assert ledger.digests() == 1


def test_replicas_that_all_differ_are_left_to_people(ledger: Ledger) -> None:
    """The alert comes, nothing is touched, and the reason stands in the incident."""
    ledger.damage("b", b"another")
    ledger.damage("c", DAMAGED)
    before = ledger.states()
    ledger.wait("escalated", lambda: [row["state"] for row in ledger.fabric.incidents()] == ["escalated"])
    time.sleep(3)  # long enough for an order that should not come
    assert ledger.states() == before
    assert not ledger.aside.exists()
    told = " ".join(entry["message"] for entry in ledger.story()["timeline"])
    assert "repair is not possible: a tie: at most 1 of 3 failure domains agree" in told
