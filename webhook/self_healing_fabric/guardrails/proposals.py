"""What a guardrail is asked and what it answers.

Budgets are counted by `target`, the owner of what is acted on (`docker:cart`), never by incident, alert or
attempt: a key that changes with every alert limits nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from self_healing_fabric.settings import Mode


@dataclass(frozen=True)
class Measured:
    """What was asked right before the transaction, where a guardrail needs it.

    Of Prometheus, None means: no single number came.

    Attributes:
        answering: targets of the service that answer.
        deploying: whether a deployment is under way; 0 for no.
        refused: what those said that are asked before the transaction, see `guardrails.outside`.
    """

    answering: float | None = None
    deploying: float | None = None
    refused: Refusal | None = None


@dataclass(frozen=True)
class Proposal:
    """An action that wants to run: `now` in seconds since 1970 (UTC).

    Attributes:
        restores: it takes an earlier action back, and is not held up by what that one used.
        path: the services that this one depends on and that depend on it, directly or through others.
        measured: what was asked of Prometheus for the guardrails that need it.
        decided_in: the mode in which it was decided on; a stricter one that was set since refuses it.
    """

    service: str
    strategy: str
    target: str
    disruptive: bool
    now: float
    restores: bool = False
    path: frozenset[str] = frozenset()
    measured: Measured = Measured()
    decided_in: Mode = Mode.DRY_RUN


@dataclass(frozen=True)
class Refusal:
    """A guardrail's no.

    Attributes:
        guardrail: its name.
        reason: why, in words.
        retry_at: when asking again makes sense; None: a person must look.
        next: another strategy of the plan may be asked for instead.
        calls: people are to hear of it, although the incident waits.
        remember: what the store keeps of it, under the guardrail's name and with the time.
    """

    guardrail: str
    reason: str
    retry_at: float | None = None
    next: bool = False
    calls: bool = False
    remember: str | None = None
