"""The signals around an incident: what is plotted, asked of Prometheus without holding anybody up.

A page that waits for Prometheus is blank exactly when Prometheus is what fails, and pages that wait take the
threads that notifications need. So no page asks: the plot is a resource of its own, only a few requests at a
time may ask for one, the others are told to come back, and an answer serves all who look for some seconds.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from self_healing_fabric.incidents.evidence import limit_of
from self_healing_fabric.incidents.telling import Mark, Telling
from self_healing_fabric.settings import Settings, Thresholds
from shf_queries import PrometheusClient, QueryError, Series, catalogue
from shf_queries.catalogue import CPU, ERROR_RATIO, HEARTBEAT, LATENCY_P95, MEMORY, SIGNALS, Signal

FloatArray = npt.NDArray[np.float64]

POINTS = 120  # in one curve: more than a phone has room for
BEFORE, AFTER = 600.0, 300.0  # seconds around the incident that are shown at least
AROUND = 0.25  # of its length, for a long one
MOST_CURVES = 5
MOST_SERIES = 4  # of one signal, such as those of several clusters
ASKING = 2  # requests that may ask Prometheus at a time
QUEUEING = 4  # that may wait for those
PATIENCE = 1.5  # seconds for which they wait
FRESH = 10.0  # seconds for which an answer is used
KEPT = 300.0  # seconds, once nothing new can come
KEPT_ANSWERS = 64
ALWAYS = (HEARTBEAT, ERROR_RATIO, LATENCY_P95, CPU, MEMORY)


@dataclass(frozen=True)
class Line:
    """Samples over time; `times` in seconds since 1970."""

    times: FloatArray
    values: FloatArray


@dataclass(frozen=True)
class Curve:
    """One signal: its course, what it is held against, and what was usual.

    `limit_text` says how a limit is made that follows the baseline, `baseline_text` where the baseline comes
    from; `limit` and `baseline` have no samples where there is none.
    """

    signal: Signal
    lines: tuple[Line, ...]
    limit: Line
    limit_text: str
    baseline: Line
    baseline_text: str


@dataclass(frozen=True)
class Plot:
    """What is drawn; without curves, `told` says why."""

    start: float
    end: float
    step: float
    curves: tuple[Curve, ...]
    marks: tuple[Mark, ...]
    told: str = ""


class SignalHistory:
    """Asks for plots, few at a time, and keeps them for a while."""

    def __init__(self, client: PrometheusClient, settings: Settings) -> None:
        self._client = client
        self._settings = settings
        self._kept: OrderedDict[tuple[str, str | None], tuple[float, Plot]] = OrderedDict()
        self._lock = threading.Lock()
        self._asking = threading.BoundedSemaphore(ASKING)
        self._queue = threading.BoundedSemaphore(ASKING + QUEUEING)

    def plot(self, story: Telling, now: float) -> Plot:
        """The plot of an incident; `now` in seconds since 1970. Takes no longer than one query and a wait."""
        found = self._find(story)
        if found is not None:
            return _marked(found, story)
        if not self._queue.acquire(blocking=False):
            return _nothing(story, now, "Prometheus is being asked by others. Load it again in a moment.")
        try:
            if not self._asking.acquire(timeout=PATIENCE):
                return _nothing(story, now, "Prometheus takes long to answer. Load it again in a moment.")
            try:
                # Who waited was perhaps waiting for the same one.
                found = self._find(story) or self._keep(story, self._ask(story, now), now)
            finally:
                self._asking.release()
        finally:
            self._queue.release()
        return _marked(found, story)

    def _find(self, story: Telling) -> Plot | None:
        with self._lock:
            until, plot = self._kept.get(_key(story), (0.0, None))
        return plot if until > time.monotonic() else None

    def _keep(self, story: Telling, plot: Plot, now: float) -> Plot:
        over = plot.end < now and plot.curves
        with self._lock:
            self._kept[_key(story)] = (time.monotonic() + (KEPT if over else FRESH), plot)
            self._kept.move_to_end(_key(story))
            while len(self._kept) > KEPT_ANSWERS:
                self._kept.popitem(last=False)
        return plot

    def _ask(self, story: Telling, now: float) -> Plot:
        service = story.raw["service"]
        start, end, step = _window(story, now, self._settings.prometheus.evaluation_interval)
        signals = list(_wanted(story))
        names = dict.fromkeys(
            name for each in signals for name in (course_of(each), each.baseline_series) if name is not None
        )
        if not service or not story.raw["known_service"]:
            return _nothing(story, now, "The configuration names no such service: nothing is measured of it.")
        try:
            found = self._client.range(catalogue.courses_of(names, service), start=start, end=end, step=step)
        except QueryError as error:
            return _nothing(story, now, f"{error}.")
        thresholds = self._settings.thresholds_of(service)
        curves = [curve for each in signals if (curve := _curve(each, found, thresholds, story, start, end))]
        told = "" if curves else f"Prometheus holds no signals of {service} for this time."
        return Plot(start, end, step, tuple(curves[:MOST_CURVES]), (), told)


def course_of(signal: Signal) -> str:
    """The series that is drawn: the one that the limit is about, of the heartbeat the finer one."""
    return signal.fresh_series if signal is HEARTBEAT else signal.series


def _key(story: Telling) -> tuple[str, str | None]:
    return story.raw["id"], story.raw["resolved_at"]


def _marked(plot: Plot, story: Telling) -> Plot:
    """The marks are the store's, and newer than what was kept."""
    return Plot(plot.start, plot.end, plot.step, plot.curves, story.marks, plot.told)


def _nothing(story: Telling, now: float, told: str) -> Plot:
    start, end, step = _window(story, now, 1.0)
    return Plot(start, end, step, (), story.marks, told)


def _window(story: Telling, now: float, interval: float) -> tuple[float, float, float]:
    ended = story.ended_at if story.ended_at is not None else now
    length = max(0.0, ended - story.opened_at)
    start = story.opened_at - max(BEFORE, AROUND * length)
    end = max(min(now, ended + max(AFTER, AROUND * length)), story.opened_at)
    return start, end, max(interval, (end - start) / POINTS)


def _wanted(story: Telling) -> Iterator[Signal]:
    """What the alerts name first, then what tells most about any service."""
    named = [story.raw["signal"]]
    named += [
        each["labels"].get("signal")
        for each in story.raw["alerts"]
        if each["service"] == story.raw["service"]
    ]
    yield from dict.fromkeys((*(SIGNALS[name] for name in named if name in SIGNALS), *ALWAYS))


def _curve(
    signal: Signal,
    found: tuple[Series, ...],
    thresholds: Thresholds,
    story: Telling,
    start: float,
    end: float,
) -> Curve | None:
    lines = [_line(each) for each in found if each.labels.get("__name__") == course_of(signal)]
    lines = [each for each in lines if each.times.size][:MOST_SERIES]
    if not lines:
        return None
    usual = [_line(each) for each in found if each.labels.get("__name__") == signal.baseline_series]
    usual = [each for each in usual if each.times.size]
    if usual:
        baseline, text = usual[0], "baseline"
        limits = [limit_of(signal, thresholds, float(value)) for value in baseline.values]
        values = np.array([np.nan if each is None else each.value for each in limits])
        limit, limit_text = Line(baseline.times, values), limits[-1].text if limits[-1] else ""
    else:
        before = np.concatenate([each.values[each.times < story.opened_at - 60.0] for each in lines])
        level = float(np.median(before)) if before.size else None
        baseline, text = _flat(level, start, end), "usual before it opened"
        found_limit = limit_of(signal, thresholds, None)
        limit = _flat(found_limit.value if found_limit else None, start, end)
        limit_text = ""
    return Curve(signal, tuple(lines), limit, limit_text, baseline, text if baseline.times.size else "")


def _line(series: Series) -> Line:
    finite = np.isfinite(series.values)
    return Line(series.times[finite], series.values[finite])


def _flat(value: float | None, start: float, end: float) -> Line:
    if value is None:
        return Line(np.array([]), np.array([]))
    return Line(np.array([start, end]), np.array([value, value]))
