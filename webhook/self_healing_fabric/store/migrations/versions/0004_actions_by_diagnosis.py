"""What was diagnosed when an action was chosen: how often a strategy heals depends on it."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Only adds; actions from before are told apart by their target and strategy alone."""
    op.add_column("actions", sa.Column("failure_class", sa.Text))
    op.add_column("actions", sa.Column("pattern", sa.Text))
    op.create_index("actions_by_time", "actions", ["intended_at"])
    running = sa.text("status IN ('intended', 'started')")
    op.create_index("actions_running", "actions", ["status"], sqlite_where=running, postgresql_where=running)
