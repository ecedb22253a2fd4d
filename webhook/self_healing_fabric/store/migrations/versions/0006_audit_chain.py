"""The chain of hashes over timelines and incidents; what is there already is taken into it.

Lines from before keep no hash of their own, because the timeline is append-only: their chain is computed here
and only its head is kept. The first link says up to which line that holds.
"""

import sqlalchemy as sa
from alembic import op

from self_healing_fabric.store.chain import NOTHING, line_hash, link_hash

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

AT_ONCE = 1000  # rows of one insert


def upgrade() -> None:
    """Only adds: a line without a hash, and an incident without a link, can still be written."""
    op.add_column("timeline", sa.Column("hash", sa.Text))
    heads = op.create_table(
        "audit_heads",
        sa.Column("subject", sa.Text, primary_key=True),
        sa.Column("entries", sa.Integer, nullable=False),
        sa.Column("hash", sa.Text, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
    )
    chain = op.create_table(
        "audit_chain",
        sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("incident_id", sa.Text),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("data", sa.JSON, nullable=False),
        sa.Column("hash", sa.Text, nullable=False),
    )
    op.create_index("audit_chain_by_incident", "audit_chain", ["incident_id"])
    _take_in(op.get_bind(), heads, chain)
    if op.get_bind().dialect.name == "sqlite":
        conditions = {
            "UPDATE": "",
            "DELETE": "",
            "INSERT": "WHEN EXISTS (SELECT 1 FROM audit_chain WHERE number = NEW.number) ",
        }
        for verb, condition in conditions.items():
            op.execute(
                f"CREATE TRIGGER audit_chain_refuses_{verb.lower()} BEFORE {verb} ON audit_chain "
                f"{condition}BEGIN SELECT RAISE(ABORT, 'the audit chain is append-only'); END"
            )
    else:
        op.execute(
            "CREATE FUNCTION audit_chain_refuses_change() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            "RAISE EXCEPTION 'the audit chain is append-only'; END $$"
        )
        for when, each in (("UPDATE OR DELETE", "ROW"), ("TRUNCATE", "STATEMENT")):
            op.execute(
                f"CREATE TRIGGER audit_chain_refuses_{each.lower()} BEFORE {when} ON audit_chain "
                f"FOR EACH {each} EXECUTE FUNCTION audit_chain_refuses_change()"
            )


def _take_in(connection: sa.Connection, heads: sa.Table, chain: sa.Table) -> None:
    timeline = sa.table(
        "timeline",
        *(sa.column(name) for name in ("id", "incident_id", "at", "kind", "message")),
        sa.column("data", sa.JSON),
    )
    columns = ("id", "opened_at", "service", "closed_at")
    incidents = sa.table("incidents", *(sa.column(name) for name in columns))
    found: dict[str, tuple[int, str, float]] = {}
    newest = 0
    lines = sa.select(timeline).order_by(timeline.c.incident_id, timeline.c.id)
    for row in connection.execute(lines.execution_options(yield_per=AT_ONCE)):
        entries, previous, _ = found.get(row.incident_id, (0, NOTHING, 0.0))
        found[row.incident_id] = (entries + 1, line_hash(previous, dict(row._mapping)), row.at)
        newest = max(newest, row.id)
    opened = connection.execute(sa.select(incidents).order_by(incidents.c.opened_at, incidents.c.id)).all()
    begun = opened[-1].opened_at if opened else 0.0
    links = [{"kind": "begun", "incident_id": None, "at": begun, "data": {"lines_until": newest}}]
    links += [
        {"kind": "opened", "incident_id": each.id, "at": each.opened_at, "data": {"service": each.service}}
        for each in opened
    ]
    previous = NOTHING
    for number, link in enumerate(links, 1):
        previous = link["hash"] = link_hash(previous, {**link, "number": number})
        link["number"] = number
    for each in opened:
        found.setdefault(each.id, (0, NOTHING, each.opened_at))
    tops = [{"subject": "", "entries": len(links), "hash": previous, "at": begun}]
    tops += [{"subject": name, "entries": n, "hash": h, "at": at} for name, (n, h, at) in found.items()]
    for table, rows in ((chain, links), (heads, tops)):
        for start in range(0, len(rows), AT_ONCE):
            connection.execute(sa.insert(table), rows[start : start + AT_ONCE])
