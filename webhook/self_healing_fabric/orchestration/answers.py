"""What a guardian answers: a decision that is judged as a person's, or nothing.

The answer is a stranger's text. It is taken only in the shape that is documented; anything else is refused,
noted and never obeyed. A decision is carried out in the transaction that marks the call as sent, so a call
that is made again after a crash cannot decide twice. A proposed strategy becomes a plan of one step, which
the guardrails judge like any other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from sqlalchemy import Connection

from self_healing_fabric.errors import DecisionRefused, ShfError
from self_healing_fabric.escalation.calls import Kind
from self_healing_fabric.incidents import timeline
from self_healing_fabric.incidents.lifecycle import Transition
from self_healing_fabric.incidents.models import Incident
from self_healing_fabric.incidents.timeline import Entry
from self_healing_fabric.orchestration import decisions
from self_healing_fabric.orchestration.context import Context
from self_healing_fabric.quoting import quoted
from self_healing_fabric.settings import StrategyName
from self_healing_fabric.store.statements import AnyRow

Counted = tuple[Incident, Transition | None]


class Answer(BaseModel):
    """The JSON that a guardian may answer with."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    decision: Literal["acknowledge", "approve", "reject", "propose"] | None = None
    strategy: StrategyName | None = None
    reason: Annotated[str, Field(max_length=1000)] | None = None

    @model_validator(mode="after")
    def _strategy_when_proposed(self) -> Answer:
        if (self.strategy is not None) != (self.decision == "propose"):
            raise ValueError("`strategy` belongs to the decision `propose`")
        return self


def take(
    connection: Connection,
    context: Context,
    rows: Sequence[AnyRow],
    said: Mapping[str, Any] | None,
    asked_for: str | None,
) -> list[Counted]:
    """Judge an answer to calls and carry its decision out, inside the caller's transaction; note what is
    refused. `asked_for`: the action that the call told of, which is all that its answer can approve.
    """
    if not said or not rows:
        return []
    row = rows[0]
    by = f"guardian {row.contact}"
    try:
        answer = Answer.model_validate(dict(said))
        if answer.decision is None:
            return []
        return [_decide(connection, context, rows, answer, by, asked_for)]
    except ValidationError as error:
        detail = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(map(str, detail["loc"])) or "the answer"
        why = f"{quoted(where)}: {detail['msg']}"
    except ShfError as error:
        why = str(error)
    note = Entry(timeline.Kind.NOTE, f"The answer of {by} was refused: {why}", {"call": row.id})
    for incident_id in {each.incident_id for each in rows}:
        timeline.append(connection, incident_id, [note], context.clock())
    return []


def count(context: Context, counted: Sequence[Counted]) -> None:
    """Tell the metrics what was decided, after the commit."""
    for incident, transition in counted:
        decisions.count(context, incident, transition)


def _decide(
    connection: Connection,
    context: Context,
    rows: Sequence[AnyRow],
    answer: Answer,
    by: str,
    asked_for: str | None,
) -> Counted:
    row = rows[0]
    if len(rows) > 1 or row.kind != Kind.ESCALATION.value:
        raise DecisionRefused("it decides on a message that asks for no decision")
    channel = context.settings.escalation.channels[row.channel]
    if channel.guardian is None or answer.decision not in channel.guardian.may:
        raise DecisionRefused(f"it may not {answer.decision}")
    decision = decisions.DECISIONS.get(str(answer.decision))
    if decision is None:
        decision = decisions.proposal(str(answer.strategy))
    reason = quoted(answer.reason) if answer.reason else None
    seen = asked_for or "" if answer.decision == "approve" else None
    # A refused decision must leave nothing behind of what it began.
    with connection.begin_nested():
        return decisions.decide_within(
            connection, context, row.incident_id, decision, by=by, reason=reason, seen=seen
        )
