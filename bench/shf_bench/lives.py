"""Whole lives of incidents a second: detected, diagnosing, recovering, verifying, resolved, with a restart.

The fabric's own orchestrator, store, guardrails and restart over HTTP; only Prometheus is replaced, inside
the process, by answers that cost nothing: a service is silent until its restart URL was called, and answers
from then on. The notifications are taken in before the clock starts. The restarts are counted by the target.

    python -m shf_bench.lives CONFIGURATION FLAGS COUNT > RESULT      (JSON; a process of its own)
"""

from __future__ import annotations

import json
import mmap
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import Connection, text

from self_healing_fabric.app import create_app, tune_process
from self_healing_fabric.configuration import load_settings
from self_healing_fabric.integration.lifecycle import Fabric
from self_healing_fabric.orchestration.healing_orchestrator import HealingOrchestrator
from self_healing_fabric.recovery.verification import Verifier
from self_healing_fabric.telemetry import configure_logging
from shf_bench import processes
from shf_bench.ingest import Lost
from shf_bench.notifications import Notifications, service_name
from shf_bench.servers import Workshop
from shf_bench.stub import Stub
from shf_queries import Sample, Series
from shf_queries.catalogue import HEARTBEAT

PATIENCE = 300.0  # seconds
POLL = 0.1  # seconds between two looks at how far it is
LOG_TAIL = 2000  # characters
ALERTS = 50  # in a notification
INTERVAL = 0.01  # seconds between two samples
_RESOLVED = text("SELECT count(*) FROM incidents WHERE state = 'resolved'")
LOOK = 0.2  # seconds from the restart to the look at the samples: the shortest that the settings allow


class InstantPrometheus:
    """Knows the heartbeat of services numbered as the bytes of a shared file: 0 until restarted."""

    def __init__(self, flags: Path) -> None:
        with flags.open("rb") as file:
            self._restarted = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def instant(self, promql: str, *, at: float | None = None) -> tuple[Sample, ...]:
        """The recorded heartbeat; nothing is known of anything else."""
        if not promql.startswith("{__name__="):
            return ()
        name = promql.rsplit('"', 2)[1]
        labels = {"__name__": HEARTBEAT.series, "service": name}
        return (Sample(labels, at or time.time(), self._value(promql)),)

    def together(self, queries: Sequence[str], *, at: float | None = None) -> tuple[tuple[Sample, ...], ...]:
        """Nothing is known of any."""
        return ((),) * len(queries)

    def raw(self, selector: str, *, seconds: float, at: float | None = None) -> tuple[Series, ...]:
        """Samples up to now, without a gap."""
        at = time.time() if at is None else at
        times = at - INTERVAL * np.arange(seconds // INTERVAL, -1.0, -1.0)
        return (Series({}, times, np.full(times.size, self._value(selector))),)

    def range(self, promql: str, *, start: float, end: float, step: float) -> tuple[Series, ...]:
        """No history: what ranking causes costs is measured by `make bench-rca`."""
        return ()

    def alerts(self) -> Sequence[Any]:
        """None."""
        return []

    def version(self) -> None:
        """Not told."""

    def close(self) -> None:
        """Nothing to close."""

    def _value(self, promql: str) -> float:
        found = re.search(r'"s(\d{5})"', promql)
        return float(self._restarted[int(found[1])]) if found else 0.0


def measure(workshop: Workshop, store: str, count: int) -> dict[str, Any]:
    """Figures of one store."""
    with Stub(workshop.folder, services=count) as stub:
        names = [service_name(number) for number in range(count)]
        configuration = workshop.configuration(
            workshop.new_store(store),
            1,  # nothing listens
            services={
                name: {"recovery": {"http": {"restart": f"{stub.url}/restart/{name}"}}} for name in names
            },
            prometheus={"url": stub.url, "scrape_interval": INTERVAL, "evaluation_interval": INTERVAL},
            verification={"stability": INTERVAL, "deadline": 60, "interval": LOOK},
        )
        log = configuration.with_suffix(".log")
        command = processes.module("lives", str(configuration), str(stub.flags), str(count))
        with log.open("wb") as errors:
            done = subprocess.run(  # noqa: S603 - all of it is ours
                command, stdout=subprocess.PIPE, stderr=errors, check=False, env=processes.environment()
            )
        if done.returncode:
            raise Lost(f"the lives ended too early:\n{log.read_text()[-LOG_TAIL:]}")
        figures: dict[str, Any] = json.loads(done.stdout)
        seen = stub.seen()
    check_restarts(seen, count)
    return figures


def check_restarts(seen: Mapping[str, Any], count: int) -> None:
    """Raise Lost unless the target was restarted once for each service, and no more."""
    restarts = seen["restarts"]
    if set(restarts.values()) != {1} or len(restarts) != count or seen["keys"] != count:
        counted = dict(Counter(restarts.values()))
        raise Lost(f"{count} services were to be restarted once each; the target counted {counted}")


def median(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The run in the middle, with the seconds of all."""
    middle = sorted(runs, key=lambda run: float(run["seconds"]))[len(runs) // 2]
    return {**middle, "seconds_of_runs": [run["seconds"] for run in runs]}


def live(configuration: Path, flags: Path, count: int) -> dict[str, Any]:
    """Let `count` incidents live; figures from the store."""
    settings = load_settings(configuration)
    prometheus: Any = InstantPrometheus(flags)
    fabric = Fabric(settings)
    fabric.context = replace(fabric.context, prometheus=prometheus, verifier=Verifier(prometheus, settings))
    fabric.orchestrator = HealingOrchestrator(fabric.context)
    client = create_app(fabric).test_client()
    for number in range(count // ALERTS):
        notifications = Notifications(ALERTS, count, first=number, first_service=number * ALERTS)
        answer = client.post("/api/v1/alerts", data=notifications.body(notifications.template(), 0))
        if answer.status_code != 202:
            raise Lost(f"a notification was not taken: {answer.text}")
    empty = _bytes_of(fabric)
    began_at, began = time.time(), time.process_time()
    tune_process(settings.cpu_affinity)
    fabric.start()
    try:
        deadline = time.monotonic() + PATIENCE
        while (resolved := fabric.store.read(_count_resolved)) < count:
            if time.monotonic() > deadline:
                raise Lost(f"of {count} incidents only {resolved} were resolved")
            time.sleep(POLL)
        used = time.process_time() - began
        ended = [_resolved_at(row) for row in _incidents(client) if row["outcome"] == "healed"]
        size = _bytes_of(fabric) - empty
    finally:
        fabric.stop()
    if len(ended) != count:
        raise Lost(f"of {count} incidents {len(ended)} were healed")
    seconds = max(ended) - began_at
    return {
        "incidents": count,
        "seconds": seconds,
        "incidents_per_second": count / seconds,
        "cpu_ms_per_incident": 1000 * used / count,
        "bytes_per_incident": size / count,
    }


def _count_resolved(connection: Connection) -> int:
    """What is asked ten times a second must not be what is measured: /status counts by everything."""
    return int(connection.execute(_RESOLVED).scalar_one())


def _bytes_of(fabric: Fabric) -> int:
    """What the store takes up, with indexes and with what waits to be used again."""
    queries = {
        "postgresql": "SELECT pg_database_size(current_database())",
        "sqlite": "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size",
    }

    def ask(connection: Connection) -> int:
        return int(connection.execute(text(queries[connection.dialect.name])).scalar_one())

    return fabric.store.read(ask)


def _incidents(client: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    parameters: dict[str, Any] = {"state": "resolved", "limit": 500}
    while True:
        page = client.get("/api/v1/incidents", query_string=parameters).get_json()
        rows += page["incidents"]
        if page["next_cursor"] is None:
            return rows
        parameters["cursor"] = page["next_cursor"]


def _resolved_at(row: dict[str, Any]) -> float:
    return datetime.fromisoformat(row["resolved_at"]).timestamp()


if __name__ == "__main__":
    configure_logging(json=True)
    json.dump(live(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])), sys.stdout)
