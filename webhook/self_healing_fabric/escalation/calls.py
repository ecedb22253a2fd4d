"""A call to the people or guardians of one level, and why they are called."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Call:
    """What a channel tells."""

    incident_id: str
    service: str | None
    level: int
    level_name: str
    called: tuple[str, ...]
    reason: str
