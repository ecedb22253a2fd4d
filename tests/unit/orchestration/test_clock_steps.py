"""The clock is set by hours while incidents are open: a stretch in which nobody looked is no evidence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from self_healing_fabric.incidents.lifecycle import State
from shf_queries import Series

HOUR = 3600.0


def test_a_deadline_that_passed_while_nobody_looked_calls_nothing_unproved(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock is set forward, or the whole host was away: no sample tells of the hour in between, and the
    first look after it said that there is no evidence, gave up the plan and the action's verdict."""
    world.silent()
    world.receive(world.alert())
    world.target.on_restart = world.healthy
    world.run(seconds=2)
    world.clock.now += HOUR
    began, raw = world.clock.now, world.prometheus.raw

    def only_since(*arguments: Any, **options: Any) -> Sequence[Series]:
        kept = [(each, each.times > began) for each in raw(*arguments, **options)]
        return [Series(each.labels, each.times[new], each.values[new]) for each, new in kept if new.any()]

    monkeypatch.setattr(world.prometheus, "raw", only_since)
    world.run(seconds=30)
    assert [row.verdict for row in world.actions()] == ["healed"]
    assert world.incident().state is State.RESOLVED


def test_a_deadline_is_put_off_by_no_more_than_nobody_looked(world: Any) -> None:
    """Without a sample for longer than that there is no evidence."""
    world.silent()
    world.receive(world.alert())
    world.run(seconds=2)
    world.prometheus.history.clear()
    world.clock.now += HOUR
    world.run(seconds=70)
    assert [row.verdict for row in world.actions()] == ["no_evidence"]
    assert world.incident().state is State.ESCALATED
