"""A test message to everybody whom a level calls: the one way to know before the night that it arrives.

It goes through the same channels as a real call, says that it is a test, and decides nothing.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass

from self_healing_fabric.escalation.calls import Call, Kind
from self_healing_fabric.escalation.channels import CallFailed, channels
from self_healing_fabric.escalation.messages import Message
from self_healing_fabric.settings import Settings

TITLE = "[test] the Self-Healing Fabric can reach you"


@dataclass(frozen=True)
class Reached:
    """Whether one contact could be reached over one channel. `ok` is None when it has no channel."""

    contact: str
    channel: str | None
    ok: bool | None
    message: str


def rehearse(settings: Settings, level: int) -> Iterator[Reached]:
    """Send a test message to each contact of a level over each of its channels, and say what came of it."""
    known, configured = channels(settings), settings.escalation.levels[level]
    for contact in settings.escalation.contacts_of(level):
        names = settings.escalation.channels_of(contact)
        if not names:
            yield Reached(contact, None, None, "has no channel: only the log would hear of it")
        for name in names:
            try:
                known[name].send(_message(level, configured.name, contact), {})
            except CallFailed as failure:
                yield Reached(contact, name, False, str(failure))
            else:
                yield Reached(contact, name, True, "took the test message")


def _message(level: int, level_name: str, contact: str) -> Message:
    key = f"test/call-{secrets.token_hex(6)}"
    body = f"You are called at level {level} ({level_name}). This is a test: nothing is wrong, do nothing."
    call = Call(key, Kind.ESCALATION, "test", None, level, level_name, contact, (contact,), "a test")
    document = {"version": 1, "call": key, "contact": contact, "kind": "test", "level": level}
    document |= {"level_name": level_name, "reason": body, "links": {}}
    story: dict[str, object] = {"severity": "none", "acknowledged_by": None, "alerts": []}
    return Message(key, TITLE, body, document, (call,), {"test": story})
