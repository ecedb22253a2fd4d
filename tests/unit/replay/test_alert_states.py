"""`for` and `keep_firing_for`, counted in evaluations as Prometheus counts them."""

from __future__ import annotations

import pytest

from self_healing_fabric.replay.alert_states import AlertStates, Episode

CART = (("alertname", "Down"), ("service", "cart"))
PAY = (("alertname", "Down"), ("service", "pay"))


def lives(states: AlertStates, pattern: str, step: float = 5.0) -> list[tuple[float, float | None]]:
    """When CART fired and when that ended, for an expression that is true at each `x`."""
    for number, there in enumerate(pattern):
        states.evaluate(number * step, {CART: 1.0} if there == "x" else {})
    fired = [each.fired_at for each in states.told if each.ended_at is None]
    ended = [each.ended_at for each in states.told if each.ended_at is not None]
    return [(float(at or 0.0), ended[n] if n < len(ended) else None) for n, at in enumerate(fired)]


@pytest.mark.parametrize(
    ("hold", "keep", "pattern", "expected"),
    [
        (0, 0, ".x.", [(5.0, 10.0)]),
        (0, 0, ".xx..x", [(5.0, 15.0), (25.0, None)]),
        (10, 0, ".xx.", []),  # true for 5 s only
        (10, 0, ".xxx.", [(15.0, 20.0)]),
        (12, 0, ".xxxx.", [(20.0, 25.0)]),  # 12 s have passed at the first evaluation after them
        (10, 0, ".xx.xx.", []),  # the wait begins anew
        (0, 10, ".x..", [(5.0, None)]),
        (0, 10, ".x...", [(5.0, 20.0)]),  # 10 s after the first evaluation without it
        (0, 10, ".x..x...", [(5.0, 35.0)]),  # one life: it came back while it was kept
        (0, 12, ".x.....", [(5.0, 25.0)]),
        (10, 10, ".xx..xx", []),  # what never fired is not kept
    ],
)
def test_an_alert_fires_and_ends_at_the_evaluations_at_which_it_does_in_prometheus(
    hold: float, keep: float, pattern: str, expected: list[tuple[float, float | None]]
) -> None:
    assert lives(AlertStates(hold, keep), pattern) == expected


def test_each_set_of_labels_is_an_alert_of_its_own() -> None:
    states = AlertStates(5, 0)
    states.evaluate(0, {CART: 1.0})
    states.evaluate(5, {CART: 2.0, PAY: 1.0})
    states.evaluate(10, {PAY: 3.0})
    assert states.told == [
        Episode(CART, 0, 2.0, 5),
        Episode(PAY, 5, 3.0, 10),
        Episode(CART, 0, 2.0, 5, 10),
    ]
    assert states.active == {PAY: 5}


def test_a_copy_goes_its_own_way() -> None:
    """A stretch is replayed more than once, each time from the same states."""
    states = AlertStates(0, 0)
    states.evaluate(0, {CART: 1.0})
    other = states.copy()
    other.evaluate(5, {})
    assert (states.active, other.active) == ({CART: 0}, {})
    assert [each.ended_at for each in other.told] == [5]
    assert states.told == [Episode(CART, 0, 1.0, 0)]
