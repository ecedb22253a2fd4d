"""What is odd about real series is dealt with where they become one matrix."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from self_healing_fabric.diagnosis.windows import Key, Window, collect_window, window_of
from shf_queries import Series, catalogue


def series(
    values: Sequence[float],
    *,
    name: str = f"{catalogue.CUSTOM}cpu",
    times: Sequence[float] = (),
    **labels: str,
) -> Series:
    """A series of `cart` unless said otherwise, a sample each 10 s."""
    at = np.array(times or range(0, 10 * len(values), 10), dtype=float)
    return Series({"__name__": name, "service": "cart", **labels}, at, np.array(values, dtype=float))


def test_series_with_other_times_share_one_grid() -> None:
    """What starts late or has a hole is NaN there; keys are sorted."""
    window = window_of([series([1, 2, 3]), series([7], times=[10], service="api")])
    assert window.keys == (Key("api", "cpu"), Key("cart", "cpu"))
    assert window.times.tolist() == [0, 10, 20]
    np.testing.assert_array_equal(window.values, [[np.nan, 7, np.nan], [1, 2, 3]])
    assert window.step == 10


def test_holes_in_the_history_do_not_stretch_the_step() -> None:
    """Half of the distances are holes: the step is still that of the samples."""
    times = [0, 10, 20, 100, 110, 200, 300, 310, 320, 400]
    assert window_of([series([1.0] * 10, times=times)]).step == 10


def test_infinite_values_are_no_samples() -> None:
    """A quotient with nothing below the line is not a very high value."""
    np.testing.assert_array_equal(window_of([series([1, np.inf, -np.inf])]).values, [[1, np.nan, np.nan]])


def test_of_two_clusters_the_worse_counts() -> None:
    """The higher CPU and the lower availability."""
    window = window_of(
        [
            series([1, 5], cluster="a"),
            series([2, 3], cluster="b"),
            series([0.9, 0.5], name=f"{catalogue.CUSTOM}availability", cluster="a"),
            series([0.8, 0.7], name=f"{catalogue.CUSTOM}availability", cluster="b"),
        ]
    )
    np.testing.assert_array_equal(window.values, [[0.8, 0.5], [2, 5]])


def test_a_counter_becomes_its_increases_across_a_reset() -> None:
    """After a restart the counter's new value is the increase, as in PromQL's `increase`."""
    values = [*range(0, 100, 4), 3, 7, 11]
    window = window_of([series(values, name=f"{catalogue.CUSTOM}failed_total")])
    assert np.isnan(window.values[0, 0])
    assert window.values[0, 1:].tolist() == [4.0] * 24 + [3.0, 4.0, 4.0]


def test_a_total_that_rises_and_falls_is_no_counter() -> None:
    """The values decide, not the name."""
    assert window_of([series([5, 1, 6, 2], name=f"{catalogue.CUSTOM}x_total")]).values.tolist() == [
        [5, 1, 6, 2]
    ]


def test_the_gap_between_both_ends_of_an_edge_is_a_series() -> None:
    """What web waits for cart beyond what cart spends, with the query that shows it."""
    window = window_of(
        [
            series([5, 9], name=f"{catalogue.CUSTOM}edge_client_latency_p50", peer="web"),
            series([4, 4], name=f"{catalogue.CUSTOM}edge_server_latency_p50", peer="web"),
            series([1, 1], name=f"{catalogue.CUSTOM}edge_server_latency_p50", peer="api"),
        ]
    )
    assert window.keys[-1] == Key("cart", "edge_gap_latency_p50", "web")
    assert window.values[-1].tolist() == [1, 5]
    client, server = window.queries[-1].promql().split(" - ")
    assert client == 'service:shf_custom:edge_client_latency_p50{service="cart",peer="web"}'
    assert server == client.replace("client", "server")
    assert len(window.keys) == 4


def test_what_is_not_recorded_for_the_diagnosis_is_left_out() -> None:
    """Series without a service, limits, and an empty answer."""
    limit = series([1], name="service:shf_cpu:threshold")
    window = window_of([limit, series([1], service=""), series([])])
    assert (window.keys, window.services, window.step) == ((), (), 0.0)


def test_all_services_are_asked_for_in_one_query() -> None:
    """One range query; none for no services, because an empty set must not be read as everything."""
    asked = []

    class Source:
        def range(self, promql: str, *, start: float, end: float, step: float) -> tuple[Series, ...]:
            asked.append((promql, start, end, step))
            return (series([1, 2]),)

    window: Window = collect_window(Source(), {"web", "cart"}, start=0, end=10, step=5)
    assert window.keys == (Key("cart", "cpu"),)
    assert asked == [(catalogue.diagnosed(["cart", "web"]), 0, 10, 5)]
    assert collect_window(Source(), (), start=0, end=10, step=5).keys == ()
    assert len(asked) == 1
