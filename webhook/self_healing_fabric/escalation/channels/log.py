"""The channel that always works: a structured log line that any log pipeline can page on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import structlog

from self_healing_fabric.escalation.calls import Kind
from self_healing_fabric.escalation.channels.delivery import Receipt
from self_healing_fabric.escalation.messages import Message

log = structlog.get_logger()


class LogChannel:
    """Logs each call as the event `escalated`, and its end as `escalation_ended`."""

    gathers = False
    alive_for = None

    def send(self, message: Message, progress: Mapping[str, Any]) -> Receipt:
        """Log the call."""
        for call in message.calls:
            log.warning(
                "escalated" if call.kind is Kind.ESCALATION else "escalation_ended",
                incident=call.incident_id,
                service=call.service,
                level=call.level,
                level_name=call.level_name,
                called=list(call.called),
                reason=call.reason,
                call=call.id,
            )
        return Receipt()

    def check(self) -> str:
        """Nothing can fail."""
        return "is written to"
