"""An alert that is stored and then refused: by Python, or by a rule of the database."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from self_healing_fabric.incidents import notifications

REFUSALS: tuple[Callable[[], Exception], ...] = (
    partial(ValueError, "odd"),
    partial(IntegrityError, "INSERT", {}, Exception("check")),
)


def refuse(monkeypatch: pytest.MonkeyPatch, fingerprint: str, error: Callable[[], Exception]) -> None:
    """Raise the error whenever an alert of this fingerprint was stored, with all that came with it."""
    store_received = notifications.store_received

    def store_and_refuse(connection: Connection, received: Any) -> None:
        found = list(received)
        store_received(connection, found)
        if fingerprint in {alert.fingerprint for alert, _ in found}:
            raise error()

    monkeypatch.setattr(notifications, "store_received", store_and_refuse)
