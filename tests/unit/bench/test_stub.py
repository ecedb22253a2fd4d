"""What plays Prometheus and the targets in the benchmark counts what really happened."""

from __future__ import annotations

import time
from pathlib import Path

import httpx

from shf_bench.lives import InstantPrometheus
from shf_bench.stub import Stub
from shf_queries import PrometheusClient
from shf_queries.catalogue import HEARTBEAT, all_signals_of, series_of


def test_the_first_question_about_a_service_is_remembered(tmp_path: Path) -> None:
    """As the fabric's own client asks it; later ones do not move it, and no series is known."""
    with Stub(tmp_path) as stub:
        client = PrometheusClient(stub.url)
        before = time.time()
        assert client.instant(all_signals_of(["s00007"])) == ()
        after = time.time()
        client.instant(all_signals_of(["s00007"]))
        assert client.raw(series_of(HEARTBEAT.fresh_series, "s00007"), seconds=5) == ()
        assert list(client.alerts()) == []
        client.close()
        asked = stub.seen()["asked"]
    assert asked.keys() == {"s00007"}
    assert before <= asked["s00007"] <= after


def test_restarts_are_counted_and_heal(tmp_path: Path) -> None:
    """Each call counts, also a repeated one, and only its service answers from then on."""
    with Stub(tmp_path, services=3) as stub, httpx.Client(trust_env=False) as client:
        prometheus = InstantPrometheus(stub.flags)

        def values() -> list[float]:
            selectors = [series_of(HEARTBEAT.fresh_series, f"s0000{number}") for number in range(3)]
            return [prometheus.raw(each, seconds=1)[0].values[-1] for each in selectors]

        assert values() == [0, 0, 0]
        for _ in range(2):
            client.post(f"{stub.url}/restart/s00001", headers={"Idempotency-Key": "same"})
        assert values() == [0, 1, 0]
        (sample,) = prometheus.instant(all_signals_of(["s00001"]))
        assert (sample.labels["service"], sample.value) == ("s00001", 1.0)
        seen = stub.seen()
    assert (seen["restarts"], seen["keys"]) == ({"s00001": 2}, 1)
