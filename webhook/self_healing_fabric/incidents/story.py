"""An incident as JSON: what the API answers, and what those who are called are sent.

Both must tell the same, so there is one function. The types hold it, and the description of the API is made
from them. Times are RFC 3339 in UTC.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal, NotRequired, overload

from pydantic import Field
from sqlalchemy import Connection
from typing_extensions import TypedDict

from self_healing_fabric.errors import UnknownIncident
from self_healing_fabric.incidents.lifecycle import Outcome, State
from self_healing_fabric.incidents.timeline import question
from self_healing_fabric.store import call_statements, statements
from self_healing_fabric.store.statements import AnyRow

Time = Annotated[str, Field(json_schema_extra={"format": "date-time"}, description="RFC 3339, UTC")]
Number = Annotated[int, Field(ge=0)]


class IncidentSummary(TypedDict):
    """An incident as a list shows it."""

    id: str
    title: str
    service: Annotated[str | None, Field(description="the suspected cause; null: the alert names no service")]
    known_service: Annotated[bool, Field(description="whether the configuration names the service")]
    state: State
    outcome: Annotated[Outcome | None, Field(description="how it was resolved")]
    severity: str
    signal: str | None
    failure_class: str | None
    pattern: Annotated[str | None, Field(description="of the root cause")]
    confidence: Annotated[float | None, Field(ge=0, le=1, description="in the root cause")]
    level: Annotated[int, Field(ge=0, le=4, description="of escalation; 0: self-healing")]
    acknowledged_by: str | None
    waiting_for: Annotated[str | None, Field(description="what it waits for, in words")]
    urgency: Annotated[str | None, Field(description="now, soon or later; null: not diagnosed yet")]
    relapses: Number
    merged_into: Annotated[str | None, Field(description="the incident of its cause")]
    split_from: Annotated[str | None, Field(description="the incident of which it was wrongly a symptom")]
    opened_at: Time
    updated_at: Time
    resolved_at: Time | None
    closed_at: Time | None


class DiagnosisVerdict(TypedDict):
    """The newest verdict on the diagnosis, of a person or of a verified repair."""

    source: str
    by: str | None
    at: Time
    service_right: bool | None
    pattern_right: bool | None
    service: str | None
    pattern: str | None
    known_service: NotRequired[
        Annotated[bool, Field(description="of the service that it names: whether the fabric knows it")]
    ]


class TimelineEntry(TypedDict):
    """One thing that happened."""

    id: int
    at: Time
    kind: str
    message: str
    data: Annotated[Any, Field(description="what belongs to it, by kind")]


class Action(TypedDict):
    """One attempt of one strategy on one target."""

    id: str
    service: Annotated[str | None, Field(description="whose target it is")]
    strategy: str
    platform: str
    target: str
    attempt: Annotated[int, Field(ge=1)]
    status: Annotated[str, Field(description="intended, started, succeeded, failed or indeterminate")]
    verdict: Annotated[
        str | None, Field(description="of its verification: healed, not_healed, relapsed, no_evidence")
    ]
    detail: str | None
    intended_at: Time
    started_at: Annotated[
        Time | None, Field(description="null: it was not sent or not taken, and certainly changed nothing")
    ]
    finished_at: Time | None


class StoredAlert(TypedDict):
    """An alert of an incident."""

    fingerprint: str
    starts_at: str
    service: str | None
    status: Literal["firing", "resolved"]
    suppressed: Annotated[bool, Field(description="silenced or inhibited in Alertmanager")]
    labels: dict[str, str]
    annotations: dict[str, str]
    ended_at: Time | None


class CallRecord(TypedDict):
    """A call of escalation: who was told what over which channel, and what became of it."""

    id: str
    kind: Annotated[str, Field(description="escalation, or ended: how it ended")]
    level: Annotated[int, Field(ge=0, le=4)]
    contact: str
    channel: str
    status: Annotated[str, Field(description="waiting, sent, failed or withdrawn")]
    attempts: Number
    reason: str
    error: str | None
    answer: Annotated[Any, Field(description="what a guardian answered, as it came")]
    created_at: Time
    sent_at: Time | None


class Story(IncidentSummary):
    """An incident with everything that is known of it."""

    diagnosis: Annotated[
        dict[str, Any] | None,
        Field(description="failure class, cause, alternatives, impact and evidence, each with its query"),
    ]
    verdict: DiagnosisVerdict | None
    plan: Annotated[list[str], Field(description="strategies that are still to be tried, in order")]
    asked_for: Annotated[str | None, Field(description="the action that awaits approval; null: none does")]
    timeline: list[TimelineEntry]
    actions: list[Action]
    alerts: list[StoredAlert]
    calls: list[CallRecord]


def story_of(connection: Connection, incident_id: str) -> Story:
    """The whole story of an incident. Raises UnknownIncident."""
    row = statements.incident(connection, incident_id)
    if row is None:
        raise UnknownIncident(f"no incident has the id {incident_id!r}")
    lines = statements.timeline_of(connection, incident_id)
    asked = question(lines) if row.state == State.AWAITING_APPROVAL.value else None
    return {
        **summary(row),
        "diagnosis": row.diagnosis,
        "verdict": _verdict(statements.diagnosis_verdict(connection, incident_id)),
        "plan": row.plan,
        "asked_for": None if asked is None else asked.data["action"],
        "timeline": [_timeline_entry(line) for line in lines],
        "actions": [_action(action) for action in statements.actions_of(connection, incident_id)],
        "alerts": [_alert(alert) for alert in statements.alerts_of(connection, incident_id)],
        "calls": [_call(call) for call in call_statements.calls_of(connection, incident_id)],
    }


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
        "urgency": ((row.diagnosis or {}).get("impact") or {}).get("urgency"),
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
        "service": row.service,
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


def _call(row: AnyRow) -> CallRecord:
    return {
        "id": row.id,
        "kind": row.kind,
        "level": row.level,
        "contact": row.contact,
        "channel": row.channel,
        "status": row.status,
        "attempts": row.attempts,
        "reason": row.reason,
        "error": row.error,
        "answer": row.answer,
        "created_at": rfc3339(row.created_at),
        "sent_at": rfc3339(row.sent_at),
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
