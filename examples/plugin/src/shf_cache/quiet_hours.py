"""Guardrail `quiet_hours`: nothing that disturbs while everybody shops."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from pydantic import BaseModel, ConfigDict, Field

from self_healing_fabric.guardrails import Proposal, Refusal
from self_healing_fabric.settings import Settings


class Options(BaseModel):
    """The section `plugins.guardrails.quiet_hours`; a day may end between `start` and `end`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    start: int = Field(ge=0, le=23, description="first hour (UTC) of the day in which nothing is disturbed")
    end: int = Field(ge=0, le=23, description="first hour after it")


class QuietHours:
    """Refuses until the quiet hours end; what disturbs nothing, or takes something back, may go on."""

    Options = Options

    def __init__(self, settings: Settings, options: Options) -> None:
        self._start, self._end = options.start, options.end

    def check(self, proposal: Proposal) -> Refusal | None:
        """The refusal, or None."""
        if not proposal.disruptive or proposal.restores:
            return None
        now = datetime.fromtimestamp(proposal.now, UTC)
        if (now.hour - self._start) % 24 >= (self._end - self._start) % 24:
            return None
        over = now.replace(hour=self._end, minute=0, second=0, microsecond=0)
        over += timedelta(days=int(over <= now))
        return Refusal("quiet_hours", f"nothing is disturbed before {over:%H:%M} UTC", over.timestamp())
