"""PostgreSQL: how it is opened, whose time it is, and what happens when writers get in each other's way."""

import math
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection, bindparam, insert, literal, make_url, select, text, update

from deadline import within_deadline
from postgresql_server import PostgresqlServer
from self_healing_fabric.errors import StoreUnavailable
from self_healing_fabric.store import Store, examine, postgresql, statements
from self_healing_fabric.store.schema import controls
from shf_demo.ports import reserved_ports

SECRET = "no-one-may-read-this"


@pytest.fixture
def url(postgresql_url: str) -> str:
    """A PostgreSQL database with the schema."""
    return postgresql_url


@pytest.fixture
def shell(url: str) -> Iterator["psycopg.Connection[tuple[Any, ...]]"]:
    """Somebody else's connection to the same database; it commits by itself."""
    location = make_url(url).set(drivername="postgresql").render_as_string()
    with closing(psycopg.connect(location, autocommit=True)) as connection:
        yield connection


def put(name: str, value: str = "1") -> Callable[[Connection], str]:
    """A job that stores a control and returns its name."""

    def job(connection: Connection) -> str:
        statements.set_control(connection, name=name, value=value, by="test", now=1.0)
        return name

    return job


def stored(store: Store, name: str) -> str | None:
    """The value of a control."""
    row = store.read(lambda connection: statements.control(connection, name))
    return None if row is None else str(row.value)


def ask(store: Store, query: str) -> Any:
    """The only value of the answer, in a read."""
    return store.read(lambda connection: connection.execute(text(query)).scalar())


def the_databases(store: Store) -> float:
    """Its clock, in seconds since 1970."""
    return float(ask(store, "SELECT extract(epoch FROM clock_timestamp())"))


def execute(statement: str) -> Callable[[Connection], None]:
    """A job that does only this."""
    return lambda connection: connection.execute(text(statement)) and None


# Opening.


@pytest.fixture
def login(postgresql: PostgresqlServer, url: str) -> Iterator[str]:
    """The URL of the database for an account that needs a password, which is not in the URL."""
    rules = postgresql.log.parent / "data" / "pg_hba.conf"
    before = rules.read_text()
    rules.write_text(f"host all locked 127.0.0.1/32 scram-sha-256\n{before}")
    location = make_url(url).set(drivername="postgresql").render_as_string()
    with closing(psycopg.connect(location, autocommit=True)) as connection:
        connection.execute(f"CREATE ROLE locked SUPERUSER LOGIN PASSWORD '{SECRET}'")
        connection.execute("SELECT pg_reload_conf()")
        yield str(make_url(url).set(username="locked").render_as_string(hide_password=False))
        rules.write_text(before)
        connection.execute("SELECT pg_reload_conf()")
        connection.execute("DROP ROLE locked")


def test_the_password_can_stand_in_a_file(login: str, tmp_path: Path) -> None:
    """With the line break that editors leave; it goes before one in the URL."""
    path = tmp_path / "password"
    path.write_text(f"{SECRET}\n")
    with_another = make_url(login).set(password="wrong").render_as_string(hide_password=False)
    for each in (login, with_another):
        store = Store(each, path)
        assert ask(store, "SELECT current_user") == "locked"
        store.close()


@pytest.mark.parametrize("where", ["in the URL", "as a parameter", "in a file"])
def test_a_wrong_password_is_told_and_not_repeated(login: str, tmp_path: Path, where: str) -> None:
    """The text says what is wrong and where, without the password."""
    wrong, path = f"not-{SECRET}", None
    location = make_url(login)
    if where == "in the URL":
        location = location.set(password=wrong)
    elif where == "as a parameter":
        location = location.update_query_dict({"password": wrong})
    else:
        path = tmp_path / "password"
        path.write_text(wrong)
    with pytest.raises(StoreUnavailable, match='password authentication failed for user "locked"') as info:
        Store(location.render_as_string(hide_password=False), path)
    assert SECRET not in str(info.value)


def test_a_password_file_that_cannot_be_read_is_named(url: str, tmp_path: Path) -> None:
    """A mount that is missing is told as such."""
    with pytest.raises(StoreUnavailable, match=r"password cannot be read: No such file"):
        Store(url, tmp_path / "password")


@pytest.mark.parametrize(
    ("content", "mistake"),
    [
        (b"s\xe9same", "cannot be read: not UTF-8"),
        (b"\n", "is empty: write the secret into it"),
        (b"user\nsesame", "holds more than one line"),
    ],
)
def test_a_password_file_that_holds_no_password_is_named(
    url: str, tmp_path: Path, content: bytes, mistake: str
) -> None:
    """Told without what it holds, also at a look before the start."""
    path = tmp_path / "password"
    path.write_bytes(content)
    for attempt in (lambda: Store(url, path), lambda: examine(url, path)):
        with pytest.raises(StoreUnavailable, match=f"password {mistake}") as info:
            attempt()
        assert "same" not in str(info.value)


def test_a_password_that_is_rotated_needs_no_restart(login: str, tmp_path: Path, shell: Any) -> None:
    """New connections take the new one; while the file still holds the old one, the store is away."""
    path = tmp_path / "password"
    path.write_text(SECRET)
    store = Store(login, path)
    shell.execute("ALTER ROLE locked PASSWORD 'rotated'")
    end_connections(shell)
    with pytest.raises(StoreUnavailable, match="password authentication failed"):
        store.write(put("a"))
    path.write_text("rotated")
    assert store.write(put("a")) == "a"
    path.unlink()
    end_connections(shell)
    with pytest.raises(StoreUnavailable, match="cannot be read"):
        store.write(put("b"))
    store.close()


def end_connections(shell: Any) -> None:
    """End those of all stores, as an administrator does who rotates a password."""
    shell.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE application_name = 'self-healing-fabric'"
    )


def test_a_database_that_only_reads_is_found_by_a_look(postgresql: PostgresqlServer) -> None:
    """As a standby does, or one that its owner has closed: every notification is refused."""
    url = postgresql.create_database("read_only")
    Store(url).close()
    location = make_url(url).set(drivername="postgresql").render_as_string()
    with closing(psycopg.connect(location, autocommit=True)) as connection:
        connection.execute("ALTER DATABASE read_only SET default_transaction_read_only = on")
    with pytest.raises(StoreUnavailable, match=r"only reads.*target_session_attrs=read-write"):
        examine(url)


def test_a_missing_database_is_named(url: str) -> None:
    """Nothing is created silently in the wrong place."""
    missing = make_url(url).set(database="nowhere", password=SECRET).render_as_string(hide_password=False)
    with pytest.raises(StoreUnavailable, match='"nowhere" does not exist') as info:
        Store(missing)
    assert SECRET not in str(info.value)


def test_no_server_is_told_at_once(url: str) -> None:
    """Refused is not waited for; the text names address and port."""
    with reserved_ports(1) as (port,):
        nobody = make_url(url).set(port=port, password=SECRET).render_as_string(hide_password=False)
        with pytest.raises(
            StoreUnavailable, match=rf"cannot be opened: .*{port}.*[Cc]onnection refused"
        ) as info:
            within_deadline(lambda: Store(nobody))
    assert SECRET not in str(info.value)


def test_a_failed_opening_leaves_nothing_behind(url: str) -> None:
    """Neither a thread nor a connection: whoever starts us may try for hours."""
    before = threading.active_count()
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            Store(make_url(url).set(database="nowhere").render_as_string())
    assert threading.active_count() == before


def test_without_the_driver_the_extra_is_named(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who did not install it reads how to."""
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(StoreUnavailable, match=r"pip install 'self-healing-fabric\[postgresql\]'"):
        Store(url)


def test_every_connection_has_its_deadlines(store: Store) -> None:
    """The server ends a long statement, a long wait for a lock, and the transaction of a frozen replica."""
    for run in (store.read, store.write):
        found = {
            name: run(lambda c, name=name: c.execute(text(f"SHOW {name}")).scalar())
            for name in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
        }
        assert found == {
            "statement_timeout": "8s",
            "lock_timeout": "5s",
            "idle_in_transaction_session_timeout": "4s",
        }


def test_options_of_the_url_stand_beside_the_deadlines(url: str) -> None:
    """A search path of one's own does not switch the deadlines off, and a deadline of one's own counts."""
    options = "-c search_path=public,extra -c lock_timeout=1234"
    store = Store(make_url(url).update_query_dict({"options": options}).render_as_string())
    found = [ask(store, f"SHOW {name}") for name in ("search_path", "lock_timeout", "statement_timeout")]
    store.close()
    assert found == ["public,extra", "1234ms", "8s"]


def test_a_closed_store_has_no_connection(url: str, shell: Any) -> None:
    """Others may need them."""
    store = Store(url)
    query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'self-healing-fabric'"
    assert ask(store, f"{query} AND datname = current_database()") >= 1
    store.close()
    end = time.monotonic() + 5
    while shell.execute(f"{query} AND datname = current_database()").fetchone() != (0,):
        assert time.monotonic() < end
        time.sleep(0.01)


# Time.


def test_the_clock_is_the_databases(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose own clock is an hour off agrees with the others."""
    monkeypatch.setattr(time, "time", lambda: 0.0)
    store.set_clock()
    before, theirs, after = store.clock(), the_databases(store), store.clock()
    assert before - 0.5 < theirs < after + 0.5
    assert store.shared


def test_between_comparisons_the_clock_goes_on_steadily(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It counts what passes on a clock that nobody sets; the next comparison corrects it."""
    steady = [1000.0]
    monkeypatch.setattr(postgresql, "_steady", lambda: steady[0])
    store.set_clock()
    now = store.clock()
    steady[0] += 60.0
    assert store.clock() == pytest.approx(now + 60.0)
    store.set_clock()
    assert store.clock() == pytest.approx(now, abs=5.0)


def test_a_clock_that_is_set_forward_is_noticed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """And for how long; set back, or read a little off, is not set forward."""

    def set_to(seconds: float) -> None:
        told = text("SELECT extract(epoch FROM clock_timestamp())::float8 + :seconds")
        monkeypatch.setattr(postgresql, "_CLOCK", told.bindparams(seconds=seconds))
        store.set_clock()

    for seconds in (0.0, 1.0, -3600.0):
        set_to(seconds)
        assert store.since_set_forward() == math.inf
    set_to(0.0)  # an hour forward again
    assert store.since_set_forward() < 5.0
    set_to(0.0)
    steady = postgresql._steady
    monkeypatch.setattr(postgresql, "_steady", lambda: steady() + 60.0)
    assert store.since_set_forward() == pytest.approx(60.0, abs=5.0)


def test_a_freeze_during_a_comparison_does_not_bend_the_clock(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process stood still for a minute while the answer came: that answer is not used."""
    passed = [0.0]
    looks: list[float] = []

    def steady() -> float:
        looks.append(passed[0])
        if len(looks) == 1:  # after the look before the question
            passed[0] += 60.0
            return 1000.0
        return 1000.0 + passed[0]

    monkeypatch.setattr(postgresql, "_steady", steady)
    store.set_clock()
    before, theirs, after = store.clock(), the_databases(store), store.clock()
    assert before - 1.0 < theirs < after + 1.0


def test_a_server_that_is_slow_to_tell_the_time_does_not_set_the_clock(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old clock goes on, and the caller hears it."""
    store.set_clock()
    steady = [postgresql._steady()]
    monkeypatch.setattr(postgresql, "_steady", lambda: steady.append(steady[-1] + 1.1) or steady[-1])
    before = store._backend._anchor
    with pytest.raises(StoreUnavailable, match=r"takes 1\.1 s to tell the time"):
        store.set_clock()
    assert store._backend._anchor == before


# Writers that get in each other's way.


def test_a_deadlock_is_not_told_to_anybody(url: str, store: Store) -> None:
    """Two replicas that lock the same rows crosswise both get their write done; the loser ran again."""
    for name in ("a", "b"):
        store.write(put(name))
    other = Store(url)
    both = threading.Barrier(2)
    runs: list[str] = []

    def crosswise(first: str, second: str) -> Callable[[Connection], None]:
        query = "UPDATE controls SET value = value || :mine WHERE name = :name"

        def job(connection: Connection) -> None:
            runs.append(first)
            connection.execute(text(query), {"mine": first, "name": first})
            if len(runs) <= 2:
                both.wait(5)
            connection.execute(text(query), {"mine": first, "name": second})

        return job

    with ThreadPoolExecutor(2) as pool:
        futures = [
            pool.submit(store.write, crosswise("a", "b")),
            pool.submit(other.write, crosswise("b", "a")),
        ]
        for future in futures:
            future.result(30)
    other.close()
    assert len(runs) == 3
    assert {"".join(sorted(str(stored(store, name)))) for name in "ab"} == {"1ab"}


def test_a_serialization_failure_is_not_told_either(store: Store, shell: Any) -> None:
    """Somebody else changed the row in between: the write runs again on what is there now."""
    store.write(put("a"))
    runs: list[str] = []

    def job(connection: Connection) -> None:
        connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
        row = statements.control(connection, "a")
        assert row is not None
        runs.append(row.value)
        if len(runs) == 1:
            shell.execute("UPDATE controls SET value = '2' WHERE name = 'a'")
        connection.execute(text("UPDATE controls SET value = value || '!' WHERE name = 'a'"))

    store.write(job)
    assert runs == ["1", "2"]
    assert stored(store, "a") == "2!"


@pytest.mark.parametrize(
    ("state", "runs"), [("40P01", postgresql.MAX_TRIES), ("40001", postgresql.MAX_TRIES), ("53100", 1)]
)
def test_it_is_tried_a_bounded_number_of_times(store: Store, state: str, runs: int) -> None:
    """Only what was in the way is tried again; a full disk is told at once."""
    seen: list[str | None] = []

    def job(connection: Connection) -> None:
        put(f"n{len(seen)}")(connection)
        seen.append(state)
        connection.execute(text(f"DO $$ BEGIN RAISE SQLSTATE '{state}' USING MESSAGE = 'in the way'; END $$"))

    with pytest.raises(StoreUnavailable, match="cannot store: in the way"):
        store.write(job)
    assert len(seen) == runs
    assert {stored(store, f"n{number}") for number in range(runs)} == {None}


def test_what_must_be_unique_is_told_at_once(store: Store, open_incident: Callable[..., str]) -> None:
    """Trying again would not help; nothing of the write is stored."""
    open_incident("i1", subject="service/cart")
    runs: list[int] = []

    def job(connection: Connection) -> None:
        runs.append(1)
        put("half")(connection)
        connection.execute(
            text("INSERT INTO controls (name, value, changed_at, changed_by) VALUES ('half', '', 0, '')")
        )

    with pytest.raises(StoreUnavailable, match="duplicate key"):
        store.write(job)
    assert (len(runs), stored(store, "half")) == (1, None)


def test_a_lock_that_is_not_given_back_is_not_waited_for_for_ever(
    url: str, shell: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody's forgotten transaction: the write is refused, and works when that has ended."""
    monkeypatch.setattr(postgresql, "POOL_TIMEOUT", 0.2)
    store = Store(url)
    store.write(put("a"))
    with shell.transaction():
        shell.execute("SELECT * FROM controls FOR UPDATE")
        with pytest.raises(StoreUnavailable, match="lock timeout"):
            store.write(put("a", "2"))
        assert stored(store, "a") == "1"
    assert store.write(put("a", "2")) == "a"
    store.close()


def test_a_statement_that_takes_too_long_is_ended(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a write and for a read; the connection works on."""
    monkeypatch.setattr(postgresql, "TRANSACTION_TIMEOUT", 0.2)
    store = Store(url)
    for run in (store.write, store.read):
        with pytest.raises(StoreUnavailable, match="statement timeout"):
            run(execute("SELECT pg_sleep(30)"))
    assert store.write(put("a")) == "a"
    store.close()


def nothing(_: Connection) -> None:
    """Between the lock and the freeze."""


def two_rows(connection: Connection) -> None:
    """An INSERT of several rows."""
    row = {"name": "c", "value": "frozen", "changed_at": 0.0, "changed_by": "test"}
    connection.execute(insert(controls), [row, row | {"name": "d"}])


def two_changes(connection: Connection) -> None:
    """An UPDATE with several sets of parameters."""
    change = update(controls).where(controls.c.name == bindparam("which")).values(value=bindparam("new"))
    connection.execute(change, [{"which": "a", "new": "x"}, {"which": "b", "new": "y"}])


@pytest.mark.parametrize("last", [nothing, two_rows, two_changes])
def test_a_frozen_replica_loses_its_locks(
    url: str, store: Store, monkeypatch: pytest.MonkeyPatch, last: Callable[[Connection], None]
) -> None:
    """In the middle of a transaction: the others go on, and what it wanted to write is not stored."""
    monkeypatch.setattr(postgresql, "IDLE_TIMEOUT", 0.2)
    frozen = Store(url)
    store.write(put("a"))

    def freeze(connection: Connection) -> None:
        put("a", "frozen")(connection)
        last(connection)
        store.write(put("a", "other"))  # waits for the lock until the server takes it away
        put("b", "frozen")(connection)

    with pytest.raises(StoreUnavailable):
        frozen.write(freeze)
    assert (stored(store, "a"), stored(store, "b")) == ("other", None)
    assert frozen.write(put("b")) == "b"
    frozen.close()


def test_more_writers_than_connections_wait_and_then_are_refused(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that gets its turn in time is stored, one that does not is unavailable."""
    monkeypatch.setattr(postgresql, "POOL_SIZE", 1)
    monkeypatch.setattr(postgresql, "POOL_TIMEOUT", 0.3)
    store = Store(url)
    holding, release = threading.Event(), threading.Event()

    def hold(_: Connection) -> None:
        holding.set()
        release.wait(5)

    with ThreadPoolExecutor(2) as pool:
        holder = pool.submit(store.write, hold)
        holding.wait(5)
        with pytest.raises(StoreUnavailable, match="QueuePool limit"):
            store.write(put("late"))
        waiting = pool.submit(store.write, put("in-time"))
        release.set()
        assert waiting.result(5) == "in-time"
        holder.result(5)
    assert (stored(store, "late"), stored(store, "in-time")) == (None, "1")
    store.close()


def test_one_connection_serves_reads_and_writes_in_turn(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a read sets on the connection is not in force for the write after it."""
    monkeypatch.setattr(postgresql, "POOL_SIZE", 1)
    store = Store(url)
    for number in range(3):
        assert store.write(put(f"n{number}")) == f"n{number}"
        assert stored(store, f"n{number}") == "1"
        assert ask(store, "SHOW transaction_isolation") == "repeatable read"
        assert (
            store.write(lambda c: c.execute(text("SHOW transaction_isolation")).scalar()) == "read committed"
        )
    store.close()


def begun(connection: Connection) -> bool:
    """Whether the connection is in a transaction, after a statement."""
    connection.execute(select(literal(1)))
    driver: Any = connection.connection.driver_connection
    return driver.info.transaction_status != psycopg.pq.TransactionStatus.IDLE


def test_a_single_statement_is_one_round_trip(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No BEGIN before it and no COMMIT after it; a transaction on the same connection has both again."""
    monkeypatch.setattr(postgresql, "POOL_SIZE", 1)
    store = Store(url)
    for _ in range(2):
        assert [how(begun) for how in (store.ask, store.read, store.write)] == [False, True, True]
    store.close()


def test_a_write_after_close_is_unavailable(url: str) -> None:
    """A closed store refuses at once."""
    store = Store(url)
    store.close()
    with pytest.raises(StoreUnavailable, match="shutting down"):
        store.write(put("a"))
    with pytest.raises(StoreUnavailable, match="shutting down"):
        store.ask(begun)


# The watchdog.


@pytest.fixture
def impatient(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A store with one connection, whose watchdog shuts what is stuck for more than a second."""
    monkeypatch.setattr(postgresql, "POOL_SIZE", 1)
    store = Store(url)
    monkeypatch.setattr(store._backend._watchdog, "patience", 1.0)
    yield store
    store.close()


def test_a_connection_that_many_use_in_turn_is_not_taken_for_stuck(impatient: Store) -> None:
    """Whenever the watchdog looks, the only connection waits for an answer: each time for another one."""
    end = time.monotonic() + 3.3

    def work(number: int) -> int:
        done = 0
        while time.monotonic() < end:
            impatient.write(execute("SELECT pg_sleep(0.05)"))
            done += 1
        return done

    with ThreadPoolExecutor(3) as pool:
        assert sum(pool.map(work, range(3))) > 20


def test_a_long_transaction_is_not_taken_for_stuck(impatient: Store) -> None:
    """Many statements that each get their answer may take longer than one may."""

    def job(connection: Connection) -> str:
        for _ in range(13):
            connection.execute(text("SELECT pg_sleep(0.25)"))
        return put("a")(connection)

    assert impatient.write(job) == "a"


def test_a_statement_without_an_answer_is_given_up(impatient: Store) -> None:
    """The watchdog does shut what is stuck: the caller hears it, and the next one gets a new connection."""
    with pytest.raises(StoreUnavailable):
        within_deadline(lambda: impatient.write(execute("SELECT pg_sleep(60)")))
    assert impatient.write(put("a")) == "a"


def test_the_watchdog_forgets_what_is_closed(url: str, shell: Any) -> None:
    """Connections that broke or were closed are not kept for ever."""
    store = Store(url)
    watched: dict[Any, int] = store._backend._watchdog._steps
    for _ in range(3):
        store.write(put("a"))
        end_connections(shell)
    store.write(put("a"))
    assert len([connection for connection in watched if not connection.closed]) == len(watched) >= 1
    store.close()
    assert watched == {}
