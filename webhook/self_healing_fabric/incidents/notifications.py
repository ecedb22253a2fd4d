"""Alertmanager's notifications: their shape, and their way from the inbox into alerts.

The request path validates a notification and keeps it as it came, one row whatever its size. It is worked in
later, in the order of arrival, in the transaction that also gives its alerts their incident; so nothing that
was acknowledged waits in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import structlog
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Connection, Row
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError

from self_healing_fabric.incidents.ingestion import Moment, identity_time, store_received
from self_healing_fabric.incidents.models import Alert
from self_healing_fabric.store import statements

log = structlog.get_logger()

MOST_TRUNCATED = 2**64 - 1  # Alertmanager's own type
MAX_BYTES = 100_000  # of notifications in one transaction: what comes meanwhile waits for it

Fingerprint = Annotated[str, Field(min_length=1, max_length=64)]


class WebhookAlert(BaseModel):
    """One alert of the notification. Keys that newer versions add are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    status: Literal["firing", "resolved"]
    labels: dict[str, str]
    annotations: dict[str, str] = {}
    startsAt: Moment  # noqa: N815 - Alertmanager's name
    fingerprint: Fingerprint

    def alert(self) -> Alert:
        """The alert as the fabric stores it."""
        starts_at = identity_time(self.startsAt)
        return Alert(self.fingerprint, starts_at, self.status, self.labels, self.annotations)


class WebhookMessage(BaseModel):
    """Alertmanager's webhook body, version 4 (https://prometheus.io/docs/alerting/latest/configuration/#webhook_config)."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    version: Literal["4"]
    alerts: tuple[WebhookAlert, ...]
    truncatedAlerts: int = Field(0, ge=0, le=MOST_TRUNCATED, strict=True)  # noqa: N815 - Alertmanager's name


class NotWorkedIn(Exception):
    """The database refuses a notification, and nothing of the transaction may be kept.

    Not the database's own error: that the store takes for trouble that goes by, and it would come for ever.
    """


def work_in(connection: Connection) -> None:
    """Take the oldest notifications out of the inbox and store their alerts.

    One that fails unexpectedly goes back there with its error and harms no other: it is found by storing
    each by itself, when all at once have failed.
    """
    waiting = statements.take_from_inbox(connection, MAX_BYTES)
    if _failure(connection, waiting) is None:
        return
    for row in waiting:
        if (error := _failure(connection, [row])) is not None:
            log.error("notification_failed", inbox=row.id, exc_info=error)
            statements.put_back_in_inbox(connection, row, f"{type(error).__name__}: {error}")


def work_in_all(connection: Connection) -> None:
    """As `work_in`, without the savepoint: where one fails, all do.

    Raises:
        NotWorkedIn: the database refuses one; any other error: it cannot be read. `work_in` finds out which.
    """
    try:
        _store(connection, statements.take_from_inbox(connection, MAX_BYTES))
    except (DataError, IntegrityError) as error:
        raise NotWorkedIn(str(error)) from error


def _store(connection: Connection, rows: Sequence[Row[Any]]) -> None:
    messages = ((WebhookMessage.model_validate_json(row.body), row.received_at) for row in rows)
    store_received(connection, ((item.alert(), at) for told, at in messages for item in told.alerts))


def _failure(connection: Connection, rows: Sequence[Row[Any]]) -> Exception | None:
    """Store the alerts of notifications, or, when it is they that cannot be stored, none and say why not."""
    try:
        with connection.begin_nested():
            _store(connection, rows)
    except Exception as error:
        if isinstance(error, DBAPIError) and not isinstance(error, DataError | IntegrityError):
            raise  # the database's trouble, not the notifications': they are tried again as they are
        return error
    return None
