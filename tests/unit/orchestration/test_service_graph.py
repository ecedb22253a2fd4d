"""The dependencies as known now: configured, measured, and what counts while they cannot be asked."""

from __future__ import annotations

from typing import Any

import pytest

from self_healing_fabric.orchestration.service_graph import MAX_AGE, ServiceGraph
from self_healing_fabric.settings import Settings
from shf_queries import PartialResult, PrometheusUnavailable, QueryRejected, Sample

SERVICES = {"web": {"depends_on": ["cart"]}, "cart": {}, "db": {}}
NOW = 1_800_000_000.0


class Prometheus:
    """Answers the graph's query with these calls, or fails."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, ...]] = []
        self.error: Exception | None = None
        self.asked: list[tuple[str, float]] = []

    def instant(self, promql: str, *, at: float) -> tuple[Sample, ...]:
        self.asked.append((promql, at))
        if self.error is not None:
            raise self.error
        labels = (dict(zip(("client", "server"), call, strict=False)) for call in self.calls)
        return tuple(Sample(each, at, 1.0) for each in labels)


def graph_of(prometheus: Prometheus, **settings: Any) -> ServiceGraph:
    """The graph over these services; by default it measures, too."""
    correlation = {"service_graph": {}, **settings}
    return ServiceGraph(Settings(services=SERVICES, correlation=correlation), prometheus)  # type: ignore[arg-type]


def test_before_anything_was_measured_the_configuration_counts() -> None:
    """A fabric that has just started already knows what people wrote down."""
    graph = graph_of(Prometheus())
    assert dict(graph.topology.dependencies("web")) == {"cart": 1}


def test_without_a_configured_metric_nothing_is_asked() -> None:
    """Prometheus may have no such series at all."""
    prometheus = Prometheus()
    graph = graph_of(prometheus, service_graph=None)
    graph.refresh(NOW)
    assert prometheus.asked == []


def test_measured_calls_are_added_to_the_configured_ones() -> None:
    """Only between configured services; incomplete and unknown pairs are ignored."""
    prometheus = Prometheus()
    prometheus.calls = [("cart", "db"), ("stranger", "db"), ("db", "stranger"), ("db",), ()]
    graph = graph_of(prometheus)
    graph.refresh(NOW)
    assert dict(graph.topology.dependencies("web")) == {"cart": 1, "db": 2}
    assert dict(graph.topology.dependencies("db")) == {}


def test_the_query_names_the_configured_metric_and_labels() -> None:
    """Asked for the moment of the comparison."""
    prometheus = Prometheus()
    labels = {"client_label": "source_app", "server_label": "destination_app"}
    graph_of(prometheus, service_graph={"metric": "istio_requests_total", **labels}).refresh(NOW)
    ((query, at),) = prometheus.asked
    assert at == NOW
    assert "sum by (source_app, destination_app) (rate(istio_requests_total[5m])) > 0" in query


def test_a_call_that_is_made_no_more_is_forgotten() -> None:
    """Each answer replaces the one before; what is configured stays."""
    prometheus = Prometheus()
    prometheus.calls = [("cart", "db")]
    graph = graph_of(prometheus)
    graph.refresh(NOW)
    prometheus.calls = []
    graph.refresh(NOW + 10)
    assert dict(graph.topology.dependencies("web")) == {"cart": 1}


@pytest.mark.parametrize("error", [PrometheusUnavailable("away"), QueryRejected("no"), PartialResult("half")])
def test_while_it_cannot_be_asked_the_last_answer_counts_for_a_while(error: Exception) -> None:
    """An outage, which often takes Prometheus along, is when the graph is needed most; but not for ever."""
    prometheus = Prometheus()
    prometheus.calls = [("cart", "db")]
    graph = graph_of(prometheus)
    graph.refresh(NOW)
    prometheus.error = error
    graph.refresh(NOW + MAX_AGE)
    assert dict(graph.topology.dependencies("web")) == {"cart": 1, "db": 2}
    graph.refresh(NOW + MAX_AGE + 1)
    assert dict(graph.topology.dependencies("web")) == {"cart": 1}
    prometheus.error = None
    graph.refresh(NOW + MAX_AGE + 2)
    assert dict(graph.topology.dependencies("web")) == {"cart": 1, "db": 2}
