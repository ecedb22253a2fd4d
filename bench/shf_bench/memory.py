"""Memory with many open incidents: waiting must cost rows, not threads and objects.

The incidents name services that nobody has configured, so that they wait for their alerts to end and the
fabric's own figures for each service are not what is measured. The memory is read after a scrape of /metrics
and a look at the list, which a running fabric is asked for all the time.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from shf_bench.ingest import Lost
from shf_bench.load import run_load
from shf_bench.notifications import Notifications
from shf_bench.servers import PRODUCT, Workshop
from shf_bench.stub import Stub

ALERTS = 20  # in a request; each opens an incident
QUIET = 3.0  # seconds after the last step
MIB = 2**20


def measure(workshop: Workshop, store: str, sizes: Sequence[int]) -> dict[str, Any]:
    """Mebibytes that the process has, by number of open incidents; sizes ascend."""
    resident = {}
    with (
        Stub(workshop.folder) as stub,
        workshop.run(PRODUCT, workshop.new_store(store), prometheus={"url": stub.url}) as running,
    ):
        opened = 0
        for size in (0, *sizes):
            requests = (size - opened) // ALERTS
            if requests:
                more = Notifications(ALERTS, ALERTS, stranger=True, first=opened // ALERTS)
                if run_load(running.port, more, requests).statuses != {"202": requests}:
                    raise Lost("not all were taken")
                opened += requests * ALERTS
                running.wait(f"{opened} open", lambda number=opened: _waiting(running.states(), number))  # type: ignore[misc]
            time.sleep(QUIET)
            running.scrape()
            next(running.incidents(), None)
            resident[str(opened)] = running.resident() / MIB
        counted = sum(1 for _ in running.incidents(state="escalated"))
    if counted != opened:
        raise Lost(f"{opened} incidents were opened and {counted} are listed")
    return resident


def _waiting(states: dict[str, int], number: int) -> bool:
    return states.get("escalated", 0) >= number
