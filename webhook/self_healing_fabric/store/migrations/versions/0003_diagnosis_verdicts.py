"""Verdicts on diagnoses, which calibration learns from."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Only adds."""
    op.create_table(
        "diagnosis_verdicts",
        sa.Column("incident_id", sa.Text, primary_key=True),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("given_by", sa.Text, nullable=False),
        sa.Column("given_at", sa.Double, nullable=False),
        sa.Column("service_right", sa.Boolean, nullable=False),
        sa.Column("pattern_right", sa.Boolean),
        sa.Column("service", sa.Text),
        sa.Column("pattern", sa.Text),
        sa.Column("named_service", sa.Text, nullable=False),
        sa.Column("named_pattern", sa.Text, nullable=False),
        sa.Column("confidence", sa.Double, nullable=False),
    )
    op.create_index("diagnosis_verdicts_by_time", "diagnosis_verdicts", ["given_at"])
