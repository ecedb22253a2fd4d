"""Whom it hurts, of a service that runs in several clusters, as a real Prometheus records it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from past_prometheus import past_prometheus
from self_healing_fabric.diagnosis.evidence import collect
from self_healing_fabric.diagnosis.impact_assessor import Impact, assess
from self_healing_fabric.settings import Thresholds
from shf_queries import PrometheusClient

pytestmark = pytest.mark.e2e

STEP, START, END = 15.0, 1_795_000_000.0, 1_795_003_600.0
SILENT = 60.0  # seconds before the end, for which one of them has not answered

Recorded = Mapping[str, tuple[float, float]]  # a series by its labels: its value until it is silent, and then


def impact_of(directory: Path, recorded: Recorded) -> Impact:
    """What a diagnosis at the end says of them."""
    count = int((END - START) / STEP) + 1
    lines = [f"# TYPE {metric} unknown" for metric in dict.fromkeys(each.split("{")[0] for each in recorded)]
    for series, (before, after) in recorded.items():
        times = [START + STEP * number for number in range(count)]
        lines += [f"{series} {before if at < END - SILENT else after} {at}" for at in times]
    with past_prometheus(directory, lines) as url:
        client = PrometheusClient(url)
        try:
            seen = collect(client, service="cart", depends_on=[], thresholds=Thresholds(), at=END)
            impact = assess(seen, severity="critical", tier="standard", dependants={}, tiers={})
            for fact in impact.evidence:
                assert fact.value in [sample.value for sample in client.instant(fact.query, at=fact.at)]
        finally:
            client.close()
    return impact


def test_the_requests_of_one_cluster_do_not_suffer_from_the_errors_of_another(tmp_path: Path) -> None:
    """The small one fails by half, the large one hardly ever."""
    impact = impact_of(
        tmp_path,
        {
            'service:shf_errors:ratio{cluster="small",namespace="shop",service="cart"}': (0.5, 0.5),
            'service:shf_requests:rate{cluster="small",namespace="shop",service="cart"}': (10, 10),
            'service:shf_errors:ratio{cluster="large",namespace="shop",service="cart"}': (0.001, 0.001),
            'service:shf_requests:rate{cluster="large",namespace="shop",service="cart"}': (1000, 1000),
        },
    )
    assert impact.users_affected == 0.5
    assert impact.requests_affected == pytest.approx(0.5 * 10 + 0.001 * 1000)


def test_a_cluster_that_does_not_answer_has_its_own_usual_traffic(tmp_path: Path) -> None:
    """Not that of the one which answers."""
    impact = impact_of(
        tmp_path,
        {
            'service:shf_heartbeat:answered{cluster="small",service="cart"}': (1, 0),
            'service:shf_requests:rate{cluster="small",service="cart"}': (10, 0),
            'service:shf_heartbeat:answered{cluster="large",service="cart"}': (1, 1),
            'service:shf_errors:ratio{cluster="large",service="cart"}': (0, 0),
            'service:shf_requests:rate{cluster="large",service="cart"}': (1000, 1000),
        },
    )
    assert impact.users_affected == 1.0
    assert impact.requests_affected == pytest.approx(10)


def test_where_nobody_counts_the_requests_of_a_cluster_that_fails_they_are_unknown(tmp_path: Path) -> None:
    """Those of the others do not tell."""
    impact = impact_of(
        tmp_path,
        {
            'service:shf_heartbeat:answered{cluster="uncounted",service="cart"}': (1, 0),
            'service:shf_requests:rate{cluster="eu",service="cart"}': (10, 10),
            'service:shf_requests:rate{cluster="us",service="cart"}': (1000, 1000),
        },
    )
    assert impact.users_affected == 1.0
    assert impact.requests_affected is None


def test_a_heartbeat_that_names_no_cluster_is_that_of_the_only_traffic(tmp_path: Path) -> None:
    """It is pushed to the fabric, which knows none; the requests are counted in one."""
    impact = impact_of(
        tmp_path,
        {
            'service:shf_heartbeat:answered{service="cart"}': (1, 0),
            'service:shf_requests:rate{cluster="eu",service="cart"}': (10, 0),
        },
    )
    assert impact.requests_affected == pytest.approx(10)
