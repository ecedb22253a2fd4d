"""How an action ended, as a type: the third answer, "cannot be learnt", is the one that keeps people safe.

Treating a timeout as a failure restarts a service twice; treating it as success believes what nobody saw.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

Permit = Callable[[], bool]
"""Asked by every effect right before it begins; False: do nothing, somebody else may be at work."""

BEGINS_WITHIN = 5.0  # seconds from its record to an order that is ready; what is not sent by then never is


class Status(StrEnum):
    """Of an action. `STARTED` is found only while its effect is under way and after a crash, `INTENDED` only
    after a crash of 0.1.0, which wrote down in two steps that an action is meant and that it begins.
    """

    INTENDED = "intended"
    STARTED = "started"
    SUCCEEDED = "succeeded"
    FAILED = "failed"  # the effect did not happen
    INDETERMINATE = "indeterminate"  # it may have happened, and the target cannot tell


@dataclass(frozen=True)
class Outcome:
    """The end of one attempt. `retry_in` (seconds) asks for another attempt of the same strategy."""

    status: Status
    detail: str
    retry_in: float | None = None


class Conflict(Outcome):
    """Failed, as the target says, with 409 or 412: it is at work on this order, or holds another version.

    So it also answers the second copy of an order that it has carried out: proxies send one again when the
    answer got lost behind them.
    """


class Untold(Outcome):
    """Indeterminate for now: who could tell what became of the order is away, and may tell when it is back.

    It is asked again, with `observe`; an answer that tells takes the place of this one.
    """


def learnt(sent: Outcome | str, look: Callable[[str], Outcome]) -> Outcome:
    """How an order ended: as it was answered, or, where that is open (a reason), as the target shows."""
    if isinstance(sent, Conflict):
        shown = look(sent.detail)
        return shown if shown.status is Status.SUCCEEDED else sent
    return sent if isinstance(sent, Outcome) else look(sent)


def forbidden() -> Outcome:
    """The permit was over: nothing was done, and whoever holds the incident may try."""
    return Outcome(Status.FAILED, "it might no longer begin when all was ready; nothing was done", 0.0)
