"""What the API answers, as types, for the code that builds the answers and for whoever reads them.

A description that is written beside the code goes wrong with the first column that is added. These types are
used twice: mypy holds what builds the answers to them, and the OpenAPI document is made from them.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from typing_extensions import TypedDict

from self_healing_fabric.diagnosis import Pattern
from self_healing_fabric.incidents.story import IncidentSummary, Number, Story, Time
from self_healing_fabric.settings import Mode

Share = Annotated[float, Field(ge=0, le=1)]


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


class NextLevel(TypedDict):
    """The level that is called next."""

    level: Annotated[int, Field(ge=1, le=4)]
    name: str


class Proof(TypedDict):
    """From when to when proof is looked for: by a verification, or while a person is asked."""

    since: Time
    deadline: Time


class Prospects(TypedDict):
    """What comes next with an incident, when, and what a person may decide now."""

    due_at: Annotated[Time | None, Field(description="of its next step; null: only an event wakes it")]
    level_due_at: Annotated[Time | None, Field(description="when the next level is called; null: never")]
    next_level: Annotated[NextLevel | None, Field(description="null: it is at the last one")]
    verification: Annotated[Proof | None, Field(description="null: no proof has a deadline")]
    mode: Annotated[Mode, Field(description="in force for its service and its next strategy")]
    decisions: Annotated[list[str], Field(description="those that would change something now")]
    action_under_way: Annotated[bool, Field(description="then only `acknowledge` is possible")]


class Incident(Story):
    """An incident with everything that is known of it, and what comes next."""

    next: Prospects


class IncidentPage(TypedDict):
    """A part of the list of incidents, newest first."""

    incidents: list[IncidentSummary]
    next_cursor: Annotated[str | None, Field(description="gives the next part; null: this is the last one")]


class ModeInForce(TypedDict, total=False):
    """The mode of everything, and stricter ones of services and strategies where there are any."""

    mode: Mode
    services: dict[str, Mode]
    strategies: dict[str, Mode]


class Inbox(TypedDict):
    """Notifications that are stored and not yet part of incidents."""

    waiting: Number
    failed: Annotated[int, Field(ge=0, description="three times an unexpected error: see the log")]


Seconds = Annotated[float | None, Field(ge=0, description="null: never yet")]


class Versions(TypedDict):
    """What runs."""

    fabric: str
    schema: Annotated[str | int, Field(description="of the store")]
    python: str


class Loop(TypedDict):
    """The last time that the loop got through."""

    age_seconds: Seconds
    seconds: Annotated[float | None, Field(ge=0, description="that it took")]


class Seen(TypedDict):
    """How long ago something was seen."""

    age_seconds: Seconds


class ServerSeen(TypedDict):
    """What the last real call to a server gave; none is asked for the status."""

    kind: Annotated[str, Field(description="prometheus, alertmanager, docker or kubernetes")]
    url: str
    version: Annotated[str | None, Field(description="of Prometheus and Alertmanager; null: not told")]
    answers: Annotated[bool | None, Field(description="null: not asked yet")]
    latency_seconds: Seconds
    answered: Seen
    error: str | None


class HealthSeen(Seen):
    """The health endpoints that an embedding program named, as Prometheus saw them."""

    answering: Annotated[
        dict[str, float | None], Field(description="share of the targets that answer; null: unknown")
    ]


class Replica(TypedDict):
    """A replica that holds a lease, or this one."""

    name: str
    this: bool
    leader: bool
    incidents: Annotated[int, Field(ge=0, description="that it works on")]


class Status(TypedDict):
    """What the fabric is doing, from the store and what its loops and calls left behind: nobody is asked."""

    healthy: Annotated[bool, Field(description="whether the fabric does its work, not whether services do")]
    problems: Annotated[
        list[str],
        Field(
            description="why not, as sentences: it shuts down, nothing can be stored, the orchestrator or its"
            " loop stands still, nothing was compared with Prometheus or Alertmanager for three turns"
            " (at least 30 s)"
        ),
    ]
    version: str
    versions: Versions
    mode: Mode
    orchestrator: Literal["running", "stopped"]
    draining: Annotated[bool, Field(description="shutting down")]
    incidents: Annotated[dict[str, int], Field(description="number by state")]
    inbox: Inbox
    loop: Loop
    reconciled: Annotated[Seen, Field(description="the last comparison with the servers, by this replica")]
    servers: Annotated[
        list[ServerSeen], Field(description="Docker and Kubernetes are asked when there is an incident")
    ]
    guardians: HealthSeen
    guards: HealthSeen
    replicas: Annotated[list[Replica], Field(description="those that hold leases, and this one")]
    leader: Annotated[bool, Field(description="whether this replica compares with the servers")]
    services: Annotated[int, Field(ge=0, description="that are configured")]
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
