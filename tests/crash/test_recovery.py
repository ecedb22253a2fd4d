"""A process that starts anew finds a thousand open incidents and takes all of them up.

How long that takes is printed and not demanded: that depends on the machine.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from replicas import Replicas, wait_for
from sqlalchemy import Connection
from surroundings import Surroundings

from self_healing_fabric.store import Store, statements

pytestmark = pytest.mark.e2e

INCIDENTS = 1000
STATES = ("detected", "diagnosing", "awaiting_approval", "recovering", "verifying", "escalated", "resolved")
EFFECT_TIMEOUT = 3.0  # seconds; `recovery.http.timeout`
ACTIONS = {
    "intended": 1,
    "started": 2,
}  # an unfinished action of each kind for so many of ten in `recovering`


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty store."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'shf.db'}"
    else:
        yield request.getfixturevalue("postgresql").create_database("recovery")


def left_behind(url: str, world: Surroundings) -> None:
    """What a process that was killed amid its work has left: leases, timers, unfinished actions."""
    store = Store(url)
    now = store.clock()
    rows = [_incident(number, service, now) for number, service in enumerate(world.services)]

    def write(connection: Connection) -> None:
        statements.insert_incidents(connection, rows)
        alerts = [_alert(row, now) for row in rows]
        statements.upsert_alerts(connection, alerts)
        stored = {row.fingerprint: row.id for row in statements.firing_alerts(connection)}
        statements.assign_alerts(
            connection,
            [
                {
                    "alert_id": stored[f"f-{row['service']}"],
                    "to_incident": row["id"],
                    "to_service": row["service"],
                }
                for row in rows
            ],
        )
        for number, row in enumerate(row for row in rows if row["state"] == "recovering"):
            for status in [status for status, share in ACTIONS.items() if number % 10 == share]:
                statements.insert_action(connection, _action(row, status, world, now))

    store.write(write)
    store.close()


def _incident(number: int, service: str, now: float) -> dict[str, Any]:
    state = STATES[number % len(STATES)]
    watched = {"since": now, "action": None, "started_before": None, "deadline": now + 600.0}
    held = number % 3 == 0  # the dead process was at work on it
    return {
        "id": f"i-{number:04d}",
        "subject": f"service/{service}",
        "service": service,
        "known_service": True,
        "title": "it was silent",
        "severity": "critical",
        "state": state,
        "opened_at": now - 60.0,
        "updated_at": now - 10.0,
        "resolved_at": now - 10.0 if state == "resolved" else None,
        "due_at": now - 1.0,
        "lease_owner": "dead/1/abc" if held else None,
        "lease_until": now + 5.0 if held else None,
        "plan": ["restart"] if state in ("awaiting_approval", "recovering") else [],
        "verification": watched if state in ("verifying", "escalated") else None,
        "level": 0,
        "epoch": 7,
        "relapses": 0,
        "faults": 0,
    }


def _alert(row: Mapping[str, Any], now: float) -> dict[str, Any]:
    labels = {"alertname": "Silent", "service": row["service"], "signal": "heartbeat"}
    return {
        "fingerprint": f"f-{row['service']}",
        "starts_at": "2026-01-01T00:00:00.000Z",
        "status": "firing",
        "labels": labels,
        "annotations": {},
        "received_at": now,
        "ended_at": None,
    }


def _action(row: Mapping[str, Any], status: str, world: Surroundings, now: float) -> dict[str, Any]:
    return {
        "id": f"{row['id']}/restart-1",
        "incident_id": row["id"],
        "strategy": "restart",
        "platform": "http",
        "target": f"http:{world.url}/{row['service']}/restart",
        "disruptive": True,
        "attempt": 1,
        "status": status,
        "before": {"started_at": 0},
        "intended_at": now - 30.0,
        "started_at": now - 30.0 if status == "started" else None,
    }


def test_a_thousand_open_incidents_are_taken_up(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every incident gets its next step, every unfinished action its end; no effect unless allowed."""
    services = [f"service-{number:04d}" for number in range(INCIDENTS)]
    with Surroundings(services) as world:
        left_behind(url, world)
        begun = time.monotonic()
        with Replicas(tmp_path, world, url, count=1, timeout=EFFECT_TIMEOUT, mode="approval") as fabric:
            ready = time.monotonic() - begun
            wait_for("all taken up", lambda: not not_taken_up(fabric))
            taken_up = time.monotonic() - begun
            statuses = fabric.rows("SELECT status, count(*) AS number FROM actions GROUP BY status")
        with capsys.disabled():
            print(f" [ready after {ready:.1f} s, all {INCIDENTS} taken up after {taken_up:.1f} s] ", end="")
        unfinished = sum(len(range(share, INCIDENTS // len(STATES) + 1, 10)) for share in ACTIONS.values())
        assert [(row.status, row.number) for row in statuses] == [("failed", unfinished)]
        assert world.orders == []


def not_taken_up(fabric: Replicas) -> int:
    """How many incidents had no step, or have an action whose end nobody knows."""
    (row,) = fabric.rows(
        "SELECT count(*) AS number FROM incidents i WHERE updated_at < opened_at + 55 OR EXISTS "
        "(SELECT 1 FROM actions a WHERE a.incident_id = i.id AND a.status IN ('intended', 'started'))"
    )
    return int(row.number)
