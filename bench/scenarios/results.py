"""One line of JSON for each repeat of a scenario, written when it is over: what was done, what was diagnosed.

A run takes an hour. Each line is on disk as it comes, and a run that finds lines of the same seed goes on
after them.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

UNKNOWN = "unknown"
NOTHING = "nothing"  # no incident, or one without a diagnosis


@dataclass(frozen=True)
class Told:
    """What the fabric said of one incident.

    `seconds` from the fault to the diagnosis; `confidence` that this pattern in this service is the cause,
    `service_confidence` that the service is, whatever its pattern (None in results of older rules).
    """

    service: str
    failure_class: str
    pattern: str
    confidence: float
    abstained: bool
    lead: str
    seconds: float
    service_confidence: float | None = None

    @classmethod
    def of_story(cls, story: Mapping[str, Any], fault_at: float, told_at: float) -> Told:
        """From the answer of GET /api/v1/incidents/ID with a diagnosis."""
        diagnosis = story["diagnosis"]
        cause = diagnosis["cause"]
        return cls(
            service=cause["service"],
            failure_class=diagnosis["failure_class"],
            pattern=cause["pattern"],
            confidence=float(cause["confidence"]),
            abstained=bool(diagnosis["abstained"]),
            lead=diagnosis["lead"],
            seconds=round(told_at - fault_at, 1),
            service_confidence=float(diagnosis["service_confidence"]),
        )


@dataclass(frozen=True)
class Result:
    """One repeat. `services`: any of them is right; `told`: one for each incident, the oldest first;
    `notified`: seconds from the fault to Alertmanager's first notification, None without one."""

    scenario: str
    repeat: int
    seed: int
    failure_class: str
    pattern: str
    services: tuple[str, ...]
    decoy: str
    delay: float
    notified: float | None
    told: tuple[Told, ...] = ()
    incidents: int = 0
    rules_version: str = ""
    findings: tuple[str, ...] = field(default=())

    @property
    def first(self) -> Told | None:
        """The diagnosis that is judged: that of the oldest incident that has one."""
        return self.told[0] if self.told else None

    @property
    def spoiled(self) -> bool:
        """Whether Alertmanager notified before the fault: of the decoy, or because the machine was busy."""
        return self.notified is not None and self.notified < 0

    @property
    def right_class(self) -> bool:
        return self.first is not None and self.first.failure_class == self.failure_class

    @property
    def right_pattern(self) -> bool:
        return self.first is not None and self.first.pattern == self.pattern

    @property
    def right_service(self) -> bool:
        return self.first is not None and not self.first.abstained and self.first.service in self.services

    @property
    def right_cause(self) -> bool:
        """Pattern and service: what the confidence of a cause is about."""
        return self.right_pattern and self.right_service

    def as_line(self) -> str:
        return json.dumps(asdict(self))


def read_results(lines: Iterable[str]) -> list[Result]:
    """From JSON lines. A last line that was cut off by the end of a run is left out."""
    found = []
    for line in lines:
        try:
            told = json.loads(line)
        except ValueError:
            continue
        told["told"] = tuple(Told(**each) for each in told["told"])
        told["services"], told["findings"] = tuple(told["services"]), tuple(told["findings"])
        found.append(Result(**told))
    return found


class ResultFile:
    """Appends results; several threads may."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()

    def read(self) -> list[Result]:
        return read_results(self._path.read_text().splitlines()) if self._path.exists() else []

    def append(self, result: Result) -> None:
        with self._lock, self._path.open("a", encoding="utf-8") as file:
            file.write(f"{result.as_line()}\n")
