"""Whose target an action changed, and which incident takes it back: an incident may move away."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Only adds. What an open incident has done learns its service before it can move away from it."""
    op.add_column("actions", sa.Column("service", sa.Text))
    op.add_column("actions", sa.Column("held_by", sa.Text))
    held = sa.text("held_by IS NOT NULL")
    op.create_index("actions_held", "actions", ["held_by"], sqlite_where=held, postgresql_where=held)
    op.execute(
        "UPDATE actions SET service = (SELECT service FROM incidents WHERE incidents.id = incident_id) "
        "WHERE incident_id IN (SELECT id FROM incidents WHERE closed_at IS NULL)"
    )
