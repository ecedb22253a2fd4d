"""Whether diagnoses were right, as people say and verified repairs suggest: confidence learns from it.

A person confirms or corrects; that a restart of the named service was verified to heal, or not to, counts as
a weak verdict. All of one installation together correct its confidence (`diagnosis.calibration`), because
confidence does not transfer from one system to another.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from self_healing_fabric.diagnosis import Pattern
from self_healing_fabric.diagnosis.calibration import Calibration, Judged, refit
from self_healing_fabric.errors import DecisionRefused, UnknownIncident
from self_healing_fabric.incidents import timeline
from self_healing_fabric.incidents.models import Incident
from self_healing_fabric.incidents.timeline import Entry, Kind
from self_healing_fabric.store import Store, statements

PERSON, REPAIR = "person", "repair"
WEIGHTS = {PERSON: 1.0, REPAIR: 0.2}  # a restart also helps against what was not its service's fault
MOST_VERDICTS = 500  # the newest; what was true of the system a year ago may no longer be
MAX_AGE = 60.0  # seconds for which a calibration is used before verdicts given elsewhere are read


@dataclass(frozen=True)
class DiagnosisVerdict:
    """What a person says of a diagnosis.

    Attributes:
        right: whether it named the service and the pattern rightly.
        service: which service it was, if the diagnosis named another one.
        pattern: which pattern it was, likewise.
    """

    right: bool
    service: str | None = None
    pattern: Pattern | None = None


class Calibrator:
    """The calibration that the verdicts of this store give, read again now and then."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._calibration = Calibration()
        self._read_at: float | None = None

    def calibration(self, now: float) -> Calibration:
        """As of at most a minute ago; `now` in seconds since 1970. Raises StoreUnavailable."""
        with self._lock:
            if self._read_at is None or not 0 <= now - self._read_at < MAX_AGE:
                rows = self._store.ask(
                    lambda connection: statements.newest_diagnosis_verdicts(connection, MOST_VERDICTS)
                )
                self._calibration = refit(
                    [Judged(row.confidence, row.service_right, WEIGHTS[row.source]) for row in rows]
                )
                self._read_at = now
            return self._calibration

    def forget(self) -> None:
        """Read the verdicts again at the next diagnosis."""
        with self._lock:
            self._read_at = None


def give(
    store: Store,
    incident_id: str,
    verdict: DiagnosisVerdict,
    *,
    by: str,
    reason: str | None,
    now: float,
) -> None:
    """Store a person's verdict; a later one replaces it, and the timeline keeps both.

    Raises:
        UnknownIncident: there is no such incident.
        DecisionRefused: nothing was diagnosed, or the verdict contradicts itself.
    """

    def write(connection: Connection) -> None:
        row = statements.incident(connection, incident_id, lock=True)
        if row is None:
            raise UnknownIncident(f"no incident has the id {incident_id!r}")
        if not row.diagnosis:
            raise DecisionRefused("the incident has no diagnosis yet")
        values = _judged(row.diagnosis, verdict)
        same = statements.diagnosis_verdict(connection, incident_id)
        if same is not None and same.source == PERSON and _says_the_same(same, values):
            return
        given = {"incident_id": incident_id, "source": PERSON, "given_by": by, "given_at": now}
        statements.put_diagnosis_verdict(connection, {**given, **values})
        entry = Entry(Kind.NOTE, f"{by}: {_sentence(values)}" + (f" {reason}" if reason else ""), values)
        timeline.append(connection, incident_id, [entry], now)

    store.write(write)


def of_repair(incident: Incident, *, healed: bool, strategy: str, now: float) -> Mapping[str, Any] | None:
    """The weak verdict of a verified repair; None where it says nothing about the diagnosis.

    It speaks only of a diagnosis that named a cause, in the very service that was repaired.
    """
    diagnosis = incident.diagnosis
    if not diagnosis or _abstained(diagnosis) or diagnosis["cause"]["service"] != incident.service:
        return None
    return {
        "incident_id": incident.id,
        "source": REPAIR,
        "given_by": strategy,
        "given_at": now,
        "service_right": healed,
        "pattern_right": None,
        "service": incident.service if healed else None,
        "pattern": None,
        "named_service": diagnosis["cause"]["service"],
        "named_pattern": diagnosis["cause"]["pattern"],
        "confidence": _uncalibrated(diagnosis),
    }


def _judged(diagnosis: Mapping[str, Any], verdict: DiagnosisVerdict) -> dict[str, Any]:
    abstained = _abstained(diagnosis)
    named_service = (diagnosis.get("lead") if abstained else None) or diagnosis["cause"]["service"]
    named_pattern = diagnosis["cause"]["pattern"]
    said = f"{named_pattern} in {named_service}"
    pattern = None if verdict.pattern is None else verdict.pattern.value
    service: str | None
    other_service = verdict.service not in (None, named_service)
    other_pattern = pattern not in (None, named_pattern)
    if abstained:
        if verdict.service is None:
            raise DecisionRefused("the diagnosis named no cause: say which service it was")
        service, service_right, pattern_right = verdict.service, not other_service, None
    elif verdict.right:
        if other_service or other_pattern:
            raise DecisionRefused(f"the diagnosis named {said}: it was not right if it was something else")
        service, service_right, pattern_right, pattern = named_service, True, True, named_pattern
    else:
        if verdict.service == named_service and pattern == named_pattern:
            raise DecisionRefused(f"the diagnosis named just that: {said}")
        # A correction of the pattern alone leaves the service right; a bare `wrong` doubts the service.
        service = verdict.service or (named_service if other_pattern else None)
        service_right = service == named_service
        pattern_right = False if service_right else None if pattern is None else not other_pattern
    return {
        "service_right": service_right,
        "pattern_right": pattern_right,
        "service": service,
        "pattern": pattern,
        "named_service": named_service,
        "named_pattern": named_pattern,
        "confidence": _uncalibrated(diagnosis),
    }


def _abstained(diagnosis: Mapping[str, Any]) -> bool:
    return bool(diagnosis["cause"]["pattern"] == Pattern.UNKNOWN)


def _uncalibrated(diagnosis: Mapping[str, Any]) -> float:
    """Diagnoses of versions without calibration hold only the confidence itself."""
    known = diagnosis.get("calibration", diagnosis["cause"])
    return float(known.get("uncalibrated", known.get("confidence", 0.0)))


def _says_the_same(row: Any, values: Mapping[str, Any]) -> bool:
    names = ("service_right", "pattern_right", "service", "pattern")
    return all(getattr(row, name) == values[name] for name in names)


def _sentence(values: Mapping[str, Any]) -> str:
    if values["named_pattern"] == Pattern.UNKNOWN:
        pattern = f"{values['pattern']} " if values["pattern"] else ""
        return f"the diagnosis named no cause; it was {pattern}in {values['service']}."
    named = f"{values['named_pattern']} in {values['named_service']}"
    if values["service_right"] and values["pattern_right"]:
        return f"the diagnosis was right: {named}."
    truth = f"{values['pattern'] or 'something else'} in {values['service'] or 'another service'}"
    return f"the diagnosis was {named}, and it was {truth}."
