"""What becomes of one fault, read from the fabric's public API as any user of it could.

The demo must not know more than the API tells, or it would show things that nobody else can see. Times are
those of the incident's own timeline, not those of the question, so that a slow poll makes nothing look
slow. An incident may be older than the fault: a service that had trouble before gets its new alert into the
incident that is still open.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import httpx

_END_STATES = ("resolved", "closed")
_TIMEOUT = 5.0  # seconds
_CLOCK_SLACK = timedelta(milliseconds=50)  # between writing down the fault and its effect; all clocks are one


@dataclass(frozen=True)
class Happening:
    """One new entry of the timeline."""

    seconds: float  # since the fault
    kind: str  # as in the API: alert, state, evidence, diagnosis, plan, action, verification ...
    message: str


class IncidentWatch:
    """The incident that a fault on this service leads to, once there is one."""

    def __init__(self, fabric_url: str, service: str, since: datetime) -> None:
        self._client = httpx.Client(base_url=fabric_url, timeout=_TIMEOUT, trust_env=False)
        self._service = service
        self._since = since - _CLOCK_SLACK
        self._told: set[Any] = set()
        self.incident: Mapping[str, Any] = {}

    def poll(self) -> list[Happening]:
        """What is new since the last time. An API that does not answer just now has nothing new."""
        try:
            identity = self.incident.get("id") or self._find()
            if identity is None:
                return []
            answer = self._client.get(f"/api/v1/incidents/{identity}")
            self.incident = answer.raise_for_status().json()
        except httpx.HTTPError:
            return []
        entries = [entry for entry in self.incident["timeline"] if self._is_new(entry)]
        self._told.update(entry["id"] for entry in entries)
        return [
            Happening(self.seconds_since_fault(entry["at"]), entry["kind"], entry["message"])
            for entry in entries
        ]

    def close(self) -> None:
        self._client.close()

    @property
    def ended(self) -> bool:
        return self.incident.get("state") in _END_STATES

    @property
    def detected_after(self) -> float | None:
        """Seconds from the fault to the first word about it."""
        times = [entry["at"] for entry in self.incident.get("timeline", ()) if self._is_ours(entry)]
        return self.seconds_since_fault(min(times)) if times else None

    @property
    def resolved_after(self) -> float | None:
        at = self.incident.get("resolved_at")
        return self.seconds_since_fault(at) if at and datetime.fromisoformat(at) >= self._since else None

    def seconds_since_fault(self, at: str) -> float:
        return max(0.0, (datetime.fromisoformat(at) - self._since).total_seconds())

    def _find(self) -> Any:
        answer = self._client.get("/api/v1/incidents", params={"service": self._service})
        incidents = answer.raise_for_status().json()["incidents"]
        ours = [incident for incident in incidents if self._may_be_ours(incident)]
        ours.sort(key=lambda incident: datetime.fromisoformat(incident["opened_at"]))
        return ours[0]["id"] if ours else None

    def _may_be_ours(self, incident: Mapping[str, Any]) -> bool:
        if incident["service"] != self._service:
            return False
        resolved_at = incident["resolved_at"]
        return resolved_at is None or datetime.fromisoformat(resolved_at) >= self._since

    def _is_ours(self, entry: Mapping[str, Any]) -> bool:
        return datetime.fromisoformat(entry["at"]) >= self._since

    def _is_new(self, entry: Mapping[str, Any]) -> bool:
        return self._is_ours(entry) and entry["id"] not in self._told
