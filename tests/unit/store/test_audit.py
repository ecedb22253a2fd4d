# ruff: noqa: S608 - tampering is what these tests do
"""The chain of hashes: whatever is changed past the fabric is found, and nothing else is."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine, event, text

from self_healing_fabric.errors import StoreUnavailable
from self_healing_fabric.incidents import timeline
from self_healing_fabric.incidents.audit import Audit, head, verify
from self_healing_fabric.incidents.timeline import Entry, Kind
from self_healing_fabric.store import Store, audit_statements, look, statements

Opens = Callable[..., str]
Tamper = Callable[..., None]
DATA = [{}, {"value": 0.1, "query": 'up{a="\\u0000"}'}, {"nan": float("nan"), "list": [1, None, -0.0, 1e300]}]


@pytest.fixture
def tell(store: Store) -> Callable[..., None]:
    """Append lines to an incident's timeline."""

    def tell(incident_id: str, *messages: str, at: float = 1.5) -> None:
        entries = [
            Entry(Kind.NOTE, message, DATA[number % len(DATA)]) for number, message in enumerate(messages)
        ]
        store.write(lambda connection: timeline.append(connection, incident_id, entries, at))

    return tell


@pytest.fixture
def tamper(store: Store, url: str) -> Tamper:
    """Do as the owner of the database can: past the triggers and the foreign keys."""

    def tamper(*jobs: str) -> None:
        engine = create_engine(url)
        with engine.begin() as connection:
            if store.shared:
                connection.execute(text("SET session_replication_role = replica"))
            else:
                connection.execute(text("PRAGMA foreign_keys=OFF"))
                names = connection.execute(text("SELECT name FROM sqlite_master WHERE type = 'trigger'"))
                for name in names.scalars().all():
                    connection.execute(text(f"DROP TRIGGER {name}"))
            for job in jobs:
                connection.exec_driver_sql(job)
        engine.dispose()

    return tamper


@pytest.fixture
def audited(store: Store) -> Callable[..., Audit]:
    """Verify the store."""
    return lambda expect=None: store.read(lambda connection: verify(connection, expect))


@pytest.fixture
def three(open_incident: Opens, tell: Callable[..., None]) -> None:
    """Three incidents with three lines each, told in turns; texts and values of every kind."""
    for name in ("a", "b", "c"):
        open_incident(name, state="closed", closed_at=50.0 if name == "b" else None)
    for part in ("one", "two \x00 ☃", "three"):
        for name in ("a", "b", "c"):
            tell(name, part)


@pytest.mark.usefixtures("three")
def test_what_nobody_has_touched_is_sound(audited: Callable[..., Audit], url: str) -> None:
    """Also to another process, and twice; the head is the same."""
    found = audited()
    assert (found.findings, found.incidents, found.lines) == ((), 3, 9)
    assert look(url, verify) == found
    assert look(url, head) == found.head


LINE = "(SELECT id FROM timeline WHERE incident_id = 'b' ORDER BY id LIMIT 1 OFFSET {})"
COLUMNS = "incident_id, at, kind, message, data"


@pytest.mark.usefixtures("three")
@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize(
    "change",
    [
        "UPDATE timeline SET message = 'nothing happened' WHERE id = LINE",
        "UPDATE timeline SET at = at + 1 WHERE id = LINE",
        "UPDATE timeline SET kind = 'action' WHERE id = LINE",
        "UPDATE timeline SET data = '{\"a\":1}' WHERE id = LINE",
        "UPDATE timeline SET incident_id = 'a' WHERE id = LINE",
        "UPDATE timeline SET hash = NULL WHERE id = LINE",
        "UPDATE timeline SET hash = 'x' WHERE id = LINE",
        "UPDATE timeline SET id = 1000 - id WHERE id = LINE",
        "DELETE FROM timeline WHERE id = LINE",
        f"INSERT INTO timeline (id, {COLUMNS}) SELECT id + 1000, {COLUMNS} FROM timeline WHERE id = LINE",
        f"INSERT INTO timeline (id, {COLUMNS}, hash) SELECT id + 1000, {COLUMNS}, hash FROM timeline "
        "WHERE id = LINE",
    ],
)
def test_a_change_of_any_line_is_found(
    audited: Callable[..., Audit], tamper: Tamper, which: int, change: str
) -> None:
    """Edited, removed, inserted, moved within its timeline or to another: the incident is named."""
    line = LINE.format(which)
    if which == 2:  # the last one is moved to the front
        change = change.replace("1000 - id", "-id")
    tamper(change.replace("LINE", line))
    findings = audited().findings
    assert findings
    assert all("incident b" in each or "incident a" in each for each in findings)


@pytest.mark.usefixtures("three")
@pytest.mark.parametrize(
    ("changes", "finding"),
    [
        (("DELETE FROM timeline WHERE incident_id = 'b'",), "all 3 lines of its timeline are missing"),
        (
            ("DELETE FROM timeline WHERE incident_id = 'b'", "DELETE FROM audit_heads WHERE subject = 'b'",
             "DELETE FROM incidents WHERE id = 'b'"),
            "incident b: is missing and was not retired",
        ),
        (("DELETE FROM audit_heads WHERE subject = 'b'",), "nothing says where its timeline ends"),
        (("DELETE FROM audit_chain WHERE incident_id = 'b'",), "link 3 is missing before link 4"),
        (("DELETE FROM audit_chain WHERE incident_id = 'c'",), "ends with link 3, but its head names 4"),
        (("UPDATE audit_chain SET at = 7 WHERE incident_id = 'b'",), "link 3 (opened) or the one before"),
        (
            ("UPDATE audit_chain SET data = '{\"service\":\"db\"}' WHERE incident_id = 'c'",),
            "link 4 (opened) or the one before",
        ),
        (
            ("INSERT INTO retired VALUES ('b', 'cart', 'healed', 1, 2, 3)",
             "DELETE FROM timeline WHERE incident_id = 'b'", "DELETE FROM audit_heads WHERE subject = 'b'",
             "DELETE FROM incidents WHERE id = 'b'"),
            "incident b: is missing and was not retired",
        ),
    ],
)  # fmt: skip
def test_what_is_taken_away_with_all_that_names_it_is_found(
    audited: Callable[..., Audit], tamper: Tamper, changes: tuple[str, ...], finding: str
) -> None:
    """A timeline, an incident, a link of the chain; naming it retired by hand does not help."""
    tamper(*changes)
    assert any(finding in each for each in audited().findings), audited().findings


def test_any_single_change_of_a_random_history_is_found(
    store: Store,
    open_incident: Opens,
    tell: Callable[..., None],
    audited: Callable[..., Audit],
    tamper: Tamper,
) -> None:
    """60 histories of lines in any order, one of them changed in any way; nothing is found before."""
    draw = random.Random(7)  # noqa: S311 - no secret
    for number in range(3):
        open_incident(f"i{number}", state="closed")
    for _ in range(40):
        tell(f"i{draw.randrange(3)}", *(str(draw.random()) for _ in range(draw.randrange(1, 4))))
    assert audited().findings == ()
    rows = store.read(lambda c: c.execute(text("SELECT * FROM timeline ORDER BY id")).mappings().all())
    for _ in range(60):
        row = draw.choice(rows)
        column, value = draw.choice([("message", "'x'"), ("at", "9"), ("kind", "'state'"), ("data", "'[]'")])
        wanted = draw.choice(["edit", "remove", "swap"])
        other = draw.choice([each for each in rows if each["message"] != row["message"]])
        saved = ", ".join(f"{name} = '{row[name]}'" for name in ("message", "kind"))
        if wanted == "edit":
            tamper(f"UPDATE timeline SET {column} = {value} WHERE id = {row['id']}")
        elif wanted == "remove":
            tamper(f"UPDATE timeline SET incident_id = 'gone' WHERE id = {row['id']}")
        else:
            tamper(
                f"UPDATE timeline SET message = '{other['message']}' WHERE id = {row['id']}",
                f"UPDATE timeline SET message = '{row['message']}' WHERE id = {other['id']}",
            )
        assert audited().findings, (wanted, column, row["id"])
        tamper(
            f"UPDATE timeline SET {saved}, at = {row['at']!r}, incident_id = '{row['incident_id']}', "
            f"data = '{_json(row['data'])}' WHERE id = {row['id']}",
            f"UPDATE timeline SET message = '{other['message']}' WHERE id = {other['id']}",
        )
        assert audited().findings == (), "the history is what it was again"


def _json(data: Any) -> str:
    return (data if isinstance(data, str) else json.dumps(data, separators=(",", ":"))).replace("'", "''")


@pytest.mark.usefixtures("three")
def test_retention_leaves_a_chain_that_holds(
    store: Store, audited: Callable[..., Audit], tell: Callable[..., None], tamper: Tamper
) -> None:
    """What is deleted after its time is told by the chain, with how many lines it had; the rest is sound."""
    retired = store.write(lambda c: statements.retire_incidents(c, closed_before=60.0, now=1e6, limit=9))
    assert retired == 1
    tell("a", "goes on")
    found = audited()
    assert (found.findings, found.incidents, found.lines) == ((), 2, 7)
    link = store.read(
        lambda c: c.execute(text("SELECT * FROM audit_chain WHERE kind = 'retired'")).mappings().one()
    )
    assert link["incident_id"] == "b"
    tamper(
        "DELETE FROM audit_chain WHERE kind = 'retired'",
        "UPDATE audit_heads SET entries = 4 WHERE subject = ''",
    )
    assert "incident b: is missing and was not retired" in audited().findings


@pytest.mark.usefixtures("three")
def test_a_kept_hash_finds_a_history_that_was_written_anew(
    store: Store, audited: Callable[..., Audit], tamper: Tamper, url: str, tell: Callable[..., None]
) -> None:
    """Whoever computes every hash again leaves no trace in the store, but does not have the same hashes."""
    sealed = store.write(lambda connection: audit_statements.seal(connection, 5000.0))
    assert sealed is not None
    assert store.write(lambda connection: audit_statements.seal(connection, 5001.0)) is None, "not so soon"
    tell("a", "goes on")
    assert audited(sealed[1]).findings == ()
    assert audited("0" * 64).findings
    _rewrite(tamper, store)
    assert audited().findings == (), "the forger is consistent"
    assert any("was rewritten" in each for each in audited(sealed[1]).findings)


def _sealed_at(store: Store, now: float) -> dict[str, int] | None:
    """How many lines of each incident are sealed now; None when it is not time."""
    if store.write(lambda connection: audit_statements.seal(connection, now)) is None:
        return None
    links = audit_statements.audit_chain.select().order_by(text("number DESC"))
    newest = store.read(lambda connection: connection.execute(links).first())
    assert newest is not None
    return {subject: entries for subject, entries, _ in newest.data["heads"]}


@pytest.mark.usefixtures("three")
def test_what_comes_after_a_jump_of_the_clock_is_sealed(store: Store, tell: Callable[..., None]) -> None:
    """A seal was written while the clock was a month ahead; then it was put right, and work goes on."""
    day = 86400.0
    assert _sealed_at(store, day) == {"a": 3, "b": 3, "c": 3}
    tell("a", "ahead", at=30 * day)
    assert _sealed_at(store, 30 * day) == {"a": 4}
    tell("b", "right again", at=day + 100.0)
    assert _sealed_at(store, day + 200.0) == {"a": 4, "b": 4}
    assert _sealed_at(store, day + 201.0) is None, "not so soon"


@pytest.mark.usefixtures("three")
def test_a_line_that_came_after_a_seal_with_a_time_before_it_is_sealed(
    store: Store, tell: Callable[..., None]
) -> None:
    """Its transaction waited: the next seal covers it."""
    assert _sealed_at(store, 90_000.0) is not None
    tell("b", "late", at=89_990.0)
    assert _sealed_at(store, 94_000.0) == {"b": 4}


def _rewrite(tamper: Tamper, store: Store) -> None:
    """Change a line and compute everything that depends on it anew, with the fabric's own functions."""
    tamper("UPDATE timeline SET message = 'nothing' WHERE incident_id = 'b'")

    def forge(connection: Connection) -> None:
        lines = connection.execute(text("SELECT id FROM timeline WHERE incident_id = 'b' ORDER BY id")).all()
        rows = [dict(row._mapping) for row in statements.timeline_of(connection, "b")]
        connection.execute(text("DELETE FROM audit_heads WHERE subject = 'b'"))
        for line, row in zip(lines, audit_statements.chained(connection, rows), strict=True):
            connection.execute(
                text("UPDATE timeline SET hash = :hash WHERE id = :id"), {"hash": row["hash"], "id": line.id}
            )
        links = connection.execute(audit_statements.audit_chain.select().order_by(text("number"))).all()
        connection.execute(text("DELETE FROM audit_chain"))
        connection.execute(
            text(f"UPDATE audit_heads SET entries = 0, hash = '{'0' * 64}' WHERE subject = ''")
        )
        top = connection.execute(
            text("SELECT subject, entries, hash FROM audit_heads WHERE subject = 'b'")
        ).one()
        forged = []
        for link in links:
            data = link.data
            if link.kind == "sealed":
                data = {"heads": [list(top) if each[0] == "b" else each for each in data["heads"]]}
            forged.append({"kind": link.kind, "incident_id": link.incident_id, "at": link.at, "data": data})
        audit_statements.record(connection, forged)

    if not store.shared:
        store.write(forge)
        return
    store.write(lambda c: (c.execute(text("SET LOCAL session_replication_role = replica")), forge(c))[1])


def test_writers_at_the_same_time_keep_the_chain_whole(
    store: Store, open_incident: Opens, tell: Callable[..., None], audited: Callable[..., Audit]
) -> None:
    """Eight threads append to two incidents and open others; as replicas do on PostgreSQL."""
    for name in ("a", "b"):
        open_incident(name)
    errors: list[StoreUnavailable] = []

    def work(number: int) -> None:
        try:
            for turn in range(10):
                tell("ab"[(number + turn) % 2], f"{number} {turn}", "and more")
                if turn % 5 == 0:
                    open_incident(f"own {number} {turn}")
        except StoreUnavailable as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    found = audited()
    assert (found.findings, found.lines, found.incidents) == ((), 160, 18)


def test_lines_that_were_rolled_back_leave_no_gap(
    store: Store, open_incident: Opens, tell: Callable[..., None], audited: Callable[..., Audit]
) -> None:
    """The process remembers an end that never was: the next line follows what is stored."""
    open_incident("a")
    tell("a", "one")

    def fails(connection: Connection) -> None:
        timeline.append(connection, "a", [Entry(Kind.NOTE, "never")], 1.5)
        raise ValueError

    with pytest.raises(ValueError, match=r"^$"):
        store.write(fails)
    tell("a", "two")
    assert (audited().findings, audited().lines) == ((), 2)


def test_an_opening_that_was_rolled_back_leaves_no_gap(
    store: Store, open_incident: Opens, audited: Callable[..., Audit]
) -> None:
    """As for the lines of a timeline: the next incident follows the last one that is stored."""
    open_incident("a")

    def fails(connection: Connection) -> None:
        audit_statements.record_openings(connection, [{"id": "never", "opened_at": 1.0}])
        raise ValueError

    with pytest.raises(ValueError, match=r"^$"):
        store.write(fails)
    open_incident("b")
    assert (audited().findings, audited().incidents) == ((), 2)


def test_incidents_that_others_opened_meanwhile_leave_no_gap(
    store: Store, url: str, open_incident: Opens, audited: Callable[..., Audit]
) -> None:
    """A replica whose memory is of before: it links to what is stored."""
    if not store.shared:
        pytest.skip("SQLite has no replicas")
    open_incident("a")
    row: Any = store.read(lambda connection: statements.incident(connection, "a"))
    with closing(Store(url)) as other:
        for replica, name in ((other, "b"), (store, "c"), (other, "d")):
            values = {**row._asdict(), "id": name, "subject": name}
            replica.write(lambda c, values=values: statements.insert_incidents(c, [values]))
    assert (audited().findings, audited().incidents) == ((), 4)


def test_a_line_in_a_row_takes_no_look_at_the_one_before(
    store: Store, open_incident: Opens, tell: Callable[..., None]
) -> None:
    """The head is moved on from where this process left it, by one statement, and the line is another one."""
    open_incident("a")
    seen: list[str] = []
    engine: Any = store._backend.engine
    event.listen(engine, "before_cursor_execute", lambda *told: seen.append(told[2].split()[0]))
    tell("a", "one")
    tell("a", "two")
    assert seen == ["UPDATE", "INSERT"] * 2


def test_many_ends_are_remembered_and_not_all(
    store: Store, open_incident: Opens, tell: Callable[..., None], audited: Callable[..., Audit],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The memory is bounded; what fell out of it is read."""
    monkeypatch.setattr(audit_statements, "MOST_KNOWN", 2)
    for name in ("a", "b", "c"):
        open_incident(name)
    for _ in range(2):
        for name in ("a", "b", "c"):
            tell(name, "one", "two")
    assert len(audit_statements._KNOWN[store._backend.engine]._heads) == 2
    assert (audited().findings, audited().lines) == ((), 12)


def test_the_chain_itself_cannot_be_changed_by_accident(store: Store, open_incident: Opens) -> None:
    """The database refuses it, as for the timeline."""
    open_incident("a")
    for job in ("DELETE FROM audit_chain", "UPDATE audit_chain SET at = 0"):
        with pytest.raises(StoreUnavailable, match="the audit chain is append-only"):
            store.write(lambda c, job=job: c.execute(text(job)) and None)


def test_a_store_that_is_not_there_is_told(tmp_path: Any) -> None:
    """One sentence, and no file is made by looking."""
    with pytest.raises(StoreUnavailable, match="cannot read the store"):
        look(f"sqlite:///{tmp_path}/none.db", head)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("three")
@pytest.mark.parametrize(
    ("removed", "finding"),
    [
        ("DELETE FROM audit_heads WHERE subject = ''", "its head is missing"),
        ("DELETE FROM audit_heads", "its head is missing"),
        ("DELETE FROM audit_chain", "but its head names"),
        ("DELETE FROM audit_chain WHERE number = 1", "link 1 is missing"),
    ],
)
def test_what_was_removed_stops_nothing_and_is_still_found(
    store: Store,
    open_incident: Opens,
    tell: Callable[..., None],
    audited: Callable[..., Audit],
    tamper: Tamper,
    removed: str,
    finding: str,
) -> None:
    """Incidents open, lines are told and sealed as before; a verification tells of it before and after."""
    tamper(removed)
    assert any(finding in each for each in audited().findings)
    kept = store.read(head)
    open_incident("d", state="diagnosing")
    tell("d", "one", "two")
    tell("a", "four")
    assert store.write(lambda connection: audit_statements.seal(connection, 1e6)) is not None
    found = audited()
    assert found.incidents == 4
    assert any("audit chain" in each for each in found.findings), found.findings
    assert store.read(head).number > kept.number
