"""Ingest: notifications a second, next to the same application that only parses them.

A machine that does something else for a moment makes any single figure worthless. So the variants take turns,
each time in a new process on an empty store, with the same requests, and only the ratio of their medians says
anything. What was acknowledged is counted in the store afterwards, alert by alert.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from shf_bench import notifications
from shf_bench.load import Result, run_load
from shf_bench.notifications import LAST, Notifications, service_name
from shf_bench.servers import PARSE_ONLY, PRODUCT, STORE_ONLY, Running, Workshop
from shf_bench.stub import Stub

SERVICES = 50  # as many incidents; a storm brings many alerts of each
WARM_UP = 100  # requests of one alert, not measured
REQUESTS = {1: 2000, 20: 800, 500: 80}  # alerts in a request: requests in a turn


class Lost(Exception):
    """What was acknowledged is not in the store: the fabric's first promise is broken."""


@dataclass(frozen=True)
class Turn:
    """One load on one variant, and how long the fabric then worked on what it had taken in."""

    load: Result
    worked_in_after: float | None = None

    @property
    def rate(self) -> float:
        """Requests a second."""
        return len(self.load.latencies) / self.load.seconds


def measure(
    workshop: Workshop, stores: Sequence[str], rounds: int, scale: float, say: Callable[[str], None]
) -> dict[str, Any]:
    """All sizes on all stores; figures by size and store."""
    figures: dict[str, Any] = {}
    with Stub(workshop.folder) as stub:
        for alerts, requests in REQUESTS.items():
            count = max(32, int(requests * scale))
            turns: dict[tuple[str, str], list[Turn]] = {}
            for number in range(rounds):
                for variant, store in _variants(stores):
                    # Once is enough to prove that what was stored survives; the product is counted each time.
                    check = variant == PRODUCT or (variant == STORE_ONLY and number == 0)
                    turn = _turn(workshop, stub, variant, store, alerts, count, check=check)
                    turns.setdefault((variant, store), []).append(turn)
                    say(f"ingest {alerts}, {variant} on {store or 'nothing'}: {turn.rate:.0f} requests/s")
            figures[str(alerts)] = _figures(turns, stores)
    return figures


def _variants(stores: Sequence[str]) -> list[tuple[str, str]]:
    return [(PARSE_ONLY, ""), *((variant, store) for store in stores for variant in (STORE_ONLY, PRODUCT))]


def _turn(
    workshop: Workshop, stub: Stub, variant: str, store: str, alerts: int, count: int, *, check: bool
) -> Turn:
    url = workshop.new_store(store or "sqlite")
    settings = {
        "services": {name: {} for name in (*map(service_name, range(SERVICES)), LAST)},
        "prometheus": {"url": stub.url},
    }
    with workshop.run(variant, url, **settings) as running:
        run_load(running.port, Notifications(1, SERVICES), WARM_UP)
        load = run_load(running.port, Notifications(alerts, SERVICES, first=WARM_UP), count)
        if load.statuses != {"202": count}:
            raise Lost(f"{variant}: not all were taken: {load.statuses}")
        if variant == PRODUCT:
            return Turn(load, _all_worked_in(running, WARM_UP + count * alerts))
        if check:
            running.kill()
    if check:
        with workshop.run(PRODUCT, url, **settings) as running:
            _all_worked_in(running, WARM_UP + count * alerts)
    return Turn(load)


def _all_worked_in(running: Running, alerts: int) -> float:
    """Wait until the fabric has worked in everything, then count it; returns the seconds."""
    running.post(notifications.last())
    seconds = running.wait("worked in", lambda: any(running.incidents(service=LAST)))
    found = {
        (alert["fingerprint"], alert["starts_at"]) for story in running.stories() for alert in story["alerts"]
    }
    if len(found) != alerts + 1:
        raise Lost(f"{alerts + 1} alerts were acknowledged and {len(found)} are in the store's incidents")
    return seconds


def _figures(turns: dict[tuple[str, str], list[Turn]], stores: Sequence[str]) -> dict[str, Any]:
    parsed = _summary(turns[PARSE_ONLY, ""])
    figures: dict[str, Any] = {"parse-only": parsed}
    for store in stores:
        for variant in (STORE_ONLY, PRODUCT):
            summary = _summary(turns[variant, store])
            summary["ratio"] = summary["requests_per_second"] / parsed["requests_per_second"]
            figures.setdefault(store, {})[variant] = summary
    return figures


def _summary(turns: list[Turn]) -> dict[str, Any]:
    latencies = [1000 * each for turn in turns for each in turn.load.latencies]
    after = [turn.worked_in_after for turn in turns if turn.worked_in_after is not None]
    return {
        "requests_per_second": statistics.median(turn.rate for turn in turns),
        "requests_per_second_of_turns": [turn.rate for turn in turns],
        "p50_ms": percentile(latencies, 50),
        "p99_ms": percentile(latencies, 99),
        "worked_in_after_seconds": statistics.median(after) if after else None,
    }


def percentile(values: list[float], percent: int) -> float:
    """The smallest value that at least so many percent of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]
