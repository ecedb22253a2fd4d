"""Several `shf serve` processes on one database, and the hands that kill, freeze and ask them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import yaml
from limits import UNBOUND
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import NullPool, Row, create_engine, text
from surroundings import Surroundings, grouped

from shf_demo.ports import reserved_ports
from shf_demo.tether import tethered

READY_DEADLINE = 60.0  # seconds, for busy machines; as all deadlines here
DEADLINE = 120.0  # seconds for everything to be healed
HERE = Path(__file__).parent


def wait_for(what: str, condition: Callable[[], Any], seconds: float = DEADLINE) -> Any:
    """Wait until the condition holds; returns what it returned."""
    end = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < end, f"not in time: {what}"
        time.sleep(0.05)
    return answer


class Replica:
    """One process."""

    def __init__(self, number: int, config: Path, port: int, changes: Mapping[str, Any]) -> None:
        self.name = f"replica {number}"
        self.log = config.with_suffix(".log")
        self.url = f"http://127.0.0.1:{port}"
        program = [str(HERE / "replica.py"), json.dumps(dict(changes))]
        command = [sys.executable, *(program if changes else ["-m", "self_healing_fabric.cli"])]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("SHF_")}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                tethered([*command, "serve", "--config", str(config), "--log-format", "json"]),
                stdout=log,
                stderr=log,
                env=environment,
            )
        self.http = httpx.Client(base_url=self.url, timeout=10, trust_env=False)

    @property
    def pid(self) -> int:
        return self.process.pid

    def is_ready(self) -> bool:
        """Whether it takes notifications."""
        assert self.process.poll() is None, f"{self.name} ended:\n{self.log.read_text()[-2000:]}"
        try:
            return self.http.get("/readyz").is_success
        except httpx.HTTPError:
            return False

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait()

    def freeze(self) -> None:
        """SIGSTOP; returns when it has stopped."""
        self.process.send_signal(signal.SIGSTOP)
        self.wait_frozen()

    def wait_frozen(self) -> None:
        """Wait until it has stopped, by whosever hand."""
        wait_for(f"{self.name} frozen", self.is_frozen)

    def is_frozen(self) -> bool:
        """Whether the kernel says that it is stopped."""
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"

    def thaw(self) -> None:
        """SIGCONT."""
        self.process.send_signal(signal.SIGCONT)

    def status(self) -> dict[str, Any]:
        """GET /api/v1/status."""
        return dict(self.http.get("/api/v1/status").raise_for_status().json())

    def actions(self) -> Counter[str]:
        """How many actions it has ended, by their outcome."""
        counted: Counter[str] = Counter()
        for family in text_string_to_metric_families(self.http.get("/metrics").raise_for_status().text):
            for sample in family.samples:
                if sample.name == "shf_recovery_actions_total":
                    counted[sample.labels["outcome"]] += int(sample.value)
        return counted

    def events(self) -> list[dict[str, Any]]:
        """The lines of its log."""
        lines = self.log.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def end(self) -> None:
        """Whatever has become of it."""
        self.process.kill()  # also one that is frozen
        self.process.wait()
        self.http.close()


class Replicas:
    """`with Replicas(folder, world, url) as fabric:` starts them; all are ended afterwards."""

    def __init__(
        self,
        folder: Path,
        world: Surroundings,
        url: str,
        *,
        count: int = 2,
        timeout: float = 3.0,
        changes: Sequence[Mapping[str, Any]] = (),
        urls: Sequence[str] = (),
        services: Mapping[str, Mapping[str, Any]] | None = None,
        mode: str = "automatic",
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self._folder, self._world, self._url, self._count = folder, world, url, count
        self._changes, self._urls, self._timeout = changes, urls, timeout
        self._services, self._mode, self._settings = services or {}, mode, settings or {}
        self.all: list[Replica] = []
        self.engine = create_engine(url, poolclass=NullPool)

    def __enter__(self) -> Self:
        try:
            with reserved_ports(self._count) as ports:
                for number, port in enumerate(ports):
                    self.all.append(self._start(number, port))
                for replica in self.all:
                    wait_for(f"{replica.name} ready", replica.is_ready, READY_DEADLINE)
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def end(self) -> None:
        """End all that are left."""
        for replica in self.all:
            replica.end()
        self.engine.dispose()

    def _start(self, number: int, port: int) -> Replica:
        services = {
            name: self._world.configuration(name, timeout=self._timeout) for name in self._world.services
        }
        settings = {
            "listen": f"127.0.0.1:{port}",
            "store": self._urls[number] if self._urls else self._url,
            "mode": self._mode,
            "reconcile_interval": 2,
            "relapse_window": 300,
            "prometheus": {"url": self._world.url, "scrape_interval": 0.2, "evaluation_interval": 0.2},
            "verification": {"stability": 0.6, "deadline": 60, "interval": 0.3},
            "guardrails": {"cooldown": 0, "max_actions": 20, **UNBOUND},
            "services": {**services, **self._services},
            **self._settings,
        }
        config = self._folder / f"replica-{number}.yaml"
        config.write_text(yaml.safe_dump(settings))
        return Replica(number, config, port, self._changes[number] if self._changes else {})

    def notify(self, *services: str, size: int = 5) -> None:
        """Send the services' alerts to all replicas in turn, each twice, as a pair of Alertmanagers does."""
        for index, group in enumerate(grouped(services or self._world.services, size)):
            for replica in (self.all[index % len(self.all)], self.all[(index + 1) % len(self.all)]):
                body = self._world.notification(*group)
                assert replica.http.post("/api/v1/alerts", json=body).status_code == 202

    def rows(self, query: str, **values: Any) -> list[Row[Any]]:
        """Ask the database."""
        with self.engine.connect() as connection:
            return list(connection.execute(text(query), values))

    def all_healed(self) -> bool:
        """Whether every service has an incident that is over, and nothing else is open."""
        rows = self.rows("SELECT service, state FROM incidents")
        over = {row.service for row in rows if row.state in ("resolved", "closed")}
        return over == set(self._world.services) and len(rows) == len(over)

    def wait_healed(self) -> None:
        """Wait until all is healed; say what is not."""
        try:
            wait_for("all healed", self.all_healed)
        except AssertionError as error:
            left = self.rows(
                "SELECT service, state, waiting_for, lease_owner FROM incidents "
                "WHERE state NOT IN ('resolved', 'closed')"
            )
            raise AssertionError(f"{error}; left: {left[:10]} of {len(left)}") from None

    def assert_each_once(self) -> None:
        """Every service was restarted exactly once, and the journal says the same as the target."""
        counts = self._world.counts()
        assert counts == dict.fromkeys(self._world.services, 1)
        rows = self.rows("SELECT id, status FROM actions WHERE strategy = 'restart'")
        assert sorted(row.id for row in rows if row.status == "succeeded") == sorted(self._world.keys())
        assert {row.status for row in rows} <= {"succeeded", "failed"}
        lost = self.rows(
            "SELECT count(*) FROM inbox UNION ALL SELECT count(*) FROM alerts WHERE incident_id IS NULL"
        )
        assert [row[0] for row in lost] == [0, 0]
