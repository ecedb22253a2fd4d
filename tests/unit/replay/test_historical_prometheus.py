"""What the fabric's parts are told in a replay is never later than the replayed time."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

import pytest
import responses

from self_healing_fabric.replay.history import Coverage, HistoricalPrometheus
from shf_queries.evaluation import Grid, Recordings

URL = "http://prometheus.example:9090"
CART = (("service", "cart"),)
NOW = 1_000.0


@pytest.fixture
def prometheus() -> Iterator[HistoricalPrometheus]:
    """A recorded series whose values are its times, until long after the replayed time."""
    recordings, grid = Recordings(), Grid(5.0, 0, 400)
    recordings.put("service:shf_up:ratio", "0", grid, {CART: grid.times})
    client = HistoricalPrometheus(URL, recordings, frozenset({"up", "service:shf_custom:queue"}), lambda: NOW)
    yield client
    client.close()


@pytest.mark.parametrize("at", [None, NOW, NOW + 500])
def test_recorded_series_end_at_the_replayed_time(prometheus: HistoricalPrometheus, at: float | None) -> None:
    query = 'service:shf_up:ratio{service="cart"}'
    (sample,) = prometheus.instant(query, at=at)
    (raw,) = prometheus.raw(query, seconds=20, at=at)
    (ranged,) = prometheus.range(query, start=900, end=NOW + 500, step=50)
    (worst,) = prometheus.instant(f"max(max_over_time({query}[5m]))", at=at)
    together = prometheus.together([query, f"vector(scalar({query}))"], at=at)[0]
    assert (sample.value, worst.value, together[0].value) == (NOW, NOW, NOW)
    assert raw.values.tolist() == [980.0, 985.0, 990.0, 995.0, 1000.0]
    assert ranged.times.tolist() == [900.0, 950.0, 1000.0]


@responses.activate
def test_raw_series_are_asked_for_at_the_replayed_time(prometheus: HistoricalPrometheus) -> None:
    answer = {"status": "success", "data": {"resultType": "vector", "result": []}}
    responses.get(f"{URL}/api/v1/query", json=answer)
    responses.get(f"{URL}/api/v1/query_range", json=answer)
    prometheus.instant("up")
    prometheus.instant("up", at=NOW + 500)
    prometheus.raw("up", seconds=60, at=NOW + 500)
    prometheus.range("up", start=900, end=NOW + 500, step=10)
    asked = [parse_qs(urlsplit(str(call.request.url)).query) for call in responses.calls]
    assert [float(each.get("time", each.get("end"))[0]) for each in asked] == 4 * [NOW]  # type: ignore[index]


@responses.activate
def test_series_that_people_record_themselves_are_found_beside(prometheus: HistoricalPrometheus) -> None:
    """Such as `service:shf_custom:`: no rule of ours records them, and history has them."""
    own = {"metric": {"__name__": "service:shf_custom:queue", "service": "cart"}, "value": [NOW, "7"]}
    answer = {"status": "success", "data": {"resultType": "vector", "result": [own]}}
    responses.get(f"{URL}/api/v1/query", json=answer)
    found = prometheus.instant('{__name__=~"service:shf_.+",service=~"cart"}')
    assert {sample.labels["__name__"]: sample.value for sample in found} == {
        "service:shf_up:ratio": NOW,
        "service:shf_custom:queue": 7.0,
    }
    (call,) = responses.calls
    (query,) = parse_qs(urlsplit(str(call.request.url)).query)["query"]
    assert query == '{__name__=~"service:shf_custom:queue",service=~"cart"}'


def test_nothing_is_evaluated_while_prometheus_was_stopped() -> None:
    coverage = Coverage(0.0, 1000.0, ((300.0, 500.0),))
    assert [coverage.evaluated(at) for at in (299.0, 301.0, 499.0, 501.0)] == [True, False, False, True]
    assert coverage.seconds == 800.0
    assert coverage.since(400.0).pauses == ((400.0, 500.0),)
