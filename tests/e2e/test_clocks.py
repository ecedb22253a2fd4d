"""Clocks that differ: samples from before an action must not pass for newer ones, and nothing is done."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from past_prometheus import past_prometheus
from self_healing_fabric.integration.lifecycle import Fabric
from self_healing_fabric.recovery.verification import Health, Verdict
from self_healing_fabric.settings import Settings
from shf_queries import QueryError

pytestmark = pytest.mark.e2e

HUNG_FOR = 50.0  # seconds, when the samples are made
UNTIL = 120  # seconds after that: so long a test may take


@pytest.fixture
def fabric(tmp_path: Path) -> Iterator[Fabric]:
    """Before a Prometheus in which `cart` was well for some minutes and has been silent since."""
    now = round(time.time())
    samples = [
        f'service:shf_up:ratio{{service="cart"}} {int(at < now - HUNG_FOR)} {at}'
        for at in range(now - 300, now + UNTIL, 5)
    ]
    lines = ["# TYPE service:shf_up:ratio gauge", *samples]
    with past_prometheus(tmp_path, lines) as url:
        fabric = Fabric(
            Settings.model_validate(
                {
                    "store": f"sqlite:///{tmp_path / 'shf.db'}",
                    "prometheus": {"url": url},
                    "services": {"cart": {}},
                }
            )
        )
        yield fabric
        fabric.stop()


def ahead(fabric: Fabric, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the fabric's clock, which is that of its store."""
    monkeypatch.setattr(fabric.store._backend, "clock", lambda: time.time() + seconds)


@pytest.mark.parametrize("seconds", [0.0, 1.0, -1.0])
def test_clocks_that_are_alike_leave_the_verdict_to_the_samples(
    fabric: Fabric, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second is what drifts, and less than any sample is old."""
    ahead(fabric, seconds, monkeypatch)
    now = fabric.store.clock()
    health, _ = fabric.context.verifier.health("cart", ["heartbeat"], now)
    assert health is Health.FAILING
    look = fabric.context.verifier.look("cart", ["heartbeat"], since=now - 40.0, deadline=now, now=now)
    assert look.verdict is Verdict.NOT_HEALED


@pytest.mark.parametrize(("seconds", "told"), [(-90.0, "90 s ahead of"), (600.0, "600 s behind")])
def test_clocks_that_differ_are_no_evidence(
    fabric: Fabric, seconds: float, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What hangs was healed by its last good samples, which had the time of after the action."""
    ahead(fabric, seconds, monkeypatch)
    now, verifier = fabric.store.clock(), fabric.context.verifier
    for ask in (
        lambda: verifier.health("cart", ["heartbeat"], now),
        lambda: verifier.look("cart", ["heartbeat"], since=now - 40.0, deadline=now, now=now),
        lambda: verifier.relapse("cart", ["heartbeat"], since=now - 40.0, now=now),
        lambda: verifier.failing({"cart": ["heartbeat"]}, now),
    ):
        with pytest.raises(QueryError, match=f"Prometheus's clock is {told} the fabric's"):
            ask()


def test_a_clock_that_is_set_is_noticed_soon(fabric: Fabric, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not only at the start; and it is forgotten when the clock is right again."""
    steady = [time.monotonic()]
    monkeypatch.setattr("self_healing_fabric.recovery.clocks.time.monotonic", lambda: steady[0])

    def health() -> Health:
        steady[0] += 10.0
        return fabric.context.verifier.health("cart", ["heartbeat"], fabric.store.clock())[0]

    assert health() is Health.FAILING
    ahead(fabric, -90.0, monkeypatch)
    with pytest.raises(QueryError):
        health()
    ahead(fabric, 0.0, monkeypatch)
    assert health() is Health.FAILING
