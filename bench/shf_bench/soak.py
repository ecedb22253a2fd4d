"""Memory over minutes of steady work: what leaks shows only after a while.

Alerts come at a steady rate, each a new one, of services that the fabric is configured to heal, whose restart
URLs answer and whose Prometheus knows of nothing; so every incident passes through diagnosis, guardrails and
a restart, and ends with people.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

from shf_bench.ingest import Lost
from shf_bench.load import run_load
from shf_bench.memory import MIB
from shf_bench.notifications import Notifications, service_name
from shf_bench.servers import PRODUCT, Running, Workshop
from shf_bench.stub import Stub

ALERTS = 20  # in a request
SERVICES = 200
SAMPLE = 10.0  # seconds between two readings


def measure(workshop: Workshop, store: str, rate: float, seconds: float) -> dict[str, Any]:
    """Mebibytes over the seconds, at `rate` alerts a second. Raises Lost when an alert was not taken."""
    count = int(rate * seconds / ALERTS)
    with Stub(workshop.folder, services=SERVICES) as stub:
        services = {
            service_name(number): {
                "recovery": {"http": {"restart": f"{stub.url}/restart/{service_name(number)}"}}
            }
            for number in range(SERVICES)
        }
        settings = {"prometheus": {"url": stub.url}, "services": services}
        with workshop.run(PRODUCT, workshop.new_store(store), **settings) as running:
            readings, stop = [(0.0, running.resident() / MIB)], threading.Event()
            watcher = threading.Thread(target=_watch, args=(running, readings, stop))
            watcher.start()
            try:
                done = run_load(running.port, Notifications(ALERTS, SERVICES), count, rate=rate / ALERTS)
            finally:
                stop.set()
                watcher.join()
    if done.statuses != {"202": count}:
        raise Lost(f"not all of {count} requests were taken: {done.statuses}")
    return {
        "alerts_per_second": rate,
        "seconds": done.seconds,
        "alerts": count * ALERTS,
        "mib": readings,
        "answer_p99_ms": 1000 * sorted(done.latencies)[int(0.99 * count)],
    }


def table(of: Mapping[str, Mapping[str, Any]]) -> str:
    """The memory at a few moments as Markdown, a row for each store."""
    lines = [
        "| store | alerts | at the start | after a quarter | after half | at the end | answer p99 |",
        "|---|---|---|---|---|---|---|",
    ]
    for store, figures in of.items():
        mib = [reading for _, reading in figures["mib"]]
        moments = [mib[int(share * (len(mib) - 1))] for share in (0.0, 0.25, 0.5, 1.0)]
        cells = [f"{moment:.0f} MiB" for moment in moments]
        lines.append(
            f"| {store} | {figures['alerts']:,} in {figures['seconds']:.0f} s | {' | '.join(cells)} | "
            f"{figures['answer_p99_ms']:.0f} ms |"
        )
    return "\n".join(lines)


def _watch(running: Running, readings: list[tuple[float, float]], stop: threading.Event) -> None:
    began = time.monotonic()
    while not stop.wait(SAMPLE):
        running.scrape()
        readings.append((time.monotonic() - began, running.resident() / MIB))
