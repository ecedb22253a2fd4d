"""Whoever repeats the query of a claim in Prometheus finds its value, and its baseline, to the last digit."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from past_prometheus import past_prometheus
from self_healing_fabric.diagnosis.call_graph import CallGraph
from self_healing_fabric.diagnosis.history import FINEST_STEP, locate
from self_healing_fabric.diagnosis.localization import Claim, Localization
from self_healing_fabric.diagnosis.scoring import Symptom
from shf_queries import PrometheusClient

pytestmark = pytest.mark.e2e

SCRAPED = 1.0  # more often than a diagnosis reads: what lies between differs
START, ILL, END = 1_795_000_000.0, 1_795_003_500.0, 1_795_003_593.0
ASKED = END - 1.3  # between two samples, as nearly always
EXACT = 1e-9


def samples() -> Iterator[str]:
    """Two services of which one calls the other: with gaps, a counter that grows faster, two clusters, and
    noise."""
    noise = np.random.default_rng(5)
    times = np.arange(START, END, SCRAPED)
    ill = times >= ILL
    asked = np.cumsum(np.where(ill, 90.0, 30.0) + noise.integers(0, 5, len(times)))
    late = 0.2 + 0.01 * noise.random(len(times)) + np.where(ill, 0.9 + 0.2 * noise.random(len(times)), 0.0)
    series = {
        'service:shf_latency:p95_seconds{service="cart"}': late,
        'service:shf_errors:ratio{service="cart"}': np.where(ill, 0.3, 0.0) + 0.01 * noise.random(len(times)),
        'service:shf_latency:p95_seconds{service="shop"}': late + 0.05,
        'service:shf_custom:queue_depth{service="cart"}': np.where(ill, 40.0, 2.0) + noise.random(len(times)),
        'service:shf_cpu:utilisation{service="cart",cluster="a"}': late + 0.05 * noise.random(len(times)),
        'service:shf_cpu:utilisation{service="cart",cluster="b"}': late + 0.05 * noise.random(len(times)),
        'service:shf_custom:jobs_total{service="shop"}': asked,
        'service:shf_custom:client_latency_mean{service="cart",peer="shop"}': late + np.where(ill, 0.7, 0.1),
        'service:shf_custom:server_latency_mean{service="cart",peer="shop"}': late,
    }
    yield from (f"# TYPE {metric} unknown" for metric in dict.fromkeys(name.split("{")[0] for name in series))
    for name, values in series.items():
        gaps = noise.random(len(times)) < 0.4 if "queue" in name else np.zeros(len(times), dtype=bool)
        yield from (
            f"{name} {value} {at}"
            for at, value, gap in zip(times, values, gaps, strict=True)
            if not gap and not math.isnan(value)
        )


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrometheusClient]:
    """A Prometheus that holds them."""
    directory: Path = tmp_path_factory.mktemp("claims")
    with past_prometheus(directory, samples(), lookback=1.5) as url:
        client = PrometheusClient(url)
        yield client
        client.close()


def located(client: PrometheusClient, at: float) -> Localization:
    """What the product says of it."""
    return locate(
        client,
        symptom=Symptom("shop", "latency_p95_seconds", ILL + 41.7),
        graph=CallGraph([("shop", "cart")]),
        at=at,
        interval=1.0,
    )


def asked(client: PrometheusClient, query: str, at: float) -> float:
    """The one value that a query has at a time."""
    (sample,) = client.instant(query, at=at)
    return float(sample.value)


@pytest.mark.parametrize("earlier", range(int(FINEST_STEP)))
def test_each_claim_can_be_repeated(client: PrometheusClient, earlier: int) -> None:
    """Shares, durations, a gauge with holes, increases of a counter, the difference of two series, the worse
    of two clusters; whichever second it was asked in."""
    found = located(client, ASKED - earlier)
    claims: list[Claim] = [claim for suspect in found.suspects for claim in suspect.claims]
    assert {
        "latency_p95_seconds", "queue_depth", "jobs_total", "gap_latency_mean", "cpu_utilisation",
    } <= {claim.kind for claim in claims}  # fmt: skip
    for claim in claims:
        assert asked(client, claim.query, claim.at) == pytest.approx(claim.value, rel=EXACT), claim
        assert asked(client, claim.baseline_query, claim.at) == pytest.approx(claim.baseline, rel=EXACT), (
            claim
        )
        assert asked(client, f"max_over_time(({claim.series})[1m:1s])", claim.at) > 0
