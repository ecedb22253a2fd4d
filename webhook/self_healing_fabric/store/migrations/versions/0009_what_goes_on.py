"""What is asked again and again is of what goes on: what is over must cost nothing, however much is kept."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Only adds."""
    still_open, firing = sa.text("closed_at IS NULL"), sa.text("status = 'firing'")
    op.create_index(
        "incidents_open",
        "incidents",
        ["opened_at", "id"],
        sqlite_where=still_open,
        postgresql_where=still_open,
    )
    op.create_index("alerts_firing", "alerts", ["incident_id"], sqlite_where=firing, postgresql_where=firing)
