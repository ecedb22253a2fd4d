"""Diagnosis: evidence, failure class, root cause with confidence, impact. It looks, and never acts."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from self_healing_fabric.diagnosis.calibration import Calibration
from self_healing_fabric.diagnosis.evidence import Observations
from self_healing_fabric.diagnosis.failure_classifier import Classification, FailureClass, classify
from self_healing_fabric.diagnosis.impact_assessor import Impact, assess
from self_healing_fabric.diagnosis.localization import RULES_VERSION, Localization
from self_healing_fabric.diagnosis.patterns import Pattern
from self_healing_fabric.diagnosis.root_cause_analyzer import (
    Cause,
    analyze,
    calibrated,
    named,
    recent_changes,
    with_localization,
)
from self_healing_fabric.diagnosis.sources import Condition, Report
from self_healing_fabric.incidents.evidence import Evidence

__all__ = ["Cause", "Diagnosis", "FailureClass", "Impact", "Pattern", "diagnose"]


@dataclass(frozen=True)
class Diagnosis:
    """What fails, why, and whom it hurts.

    `uncalibrated` is the confidence that the cause lies in its service (in the lead, when it abstains) before
    `calibration` corrected it; `report` is what was seen besides Prometheus, `changes` what changed shortly
    before.
    """

    classification: Classification
    cause: Cause
    alternatives: tuple[Cause, ...]
    impact: Impact
    localization: Localization
    calibration: Calibration
    uncalibrated: float
    report: Report
    changes: tuple[Evidence, ...]

    @property
    def evidence(self) -> tuple[Evidence, ...]:
        """What carries the class, then all else that the platform and the service say of themselves."""
        seen = (*(fact.evidence for fact in self.report.facts), *self.changes)
        return tuple(dict.fromkeys((*self.classification.evidence, *seen)))

    @property
    def against(self) -> tuple[str, ...]:
        """What speaks against the answer: rivals in the series, and witnesses that contradict the class."""
        contradicting = _CONTRADICTED_BY.get(self.failure_class)
        told = self.report.in_condition(contradicting) if contradicting else ()
        return (*self.localization.against, *(evidence.statement for evidence in told))

    @property
    def failure_class(self) -> FailureClass:
        """The failure class."""
        return self.classification.failure_class

    @property
    def service_confidence(self) -> float:
        """How sure it is that the cause lies in its service, whatever its pattern is."""
        found = self.localization
        located = found.confidence if found.lead == self.cause.service and not found.abstained else 0.0
        return max(self.cause.confidence, located)

    @property
    def lead(self) -> str:
        """The likeliest service, whether it is believed or not."""
        return (self.localization.lead if self.abstained else "") or self.cause.service

    @property
    def abstained(self) -> bool:
        """Whether no cause is named, because the evidence carries none."""
        return self.cause.pattern is Pattern.UNKNOWN

    def _told_apart_by(self, other: Cause) -> str | None:
        """A query that speaks for the other cause and not for this one, so its course tells which it is."""
        shared = {evidence.query for evidence in self.cause.evidence}
        return next((each.query for each in other.evidence if each.query not in shared), None)

    def as_dict(self) -> dict[str, Any]:
        """The diagnosis as JSON."""
        return {
            "failure_class": self.failure_class.value,
            "reason": self.classification.reason,
            "evidence": [evidence.as_dict() for evidence in self.evidence],
            "cause": self.cause.as_dict(),
            "service_confidence": round(self.service_confidence, 3),
            "alternatives": [
                {**other.as_dict(), "told_apart_by": self._told_apart_by(other)}
                for other in self.alternatives
            ],
            "impact": self.impact.as_dict(),
            "rules_version": RULES_VERSION,
            "abstained": self.abstained,
            "lead": self.lead,
            "against": list(self.against),
            "missing": [*self.localization.missing, *self.report.missing],
            "next_query": self.localization.next_query,
            "calibration": {**self.calibration.as_dict(), "uncalibrated": round(self.uncalibrated, 4)},
            "localization": self.localization.as_dict(),
        }


_CONTRADICTED_BY = {
    FailureClass.SERVICE_FAILURE: Condition.WELL,
    FailureClass.TRANSIENT: Condition.DOWN,
}


def diagnose(
    seen: Observations,
    *,
    localization: Localization,
    calibration: Calibration,
    alert_signals: Collection[str],
    opened_at: float,
    severity: str,
    tier: str,
    dependants: Mapping[str, int],
    tiers: Mapping[str, str],
) -> Diagnosis:
    """Diagnose from what was observed; the same observations give the same diagnosis.

    `localization` is what the series over time say (`history.locate`), with the same `calibration`. What is
    true only now (a service does not answer, a process has just started) the rules know better; what changed,
    the series do.
    """
    ruled = analyze(seen, opened_at)
    cause, alternatives = with_localization(calibrated(ruled, calibration, seen.service), localization)
    impact = assess(seen, severity=severity, tier=tier, dependants=dependants, tiers=tiers)
    abstained = cause.pattern is Pattern.UNKNOWN
    service = (localization.lead if abstained else "") or cause.service
    by_rules = [
        each.confidence
        for each in named(ruled)
        if each.service == service and (abstained or each.pattern is cause.pattern)
    ]
    located = [localization.uncalibrated] if localization.lead == service else []
    return Diagnosis(
        classification=classify(seen, alert_signals),
        cause=cause,
        alternatives=alternatives,
        impact=impact,
        localization=localization,
        calibration=calibration,
        uncalibrated=max((*by_rules, *located), default=0.0),
        report=seen.report,
        changes=recent_changes(seen, opened_at),
    )
