"""Prometheus as it was: what was scraped over a stretch of time, and queries at a time that has passed.

Nothing is asked of `now`. The client that the fabric's own parts are given answers at the replayed time at
the latest, and for the recorded series of rules that nobody had loaded then as well.

Prometheus refuses a range of more than 11,000 points and a query that reads too many samples, so a stretch is
asked for in parts, and a part that is refused is halved.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from self_healing_fabric.errors import ShfError
from shf_queries import PrometheusClient, QueryError, Sample, Series
from shf_queries.catalogue import quote
from shf_queries.evaluation import Evaluator, Grid, Labels, Recordings, Vector
from shf_queries.parsing import Call, Matcher, Node, Selector, children, parse, selectors

MOST_POINTS = 10_000  # of one range query; Prometheus refuses more than 11,000
LEAST_POINTS = 60  # what is refused even in parts of this size cannot be replayed
QUERY_TIMEOUT = 120.0  # seconds; Prometheus's own limit for a query, by default
LONGEST_PAUSE = 60.0  # seconds without any scrape until Prometheus counts as stopped, and its rules with it
PAUSE_SCRAPES = 3  # scrapes that must be missing for that
_MAKE_SERIES = frozenset({"vector", "absent", "absent_over_time"})  # where there are none


class HistoryUnavailable(ShfError):
    """The history cannot be read: says whether to start Prometheus, ask for less or leave a rule out."""


@dataclass(frozen=True)
class Coverage:
    """From when to when there is history, and the pauses in which Prometheus scraped nothing."""

    start: float
    end: float
    pauses: tuple[tuple[float, float], ...]

    def evaluated(self, at: float) -> bool:
        """Whether Prometheus was there to evaluate a rule."""
        return not any(begin < at < end for begin, end in self.pauses)

    def since(self, start: float) -> Coverage:
        """The same from a later time on."""
        if start <= self.start:
            return self
        pauses = tuple((max(start, begin), end) for begin, end in self.pauses if end > start)
        return Coverage(start, self.end, pauses)

    @property
    def seconds(self) -> float:
        """Of history, without the pauses."""
        return self.end - self.start - sum(end - begin for begin, end in self.pauses)


class History:
    """What one Prometheus has scraped."""

    def __init__(self, client: PrometheusClient) -> None:
        self._client = client
        self._metrics: frozenset[str] = frozenset()
        self._asked: dict[tuple[str, Grid], Vector] = {}

    def coverage(self, start: float, end: float, scrape_interval: float) -> Coverage:
        """What there is between two times; a pause lasts from a scrape to the next.

        Raises HistoryUnavailable when there is nothing at all.
        """
        step = min(max(LONGEST_PAUSE, PAUSE_SCRAPES * scrape_interval), end - start)
        seen = f"count(count_over_time(up[{round(step * 1000)}ms]))"
        looked_from = end - math.floor((end - start) / step) * step  # so that the last one is at the end
        found = [
            float(at)
            for begin, finish in _parts(looked_from, end, step)
            for series in self._range(seen, begin, finish, step)
            for at in series.times
        ]
        if not found:
            raise HistoryUnavailable(
                f"Prometheus holds no scrape between {moment(start)} and {moment(end)}: ask for a time of "
                "which it has some"
            )
        pauses = []
        for one, following in pairwise(found):
            if following - one > 1.5 * step:
                before = self._scrape("max(timestamp(up))", one)
                pauses.append((before, self._first_scrape(before, following, step, scrape_interval)))
        last = end if end - found[-1] <= step else found[-1]
        first = self._first_scrape(0.0, found[0], step, scrape_interval)
        return Coverage(max(start, first), last, tuple(pauses))

    def _first_scrape(self, after: float, at: float, within: float, interval: float) -> float:
        """The first of the scrapes in the seconds before `at`, and later than `after`."""
        points = f"[{round(within * 1000)}ms:{max(1, round(interval * 1000))}ms]"
        return self._scrape(f"min(min_over_time((timestamp(up) > {after!r}){points}))", at)

    def _scrape(self, query: str, at: float) -> float:
        try:
            found = self._client.instant(query, at=at)
        except QueryError as error:
            raise HistoryUnavailable(str(error)) from error
        return found[0].value if found else at

    def learn_metrics(self, coverage: Coverage) -> frozenset[str]:
        """The names of all series of the stretch: what reads none of them need not be asked."""
        try:
            self._metrics = frozenset(self._client.names(start=coverage.start, end=coverage.end))
        except QueryError as error:
            raise HistoryUnavailable(str(error)) from error
        return self._metrics

    def forget(self) -> None:
        """Drop the answers so far."""
        self._asked.clear()

    def __call__(self, query: str, grid: Grid) -> Vector:
        """The vector of a query on raw series at each evaluation. Raises QueryError."""
        found = self._asked.get((query, grid))
        if found is None:
            found = self._ask(query, grid) if self._may_give(parse(query)) else {}
            self._asked[query, grid] = found
        return found

    def _may_give(self, node: Node) -> bool:
        if isinstance(node, Selector):
            return node.name is None or node.name in self._metrics
        if isinstance(node, Call) and node.function in _MAKE_SERIES:
            return True
        return any(self._may_give(each) for each in children(node))

    def _ask(self, query: str, grid: Grid) -> Vector:
        found: Vector = {}
        for begin in range(grid.first, grid.last + 1, MOST_POINTS):
            last = min(grid.last, begin + MOST_POINTS - 1)
            for series in self._in_parts(query, begin, last, grid.interval):
                values = found.setdefault(_unnamed(series.labels), np.full(len(grid), np.nan))
                values[np.round(series.times / grid.interval).astype(np.int64) - grid.first] = series.values
        return found

    def _in_parts(self, query: str, first: int, last: int, interval: float) -> Iterator[Series]:
        try:
            found = self._client.range(query, start=first * interval, end=last * interval, step=interval)
        except QueryError:
            if last - first < LEAST_POINTS:
                raise
            middle = (first + last) // 2
            yield from self._in_parts(query, first, middle, interval)
            yield from self._in_parts(query, middle + 1, last, interval)
        else:
            yield from found

    def _range(self, query: str, start: float, end: float, step: float) -> Sequence[Series]:
        try:
            return self._client.range(query, start=start, end=end, step=step)
        except QueryError as error:
            raise HistoryUnavailable(str(error)) from error


class HistoricalPrometheus(PrometheusClient):
    """Answers as Prometheus would have at `clock`, had it had the recorded series. Never later than that."""

    def __init__(
        self,
        url: str,
        recordings: Recordings,
        metrics: frozenset[str],
        clock: Callable[[], float],
        *,
        headers: Callable[[], Mapping[str, str]] = dict,
        ca_file: Path | None = None,
        cert_file: Path | None = None,
        key_file: Path | None = None,
    ) -> None:
        super().__init__(
            url,
            timeout=QUERY_TIMEOUT,
            headers=headers,
            ca_file=ca_file,
            cert_file=cert_file,
            key_file=key_file,
            on_call=self._note,
        )
        self._recordings = recordings
        self._metrics = metrics
        self._clock = clock
        self._failure: str | None = None

    def _note(self, _: float, failure: str | None) -> None:
        self._failure = self._failure or failure

    def raise_failure(self) -> None:
        """Raise HistoryUnavailable when a query was not answered: the fabric waits then, as it would have had
        Prometheus been away at the replayed time, which nobody knows."""
        if self._failure is not None:
            raise HistoryUnavailable(self._failure)

    def _known_at(self, at: float | None) -> float:
        return self._clock() if at is None else min(at, self._clock())

    def instant(self, promql: str, *, at: float | None = None) -> tuple[Sample, ...]:
        """As of the client, but not beyond the replayed time."""
        now, node = self._known_at(at), parse(promql)
        if not self._recordings.reads(node):
            return super().instant(promql, at=now)
        if isinstance(node, Selector) and node.window is None:
            recorded = self._recordings.instant(node, now)
            stored = self._stored(node)
            return recorded if stored is None else (*recorded, *super().instant(stored, at=now))
        moment_only = Grid(now, 1, 1)
        found = Evaluator(self._recordings, self._at_once).vector(node, moment_only)
        return tuple(Sample(dict(labels), now, float(values[0])) for labels, values in found.items())

    def together(self, queries: Sequence[str], *, at: float | None = None) -> tuple[tuple[Sample, ...], ...]:
        """Each by itself: most need no request."""
        return tuple(self.instant(query, at=at) for query in queries)

    def raw(self, selector: str, *, seconds: float, at: float | None = None) -> tuple[Series, ...]:
        """As of the client, but not beyond the replayed time."""
        now, node = self._known_at(at), parse(f"{selector}[{max(1, round(seconds * 1000))}ms]")
        if isinstance(node, Selector) and self._recordings.reads(node):
            return self._recordings.raw(node, now)
        return super().raw(selector, seconds=seconds, at=now)

    def range(self, promql: str, *, start: float, end: float, step: float) -> tuple[Series, ...]:
        """As of the client, but not beyond the replayed time."""
        end, node = min(end, self._clock()), parse(promql)
        if not isinstance(node, Selector) or not self._recordings.reads(node):
            return super().range(promql, start=start, end=end, step=step)
        recorded = self._recordings.over(node, np.arange(start, end + step * 1e-6, step))
        stored = self._stored(node)
        if stored is None:
            return recorded
        return (*recorded, *super().range(stored, start=start, end=end, step=step))

    def _at_once(self, query: str, grid: Grid) -> Vector:
        found: Vector = {}
        for sample in super().instant(query, at=float(grid.times[0])):
            found[_unnamed(sample.labels)] = np.array([sample.value])
        return found

    def _stored(self, selector: Selector) -> str | None:
        """The selector of what Prometheus has by such names and the rules do not record; None: nothing."""
        named = [each for each in selector.matchers if each.label == "__name__"]
        others = [
            name
            for name in sorted(self._metrics - self._recordings.names)
            if named and all(each.matches(name) for each in named)
        ]
        if not others:
            return None
        told = [Matcher("__name__", "=~", "|".join(others))]
        told += [each for each in selector.matchers if each.label != "__name__"]
        return "{" + ",".join(f"{each.label}{each.operator}{quote(each.value)}" for each in told) + "}"

    def alerts(self) -> Any:
        """Not asked: a replay is told of the alerts that it has computed."""
        return ()


def _unnamed(labels: Mapping[str, str]) -> Labels:
    return tuple(sorted((name, value) for name, value in labels.items() if name != "__name__"))


def longest_reach(expressions: Sequence[str]) -> float:
    """Seconds of the past that the recorded series in these expressions are read over."""
    return max(
        ((each.window or 0.0) + each.offset for text in expressions for each in selectors(parse(text))),
        default=0.0,
    )


def _parts(start: float, end: float, step: float) -> Iterator[tuple[float, float]]:
    """A stretch in parts of at most so many points; the next begins one step after the last."""
    begin = start
    while begin <= end:
        yield begin, min(end, begin + (MOST_POINTS - 1) * step)
        begin += MOST_POINTS * step


def moment(at: float) -> str:
    """A time as people read it, in UTC."""
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S} UTC"
