"""One thread writes, and commits for many at once.

With a connection a thread, SQLite's writers wait for each other by polling, and the slowest request takes ten
times as long as with one writer. Here every write is a function put into a queue; the writer runs all that
have gathered in one transaction and answers each only after the commit. They rarely fail, so they run without
savepoints first; when one fails, all is rolled back and every function runs once more, each within a
savepoint, so that it harms no other. A commit that fails, or a database that gives the transaction up, fails
them all, and nobody was told that it worked.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from self_healing_fabric.errors import StoreUnavailable

T = TypeVar("T")
Job = tuple[Callable[[Connection], Any], "Future[Any]"]
Answer = tuple[Any, BaseException | None]

MAX_BATCH = 200  # writes in one commit; bounds how long the first of them waits
MAX_QUEUE = 10_000  # writes that may wait; beyond it the webhook answers 503 instead of eating memory
WRITE_TIMEOUT = 8.0  # seconds; shorter than the 10 s after which Alertmanager gives up on an answer


class Writer:
    """The queue and its thread. `write` may be called from any thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()  # a third of the cost of a Queue
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._thread.start()

    def write(self, function: Callable[[Connection], T]) -> T:
        """Run `function` in a transaction and return its value after the commit. It may run twice.

        Raises:
            StoreUnavailable: it was not stored, or not in time. (After a timeout it may still be stored, so
                writes from outside are idempotent.)
        """
        future: Future[T] = Future()
        if self._closed.is_set():
            raise StoreUnavailable("the store is shutting down")
        if self._jobs.qsize() >= MAX_QUEUE:  # by a few more, where several threads look at once
            raise StoreUnavailable(f"{MAX_QUEUE} writes are waiting already")
        self._jobs.put((function, future))
        try:
            return future.result(timeout=WRITE_TIMEOUT)
        except TimeoutError as error:
            future.cancel()
            raise StoreUnavailable(f"not stored within {WRITE_TIMEOUT:g} s") from error

    def close(self) -> None:
        """Write what is queued, then stop."""
        self._closed.set()
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (batch := self._gather()) is not None:
            self._commit(batch)

    def _gather(self) -> list[Job] | None:
        """Wait for a job and take all that wait behind it; None when closed and empty."""
        first = self._jobs.get()
        if first is None:
            return None
        batch = [first]
        while len(batch) < MAX_BATCH:
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                break
            if job is None:
                self._jobs.put(None)  # close after this batch
                break
            batch.append(job)
        return batch

    def _commit(self, batch: list[Job]) -> None:
        live = [(function, future) for function, future in batch if future.set_running_or_notify_cancel()]
        try:
            try:
                answers = self._transaction(live, self._plainly)
            except _Again:
                answers = self._transaction(live, self._within_savepoints)
        except Exception as error:  # noqa: BLE001 - nothing of the batch is stored: everyone must hear it
            reason = getattr(error, "orig", None) or error
            for _, future in live:
                future.set_exception(StoreUnavailable(f"cannot store: {reason}"))
            return
        for (_, future), (value, failure) in zip(live, answers, strict=True):
            if failure is None:
                future.set_result(value)
            else:
                future.set_exception(_as_ours(failure))

    def _transaction(
        self, live: list[Job], run: Callable[[Connection, list[Job]], list[Answer]]
    ) -> list[Answer]:
        with self._engine.begin() as connection:
            return run(connection, live)

    def _plainly(self, connection: Connection, live: list[Job]) -> list[Answer]:
        answers: list[Answer] = []
        for function, _ in live:
            try:
                answers.append((function(connection), None))
            except Exception as error:
                _check_transaction(connection, error)
                raise _Again from error
        return answers

    def _within_savepoints(self, connection: Connection, live: list[Job]) -> list[Answer]:
        answers: list[Answer] = []
        for function, _ in live:
            try:
                with connection.begin_nested():
                    answers.append((function(connection), None))
            except Exception as error:  # noqa: BLE001 - belongs to this caller, who gets it
                _check_transaction(connection, error)
                answers.append((None, error))
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
