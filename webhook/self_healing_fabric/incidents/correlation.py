"""Which alerts are one problem: the first version joins the alerts of one service.

A service that hangs misses its heartbeat, answers late and fails its callers' requests; healing each of its
alerts by itself would restart it three times. An alert that names no configured service becomes an incident
of its own that people see, and that nothing acts on: a label is a stranger's text and never chooses a target.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Row

from self_healing_fabric.incidents import timeline
from self_healing_fabric.incidents.lifecycle import State
from self_healing_fabric.incidents.models import Alert, alert_of
from self_healing_fabric.incidents.timeline import Entry, Kind
from self_healing_fabric.store import statements

BATCH = 200  # alerts in one transaction
SEVERITIES = ("critical", "warning", "info", "none")  # worst first


def open_incidents(connection: Connection, services: Collection[str], now: float) -> list[str | None]:
    """Give every new firing alert its incident; return each opened one's service (None: unknown)."""
    opened: list[str | None] = []
    for row in statements.unassigned_alerts(connection, BATCH):
        alert = alert_of(row)
        service = alert.labels.get("service")
        known = service is not None and service in services
        subject = f"service/{service}" if known else f"alert/{alert.fingerprint}"
        current = statements.open_incident_of(connection, subject)
        if current is None:
            incident_id = _open(connection, alert, subject, known, now)
            opened.append(service if known else None)
        else:
            incident_id = current.id
            _join(connection, current, alert, now)
        statements.assign_alert(connection, row.id, incident_id)
    return opened


def _open(connection: Connection, alert: Alert, subject: str, known: bool, now: float) -> str:
    incident_id = new_id(now)
    name = alert.labels.get("alertname", "alert without a name")
    title = alert.annotations.get("summary") or name
    statements.insert_incident(
        connection,
        {
            "id": incident_id,
            "subject": subject,
            "service": alert.labels.get("service"),
            "known_service": known,
            "title": title[: timeline.MAX_MESSAGE],
            "severity": _severity(alert),
            "signal": alert.labels.get("signal"),
            "state": State.DETECTED.value,
            "opened_at": now,
            "updated_at": now,
            "due_at": now,
            "plan": [],
        },
    )
    timeline.append(
        connection, incident_id, [_alert_entry(alert, f"{name} opened the incident: {title}")], now
    )
    return incident_id


def _join(connection: Connection, current: Row[Any], alert: Alert, now: float) -> None:
    name = alert.labels.get("alertname", "an alert without a name")
    entries = [_alert_entry(alert, f"{name} joined the incident.")]
    worst = min(current.severity, _severity(alert), key=SEVERITIES.index)
    if current.state == State.RESOLVED.value:
        entries.append(Entry(Kind.STATE, "Re-opened: an alert came back after the incident was resolved."))
        statements.overtake(connection, current.id, reopened(current.relapses, now) | {"severity": worst})
    else:
        # Only the severity: the step in hand keeps its lease, and reads all alerts when it diagnoses.
        statements.annotate(connection, current.id, {"severity": worst})
    timeline.append(connection, current.id, entries, now)


def reopened(relapses: int, now: float) -> dict[str, Any]:
    """The columns of an incident that starts over after a relapse."""
    return {
        "state": State.DIAGNOSING.value,
        "relapses": relapses + 1,
        "outcome": None,
        "resolved_at": None,
        "verification": None,
        "approved_by": None,
        "updated_at": now,
        "due_at": now,
        "waiting_for": None,
        "waiting_since": None,
    }


def _severity(alert: Alert) -> str:
    severity = alert.labels.get("severity", "warning")
    return severity if severity in SEVERITIES else "warning"


def _alert_entry(alert: Alert, message: str) -> Entry:
    data = {"fingerprint": alert.fingerprint, "starts_at": alert.starts_at, "labels": dict(alert.labels)}
    return Entry(Kind.ALERT, message, data | {"annotations": dict(alert.annotations)})


def new_id(now: float) -> str:
    """An id that sorts by time and can be read out on the telephone: 20261122-130512-a3f1c2d4."""
    return f"{datetime.fromtimestamp(now, UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(4)}"
