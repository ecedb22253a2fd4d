"""Taking alerts in: one idempotent write for each, so that a repeated notification changes nothing.

Alertmanager delivers at least once, two peers of a pair deliver twice, and a stale `firing` can follow its
own `resolved`. The identity is `fingerprint` and `startsAt`; the webhook sends that time with nanoseconds and
the API v2 of the same Alertmanager with milliseconds, so it is cut to milliseconds everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, AwareDatetime, BeforeValidator
from sqlalchemy import Connection

from self_healing_fabric.incidents.limits import bounded
from self_healing_fabric.incidents.models import Alert
from self_healing_fabric.store import statements


def _exists_in_utc(moment: datetime) -> datetime:
    """Refuse what overflows in UTC, such as year 1 in an eastern zone: a 503 would be sent again for ever."""
    try:
        return moment.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("the time does not exist in UTC") from error


def _is_text(value: object) -> object:
    """Refuse numbers, also as text: they would pass as seconds since 1970. Alertmanager sends RFC 3339."""
    if not isinstance(value, str) or "T" not in value.upper():
        raise ValueError("give a time as 2026-01-31T12:00:00Z")
    return value


Moment = Annotated[AwareDatetime, AfterValidator(_exists_in_utc), BeforeValidator(_is_text)]


OWN_ALERTS = frozenset({"ShfEscalation", "ShfHealing"})


def store_alerts(connection: Connection, alerts: Iterable[Alert], now: float) -> None:
    """Store the alerts inside the caller's transaction; incidents are opened later, by the orchestrator."""
    store_received(connection, ((alert, now) for alert in alerts))


def store_received(connection: Connection, received: Iterable[tuple[Alert, float]]) -> None:
    """Store alerts of many notifications at once, in the order in which they came, each with its time."""
    # What the fabric itself says in Alertmanager is no problem of its own, whatever the routes there do.
    foreign = (each for each in received if each[0].labels.get("alertname") not in OWN_ALERTS)
    statements.upsert_alerts(connection, [_row(alert, at) for alert, at in foreign])


def _row(alert: Alert, now: float) -> dict[str, Any]:
    labels, annotations = bounded(alert.labels, alert.annotations)
    return {
        "fingerprint": alert.fingerprint,
        "starts_at": alert.starts_at,
        "status": alert.status,
        "labels": labels,
        "annotations": annotations,
        "received_at": now,
        "ended_at": None if alert.firing else now,
    }


def identity_time(starts_at: datetime) -> str:
    """`startsAt` as part of an alert's identity: UTC, cut (not rounded) to milliseconds."""
    return starts_at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{starts_at.microsecond // 1000:03d}Z"
