"""Which services fail now: asked before every action, under a lock that all actions share."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Only adds."""
    failing = sa.text("closed_at IS NULL AND state <> 'resolved' AND known_service")
    op.create_index(
        "incidents_failing", "incidents", ["service"], sqlite_where=failing, postgresql_where=failing
    )
