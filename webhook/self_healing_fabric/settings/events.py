"""Where the events of incidents go, as CloudEvents over HTTP."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from self_healing_fabric.durations import Duration
from self_healing_fabric.settings.values import CalledUrl, Section


class EventSettings(Section):
    """A receiver of [CloudEvents](embedding.md#events), told at least once and in order."""

    url: CalledUrl = Field(description="gets each event by POST, in structured mode; 2xx: it has it")
    timeout: Duration = Field(5.0, gt=0, le=30, description="for one event")
    bearer_token_file: Path | None = Field(None, description="token to send; read anew for every call")
