"""A channel of a plugin either took the message, or the call is tried again and the next level is called."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, cast

import pytest

from self_healing_fabric.escalation.channels import CallFailed, Receipt, plugin
from self_healing_fabric.escalation.channels.plugin import ChannelOfPlugin
from self_healing_fabric.escalation.messages import Message
from self_healing_fabric.extensions import Misbehaved
from self_healing_fabric.settings import Settings

MESSAGE = cast(Message, object())


def sent(send: Callable[..., Any]) -> Receipt:
    channel = type("C", (), {"send": staticmethod(send), "check": staticmethod(lambda: 1 / 0)})()
    return ChannelOfPlugin("chat", channel).send(MESSAGE, {"part": 1})


def test_what_it_took_is_gone() -> None:
    """It gets the message and what it remembered, and may remember more."""
    seen: list[Any] = []

    def send(message: Message, progress: Any) -> Receipt:
        seen.append((message, progress))
        return Receipt(answer={"decision": "approve"}, progress={"part": 2})

    receipt = sent(send)
    assert seen == [(MESSAGE, {"part": 1})]
    assert receipt == Receipt(progress={"part": 2})  # only guardians decide
    assert sent(lambda *_: Receipt(progress={"part": object()})) == Receipt()


def test_what_misbehaves_reached_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """It raises, hangs, or answers something else: the call goes on being tried."""
    monkeypatch.setattr(plugin, "SENT_WITHIN", 0.05)
    release = threading.Event()
    with pytest.raises(CallFailed, match="plugin chat raised ZeroDivisionError"):
        sent(lambda *_: 1 / 0)
    with pytest.raises(CallFailed, match=r"plugin chat did not return within 0\.05 s"):
        sent(lambda *_: release.wait(60))
    release.set()
    for nothing in (None, True, {}):
        with pytest.raises(CallFailed, match="not a Receipt"):
            sent(lambda *_, nothing=nothing: nothing)


def test_a_failure_of_the_contract_keeps_its_meaning() -> None:
    """A plugin says that trying again cannot help as a built-in channel does."""

    def send(*_: Any) -> Receipt:
        raise CallFailed("no such room", final=True)

    with pytest.raises(CallFailed, match=r"^no such room$") as caught:
        sent(send)
    assert caught.value.final


def test_a_check_that_raises_is_a_sentence() -> None:
    """For `shf check`."""
    broken = type("C", (), {"check": staticmethod(lambda: 1 / 0)})()
    with pytest.raises(Misbehaved, match="plugin chat raised ZeroDivisionError"):
        ChannelOfPlugin("chat", broken).check()


def test_one_channel_is_one_plugin() -> None:
    """Two under one name would be sent through in an order that nobody gave."""
    with pytest.raises(ValueError, match="no plugin `chat` is installed among the channels"):
        Settings(escalation={"channels": {"human": {"plugin": {"chat": {}}}}})
    with pytest.raises(ValueError, match="`plugin` takes one plugin, not 0"):
        Settings(escalation={"channels": {"human": {"plugin": {}}}})
