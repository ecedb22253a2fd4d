"""What people are asked to allow, and what their yes covers: the one action that was asked for.

Between the question and the answer the target goes on, the wanted file is edited, the plan moves on. A yes to
whatever comes next would carry out what nobody saw. So the line of the timeline that asks keeps a seal of the
action: its strategy, its target, the lines that show what changes, and what those lines hide. An action under
another seal is asked for anew, and so is one more of the same when the first has been carried out.

What completes an action and what takes it back belong to it: the restart after a new configuration is named
in the question, and a service must not wait for a person to be again as it was.

A seal stands in the timeline, where everybody reads it, and covers secrets. Its key is in the store.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from itsdangerous import Signer
from sqlalchemy import Connection, Row

from self_healing_fabric.incidents import timeline
from self_healing_fabric.incidents.models import Incident
from self_healing_fabric.orchestration.context import Context
from self_healing_fabric.orchestration.journal import told_of
from self_healing_fabric.recovery.effects import DIGEST
from self_healing_fabric.recovery.outcomes import Status
from self_healing_fabric.store import statements
from self_healing_fabric.store.statements import AnyRow

KEY = "approval links key"  # the control that holds it, so called since it signed nothing but links
GIVEN_TO = "leave_given_to"  # in an action's `before`: the action that a person was asked for and allowed
SEAL = "seal"  # in the data of the line that asks


@dataclass(frozen=True)
class Leave:
    """What people have said to an action.

    Attributes:
        given_to: the action that they were asked for and allowed, which this one is; None: ask.
        outdated: whether they have allowed something else in its stead, with the same strategy.
    """

    given_to: str | None
    outdated: bool = False


def asked(connection: Connection, incident_id: str) -> AnyRow | None:
    """The newest line of an incident that asks for an approval."""
    return timeline.question(statements.timeline_of(connection, incident_id))


def action_asked_for(connection: Connection, incident_id: str) -> str:
    """The action of that line; empty where nothing was asked."""
    line = asked(connection, incident_id)
    return "" if line is None else str(line.data["action"])


def seal(context: Context, action: Mapping[str, Any], strategy: str) -> str:
    """The same for two actions exactly when people would be shown the same, and nothing else is behind it."""
    shown = {**told_of(action, strategy), "action": None}
    what = json.dumps([shown, action["before"].get(DIGEST)], sort_keys=True)
    return Signer(key_of(context), salt="self-healing-fabric question").get_signature(what).decode()


def leave_for(
    context: Context,
    incident: Incident,
    action: Mapping[str, Any],
    strategy: str,
    actions: Sequence[Row[Any]],
    part_of: Row[Any] | None,
) -> Leave:
    """Whether people have allowed an action of an incident.

    Args:
        context: the fabric's parts.
        incident: as it was claimed.
        action: as it would be announced.
        strategy: its own.
        actions: those of the incident so far.
        part_of: the action that it completes or takes back, if it does.
    """
    if part_of is not None and GIVEN_TO in part_of.before:
        return Leave(part_of.before[GIVEN_TO])
    question = context.store.ask(lambda connection: asked(connection, incident.id))
    if question is None or not incident.approved_by or question.data["strategy"] != strategy:
        return Leave(None)
    given_to = question.data["action"]
    # What has failed did not happen: then it may be tried once more.
    if any(row.before.get(GIVEN_TO) == given_to and row.status != Status.FAILED.value for row in actions):
        return Leave(None)
    if question.data.get(SEAL) != seal(context, action, strategy):
        return Leave(None, outdated=True)
    return Leave(given_to)


def key_of(context: Context) -> str:
    """What seals and links are signed with: made when it is first needed, and the same for all replicas."""
    row = context.store.read(lambda connection: statements.control(connection, KEY))
    if row is not None:
        return str(row.value)
    return context.store.write(lambda connection: _new_key(connection, context))


def _new_key(connection: Connection, context: Context) -> str:
    statements.serialize(connection, "control")  # two replicas must not make one each
    row = statements.control(connection, KEY)
    if row is not None:
        return str(row.value)
    key = secrets.token_urlsafe(32)
    statements.set_control(connection, name=KEY, value=key, by="the fabric", now=context.clock())
    return key
