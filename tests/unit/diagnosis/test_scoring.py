"""What each series counts for, and why less: every factor by its sentence and its size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from self_healing_fabric.diagnosis.call_graph import CallGraph
from self_healing_fabric.diagnosis.scoring import Scored, Scorer, Symptom
from self_healing_fabric.diagnosis.windows import Key, window_of
from shf_queries import Series, catalogue

STEP, BEFORE, AFTER = 15.0, 120, 8


def levels(before: float, after: float, *, late: int = 0, old: int | None = None) -> np.ndarray:
    """1 % of noise around one level, then another from the alert on, `late` samples before it, or `old`."""
    noise = 0.01 * before * np.random.default_rng(int(before * 1000) % 1000).normal(size=BEFORE + AFTER)
    values = np.full(BEFORE + AFTER, before) + noise
    values[(BEFORE - late if old is None else old) :] = after
    return values


def scored(
    rows: Mapping[tuple[str, str], Sequence[float]], kind: str = "", calls: Sequence[tuple[str, str]] = ()
) -> tuple[Scorer, Scored]:
    """Score an alert at web."""
    series = [
        Series(
            {"__name__": catalogue.CUSTOM + name, "service": service},
            STEP * np.arange(BEFORE + AFTER),
            np.array(values, dtype=float),
        )
        for (service, name), values in rows.items()
    ]
    window = window_of(series)
    scorer = Scorer(window, Symptom("web", kind, STEP * BEFORE), CallGraph(calls))
    return scorer, scorer.score(scorer.onset.index, BEFORE + AFTER)


def factors(pair: tuple[Scorer, Scored], service: str, kind: str) -> dict[str, float]:
    """The factors of one series, by their reasons."""
    scorer, result = pair
    row = scorer.window.keys.index(Key(service, catalogue.kind_of_series(catalogue.CUSTOM + kind)))
    return {factor.reason: pytest.approx(factor.factor, abs=0.02) for factor in result.factors[row]}


def test_a_symptom_counts_by_what_it_shares_with_the_alert() -> None:
    """Its share of the added time; 0.6 for another statistic, 0.5 for another symptom, 1 for a cause."""
    pair = scored(
        {
            ("web", "latency_p95"): levels(0.1, 0.5),
            ("cart", "latency_p95"): levels(0.1, 0.3),
            ("cart", "latency_p50"): levels(0.1, 0.3),
            ("cart", "error_ratio"): levels(0.01, 0.3),
            ("cart", "disk"): levels(10, 30),
        },
        "latency_p95",
    )
    assert factors(pair, "cart", "latency_p95") == {"it accounts for 50% of the alert's volume": 0.625}
    assert factors(pair, "cart", "latency_p50") == {"it is another statistic than the alert's": 0.6}
    assert factors(pair, "cart", "error_ratio") == {"it is another symptom than the alert's": 0.5}
    assert factors(pair, "cart", "disk") == {}
    assert factors(pair, "web", "latency_p95") == {}


def test_what_callees_explain_counts_by_their_part_of_the_traffic() -> None:
    """A callee that is as much slower and gets half of the requests explains half of it."""
    pair = scored(
        {
            ("web", "latency_p95"): levels(0.1, 0.5),
            ("web", "request_rate"): levels(40, 40),
            ("cart", "latency_p95"): levels(0.1, 0.5),
            ("cart", "request_rate"): levels(20, 20),
        },
        calls=[("web", "cart")],
    )
    assert factors(pair, "web", "latency_p95")["its callees explain it"] == 1 - 0.85 / 2
    assert "its callees explain it" not in factors(pair, "cart", "latency_p95")


def edge_and_caller(waits: float, slow: float, queue: float) -> tuple[Scorer, Scored]:
    """Web waits for cart, is slow and queues; cart itself is as quick as ever."""
    edge = {"service": "cart", "peer": "web"}
    rows = [
        ({"service": "web"}, "latency_p95", levels(0.1, slow)),
        ({"service": "web"}, "error_ratio", levels(0.01, 0.3)),
        ({"service": "web"}, "queue_depth", levels(1.0, queue)),
        ({"service": "cart"}, "latency_p95", levels(0.02, 0.02)),
        (edge, "edge_client_latency_p50", levels(0.02, 0.04 if waits > 0.03 else 0.02)),
        (edge, "edge_client_latency_p95", levels(0.03, waits)),
        (edge, "edge_client_lost_ratio", levels(0.001, 0.3 if waits > 0.03 else 0.001)),
    ]
    times = STEP * np.arange(BEFORE + AFTER)
    window = window_of(
        [
            Series({**labels, "__name__": catalogue.CUSTOM + kind}, times, values)
            for labels, kind, values in rows
        ]
    )
    scorer = Scorer(window, Symptom("web", "latency_p95", STEP * BEFORE), CallGraph([("web", "cart")]))
    return scorer, scorer.score(scorer.onset.index, BEFORE + AFTER)


def test_what_a_caller_waits_for_explains_that_it_is_slow_fails_and_queues() -> None:
    """Its own measure of the way to the callee: the delay may lie between the two, and is not its own."""
    pair = edge_and_caller(waits=0.4, slow=0.5, queue=9.0)
    assert factors(pair, "web", "latency_p95")["its callees explain it"] == 1 - 0.85 * 37 / 40
    assert factors(pair, "web", "error_ratio")["its callees explain it"] == 1 - 0.85
    assert factors(pair, "web", "queue_depth")["its callees explain why it is slow"] == 1 - 0.85 * 37 / 40
    assert pair[1].order[0] == "cart"


def test_a_caller_that_waits_no_longer_is_slow_by_itself() -> None:
    """Slow code in the caller: nothing on its way to the callee explains it."""
    pair = edge_and_caller(waits=0.03, slow=0.5, queue=9.0)
    for kind in ("latency_p95", "error_ratio", "queue_depth"):
        assert not [reason for reason in factors(pair, "web", kind) if "callees" in reason]
    assert pair[1].order[0] == "web"


def test_few_requests_count_by_their_number() -> None:
    """Of n requests within the window n / (n + 20)."""
    pair = scored({("cart", "error_ratio"): levels(0.01, 0.6), ("cart", "requests_sum"): levels(2.5, 2.5)})
    assert factors(pair, "cart", "error_ratio") == {"it was measured on 20 requests only": 0.5}
    one = scored({("cart", "error_ratio"): levels(0.01, 0.6), ("cart", "requests_sum"): levels(0.125, 0.125)})
    assert factors(one, "cart", "error_ratio") == {"it was measured on 1 request only": pytest.approx(1 / 21)}


def test_a_resource_follows_the_load_as_far_as_the_load_grew() -> None:
    """CPU that tripled with twice the load is followed by half."""
    pair = scored({("cart", "cpu"): levels(0.2, 0.6), ("cart", "request_rate"): levels(50, 100)})
    assert factors(pair, "cart", "cpu") == {"it follows the load": 1 - 0.7 / 2}


def test_what_was_so_before_the_onset_hardly_counts() -> None:
    """A level that changed six minutes before what alerted."""
    pair = scored(
        {
            ("web", "disk"): levels(10, 30),
            ("cart", "disk"): levels(10, 80, old=95),
            ("db", "disk"): levels(10, 30),
        },
        "disk",
    )
    assert factors(pair, "cart", "disk") == {"it was so before the onset": 0.15}
    assert factors(pair, "db", "disk") == {}


def test_further_families_count_less_each() -> None:
    """The best series of each family, the second at 0.3; a second series of one family adds nothing."""
    scorer, result = scored(
        {
            ("cart", "disk"): levels(10, 30),
            ("cart", "cpu"): levels(0.2, 0.9),
            ("cart", "cpu_rate"): levels(20, 90),
        }
    )
    best = {scorer.window.keys[row].kind: result.bits[row] for row in scorer.rows_of("cart")}
    cpu = max(best["cpu"], best["cpu_rate"])
    expected = max(cpu, best["disk"]) + 0.3 * min(cpu, best["disk"])
    assert result.scores["cart"] == pytest.approx(expected)


def test_who_shifted_first_counts_more() -> None:
    """15 % for the first, nothing for the last."""
    _, result = scored({("cart", "disk"): levels(10, 30), ("db", "disk"): levels(10, 30, late=2)})
    assert [factor.factor for factor in result.service_factors["db"]] == [pytest.approx(1.15)]
    assert result.service_factors["cart"] == ()
