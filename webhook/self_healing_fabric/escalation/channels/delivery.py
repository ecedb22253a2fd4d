"""What every channel does, and how a try can end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from self_healing_fabric.escalation.messages import Message


@dataclass(frozen=True)
class Receipt:
    """The channel took the message.

    Attributes:
        answer: what the receiver answered, where it may say something; not trusted.
        progress: what the channel wants to know when it is asked to send the same message again.
    """

    answer: Mapping[str, Any] | None = None
    progress: Mapping[str, Any] = field(default_factory=dict)


class CallFailed(Exception):
    """The message did not arrive, or nobody knows; its text says why, without secrets.

    Attributes:
        final: trying again cannot help.
        partly: somebody was reached.
        progress: as in `Receipt`; None: nothing has changed since the earlier try.
    """

    def __init__(
        self,
        reason: str,
        *,
        final: bool = False,
        partly: bool = False,
        progress: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(reason)
        self.final = final
        self.partly = partly
        self.progress = None if progress is None else dict(progress)


class Channel(Protocol):
    """Carries messages. `send` may be called again for the same key: after a crash, or a lost answer."""

    @property
    def gathers(self) -> bool:
        """Whether several calls to one contact may be one message."""

    @property
    def alive_for(self) -> float | None:
        """Seconds between two signs of life of what was sent, until it is over; None: it needs none."""

    def send(self, message: Message, progress: Mapping[str, Any]) -> Receipt:
        """Send the message; `progress` is what an earlier try left. Raises CallFailed."""

    def check(self) -> str:
        """Look whether it could send, without sending; say what was found. Raises ShfError."""
