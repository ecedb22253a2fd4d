"""A real PostgreSQL of the tests' own, from the system's packages, in a folder and on a port of its own.

The cluster of the machine is never touched. What is tested is how the fabric lives with a database that goes
away, so the server can be stopped, crashed, started again and frozen, and keeps its port all the while.

The traps avoided: PostgreSQL refuses to run as root, and the account that it runs as may read neither the
repository nor pytest's folders under root's account, so root's servers need a folder that others can reach
(`temporary_postgresql` makes one), and the tether, which needs our Python, comes before the command and after
the change of user, because the kernel forgets the tether when the user changes. Stopped processes do not
notice that their postmaster died, so whatever is frozen is thawed by a process that outlives the tests.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, LiteralString, Self

import psycopg
from psycopg import sql

from shf_demo.ports import reserved_ports
from shf_demo.tether import die_with, tethered

PACKAGED = Path("/usr/lib/postgresql")  # Debian keeps the servers off PATH, a folder for each version
ACCOUNT = "postgres"  # of Debian's package; only needed by root
USER = "shf"  # owns all databases; also the name of the first one
READY_DEADLINE = 30.0  # seconds; recovery after a crash included
STOP_DEADLINE = 30.0  # seconds; a fast stop writes a checkpoint
FREEZE_DEADLINE = 5.0  # seconds; a process in the kernel stops when it comes back from there
LOG_TAIL = 15  # lines
# What the migrations put into a new store: without it, an emptied one looks as if a thief had been there.
PUT_THERE_BY_MIGRATIONS: Mapping[str, LiteralString] = {"audit_chain": "number = 1"}
HEAD_OF_THE_CHAIN: LiteralString = "INSERT INTO audit_heads SELECT '', number, hash, at FROM audit_chain"
_SIGNALS = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}


class PostgresqlMissing(Exception):
    """No server can be started here; the text says what to install."""


def find_postgresql(packaged: Path = PACKAGED) -> Path:
    """The folder of `postgres` and `initdb`: on PATH, else the newest packaged one."""
    on_path = shutil.which("postgres")
    # A link leads to the real folder: initdb looks beside itself for what it needs.
    folders = [Path(on_path).resolve().parent] if on_path else []
    versions = [folder for folder in packaged.glob("*/bin") if re.fullmatch(r"[\d.]+", folder.parent.name)]
    folders += sorted(versions, key=lambda folder: [*map(int, folder.parent.name.split("."))], reverse=True)
    for folder in folders:
        if all((folder / name).is_file() for name in ("postgres", "initdb")):
            return folder
    raise PostgresqlMissing(
        f"neither on PATH nor in {packaged}/*/bin are postgres and initdb (Debian, Ubuntu: postgresql)"
    )


@contextlib.contextmanager
def temporary_postgresql(parent: str | None = None) -> Iterator[PostgresqlServer]:
    """Run a server in a new folder of its own; both are gone afterwards. Raises PostgresqlMissing."""
    folder = tempfile.TemporaryDirectory(prefix="shf-postgresql-", dir=parent)
    with folder as name, PostgresqlServer(Path(name)) as server:
        yield server


class PostgresqlServer:
    """`with PostgresqlServer(folder) as server:` makes a cluster in the folder and runs it; leaving ends it.

    Start it from a thread that lives as long as it should: see `shf_demo.tether`. As root the folder is given
    to the server's account. Raises PostgresqlMissing.
    """

    def __init__(self, directory: Path) -> None:
        self._programs = find_postgresql()
        self._account = account()
        self._directory = directory
        self.log = directory / "log"
        self._held = contextlib.ExitStack()
        self._process: subprocess.Popen[bytes] | None = None
        self._thaw: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        (self.port,) = self._held.enter_context(reserved_ports(1))
        try:
            self._make_cluster()
            self.start()
            self.create_database(USER)
        except BaseException:
            self._clean_up()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clean_up()

    @property
    def url(self) -> str:
        """Of the first database, for SQLAlchemy."""
        return self._url(USER)

    @property
    def pid(self) -> int:
        """Of the postmaster."""
        if self._process is None:
            raise RuntimeError("PostgreSQL is not running")
        return self._process.pid

    def create_database(self, name: str, template: str = "template1") -> str:
        """Make a database, also where one of that name was; its URL for SQLAlchemy.

        It is empty, or a copy of another one to which nobody is connected.
        """
        self.drop_database(name)
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
        with self._connect("postgres") as connection:
            connection.execute(statement.format(sql.Identifier(name), sql.Identifier(template)))
        return self._url(name)

    def drop_database(self, name: str) -> None:
        """Remove a database, and end the sessions that use it; harmless where there is none."""
        statement = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)")
        with self._connect("postgres") as connection:
            connection.execute(statement.format(sql.Identifier(name)))

    def empty_database(
        self, name: str, *, keep: Mapping[str, LiteralString] | None = None, then: LiteralString | None = None
    ) -> str:
        """Remove all rows but the version of the schema, and end the sessions; its URL for SQLAlchemy.

        In a tenth of the time that a new database takes. `keep` has a condition for the rows that stay in a
        table, `then` is what is run last.
        """
        tables = (
            "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'alembic_version'"
        )
        with self._connect(name) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            connection.execute("SET session_replication_role = replica")  # no triggers, no foreign keys
            connection.execute("SET synchronous_commit = off")
            names = [str(table) for (table,) in connection.execute(tables).fetchall()]
            delete = sql.SQL("DELETE FROM {} WHERE NOT ({})")
            deletes = [
                delete.format(sql.Identifier(table), sql.SQL((keep or {}).get(table, "false")))
                for table in names
            ]
            connection.execute(sql.SQL("; ").join(deletes))
            connection.execute("SELECT setval(sequencename::text, 1, false) FROM pg_sequences")
            if then:
                connection.execute(then)
        return self._url(name)

    def start(self) -> None:
        """Start it on its port, with the data that a run before has left, and wait until it answers."""
        if self._process is not None:
            raise RuntimeError("PostgreSQL is running already")
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(self._directory),
            "max_connections": "200",  # several replicas with full pools
            "dynamic_shared_memory_type": "mmap",  # in the folder: a crash leaves nothing elsewhere
        }
        command = [str(self._programs / "postgres"), "-D", str(self._directory / "data")]
        command += [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                _run_as(self._account, command),
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=_environment(),
                start_new_session=True,  # Ctrl-C reaches the tests only, which then stop things in order
            )
        self._wait_ready()

    def stop(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Stop it: `fast` ends sessions and writes everything, `immediate` is as a crash."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(_SIGNALS[mode])
        self._thaw_all()
        try:
            process.wait(STOP_DEADLINE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise RuntimeError(self._complaint(f"did not stop within {STOP_DEADLINE:g} s")) from None

    def restart(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Stop it and start it again."""
        self.stop(mode)
        self.start()

    def pause(self) -> None:
        """Freeze the whole server: connections stay open, new ones are accepted, and nothing answers.

        On Linux only.
        """
        if sys.platform != "linux":
            raise NotImplementedError("freezing PostgreSQL needs Linux's /proc")
        if self._thaw is not None:
            raise RuntimeError("PostgreSQL is frozen already")
        # It learns of each process before that is stopped: at no moment would our death leave one frozen.
        script = 'while read -r pid; do pids="$pids $pid"; done; kill -CONT $pids 2>/dev/null'
        self._thaw = subprocess.Popen(["sh", "-c", script], stdin=subprocess.PIPE, start_new_session=True)
        self._freeze(self.pid)  # first: afterwards it forks no more children
        for child in children_of(self.pid):
            self._freeze(child)

    def resume(self) -> None:
        """Go on where it was frozen."""
        if self._thaw is None:
            raise RuntimeError("PostgreSQL is not frozen")
        self._thaw_all()

    def _freeze(self, pid: int) -> None:
        assert self._thaw is not None
        assert self._thaw.stdin is not None
        self._thaw.stdin.write(b"%d\n" % pid)
        self._thaw.stdin.flush()
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
        end = time.monotonic() + FREEZE_DEADLINE
        while _state(pid) not in ("T", "Z", None):
            if time.monotonic() > end:
                raise RuntimeError(self._complaint(f"process {pid} did not freeze"))
            time.sleep(0.001)

    def _thaw_all(self) -> None:
        thaw, self._thaw = self._thaw, None
        if thaw is not None:
            assert thaw.stdin is not None
            thaw.stdin.close()
            thaw.wait()

    def _make_cluster(self) -> None:
        data = self._directory / "data"
        if self._account is not None:
            os.chown(self._directory, self._account.pw_uid, self._account.pw_gid)
        options = ["--auth=trust", f"--username={USER}", "-E", "UTF8", "--locale=C"]
        done = subprocess.run(
            # Not synced: a cluster that is lost with the machine is made anew. The server itself does sync.
            [self._programs / "initdb", *options, "--no-sync", "-D", data],
            cwd=self._directory,
            env=_environment(),
            capture_output=True,
            text=True,
            check=False,
            **_subprocess_user(self._account),
        )
        if done.returncode:
            raise RuntimeError(f"initdb failed:\n{done.stdout}{done.stderr}")

    def _wait_ready(self) -> None:
        end = time.monotonic() + READY_DEADLINE
        while True:
            try:
                self._connect("postgres").close()
                return
            except psycopg.OperationalError as error:
                if self._process is None or self._process.poll() is not None:
                    self._process = None
                    raise RuntimeError(self._complaint("ended by itself")) from error
                if time.monotonic() > end:
                    raise RuntimeError(self._complaint(f"is not ready after {READY_DEADLINE:g} s")) from error
            time.sleep(0.02)

    def _connect(self, database: str) -> psycopg.Connection[tuple[object, ...]]:
        return psycopg.connect(
            host="127.0.0.1",
            port=self.port,
            user=USER,
            dbname=database,
            autocommit=True,
            connect_timeout=5,
        )

    def _url(self, database: str) -> str:
        return f"postgresql+psycopg://{USER}@127.0.0.1:{self.port}/{database}"

    def _clean_up(self) -> None:
        with self._held:
            self.stop("immediate")

    def _complaint(self, what: str) -> str:
        lines = self.log.read_text(errors="replace").splitlines()[-LOG_TAIL:] if self.log.exists() else []
        return f"PostgreSQL {what}. The end of its log:\n" + "\n".join(f"  {line}" for line in lines)


def account() -> pwd.struct_passwd | None:
    """Whom the server runs as instead of root; None: as ourselves."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam(ACCOUNT)
    except KeyError:
        raise PostgresqlMissing(
            f"PostgreSQL does not run as root, and there is no account {ACCOUNT}"
        ) from None


def _run_as(account: pwd.struct_passwd | None, command: list[str]) -> list[str]:
    """The command tied to this process and run by the account; see the trap at the top."""
    if account is None:
        return tethered(command)
    return [sys.executable, __file__, str(os.getpid()), str(account.pw_uid), str(account.pw_gid), *command]


def _subprocess_user(account: pwd.struct_passwd | None) -> dict[str, Any]:
    if account is None:
        return {}
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def _environment() -> dict[str, str]:
    """Without what would lead clients and servers elsewhere, and with messages in English."""
    return {key: value for key, value in os.environ.items() if not key.startswith("PG")} | {"LC_ALL": "C"}


def children_of(parent: int) -> list[int]:
    """The processes that a process has started and that have not ended."""
    stats = ((path, _stat(path)) for path in Path("/proc").glob("[0-9]*/stat"))
    return [int(path.parent.name) for path, fields in stats if fields and int(fields[1]) == parent]


def _state(pid: int) -> str | None:
    fields = _stat(Path(f"/proc/{pid}/stat"))
    return fields[0] if fields else None


def _stat(path: Path) -> list[str] | None:
    """The fields behind the name, which may hold anything: state, parent, and so on. None: it has ended."""
    try:
        return path.read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


if __name__ == "__main__":
    import ctypes  # noqa: F401 - the tether needs it, and the account need not be able to read it

    parent, user, group, *rest = sys.argv[1:]
    os.setgroups([])
    os.setgid(int(group))
    os.setuid(int(user))
    die_with(int(parent))
    os.execv(rest[0], rest)  # noqa: S606 - the point: become the server
