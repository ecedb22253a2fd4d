"""One thread writes, and commits for many at once.

With a connection a thread, SQLite's writers wait for each other by polling, and the slowest request takes ten
times as long as with one writer. Here every write is a function put into a queue; the writer runs all that
have gathered in one transaction and answers each only after the commit. They rarely fail, so they run without
savepoints first; when one fails, all is rolled back and every function runs once more, each within a
savepoint, so that it harms no other. A commit that fails, or a database that gives the transaction up, fails
them all, and nobody was told that it worked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from self_healing_fabric.errors import StoreUnavailable
from self_healing_fabric.store.batching import Answer, Batcher

T = TypeVar("T")
Job = Callable[[Connection], Any]


class Writer:
    """Writes through one thread. `write` may be called from any thread.

    Args:
        engine: of one connection.
        before_commit: raises StoreUnavailable when nothing may be committed.
    """

    def __init__(self, engine: Engine, before_commit: Callable[[Connection], None]) -> None:
        self._engine = engine
        self._before_commit = before_commit
        self._batcher = Batcher("store-writer", self._commit)

    def write(self, function: Callable[[Connection], T]) -> T:
        """Run `function` in a transaction and return its value after the commit. It may run twice.

        Raises:
            StoreUnavailable: it was not stored, or not in time. (After a timeout it may still be stored, so
                writes from outside are idempotent.)
        """
        value: T = self._batcher.put(function)
        return value

    def close(self) -> None:
        """Write what is queued, then stop."""
        self._batcher.close()

    def _commit(self, jobs: list[Job]) -> list[Answer]:
        try:
            return self._transaction(jobs, self._plainly)
        except _Again:
            return self._transaction(jobs, self._within_savepoints)

    def _transaction(
        self, jobs: list[Job], run: Callable[[Connection, list[Job]], list[Answer]]
    ) -> list[Answer]:
        with self._engine.begin() as connection:
            answers = run(connection, jobs)
            self._before_commit(connection)
            return answers

    def _plainly(self, connection: Connection, jobs: list[Job]) -> list[Answer]:
        answers: list[Answer] = []
        for function in jobs:
            try:
                answers.append((function(connection), None))
            except Exception as error:
                _check_transaction(connection, error)
                raise _Again from error
        return answers

    def _within_savepoints(self, connection: Connection, jobs: list[Job]) -> list[Answer]:
        answers: list[Answer] = []
        for function in jobs:
            try:
                with connection.begin_nested():
                    answers.append((function(connection), None))
            except Exception as error:  # noqa: BLE001 - belongs to this caller, who gets it
                _check_transaction(connection, error)
                answers.append((None, _as_ours(error)))
        return answers


class _Again(Exception):
    """A function failed: roll back and run each by itself."""


def _check_transaction(connection: Connection, error: BaseException) -> None:
    """Raise when the database gave up the whole transaction, and with it the jobs that had gone well.

    SQLite does so when the disk is full or fails, and its driver's `commit` then does nothing, silently.
    """
    driver: Any = connection.connection.driver_connection
    if driver.in_transaction:
        return
    # The first error says what happened; those after it only what broke then.
    while error.__context__ is not None:
        error = error.__context__
    raise StoreUnavailable(str(error))


def _as_ours(error: BaseException) -> BaseException:
    if isinstance(error, SQLAlchemyError):
        return StoreUnavailable(f"cannot store: {getattr(error, 'orig', None) or error}")
    return error
