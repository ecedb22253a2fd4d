"""Guardrails that others bring fail closed, and change nothing but the one action that they refuse."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

import pytest

from self_healing_fabric.guardrails import Proposal, Refusal, outside
from self_healing_fabric.guardrails.outside import Outside, boundary, first_refusal

PROPOSAL = Proposal("cart", "restart", "http:cart", True, 1_800_000_000.0)


def asked(ask: Callable[[Proposal], Any]) -> Refusal | None:
    return Outside("tides", "plugin tides", ask).refusal_of(PROPOSAL)


def test_only_none_allows() -> None:
    """Every other answer is a refusal, and people are called where it says nothing of asking again."""
    assert asked(lambda _: None) is None
    for answer in (True, False, 0, "yes", {}):
        refusal = asked(lambda _, answer=answer: answer)  # type: ignore[misc]
        assert refusal is not None
        assert refusal.guardrail == "tides"
        assert refusal.retry_at is None


def test_one_that_raises_or_hangs_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is done on doubt."""
    monkeypatch.setattr(outside, "ANSWERS_WITHIN", 0.05)
    refusal = asked(lambda _: 1 / 0)
    assert refusal is not None
    assert refusal.reason == "plugin tides raised ZeroDivisionError: division by zero, so nothing is done"
    release = threading.Event()
    refusal = asked(lambda _: release.wait(60) and None)
    release.set()
    assert refusal is not None
    assert "did not return within 0.05 s" in refusal.reason


def test_a_refusal_keeps_its_reason_and_time_under_its_own_name() -> None:
    """A plugin can neither speak for another guardrail nor write into the store."""
    given = Refusal("mode", "high water", PROPOSAL.now + 60, next=True, calls=True, remember="x")
    assert asked(lambda _: given) == Refusal(
        "tides", "high water", PROPOSAL.now + 60, next=True, calls=True, remember=None
    )


@pytest.mark.parametrize("retry_at", [math.nan, math.inf, "soon"])
def test_a_time_that_is_none_is_doubt(retry_at: Any) -> None:
    """Such an incident would never be looked at again."""
    refusal = asked(lambda _: Refusal("tides", "high water", retry_at))
    assert refusal is not None
    assert refusal.retry_at is None


def test_it_is_not_asked_all_the_time() -> None:
    """A time in the past means soon, not at once and for ever."""
    refusal = asked(lambda _: Refusal("tides", "high water", 0.0))
    assert refusal is not None
    assert refusal.retry_at == PROPOSAL.now + 1.0


@pytest.mark.parametrize("answer", [False, None, 1, "yes", [True]])
def test_the_boundary_allows_only_by_true(answer: Any) -> None:
    """An enforcer that forgets to answer, or answers something truthy, has not allowed it."""
    assert boundary(lambda _: True).refusal_of(PROPOSAL) is None
    refusal = boundary(lambda _: answer).refusal_of(PROPOSAL)
    assert refusal is not None
    assert refusal.guardrail == "boundary"


def test_the_first_refusal_counts() -> None:
    """They are asked in order, and no further than needed."""
    calls: list[str] = []

    def refuse(_: Proposal) -> Refusal:
        calls.append("a")
        return Refusal("a", "no")

    asked_in_order = (
        Outside("a", "a", refuse),
        Outside("b", "b", lambda _: calls.append("b")),
    )
    assert first_refusal(asked_in_order, PROPOSAL) == Refusal("a", "no")
    assert calls == ["a"]
