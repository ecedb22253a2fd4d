"""Series around an alert on one common grid: services and kinds by time, NaN where there is no sample.

Everything behind this module is arithmetic on one matrix, so everything that is odd about real data is dealt
with here: series that start late or stop, gaps, values that are infinite, counters that were reset, two
clusters that report one service.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from self_healing_fabric.diagnosis.kinds import Family, Kind, kind_of
from shf_queries import Series, catalogue

FloatArray = npt.NDArray[np.float64]
MOSTLY_RISING = 0.95  # of the steps of a `_total`: below it the name lies and the values are no counter


@dataclass(frozen=True, order=True)
class Key:
    """Which series: of a service, of a kind, and towards or from a peer where it is one of an edge."""

    service: str
    kind: str
    peer: str = ""

    def __str__(self) -> str:
        return "|".join(part for part in (self.service, self.kind, self.peer) if part)


@dataclass(frozen=True)
class Window:
    """`values[i, j]` is series `keys[i]` at `times[j]` (seconds since 1970, ascending); NaN: no sample.

    `keys` are sorted (derived ones last), so the order in which Prometheus lists series decides nothing.
    `queries[i]` shows series i to a person: the same values, at the same times.
    """

    times: FloatArray
    values: FloatArray
    keys: tuple[Key, ...]
    queries: tuple[catalogue.Recorded, ...]

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """How to read each series."""
        return tuple(kind_of(key.kind) for key in self.keys)

    @property
    def services(self) -> tuple[str, ...]:
        """The services that have at least one series, sorted."""
        return tuple(sorted({key.service for key in self.keys}))

    @property
    def step(self) -> float:
        """Seconds between two samples: the lower quartile, since history may be full of holes."""
        return float(np.quantile(np.diff(self.times), 0.25)) if len(self.times) > 1 else 0.0


class RangeSource(Protocol):
    """What is asked for series: `shf_queries.PrometheusClient`, or a table of recorded cases."""

    def range(self, promql: str, *, start: float, end: float, step: float) -> tuple[Series, ...]:
        """Evaluate a query at every step from start to end."""
        ...


def collect_window(
    source: RangeSource, services: Collection[str], *, start: float, end: float, step: float
) -> Window:
    """Ask for all that is recorded of the services, in one query. Raises shf_queries.QueryError.

    The last sample is at the last whole second up to `end`: whoever repeats a claim can name it.
    """
    if not services:
        return window_of(())
    end = math.floor(end)
    start = end - math.ceil((end - start) / step) * step
    return window_of(source.range(catalogue.diagnosed(sorted(services)), start=start, end=end, step=step))


@np.errstate(all="ignore")  # values near the limits of a float: what overflows is no sample afterwards
def window_of(series: Sequence[Series]) -> Window:
    """Bring recorded series onto one grid. Series without a label `service` or of unreadable names are left
    out."""
    named = [(key, one) for one in series if (key := _key_of(one)) is not None and len(one.times)]
    if not named:
        return Window(np.empty(0), np.empty((0, 0)), (), ())
    first = named[0][1].times
    same_grid = all(one.times is first or np.array_equal(one.times, first) for _, one in named)
    times = first if same_grid else np.unique(np.concatenate([one.times for _, one in named]))
    keys = tuple(sorted({key for key, _ in named}))
    row_of = {key: row for row, key in enumerate(keys)}
    values = np.full((len(keys), len(times)), np.nan)
    for key, one in named:
        columns = slice(None) if same_grid else np.searchsorted(times, one.times)
        sample = np.where(np.isfinite(one.values), one.values, np.nan)
        row = row_of[key]
        # Two clusters may report one service: the worse of the two is the one that alerts.
        worse = np.fmin if _worst_of(key) == "min" else np.fmax
        values[row, columns] = worse(values[row, columns], sample)
    reported = Counter(key for key, _ in named)
    window = Window(times, values, keys, tuple(_query_of(key, several=reported[key] > 1) for key in keys))
    return _with_client_gaps(_with_increases(window))


def _key_of(series: Series) -> Key | None:
    service = series.labels.get("service", "")
    kind = catalogue.kind_of_series(series.labels.get("__name__", ""))
    return Key(service, kind, series.labels.get("peer", "")) if service and kind else None


def _query_of(key: Key, *, several: bool) -> catalogue.Recorded:
    selector = catalogue.diagnosed_series_of(key.kind, key.service, key.peer)
    return catalogue.Recorded(selector, worst=_worst_of(key) if several else "")


def _worst_of(key: Key) -> str:
    return "min" if kind_of(key.kind).direction < 0 else "max"


def _with_increases(window: Window) -> Window:
    """Counters as what they grew by at each step."""
    values, queries = window.values.copy(), list(window.queries)
    for row, key in enumerate(window.keys):
        increases = _increases(values[row]) if key.kind.endswith("_total") else None
        if increases is not None:
            values[row] = increases
            queries[row] = replace(queries[row], without=replace(queries[row], ago=window.step))
    return replace(window, values=values, queries=tuple(queries))


def _increases(values: FloatArray) -> FloatArray | None:
    """Increases between samples of a counter; after a reset the new value is the increase, as in `rate`. None
    for what is no counter."""
    known = np.flatnonzero(np.isfinite(values))
    if len(known) < 2:
        return None
    steps = np.diff(values[known])
    if np.mean(steps >= 0) < MOSTLY_RISING:
        return None
    increases = np.full_like(values, np.nan)
    increases[known[1:]] = np.where(steps >= 0, steps, values[known[1:]])
    return increases


def _with_client_gaps(window: Window) -> Window:
    """Add what callers wait beyond what the service spends, where both ends of an edge are measured.

    gap = latency seen by the caller - latency measured by the callee, per edge and statistic: the time on the
    way, which neither end shows by itself.
    """
    rows = {key: row for row, key in enumerate(window.keys)}
    gaps: dict[Key, tuple[int, int]] = {}
    for key, row in rows.items():
        server = rows.get(Key(key.service, key.kind.replace("client", "server"), key.peer))
        if key.peer and server is not None and kind_of(key.kind).family is Family.CLIENT_LATENCY:
            gaps[Key(key.service, key.kind.replace("client", "gap"), key.peer)] = (row, server)
    if not gaps:
        return window
    derived = np.array([window.values[client] - window.values[server] for client, server in gaps.values()])
    queries = tuple(
        _difference(window.queries[client], window.queries[server]) for client, server in gaps.values()
    )
    return Window(
        window.times,
        np.concatenate([window.values, derived]),
        (*window.keys, *gaps),
        (*window.queries, *queries),
    )


def _difference(one: catalogue.Recorded, other: catalogue.Recorded) -> catalogue.Recorded:
    """Of both the worst where either has several: what is aggregated has no label by which it would match."""
    worst = one.worst or other.worst
    return replace(one, worst=worst, without=replace(other, worst=worst))
