"""`shf serve` as a process of its own before a world of stubs: started, asked, killed, started again."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import stub_world
import yaml
from alert_flood import Delivery
from sqlalchemy import create_engine, text

from shf_demo.ports import reserved_ports
from shf_demo.servers import Server

_FABRIC = "import sys; from self_healing_fabric.cli import main; sys.exit(main())"
_PAGE = 500  # incidents in one answer


class ServedFabric:
    """The process and its address. Its store stays where it is when the process ends."""

    def __init__(self, workdir: Path, port: int, settings: Mapping[str, Any]) -> None:
        self.log = workdir / "fabric.log"
        self.configuration_file = workdir / "shf.yaml"
        complete = {"listen": f"127.0.0.1:{port}", "store": f"sqlite:///{workdir}/shf.db", **settings}
        self.url = f"http://{complete['listen']}"
        self.store = complete["store"]
        self.configuration_file.write_text(yaml.safe_dump(complete))
        self.http = httpx.Client(base_url=self.url, timeout=10, trust_env=False)
        environment = {key: value for key, value in os.environ.items() if not key.startswith("SHF_")}
        self.process = Server(
            "fabric",
            [sys.executable, "-c", _FABRIC, "serve", "--config", str(self.configuration_file)],
            f"{self.url}/readyz",
            self.log,
            environment=environment,
        )

    def start(self) -> None:
        """Start it and wait until it takes notifications."""
        self.process.start()
        self.process.wait_ready()

    def incidents(self) -> list[dict[str, Any]]:
        """All incidents."""
        found: list[dict[str, Any]] = []
        cursor: dict[str, str] = {}
        while True:
            page = self.http.get("/api/v1/incidents", params={"limit": _PAGE, "merged": "true", **cursor})
            content = page.raise_for_status().json()
            found += content["incidents"]
            if content["next_cursor"] is None:
                return found
            cursor = {"cursor": content["next_cursor"]}

    def status(self) -> dict[str, Any]:
        """What it is doing."""
        return dict(self.http.get("/api/v1/status").raise_for_status().json())

    def wait(self, what: str, condition: Callable[[], bool], deadline: float) -> None:
        """Wait until the condition holds; the process must not end meanwhile."""
        end = time.monotonic() + deadline
        while not condition():
            self.process.check_running()
            assert time.monotonic() < end, f"{what}: not within {deadline:g} s"
            time.sleep(0.2)

    def wait_worked_in(self, deadline: float) -> None:
        """Wait until nothing that was acknowledged waits to become part of an incident."""
        self.wait("worked in", lambda: self.status()["inbox"]["waiting"] == 0, deadline)


class World:
    """The stubs' process: what it counted is all that counts."""

    def __init__(self, process: Server, url: str) -> None:
        self.url = url
        self._process = process
        self._http = httpx.Client(base_url=url, timeout=10, trust_env=False)

    def counts(self) -> dict[str, Any]:
        """What was done to the services."""
        return dict(self._http.get("/counts").raise_for_status().json())

    def close(self) -> None:
        """Close the connection."""
        self._http.close()


@contextmanager
def stubbed_world(workdir: Path, **options: Any) -> Iterator[World]:
    """Run the stubs; `options` are those of `stub_world.World`."""
    with reserved_ports(1) as (port,):
        url = f"http://127.0.0.1:{port}"
        command = [sys.executable, stub_world.__file__, json.dumps({"port": port, **options})]
        with Server(
            "stubs", command, f"{url}/counts", workdir / "stubs.log", environment=os.environ
        ) as process:
            process.wait_ready()
            world = World(process, url)
            yield world
            world.close()


@contextmanager
def served_fabric(workdir: Path, **settings: Any) -> Iterator[ServedFabric]:
    """A fabric, running; ended with the block in any case."""
    with ExitStack() as stack:
        (port,) = stack.enter_context(reserved_ports(1))
        fabric = ServedFabric(workdir, port, settings)
        stack.callback(fabric.http.close)
        stack.callback(fabric.process.kill)
        fabric.start()
        yield fabric


def healing_settings(world: World, services: int) -> dict[str, Any]:
    """Settings that match the stubs, with a verification of a few seconds."""
    interval = f"{stub_world.RULE_INTERVAL * 1000:.0f}ms"
    return {
        "prometheus": {"url": world.url, "scrape_interval": interval, "evaluation_interval": interval},
        # One look, late enough to prove it, instead of many that only cost the machine.
        "verification": {"stability": "1s", "deadline": "90s", "interval": "4s"},
        "services": {
            name: {"recovery": _recovery(world, name)} for name in stub_world.service_names(services)
        },
    }


def _recovery(world: World, name: str) -> dict[str, Any]:
    url = f"{world.url}/services/{name}"
    return {"http": {"restart": f"{url}/restart", "started_at": url, "timeout": "5s"}}


def stored_alerts(store: str) -> dict[str, str | None]:
    """The incident of each alert in a store, by the alert's fingerprint; read behind the fabric's back."""
    engine = create_engine(store)
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT fingerprint, incident_id FROM alerts")).all()
    engine.dispose()
    return {row.fingerprint: row.incident_id for row in rows}


def one_alert_each(services: int) -> list[Delivery]:
    """A notification for every service."""
    return [Delivery(name, 0) for name in stub_world.service_names(services)]
