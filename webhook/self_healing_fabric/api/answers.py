"""What the API answers, as types, for the code that builds the answers and for whoever reads them.

A description that is written beside the code goes wrong with the first column that is added. These types are
used twice: mypy holds what builds the answers to them, and the OpenAPI document is made from them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field
from typing_extensions import TypedDict

from self_healing_fabric.diagnosis import Pattern
from self_healing_fabric.incidents.lifecycle import Outcome, State
from self_healing_fabric.settings import Mode

Time = Annotated[str, Field(json_schema_extra={"format": "date-time"}, description="RFC 3339, UTC")]
Share = Annotated[float, Field(ge=0, le=1)]
Number = Annotated[int, Field(ge=0)]


class Problem(TypedDict):
    """Why a request was not carried out (RFC 9457)."""

    type: str
    title: str
    status: Annotated[int, Field(ge=400, le=599)]
    detail: Annotated[str, Field(description="a sentence for people")]


class FieldProblem(TypedDict):
    """One field of a body that is not as it must be."""

    path: str
    message: str


class ShapeProblem(Problem):
    """A problem with the first fields that are wrong."""

    errors: list[FieldProblem]


class Stored(TypedDict):
    """That a notification is on disk."""

    stored: Annotated[int, Field(ge=0, description="alerts in the notification")]
    truncated: Annotated[int, Field(ge=0, description="alerts that Alertmanager left out of it")]


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
    relapses: Number
    merged_into: Annotated[str | None, Field(description="the incident of its cause")]
    split_from: Annotated[str | None, Field(description="the incident of which it was wrongly a symptom")]
    opened_at: Time
    updated_at: Time
    resolved_at: Time | None
    closed_at: Time | None


class IncidentPage(TypedDict):
    """A part of the list of incidents, newest first."""

    incidents: list[IncidentSummary]
    next_cursor: Annotated[str | None, Field(description="gives the next part; null: this is the last one")]


class DiagnosisVerdict(TypedDict):
    """The newest verdict on the diagnosis, of a person or of a verified repair."""

    source: str
    by: str | None
    at: Time
    service_right: bool | None
    pattern_right: bool | None
    service: str | None
    pattern: str | None


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
    started_at: Time | None
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


class Story(IncidentSummary):
    """An incident with everything that is known of it."""

    diagnosis: Annotated[
        dict[str, Any] | None,
        Field(description="failure class, cause, alternatives, impact and evidence, each with its query"),
    ]
    verdict: DiagnosisVerdict | None
    plan: Annotated[list[str], Field(description="strategies that are still to be tried, in order")]
    timeline: list[TimelineEntry]
    actions: list[Action]
    alerts: list[StoredAlert]


class ModeInForce(TypedDict, total=False):
    """The mode of everything, and stricter ones of services and strategies where there are any."""

    mode: Mode
    services: dict[str, Mode]
    strategies: dict[str, Mode]


class Inbox(TypedDict):
    """Notifications that are stored and not yet part of incidents."""

    waiting: Number
    failed: Annotated[int, Field(ge=0, description="three times an unexpected error: see the log")]


class Status(TypedDict):
    """What this replica is doing."""

    version: str
    mode: Mode
    orchestrator: Literal["running", "stopped"]
    draining: Annotated[bool, Field(description="shutting down")]
    incidents: Annotated[dict[str, int], Field(description="number by state")]
    inbox: Inbox
    leader: Annotated[bool, Field(description="whether this replica compares with the servers")]
    services: Number
    calibration: Annotated[
        dict[str, float],
        Field(description="what confidence has learned from verdicts: shift, slope, verdicts"),
    ]


class TargetGroup(TypedDict):
    """One service as Prometheus's HTTP service discovery reads it."""

    targets: list[str]
    labels: dict[str, str]


class StrategyRecord(TypedDict):
    """What a strategy has achieved on a target, for one failure class and pattern."""

    target: str
    failure_class: str
    pattern: Pattern | str
    strategy: str
    tried: Annotated[int, Field(ge=1)]
    healed: Number
    rate_at_least: Annotated[Share, Field(description="lower end of the 90 % score interval")]
    rate_at_most: Annotated[Share, Field(description="upper end of the 90 % score interval")]


class StrategyRecords(TypedDict):
    """The records of all strategies that were tried."""

    strategies: list[StrategyRecord]
