"""Calls to people and guardians as rows, and timers of levels that run in every state."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Only adds. Incidents get their level's timer from the first replica that looks for those without."""
    op.create_table(
        "calls",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("incident_id", sa.Text, nullable=False),
        sa.Column("service", sa.Text),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("level", sa.Integer, nullable=False),
        sa.Column("level_name", sa.Text, nullable=False),
        sa.Column("contact", sa.Text, nullable=False),
        sa.Column("called", sa.JSON, nullable=False),
        sa.Column("channel", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("due_at", sa.Double),
        sa.Column("deadline_at", sa.Double),
        sa.Column("sent_at", sa.Double),
        sa.Column("ended_at", sa.Double),
        sa.Column("message", sa.Text),
        sa.Column("progress", sa.JSON, nullable=False),
        sa.Column("answer", sa.JSON),
        sa.Column("error", sa.Text),
        sa.Column("lease_owner", sa.Text),
        sa.Column("lease_until", sa.Double),
        sa.Column("epoch", sa.Integer, nullable=False, server_default="0"),
    )
    _partial_index("calls_due", "calls", ["due_at"], "due_at IS NOT NULL")
    op.create_index("calls_by_incident", "calls", ["incident_id"])
    _partial_index("calls_open", "calls", ["incident_id", "kind"], "ended_at IS NULL")
    op.create_index("calls_to_contact", "calls", ["channel", "contact", "sent_at"])
    _partial_index(
        "incidents_level_due",
        "incidents",
        ["level_due_at"],
        "level_due_at IS NOT NULL AND closed_at IS NULL",
    )
    _partial_index(
        "incidents_without_level_timer",
        "incidents",
        ["id"],
        "level_due_at IS NULL AND closed_at IS NULL AND known_service AND acknowledged_by IS NULL"
        " AND level < 4 AND state <> 'resolved'",
    )


def _partial_index(name: str, table: str, columns: list[str], condition: str) -> None:
    where = sa.text(condition)
    op.create_index(name, table, columns, sqlite_where=where, postgresql_where=where)
