"""What a plugin's effect does wrong becomes an outcome that harms nobody else."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

import pytest

from self_healing_fabric.recovery.effects import (
    Effect,
    NotApplicable,
    Progress,
    Settling,
    TargetAway,
    TargetUnreadable,
)
from self_healing_fabric.recovery.effects_of_plugins import EffectOfPlugin
from self_healing_fabric.recovery.outcomes import Outcome, Status, Untold
from self_healing_fabric.recovery.strategies.of_plugin import OfPlugin
from self_healing_fabric.settings import MAX_EFFECT_TIMEOUT

DONE = Outcome(Status.SUCCEEDED, "done")


class Told(Effect):
    """An effect that does in each call what the test says."""

    platform, target, longest_effect = "test", "test:cart", 0.2

    def __init__(self, **calls: Callable[..., Any]) -> None:
        for name, function in calls.items():
            setattr(self, name, function)


def fail(*_: object, **__: object) -> Any:
    raise KeyError("generation")


def perform(permit: Callable[[], bool] = lambda: True, **calls: Callable[..., Any]) -> Outcome:
    effect = EffectOfPlugin("plugin test", Told(**calls))
    return effect.perform(key="k", attempt=1, before={}, permit=permit)


def test_what_it_did_is_believed() -> None:
    """An outcome passes as it is, and the arguments are those of every effect."""
    seen: dict[str, Any] = {}

    def does(**arguments: Any) -> Outcome:
        seen.update(arguments)
        return DONE

    assert perform(perform=does) == DONE
    assert seen["key"] == "k"
    assert seen["attempt"] == 1
    assert seen["before"] == {}


def test_one_that_raises_may_have_done_it() -> None:
    """Nobody knows: people look, and nothing is repeated."""
    outcome = perform(perform=fail)
    assert outcome.status is Status.INDETERMINATE
    assert outcome.retry_in is None
    assert outcome.detail == "plugin test raised KeyError: 'generation'"


@pytest.mark.parametrize("answer", [None, True, "ok", Outcome(Status.STARTED, "")])
def test_an_answer_that_is_no_outcome_is_no_success(answer: Any) -> None:
    """Only the type that says so is a success."""
    assert perform(perform=lambda **_: answer).status is Status.INDETERMINATE


def test_one_that_hangs_is_left_behind_without_a_permit() -> None:
    """The worker goes on after the effect's own time; what still wants to begin then may not."""
    release, asked = threading.Event(), threading.Event()
    answers: list[bool] = []

    def hangs(*, permit: Callable[[], bool], **_: Any) -> Outcome:
        release.wait(60)
        answers.append(permit())
        asked.set()
        return DONE

    outcome = perform(perform=hangs)
    assert outcome.status is Status.INDETERMINATE
    assert "did not return within 0.2 s" in outcome.detail
    release.set()
    assert asked.wait(10)
    assert answers == [False]


def test_without_a_permit_it_is_not_called() -> None:
    """The kill switch holds for a plugin that forgets to ask."""
    calls: list[int] = []
    outcome = perform(permit=lambda: False, perform=lambda **_: calls.append(1))
    assert outcome.status is Status.FAILED
    assert calls == []


def test_looking_at_the_target_fails_as_unreadable() -> None:
    """A snapshot that raises, or that could not be stored, is no base for an effect."""
    for broken in (fail, lambda: [1], lambda: {"x": math.nan}, lambda: {"x": object()}):
        with pytest.raises(TargetUnreadable, match="plugin test"):
            EffectOfPlugin("plugin test", Told(snapshot=broken)).snapshot()
    with pytest.raises(TargetUnreadable):
        EffectOfPlugin("plugin test", Told(check=fail)).check()
    with pytest.raises(TargetUnreadable):
        EffectOfPlugin("plugin test", Told(settled=fail)).settled({})
    with pytest.raises(TargetUnreadable):
        EffectOfPlugin("plugin test", Told(settled=lambda _: "fine")).settled({})


def test_a_target_that_is_away_may_tell_later() -> None:
    """Whether the plugin raises it or answers it."""

    def away(_: object) -> None:
        raise TargetAway("it starts anew")

    for observe in (away, lambda _: Untold(Status.INDETERMINATE, "it starts anew")):
        assert isinstance(EffectOfPlugin("plugin test", Told(observe=observe)).observe({}), Untold)


def test_what_leaves_it_open_is_in_the_plugins_words() -> None:
    """Later sentences begin with it, and not with an interruption that there was not."""
    told = perform(perform=lambda **_: Untold(Status.INDETERMINATE, "it restarts", why="no answer"))
    assert isinstance(told, Untold)
    assert told.why == "no answer"


def test_what_lacks_a_method_fails_as_what_raises() -> None:
    """An effect that does not come from `Effect` may have forgotten one; it is asked for like the others."""
    lacking = type("Lacking", (), {"platform": "test", "target": "test:cart", "longest_effect": 0.2})()
    effect = EffectOfPlugin("plugin test", lacking)
    for look in (effect.snapshot, effect.check):
        with pytest.raises(TargetUnreadable, match="plugin test raised AttributeError"):
            look()
    done = effect.perform(key="k", attempt=1, before={}, permit=lambda: True)
    assert done.status is effect.observe({}).status is Status.INDETERMINATE


@pytest.mark.parametrize("pause", ["soon", math.nan, -1.0, 1e9])
def test_a_pause_that_is_none_is_the_longest(pause: Any) -> None:
    """What was done stays done, and is asked about later."""
    outcome = perform(perform=lambda **_: Outcome(Status.FAILED, "busy", pause))
    assert (outcome.status, outcome.retry_in) == (Status.FAILED, MAX_EFFECT_TIMEOUT)


def test_after_an_interruption_it_may_not_know() -> None:
    """An `observe` that raises tells nothing, so people look."""
    observed = EffectOfPlugin("plugin test", Told(observe=fail)).observe({})
    assert observed.status is Status.INDETERMINATE


def test_errors_of_the_contract_keep_their_meaning() -> None:
    """A plugin says NotApplicable as a built-in strategy does."""

    def says(_: str) -> Effect:
        raise NotApplicable("cart has no cache")

    strategy = OfPlugin("flush", type("S", (), {"on": staticmethod(says)}))
    with pytest.raises(NotApplicable, match=r"^cart has no cache$"):
        strategy.on("cart")
    broken = OfPlugin("flush", type("S", (), {"on": staticmethod(fail)}))
    with pytest.raises(TargetUnreadable, match="plugin flush raised KeyError"):
        broken.on("cart")


@pytest.mark.parametrize("longest", [0, -1, 66, math.nan, math.inf, "soon", None])
def test_how_long_it_may_take_is_bounded(longest: Any) -> None:
    """A worker waits for so long at most, whatever the plugin says."""
    effect = Told()
    effect.longest_effect = longest
    with pytest.raises(TargetUnreadable, match="plugin test"):
        EffectOfPlugin("plugin test", effect)


def test_the_way_back_is_held_to_the_same() -> None:
    """An undo is an effect of the plugin too; one that raises is no way back."""
    back = EffectOfPlugin("plugin test", Told(undo=lambda _: Told(perform=fail))).undo({})
    assert back is not None
    done = back.perform(key="k", attempt=1, before={}, permit=lambda: True)
    assert done.status is Status.INDETERMINATE
    assert EffectOfPlugin("plugin test", Told(undo=fail)).undo({}) is None
    assert EffectOfPlugin("plugin test", Told(undo=lambda _: object())).undo({}) is None


def test_settling_passes() -> None:
    """A rollout under way is told by plugins too."""
    under_way = Settling(Progress.UNDER_WAY, "1 of 3")
    assert EffectOfPlugin("plugin test", Told(settled=lambda _: under_way)).settled({}) == under_way


def test_what_does_not_say_that_it_disturbs_nothing_disturbs() -> None:
    """Guardrails hold for a plugin that forgot to say whether they should."""
    assert OfPlugin("flush", object()).disruptive is True
    assert OfPlugin("flush", type("S", (), {"disruptive": None})).disruptive is True
    assert OfPlugin("flush", type("S", (), {"disruptive": False})).disruptive is False
