"""An effect: one change to one target, asked for once, and found again at the target after a crash.

A restart, a scale and a repaired replica differ in what they change and not in how they are made safe, so all
of them answer the same questions: what was there before, did it happen, has it settled, how is it undone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from enum import StrEnum
from http import HTTPStatus
from typing import Any, Protocol, TypeVar

from self_healing_fabric.errors import ShfError
from self_healing_fabric.recovery.outcomes import BEGINS_WITHIN, Outcome, Permit, Status, Untold, Untouched

T = TypeVar("T")

ASKS_AGAIN = 0.5  # seconds after a target that did not answer
ATTEMPTS = 3  # in a row of an action that never touched its target
BUSY_PAUSE = 10.0  # seconds at least until who was too busy is sent the order again
LONGEST_PAUSE = 60.0  # seconds until then, however long it wants to be left alone
DIFF = "diff"
"""In an action's `before`: lines that show people what will change, without secrets. Of `before` only they
are shown."""

DIGEST = "digest"
"""In an action's `before`: a digest of the whole change, where the lines of the diff hide a part of it. Who
allowed one change has not allowed another."""

WHY = "left_open_by"
"""In an action's `before`, when `observe` gets it: what left open how the order ended. An effect keeps facts
of its own there, so what the fabric notes beside them has names that none would choose."""

INTERRUPTED = "the fabric was interrupted during the action"


def changed(what: str, was: object, becomes: object) -> list[str]:
    """Lines of a diff for one value."""
    return [f"- {what}: {was}", f"+ {what}: {becomes}"]


class TargetUnreadable(ShfError):
    """The target does not exist or cannot be asked: an effect on it could not be accounted for."""


class TargetAway(TargetUnreadable):
    """Whoever could tell of the target does not answer just now: ask again in a moment."""


class TargetDown(TargetUnreadable):
    """Nobody listens there: no reason to wait before an order, and after one perhaps its very effect."""


def unread(why: str, error: TargetUnreadable) -> Outcome:
    """What is known of an order (`why`) whose target cannot be read: nothing, perhaps only for now."""
    told = f"{why}; {error}"
    if isinstance(error, TargetAway | TargetDown):
        return Untold(Status.INDETERMINATE, told, why=why)
    return Outcome(Status.INDETERMINATE, told)


def left_open(before: Mapping[str, Any]) -> str:
    """Why the target is asked what became of its order."""
    return before.get(WHY) or INTERRUPTED


def unordered(error: ShfError) -> Outcome:
    """The outcome where the target could not be read for the order; who is only away is asked once more."""
    again = 0.0 if isinstance(error, TargetAway) else None
    return Untouched(Status.FAILED, f"{error}; nothing was ordered", again)


def pause_named(retry_after: str | None) -> float | None:
    """Seconds until who answered with this `Retry-After` (seconds, or a date) is sent the order again.

    None where it names no time.
    """
    try:
        seconds = float(retry_after or "")
    except ValueError:
        try:
            seconds = parsedate_to_datetime(retry_after or "").timestamp() - time.time()
        except ValueError:
            return None
    return None if math.isnan(seconds) else min(LONGEST_PAUSE, max(BUSY_PAUSE, seconds))


def unreadable(status: int, why: str) -> TargetUnreadable:
    """The error for an answer that does not tell: who has too much to do, or is updated, may in a moment."""
    away = status == HTTPStatus.TOO_MANY_REQUESTS or status >= HTTPStatus.INTERNAL_SERVER_ERROR
    return TargetAway(why) if away else TargetUnreadable(why)


class NotApplicable(ShfError):
    """The strategy is not for this service, or not in the state that its target is in; says why."""


def insist(ask: Callable[[], T], *, within: float, unless: type[ShfError] = TargetUnreadable) -> T:
    """What the target says after an order, asked for as long as one may take: `within` seconds.

    Who restarts itself breaks the connection that the order came by, and answers nobody until it is back.
    Raises what `ask` does; what is `unless` only when the time is over.
    """
    ends = time.monotonic() + within
    while True:
        try:
            return ask()
        except unless:
            if time.monotonic() >= ends:
                raise
        time.sleep(ASKS_AGAIN)


class Progress(StrEnum):
    """How far the target has come since the effect was asked for."""

    DONE = "done"
    UNDER_WAY = "under_way"
    FAILED = "failed"


@dataclass(frozen=True)
class Settling:
    """What the target says of its own progress: a rollout that was asked for is not yet through."""

    progress: Progress
    detail: str


class Effect(Protocol):
    """One change to one target.

    The orchestrator announces an action with what `snapshot` returned, then calls `perform` once; after a
    crash it calls `observe` instead, which may look at the target but not touch it.

    Attributes:
        platform: what is spoken to, for example `docker`.
        target: what guardrails count by: the owner of what is changed, the same for every incident and every
            strategy that can touch the same thing.
        longest_effect: seconds after the record of its beginning until the effect has ended, whether or not
            we heard of it: at most `begins_within` until the order is sent, and what the target may take from
            there. `observe` is asked only then.
        begins_within: seconds after that record until its last order is sent, or never: more only where
            something must be made safe between the two, or one order waits for another.
        renews_process: whether the service runs a new process afterwards, whose start must be seen.
        undone_unless_healed: whether what was there before is restored after every verdict but healed; else
            only when the service is worse than before.
        server: kind and URL, as in `servers_asked`, of what is asked for many targets; None: for this one.
    """

    platform: str
    target: str
    longest_effect: float
    begins_within: float = BEGINS_WITHIN
    renews_process: bool = False
    undone_unless_healed: bool = False
    server: tuple[str, str | None] | None = None

    def snapshot(self) -> Mapping[str, Any]:
        """What the target looks like before the effect, as JSON: enough to observe and to undo it.

        Raises:
            TargetUnreadable: it cannot be asked; TargetAway when it may be in a moment.
            NotApplicable: it is in no state in which this effect could help, or somebody else manages it.
        """
        ...

    def perform(self, *, key: str, attempt: int, before: Mapping[str, Any], permit: Permit) -> Outcome:
        """Do it, once, unless the permit is over.

        `permit` is asked when all is ready and only the order itself is left to be sent. `attempt` counts
        from 1; `key` identifies the action for targets that know idempotency keys. Where the answer is lost
        and the target does not answer just then: `Untold`, and `observe` is asked.
        """
        ...

    def observe(self, before: Mapping[str, Any]) -> Outcome:
        """Learn from the target whether an interrupted `perform` happened; never acts.

        To be asked when `longest_effect` has passed: only then does an unchanged target mean that nothing
        happened. `Untold` when it does not answer just now: it is asked again.
        """
        ...

    def settled(self, before: Mapping[str, Any]) -> Settling:
        """How far the target has come since. Raises TargetUnreadable."""
        return Settling(Progress.DONE, "the target takes no time to settle")

    def undo(self, before: Mapping[str, Any]) -> Effect | None:
        """The effect that restores what `before` describes; None when there is no way back."""
        return None

    def check(self) -> str:
        """Ask the target without touching it; return what was found. Raises TargetUnreadable."""
        ...
