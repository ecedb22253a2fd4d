"""How an action ended, as a type: the third answer, "cannot be learnt", is the one that keeps people safe.

Treating a timeout as a failure restarts a service twice; treating it as success believes what nobody saw.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
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


class Untouched(Outcome):
    """Put off: failed before anything was done to the target, for certain.

    So no guardrail counts one that is to be tried again (`retry_in`). What bounds those is their number:
    after three in a row it is given up.
    """


class Conflict(Outcome):
    """Failed, as the target says, with 409 or 412: it is at work on this order, or holds another version.

    So it also answers the second copy of an order that it has carried out: proxies send one again when the
    answer got lost behind them.
    """


class Unserved(Outcome):
    """Open, with 503: who answers takes no orders now, as a proxy says while nobody is behind it.

    That alone proves nothing, for some say so as well when the connection behind them broke. `retry_in`: how
    long it wants to be left alone.
    """


@dataclass(frozen=True)
class Untold(Outcome):
    """Indeterminate for now: who could tell what became of the order is away, or shows nothing of it yet.

    It is asked again, with `observe`; an answer that tells takes the place of this one.

    Attributes:
        retry_in: seconds until it may be ordered again if it has not happened, where somebody named them.
        why: what leaves it open, for the sentences to come.
        unchanged: what it means when the target shows nothing of the order after all the time that it may
            take; INDETERMINATE where somebody may still be at it, and a second order would do it twice.
    """

    why: str | None = None
    unchanged: Status = Status.FAILED


def learnt(sent: Outcome | str, look: Callable[[str], Outcome]) -> Outcome:
    """How an order ended: as it was answered, or, where that is open (a reason), as the target shows."""
    if isinstance(sent, Conflict):
        shown = look(sent.detail)
        return shown if shown.status is Status.SUCCEEDED else sent
    if isinstance(sent, Unserved):
        shown = look(sent.detail)
        if not isinstance(shown, Untold):
            return shown
        return replace(shown, unchanged=Status.FAILED, retry_in=sent.retry_in)
    return sent if isinstance(sent, Outcome) else look(sent)


def unmoved(unchanged: Status, why: str, told: str) -> Outcome:
    """The outcome where the target shows nothing of an order (`told`) whose end is open (`why`).

    Right after the order, when `unchanged` is INDETERMINATE, that proves nothing: it may still be on its way.
    Nor is it given again later, for who takes longer than agreed would do it twice.
    """
    told = f"{why}; {told}"
    if unchanged is Status.FAILED:
        return Outcome(unchanged, told)
    return Untold(unchanged, told, why=why, unchanged=unchanged)


def forbidden() -> Outcome:
    """The permit was over: nothing was done, and whoever holds the incident may try.

    The guardrails count it, for it was not the target that refused: who is too slow to begin, or was stopped,
    does not try three times at once and then call people.
    """
    return Outcome(Status.FAILED, "it might no longer begin when all was ready; nothing was done", 0.0)
