"""The servers that are measured, each a process on a store of its own; all is asked over HTTP."""

from __future__ import annotations

import itertools
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml

from shf_bench import processes
from shf_demo.ports import reserved_ports
from shf_demo.servers import Server

PATIENCE = 300.0  # seconds for the fabric to work in what was sent
POLL = 0.05  # seconds between two questions; each costs the fabric a query
PARSE_ONLY, STORE_ONLY, PRODUCT = "parse-only", "store-only", "product"


class Running:
    """A running server and a client of it."""

    def __init__(self, server: Server, port: int) -> None:
        self.port = port
        self._server = server
        self._http = httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60)

    def get(self, path: str, **parameters: Any) -> dict[str, Any]:
        """The JSON at a path."""
        return dict(self._http.get(path, params=parameters).raise_for_status().json())

    def scrape(self) -> None:
        """What Prometheus does every few seconds."""
        self._http.get("/metrics").raise_for_status()

    def post(self, body: bytes) -> None:
        """Send one notification."""
        headers = {"Content-Type": "application/json"}
        self._http.post("/api/v1/alerts", content=body, headers=headers).raise_for_status()

    def incidents(self, **parameters: Any) -> Iterator[dict[str, Any]]:
        """All incidents, page by page."""
        cursor: str | None = None
        while True:
            page = {"limit": 500, **parameters, **({"cursor": cursor} if cursor else {})}
            answer = self.get("/api/v1/incidents", **page)
            yield from answer["incidents"]
            cursor = answer["next_cursor"]
            if cursor is None:
                return

    def states(self) -> Counter[str]:
        """How many incidents are in each state."""
        return Counter(self.get("/api/v1/status")["incidents"])

    def stories(self) -> Iterator[dict[str, Any]]:
        """All incidents with timelines and alerts."""
        for incident in self.incidents():
            yield self.get(f"/api/v1/incidents/{incident['id']}")

    def wait(self, what: str, condition: Callable[[], bool]) -> float:
        """Wait until the condition holds; returns the seconds."""
        began = time.perf_counter()
        while not condition():
            self._server.check_running()
            if time.perf_counter() - began > PATIENCE:
                raise TimeoutError(f"not within {PATIENCE:g} s: {what}")
            time.sleep(POLL)
        return time.perf_counter() - began

    def resident(self) -> int:
        """Bytes of memory that the process has now."""
        for line in Path(f"/proc/{self._server.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise RuntimeError("the kernel tells no VmRSS")

    def kill(self) -> None:
        """As a crash would end it: what it acknowledged must be in the store."""
        self._server.kill()

    def close(self) -> None:
        """Close the connections of the client."""
        self._http.close()


class Workshop:
    """Makes stores and runs servers on them.

    Args:
        folder: for SQLite's files, configurations and logs.
        create_database: returns the URL of a fresh PostgreSQL database, or None when there is no PostgreSQL.
    """

    def __init__(self, folder: Path, create_database: Callable[[str], str] | None) -> None:
        self.folder = folder
        self._create_database = create_database
        self._numbers = itertools.count()

    def new_store(self, kind: str) -> str:
        """The URL of an empty store."""
        name = f"store{next(self._numbers)}"
        if kind == "sqlite":
            return f"sqlite:///{self.folder}/{name}.db"
        if self._create_database is None:
            raise RuntimeError("there is no PostgreSQL")
        return self._create_database(name)

    def configuration(self, store: str, port: int, **settings: Any) -> Path:
        """A configuration file."""
        path = self.folder / f"configuration{next(self._numbers)}.yaml"
        values = {
            "listen": f"127.0.0.1:{port}",
            "store": store,
            "reconcile_interval": 3600,  # nothing fires at the stub: it would end the alerts
            # Everything fails at once here, on purpose.
            "guardrails": {"fleet": {"at_once": "100%", "targets": "100%", "storm": "100%"}},
            **settings,
        }
        path.write_text(yaml.safe_dump(values))
        return path

    @contextmanager
    def run(self, variant: str, store: str, **settings: Any) -> Iterator[Running]:
        """Run the product or one of its variants on a store."""
        with reserved_ports(1) as (port,):
            path = self.configuration(store, port, **settings)
            if variant == PRODUCT:
                command = ["-m", "self_healing_fabric.cli", "serve", "--config", str(path)]
            else:
                command = ["-m", "shf_bench.variants", variant, str(path)]
            url = f"http://127.0.0.1:{port}/readyz"
            log = path.with_suffix(".log")
            server = Server(
                variant, [sys.executable, *command], url, log, environment=processes.environment()
            )
            with server:
                server.wait_ready()
                running = Running(server, port)
                try:
                    yield running
                finally:
                    running.close()
