"""Which effect an entry of a plan, or a recorded action, stands for; and what is still in force."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row

from self_healing_fabric.orchestration.context import Context
from self_healing_fabric.recovery.effects import Effect, NotApplicable
from self_healing_fabric.recovery.outcomes import Status
from self_healing_fabric.recovery.strategies import UNDO

Actions = Sequence[Row[Any]]
UNDOES = "undoes"  # in an undo's `before`: the id of the action that it takes back


def effect_of(context: Context, service: str, strategy: str, actions: Actions) -> Effect:
    """The effect that the next action of a strategy has. Raises NotApplicable, TargetUnreadable."""
    if strategy != UNDO:
        return context.strategies[strategy].on(service)
    undoable = in_force(context, service, actions)
    if undoable is None:
        raise NotApplicable("nothing is in force that could be undone")
    return _undoing(context, service, undoable)


def effect_of_action(context: Context, service: str, action: Row[Any], actions: Actions) -> Effect:
    """The effect that a recorded action had. Raises NotApplicable, TargetUnreadable."""
    if action.strategy == UNDO:
        undone = next(each for each in actions if each.id == action.before[UNDOES])
        return _undoing(context, service, undone)
    if action.strategy not in context.strategies:
        raise NotApplicable(f"the strategy {action.strategy} is not installed any more")
    return context.strategies[action.strategy].on(service)


def in_force(context: Context, service: str, actions: Actions) -> Row[Any] | None:
    """The newest action of an incident that happened, can be undone and was not."""
    undone = {each.before.get(UNDOES) for each in actions if each.status == Status.SUCCEEDED.value}
    for each in reversed(actions):
        if each.status != Status.SUCCEEDED.value or each.strategy == UNDO or each.id in undone:
            continue
        try:
            effect = effect_of_action(context, service, each, actions)
        except NotApplicable:
            continue
        if effect.undo(each.before) is not None:
            return each
    return None


def _undoing(context: Context, service: str, action: Row[Any]) -> Effect:
    effect = context.strategies[action.strategy].on(service).undo(action.before)
    if effect is None:
        raise NotApplicable(f"{action.strategy} cannot be undone")
    return effect
