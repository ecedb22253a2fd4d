"""What a guardrail is asked and what it answers.

Budgets are counted by `target`, the owner of what is acted on (`docker:cart`), never by incident, alert or
attempt: a key that changes with every alert limits nothing.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Proposal:
    """An action that wants to run: `now` in seconds since 1970 (UTC)."""

    service: str
    strategy: str
    target: str
    disruptive: bool
    now: float
    restores: bool = False  # takes an earlier action back: it is not held up by what that one used


@dataclass(frozen=True)
class Refusal:
    """A guardrail's no. `retry_at` is when asking again makes sense; None: a person must look."""

    guardrail: str
    reason: str
    retry_at: float | None = None
