"""Which effect an entry of a plan, or a recorded action, stands for; and what is still in force.

An incident answers for actions on several services: it may have moved to its cause since, or taken over the
incident of a symptom. So an effect is that on the service of its action, never on the incident's; and it is
looked up, judged and undone only while that has the target that was acted on, for a configuration may name
another one by now.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row

from self_healing_fabric.incidents.models import Incident
from self_healing_fabric.orchestration.context import Context
from self_healing_fabric.recovery.effects import Effect, NotApplicable
from self_healing_fabric.recovery.outcomes import Status
from self_healing_fabric.recovery.strategies import SCALE, UNDO

Actions = Sequence[Row[Any]]
UNDOES = "undoes"  # in an undo's `before`: the id of the action that it takes back
AWAKE = "awake_since"
"""In an action's `before`: since when its target answers again, None while it does not; missing where it has
not been silent since the order."""

UNCHANGED = "left_open_unchanged"  # in an action's `before`: `Untold.unchanged` of how its order ended
AGAIN = "again_from"  # in an action's `before`: until when its target wants to be left alone
SILENT = "silent"  # in an action's `before`: seconds for which its target was waited for
LEFT = "left"  # in an action's `before`: what it has lent is people's to take back


@dataclass(frozen=True)
class Next:
    """What the next action does: its effect, the service that it is on, and the action that it takes back."""

    effect: Effect
    service: str
    undoes: str | None = None


def next_effect(context: Context, incident: Incident, strategy: str, actions: Actions) -> Next:
    """What the next action of a strategy does. Raises NotApplicable, TargetUnreadable."""
    service = str(incident.service)
    if strategy != UNDO:
        return Next(context.strategies[strategy].on(service), service)
    undoable = to_undo(context, incident, actions)
    if undoable is None:
        raise NotApplicable("nothing is in force that could be undone")
    return Next(_undoing(context, undoable), undoable.service, undoable.id)


def effect_of_action(context: Context, action: Row[Any], actions: Actions) -> Effect:
    """The effect that a recorded action had. Raises NotApplicable, TargetUnreadable."""
    if action.strategy == UNDO:
        return _undoing(context, next(each for each in actions if each.id == action.before[UNDOES]))
    if action.strategy not in context.strategies:
        raise NotApplicable(f"the strategy {action.strategy} is not installed any more")
    if action.service not in context.settings.services:
        raise NotApplicable(f"{action.service} is not configured any more")
    effect = context.strategies[action.strategy].on(action.service)
    if effect.target != action.target:
        raise NotApplicable(f"{action.service} does not have the target {action.target} any more")
    return effect


def to_undo(context: Context, incident: Incident, actions: Actions) -> Row[Any] | None:
    """What an undo takes back: the newest effect on the incident's service; once resolved, what is lent."""
    if incident.resolved_at is not None:
        return lent(context, actions)
    return next(in_force(context, [each for each in actions if each.service == incident.service]), None)


def lent(context: Context, actions: Actions) -> Row[Any] | None:
    """The newest action that has lent something, such as more replicas, and is not left to people."""
    scalings = in_force(context, [each for each in actions if each.strategy in (SCALE, UNDO)])
    return next((each for each in scalings if LEFT not in each.before), None)


def in_force(context: Context, actions: Actions) -> Iterator[Row[Any]]:
    """The actions that happened, can be undone and were not, newest first."""
    for each in not_undone(actions):
        try:
            _undoing(context, each)
        except NotApplicable:
            continue
        yield each


def not_undone(actions: Actions) -> Iterator[Row[Any]]:
    """The actions that happened and were not undone, newest first; whether they can be is not asked."""
    happened = [each for each in actions if each.status == Status.SUCCEEDED.value]
    undone = {each.before.get(UNDOES) for each in happened}
    return (each for each in reversed(happened) if each.strategy != UNDO and each.id not in undone)


def _undoing(context: Context, action: Row[Any]) -> Effect:
    effect = effect_of_action(context, action, ()).undo(action.before)
    if effect is None:
        raise NotApplicable(f"{action.strategy} cannot be undone")
    return effect
