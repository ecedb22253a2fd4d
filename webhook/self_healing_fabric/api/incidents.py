"""Incidents for readers: the list, and one with its whole story.

Pages are cut by (opened_at, id) and not by offset, because incidents open while somebody reads.
"""

from __future__ import annotations

import base64
import binascii
import json
from datetime import UTC, datetime
from typing import Annotated, Any, overload

from flask import Blueprint, Response, current_app, jsonify, request
from pydantic import BaseModel, BeforeValidator, Field, ValidationError, WithJsonSchema

from self_healing_fabric.api.answers import (
    Action,
    DiagnosisVerdict,
    IncidentPage,
    IncidentSummary,
    StoredAlert,
    Story,
    TimelineEntry,
)
from self_healing_fabric.api.auth import requires
from self_healing_fabric.api.contract import Contract, contract
from self_healing_fabric.api.problems import problem
from self_healing_fabric.errors import UnknownIncident
from self_healing_fabric.incidents.lifecycle import State
from self_healing_fabric.integration.lifecycle import Fabric
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
        return float(opened_at), str(incident_id)
    except (binascii.Error, ValueError, TypeError) as error:
        raise ValueError("is not one that this API gave") from error


class IncidentQuery(BaseModel):
    """The query of GET /api/v1/incidents."""

    state: list[State] = Field([], description="only in this state; may repeat")
    service: str | None = Field(None, description="only of this service")
    since: Annotated[
        float | None,
        BeforeValidator(_moment),
        WithJsonSchema({"type": "string", "format": "date-time"}),
    ] = Field(None, description="only opened at this time or later")
    merged: bool = Field(False, description="also those that turned out to be a symptom of another one")
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
        detail = error.errors(include_url=False, include_input=False, include_context=False)[0]
        return problem(400, f"{detail['loc'][0]}: {detail['msg'].removeprefix('Value error, ')}")
    rows = fabric.store.read(
        lambda connection: statements.list_incidents(
            connection,
            states=[state.value for state in query.state],
            service=query.service,
            since=query.since,
            before=query.cursor,
            merged=query.merged,
            limit=query.limit + 1,
        )
    )
    page, more = rows[: query.limit], len(rows) > query.limit
    cursor = _encode_cursor(page[-1]) if more else None
    return jsonify({"incidents": [summary(row) for row in page], "next_cursor": cursor})


@blueprint.get("/api/v1/incidents/<incident_id>")
@requires(Right.READ)
@contract(Contract(answer=Story, problems=(404,)))
def show_incident(incident_id: str) -> Response:
    """One incident with timeline, diagnosis, actions and alerts."""
    fabric: Fabric = current_app.extensions["fabric"]
    return jsonify(story(fabric, incident_id))


def story(fabric: Fabric, incident_id: str) -> Story:
    """The whole story of an incident, from one snapshot of the store. Raises UnknownIncident."""

    def read(connection: Any) -> Story:
        row = statements.incident(connection, incident_id)
        if row is None:
            raise UnknownIncident(f"no incident has the id {incident_id!r}")
        return {
            **summary(row),
            "diagnosis": row.diagnosis,
            "verdict": _verdict(statements.diagnosis_verdict(connection, incident_id)),
            "plan": row.plan,
            "timeline": [_timeline_entry(entry) for entry in statements.timeline_of(connection, incident_id)],
            "actions": [_action(action) for action in statements.actions_of(connection, incident_id)],
            "alerts": [_alert(alert) for alert in statements.alerts_of(connection, incident_id)],
        }

    return fabric.store.read(read)


def summary(row: AnyRow) -> IncidentSummary:
    """What a list shows of an incident."""
    return {
        "id": row.id,
        "title": row.title,
        "service": row.service,
        "known_service": row.known_service,
        "state": row.state,
        "outcome": row.outcome,
        "severity": row.severity,
        "signal": row.signal,
        "failure_class": row.failure_class,
        "pattern": row.pattern,
        "confidence": row.confidence,
        "level": row.level,
        "acknowledged_by": row.acknowledged_by,
        "waiting_for": row.waiting_for,
        "relapses": row.relapses,
        "merged_into": row.merged_into,
        "split_from": row.split_from,
        "opened_at": rfc3339(row.opened_at),
        "updated_at": rfc3339(row.updated_at),
        "resolved_at": rfc3339(row.resolved_at),
        "closed_at": rfc3339(row.closed_at),
    }


def _verdict(row: AnyRow | None) -> DiagnosisVerdict | None:
    if row is None:
        return None
    found: DiagnosisVerdict = {
        "source": row.source,
        "by": row.given_by,
        "at": rfc3339(row.given_at),
        "service_right": row.service_right,
        "pattern_right": row.pattern_right,
        "service": row.service,
        "pattern": row.pattern,
    }
    return found


def _timeline_entry(row: AnyRow) -> TimelineEntry:
    return {"id": row.id, "at": rfc3339(row.at), "kind": row.kind, "message": row.message, "data": row.data}


def _action(row: AnyRow) -> Action:
    return {
        "id": row.id,
        "strategy": row.strategy,
        "platform": row.platform,
        "target": row.target,
        "attempt": row.attempt,
        "status": row.status,
        "verdict": row.verdict,
        "detail": row.detail,
        "intended_at": rfc3339(row.intended_at),
        "started_at": rfc3339(row.started_at),
        "finished_at": rfc3339(row.finished_at),
    }


def _alert(row: AnyRow) -> StoredAlert:
    return {
        "fingerprint": row.fingerprint,
        "starts_at": row.starts_at,
        "service": row.service,
        "status": row.status,
        "suppressed": row.suppressed,
        "labels": row.labels,
        "annotations": row.annotations,
        "ended_at": rfc3339(row.ended_at),
    }


@overload
def rfc3339(seconds: float) -> str: ...
@overload
def rfc3339(seconds: None) -> None: ...
def rfc3339(seconds: float | None) -> str | None:
    """Seconds since 1970 as RFC 3339 in UTC."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _encode_cursor(row: AnyRow) -> str:
    return base64.urlsafe_b64encode(json.dumps([row.opened_at, row.id]).encode()).decode()
