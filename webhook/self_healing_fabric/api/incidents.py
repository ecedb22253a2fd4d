"""Incidents for readers: the list, and one with its whole story.

Pages are cut by (opened_at, id) and not by offset, because incidents open while somebody reads.
"""

from __future__ import annotations

import base64
import binascii
import json
from datetime import UTC, datetime
from typing import Annotated, Any

from flask import Blueprint, Response, current_app, jsonify, request
from pydantic import BeforeValidator, Field, ValidationError, WithJsonSchema
from sqlalchemy import Connection

from self_healing_fabric.api.answers import Incident, IncidentPage, Proof, Prospects
from self_healing_fabric.api.auth import requires
from self_healing_fabric.api.contract import Contract, Query, contract
from self_healing_fabric.api.problems import query_problem
from self_healing_fabric.escalation.levels import LAST_LEVEL, next_level
from self_healing_fabric.guardrails import mode
from self_healing_fabric.incidents.lifecycle import State
from self_healing_fabric.incidents.models import incident_of
from self_healing_fabric.incidents.story import rfc3339, story_of, summary
from self_healing_fabric.integration.lifecycle import Fabric
from self_healing_fabric.orchestration.decisions import possible_decisions
from self_healing_fabric.settings import Right
from self_healing_fabric.store import statements
from self_healing_fabric.store.statements import AnyRow

blueprint = Blueprint("incidents", __name__)

MAX_PAGE = 500
DEFAULT_PAGE = 50


def _moment(text: str) -> float:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError("give a time as 2026-01-31T12:00:00Z") from error
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _place(cursor: str) -> tuple[float, str]:
    try:
        opened_at, incident_id = json.loads(base64.urlsafe_b64decode(cursor))
        str(incident_id).encode()  # a lone surrogate, which JSON can name, is no text
        return float(opened_at), str(incident_id)
    except (binascii.Error, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError("is not one that this API gave") from error


class IncidentQuery(Query):
    """The query of GET /api/v1/incidents."""

    state: list[State] = Field([], description="only in this state; may repeat")
    service: str | None = Field(None, description="only of this service")
    since: Annotated[
        float | None,
        BeforeValidator(_moment),
        WithJsonSchema({"type": "string", "format": "date-time"}),
    ] = Field(None, description="only opened at this time or later")
    merged: bool = Field(False, description="also those that turned out to be a symptom of another one")
    message: str | None = Field(
        None, description="only those of which this message to people told (its `call`)"
    )
    limit: int = Field(DEFAULT_PAGE, ge=1, le=MAX_PAGE, description="at most so many")
    cursor: Annotated[
        tuple[float, str] | None, BeforeValidator(_place), WithJsonSchema({"type": "string"})
    ] = Field(None, description="`next_cursor` of the part before")


@blueprint.get("/api/v1/incidents")
@requires(Right.READ)
@contract(Contract(answer=IncidentPage, query=IncidentQuery, problems=(400,)))
def list_incidents() -> Response:
    """List incidents, newest first."""
    fabric: Fabric = current_app.extensions["fabric"]
    arguments: dict[str, Any] = {**request.args.to_dict(), "state": request.args.getlist("state")}
    try:
        query = IncidentQuery.model_validate(arguments)
    except ValidationError as error:
        return query_problem(error, IncidentQuery)
    rows = fabric.store.read(
        lambda connection: statements.list_incidents(
            connection,
            states=[state.value for state in query.state],
            service=query.service,
            since=query.since,
            before=query.cursor,
            merged=query.merged,
            message=query.message,
            limit=query.limit + 1,
        )
    )
    page, more = rows[: query.limit], len(rows) > query.limit
    cursor = _encode_cursor(page[-1]) if more else None
    return jsonify({"incidents": [summary(row) for row in page], "next_cursor": cursor})


@blueprint.get("/api/v1/incidents/<incident_id>")
@requires(Right.READ)
@contract(Contract(answer=Incident, problems=(404,)))
def show_incident(incident_id: str) -> Response:
    """One incident with timeline, diagnosis, actions and alerts."""
    fabric: Fabric = current_app.extensions["fabric"]
    return jsonify(story(fabric, incident_id))


def story(fabric: Fabric, incident_id: str) -> Incident:
    """The whole story of an incident, from one snapshot of the store. Raises UnknownIncident."""

    def read(connection: Connection) -> Incident:
        told = story_of(connection, incident_id)
        verdict = told["verdict"]
        if verdict is not None and verdict["service"] is not None:
            known = verdict["service"] in fabric.settings.services
            verdict["known_service"] = known or verdict["service_right"] is True  # the diagnosis named it
        return {**told, "next": _prospects(fabric, connection, statements.incident(connection, incident_id))}

    return fabric.store.read(read)


def _prospects(fabric: Fabric, connection: Connection, row: Any) -> Prospects:
    """What comes next, when, and what a person may decide now."""
    levels, pending = fabric.settings.escalation.levels, row.verification
    under_way = statements.unfinished_action_of(connection, row.id) is not None
    level = next_level(row, fabric.settings)
    proof: Proof | None = None
    if row.state in (State.VERIFYING.value, State.AWAITING_APPROVAL.value) and pending:
        proof = {"since": rfc3339(pending["since"]), "deadline": rfc3339(pending["deadline"])}
    return {
        "due_at": rfc3339(row.due_at),
        "level_due_at": rfc3339(row.level_due_at),
        "next_level": {"level": level, "name": levels[level].name} if row.level < LAST_LEVEL else None,
        "verification": proof,
        "mode": mode.current(
            connection,
            fabric.settings,
            fabric.context.unstored_pauses,
            service=row.service,
            strategy=row.plan[0] if row.plan else None,
        ),
        "decisions": list(possible_decisions(fabric.context, incident_of(row), under_way=under_way)),
        "action_under_way": under_way,
    }


def _encode_cursor(row: AnyRow) -> str:
    return base64.urlsafe_b64encode(json.dumps([row.opened_at, row.id]).encode()).decode()
