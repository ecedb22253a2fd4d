"""Durable state: incidents, alerts, actions, timers and the append-only timeline."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from self_healing_fabric.errors import StoreUnavailable
from self_healing_fabric.store.connections import ProcessLock, open_engine
from self_healing_fabric.store.writer import Writer

T = TypeVar("T")

__all__ = ["Store"]


class Store:
    """The open store. Reads run on pooled connections in the caller's thread, writes on the writer thread.

    Raises:
        StoreInUse: another process holds the store.
        StoreUnavailable: the file cannot be opened.
    """

    def __init__(self, url: str) -> None:
        self._lock = ProcessLock(url)
        self._lock.acquire()
        try:
            self._engine = open_engine(url)
        except StoreUnavailable:
            self._lock.release()
            raise
        self._readers = self._engine.execution_options(read_only=True)
        self._writer = Writer(self._engine)

    def write(self, function: Callable[[Connection], T]) -> T:
        """Run `function` in a transaction on the writer thread and return its value once it is on disk."""
        return self._writer.write(function)

    def read(self, function: Callable[[Connection], T]) -> T:
        """Run `function` on a snapshot of what is committed. Raises StoreUnavailable."""
        try:
            with self._readers.begin() as connection:
                return function(connection)
        except SQLAlchemyError as error:
            raise StoreUnavailable(
                f"cannot read the store: {getattr(error, 'orig', None) or error}"
            ) from error

    def close(self) -> None:
        """Finish the queued writes and let the next process in."""
        self._writer.close()
        self._engine.dispose()
        self._lock.release()
