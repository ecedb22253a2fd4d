"""A channel that another package adds: a message is given to it, and is not gone before it has taken it.

The entry point names a factory, called with the settings and the validated options of
`escalation.channels.NAME.plugin`; what it returns has `send(message, progress)` and `check()`, as the
built-in ones. Whoever raises or hangs did not reach anybody, so the call is tried again, and after
`reach_within` the next level is called.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from typing import Any

from self_healing_fabric.errors import ShfError
from self_healing_fabric.escalation.channels.delivery import CallFailed, Receipt
from self_healing_fabric.escalation.messages import Message
from self_healing_fabric.extensions import Misbehaved, call, make
from self_healing_fabric.settings import Settings

SENT_WITHIN = 30.0  # seconds for one try


class ChannelOfPlugin:
    """The channel that a plugin made. It needs no sign of life, and its answers decide nothing."""

    alive_for = None

    def __init__(self, name: str, channel: Any) -> None:
        self._who, self._channel = f"plugin {name}", channel
        self.gathers = getattr(channel, "gathers", True) is not False

    def send(self, message: Message, progress: Mapping[str, Any]) -> Receipt:
        """Send the message, in time. Raises CallFailed."""
        send = partial(self._channel.send, message, progress)
        try:
            receipt = call(self._who, send, within=SENT_WITHIN, passes=(CallFailed,))
        except Misbehaved as error:
            raise CallFailed(str(error)) from error
        if not isinstance(receipt, Receipt):
            raise CallFailed(f"{self._who} answered {type(receipt).__name__}, not a Receipt")
        try:
            return Receipt(progress=json.loads(json.dumps(dict(receipt.progress), allow_nan=False)))
        except (TypeError, ValueError):
            return Receipt()  # it was sent; what it wanted to remember cannot be stored

    def check(self) -> str:
        """What the plugin finds. Raises ShfError."""
        return str(call(self._who, self._channel.check, within=SENT_WITHIN, passes=(ShfError,)))


def channel_of_plugin(given: Mapping[str, Any], settings: Settings) -> ChannelOfPlugin:
    """Make the channel. Raises ConfigurationError when the plugin cannot make it."""
    ((name, options),) = given.items()
    made = make("channels", name, settings, options, within=SENT_WITHIN, section="escalation.channels")
    return ChannelOfPlugin(name, made)
