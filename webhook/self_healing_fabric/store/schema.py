"""The tables. Incidents, actions and timers are rows, so that a crash forgets nothing.

A timer is the `due_at` of its incident: nobody sleeps in a thread. A claim is `lease_owner` and
`lease_until`; `epoch` rises with every claim and every commit names the epoch it started from, so a worker
that was overtaken cannot write. The timeline is append-only, and the database itself refuses to change it.
All times are seconds since 1970, UTC.
"""

from __future__ import annotations

from sqlalchemy import (
    DDL,
    JSON,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    event,
)

metadata = MetaData()

incidents = Table(
    "incidents",
    metadata,
    Column("id", Text, primary_key=True),
    # What makes two alerts one problem: the service, or the alert itself where no service is named.
    Column("subject", Text, nullable=False),
    Column("service", Text),
    Column("known_service", Boolean, nullable=False),
    Column("title", Text, nullable=False),
    Column("severity", Text, nullable=False),
    Column("signal", Text),
    Column("state", Text, nullable=False),
    Column("outcome", Text),
    Column("failure_class", Text),
    Column("pattern", Text),
    Column("confidence", Double),
    Column("level", Integer, nullable=False, default=0),
    Column("level_due_at", Double),
    Column("acknowledged_by", Text),
    Column("approved_by", Text),
    Column("opened_at", Double, nullable=False),
    Column("updated_at", Double, nullable=False),
    Column("resolved_at", Double),
    Column("closed_at", Double),
    Column("due_at", Double),
    Column("lease_owner", Text),
    Column("lease_until", Double),
    Column("epoch", Integer, nullable=False, default=0),
    Column("waiting_for", Text),
    Column("waiting_since", Double),
    Column("relapses", Integer, nullable=False, default=0),
    Column("faults", Integer, nullable=False, default=0),  # steps in a row that ended in an unexpected error
    Column("plan", JSON, nullable=False),  # strategies still to be tried, in order
    Column("diagnosis", JSON),
    Column("verification", JSON),  # what the pending verification compares with
    Index("incidents_due", "due_at"),
    Index("incidents_by_time", "opened_at", "id"),
    Index(
        "one_open_incident_a_subject",
        "subject",
        unique=True,
        sqlite_where=Column("closed_at").is_(None),
        postgresql_where=Column("closed_at").is_(None),
    ),
)

alerts = Table(
    "alerts",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("fingerprint", Text, nullable=False),
    Column("starts_at", Text, nullable=False),  # see incidents.ingestion.identity_time
    Column("status", Text, nullable=False),
    Column("labels", JSON, nullable=False),
    Column("annotations", JSON, nullable=False),
    Column("received_at", Double, nullable=False),
    Column("ended_at", Double),
    Column("incident_id", Text, ForeignKey("incidents.id")),
    UniqueConstraint("fingerprint", "starts_at", name="alert_identity"),
    Index("alerts_by_incident", "incident_id"),
)

actions = Table(
    "actions",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),  # the order in which they were announced
    Column("id", Text, nullable=False, unique=True),
    Column("incident_id", Text, ForeignKey("incidents.id"), nullable=False),
    Column("strategy", Text, nullable=False),
    Column("platform", Text, nullable=False),
    Column("target", Text, nullable=False),  # the owner that guardrails count by, for example docker:cart
    Column("disruptive", Boolean, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("status", Text, nullable=False),
    Column("verdict", Text),
    Column("detail", Text),
    Column(
        "before", JSON, nullable=False
    ),  # what the target looked like, to learn after a crash whether it changed
    Column("intended_at", Double, nullable=False),
    Column("started_at", Double),
    Column("finished_at", Double),
    Index("actions_by_incident", "incident_id"),
    Index("actions_by_target", "target", "intended_at"),
)

timeline = Table(
    "timeline",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("incident_id", Text, ForeignKey("incidents.id"), nullable=False),
    Column("at", Double, nullable=False),
    Column("kind", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("data", JSON, nullable=False),
    Index("timeline_by_incident", "incident_id", "id"),
)

heartbeats = Table(
    "heartbeats",
    metadata,
    Column("service", Text, primary_key=True),
    # Of the last heartbeat, or of the registration: a service that never came up must become stale too.
    Column("at", Double, nullable=False),
)

controls = Table(
    "controls",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),
    Column("changed_at", Double, nullable=False),
    Column("changed_by", Text, nullable=False),
)

# REPLACE deletes without asking the DELETE trigger, so an id that exists may not be inserted either.
_FORBIDDEN = {"UPDATE": "", "DELETE": "", "INSERT": "WHEN EXISTS (SELECT 1 FROM timeline WHERE id = NEW.id) "}

for _verb, _condition in _FORBIDDEN.items():
    event.listen(
        timeline,
        "after_create",
        DDL(  # type: ignore[no-untyped-call] # SQLAlchemy ships this one call without types
            f"CREATE TRIGGER timeline_refuses_{_verb.lower()} BEFORE {_verb} ON timeline "
            f"{_condition}BEGIN SELECT RAISE(ABORT, 'the timeline is append-only'); END"
        ).execute_if(dialect="sqlite"),
    )
