"""Durable state: incidents, alerts, actions, timers and the append-only timeline."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from self_healing_fabric.errors import StoreUnavailable
from self_healing_fabric.store import postgresql, sqlite
from self_healing_fabric.store.inbox import Inbox
from self_healing_fabric.store.migrations import version_of
from self_healing_fabric.store.postgresql import PostgresqlBackend
from self_healing_fabric.store.schema import VERSION
from self_healing_fabric.store.sqlite import SqliteBackend

T = TypeVar("T")

__all__ = ["Store", "clock_of", "examine", "look"]


def examine(url: str, password_file: Path | None = None) -> str:
    """Look at the store without changing it; return what was found. Raises StoreUnavailable."""
    if url.startswith("sqlite"):
        return sqlite.examine(url)
    return postgresql.examine(make_url(url), password_file)


def look(url: str, question: Callable[[Connection], T], password_file: Path | None = None) -> T:
    """Ask the store something on one snapshot, changing nothing, also while a fabric uses it.

    Raises:
        StoreUnavailable: it cannot be opened, or is not of this program's version.
    """
    backend = sqlite if url.startswith("sqlite") else postgresql
    try:
        with backend.reading(url, password_file) as connection:
            found = version_of(connection)
            if found != VERSION:
                raise StoreUnavailable(
                    f"the store is of version {found or 'none'}, this program needs {VERSION}: "
                    "`shf serve` brings it there"
                )
            return question(connection)
    except SQLAlchemyError as error:
        raise StoreUnavailable(f"cannot read the store: {backend.why_unreadable(url, error)}") from error


def clock_of(url: str, password_file: Path | None = None) -> float:
    """The time that all users of the store agree on, without opening it. Raises StoreUnavailable."""
    backend = sqlite if url.startswith("sqlite") else postgresql
    try:
        return float(backend.clock_of(url, password_file))
    except SQLAlchemyError as error:
        raise StoreUnavailable(f"cannot read the store: {backend.why_unreadable(url, error)}") from error


class Store:
    """The open store: a SQLite file of one process, or a PostgreSQL database that replicas share.

    Args:
        url: `sqlite:///...` or `postgresql+psycopg://...`.
        password_file: holds the password of the PostgreSQL user, and is read again for each new connection;
            without it the URL's own is used.

    Raises:
        StoreInUse: another process holds the SQLite file.
        StoreUnavailable: the file cannot be opened, the server cannot be reached.
    """

    def __init__(self, url: str, password_file: Path | None = None) -> None:
        self._closed = threading.Event()
        self._backend: SqliteBackend | PostgresqlBackend
        if url.startswith("sqlite"):
            self._backend = SqliteBackend(url)
        else:
            self._backend = PostgresqlBackend(make_url(url), password_file)
        self.inbox = Inbox(self.write)

    @property
    def shared(self) -> bool:
        """Whether other replicas may be at work on the same store."""
        return self._backend.shared

    def clock(self) -> float:
        """The time that all users of the store agree on, seconds since 1970."""
        return self._backend.clock()

    def since_set_forward(self) -> float:
        """Seconds since this process noticed that the store's clock was set forward; infinite if never."""
        return self._backend.since_set_forward()

    def set_clock(self) -> None:
        """Compare the clock with the store's. Raises StoreUnavailable; then the clock just goes on."""
        self._check_open()
        try:
            self._backend.set_clock()
        except SQLAlchemyError as error:
            raise StoreUnavailable(f"cannot read the store's clock: {error}") from error

    def write(self, function: Callable[[Connection], T]) -> T:
        """Run `function` in a transaction and return its value once it is on disk.

        `function` only talks to the database and may run more than once, each time from the start.
        """
        return self._backend.write(function)

    def read(self, function: Callable[[Connection], T]) -> T:
        """Run `function` on a snapshot of what is committed. Raises StoreUnavailable, also after `close`."""
        return self._reading(self._backend.read, function)

    def ask(self, function: Callable[[Connection], T]) -> T:
        """As `read`, for a `function` of one statement: that is a snapshot by itself.

        On PostgreSQL it is one round trip to the server instead of three.
        """
        return self._reading(self._backend.ask, function)

    def _reading(
        self, how: Callable[[Callable[[Connection], T]], T], function: Callable[[Connection], T]
    ) -> T:
        self._check_open()
        try:
            return how(function)
        except SQLAlchemyError as error:
            raise StoreUnavailable(
                f"cannot read the store: {getattr(error, 'orig', None) or error}"
            ) from error

    def close(self) -> None:
        """Finish the queued writes and close the connections."""
        self._closed.set()
        self.inbox.close()
        self._backend.close()

    def _check_open(self) -> None:
        """A pool that was disposed would open a new connection, which nobody closes."""
        if self._closed.is_set():
            raise StoreUnavailable("the store is shutting down")
