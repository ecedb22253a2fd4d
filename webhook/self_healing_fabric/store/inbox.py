"""Notifications that came together are kept together, in one transaction.

The answer to each waits for its commit. On PostgreSQL a transaction of its own, with its connection from the
pool, costs more than all else that is done for a notification; on SQLite it is the statement.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection

from self_healing_fabric.errors import StoreUnavailable
from self_healing_fabric.store import statements
from self_healing_fabric.store.batching import Answer, Batcher


class Inbox:
    """Keeps notifications until they are worked in. `put` may be called from any thread.

    Args:
        write: runs a function in a transaction and returns after the commit.
    """

    def __init__(self, write: Callable[[Callable[[Connection], Any]], Any]) -> None:
        self._write = write
        self._batcher = Batcher("store-inbox", self._together)

    def put(self, body: bytes, received_at: float) -> None:
        """Keep a notification as it came; it is on disk when this returns.

        Args:
            body: as it was sent.
            received_at: seconds since 1970.

        Raises:
            StoreUnavailable: it was not kept, or not in time. (After a timeout it may still be.)
        """
        self._batcher.put((body, received_at))

    def close(self) -> None:
        """Keep what is queued, then stop."""
        self._batcher.close()

    def _together(self, notifications: list[tuple[bytes, float]]) -> list[Answer]:
        try:
            self._write(lambda connection: statements.put_in_inbox(connection, notifications))
        except StoreUnavailable as error:
            return [(None, StoreUnavailable(str(error))) for _ in notifications]
        return [(None, None)] * len(notifications)
