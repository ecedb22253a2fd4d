"""An inbox for notifications, leases between replicas, incidents that are merged and split, retention."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Only adds; the trigger against deletion now lets go of what `retired` names."""
    op.add_column("incidents", sa.Column("merged_into", sa.Text))
    op.add_column("incidents", sa.Column("split_from", sa.Text))
    in_healing = sa.text("state NOT IN ('escalated', 'resolved', 'closed')")
    op.create_index(
        "incidents_due_in_healing",
        "incidents",
        ["due_at"],
        sqlite_where=in_healing,
        postgresql_where=in_healing,
    )
    op.create_index("incidents_by_end", "incidents", ["closed_at"])
    op.add_column("alerts", sa.Column("service", sa.Text))
    op.add_column("alerts", sa.Column("suppressed", sa.Boolean, nullable=False, server_default=sa.false()))
    op.execute(
        "UPDATE alerts SET service = (SELECT service FROM incidents WHERE incidents.id = alerts.incident_id "
        "AND incidents.known_service) WHERE incident_id IS NOT NULL"
    )
    op.create_index("alerts_by_service", "alerts", ["service", "incident_id"])
    unassigned = sa.text("incident_id IS NULL AND status = 'firing'")
    op.create_index(
        "alerts_unassigned", "alerts", ["id"], sqlite_where=unassigned, postgresql_where=unassigned
    )
    op.create_table(
        "inbox",
        sa.Column("id", NUMBER, primary_key=True, autoincrement=True),
        sa.Column("received_at", sa.Double, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("faults", sa.Integer, nullable=False, server_default="0"),
        sa.Column("error", sa.Text),
    )
    op.create_table(
        "leases",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("until", sa.Double, nullable=False),
    )
    op.create_table(
        "retired",
        sa.Column("incident_id", sa.Text, primary_key=True),
        sa.Column("service", sa.Text),
        sa.Column("outcome", sa.Text),
        sa.Column("opened_at", sa.Double, nullable=False),
        sa.Column("closed_at", sa.Double, nullable=False),
        sa.Column("retired_at", sa.Double, nullable=False),
    )
    if op.get_bind().dialect.name == "sqlite":
        _guard_on_sqlite()
    else:
        _guard_on_postgresql()


def _guard_on_sqlite() -> None:
    op.execute("DROP TRIGGER timeline_refuses_delete")
    op.execute(
        "CREATE TRIGGER timeline_refuses_delete BEFORE DELETE ON timeline "
        "WHEN NOT EXISTS (SELECT 1 FROM retired WHERE incident_id = OLD.incident_id) "
        "BEGIN SELECT RAISE(ABORT, 'the timeline is append-only'); END"
    )


def _guard_on_postgresql() -> None:
    op.execute(
        "CREATE FUNCTION timeline_refuses_change() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "IF TG_OP = 'DELETE' AND EXISTS (SELECT 1 FROM retired WHERE incident_id = OLD.incident_id) "
        "THEN RETURN OLD; END IF; "
        "RAISE EXCEPTION 'the timeline is append-only'; END $$"
    )
    op.execute(
        "CREATE TRIGGER timeline_refuses_change BEFORE UPDATE OR DELETE ON timeline "
        "FOR EACH ROW EXECUTE FUNCTION timeline_refuses_change()"
    )
    op.execute(
        "CREATE TRIGGER timeline_refuses_truncate BEFORE TRUNCATE ON timeline "
        "FOR EACH STATEMENT EXECUTE FUNCTION timeline_refuses_change()"
    )
