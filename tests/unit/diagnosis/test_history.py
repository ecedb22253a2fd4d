"""One range query around the alert; without its answer the diagnosis goes on and says so."""

from __future__ import annotations

import numpy as np

from self_healing_fabric.diagnosis.call_graph import CallGraph
from self_healing_fabric.diagnosis.history import HISTORY, locate
from self_healing_fabric.diagnosis.localization import Localization
from self_healing_fabric.diagnosis.scoring import Symptom
from shf_queries import PartialResult, PrometheusUnavailable, QueryError, Series, catalogue

AT = 1_800_000_000.0
GRAPH = CallGraph([("web", "db"), ("mail", "smtp")])


class Prometheus:
    """Answers with a CPU of db that rose two minutes ago, or fails."""

    def __init__(self, failure: QueryError | None = None) -> None:
        self.failure = failure
        self.asked: list[tuple[str, float, float, float]] = []

    def range(self, promql: str, *, start: float, end: float, step: float) -> tuple[Series, ...]:
        self.asked.append((promql, start, end, step))
        if self.failure:
            raise self.failure
        times = np.arange(start, end + 1, step)
        values = 0.3 + 0.003 * np.random.default_rng(1).normal(size=len(times))
        values[times > AT - 120] = 0.9
        return (Series({"__name__": catalogue.CPU.series, "service": "db"}, times, values),)


def located(prometheus: Prometheus, interval: float = 15.0) -> Localization:
    """Locate an alert at web, half a minute old."""
    return locate(prometheus, symptom=Symptom("web", "", AT - 30), graph=GRAPH, at=AT, interval=interval)


def test_the_neighbourhood_is_asked_for_once_over_an_hour() -> None:
    """web and what it calls, from an hour before the alert until now, at the scrape interval."""
    prometheus = Prometheus()
    found = located(prometheus)
    assert prometheus.asked == [(catalogue.diagnosed(["db", "web"]), AT - 30 - HISTORY, AT, 15.0)]
    assert found.lead == "db"
    assert not found.abstained


def test_the_step_is_not_finer_than_five_seconds() -> None:
    """A scrape each second would be 3,600 samples of every series."""
    prometheus = Prometheus()
    located(prometheus, interval=1.0)
    assert prometheus.asked[0][3] == 5.0


def test_of_an_old_alert_its_beginning_is_asked_for() -> None:
    """Prometheus refuses a range of days at such a step; what began then shows in the hours around it."""
    prometheus, days = Prometheus(), 3 * 86_400.0
    locate(prometheus, symptom=Symptom("web", "", AT - days), graph=GRAPH, at=AT, interval=15.0)
    (_, start, end, _) = prometheus.asked[0]
    assert (start, end) == (AT - days - HISTORY, AT - days + HISTORY)


def test_a_query_that_fails_is_missing_evidence() -> None:
    """Slow, away or partial: nothing is named, and the reason is told."""
    for failure in (PrometheusUnavailable("timed out"), PartialResult("a store is away")):
        found = located(Prometheus(failure))
        assert (found.abstained, found.confidence) == (True, 0.0)
        assert found.missing == (f"series over time: {failure}",)
