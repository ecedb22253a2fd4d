"""How a call reaches somebody. To add a kind, add a module with the protocol's methods and a line below."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from self_healing_fabric.escalation.channels.alertmanager import AlertmanagerChannel
from self_healing_fabric.escalation.channels.delivery import CallFailed, Channel, Receipt
from self_healing_fabric.escalation.channels.guardian import GuardianChannel
from self_healing_fabric.escalation.channels.log import LogChannel
from self_healing_fabric.escalation.channels.people import AppriseChannel
from self_healing_fabric.escalation.channels.plugin import channel_of_plugin
from self_healing_fabric.settings import LOG, Settings

__all__ = ["CallFailed", "Channel", "Receipt", "channels"]

KINDS: Mapping[str, Callable[[Any, Settings], Channel]] = {
    "guardian": GuardianChannel,
    "apprise": AppriseChannel,
    "alertmanager": AlertmanagerChannel,
    "plugin": channel_of_plugin,
}


def channels(settings: Settings) -> dict[str, Channel]:
    """All channels of this fabric, by name; the log is always one of them."""
    found: dict[str, Channel] = {LOG: LogChannel()}
    for name, each in settings.escalation.channels.items():
        found[name] = KINDS[each.kind](getattr(each, each.kind), settings)
    return found
