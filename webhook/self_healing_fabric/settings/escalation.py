"""The five levels of escalation."""

from __future__ import annotations

from pydantic import Field

from self_healing_fabric.durations import Duration
from self_healing_fabric.settings.values import Section


class LevelSettings(Section):
    """One level of escalation: whom it calls, and how long it waits before the next level."""

    name: str = Field(description="what people call it")
    call: tuple[str, ...] = Field((), description="whom it calls")
    deadline: Duration = Field(300.0, gt=0, description="until the next level, unless someone acknowledges")


DEFAULT_LEVELS = (
    LevelSettings(name="self-healing"),
    LevelSettings(name="execution orchestrator", call=("guardian-five",)),
    LevelSettings(name="memory and alignment", call=("guardian-six", "guardian-three")),
    LevelSettings(name="emergence and synthesis", call=("guardian-seven", "guardian-two")),
    LevelSettings(name="everyone and a human", call=("all guardians", "human")),
)


class EscalationSettings(Section):
    """The five levels, and how long an incident may wait for an unreachable server before one is called."""

    levels: tuple[LevelSettings, ...] = Field(
        DEFAULT_LEVELS, min_length=5, max_length=5, description="levels 0 to 4"
    )
    max_wait: Duration = Field(
        300.0, gt=0, description="an incident may wait for a server; then people hear of it"
    )
