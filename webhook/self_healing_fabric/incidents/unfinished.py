"""What an incident has begun and must finish before it may become another one's, or another service's.

An effect that is under way is not the only such thing. A configuration that was written has no effect before
the restart that follows it, and what is to be taken back is forgotten with the plan that says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row

from self_healing_fabric.settings import UNDO

FOLLOWED_BY = "followed_by"
"""In an action's `before`: the strategy without which the change has no effect; it follows before anything is
verified. A process that reads its configuration at its start must be restarted after a `sync`."""


def finishes(plan: Sequence[str], service: str, actions: Sequence[Row[Any]]) -> bool:
    """Whether what comes next takes back or completes what was done before: that it is well is no reason to
    leave it.

    A configuration that was written looks well, and the process that has not read it does not.
    """
    return bool(plan) and (plan[0] == UNDO or completes(plan[0], service, actions) is not None)


def completes(strategy: str, service: str, actions: Sequence[Row[Any]]) -> Row[Any] | None:
    """The newest change on the service, if it has no effect before this strategy."""
    for row in reversed(actions):
        if row.service == service and (row.strategy != strategy or row.status != "failed"):
            done = row.status == "succeeded" and row.before.get(FOLLOWED_BY) == strategy
            return row if done else None
    return None
