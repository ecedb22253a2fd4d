"""Evidence: every fact carries query, value and time, and what is missing supports nothing."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from self_healing_fabric.diagnosis.evidence import (
    MOST_CALLERS,
    Observations,
    collect,
    lost_calls_query,
    worst_resource_query,
)
from self_healing_fabric.settings import Thresholds
from shf_queries import PrometheusUnavailable, Sample, catalogue
from shf_queries.catalogue import CPU, ERROR_RATIO, HEARTBEAT, LATENCY_P95, MEMORY, SIGNALS

NAN = math.nan


class Answers:
    """A Prometheus that knows these answers, by query; everything else is an empty vector."""

    def __init__(
        self,
        recorded: Sequence[tuple[str, str, float]] = (),
        queries: Mapping[str, Sequence[float | Sample]] | None = None,
    ) -> None:
        self._recorded, self._queries = recorded, queries or {}
        self.asked: list[tuple[str, float | None]] = []

    def instant(self, promql: str, *, at: float | None = None) -> tuple[Sample, ...]:
        self.asked.append((promql, at))
        if promql.startswith("{__name__"):
            return tuple(
                Sample({"__name__": f"service:shf_{name}", "service": service}, 1000.0, value)
                for name, service, value in self._recorded
            )
        return tuple(
            value if isinstance(value, Sample) else Sample({}, 1000.0, value)
            for value in self._queries.get(promql, ())
        )

    def together(self, queries: Sequence[str], *, at: float | None = None) -> tuple[tuple[Sample, ...], ...]:
        return tuple(self.instant(query, at=at) for query in queries)


def observe(client: Any) -> Observations:
    """Collect for `cart`, which depends on `db`."""
    return collect(client, service="cart", depends_on=["db"], thresholds=Thresholds(), at=1000.0)


def test_a_fact_can_be_checked_by_anyone() -> None:
    """The evidence holds the query to paste, the value and the time, and says which side of which limit."""
    fact = observe(Answers([("errors:ratio", "cart", 0.5)])).breach(ERROR_RATIO)
    assert fact is not None
    assert fact.as_dict() == {
        "statement": "cart: error_ratio is 0.5 (share of requests failing), outside its limit: 0.05.",
        "query": 'service:shf_errors:ratio{service="cart"}',
        "value": 0.5,
        "at": 1000.0,
    }


def test_everything_is_asked_for_the_same_moment() -> None:
    """Facts of different times would contradict each other."""
    client = Answers()
    observe(client)
    assert {at for _, at in client.asked} == {1000.0}


@pytest.mark.parametrize("signal", SIGNALS.values(), ids=SIGNALS)
def test_a_missing_value_supports_nothing(signal: catalogue.Signal) -> None:
    """Neither outside nor inside its limit."""
    seen = observe(Answers())
    assert seen.breach(signal) is None
    assert seen.calm(signal) is None


@pytest.mark.parametrize("signal", SIGNALS.values(), ids=SIGNALS)
def test_nan_supports_nothing(signal: catalogue.Signal) -> None:
    """0/0 of a service without traffic is neither healthy nor sick."""
    recorded = [
        (name.removeprefix("service:shf_"), "cart", NAN) for name in (signal.series, signal.fresh_series)
    ]
    if signal.baseline_series:
        recorded.append((signal.baseline_series.removeprefix("service:shf_"), "cart", 0.1))
    seen = observe(Answers(recorded))
    assert seen.breach(signal) is None
    assert seen.calm(signal) is None


@pytest.mark.parametrize("baseline", [None, NAN])
def test_latency_without_a_baseline_supports_nothing(baseline: float | None) -> None:
    """Twice nothing is no limit."""
    recorded = [("latency:p95_seconds", "cart", 9.0)]
    if baseline is not None:
        recorded.append(("latency:p95_seconds_baseline", "cart", baseline))
    seen = observe(Answers(recorded))
    assert (seen.limit(LATENCY_P95), seen.breach(LATENCY_P95), seen.calm(LATENCY_P95)) == (None, None, None)


@pytest.mark.parametrize(
    ("signal", "series", "inside", "outside"),
    [
        (ERROR_RATIO, "errors:ratio", 0.05, 0.051),
        (CPU, "cpu:utilisation", 0.90, 0.901),
        (MEMORY, "memory:utilisation", 0.95, 0.951),
        (HEARTBEAT, "heartbeat:answered", 1.0, 0.0),
        (LATENCY_P95, "latency:p95_seconds", 0.2, 0.201),
    ],
)
def test_the_limit_itself_is_still_good(
    signal: catalogue.Signal, series: str, inside: float, outside: float
) -> None:
    """5.0 % of errors is inside, 5.1 % is outside."""
    for value, calm in ((inside, True), (outside, False)):
        seen = observe(Answers([(series, "cart", value), ("latency:p95_seconds_baseline", "cart", 0.1)]))
        assert (seen.calm(signal) is not None, seen.breach(signal) is not None) == (calm, not calm)


def test_the_worst_of_several_clusters_counts() -> None:
    """A service that is silent in one cluster is not healthy because it answers in another."""
    recorded = [("heartbeat:answered", "cart", 1.0), ("heartbeat:answered", "cart", 0.0)]
    recorded += [("errors:ratio", "cart", 0.2), ("errors:ratio", "cart", 0.01)]
    for order in (recorded, recorded[::-1]):
        seen = observe(Answers(order))
        assert seen.breach(HEARTBEAT) is not None
        assert seen.breach(ERROR_RATIO) is not None


def test_a_dependency_has_facts_of_its_own() -> None:
    """What is true of the service is not told of what it depends on."""
    seen = observe(Answers([("heartbeat:answered", "cart", 0.0), ("heartbeat:answered", "db", 1.0)]))
    assert seen.breach(HEARTBEAT, service="db") is None
    calm = seen.calm(HEARTBEAT, service="db")
    assert calm is not None
    assert 'service="db"' in calm.query


def test_dependencies_are_asked_about_together_and_shown_one_by_one() -> None:
    """One query for all of them; the evidence's query is that of the one it speaks of."""
    lost = catalogue.edges_of("edge_client_lost_ratio", ["db", "mail"], "cart")
    answers = {
        f"max by (service) (max_over_time({lost}[5m]))": [
            Sample({"service": "db"}, 1000.0, 0.25),
            Sample({"service": "mail"}, 1000.0, NAN),
        ],
        catalogue.start_times_of(["db", "mail"]): [Sample({"service": "mail"}, 1000.0, 900.0)],
    }
    seen = collect(
        Answers(queries=answers),
        service="cart",
        depends_on=["db", "mail"],
        thresholds=Thresholds(),
        at=1000.0,
    )
    assert seen.value(lost_calls_query("cart", "db")) == 0.25
    assert seen.value(lost_calls_query("cart", "mail")) is None
    assert seen.value(catalogue.start_time_of("mail")) == 900.0
    assert seen.value(catalogue.start_time_of("db")) is None
    assert 'service="db",peer="cart"' in lost_calls_query("cart", "db")


def test_callers_have_facts_of_their_own_and_only_some_are_asked_about() -> None:
    """Hundreds may call a database; a few of them tell that it fails for its callers."""
    callers = [f"caller{number}" for number in range(MOST_CALLERS + 5)]
    client = Answers([("errors:ratio", "caller0", 0.9)])
    seen = collect(client, service="db", depends_on=[], thresholds=Thresholds(), at=1000.0, called_by=callers)
    assert seen.called_by == tuple(callers[:MOST_CALLERS])
    assert seen.breach(ERROR_RATIO, service="caller0") is not None
    assert seen.breach(ERROR_RATIO) is None
    (asked,) = [query for query, _ in client.asked if query.startswith("{__name__")]
    assert callers[MOST_CALLERS] not in asked


def test_a_query_that_fails_is_not_swallowed() -> None:
    """Half of the facts would be a wrong diagnosis: the caller waits instead."""

    class Away(Answers):
        def instant(self, promql: str, *, at: float | None = None) -> tuple[Sample, ...]:
            if promql == catalogue.start_time_of("cart"):
                raise PrometheusUnavailable("gone")
            return super().instant(promql, at=at)

    with pytest.raises(PrometheusUnavailable):
        observe(Away())


def test_single_queries_drop_nan_and_keep_the_highest() -> None:
    """The peak of the resources is the highest that is a number."""
    query = worst_resource_query(MEMORY, "cart")
    assert observe(Answers(queries={query: [0.5, NAN, 0.99]})).value(query) == 0.99
    assert observe(Answers(queries={query: [NAN]})).value(query) is None
