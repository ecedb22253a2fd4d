"""The schema of 0.1.0."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Create incidents, alerts, actions, the timeline, heartbeats and controls."""
    op.create_table(
        "incidents",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("service", sa.Text),
        sa.Column("known_service", sa.Boolean, nullable=False),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("severity", sa.Text, nullable=False),
        sa.Column("signal", sa.Text),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("outcome", sa.Text),
        sa.Column("failure_class", sa.Text),
        sa.Column("pattern", sa.Text),
        sa.Column("confidence", sa.Double),
        sa.Column("level", sa.Integer, nullable=False),
        sa.Column("level_due_at", sa.Double),
        sa.Column("acknowledged_by", sa.Text),
        sa.Column("approved_by", sa.Text),
        sa.Column("opened_at", sa.Double, nullable=False),
        sa.Column("updated_at", sa.Double, nullable=False),
        sa.Column("resolved_at", sa.Double),
        sa.Column("closed_at", sa.Double),
        sa.Column("due_at", sa.Double),
        sa.Column("lease_owner", sa.Text),
        sa.Column("lease_until", sa.Double),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("waiting_for", sa.Text),
        sa.Column("waiting_since", sa.Double),
        sa.Column("relapses", sa.Integer, nullable=False),
        sa.Column("faults", sa.Integer, nullable=False),
        sa.Column("plan", sa.JSON, nullable=False),
        sa.Column("diagnosis", sa.JSON),
        sa.Column("verification", sa.JSON),
    )
    op.create_index("incidents_due", "incidents", ["due_at"])
    op.create_index("incidents_by_time", "incidents", ["opened_at", "id"])
    unclosed = sa.text("closed_at IS NULL")
    op.create_index(
        "one_open_incident_a_subject",
        "incidents",
        ["subject"],
        unique=True,
        sqlite_where=unclosed,
        postgresql_where=unclosed,
    )
    op.create_table(
        "alerts",
        sa.Column("id", NUMBER, primary_key=True, autoincrement=True),
        sa.Column("fingerprint", sa.Text, nullable=False),
        sa.Column("starts_at", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("labels", sa.JSON, nullable=False),
        sa.Column("annotations", sa.JSON, nullable=False),
        sa.Column("received_at", sa.Double, nullable=False),
        sa.Column("ended_at", sa.Double),
        sa.Column("incident_id", sa.Text, sa.ForeignKey("incidents.id")),
        sa.UniqueConstraint("fingerprint", "starts_at", name="alert_identity"),
    )
    op.create_index("alerts_by_incident", "alerts", ["incident_id"])
    op.create_table(
        "actions",
        sa.Column("number", NUMBER, primary_key=True, autoincrement=True),
        sa.Column("id", sa.Text, nullable=False, unique=True),
        sa.Column("incident_id", sa.Text, sa.ForeignKey("incidents.id"), nullable=False),
        sa.Column("strategy", sa.Text, nullable=False),
        sa.Column("platform", sa.Text, nullable=False),
        sa.Column("target", sa.Text, nullable=False),
        sa.Column("disruptive", sa.Boolean, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("verdict", sa.Text),
        sa.Column("detail", sa.Text),
        sa.Column("before", sa.JSON, nullable=False),
        sa.Column("intended_at", sa.Double, nullable=False),
        sa.Column("started_at", sa.Double),
        sa.Column("finished_at", sa.Double),
    )
    op.create_index("actions_by_incident", "actions", ["incident_id"])
    op.create_index("actions_by_target", "actions", ["target", "intended_at"])
    op.create_table(
        "timeline",
        sa.Column("id", NUMBER, primary_key=True, autoincrement=True),
        sa.Column("incident_id", sa.Text, sa.ForeignKey("incidents.id"), nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("data", sa.JSON, nullable=False),
    )
    op.create_index("timeline_by_incident", "timeline", ["incident_id", "id"])
    op.create_table(
        "heartbeats",
        sa.Column("service", sa.Text, primary_key=True),
        sa.Column("at", sa.Double, nullable=False),
    )
    op.create_table(
        "controls",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
        sa.Column("changed_at", sa.Double, nullable=False),
        sa.Column("changed_by", sa.Text, nullable=False),
    )
    if op.get_bind().dialect.name == "sqlite":
        # REPLACE deletes without asking the DELETE trigger, so an id that exists may not be inserted either.
        conditions = {
            "UPDATE": "",
            "DELETE": "",
            "INSERT": "WHEN EXISTS (SELECT 1 FROM timeline WHERE id = NEW.id) ",
        }
        for verb, condition in conditions.items():
            op.execute(
                f"CREATE TRIGGER timeline_refuses_{verb.lower()} BEFORE {verb} ON timeline "
                f"{condition}BEGIN SELECT RAISE(ABORT, 'the timeline is append-only'); END"
            )
