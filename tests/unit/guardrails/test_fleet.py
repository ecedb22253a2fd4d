"""Bounds for all services together: each trips, each is closed when in doubt, and a storm is remembered."""

from collections.abc import Callable
from typing import Any

import pytest

from self_healing_fabric import guardrails
from self_healing_fabric.guardrails import Proposal, Refusal
from self_healing_fabric.settings import Settings, number_of
from self_healing_fabric.store import Store, statements

Acted = Callable[..., None]
NOW = 100_000.0
TARGET = "docker:cart"
SERVICES = [f"s{number}" for number in range(20)]


def settings_of(**fleet: Any) -> Settings:
    """Twenty services and `cart`."""
    return Settings(
        services={name: {} for name in ("cart", *SERVICES)},  # type: ignore[misc]
        guardrails={"fleet": fleet, "cooldown": 0},  # type: ignore[arg-type]
    )


def ask(store: Store, *, path: frozenset[str] = frozenset(), restores: bool = False, now: float = NOW,
        **fleet: Any) -> Refusal | None:  # fmt: skip
    """Ask whether cart may be restarted, and remember what is to be remembered, as the journal does."""
    proposal = Proposal("cart", "restart", TARGET, True, now, restores=restores, path=path)

    def check(connection: Any) -> Refusal | None:
        refusal = guardrails.check(connection, proposal, settings_of(**fleet))
        if refusal is not None and refusal.remember is not None:
            statements.set_control(
                connection, name=refusal.guardrail, value=refusal.remember, by="test", now=now
            )
        return refusal

    return store.write(check)


def name_of(refusal: Refusal | None) -> str | None:
    """Which one refuses."""
    return refusal.guardrail if refusal else None


def fail(store: Store, number: int, state: str = "diagnosing", *, offset: int = 0) -> None:
    """So many services have an open incident."""
    rows = [
        {
            "id": f"f{each}", "subject": f"service/s{each}", "service": f"s{each}", "known_service": True,
            "title": "t", "severity": "critical", "state": state, "opened_at": 1.0, "updated_at": 1.0,
            "plan": [],
        }
        for each in range(offset, offset + number)
    ]  # fmt: skip
    store.write(lambda connection: statements.insert_incidents(connection, rows))


def end(store: Store) -> None:
    """All of those incidents are resolved."""
    store.write(
        lambda c: c.exec_driver_sql("UPDATE incidents SET state = 'resolved' WHERE id LIKE 'f%'") and None
    )


@pytest.mark.parametrize(
    ("share", "total", "number"),
    [("25%", 20, 5), ("25%", 3, 1), ("25%", 0, 1), ("0%", 20, 0), ("100%", 7, 7), (3, 20, 3), (0, 20, 0)],
)
def test_a_share_is_rounded_down_and_allows_at_least_one(share: int | str, total: int, number: int) -> None:
    """Unless it is 0 %, which is nobody."""
    assert number_of(share, total) == number


@pytest.mark.parametrize("share", ["25", "%", "-1%", "101%", "1.5%", "many", "٢٥%"])
def test_what_is_no_share_is_refused_at_load(share: str) -> None:
    """With what to write instead."""
    with pytest.raises(ValueError, match="percentage from 0% to 100%"):
        settings_of(at_once=share)


@pytest.mark.parametrize("status", ["intended", "started"])
def test_nothing_is_done_beside_an_action_on_a_connected_service(
    store: Store, acted: Acted, status: str
) -> None:
    """Restarting a database and its client at once shows nothing and risks both."""
    fail(store, 1)
    acted(NOW, incident_id="f0", target="docker:db", status=status)
    refusal = ask(store, path=frozenset({"s0"}))
    assert name_of(refusal) == "one_at_a_time"
    assert refusal is not None
    assert refusal.retry_at == NOW + 5.0
    assert ask(store) is None


def test_so_many_actions_at_the_same_time(store: Store, acted: Acted) -> None:
    """Five of 21 services are a quarter; the sixth waits until one has ended."""
    for number in range(5):
        acted(NOW - number, target=f"docker:{number}", status="started", id=f"r{number}")
    assert name_of(ask(store)) == "fleet_at_once"
    assert ask(store, at_once=6) is None
    assert name_of(ask(store, at_once=0)) == "fleet_at_once"
    assert name_of(ask(store, at_once=0, restores=True)) is None


def test_so_many_targets_in_a_window(store: Store, acted: Acted) -> None:
    """Ten of 21 are half; a further target is for people, one that was acted on is not a further one."""
    for number in range(10):
        acted(NOW - 100, target=f"docker:{number}", id=f"t{number}")
    refusal = ask(store)
    assert name_of(refusal) == "fleet_targets"
    assert refusal is not None
    assert refusal.retry_at is None
    assert ask(store, targets=11) is None
    acted(NOW - 50, id="own")
    assert ask(store) is None


def test_targets_are_forgotten_after_the_window(store: Store, acted: Acted) -> None:
    """And what failed before it began never counted."""
    acted(NOW - 3601, target="docker:old", id="old")
    acted(NOW - 10, target="docker:never", id="never", status="failed", started_at=None)
    assert name_of(ask(store, targets=0)) == "fleet_targets"
    assert ask(store, targets=1) is None


def test_a_storm_stops_everything_and_calls_people_once(store: Store) -> None:
    """Eleven of 21 services fail: nothing is restarted. The second who asks only waits."""
    fail(store, 10)
    assert name_of(ask(store)) == "storm"  # with cart's own, which the fixture has opened
    first, second = ask(store, now=NOW + 1), ask(store, now=NOW + 2)
    assert (name_of(first), name_of(second)) == ("storm", "storm")
    assert first is not None
    assert second is not None
    assert (first.calls, second.calls) == (False, False)
    assert second.retry_at == NOW + 62


def test_the_first_of_a_storm_calls(store: Store) -> None:
    """And the next storm, after the cooldown, calls again."""
    fail(store, 12)
    calls = [refusal.calls for now in (NOW, NOW + 5, NOW + 2000) if (refusal := ask(store, now=now))]
    assert calls == [True, False, True]


def test_a_storm_stays_open_for_its_cooldown(url: str, store: Store) -> None:
    """All are well again: still nothing for ten minutes, also after a restart of the fabric."""
    fail(store, 12)
    ask(store)
    end(store)
    store.close()
    again = Store(url)
    assert name_of(ask(again, now=NOW + 599)) == "storm"
    assert ask(again, now=NOW + 601) is None
    assert name_of(ask(again, now=NOW - 5000)) == "storm"  # a clock that was set back ends nothing
    again.close()


def test_a_few_failing_services_are_no_storm(store: Store) -> None:
    """Ten of 21 are not more than half; nor are five of eight, for so few prove nothing."""
    fail(store, 9)
    assert ask(store) is None
    fail(store, 3, "resolved", offset=9)
    assert ask(store) is None


def test_a_restore_is_not_held_up_by_a_storm(store: Store) -> None:
    """Taking back what the fabric did is never the storm."""
    fail(store, 15)
    assert ask(store, restores=True) is None
