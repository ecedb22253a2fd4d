"""Deployments, maintenance and too few that answer: each defers or refuses, and is closed when in doubt."""

import math
from datetime import UTC, datetime
from typing import Any

import pytest

from self_healing_fabric import guardrails
from self_healing_fabric.guardrails import Measured, Proposal, Refusal
from self_healing_fabric.settings import Settings
from self_healing_fabric.store import Store

NOW = 1_795_990_400.0  # 2026-11-29T22:13:20+00:00
HOUR = 3600.0
NOTHING = Measured()


def ask(store: Store, measured: Measured = NOTHING, *, now: float = NOW, disruptive: bool = True,
        restores: bool = False, **limits: Any) -> Refusal | None:  # fmt: skip
    """May cart be restarted?"""
    settings = Settings(services={"cart": {}, "db": {}}, guardrails=limits)  # type: ignore[arg-type,dict-item]
    proposal = Proposal("cart", "restart", "docker:cart", disruptive, now, restores, measured=measured)
    return store.write(lambda connection: guardrails.check(connection, proposal, settings))


QUERY = "sum(rollouts) or vector(0)"


@pytest.mark.parametrize("value", [1.0, 0.5, None, math.nan, math.inf])
def test_a_deployment_or_no_answer_defers(store: Store, value: float | None) -> None:
    """A query that failed, gave nothing, two results or NaN is no `no`."""
    refusal = ask(store, Measured(deploying=value), deploying=QUERY)
    assert refusal is not None
    assert (refusal.guardrail, refusal.retry_at) == ("deploying", NOW + 15.0)


def test_without_a_deployment_or_a_query_it_allows(store: Store) -> None:
    """Zero is the one answer that lets it pass."""
    assert ask(store, Measured(deploying=0.0), deploying=QUERY) is None
    assert ask(store) is None
    assert ask(store, Measured(deploying=1.0), deploying=QUERY, restores=True) is None


@pytest.mark.parametrize("value", [1.0, 0.0, None, math.nan])
def test_too_few_that_answer_go_to_people(store: Store, value: float | None) -> None:
    """Fewer than two, or a number that nobody knows."""
    refusal = ask(store, Measured(answering=value), min_healthy=2)
    assert refusal is not None
    assert (refusal.guardrail, refusal.retry_at) == ("min_healthy", None)


def test_enough_that_answer_allow(store: Store) -> None:
    """Two of two."""
    assert ask(store, Measured(answering=2.0), min_healthy=2) is None


ENDS = datetime(2026, 11, 29, 23, 0, tzinfo=UTC).timestamp()
WINDOW = {"start": "2026-11-29T22:00:00Z", "end": "2026-11-30T00:00:00+01:00"}


def test_a_maintenance_window_defers_until_its_end(store: Store) -> None:
    """Probes too: people know that it fails."""
    for disruptive in (True, False):
        refusal = ask(store, maintenance=[WINDOW], disruptive=disruptive)
        assert refusal is not None
        assert (refusal.guardrail, refusal.retry_at) == ("maintenance", ENDS)
        assert refusal.reason == "cart is in a maintenance window until 29 Nov 23:00:00 UTC"


@pytest.mark.parametrize(
    ("window", "now"),
    [
        ({**WINDOW, "services": ["db"]}, NOW),
        (WINDOW, NOW - HOUR),
        (WINDOW, NOW + HOUR),
    ],
)
def test_outside_the_window_it_allows(store: Store, window: dict[str, Any], now: float) -> None:
    """Another service, an hour before, an hour later."""
    assert ask(store, maintenance=[window], now=now) is None


@pytest.mark.parametrize(
    ("start", "end", "says"),
    [
        ("2026-11-29T22:00:00", "2026-11-29T23:00:00Z", "offset from UTC"),
        ("2026-11-29T22:00:00Z", "2026-11-29T22:00:00Z", "end must be after start"),
    ],
)
def test_a_window_that_cannot_be_is_refused_at_load(start: str, end: str, says: str) -> None:
    """Local time would be an hour off twice a year."""
    with pytest.raises(ValueError, match=says):
        Settings(guardrails={"maintenance": [{"start": start, "end": end}]})  # type: ignore[arg-type]
