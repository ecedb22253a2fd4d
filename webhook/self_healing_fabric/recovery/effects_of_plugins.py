"""Effects of plugins, held to the contract of `effects.Effect` whatever their code does.

A built-in effect bounds each of its calls and turns every error into an outcome. Others' code may raise, hang
or answer nonsense, in the middle of a change to a target. So each call has its time, and what is not known
afterwards is `indeterminate`: it goes to people and is never repeated. A call that was left behind gets no
permit any more.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import structlog

from self_healing_fabric.extensions import Misbehaved, call
from self_healing_fabric.recovery.effects import (
    Effect,
    NotApplicable,
    Progress,
    Settling,
    TargetAway,
    TargetUnreadable,
)
from self_healing_fabric.recovery.outcomes import BEGINS_WITHIN, Outcome, Permit, Status, Untold, forbidden
from self_healing_fabric.settings import MAX_EFFECT_TIMEOUT

log = structlog.get_logger()

T = TypeVar("T")

READ_WITHIN = 10.0  # seconds for a call that only looks at the target
LONGEST_DETAIL = 500  # characters of a plugin's text in the timeline


def looked(who: str, look: Callable[[], T]) -> T:
    """What a call that only looks returns. Raises NotApplicable, and TargetUnreadable for all else."""
    try:
        return call(who, look, within=READ_WITHIN, passes=(NotApplicable, TargetUnreadable))
    except Misbehaved as error:
        raise TargetUnreadable(str(error)[:LONGEST_DETAIL]) from error


class EffectOfPlugin(Effect):
    """The effect that a plugin made. Raises TargetUnreadable when it is none."""

    def __init__(self, who: str, effect: Any) -> None:
        self._who, self._effect = who, effect
        try:
            self.platform, self.target = str(effect.platform), str(effect.target)
            longest = float(effect.longest_effect)
            self.renews_process = bool(getattr(effect, "renews_process", False))
            self.undone_unless_healed = bool(getattr(effect, "undone_unless_healed", False))
        except Exception as error:
            raise TargetUnreadable(f"{who} made no effect: {type(error).__name__}: {error}") from error
        if not 0 < longest <= BEGINS_WITHIN + MAX_EFFECT_TIMEOUT or math.isnan(longest):
            most = BEGINS_WITHIN + MAX_EFFECT_TIMEOUT
            raise TargetUnreadable(
                f"{who}: `longest_effect` is {longest:g} s, not more than 0 and up to {most:g}"
            )
        self.longest_effect = longest

    def snapshot(self) -> Mapping[str, Any]:
        """What the plugin says, if it is JSON."""
        before = looked(self._who, lambda: self._effect.snapshot())
        try:
            kept: Any = json.loads(json.dumps(before, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise TargetUnreadable(f"{self._who}: its snapshot is no JSON: {error}") from error
        if not isinstance(kept, dict):
            raise TargetUnreadable(f"{self._who}: its snapshot is no JSON object")
        return kept

    def perform(self, *, key: str, attempt: int, before: Mapping[str, Any], permit: Permit) -> Outcome:
        """Call it once, with a permit that is over when it has not returned in time."""
        over = threading.Event()

        def bounded_permit() -> bool:
            return not over.is_set() and permit()

        if not bounded_permit():
            return forbidden()  # whether or not the plugin asks by itself
        try:
            outcome = call(
                self._who,
                lambda: self._effect.perform(key=key, attempt=attempt, before=before, permit=bounded_permit),
                within=self.longest_effect,
            )
        except Misbehaved as error:
            return Outcome(Status.INDETERMINATE, f"{error}"[:LONGEST_DETAIL])
        finally:
            over.set()
        return self._outcome(outcome)

    def observe(self, before: Mapping[str, Any]) -> Outcome:
        """What the plugin learnt; nothing when it misbehaves."""
        try:
            return self._outcome(looked(self._who, lambda: self._effect.observe(before)))
        except TargetAway as error:
            return Untold(Status.INDETERMINATE, str(error))
        except (NotApplicable, TargetUnreadable) as error:
            return Outcome(Status.INDETERMINATE, str(error))

    def settled(self, before: Mapping[str, Any]) -> Settling:
        """How far the target has come. Raises TargetUnreadable."""
        ask = getattr(self._effect, "settled", None)
        if ask is None:
            return super().settled(before)
        settling = looked(self._who, lambda: ask(before))
        if not isinstance(settling, Settling) or not isinstance(settling.progress, Progress):
            raise TargetUnreadable(f"{self._who}: `settled` answered {settling!r}, which is no Settling")
        return settling

    def undo(self, before: Mapping[str, Any]) -> Effect | None:
        """The way back; None, too, when the plugin misbehaves."""
        ask = getattr(self._effect, "undo", None)
        if ask is None:
            return None
        try:
            back = looked(self._who, lambda: ask(before))
            return None if back is None else EffectOfPlugin(self._who, back)
        except (NotApplicable, TargetUnreadable) as error:
            log.warning("no_way_back", plugin=self._who, error=str(error))
            return None

    def check(self) -> str:
        """What the plugin found. Raises TargetUnreadable."""
        return str(looked(self._who, lambda: self._effect.check()))

    def _outcome(self, outcome: Any) -> Outcome:
        if not isinstance(outcome, Outcome) or outcome.status not in (
            Status.SUCCEEDED,
            Status.FAILED,
            Status.INDETERMINATE,
        ):
            return Outcome(Status.INDETERMINATE, f"{self._who} answered {outcome!r}"[:LONGEST_DETAIL])
        retry_in = outcome.retry_in
        if retry_in is not None and not (
            isinstance(retry_in, int | float) and 0 <= retry_in <= MAX_EFFECT_TIMEOUT
        ):
            retry_in = MAX_EFFECT_TIMEOUT
        detail = str(outcome.detail)[:LONGEST_DETAIL]
        if not isinstance(outcome, Untold):
            return Outcome(outcome.status, detail, retry_in)
        repeated = outcome.unchanged is Status.FAILED
        unchanged = Status.FAILED if repeated else Status.INDETERMINATE
        why = detail if outcome.why is None else str(outcome.why)[:LONGEST_DETAIL]
        return Untold(outcome.status, detail, retry_in, why=why, unchanged=unchanged)
