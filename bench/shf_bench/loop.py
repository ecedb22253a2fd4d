"""How long one comparison with the servers takes while many incidents are open.

The comparison is the fabric's own, with its store; the list of firing alerts comes from inside the process,
because what Prometheus takes to list them is its own time. Nothing is healed meanwhile: the mode is `paused`.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from self_healing_fabric.app import create_app
from self_healing_fabric.configuration import load_settings
from self_healing_fabric.integration.lifecycle import Fabric
from self_healing_fabric.orchestration.healing_orchestrator import HealingOrchestrator
from self_healing_fabric.orchestration.reconciliation import Reconciliation
from self_healing_fabric.recovery.verification import Verifier
from shf_bench.ingest import Lost
from shf_bench.lives import InstantPrometheus
from shf_bench.notifications import Notifications, service_name
from shf_bench.servers import Workshop

ALERTS = 50  # in a notification
RUNS = 10
PATIENCE = 120.0  # seconds


class ListingPrometheus(InstantPrometheus):
    """Lists what was notified as still firing."""

    listed: Sequence[Mapping[str, Any]] = ()

    def alerts(self) -> Sequence[Any]:
        """All of it."""
        return self.listed


def measure(workshop: Workshop, store: str, sizes: Sequence[int]) -> dict[str, Any]:
    """Milliseconds of the comparisons by number of open incidents."""
    return {str(size): _compare(workshop, store, size) for size in sizes}


def table(of: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """Markdown, a row for each store and size."""
    lines = ["| store | open incidents | one comparison, median | worst |", "|---|---|---|---|"]
    for store, sizes in of.items():
        for size, figures in sizes.items():
            median = statistics.median(figures)
            lines.append(f"| {store} | {int(size):,} | {median:.0f} ms | {max(figures):.0f} ms |")
    return "\n".join(lines)


def _compare(workshop: Workshop, store: str, size: int) -> list[float]:
    services: dict[str, Any] = {service_name(number): {} for number in range(size)}
    path = workshop.configuration(workshop.new_store(store), 1, services=services, mode="paused")
    settings = load_settings(path)
    flags = workshop.folder / "never-restarted"
    flags.write_bytes(bytes(size))
    prometheus: Any = ListingPrometheus(flags)
    fabric = Fabric(settings)
    fabric.context = replace(fabric.context, prometheus=prometheus, verifier=Verifier(prometheus, settings))
    fabric.orchestrator = HealingOrchestrator(fabric.context)
    client = create_app(fabric).test_client()
    listed: list[Mapping[str, Any]] = []
    for number in range(size // ALERTS):
        notifications = Notifications(ALERTS, size, first=number, first_service=number * ALERTS)
        body = notifications.body(notifications.template(), 0)
        client.post("/api/v1/alerts", data=body)
        listed += [{"labels": alert["labels"], "state": "firing"} for alert in json.loads(body)["alerts"]]
    prometheus.listed = listed
    reconciliation = Reconciliation(fabric.context)
    fabric.start()
    try:
        _wait_until_open(client, size)
        took = []
        for _ in range(RUNS):
            began = time.perf_counter()
            reconciliation.run()
            took.append(1000 * (time.perf_counter() - began))
        still = _open(client)
    finally:
        reconciliation.close()
        fabric.stop()
    if still != size:
        raise Lost(f"{size} incidents were open, and {still} after the comparisons")
    return took


def _wait_until_open(client: Any, size: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while _open(client) != size:
        if time.monotonic() > deadline:
            raise Lost(f"not {size} incidents are open, but {_open(client)}")
        time.sleep(0.1)


def _open(client: Any) -> int:
    return sum(client.get("/api/v1/status").get_json()["incidents"].values())
