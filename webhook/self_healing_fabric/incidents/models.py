"""Incidents and alerts as immutable values, read from rows.

A step works on the incident as it was when claimed. Changing it in place would let a step act on what it has
not committed; so these are frozen, and a change is a `Transition`.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Row

from self_healing_fabric.incidents.lifecycle import State


@dataclass(frozen=True)
class Alert:
    """One alert instance, identified by `fingerprint` and `starts_at` (RFC 3339, milliseconds)."""

    fingerprint: str
    starts_at: str
    status: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]

    @property
    def firing(self) -> bool:
        """Whether the alert fires."""
        return self.status == "firing"


@dataclass(frozen=True)
class Incident:
    """One problem. Times are seconds since 1970 (UTC); columns are explained in `store.schema`."""

    id: str
    subject: str
    service: str | None
    known_service: bool
    title: str
    severity: str
    signal: str | None
    state: State
    outcome: str | None
    failure_class: str | None
    pattern: str | None
    confidence: float | None
    level: int
    level_due_at: float | None
    acknowledged_by: str | None
    approved_by: str | None
    opened_at: float
    updated_at: float
    resolved_at: float | None
    closed_at: float | None
    due_at: float | None
    epoch: int
    waiting_for: str | None
    waiting_since: float | None
    relapses: int
    faults: int
    plan: tuple[str, ...]
    diagnosis: Mapping[str, Any] | None
    verification: Mapping[str, Any] | None
    merged_into: str | None
    split_from: str | None

    @property
    def suspected_for(self) -> frozenset[str]:
        """The signals for which the service was suspected although it does not alert."""
        return frozenset((self.verification or {}).get("signals", ()))

    def is_of(self, services: Container[str]) -> bool:
        """Whether it is of one of these: the alert named one of ours, and it is configured to this day."""
        return self.known_service and self.service in services

    def after(self, changes: Mapping[str, Any]) -> Incident:
        """The incident with these columns changed."""
        known = {name: value for name, value in changes.items() if name in Incident.__dataclass_fields__}
        changed = replace(self, **known)
        return replace(changed, state=State(changed.state), plan=tuple(changed.plan))


def incident_of(row: Row[Any]) -> Incident:
    """Read an incident from its row."""
    values = {name: value for name, value in row._mapping.items() if name in Incident.__dataclass_fields__}
    return Incident(**{**values, "state": State(values["state"]), "plan": tuple(values["plan"])})


def alert_of(row: Row[Any]) -> Alert:
    """Read an alert from its row."""
    return Alert(row.fingerprint, row.starts_at, row.status, row.labels, row.annotations)
