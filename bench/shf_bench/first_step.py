"""From the POST to the first step: how long an alert lies before the fabric begins with it.

Two clocks tell. The incident's timeline carries the time at which the first step (detected -> diagnosing) was
handed to the store; and the stubbed Prometheus saw when the service was first asked about, which the second
step does as soon as the first is committed. Both are compared with the moment at which the request was sent,
on the clock of the same machine.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from shf_bench.ingest import Lost, percentile
from shf_bench.load import run_load
from shf_bench.notifications import Notifications, service_name
from shf_bench.servers import PRODUCT, Workshop
from shf_bench.stub import Stub

RATE = 40.0  # requests a second, each of which opens an incident
WARM_UP = 40  # incidents, not measured
CLOCK_TICK = 0.001  # seconds; the API cuts times to milliseconds


def measure(workshop: Workshop, store: str, count: int) -> dict[str, Any]:
    """Figures of one store."""
    total = WARM_UP + count
    settings = {
        "services": {service_name(number): {} for number in range(total)},
        "verification": {"interval": 3600},  # what was handed to people is not looked at meanwhile
    }
    with (
        Stub(workshop.folder) as stub,
        workshop.run(PRODUCT, workshop.new_store(store), prometheus={"url": stub.url}, **settings) as running,
    ):
        run_load(running.port, Notifications(1, total), WARM_UP, rate=RATE)
        load = run_load(running.port, Notifications(1, total, first=WARM_UP), count, rate=RATE)
        running.wait("all handed to people", lambda: running.states()["escalated"] == total)
        stepped = {story["service"]: _first_step(story) for story in running.stories()}
        asked = stub.seen()["asked"]
    sent = {service_name(WARM_UP + number): at for number, at in enumerate(load.sent)}
    if not sent.keys() <= stepped.keys() & asked.keys():
        raise Lost(f"of {len(sent)} services only {len(sent.keys() & stepped.keys())} have an incident")
    return {
        "rate": RATE,
        "sent_late_ms": 1000 * load.late,
        "answer": _summary([1000 * each for each in load.latencies]),
        "first_step": _summary([1000 * (stepped[name] - at) for name, at in sent.items()]),
        "first_question": _summary([1000 * (asked[name] - at) for name, at in sent.items()]),
    }


def _first_step(story: dict[str, Any]) -> float:
    """When the incident left `detected`; the middle of the millisecond to which the API cuts it."""
    changes = (entry for entry in story["timeline"] if entry["kind"] == "state")
    first = next(entry for entry in changes if entry["data"].get("from") == "detected")
    return datetime.fromisoformat(first["at"]).timestamp() + CLOCK_TICK / 2


def _summary(milliseconds: list[float]) -> dict[str, float]:
    return {"p50_ms": percentile(milliseconds, 50), "p99_ms": percentile(milliseconds, 99)}
