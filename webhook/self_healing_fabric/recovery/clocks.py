"""Are the clocks of Prometheus and of the fabric alike?

A sample proves something about an action when it is newer, and that is told by two clocks: the sample has the
time of Prometheus, the action that of the store. Where Prometheus is a minute ahead, what it measured up to a
minute before an action looks newer than it, so that a service that hangs looks healed by its last good
samples; where it is behind, what it measures now looks old. Neither is evidence.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from shf_queries import PrometheusClient, QueryError

ALLOWED = 5.0  # seconds; the shortest stability window is longer than that
COMPARED_EVERY = 10.0  # seconds


class ClocksApart(QueryError):
    """What Prometheus answers cannot be compared with the time of an action."""


def apart(ahead: float) -> str | None:
    """What to say of a Prometheus whose clock is so many seconds ahead of the fabric's; None: it is alike."""
    if abs(ahead) <= ALLOWED:
        return None
    how = "ahead of" if ahead > 0 else "behind"
    return (
        f"Prometheus's clock is {abs(ahead):.0f} s {how} the fabric's (with PostgreSQL, the database's), "
        "so no sample proves anything: set them alike"
    )


class Clocks:
    """Compares the two now and then. Safe to share between threads."""

    def __init__(self, prometheus: PrometheusClient, clock: Callable[[], float]) -> None:
        self._prometheus = prometheus
        self._clock = clock
        self._known: tuple[float, float] | None = None  # until when, on the monotonic clock; seconds ahead

    def require_alike(self) -> None:
        """Raises ClocksApart, QueryError."""
        known = self._known
        if known is None or time.monotonic() >= known[0]:
            known = self._known = time.monotonic() + COMPARED_EVERY, self._ahead()
        if (told := apart(known[1])) is not None:
            raise ClocksApart(told)

    def _ahead(self) -> float:
        """Seconds, at the least that the time of the answer leaves open."""
        before = self._clock()
        then = self._prometheus.clock()
        return then - min(max(then, before), self._clock())
