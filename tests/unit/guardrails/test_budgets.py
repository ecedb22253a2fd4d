"""Budgets: each one trips, is counted by target, survives a restart, and is closed when in doubt."""

from collections.abc import Callable
from typing import Any

import pytest

from self_healing_fabric import guardrails
from self_healing_fabric.guardrails import Proposal, Refusal
from self_healing_fabric.settings import Settings
from self_healing_fabric.store import Store

Acted = Callable[..., None]
NOW = 100_000.0
TARGET = "docker:cart"


def ask(
    store: Store, *, target: str = TARGET, disruptive: bool = True, now: float = NOW, **limits: Any
) -> Refusal | None:
    """Ask all guardrails, by default 3 actions an hour with a minute between them."""
    settings = Settings(guardrails=limits)
    proposal = Proposal("cart", "restart", target, disruptive, now)
    return store.write(lambda connection: guardrails.check(connection, proposal, settings))


def refused(store: Store, **how: Any) -> str | None:
    """The name of the guardrail that refuses."""
    refusal = ask(store, **how)
    return refusal.guardrail if refusal else None


def test_the_first_action_is_allowed(store: Store) -> None:
    """An empty history allows."""
    assert ask(store) is None


@pytest.mark.parametrize("status", ["intended", "started"])
def test_no_second_action_while_one_is_at_work(store: Store, acted: Acted, status: str) -> None:
    """However long ago it began; asking again soon makes sense."""
    acted(1.0, status=status)
    refusal = ask(store)
    assert refusal is not None
    assert refusal.guardrail == "one_at_a_time"
    assert refusal.retry_at is not None
    assert refusal.retry_at > NOW


def test_the_budget_is_spent_and_renews_itself(store: Store, acted: Acted) -> None:
    """Three actions within the hour are the limit; a person must look. An hour later one is free."""
    for at in (NOW - 3500, NOW - 2000, NOW - 1000):
        assert refused(store, now=at) is None
        acted(at)
    refusal = ask(store)
    assert refusal == Refusal("max_actions", f"3 of 3 actions on {TARGET} were used in the last 3600 s")
    assert refusal.retry_at is None
    assert refused(store, now=NOW + 100) == "max_actions"
    assert refused(store, now=NOW + 101) is None


def test_a_budget_of_zero_forbids_every_action(store: Store) -> None:
    """0 is a limit, not `no limit`."""
    assert refused(store, max_actions=0) == "max_actions"


def test_a_target_gets_time_to_settle(store: Store, acted: Acted) -> None:
    """Within the cooldown the answer is no, with the time when it will be yes."""
    acted(NOW - 59)
    refusal = ask(store)
    assert refusal is not None
    assert (refusal.guardrail, refusal.retry_at) == ("cooldown", NOW + 1)
    assert refused(store, now=NOW + 1) is None  # asked again at the time that was told


@pytest.mark.parametrize("at", [NOW - 0.001, NOW, NOW + 30.0])
def test_without_a_cooldown_only_the_budget_counts(store: Store, acted: Acted, at: float) -> None:
    """A cooldown of 0 s lets the next action follow in the same instant, also after a clock was set back."""
    acted(at)
    assert refused(store, cooldown=0) is None


def test_failed_and_indeterminate_actions_count(store: Store, acted: Acted) -> None:
    """An attempt that failed has disturbed the target too."""
    for at, status in ((NOW - 300, "failed"), (NOW - 200, "indeterminate"), (NOW - 100, "succeeded")):
        acted(at, status=status)
    assert refused(store) == "max_actions"


def test_an_action_that_never_began_does_not_count(store: Store, acted: Acted) -> None:
    """Paused between announcement and effect: nothing was disturbed."""
    acted(NOW - 1, status="failed", started_at=None)
    assert refused(store, max_actions=1) is None


def test_each_target_has_a_budget_of_its_own(store: Store, acted: Acted) -> None:
    """Another container of the same service is not held back."""
    for at in (NOW - 300, NOW - 200, NOW - 10):
        acted(at)
    assert refused(store) is not None
    assert refused(store, target="docker:db") is None


@pytest.mark.parametrize("at", [NOW + 30.0, NOW + 1_000_000.0])
def test_a_clock_that_was_set_back_forgets_nothing(store: Store, acted: Acted, at: float) -> None:
    """Actions of the future still count for the budget, and the cooldown holds until their time."""
    acted(at)
    refusal = ask(store)
    assert refusal is not None
    assert (refusal.guardrail, refusal.retry_at) == ("cooldown", at + 60)
    assert refused(store, max_actions=1) == "max_actions"


def test_a_target_without_a_name_is_refused(store: Store) -> None:
    """What cannot be counted is not allowed, however often it is asked."""
    refusal = ask(store, target="")
    assert refusal is not None
    assert (refusal.guardrail, refusal.retry_at) == ("one_at_a_time", None)


def test_what_disturbs_nothing_needs_no_budget(store: Store, acted: Acted) -> None:
    """A probe may run beside a restart."""
    acted(NOW - 1, status="started")
    assert ask(store, disruptive=False, max_actions=0) is None


def test_budgets_survive_a_restart(url: str, store: Store, acted: Acted) -> None:
    """A crash loop of the fabric does not renew its budget."""
    for at in (NOW - 300, NOW - 200, NOW - 100):
        acted(at)
    store.close()
    again = Store(url)
    assert refused(again) == "max_actions"
    again.close()


def test_a_guardrail_that_cannot_be_evaluated_allows_nothing(store: Store) -> None:
    """Without its table the answer is an error, and the action is not announced."""
    store.write(lambda connection: connection.exec_driver_sql("DROP TABLE actions") and None)
    with pytest.raises(Exception, match="no such table"):
        ask(store)
