"""How a call reaches someone. To add a channel, add a module with the protocol's method and a line below."""

from __future__ import annotations

from typing import Protocol

from self_healing_fabric.escalation.calls import Call
from self_healing_fabric.escalation.channels.log import LogChannel

__all__ = ["Channel", "channels"]


class Channel(Protocol):
    """Carries a call. What it raises is logged and does not harm the incident."""

    name: str

    def send(self, call: Call) -> None:
        """Send the call."""


def channels() -> tuple[Channel, ...]:
    """All channels of this fabric."""
    return (LogChannel(),)
