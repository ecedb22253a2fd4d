"""What did not help is not repeated, and what must be healed again and again goes to people."""

from collections.abc import Callable
from typing import Any

import pytest

from self_healing_fabric import guardrails
from self_healing_fabric.guardrails import Proposal, Refusal
from self_healing_fabric.guardrails.mode import UnstoredPauses
from self_healing_fabric.integration.guardrail_state import states
from self_healing_fabric.settings import Settings
from self_healing_fabric.store import Store

Acted = Callable[..., None]
NOW = 100_000_000.0
DAY = 86400.0


def ask(store: Store, *, strategy: str = "restart", now: float = NOW, **limits: Any) -> Refusal | None:
    """May cart be acted on?"""
    values = {"max_actions": 100, "cooldown": 0, **limits}
    settings = Settings(services={"cart": {"guardrails": values}})  # type: ignore[dict-item]
    proposal = Proposal("cart", strategy, "docker:cart", True, now)
    return store.write(lambda connection: guardrails.check(connection, proposal, settings))


def left(store: Store, guardrail: str, **limits: Any) -> float:
    """What /metrics says is left to cart."""
    settings = Settings(services={"cart": {"guardrails": limits}})  # type: ignore[dict-item]
    bounds = {"cart": settings.limits_of("cart", "")}
    none, targets = UnstoredPauses(), {"cart": "docker:cart"}
    found = store.read(lambda c: list(states(c, settings, none, targets, bounds, NOW)))
    (remaining,) = [each.remaining for each in found if (each.service, each.guardrail) == ("cart", guardrail)]
    return remaining


def judged(acted: Acted, *verdicts: str, strategy: str = "restart", every: float = 60.0) -> None:
    """Actions with these verdicts, the oldest first, the last a minute ago."""
    for number, verdict in enumerate(reversed(verdicts)):
        at = NOW - (number + 1) * every
        acted(at, id=f"{strategy}{at}", verdict=verdict, strategy=strategy)


@pytest.mark.parametrize(
    ("verdicts", "refused"),
    [
        (("not_healed", "relapsed", "not_healed"), True),
        (("healed", "not_healed", "not_healed"), False),
        (("not_healed", "not_healed", "not_healed", "healed"), False),
        (("not_healed", "no_evidence", "not_healed", "not_healed"), True),
        (("no_evidence", "no_evidence", "no_evidence"), False),
    ],
)
def test_a_strategy_that_fails_is_not_tried_again(
    store: Store, acted: Acted, verdicts: tuple[str, ...], refused: bool
) -> None:
    """Three in a row on the target; the plan goes on with another one."""
    judged(acted, *verdicts)
    refusal = ask(store)
    assert (refusal is not None) is refused
    if refusal is not None:
        assert (refusal.guardrail, refusal.next, refusal.retry_at) == ("max_failures", True, None)


def test_another_strategy_and_another_day_are_another_matter(store: Store, acted: Acted) -> None:
    """The breaker is of one strategy on one target, for a day."""
    judged(acted, "not_healed", "not_healed", "not_healed")
    assert ask(store, strategy="scale") is None
    assert ask(store, now=NOW + DAY) is None
    assert ask(store, max_failures=4) is None


def test_what_is_healed_too_often_goes_to_people(store: Store, acted: Acted) -> None:
    """Five times in a week, by whatever strategy: success hides the cause."""
    judged(acted, "healed", "healed", "healed", every=DAY)
    judged(acted, "healed", "healed", strategy="scale", every=DAY / 2)
    refusal = ask(store)
    assert refusal is not None
    assert (refusal.guardrail, refusal.retry_at, refusal.next) == ("max_heals", None, False)
    assert "5 times in 7 days" in refusal.reason
    assert ask(store, now=NOW + 5 * DAY) is None
    assert ask(store, max_heals=6) is None


def test_what_is_taken_back_is_no_heal(store: Store, acted: Acted) -> None:
    """That all is well without the lent replica says nothing of how often it was needed."""
    judged(acted, "healed", "healed", strategy="scale", every=DAY)
    judged(acted, "healed", "healed", strategy="undo", every=DAY / 2)
    assert ask(store, max_heals=3) is None
    assert ask(store, max_heals=2) is not None
    assert left(store, "max_heals", max_heals=3) == 1
