"""The store on either database: what is written comes back the same, from one snapshot, or not at all."""

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Connection, bindparam, text, update

from self_healing_fabric.errors import StoreUnavailable
from self_healing_fabric.incidents import timeline
from self_healing_fabric.incidents.timeline import Entry, Kind
from self_healing_fabric.store import Store, statements
from self_healing_fabric.store.documents import dumps
from self_healing_fabric.store.schema import controls

Opens = Callable[..., str]


def put(name: str, value: str = "1") -> Callable[[Connection], str]:
    """A job that stores a control and returns its name."""

    def job(connection: Connection) -> str:
        statements.set_control(connection, name=name, value=value, by="me", now=1.0)
        return name

    return job


def stored(store: Store, name: str) -> str | None:
    """The value of a control."""
    row = store.read(lambda connection: statements.control(connection, name))
    return None if row is None else str(row.value)


def fail(_: Connection) -> None:
    """A read with a defect."""
    raise LookupError("a defect of the caller")


def test_a_write_returns_its_value_after_the_commit(store: Store) -> None:
    """When `write` returns, another connection sees what was written."""
    assert store.write(put("a")) == "a"
    assert stored(store, "a") == "1"


def test_data_survive_reopening(url: str) -> None:
    """What was written before the close is there after the next opening."""
    store = Store(url)
    store.write(put("a"))
    store.close()
    again = Store(url)
    assert stored(again, "a") == "1"
    again.close()


def test_a_closed_store_opens_no_connection(url: str) -> None:
    """Whoever comes late hears that the store is away, and no connection is left behind."""
    store = Store(url)
    store.close()
    for late in (lambda: stored(store, "a"), lambda: store.write(put("a")), store.set_clock):
        with pytest.raises(StoreUnavailable, match="shutting down"):
            late()
    assert store._backend.engine.pool.checkedin() == 0


def test_a_callers_own_error_reaches_the_caller_and_undoes_its_write(store: Store) -> None:
    """As it is, not as an unavailable store; the store works on."""

    def half(connection: Connection) -> None:
        put("half")(connection)
        raise LookupError("a defect of the caller")

    with pytest.raises(LookupError, match="a defect of the caller"):
        store.write(half)
    with pytest.raises(LookupError, match="a defect of the caller"):
        store.read(fail)
    assert stored(store, "half") is None
    assert store.write(put("a")) == "a"


def test_a_read_sees_one_snapshot(store: Store) -> None:
    """A write that commits in the middle of a read does not show in it."""
    store.write(put("a", "old"))

    def read(connection: Connection) -> list[str]:
        before = statements.control(connection, "a")
        store.write(put("a", "new"))
        after = statements.control(connection, "a")
        assert before is not None
        assert after is not None
        return [before.value, after.value]

    assert store.read(read) == ["old", "old"]
    assert stored(store, "a") == "new"


def put_as_text(connection: Connection) -> None:
    """The same by a statement of which only the server knows what it does."""
    connection.execute(text("INSERT INTO controls VALUES ('a', '1', 1.0, 'me')"))


def put_many(connection: Connection) -> None:
    """The same by one statement with several rows of parameters."""
    one = update(controls).where(controls.c.name == bindparam("of")).values(value="2")
    connection.execute(one, [{"of": "kept"}, {"of": "a"}])


@pytest.mark.parametrize("how", ["read", "ask"])
@pytest.mark.parametrize("job", [put("a"), put_as_text, put_many])
def test_what_reads_cannot_write(store: Store, how: str, job: Callable[[Connection], Any]) -> None:
    """A slip of ours is an error and not a row without a lock, nor one past the only writer."""
    store.write(put("kept"))
    with pytest.raises(StoreUnavailable, match="read"):
        getattr(store, how)(job)
    assert stored(store, "a") is None
    assert stored(store, "kept") == "1"
    assert store.write(put("a")) == "a"


def test_a_mistake_in_a_statement_is_unavailable(store: Store) -> None:
    """Whatever the database says reaches the caller as one kind of error, in writes and reads."""
    for run in (store.write, store.read):
        with pytest.raises(StoreUnavailable, match="nothing"):
            run(lambda connection: connection.execute(text("SELECT * FROM nothing")).all())
    assert store.write(put("a")) == "a"


def test_the_clock_is_near_ours(store: Store) -> None:
    """Seconds since 1970, and it never stands still."""
    store.set_clock()
    first = store.clock()
    assert 1_700_000_000 < first < 10_000_000_000
    assert store.clock() >= first


NUL = "a\x00b"


def test_the_character_nul_is_stored_as_a_replacement(store: Store, open_incident: Opens) -> None:
    """PostgreSQL has no NUL in text, and a label may hold one: the alert is stored and found all the same."""
    open_incident("i1", title=NUL, subject=NUL)
    alert = {
        "fingerprint": NUL,
        "starts_at": "s",
        "status": "firing",
        "labels": {NUL: NUL},
        "annotations": {"summary": NUL},
        "received_at": 1.0,
        "ended_at": None,
    }
    for _ in range(2):
        store.write(lambda connection: statements.upsert_alerts(connection, [alert]))
    store.write(lambda c: timeline.append(c, "i1", [Entry(Kind.NOTE, NUL, {NUL: NUL})], 1.0))
    store.write(lambda c: statements.put_in_inbox(c, [(b"{}", 1.0)]))
    store.write(lambda c: statements.put_back_in_inbox(c, *statements.take_from_inbox(c, 1), NUL))
    assert store.read(lambda c: c.exec_driver_sql("SELECT error FROM inbox").scalar()) == "a\ufffdb"
    row = store.read(lambda connection: statements.incident(connection, "i1"))
    assert row is not None
    assert (row.title, row.subject) == ("a\ufffdb", "a\ufffdb")
    (found,) = store.read(lambda connection: statements.open_incidents_of(connection, [NUL]))
    assert found.id == "i1"
    (known,) = store.read(lambda connection: statements.unassigned_alerts(connection, 10))
    assert (known.labels, known.annotations) == ({NUL: NUL}, {"summary": NUL})
    (entry,) = store.read(lambda connection: statements.timeline_of(connection, "i1"))
    assert (entry.message, entry.data) == ("a\ufffdb", {NUL: NUL})


def test_what_no_number_can_say_is_stored_as_prometheus_says_it(store: Store, open_incident: Opens) -> None:
    """A measured value may be NaN or infinite, which JSON cannot say: evidence is stored all the same."""
    data = {"value": math.nan, "limits": [math.inf, -math.inf, 0.5], "more": {"deep": (math.nan,)}, "n": 1}
    open_incident("i1", verification=data, diagnosis=data)
    store.write(lambda c: timeline.append(c, "i1", [Entry(Kind.EVIDENCE, "m", data)], 1.0))
    expected = {"value": "NaN", "limits": ["+Inf", "-Inf", 0.5], "more": {"deep": ["NaN"]}, "n": 1}
    row = store.read(lambda connection: statements.incident(connection, "i1"))
    (entry,) = store.read(lambda connection: statements.timeline_of(connection, "i1"))
    assert row is not None
    assert [row.verification, row.diagnosis, entry.data] == [expected] * 3
    assert math.isnan(float(entry.data["value"]))  # and it can be read as a number again


TEXTS = [
    "",
    " ",
    "ü€\U0001f600",
    "line\nbreak\ttab\r",
    "'; DROP TABLE incidents; --",
    "%s %(x)s :x ?",
    "\\",
    "\u2028\x7f\x01",
]


@pytest.mark.parametrize("value", TEXTS)
def test_any_text_comes_back_as_it_was(store: Store, open_incident: Opens, value: str) -> None:
    """In columns and in documents: labels are a stranger's text."""
    open_incident("i1", title=value, signal=value, plan=[value], diagnosis={value: value})
    row = store.read(lambda connection: statements.incident(connection, "i1"))
    assert row is not None
    assert (row.title, row.signal, row.plan, row.diagnosis) == (value, value, [value], {value: value})


def test_large_values_are_stored(store: Store, open_incident: Opens) -> None:
    """A megabyte in a label, ten in a notification, and times to the microsecond."""
    open_incident("i1", title="x" * 1_000_000, opened_at=1_800_000_000.123456)
    store.write(lambda connection: statements.put_in_inbox(connection, [(b"y" * 10_000_000, 1.0)]))
    row = store.read(lambda connection: statements.incident(connection, "i1"))
    assert row is not None
    assert (len(row.title), row.opened_at) == (1_000_000, 1_800_000_000.123456)
    (note,) = store.write(lambda connection: statements.take_from_inbox(connection, 1))
    assert len(note.body) == 10_000_000


@pytest.mark.parametrize("value", [{}, [], {"a": [1, 2.5, None, True, "x"]}, "text", 0])
def test_a_document_without_such_values_is_plain_json(value: Any) -> None:
    """And a short one."""
    assert json.loads(dumps(value)) == value
    assert " " not in dumps(value)


def test_a_document_that_cannot_be_one_is_a_defect() -> None:
    """It is told and not stored as something else."""
    with pytest.raises(TypeError):
        dumps({"a": object()})
