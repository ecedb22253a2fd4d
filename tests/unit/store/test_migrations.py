"""The schema's history: what people have is brought to the present whole, once, or not at all."""

import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, inspect, text
from sqlalchemy.schema import CreateTable

from self_healing_fabric.errors import StoreUnavailable
from self_healing_fabric.incidents.audit import verify
from self_healing_fabric.store import Store, migrations, schema, statements
from self_healing_fabric.store import look as audit
from self_healing_fabric.store import postgresql as backend

FIRST_RELEASE = Path(__file__).parents[2] / "data" / "store-0.1.0.sql"
NewUrl = Callable[..., str]


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database without any table."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'shf.db'}"
    return str(request.getfixturevalue("new_postgresql_url")(empty=True))


@pytest.fixture
def look(empty_url: str) -> Iterator[Callable[[Callable[[Connection], Any]], Any]]:
    """Look into the database past the store."""
    engine = create_engine(empty_url)

    def look(question: Callable[[Connection], Any]) -> Any:
        with engine.connect() as connection:
            return question(connection)

    yield look
    engine.dispose()


def tables(connection: Connection) -> dict[str, Any]:
    """Everything that a table consists of, as the database itself says it; the order of columns is free."""
    inspector = inspect(connection)
    found: dict[str, Any] = {}
    for table in sorted(set(inspector.get_table_names()) - {"alembic_version"}):
        columns = {
            column["name"]: (str(column["type"]), column["nullable"], column["default"])
            for column in inspector.get_columns(table)
        }
        uniques = {tuple(each["column_names"]) for each in inspector.get_unique_constraints(table)}
        keys = {
            (*each["constrained_columns"], each["referred_table"], *each["referred_columns"])
            for each in inspector.get_foreign_keys(table)
        }
        primary = inspector.get_pk_constraint(table)["constrained_columns"]
        found[table] = {"columns": columns, "primary": primary, "uniques": uniques, "references": keys}
    return found


def indexes(connection: Connection) -> dict[str, str]:
    """Each index as the statement that makes it, with its condition."""
    query = (
        "SELECT indexname, indexdef FROM pg_indexes "
        "WHERE tablename <> 'alembic_version' AND schemaname = 'public'"
        if connection.dialect.name == "postgresql"
        else "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
    )
    return {name: re.sub(r"\s+", " ", sql) for name, sql in connection.execute(text(query))}


def rows(connection: Connection) -> dict[str, list[dict[str, Any]]]:
    """All rows of all tables."""
    inspector = inspect(connection)
    return {
        table: [dict(row) for row in connection.execute(text(f'SELECT * FROM "{table}"')).mappings()]  # noqa: S608
        for table in sorted(inspector.get_table_names())
    }


def version(connection: Connection) -> Any:
    """What the store says of its own version."""
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalars().all()


def described(empty_url: str, tmp_path: Path, new_postgresql_url: NewUrl | None) -> Engine:
    """A second database, made from the metadata alone."""
    url = f"sqlite:///{tmp_path / 'described.db'}"
    engine = create_engine(url if new_postgresql_url is None else new_postgresql_url(empty=True))
    schema.metadata.create_all(engine)
    return engine


def test_migrations_make_what_the_metadata_describe(
    request: pytest.FixtureRequest, empty_url: str, look: Any, tmp_path: Path
) -> None:
    """Columns, types, defaults, keys and indexes with their conditions are the same on either way."""
    Store(empty_url).close()
    new = None if empty_url.startswith("sqlite") else request.getfixturevalue("new_postgresql_url")
    engine = described(empty_url, tmp_path, new)
    with engine.connect() as connection:
        expected = tables(connection), indexes(connection)
    engine.dispose()
    assert (look(tables), look(indexes)) == expected
    described_indexes = [index for table in schema.metadata.tables.values() for index in table.indexes]
    assert len(expected[1]) >= len(described_indexes) > 0


def test_alembic_finds_no_difference(empty_url: str, look: Any) -> None:
    """What `alembic revision --autogenerate` would write is nothing."""
    Store(empty_url).close()
    options = {"compare_type": True, "compare_server_default": True}

    def difference(connection: Connection) -> Any:
        context = MigrationContext.configure(connection, opts=options)
        return compare_metadata(context, schema.metadata)

    assert look(difference) == []


def scripts() -> ScriptDirectory:
    """The migrations as Alembic finds them."""
    config = Config()
    config.set_main_option("script_location", "self_healing_fabric.store:migrations")
    return ScriptDirectory.from_config(config)


def test_the_version_is_the_newest_migration(empty_url: str, look: Any) -> None:
    """A migration that nobody runs, or two that both claim to be the newest, are found here."""
    assert scripts().get_heads() == [schema.VERSION]
    Store(empty_url).close()
    assert look(version) == [schema.VERSION]


def test_versions_are_in_the_order_of_their_names() -> None:
    """`newer` is decided by comparing the names as text."""
    revisions = [script.revision for script in scripts().walk_revisions()]
    assert revisions == sorted(revisions, reverse=True)
    assert {len(revision) for revision in revisions} == {4}
    assert revisions[-1] == migrations.FIRST


def test_a_second_start_changes_nothing(empty_url: str, look: Any) -> None:
    """Schema, rows and version are as after the first."""
    Store(empty_url).close()
    before = look(tables), look(indexes), look(rows)
    Store(empty_url).close()
    assert (look(tables), look(indexes), look(rows)) == before


@pytest.fixture
def first_release(tmp_path: Path) -> Path:
    """The file of a fabric of version 0.1.0, as it left it."""
    path = tmp_path / "shf.db"
    with closing(sqlite3.connect(path)) as shell:
        shell.executescript(FIRST_RELEASE.read_text(encoding="utf-8"))
        shell.execute("PRAGMA journal_mode=WAL")
    return path


def content(path: Path) -> dict[str, list[dict[str, Any]]]:
    """All rows of a SQLite file."""
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        found = rows(connection)
    engine.dispose()
    return found


def test_the_first_release_is_what_it_says() -> None:
    """The next tests would pass with an empty file."""
    dump = FIRST_RELEASE.read_text(encoding="utf-8")
    assert "alembic_version" not in dump
    counted = [dump.count(f'INSERT INTO "{table}"') for table in ("incidents", "alerts", "timeline")]
    assert counted == [5, 7, 36]


def test_a_store_of_the_first_release_keeps_every_row(first_release: Path) -> None:
    """Every row of every table is there with every value; what is new is empty."""
    before = content(first_release)
    Store(f"sqlite:///{first_release}").close()
    after = content(first_release)
    for table, old in before.items():
        kept = [{name: row[name] for name in old[0]} for row in after[table]]
        assert kept == old, table
    new = set(after) - set(before) - {"alembic_version"}
    chained = {"audit_chain", "audit_heads"}
    assert new == {"inbox", "leases", "retired", "diagnosis_verdicts", "calls", *chained}
    assert all(after[table] == [] for table in new - chained)
    assert {row["merged_into"] or row["split_from"] for row in after["incidents"]} == {None}
    assert {row["suppressed"] for row in after["alerts"]} == {0}


def test_alerts_of_the_first_release_learn_their_service(first_release: Path) -> None:
    """That of their incident where it is a configured one; a stranger's label does not become a service."""
    Store(f"sqlite:///{first_release}").close()
    assert {row["fingerprint"]: row["service"] for row in content(first_release)["alerts"]} == {
        "heartbeat-cart": "cart",
        "errors-db": None,  # the last one: not taken in yet
        "weird-nobody": None,
        "x-None": None,
        "gone": None,
    }
    services = [(row["id"], row["service"]) for row in content(first_release)["alerts"]]
    assert services == [(1, "cart"), (2, None), (3, None), (4, "db"), (5, None), (6, "cart"), (7, None)]


def test_what_an_open_incident_has_done_learns_its_service(old: str) -> None:
    """On both databases, before the incident can move to another one; none is made up for a closed one."""
    engine = create_engine(old)
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO incidents (id, subject, service, known_service, title, severity, state, level, "
                "opened_at, updated_at, closed_at, epoch, relapses, faults, plan) "
                "VALUES ('i2', 's', 'db', true, 't', 'critical', 'closed', 0, 1, 1, 1, 0, 0, 0, '[]')"
            )
        )
        connection.execute(
            text(
                "INSERT INTO actions (id, incident_id, strategy, platform, target, disruptive, attempt, "
                "status, before, intended_at) SELECT id || '-scale', id, 'scale', 'http', 't', true, 1, "
                "'succeeded', '{}', 1 FROM incidents"
            )
        )
    Store(old).close()
    with engine.connect() as connection:
        found = connection.execute(text("SELECT id, service FROM actions ORDER BY id")).all()
    engine.dispose()
    assert found == [("i1-scale", "cart"), ("i2-scale", None)]


def test_a_migrated_store_has_the_schema_of_a_new_one(first_release: Path, tmp_path: Path) -> None:
    """Tables, indexes and triggers: who comes from 0.1.0 lacks nothing."""

    def shape(path: Path) -> Any:
        with closing(sqlite3.connect(path)) as shell:
            triggers = shell.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger' ORDER BY 1")
            listed = triggers.fetchall()
        engine = create_engine(f"sqlite:///{path}")
        with engine.connect() as connection:
            found = tables(connection), indexes(connection), listed
        engine.dispose()
        return found

    for path in (first_release, tmp_path / "new.db"):
        Store(f"sqlite:///{path}").close()
    assert shape(first_release) == shape(tmp_path / "new.db")


def test_a_migrated_store_works_on(first_release: Path) -> None:
    """Its open incidents are claimed, its timeline is closed to changes, its alerts are known."""
    store = Store(f"sqlite:///{first_release}")
    store.write(statements.release_all_leases)
    claimed = store.write(
        lambda c: statements.claim_due(c, owner="w", now=1_900_000_000.0, lease=6.0, limit=10)
    )
    assert sorted(row.service or "" for row in claimed) == ["", "cart", "nobody"]
    (cart,) = (row for row in claimed if row.service == "cart")
    action = store.read(lambda c: statements.unfinished_action_of(c, cart.id))
    assert action is not None
    assert (action.status, action.before) == ("started", {"started_at": 1, "process_start": None})
    (waiting,) = store.read(lambda c: statements.unassigned_alerts(c, 10))
    assert waiting.labels["service"] == "db"
    for statement in ("DELETE FROM timeline", "UPDATE timeline SET message = ''"):
        with pytest.raises(StoreUnavailable, match="append-only"):
            store.write(lambda c, statement=statement: c.execute(text(statement)) and None)
    store.write(lambda c: statements.retire_incidents(c, closed_before=1.9e9, now=1.9e9, limit=10))
    store.close()
    left = content(first_release)
    assert len(left["retired"]) == 2
    assert len(left["incidents"]) == 3


@pytest.fixture
def old(empty_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A store of the first version with an incident and its timeline, on either database."""
    monkeypatch.setattr(migrations, "VERSION", migrations.FIRST)
    store = Store(empty_url)

    def fill(connection: Connection) -> None:
        connection.execute(
            text(
                "INSERT INTO incidents (id, subject, service, known_service, title, severity, state, level, "
                "opened_at, updated_at, epoch, relapses, faults, plan) "
                "VALUES ('i1', 's', 'cart', true, 't', 'critical', 'detected', 0, 1, 1, 0, 0, 0, '[]')"
            )
        )
        connection.execute(
            text(
                "INSERT INTO timeline (incident_id, at, kind, message, data) "
                "VALUES ('i1', 1, 'note', 'm', '{\"value\": 1.50}'), ('i1', 2, 'note', 'n', '{}')"
            )
        )
        connection.execute(
            text(
                "INSERT INTO alerts "
                "(fingerprint, starts_at, status, labels, annotations, received_at, incident_id) "
                "VALUES ('f', 's', 'firing', '{}', '{}', 1, 'i1')"
            )
        )

    store.write(fill)
    store.close()
    monkeypatch.undo()
    return empty_url


def test_a_store_of_the_version_before_is_migrated(old: str, look: Any) -> None:
    """On both databases the alert learns its service and the version is the newest."""
    assert look(version) == [migrations.FIRST]
    Store(old).close()
    assert look(version) == [schema.VERSION]
    alerts = look(lambda c: c.execute(text("SELECT service, suppressed FROM alerts")).all())
    assert alerts == [("cart", False)]
    assert len(look(rows)["timeline"]) == 2


@pytest.mark.parametrize(
    "change", ["UPDATE timeline SET message = 'x' WHERE message = 'n'", "DELETE FROM timeline"]
)
def test_lines_from_before_the_chain_are_protected_by_it(old: str, change: str) -> None:
    """They are sound as they were found, also when the timeline goes on; a change of one is found."""
    store = Store(old)
    line = {"incident_id": "i1", "at": 3.0, "kind": "note", "message": "new", "data": {}}
    store.write(lambda connection: statements.append_timeline(connection, [line]))
    store.close()
    found = audit(old, verify)
    assert (found.findings, found.lines, found.incidents) == ((), 3, 1)
    engine = create_engine(old)
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SET session_replication_role = replica"))
        else:
            for verb in ("update", "delete"):
                connection.execute(text(f"DROP TRIGGER timeline_refuses_{verb}"))
        connection.execute(text(change))
    engine.dispose()
    assert audit(old, verify).findings


def test_a_migration_that_fails_half_way_changes_nothing(old: str, look: Any) -> None:
    """What it did before the failure is undone; without the obstacle the next start migrates."""
    last = "audit_chain"  # the last table that is made

    def obstacle(connection: Connection) -> None:
        connection.execute(CreateTable(schema.metadata.tables[last]))
        connection.commit()

    look(obstacle)
    before = look(tables), look(indexes), look(rows)
    with pytest.raises(StoreUnavailable, match=rf"{last}.*already exists"):
        Store(old)
    assert (look(tables), look(indexes), look(rows)) == before
    look(lambda connection: (connection.execute(text(f"DROP TABLE {last}")), connection.commit()))
    Store(old).close()
    assert look(version) == [schema.VERSION]


def test_a_defect_in_a_migration_changes_nothing(
    old: str, look: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also an error that is not the database's; the file is free for the next try at once."""
    before = look(tables), look(indexes), look(rows)

    def fail(*_: Any) -> None:
        raise LookupError("a defect")

    upgrade = command.upgrade
    monkeypatch.setattr(command, "upgrade", lambda *args: (upgrade(*args), fail()))
    with pytest.raises(LookupError, match="a defect"):
        Store(old)
    assert (look(tables), look(indexes), look(rows)) == before
    monkeypatch.undo()
    Store(old).close()


def test_a_newer_store_is_refused_and_left_alone(empty_url: str, look: Any) -> None:
    """The message says what to do; nothing is changed, and the right program can open it at once."""
    Store(empty_url).close()
    newer = f"{int(schema.VERSION) + 1:04}"

    def set_version(connection: Connection, number: str) -> None:
        connection.execute(text("UPDATE alembic_version SET version_num = :number"), {"number": number})
        connection.commit()

    look(lambda connection: set_version(connection, newer))
    before = look(tables), look(indexes), look(rows)
    expected = f"has version {newer} and this program knows none after {schema.VERSION}: use a newer program"
    with pytest.raises(StoreUnavailable, match=expected):
        Store(empty_url)
    assert (look(tables), look(indexes), look(rows)) == before
    look(lambda connection: set_version(connection, schema.VERSION))
    Store(empty_url).close()


def test_replicas_that_start_together_all_come_up(
    new_postgresql_url: NewUrl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One makes the tables, and the others wait for it, longer than they wait for anything else."""
    monkeypatch.setattr(backend, "POOL_TIMEOUT", 0.3)
    monkeypatch.setattr(backend, "IDLE_TIMEOUT", 0.3)
    url = new_postgresql_url(empty=True)
    upgrade, begun = command.upgrade, []

    def slowly(*args: Any) -> None:
        begun.append(args)
        time.sleep(1.0)
        upgrade(*args)

    monkeypatch.setattr(command, "upgrade", slowly)
    outcomes: list[BaseException | None] = []

    def start() -> None:
        try:
            Store(url).close()
        except Exception as error:  # noqa: BLE001 - the outcome is what the test looks at
            outcomes.append(error)
        else:
            outcomes.append(None)

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == [None] * 4
    assert len(begun) == 1


def test_a_migration_that_a_working_replica_gets_in_the_way_of_begins_anew(
    new_postgresql_url: NewUrl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They want two tables, each one that the other has: the server ends the migration, which begins anew."""
    url, begun = new_postgresql_url(), []

    def migrate(connection: Connection) -> None:
        begun.append(connection)
        for table in ("incidents", "alerts"):
            connection.execute(text(f"LOCK TABLE {table} IN SHARE MODE"))

    monkeypatch.setattr(backend, "migrate", migrate)
    engine = create_engine(url)
    waiting = "SELECT count(*) FROM pg_locks WHERE relation = 'alerts'::regclass AND NOT granted"
    with ThreadPoolExecutor(1) as pool, engine.connect() as other:
        other.execute(text("SET deadlock_timeout = '60s'"))  # who looks first is ended: not this one
        other.execute(text("LOCK TABLE alerts IN ROW EXCLUSIVE MODE"))
        opening = pool.submit(Store, url)
        while not other.execute(text(waiting)).scalar_one():
            assert not opening.done()
        other.execute(text("LOCK TABLE incidents IN ROW EXCLUSIVE MODE"))
        other.commit()
        opening.result().close()
    engine.dispose()
    assert len(begun) == 2
