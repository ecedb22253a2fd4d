"""The channel that always works: a structured log line that any log pipeline can page on."""

from __future__ import annotations

import structlog

from self_healing_fabric.escalation.calls import Call

log = structlog.get_logger()


class LogChannel:
    """Logs each call as the event `escalated`."""

    name = "log"

    def send(self, call: Call) -> None:
        """Log the call."""
        log.warning(
            "escalated",
            incident=call.incident_id,
            service=call.service,
            level=call.level,
            level_name=call.level_name,
            called=list(call.called),
            reason=call.reason,
        )
