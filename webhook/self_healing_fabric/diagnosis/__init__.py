"""Diagnosis: evidence, failure class, root cause with confidence, impact. It looks, and never acts."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from self_healing_fabric.diagnosis.evidence import Observations
from self_healing_fabric.diagnosis.failure_classifier import Classification, FailureClass, classify
from self_healing_fabric.diagnosis.impact_assessor import Impact, assess
from self_healing_fabric.diagnosis.localization import RULES_VERSION, Localization
from self_healing_fabric.diagnosis.patterns import Pattern
from self_healing_fabric.diagnosis.root_cause_analyzer import Cause, analyze, with_localization

__all__ = ["Cause", "Diagnosis", "FailureClass", "Impact", "Pattern", "diagnose"]


@dataclass(frozen=True)
class Diagnosis:
    """What fails, why, and whom it hurts."""

    classification: Classification
    cause: Cause
    alternatives: tuple[Cause, ...]
    impact: Impact
    localization: Localization

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
    def abstained(self) -> bool:
        """Whether no cause is named, because the evidence carries none."""
        return self.cause.pattern is Pattern.UNKNOWN

    def as_dict(self) -> dict[str, Any]:
        """The diagnosis as JSON."""
        return {
            "failure_class": self.failure_class.value,
            "reason": self.classification.reason,
            "evidence": [evidence.as_dict() for evidence in self.classification.evidence],
            "cause": self.cause.as_dict(),
            "alternatives": [cause.as_dict() for cause in self.alternatives],
            "impact": self.impact.as_dict(),
            "rules_version": RULES_VERSION,
            "abstained": self.abstained,
            "lead": self.localization.lead or self.cause.service,
            "against": list(self.localization.against),
            "missing": list(self.localization.missing),
            "next_query": self.localization.next_query,
            "localization": self.localization.as_dict(),
        }


def diagnose(
    seen: Observations,
    *,
    localization: Localization,
    alert_signals: Collection[str],
    opened_at: float,
    severity: str,
    tier: str,
    dependants: Mapping[str, int],
    tiers: Mapping[str, str],
) -> Diagnosis:
    """Diagnose from what was observed; the same observations give the same diagnosis.

    `localization` is what the series over time say (`history.locate`). What is true only now (a service does
    not answer, a process has just started) the rules know better; what changed, the series do.
    """
    cause, alternatives = with_localization(analyze(seen, opened_at), localization)
    impact = assess(seen, severity=severity, tier=tier, dependants=dependants, tiers=tiers)
    return Diagnosis(classify(seen, alert_signals), cause, alternatives, impact, localization)
