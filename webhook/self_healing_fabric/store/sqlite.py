"""SQLite with settings that survive a power cut, and a lock against a second process.

`synchronous=FULL` in WAL mode means that a commit is on disk before the webhook answers 2xx. SQLite allows
several processes, but two orchestrators on one file would both heal: the lock file beside the database keeps
the second one out, and the kernel drops the lock when the first one dies, however it dies.

A file that is removed or replaced stays open, and what is written into it then is gone with the process,
without an error. So nothing is acknowledged unless the file, and beside it SQLite's own two and the lock, are
where they were.
"""

from __future__ import annotations

import fcntl
import math
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import QueuePool

from self_healing_fabric.errors import StoreInUse, StoreUnavailable
from self_healing_fabric.store.documents import dumps
from self_healing_fabric.store.migrations import migrate, version_of
from self_healing_fabric.store.writer import Writer

T = TypeVar("T")

BUSY_TIMEOUT = 5.0  # seconds to wait for another writer, such as a person's sqlite3 shell
_LOG = "log"  # in the `info` of a connection
_PUT_BACK = "put it back, or restart the fabric"
_STOP = (
    "stop the fabric, do not kill it, and start it again: it writes what it has stored into the store then"
)
READERS = 100  # pooled connections: the HTTP threads, the workers, the loop


class SqliteBackend:
    """One file, one process, one writer thread. Raises StoreInUse, StoreUnavailable."""

    shared = False

    def __init__(self, url: str) -> None:
        self._lock = ProcessLock(url)
        self._lock.acquire()
        try:
            self.engine = open_engine(url)
            path = Path(make_url(url).database or "").absolute()
            self._file = _InPlace(path)
        except BaseException:
            self._lock.release()
            raise
        self.readers = _engine(url, begin="BEGIN", connections=READERS)
        event.listen(self.readers, "connect", _only_read)
        self._log: tuple[_InPlace, ...] = ()
        self._writer = Writer(self.engine, self._check_commit)

    def write(self, function: Callable[[Connection], T]) -> T:
        """Run `function` in a transaction on the writer thread and return its value once it is on disk."""
        return self._writer.write(function)

    def read(self, function: Callable[[Connection], T]) -> T:
        """Run `function` on one snapshot. Raises SQLAlchemyError, StoreUnavailable."""
        self._check_files()  # a new connection would open, or make, another file than the writer's
        with self.readers.begin() as connection:
            return function(connection)

    def ask(self, function: Callable[[Connection], T]) -> T:
        """As `read`: here a transaction costs no round trip. Raises SQLAlchemyError."""
        return self.read(function)

    def clock(self) -> float:
        """This machine's time: nobody else uses the file."""
        return time.time()

    def since_set_forward(self) -> float:
        """Infinite: what this process works on nobody else takes over, whatever the clock says."""
        return math.inf

    def set_clock(self) -> None:
        """Nothing to compare with."""

    def _check_commit(self, connection: Connection) -> None:
        """Raise StoreUnavailable where a commit would go into files that are gone."""
        # SQLite makes and removes them with connections, and while this one is open they stay.
        if _LOG not in connection.info:
            connection.info[_LOG] = tuple(
                _InPlace(self._file.path.with_name(self._file.path.name + suffix), remedy=_STOP)
                for suffix in ("-wal", "-shm")
            )
        self._log = connection.info[_LOG]
        self._check_files()

    def _check_files(self) -> None:
        for each in (self._file, *self._log):
            each.check()
        self._lock.check()

    def close(self) -> None:
        """Finish the queued writes and let the next process in."""
        self._writer.close()
        self.readers.dispose()
        self.engine.dispose()
        self._lock.release()


def examine(url: str) -> str:
    """Look at the file without changing it; return what was found. Raises StoreUnavailable."""
    path = Path(make_url(url).database or "").absolute()
    if not os.access(path, os.F_OK):
        folder = next(parent for parent in path.parents if os.access(parent, os.F_OK))
        if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
            raise StoreUnavailable(f"{path} does not exist and {folder} cannot be written")
        if os.statvfs(folder).f_bfree == 0:  # full, or made by the kernel and no place for files
            raise StoreUnavailable(f"{path} does not exist and {folder} has no room for it")
        return "will be created"
    if not os.access(path, os.W_OK) or not os.access(path.parent, os.W_OK):
        raise StoreUnavailable(f"{path} and its folder must be writable")
    room = os.statvfs(path.parent)
    free = room.f_bfree if os.geteuid() == 0 else room.f_bavail  # a reserve is left to root
    if room.f_blocks and not free:  # some file systems do not tell
        raise StoreUnavailable(f"the disk of {path} is full: nothing can be stored")
    try:
        with reading(url) as connection:
            return f"version {version_of(connection) or 'of 0.1.0 or none'}"
    except SQLAlchemyError as error:
        raise StoreUnavailable(f"{path}: {getattr(error, 'orig', None) or error}") from error


@contextmanager
def reading(url: str, _: Path | None = None) -> Iterator[Connection]:
    """A connection that can only read, on one snapshot, beside whoever writes. Raises SQLAlchemyError."""
    path = Path(make_url(url).database or "").absolute()
    engine = create_engine(f"sqlite:///file:{path}?mode=ro&uri=true", hide_parameters=True)
    try:
        with engine.begin() as connection:
            yield connection
    finally:
        engine.dispose()


def clock_of(_: str, __: Path | None = None) -> float:
    """This machine's time."""
    return time.time()


def why_unreadable(url: str, error: SQLAlchemyError) -> str:
    """What `reading` met, with the file that it was, and what to do."""
    path = Path(make_url(url).database or "").absolute()
    if not os.access(path, os.F_OK):
        return f"{path} does not exist. A relative `store` is looked for where the command is started."
    reason = getattr(error, "orig", None) or error
    if getattr(reason, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_READONLY:
        return (
            f"{path} may only be read by this user, and while no fabric runs SQLite has to write beside it. "
            "Ask while the fabric runs, as its user, or for a copy of the file."
        )
    return f"{path}: {reason}"


def open_engine(url: str) -> Engine:
    """Open the database and bring it to the newest schema. Raises StoreUnavailable when it cannot be used."""
    path = Path(make_url(url).database or "")
    # A deferred transaction that reads first and writes later fails with "database is locked" and no waiting.
    engine = _engine(url, begin="BEGIN IMMEDIATE", connections=1)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.touch(0o600)  # it will hold the key of the approval links; SQLite's other files follow
        with engine.begin() as connection:
            migrate(connection)
    except (SQLAlchemyError, OSError) as error:
        engine.dispose()
        raise StoreUnavailable(f"{url}: cannot be opened: {getattr(error, 'orig', None) or error}") from error
    except BaseException:
        engine.dispose()
        raise
    return engine


def _engine(url: str, *, begin: str, connections: int) -> Engine:
    """Connections whose transactions all begin with the same statement."""
    engine = create_engine(
        url,
        poolclass=QueuePool,
        pool_size=connections,
        max_overflow=0,
        json_serializer=dumps,
        hide_parameters=True,  # an error must not quote what an action keeps, such as a configuration
    )
    event.listen(engine, "connect", _configure)
    _begin_with(engine, begin)
    return engine


def _begin_with(engine: Engine, statement: str) -> None:
    def do_begin(connection: Any) -> None:
        connection.driver_connection.execute(statement)

    # The dialect's own hook: with a listener for the event "begin", every statement looks for listeners, too.
    engine.dialect.do_begin = do_begin  # type: ignore[assignment, method-assign]


def _configure(connection: Any, _: Any) -> None:
    # The driver's own transactions begin too late and commit behind our back: we send BEGIN ourselves.
    connection.isolation_level = None
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        f"busy_timeout={int(BUSY_TIMEOUT * 1000)}",
        "temp_store=MEMORY",  # a temporary folder that others have filled would be told as a full disk
    ):
        connection.execute(f"PRAGMA {pragma}")


def _only_read(connection: Any, _: Any) -> None:
    connection.execute("PRAGMA query_only=ON")


class _InPlace:
    """A file that is open, and the place where it has to stay for as long as it is.

    Args:
        path: where it is.
        descriptor: of the open file; without it, what is there now is what is open.
        remedy: what to do when it is gone.

    Raises StoreUnavailable: it is gone already.
    """

    def __init__(self, path: Path, descriptor: int | None = None, remedy: str = _PUT_BACK) -> None:
        self.path = path
        self._remedy = remedy
        self._opened = self._there() if descriptor is None else os.fstat(descriptor)

    def check(self) -> None:
        """Raise StoreUnavailable where there is no file any more, or another one."""
        if not os.path.samestat(self._there(), self._opened):
            raise self._gone()

    def _there(self) -> os.stat_result:
        try:
            return self.path.stat()
        except FileNotFoundError:
            raise self._gone() from None

    def _gone(self) -> StoreUnavailable:
        return StoreUnavailable(
            f"{self.path} was removed or replaced while it was in use, and what is written would be lost: "
            f"{self._remedy}"
        )


class ProcessLock:
    """Holds `<database>.lock` for as long as this process lives."""

    def __init__(self, url: str) -> None:
        self._path = Path(f"{make_url(url).database}.lock").absolute()
        self._file: int | None = None
        self._in_place: _InPlace | None = None

    def check(self) -> None:
        """Raise StoreUnavailable where another process could take the lock too: its file is gone."""
        if self._in_place is not None:
            self._in_place.check()

    def acquire(self) -> None:
        """Take the lock. Raises StoreInUse when another process holds it, StoreUnavailable without a file."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreUnavailable(f"{self._path}: cannot be opened: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise StoreInUse(
                f"{self._path}: another fabric uses this store, in this process or another one"
            ) from error
        self._file, self._in_place = descriptor, _InPlace(self._path, descriptor)

    def release(self) -> None:
        """Give the lock back; harmless when it is not held."""
        if self._file is not None:
            os.close(self._file)
            self._file = self._in_place = None
