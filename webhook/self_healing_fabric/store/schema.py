"""The tables. Incidents, actions and timers are rows, so that a crash forgets nothing.

A timer is the `due_at` of its incident: nobody sleeps in a thread. A claim is `lease_owner` and
`lease_until`; `epoch` rises with every claim and every commit names the epoch it started from, so a worker
that was overtaken cannot write. The timeline is append-only, and the database itself refuses to change it.
All times are seconds since 1970, UTC.

The tables are made by the migrations (`store.migrations`), never from this page: a test compares the two.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Dialect,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    UniqueConstraint,
    false,
    text,
)
from sqlalchemy import Text as SqlText
from sqlalchemy.types import TypeDecorator

VERSION = "0009"  # the newest migration


class Text(TypeDecorator[str]):
    """Text of any origin: PostgreSQL refuses the character NUL, which a label may hold."""

    impl = SqlText
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> Any:
        """Replace NUL by the replacement character."""
        return value.replace("\x00", "\ufffd") if value and "\x00" in value else value


Number = BigInteger().with_variant(Integer, "sqlite")  # SQLite counts up only in an INTEGER PRIMARY KEY

metadata = MetaData()

# Work in hand; the other open incidents are only watched.
IN_HEALING = text("state NOT IN ('escalated', 'resolved', 'closed')")

# Configured services that fail now.
FAILING = text("closed_at IS NULL AND state <> 'resolved' AND known_service")

# Whose next level is due at a time that nobody has set yet.
WITHOUT_LEVEL_TIMER = text(
    "level_due_at IS NULL AND closed_at IS NULL AND known_service AND acknowledged_by IS NULL"
    " AND level < 4 AND state <> 'resolved'"
)
_OPEN = text("closed_at IS NULL")
_WITH_LEVEL_TIMER = text("level_due_at IS NOT NULL AND closed_at IS NULL")

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
    Column("merged_into", Text),  # the incident of the cause, when this one was only a symptom
    Column("split_from", Text),  # the incident that a person, or its own signals, showed it not to belong to
    Index("incidents_due", "due_at"),
    Index("incidents_due_in_healing", "due_at", sqlite_where=IN_HEALING, postgresql_where=IN_HEALING),
    Index("incidents_by_time", "opened_at", "id"),
    Index("incidents_open", "opened_at", "id", sqlite_where=_OPEN, postgresql_where=_OPEN),
    Index(
        "incidents_level_due",
        "level_due_at",
        sqlite_where=_WITH_LEVEL_TIMER,
        postgresql_where=_WITH_LEVEL_TIMER,
    ),
    Index(
        "incidents_without_level_timer",
        "id",
        sqlite_where=WITHOUT_LEVEL_TIMER,
        postgresql_where=WITHOUT_LEVEL_TIMER,
    ),
    Index("incidents_by_end", "closed_at"),
    Index("incidents_failing", "service", sqlite_where=FAILING, postgresql_where=FAILING),
    Index(
        "one_open_incident_a_subject",
        "subject",
        unique=True,
        sqlite_where=Column("closed_at").is_(None),
        postgresql_where=Column("closed_at").is_(None),
    ),
)

# That fire as far as we know.
FIRING = text("status = 'firing'")
_UNASSIGNED = text("incident_id IS NULL AND status = 'firing'")

alerts = Table(
    "alerts",
    metadata,
    Column("id", Number, primary_key=True, autoincrement=True),
    Column("fingerprint", Text, nullable=False),
    Column("starts_at", Text, nullable=False),  # see incidents.ingestion.identity_time
    Column("status", Text, nullable=False),
    Column("labels", JSON, nullable=False),
    Column("annotations", JSON, nullable=False),
    Column("received_at", Double, nullable=False),
    Column("ended_at", Double),
    Column("incident_id", Text, ForeignKey("incidents.id")),
    Column("service", Text),  # the configured one that it names; None: none
    Column("suppressed", Boolean, nullable=False, server_default=false()),  # silenced or inhibited
    UniqueConstraint("fingerprint", "starts_at", name="alert_identity"),
    Index("alerts_by_incident", "incident_id"),
    Index("alerts_by_service", "service", "incident_id"),
    Index("alerts_firing", "incident_id", sqlite_where=FIRING, postgresql_where=FIRING),
    Index(
        "alerts_unassigned",
        "id",
        sqlite_where=_UNASSIGNED,
        postgresql_where=_UNASSIGNED,
    ),
)

# That were announced and have no end.
RUNNING = text("status IN ('intended', 'started')")
_HELD = text("held_by IS NOT NULL")

actions = Table(
    "actions",
    metadata,
    Column("number", Number, primary_key=True, autoincrement=True),  # the order in which they were announced
    Column("id", Text, nullable=False, unique=True),
    Column("incident_id", Text, ForeignKey("incidents.id"), nullable=False),
    Column("service", Text),  # whose target it is; None: written before there was this column
    Column("held_by", Text),  # the incident that has taken over what is in force; None: still that one
    Column("strategy", Text, nullable=False),
    Column("failure_class", Text),  # as diagnosed when it was chosen, and so the pattern
    Column("pattern", Text),
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
    Index("actions_by_time", "intended_at"),
    Index("actions_running", "status", sqlite_where=RUNNING, postgresql_where=RUNNING),
    Index("actions_held", "held_by", sqlite_where=_HELD, postgresql_where=_HELD),
)

timeline = Table(
    "timeline",
    metadata,
    Column("id", Number, primary_key=True, autoincrement=True),
    Column("incident_id", Text, ForeignKey("incidents.id"), nullable=False),
    Column("at", Double, nullable=False),
    Column("kind", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("data", JSON, nullable=False),
    Column("hash", Text),  # see store.chain; None: written before there was a chain
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

inbox = Table(
    "inbox",
    metadata,
    # Notifications as they came, acknowledged and not yet worked in.
    Column("id", Number, primary_key=True, autoincrement=True),
    Column("received_at", Double, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("faults", Integer, nullable=False, server_default="0"),  # unexpected errors while working it in
    Column("error", Text),
)

leases = Table(
    "leases",
    metadata,
    # Work that one of several replicas does for all, such as the comparison with the servers.
    Column("name", Text, primary_key=True),
    Column("owner", Text, nullable=False),
    Column("until", Double, nullable=False),
)

_DUE_CALLS = text("due_at IS NOT NULL")
_OPEN_CALLS = text("ended_at IS NULL")

calls = Table(
    "calls",
    metadata,
    # Who has to be told what: written with the transition that calls, sent by any replica, until it arrived.
    Column("id", Text, primary_key=True),
    Column("incident_id", Text, nullable=False),
    Column("service", Text),
    Column("kind", Text, nullable=False),  # escalation, or ended: those who were called hear how it ended
    Column("level", Integer, nullable=False),
    Column("level_name", Text, nullable=False),
    Column("contact", Text, nullable=False),
    Column("called", JSON, nullable=False),  # everybody whom the level calls
    Column("channel", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("status", Text, nullable=False),  # waiting, sent, failed, withdrawn
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("created_at", Double, nullable=False),
    Column("due_at", Double),  # of the next try, or of the next sign of life; None: nothing is left to do
    Column("deadline_at", Double),  # of the tries
    Column("sent_at", Double),
    Column("ended_at", Double),  # since when nobody needs to hear how the incident ended
    Column("message", Text),  # the message that carries it: the idempotency key; several may share one
    Column("progress", JSON, nullable=False),  # what a channel keeps between its tries
    Column("answer", JSON),
    Column("error", Text),
    Column("lease_owner", Text),
    Column("lease_until", Double),
    Column("epoch", Integer, nullable=False, server_default="0"),
    Index("calls_due", "due_at", sqlite_where=_DUE_CALLS, postgresql_where=_DUE_CALLS),
    Index("calls_by_incident", "incident_id"),
    Index("calls_open", "incident_id", "kind", sqlite_where=_OPEN_CALLS, postgresql_where=_OPEN_CALLS),
    Index("calls_to_contact", "channel", "contact", "sent_at"),
)

diagnosis_verdicts = Table(
    "diagnosis_verdicts",
    metadata,
    # What people or a verified repair said of a diagnosis. They outlive it: calibration learns from them.
    Column("incident_id", Text, primary_key=True),
    Column("source", Text, nullable=False),  # person, or repair
    Column("given_by", Text, nullable=False),
    Column("given_at", Double, nullable=False),
    Column("service_right", Boolean, nullable=False),
    Column("pattern_right", Boolean),  # None: nothing was said of it
    Column("service", Text),  # the right one, where it is known
    Column("pattern", Text),
    Column("named_service", Text, nullable=False),  # what the diagnosis had said
    Column("named_pattern", Text, nullable=False),
    Column("confidence", Double, nullable=False),  # in the service, before calibration
    Index("diagnosis_verdicts_by_time", "given_at"),
)

retired = Table(
    "retired",
    metadata,
    # What is left of an incident after its retention. Only a timeline named here may be deleted.
    Column("incident_id", Text, primary_key=True),
    Column("service", Text),
    Column("outcome", Text),
    Column("opened_at", Double, nullable=False),
    Column("closed_at", Double, nullable=False),
    Column("retired_at", Double, nullable=False),
)

audit_heads = Table(
    "audit_heads",
    metadata,
    # Where each timeline ends, by incident, and the chain over incidents, by the empty name.
    Column("subject", Text, primary_key=True),
    Column("entries", Integer, nullable=False),
    Column("hash", Text, nullable=False),
    Column("at", Double, nullable=False),  # of the last of them
)

audit_chain = Table(
    "audit_chain",
    metadata,
    # Which incidents were opened and retired, and seals over the heads of timelines; append-only.
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("kind", Text, nullable=False),  # begun, opened, retired, sealed
    Column("incident_id", Text),
    Column("at", Double, nullable=False),
    Column("data", JSON, nullable=False),
    Column("hash", Text, nullable=False),
    Index("audit_chain_by_incident", "incident_id"),
)
