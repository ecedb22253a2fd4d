"""Diagnosis: evidence, failure class, root cause with confidence, impact. It looks, and never acts."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from self_healing_fabric.diagnosis.evidence import Observations
from self_healing_fabric.diagnosis.failure_classifier import Classification, FailureClass, classify
from self_healing_fabric.diagnosis.impact_assessor import Impact, assess
from self_healing_fabric.diagnosis.root_cause_analyzer import Cause, Pattern, analyze

__all__ = ["Cause", "Diagnosis", "FailureClass", "Impact", "Pattern", "diagnose"]


@dataclass(frozen=True)
class Diagnosis:
    """What fails, why, and whom it hurts."""

    classification: Classification
    cause: Cause
    alternatives: tuple[Cause, ...]
    impact: Impact

    @property
    def failure_class(self) -> FailureClass:
        """The failure class."""
        return self.classification.failure_class

    def as_dict(self) -> dict[str, Any]:
        """The diagnosis as JSON."""
        return {
            "failure_class": self.failure_class.value,
            "reason": self.classification.reason,
            "evidence": [evidence.as_dict() for evidence in self.classification.evidence],
            "cause": self.cause.as_dict(),
            "alternatives": [cause.as_dict() for cause in self.alternatives],
            "impact": self.impact.as_dict(),
        }


def diagnose(
    seen: Observations,
    *,
    alert_signals: Collection[str],
    opened_at: float,
    severity: str,
    tier: str,
    dependants: Sequence[str],
) -> Diagnosis:
    """Diagnose from what was observed; the same observations give the same diagnosis."""
    cause, alternatives = analyze(seen, opened_at)
    impact = assess(seen, severity=severity, tier=tier, dependants=dependants)
    return Diagnosis(classify(seen, alert_signals), cause, alternatives, impact)
