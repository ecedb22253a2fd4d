"""The tests' own PostgreSQL does to its clients what a test asks for, and is gone when the tests are."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.exc import OperationalError

from postgresql_server import (
    PostgresqlMissing,
    PostgresqlServer,
    children_of,
    find_postgresql,
    temporary_postgresql,
)

DEADLINE = 20.0  # seconds, for busy machines
FOLDER = Path(__file__).parent


@pytest.fixture(scope="module")
def server(postgresql: PostgresqlServer) -> Iterator[PostgresqlServer]:
    """A server that these tests may crash; the run's own says whether there can be one."""
    with temporary_postgresql() as server:
        yield server


@pytest.fixture
def own_folder() -> Iterator[Path]:
    """A folder for one more server: root's server cannot reach pytest's own."""
    with tempfile.TemporaryDirectory(prefix="shf-postgresql-") as folder:
        yield Path(folder)


def connect(server: PostgresqlServer, timeout: int = 2) -> psycopg.Connection[tuple[object, ...]]:
    """A connection to the first database; one that commits by itself."""
    url = make_url(server.url).set(drivername="postgresql").render_as_string()
    return psycopg.connect(url, connect_timeout=timeout, autocommit=True)


def ask(server: PostgresqlServer, statement: str) -> object:
    """The only value of the answer."""
    with closing(connect(server)) as connection:
        row = connection.execute(statement).fetchone()
        assert row is not None
        return row[0]


def wait(what: str, condition: Callable[[], bool]) -> None:
    """Wait until the condition holds."""
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, f"not in time: {what}"
        time.sleep(0.02)


def test_it_is_a_database_as_the_fabric_needs_it(server: PostgresqlServer) -> None:
    """Commits reach the disk, text is UTF-8, only loopback is listened on."""
    assert ask(server, "SHOW fsync") == "on"
    assert ask(server, "SHOW synchronous_commit") == "on"
    assert ask(server, "SHOW server_encoding") == "UTF8"
    assert ask(server, "SHOW listen_addresses") == "127.0.0.1"
    assert ask(server, "SELECT datcollate FROM pg_database WHERE datname = 'shf'") == "C"


def test_the_url_is_one_for_sqlalchemy(server: PostgresqlServer) -> None:
    """Its databases are reached with nothing but the URL, and a database made again is empty."""
    for _ in range(2):
        url = server.create_database("with-a-hyphen")
        engine = create_engine(url)
        with engine.begin() as connection:
            connection.execute(text("CREATE TABLE once (n integer)"))
        engine.dispose()
    assert url != server.url


def test_a_database_can_be_copied_emptied_and_removed(server: PostgresqlServer) -> None:
    """A copy has what the template has; emptied it has no rows and no sessions, and counts from 1 again."""
    template = create_engine(server.create_database("template"))
    with template.begin() as connection:
        connection.execute(text("CREATE TABLE alembic_version (n integer)"))
        connection.execute(text("CREATE TABLE parent (id bigserial PRIMARY KEY)"))
        connection.execute(text("CREATE TABLE child (id bigint REFERENCES parent)"))
        for table in ("alembic_version", "parent", "child"):
            connection.execute(text(f"INSERT INTO {table} VALUES (1)"))  # noqa: S608
    template.dispose()
    url = server.create_database("copy", "template")
    engine = create_engine(url)
    with engine.connect() as left_open, engine.connect() as connection:
        assert left_open.execute(text("SELECT id FROM child")).scalars().all() == [1]
        assert server.empty_database("copy") == url
        with pytest.raises(OperationalError):
            left_open.execute(text("SELECT 1"))
        connection.invalidate()
        left_open.invalidate()
    with engine.begin() as connection:
        for table, rows in (("alembic_version", 1), ("parent", 0), ("child", 0)):
            assert connection.execute(text(f"SELECT count(*) FROM {table}")).scalar() == rows  # noqa: S608
        assert connection.execute(text("INSERT INTO parent DEFAULT VALUES RETURNING id")).scalar() == 1
    server.drop_database("copy")  # also while the pool still has a connection to it
    engine.dispose()
    with pytest.raises(OperationalError, match="does not exist"):
        engine.connect()


def test_a_crash_loses_only_what_was_not_committed(server: PostgresqlServer) -> None:
    """`immediate` cuts sessions in the middle; afterwards the port is the same and commits are there."""
    port = server.port
    with closing(connect(server)) as connection:
        connection.execute("CREATE TABLE kept (n integer)")
        connection.execute("INSERT INTO kept VALUES (1)")
        connection.execute("BEGIN")
        connection.execute("INSERT INTO kept VALUES (2)")
        server.stop("immediate")
        with pytest.raises(psycopg.OperationalError):
            connection.execute("COMMIT")
    with pytest.raises(psycopg.OperationalError, match="refused"):
        connect(server)
    server.start()
    assert "was not properly shut down" in server.log.read_text()
    assert server.port == port
    assert ask(server, "SELECT array_agg(n) FROM kept") == [1]


def test_restart_is_another_process(server: PostgresqlServer) -> None:
    """After `restart` it answers from a new process, and has ended the old one in order."""
    before = server.pid
    already = server.log.stat().st_size
    server.restart()
    assert "not properly" not in server.log.read_text()[already:]
    assert server.pid != before
    assert ask(server, "SELECT 1") == 1


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_paused_answers_nobody_and_resumes_where_it_was(server: PostgresqlServer) -> None:
    """Frozen, neither an open session nor a new one is answered; thawed, the open question is."""
    with closing(connect(server)) as connection:
        server.pause()
        try:
            with pytest.raises(psycopg.OperationalError, match="timeout"):
                connect(server)
            connection.pgconn.send_query(b"SELECT 41 + 1")
            time.sleep(0.3)
            connection.pgconn.consume_input()
            assert connection.pgconn.is_busy()
        finally:
            server.resume()
        wait("answer", lambda: connection.pgconn.consume_input() or not connection.pgconn.is_busy())
        result = connection.pgconn.get_result()
        assert result is not None
        assert result.get_value(0, 0) == b"42"
        assert connection.pgconn.get_result() is None


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_paused_server_can_be_stopped(server: PostgresqlServer, mode: str) -> None:
    """A test that fails between `pause` and `resume` leaves a server that can be ended."""
    with closing(connect(server)):
        server.pause()
        server.stop(mode)  # type: ignore[arg-type]
    server.start()
    assert ask(server, "SELECT 1") == 1


ORPHAN = """
import pathlib, sys, time
sys.path.insert(0, sys.argv[1])
import psycopg
from postgresql_server import PostgresqlServer
server = PostgresqlServer(pathlib.Path(sys.argv[2])).__enter__()
session = psycopg.connect(server.url.replace("+psycopg", ""))
if sys.argv[3] == "paused":
    server.pause()
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux's kernel ends children by itself")
@pytest.mark.parametrize("state", ["running", "paused"])
def test_it_ends_with_killed_tests(postgresql: PostgresqlServer, own_folder: Path, state: str) -> None:
    """SIGKILL of the tests leaves no process, the frozen ones included."""
    command = [sys.executable, "-c", ORPHAN, str(FOLDER), str(own_folder), state]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "ready\n"
        postmaster = int((own_folder / "data/postmaster.pid").read_text().split()[0])
        everything = [postmaster, *children_of(postmaster)]
        assert len(everything) > 3  # with the session's process
        os.kill(parent.pid, signal.SIGKILL)
    wait("end of all", lambda: not any(Path(f"/proc/{pid}").exists() for pid in everything))


def failing_test(folder: Path) -> None:
    """Uses a server, and fails meanwhile."""
    with PostgresqlServer(folder) as server:
        raise LookupError(server.pid, server.port)


def test_it_ends_when_the_test_fails(postgresql: PostgresqlServer, own_folder: Path) -> None:
    """An error inside the block passes through, and the server is gone with its port."""
    with pytest.raises(LookupError) as failed:
        failing_test(own_folder)
    pid, port = failed.value.args
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), DEADLINE)


def test_a_server_that_does_not_start_says_why(postgresql: PostgresqlServer, own_folder: Path) -> None:
    """The end of the server's own log is part of the message."""
    with PostgresqlServer(own_folder) as server:
        server.stop()
        (own_folder / "data/postgresql.conf").write_text("no_such_setting = 1\n")
        with pytest.raises(RuntimeError, match="no_such_setting"):
            server.start()


def folder_with(folder: Path, *names: str) -> Path:
    """A folder of programs."""
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).touch(0o755)
    return folder


def test_the_server_on_path_goes_before_the_packaged_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What a person has put on PATH is what is tested; a link is followed to where initdb lies as well."""
    real = folder_with(tmp_path / "real", "postgres", "initdb")
    folder_with(tmp_path / "packaged/15/bin", "postgres", "initdb")
    linked = folder_with(tmp_path / "linked")
    (linked / "postgres").symlink_to(real / "postgres")
    monkeypatch.setenv("PATH", str(linked))
    assert find_postgresql(tmp_path / "packaged") == real


def test_of_the_packaged_servers_the_newest_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Versions are numbers, not words, and a folder with only the client is none."""
    monkeypatch.setenv("PATH", "")
    for version in ("9.6", "15", "13"):
        folder_with(tmp_path / version / "bin", "postgres", "initdb")
    folder_with(tmp_path / "17" / "bin", "psql")
    assert find_postgresql(tmp_path) == tmp_path / "15" / "bin"


def test_without_a_server_the_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Who skips the tests learns what to install."""
    monkeypatch.setenv("PATH", str(folder_with(tmp_path / "client", "psql")))
    with pytest.raises(PostgresqlMissing, match="postgresql"):
        find_postgresql(tmp_path)


FIXTURE_USER = """
def test_of_the_fixture(postgresql):
    assert postgresql.url
"""


@pytest.mark.parametrize(("ci", "word"), [("", "1 skipped"), ("true", "1 error")])
def test_without_a_server_tests_are_skipped_loudly_and_fail_on_ci(tmp_path: Path, ci: str, word: str) -> None:
    """The fixture tells what was not tested; on CI a missing server is an error."""
    (tmp_path / "test_it.py").write_text(FIXTURE_USER)
    (tmp_path / "conftest.py").write_text(
        "import pathlib, sys\n"
        f"sys.path.insert(0, {str(FOLDER)!r})\n"
        "import postgresql_server\n"
        "def missing(): raise postgresql_server.PostgresqlMissing('no server')\n"
        "postgresql_server.find_postgresql = missing\n"
        f"exec(pathlib.Path({str(FOLDER / 'conftest.py')!r}).read_text())\n"
    )
    environment = {key: value for key, value in os.environ.items() if key != "CI"} | (
        {"CI": ci} if ci else {}
    )
    command = [sys.executable, "-m", "pytest", "-ra", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert word in done.stdout
    assert ("NOT TESTED ON POSTGRESQL: no server" in done.stdout) is not bool(ci)
