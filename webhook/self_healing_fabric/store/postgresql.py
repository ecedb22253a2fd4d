"""PostgreSQL: any number of replicas share one store, and none of them waits for ever.

Each write is a transaction of its own in the caller's thread; the server commits many at once by itself (only
notifications are gathered before, see `inbox`). What SQLite's one writer orders is ordered by locks here
(`statements.serialize`, `FOR UPDATE`, SKIP LOCKED).

Time is the database's, so that replicas whose clocks differ agree on whose lease has run out. It is read off
a clock that nobody can set, counted from the last comparison with the server.

A server that accepts and never answers would keep every thread of ours, for the driver has no deadline of its
own: a watchdog shuts the socket of a connection whose statement gets no answer for too long. In turn the
server ends the transactions of a replica that was frozen in the middle of one, for it may hold locks.

A pooler in between may have several of our connections share one session of the server. Locks are ours only
within a transaction, but deadlines and prepared statements stay with a session, so such a pooler is refused
when the store is opened. Deadlines are set by a statement: as options of the connection poolers refuse them.

After a failover a pool can be left with sessions on a server that was the primary and only reads now: they go
on, refuse every write, and nobody closes them. Who is refused so connects anew, to whoever takes writes then.
"""

from __future__ import annotations

import contextlib
import math
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Dialect, Engine, create_engine, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.engine.interfaces import DBAPICursor, ExceptionContext, ExecutionContext
from sqlalchemy.exc import DBAPIError, InvalidRequestError, SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry

from self_healing_fabric.errors import StoreUnavailable
from self_healing_fabric.settings import SecretUnusable, read_secret
from self_healing_fabric.store.documents import dumps
from self_healing_fabric.store.migrations import migrate, version_of

T = TypeVar("T")

POOL_SIZE = 24  # connections of one replica at most
POOL_TIMEOUT = 5.0  # seconds to wait for a free one
TRANSACTION_TIMEOUT = 8.0  # seconds; shorter than the 10 s after which Alertmanager gives up on an answer
IDLE_TIMEOUT = 4.0  # seconds for which a transaction may hold its locks without a statement
MIGRATION_TIMEOUT = 60.0  # seconds for one statement, and for other replicas that migrate at the same time
CLOCK_TRIES = 3  # in a row, until one is answered in time
MAX_CLOCK_ANSWER = 1.0  # seconds; the clock may be wrong by half of it
MAX_CLOCK_ERROR = 2.0  # seconds; a clock that is further ahead than this was set forward
FRESH_CONNECTION = 1.0  # seconds within which a transaction whose connection is gone is begun anew
MAX_TRIES = 5  # of a transaction that another one got in the way of
_IN_THE_WAY = ("40001", "40P01")  # serialization failure, deadlock: nothing was done, so it is done again
_READ_ONLY = "25006"  # read_only_sql_transaction
_MIGRATION_LOCK = 0x5348_4600  # any number of ours
_BEGIN = "begin"  # in the `info` of a connection
TRANSACTION = "BEGIN"
SNAPSHOT = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
NO_TRANSACTION = ""  # each statement is one
_ASKS = "asks"  # in the execution options of a connection
_ACTIVE = 1  # libpq's PQTRANS_ACTIVE: a statement was sent and its answer has not come
_MAY_CREATE = text("SELECT has_schema_privilege(current_schema(), 'CREATE')")
_SESSION = text("SELECT pg_backend_pid()")
_SHARED_SESSIONS = (
    "a pooler shares the server's sessions between transactions: let it keep one for each connection "
    "(PgBouncer: pool_mode = session), or connect directly"
)
_UNANSWERED = (
    "takes connections and does not answer. A pooler does so while all its sessions are in use: "
    "let it have 24 for each replica (PgBouncer: default_pool_size)"
)
_ONLY_READS = (
    "only reads: it is a standby, or default_transaction_read_only is on. "
    "Name the server that takes writes, or all with target_session_attrs=read-write"
)
# What the connection's own options say goes first.
_SET_DEADLINES = """
    SELECT set_config(name, value, false) FROM unnest(%s::text[], %s::text[]) AS deadlines (name, value)
    WHERE name NOT IN (SELECT name FROM pg_settings WHERE source = 'client')
"""
_CLOCK = text("SELECT extract(epoch FROM clock_timestamp())::float8")


class PostgresqlBackend:
    """Connections to one database. Raises StoreUnavailable when it cannot be reached."""

    shared = True

    def __init__(self, url: URL, password_file: Path | None = None) -> None:
        self._name = url.difference_update_query(["password"]).render_as_string(hide_password=True)
        self._closed = threading.Event()
        self.engine = _engine(url, password_file)
        self._asking = self.engine.execution_options(**{_ASKS: True})  # with the same connections
        self._watchdog = _Watchdog(self.engine, TRANSACTION_TIMEOUT)
        self._anchor: tuple[float, float] | None = None
        self._set_forward: float | None = None  # when it was noticed last, on the steady clock

        def prepare(connection: Connection) -> None:
            for name in _deadlines():
                connection.execute(text(f"SET LOCAL {name} = '{MIGRATION_TIMEOUT:.0f}s'"))
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
            migrate(connection)

        try:
            if (refused := _refused(self.engine, self._watchdog)) is not None:
                raise StoreUnavailable(f"{self._name}: {refused}")
            self._watchdog.patience = MIGRATION_TIMEOUT
            self._insist(prepare)  # replicas of the version before are at work on what it locks
            self._watchdog.patience = TRANSACTION_TIMEOUT
            self.set_clock()
        except SQLAlchemyError as error:
            self.close()
            raise StoreUnavailable(f"{self._name}: cannot be opened: {_reason(error)}") from error
        except BaseException:
            self.close()
            raise

    def write(self, function: Callable[[Connection], T]) -> T:
        """Run `function` in a transaction and return its value after the commit.

        `function` may run more than once, each time from the start.

        Raises:
            StoreUnavailable: it was not stored. (When the connection broke in the commit it may have been,
                so writes from outside are idempotent, and those from inside are found again.)
        """
        try:
            return self._insist(function)
        except SQLAlchemyError as error:
            raise StoreUnavailable(f"cannot store: {_reason(error)}") from error

    def _insist(self, function: Callable[[Connection], T]) -> T:
        """Run `function` in a transaction, from the start where another one got in the way of it.

        Raises StoreUnavailable, SQLAlchemyError.
        """
        tries = 0
        while not self._closed.is_set():
            tries += 1
            try:
                return _transaction(self.engine, function)
            except DBAPIError as error:
                if getattr(error.orig, "sqlstate", None) not in _IN_THE_WAY or tries == MAX_TRIES:
                    raise
                time.sleep(random.uniform(0, 0.01 * 2**tries))  # noqa: S311 - no secret
        raise StoreUnavailable("the store is shutting down")

    def read(self, function: Callable[[Connection], T]) -> T:
        """Run `function` on one snapshot, perhaps twice. Raises SQLAlchemyError."""
        return _transaction(self.engine, function, SNAPSHOT)

    def ask(self, function: Callable[[Connection], T]) -> T:
        """Run `function`, which reads by one statement: without BEGIN and COMMIT, each a round trip.

        Raises SQLAlchemyError.
        """
        return _transaction(self._asking, function, NO_TRANSACTION)

    def clock(self) -> float:
        """The database's time, seconds since 1970."""
        return self._clock_at(_steady())

    def since_set_forward(self) -> float:
        """Seconds since the server's clock was found set forward; infinite when it never was."""
        return math.inf if self._set_forward is None else _steady() - self._set_forward

    def set_clock(self) -> None:
        """Compare with the server's clock. Raises StoreUnavailable, SQLAlchemyError; the old one goes on.

        When the answer took long, or we were frozen while it came, nobody knows of which moment it tells: by
        a clock that is wrong by seconds we would hold leases that others take over.
        """

        def compare(connection: Connection) -> None:
            for _ in range(CLOCK_TRIES):
                before = _steady()
                then = float(connection.execute(_CLOCK).scalar_one())
                took = _steady() - before
                if took <= MAX_CLOCK_ANSWER:
                    mark = before + took / 2
                    if self._anchor is not None and then - self._clock_at(mark) > MAX_CLOCK_ERROR:
                        self._set_forward = mark
                    self._anchor = (then, mark)
                    return
            raise StoreUnavailable(f"{self._name}: takes {took:.1f} s to tell the time")

        _transaction(self.engine, compare)

    def _clock_at(self, steady: float) -> float:
        then, mark = self._anchor or (0.0, 0.0)
        return then + (steady - mark)

    def close(self) -> None:
        """Take no more writes and close the connections."""
        self._closed.set()
        self._watchdog.close()
        self.engine.dispose()


def examine(url: URL, password_file: Path | None = None) -> str:
    """Ask the server without changing anything; return what was found. Raises StoreUnavailable."""
    engine = _engine(url, password_file)
    watchdog = _Watchdog(engine, TRANSACTION_TIMEOUT)
    try:
        if (refused := _refused(engine, watchdog)) is not None:
            raise StoreUnavailable(refused)
        with engine.connect() as connection:
            server = connection.execute(text("SHOW server_version")).scalar_one()
            if connection.execute(text("SHOW transaction_read_only")).scalar_one() == "on":
                raise StoreUnavailable(_ONLY_READS)
            if not connection.execute(_MAY_CREATE).scalar_one():
                raise StoreUnavailable("the user may not create tables in its schema: make it the owner")
            return f"PostgreSQL {server}, version {version_of(connection) or 'none yet'}"
    except SQLAlchemyError as error:
        raise StoreUnavailable(_reason(error)) from error
    finally:
        watchdog.close()
        engine.dispose()


@contextlib.contextmanager
def reading(url: str, password_file: Path | None = None) -> Iterator[Connection]:
    """A connection on one snapshot, which changes nothing. Raises StoreUnavailable, SQLAlchemyError."""
    engine = _engine(make_url(url), password_file, SNAPSHOT)
    watchdog = _Watchdog(engine, TRANSACTION_TIMEOUT)
    try:
        with contextlib.ExitStack() as connected:
            try:
                connection = connected.enter_context(engine.begin())
            except DBAPIError as error:
                if watchdog.has_shut:
                    raise StoreUnavailable(f"the store {_UNANSWERED}") from error
                raise
            watchdog.close()  # what is read row by row for long looks to it like what got no answer
            yield connection
    finally:
        watchdog.close()
        engine.dispose()


def clock_of(url: str, password_file: Path | None = None) -> float:
    """The database's time, seconds since 1970. Raises StoreUnavailable, SQLAlchemyError."""
    with reading(url, password_file) as connection:
        return float(connection.execute(_CLOCK).scalar_one())


def why_unreadable(_: str, error: SQLAlchemyError) -> str:
    """What `reading` met: the driver names the server."""
    return _reason(error)


def _engine(url: URL, password_file: Path | None, begin: str = TRANSACTION) -> Engine:
    """Connections whose transactions begin with that statement, unless their `info` names another one."""
    try:
        engine = create_engine(
            url,
            isolation_level="AUTOCOMMIT",  # of the driver: we send BEGIN, see `_begin_with`
            pool_size=POOL_SIZE,
            max_overflow=0,
            pool_timeout=POOL_TIMEOUT,
            pool_use_lifo=True,  # few in turn: each must have seen a statement five times to prepare it
            json_serializer=dumps,
            hide_parameters=True,  # an error must not quote what an action keeps, such as a configuration
            connect_args=_connect_arguments(url),
        )
    except ModuleNotFoundError as error:
        name = url.render_as_string(hide_password=True)
        raise StoreUnavailable(
            f"{name} needs an extra: pip install 'self-healing-fabric[postgresql]'"
        ) from error
    _begin_with(engine, begin)
    engine.dialect.use_insertmanyvalues_wo_returning = True  # many rows in one statement
    event.listen(engine, "connect", _set_deadlines)
    for execute in ("do_execute", "do_executemany"):
        event.listen(engine, execute, _refuse_to_write)
    event.listen(engine, "do_executemany", _one_by_one)
    event.listen(engine, "handle_error", _leave_who_only_reads)
    if password_file is not None:
        event.listen(engine, "do_connect", _with_password_of(password_file))
    return engine


def _begin_with(engine: Engine, statement: str) -> None:
    """Send BEGIN ourselves: to set the driver to another kind of transaction costs more than to begin one."""

    def do_begin(connection: Any) -> None:
        if begin := connection.info.get(_BEGIN, statement):
            connection.driver_connection.execute(begin, prepare=False)

    # The dialect's own hook: with a listener for the event "begin", every statement looks for listeners, too.
    engine.dialect.do_begin = do_begin  # type: ignore[assignment, method-assign]


def _transaction(engine: Engine, function: Callable[[Connection], T], begin: str = TRANSACTION) -> T:
    """Run `function` in a transaction, once more when the connection turns out to be gone. Raises DBAPIError.

    A server that was restarted meanwhile costs nobody an error, and nobody has to ask before each transaction
    whether it was. It is not repeated after the COMMIT was sent, nor by who was frozen: others may have taken
    over by then.
    """
    until, committing = _steady() + FRESH_CONNECTION, False
    try:
        with engine.connect() as connection:
            connection.info[_BEGIN] = begin
            transaction = connection.begin()
            value = function(connection)
            committing = True
            transaction.commit()
            return value
    except DBAPIError as error:
        if committing or not error.connection_invalidated or _steady() > until:
            raise
    with engine.connect() as connection:
        connection.info[_BEGIN] = begin
        with connection.begin():
            return function(connection)


def _leave_who_only_reads(context: ExceptionContext) -> None:
    """As if the connection were gone, and with it the other ones of the pool."""
    if getattr(context.original_exception, "sqlstate", None) == _READ_ONLY:
        context.is_disconnect = True


def _refused(engine: Engine, watchdog: _Watchdog) -> str | None:
    """Why it cannot be used by us, if so. Raises DBAPIError."""
    try:
        return None if _keeps_sessions(engine) else _SHARED_SESSIONS
    except DBAPIError:
        if watchdog.has_shut:
            return _UNANSWERED
        raise


def _keeps_sessions(engine: Engine) -> bool:
    """Whether each connection has a session of the server to itself, between transactions, too."""
    with engine.connect() as one:
        one.info[_BEGIN] = NO_TRANSACTION
        one.detach()  # it is not counted, nor kept: the pool may be of one connection
        with engine.connect() as another:
            another.info[_BEGIN] = NO_TRANSACTION
            sessions = [each.execute(_SESSION).scalar_one() for each in (one, another) * 2]
    return bool(sessions[:2] == sessions[2:] and sessions[0] != sessions[1])


def _with_password_of(file: Path) -> Callable[[Dialect, ConnectionPoolEntry, Any, dict[str, Any]], None]:
    """Read the password for each new connection: one that was rotated needs no restart."""

    def connect(_: Dialect, __: ConnectionPoolEntry, ___: Any, arguments: dict[str, Any]) -> None:
        try:
            arguments["password"] = read_secret(file)
        except SecretUnusable as error:
            raise StoreUnavailable(str(error)) from error

    return connect


def _refuse_to_write(_: Any, __: str, ___: Any, context: ExecutionContext) -> None:
    """Let who asks do nothing but SELECT: outside of a transaction the server refuses no write."""
    if _ASKS in context.execution_options and not getattr(context.invoked_statement, "is_select", False):
        raise InvalidRequestError("who asks may only read")


def _one_by_one(cursor: DBAPICursor, statement: str, parameters: Sequence[Any], _: Any) -> bool:
    """Execute the other statements with many rows one after the other, instead of psycopg's pipeline.

    psycopg ends a pipeline with Sync and Flush, and a Flush stops the server's clock of IDLE_TIMEOUT: a
    replica that is frozen right after it would hold its locks for ever.
    """
    for row in parameters:
        cursor.execute(statement, row)
    return True


def _deadlines() -> dict[str, float]:
    """What the server ends by itself, and after how many seconds."""
    return {
        "statement_timeout": TRANSACTION_TIMEOUT,
        "lock_timeout": POOL_TIMEOUT,
        "idle_in_transaction_session_timeout": IDLE_TIMEOUT,
    }


def _set_deadlines(connection: Any, _: Any) -> None:
    deadlines = {name: f"{seconds * 1000:.0f}" for name, seconds in _deadlines().items()}
    connection.execute(_SET_DEADLINES, [list(deadlines), list(deadlines.values())], prepare=False)


def _connect_arguments(url: URL) -> dict[str, Any]:
    """How a connection notices that the server is gone; what the URL itself says goes first."""
    defaults = {
        "application_name": "self-healing-fabric",
        "connect_timeout": 3,
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 2,
        "tcp_user_timeout": int(TRANSACTION_TIMEOUT * 1000),
    }
    return {name: value for name, value in defaults.items() if name not in url.query}


def _steady() -> float:
    """Seconds on a clock that goes on while the machine is suspended, where there is one."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def _reason(error: BaseException) -> str:
    return str(getattr(error, "orig", None) or error).strip()


class _Watchdog:
    """Shuts the socket of a connection whose statement gets no answer for `patience` seconds.

    It looks once a second. Stuck is what waits for an answer at every look and between them got none, nor
    changed hands: a busy connection does so all the time, so it is never mistaken for a stuck one.
    """

    def __init__(self, engine: Engine, patience: float) -> None:
        self.patience = patience
        self.has_shut = False  # any, ever
        self._steps: dict[Any, int] = {}  # how often each open connection got an answer or changed hands
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        event.listen(engine, "connect", self._went_on, insert=True)  # before the first statement on it
        event.listen(engine, "checkout", self._went_on)
        event.listen(engine, "checkin", self._went_on)
        event.listen(engine, "do_execute", self._execute)
        event.listen(engine, "close", self._gone)
        event.listen(engine, "close_detached", self._gone)
        self._thread = threading.Thread(target=self._run, name="store-watchdog", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stopping.set()
        self._thread.join()

    def _went_on(self, connection: Any, *_: Any) -> None:
        if connection is not None:  # at the return of one that broke
            with self._lock:
                self._steps[connection] = self._steps.get(connection, 0) + 1

    def _execute(self, cursor: Any, statement: str, parameters: Any, _: Any) -> bool:
        # Not after it by an event of the engine: with one, every statement looks for listeners of all kinds.
        cursor.execute(statement, parameters)
        self._went_on(cursor.connection)
        return True

    def _gone(self, connection: Any, *_: Any) -> None:
        with self._lock:
            self._steps.pop(connection, None)

    def _run(self) -> None:
        waiting: dict[Any, tuple[int, int]] = {}  # steps, and the looks since the last of them
        while not self._stopping.wait(1.0):
            with self._lock:
                open_now = dict(self._steps)
            looks = {}
            for connection, steps in open_now.items():
                if connection.closed or connection.info.transaction_status != _ACTIVE:
                    continue
                before, count = waiting.get(connection, (steps, 0))
                looks[connection] = (steps, count + 1 if before == steps else 1)
                if looks[connection][1] > self.patience:
                    self.has_shut = True
                    with contextlib.suppress(Exception):  # it may be closed just now
                        _shut(connection.fileno())
            waiting = looks


def _shut(descriptor: int) -> None:
    with socket.socket(fileno=os.dup(descriptor)) as duplicate:
        duplicate.shutdown(socket.SHUT_RDWR)
