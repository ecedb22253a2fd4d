"""The validation gate: asked before an incident may be called healed.

Samples prove that a service is inside its limits. Whether it does what it is for, the program that embeds the
fabric may know better: an agent that answers in time and talks nonsense is not healed. The gate can only add
doubt. It cannot make healed what the samples do not show, and where it raises, hangs or answers anything but
True, the incident is not healed yet.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from self_healing_fabric.extensions import Misbehaved, call

ANSWERS_WITHIN = 5.0  # seconds
LONGEST_REASON = 300  # characters of an answer in the timeline


@dataclass(frozen=True)
class ClaimedHealing:
    """What the samples say: this incident's service is inside all limits, for the whole stability window.

    Attributes:
        incident: the incident's id.
        service: the configured service.
        statement: the verification's sentence.
        evidence: its facts, each with query, value and time.
    """

    incident: str
    service: str
    statement: str
    evidence: Sequence[Mapping[str, Any]]


class ValidationGate(Protocol):
    """Confirms or doubts that a service is healed."""

    def confirms(self, healing: ClaimedHealing) -> bool:
        """Whether it is: `True` confirms, everything else means not yet."""


Gate = Callable[[ClaimedHealing], Any]


def doubt_of(gate: Gate | None, healing: ClaimedHealing) -> str | None:
    """Why the incident may not be called healed yet; None when it may."""
    if gate is None:
        return None
    try:
        answer = call("the validation gate", lambda: gate(healing), within=ANSWERS_WITHIN)
    except Misbehaved as error:
        return str(error)[:LONGEST_REASON]
    if answer is True:
        return None
    told = "" if answer is False else f" (it answered {answer!r})"
    return f"the validation gate does not confirm it{told}"[:LONGEST_REASON]
