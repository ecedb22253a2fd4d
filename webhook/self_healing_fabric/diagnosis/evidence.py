"""Facts from Prometheus about one service and what it depends on, each with the query that shows it.

An alert's annotation holds the value at which a limit was crossed: a total outage arrives as "7 % of requests
fail". So nothing is believed from the notification but its name; every value is asked for again, now. A value
that is missing or NaN is noted as missing and supports nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from self_healing_fabric.diagnosis.sources import Report
from self_healing_fabric.incidents.evidence import Evidence, Limit, compared, is_outside, limit_of
from self_healing_fabric.settings import Thresholds
from shf_queries import PrometheusClient, Sample, catalogue
from shf_queries.catalogue import CPU, ERROR_RATIO, HEARTBEAT, MEMORY, SIGNALS, Signal

RESOURCE_LOOK_BACK = (
    "5m"  # a service that just died has no utilisation now: the worst of the minutes before tells
)

MOST_CALLERS = 20  # of a service: a database that hundreds use is known to fail by a few of them
LOST_CALLS = "edge_client_lost_ratio"  # what people may record of each caller and callee
FLAPPING = 3  # missed heartbeats within the hour; once or twice is a failure and not a habit

Place = tuple[str, str]  # cluster and namespace: the values of `catalogue.PLACE`


class Observations:
    """All that was asked for one diagnosis, at one time."""

    def __init__(
        self,
        *,
        service: str,
        depends_on: Sequence[str],
        values: Mapping[str, float],
        at: float,
        thresholds: Thresholds,
        report: Report | None = None,
        called_by: Sequence[str] = (),
        in_places: Mapping[Place, Mapping[str, float]] | None = None,
    ) -> None:
        self.service = service
        self.depends_on = tuple(depends_on)
        self.called_by = tuple(called_by)
        self.at = at
        self.report = report or Report()
        self._values = values
        self._thresholds = thresholds
        self._in_places = in_places or {}

    def with_report(self, report: Report) -> Observations:
        """The same with what was seen besides Prometheus."""
        return Observations(
            service=self.service,
            depends_on=self.depends_on,
            values=self._values,
            at=self.at,
            thresholds=self._thresholds,
            report=report,
            called_by=self.called_by,
            in_places=self._in_places,
        )

    def apart(self) -> Mapping[Place, Observations]:
        """What was seen of the diagnosed service in each cluster and namespace that records it.

        Queries are those of the whole; whoever shows one says of which place it is.
        """
        return {
            place: Observations(
                service=self.service, depends_on=(), values=values, at=self.at, thresholds=self._thresholds
            )
            for place, values in self._in_places.items()
        }

    def value(self, query: str) -> float | None:
        """The answer to one of the queries of `collect`, or None when it is missing."""
        return self._values.get(query)

    def signal(self, series: str, service: str | None = None) -> float | None:
        """The newest value of a recorded series of a service (of the diagnosed one when None)."""
        return self.value(catalogue.series_of(series, service or self.service))

    def limit(self, signal: Signal, service: str | None = None) -> Limit | None:
        """The limit of a signal, or None when its baseline is missing."""
        baseline = self.signal(signal.baseline_series, service) if signal.baseline_series else None
        return limit_of(signal, self._thresholds, baseline)

    def breach(self, signal: Signal, *, service: str | None = None, fresh: bool = False) -> Evidence | None:
        """The evidence that a signal is outside its limit, or None when it is inside or cannot be told."""
        return self._compare(signal, service or self.service, fresh=fresh, outside=True)

    def failing(self, signal: Signal, service: str) -> Evidence | None:
        """The evidence that another service fails by this signal, also when no alert of its own says so yet.

        Its callers' alerts come first: silence fills a whole window before it is one, and a share of failures
        rises no faster than that of those who pass them on.
        """
        fresh = None
        if signal is ERROR_RATIO or (signal is HEARTBEAT and self.signal(signal.fresh_series, service) == 0):
            fresh = self.breach(signal, service=service, fresh=True)
        return self.breach(signal, service=service) or fresh

    def calm(self, signal: Signal, *, service: str | None = None, fresh: bool = False) -> Evidence | None:
        """The evidence that a signal is inside its limit, or None when it is outside or cannot be told."""
        return self._compare(signal, service or self.service, fresh=fresh, outside=False)

    def _compare(self, signal: Signal, service: str, *, fresh: bool, outside: bool) -> Evidence | None:
        series = signal.fresh_series if fresh else signal.series
        value, limit = self.signal(series, service), self.limit(signal, service)
        if value is None or limit is None or is_outside(signal, value, limit.value) is not outside:
            return None
        statement = f"{service}: {compared(signal, value, limit)}."
        return Evidence(statement, catalogue.series_of(series, service), value, self.at)


def flapping(seen: Observations) -> Evidence | None:
    """That heartbeats were missed again and again in the last hour; a first silence is none of that."""
    query = catalogue.missed_heartbeats_of(seen.service)
    times = seen.value(query)
    if times is None or times < FLAPPING:
        return None
    return Evidence(
        f"{seen.service} missed its heartbeat {times:.0f} times within the last hour.", query, times, seen.at
    )


@dataclass(frozen=True)
class Deviation:
    """State that is not what it should be, and whether it became so within the last hour."""

    evidence: Evidence
    is_new: bool


def config_drift(seen: Observations) -> Deviation | None:
    """That the configuration is not the wanted one; None when it is, or nobody measures it."""
    paths = seen.signal(catalogue.CONFIG_DRIFT)
    if paths is None or paths <= 0:
        return None
    sentence = f"The configuration of {seen.service} differs from the wanted one in {paths:.0f} places"
    return _deviation(seen, catalogue.CONFIG_DRIFT, sentence, value=paths, good=0.0)


def divergence(seen: Observations) -> Deviation | None:
    """That replicas which must hold the same state do not; None when they do, or nobody measures it."""
    digests = seen.signal(catalogue.STATE_DIGESTS)
    if digests is None or digests <= 1:
        return None
    sentence = f"The replicas of {seen.service} hold {digests:.0f} different states"
    return _deviation(seen, catalogue.STATE_DIGESTS, sentence, value=digests, good=1.0)


def _deviation(seen: Observations, series: str, sentence: str, *, value: float, good: float) -> Deviation:
    least = seen.value(catalogue.least_of(series, seen.service))
    is_new = least is not None and least <= good
    sentence += ", and did not an hour ago." if is_new else ", and has for an hour or longer."
    return Deviation(
        Evidence(sentence, catalogue.series_of(series, seen.service), value, seen.at, baseline=good), is_new
    )


def worst_resource_query(signal: Signal, service: str) -> str:
    """The highest utilisation within the look-back."""
    return f"max(max_over_time({catalogue.series_of(signal.series, service)}[{RESOURCE_LOOK_BACK}]))"


def lost_calls_query(caller: str, callee: str) -> str:
    """The highest share of the caller's calls that got no answer from the callee, within the look-back."""
    lost = catalogue.diagnosed_series_of(LOST_CALLS, callee, caller)
    return f"max(max_over_time({lost}[{RESOURCE_LOOK_BACK}]))"


def collect(
    client: PrometheusClient,
    *,
    service: str,
    depends_on: Sequence[str],
    thresholds: Thresholds,
    at: float,
    called_by: Sequence[str] = (),
) -> Observations:
    """Ask Prometheus all that a diagnosis needs; of those that call the service, the first 20.

    Raises shf_queries.QueryError when it cannot be asked.
    """
    called_by = called_by[:MOST_CALLERS]
    recorded = client.instant(catalogue.all_signals_of([service, *depends_on, *called_by]), at=at)
    values = _signals(recorded)
    own = [sample for sample in recorded if sample.labels.get("service") == service]
    in_places = {
        place: _signals([sample for sample in own if _place(sample) == place])
        for place in dict.fromkeys(map(_place, own))
    }
    queries = (
        catalogue.silent_services(),
        catalogue.known_services(),
        catalogue.start_time_of(service),
        catalogue.usual_request_rate_of(service),
        worst_resource_query(CPU, service),
        worst_resource_query(MEMORY, service),
        catalogue.missed_heartbeats_of(service),
        catalogue.least_of(catalogue.CONFIG_DRIFT, service),
        catalogue.least_of(catalogue.STATE_DIGESTS, service),
    )
    of_each = _of_each_dependency(service, depends_on) if depends_on else ()
    answers = client.together((*queries, *(grouped for grouped, _ in of_each)), at=at)
    for samples, (_, single) in zip(answers[len(queries) :], of_each, strict=True):
        values |= {
            single(sample.labels["service"]): sample.value
            for sample in samples
            if "service" in sample.labels and math.isfinite(sample.value)
        }
    for query, samples in zip(queries, answers, strict=False):
        answer = [sample.value for sample in samples if math.isfinite(sample.value)]
        if answer:
            values[query] = max(answer)
    usual = catalogue.usual_request_rate_of(service)
    for sample in answers[queries.index(usual)]:
        if math.isfinite(sample.value):
            in_places.setdefault(_place(sample), {})[usual] = sample.value
    return Observations(
        service=service,
        depends_on=depends_on,
        values=values,
        at=at,
        thresholds=thresholds,
        called_by=called_by,
        in_places=in_places,
    )


def _of_each_dependency(
    service: str, depends_on: Sequence[str]
) -> tuple[tuple[str, Callable[[str], str]], ...]:
    """Queries for all dependencies at once, each with the query that shows one of them to a person."""
    lost = catalogue.edges_of(LOST_CALLS, depends_on, service)
    return (
        (catalogue.start_times_of(depends_on), catalogue.start_time_of),
        (
            f"max by (service) (max_over_time({lost}[{RESOURCE_LOOK_BACK}]))",
            lambda callee: lost_calls_query(service, callee),
        ),
    )


_LOWER_IS_WORSE = {
    series
    for signal in SIGNALS.values()
    if not signal.higher_is_worse
    for series in (signal.series, signal.fresh_series)
}


def _place(sample: Sample) -> Place:
    cluster, namespace = (sample.labels.get(name, "") for name in catalogue.PLACE)
    return cluster, namespace


def _signals(samples: Sequence[Sample]) -> dict[str, float]:
    """Recorded series by the query that shows each; the worst one where clusters repeat a name."""
    values: dict[str, float] = {}
    for sample in samples:
        name, service = sample.labels.get("__name__", ""), sample.labels.get("service", "")
        if not math.isfinite(sample.value):
            continue
        query = catalogue.series_of(name, service)
        pick = min if name in _LOWER_IS_WORSE else max
        values[query] = pick(values.get(query, sample.value), sample.value)
    return values
