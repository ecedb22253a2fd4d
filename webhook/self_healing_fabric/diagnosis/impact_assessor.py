"""Whom it hurts: severity, urgency, the share of requests that suffer, and who depends on the service.

Escalation and order of work follow the impact, so it is computed from measured traffic and the configured
tier and never from an alert's text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from self_healing_fabric.diagnosis.evidence import Observations
from self_healing_fabric.incidents.evidence import Evidence
from shf_queries.catalogue import ERROR_RATIO, HEARTBEAT, LATENCY_P95

Urgency = Literal["now", "soon", "later"]
SLOW_SHARE = 0.05  # when the 95th percentile is outside its limit, at least this share of the requests is


@dataclass(frozen=True)
class Impact:
    """`users_affected` is a share of the requests from 0.0 to 1.0; None when no traffic is measured."""

    severity: str
    urgency: Urgency
    users_affected: float | None
    tier: str
    dependants: tuple[str, ...]
    evidence: tuple[Evidence, ...]

    def as_dict(self) -> dict[str, Any]:
        """The impact as JSON."""
        return {
            "severity": self.severity,
            "urgency": self.urgency,
            "users_affected": self.users_affected,
            "tier": self.tier,
            "dependants": list(self.dependants),
            "evidence": [evidence.as_dict() for evidence in self.evidence],
        }


def assess(seen: Observations, *, severity: str, tier: str, dependants: Sequence[str]) -> Impact:
    """Assess the impact.

    users_affected is 1 when the service does not answer, else max(error ratio, 0.05 if P95 is outside its
    limit).

    urgency is `now` if the severity is critical and (users_affected >= 0.5 or the tier is critical); `later`
    if the severity is none or info, or the tier is low and users_affected < 0.05; else `soon`. Unknown
    users_affected counts as 1: not knowing is no reason to be slow.
    """
    affected, evidence = _users_affected(seen)
    share = 1.0 if affected is None else affected
    urgency: Urgency = "soon"
    if severity == "critical" and (share >= 0.5 or tier == "critical"):
        urgency = "now"
    elif severity in ("none", "info") or (tier == "low" and share < SLOW_SHARE):
        urgency = "later"
    return Impact(severity, urgency, affected, tier, tuple(dependants), evidence)


def _users_affected(seen: Observations) -> tuple[float | None, tuple[Evidence, ...]]:
    silent = seen.breach(HEARTBEAT)
    if silent:
        return 1.0, (silent,)
    ratio = seen.breach(ERROR_RATIO) or seen.calm(ERROR_RATIO)
    slow = seen.breach(LATENCY_P95)
    known = [(item.value if item is ratio else SLOW_SHARE, item) for item in (ratio, slow) if item]
    if not known:
        return None, ()
    share, item = max(known, key=lambda pair: pair[0])
    return min(1.0, share), (item,)
