"""Calls into others' code return in time, whatever it does, and tell whose it was."""

from __future__ import annotations

import threading
import time

import pytest

from self_healing_fabric.extensions import Misbehaved, call
from self_healing_fabric.extensions.bounded import MOST_LEFT_BEHIND


def test_its_value_is_returned() -> None:
    """A call that behaves is a call."""
    assert call("plugin a", lambda: 7, within=5) == 7


def test_what_it_raises_is_told_with_its_name() -> None:
    """Any error, SystemExit too, becomes one sentence."""

    def leave() -> None:
        raise SystemExit(3)

    with pytest.raises(Misbehaved, match=r"plugin a raised ZeroDivisionError: division by zero"):
        call("plugin a", lambda: 1 / 0, within=5)
    with pytest.raises(Misbehaved, match=r"plugin a raised SystemExit"):
        call("plugin a", leave, within=5)


def test_errors_of_the_contract_pass() -> None:
    """What may be raised by contract is raised as it is."""
    with pytest.raises(LookupError):
        call("plugin a", lambda: {}["x"], within=5, passes=(LookupError,))


def test_who_hangs_is_left_behind_and_after_a_few_not_called_any_more() -> None:
    """The caller goes on; when one call has returned, the name is called again."""
    release, calls = threading.Event(), []

    def hang() -> None:
        calls.append(1)
        release.wait(60)

    for _ in range(MOST_LEFT_BEHIND):
        with pytest.raises(Misbehaved, match=r"plugin hangs did not return within 0.01 s"):
            call("plugin hangs", hang, within=0.01)
    with pytest.raises(Misbehaved, match="earlier calls still hang"):
        call("plugin hangs", hang, within=0.01)
    assert len(calls) == MOST_LEFT_BEHIND
    assert call("plugin other", lambda: 1, within=5) == 1
    release.set()
    for _ in range(500):
        try:
            assert call("plugin hangs", lambda: 2, within=5) == 2
            return
        except Misbehaved:
            time.sleep(0.01)
    pytest.fail("it was never called again")
