"""Whom it hurts: severity, urgency, users, business and the error budget, each with its formula.

Escalation and order of work follow the impact, so it is computed from measured traffic and the configured
tiers and never from an alert's text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from self_healing_fabric.diagnosis.evidence import Observations, Place
from self_healing_fabric.incidents.evidence import Evidence
from self_healing_fabric.incidents.telling import impact_in_words
from shf_queries import catalogue
from shf_queries.catalogue import ERROR_RATIO, HEARTBEAT, LATENCY_P95, REQUEST_RATE

Urgency = Literal["now", "soon", "later"]
SLOW_SHARE = 0.05  # when the 95th percentile is outside its limit, at least this share of the requests is
TIERS: Mapping[str, float] = {
    "low": 0.3,
    "standard": 0.6,
    "critical": 1.0,
}  # what they weigh in business_impact
BUDGET_GONE_IN_TWO_DAYS = 14.4  # times the speed that uses up a 30-day budget in 30 days
BUDGET_DAYS = 30.0  # of an objective


@dataclass(frozen=True)
class Impact:
    """What the failure means, at the time of the diagnosis.

    Attributes:
        severity: of the incident's alerts, as labelled.
        urgency: `now`, `soon` or `later`; see `assess`.
        users_affected: share of the requests that fail or are slow, at least, 0.0 to 1.0; None: no traffic is
            measured.
        requests_affected: the same in requests per second; None: unknown.
        tier: of the service itself.
        business_tier: the highest of its own tier and those of everything that depends on it.
        business_impact: 0.0 to 1.0; see `assess`.
        dependants: what depends on it, directly or through others, with the number of hops; nearest first.
        budget_burn: how many times too fast the error budget is used up; None: no objective, or no traffic.
        budget_lasts_days: until a whole budget would be gone at that speed; None as above, or when it is not
            used up.
        evidence: what this was computed from.
    """

    severity: str
    urgency: Urgency
    users_affected: float | None
    requests_affected: float | None
    tier: str
    business_tier: str
    business_impact: float
    dependants: Mapping[str, int]
    budget_burn: float | None
    budget_lasts_days: float | None
    evidence: tuple[Evidence, ...]

    def as_dict(self) -> dict[str, Any]:
        """The impact as JSON."""
        return {
            "severity": self.severity,
            "urgency": self.urgency,
            "users_affected": self.users_affected,
            "requests_affected": self.requests_affected,
            "tier": self.tier,
            "business_tier": self.business_tier,
            "business_impact": self.business_impact,
            "dependants": list(self.dependants),
            "budget_burn": self.budget_burn,
            "budget_lasts_days": self.budget_lasts_days,
            "evidence": [evidence.as_dict() for evidence in self.evidence],
        }

    def __str__(self) -> str:
        """One sentence for people."""
        return f"Impact: {'; '.join(impact_in_words(self.as_dict()))}."


def assess(
    seen: Observations,
    *,
    severity: str,
    tier: str,
    dependants: Mapping[str, int],
    tiers: Mapping[str, str],
) -> Impact:
    """Assess the impact.

    users_affected = 1 when the service does not answer, else max(error ratio, 0.05 if P95 is outside its
    limit): when the 95th percentile is too slow, at least one request in twenty is. It is a lower bound.

    requests_affected = users_affected x requests per second; the usual rate where it does not answer, because
    what is not answered is not measured. Where several clusters or namespaces record the service,
    users_affected is that of the worst, and requests_affected the sum of what suffers in each.

    business_tier = the highest tier among the service and all that depend on it: a standard database
    behind a critical shop is critical. business_impact = weight of the business tier (1 critical, 0.6
    standard, 0.3 low) x users_affected.

    budget_burn = error ratio / (1 - objective) over the last hour, or over the last five minutes where that
    is higher; budget_lasts_days = 30 / budget_burn (Beyer et al., The Site Reliability Workbook, 2018,
    chapter 5).

    urgency is `now` if the severity is critical and (users_affected >= 0.5 or the business tier is critical),
    or if both windows burn the budget at 14.4 or more, at which it is gone in two days; `later` if the
    severity is none or info, or the business tier is low and users_affected < 0.05; else `soon`.

    Unknown users_affected counts as 1 in the last two: not knowing is no reason to be slow.

    Args:
        seen: what was asked of Prometheus.
        severity: of the incident.
        tier: of the service.
        dependants: what depends on the service, with the number of hops.
        tiers: of these, by name.
    """
    affected, evidence = _users_affected(seen)
    share = 1.0 if affected is None else affected
    requests, counted = _requests_affected(seen)
    burn = _budget_burn(seen)
    business_tier = max((tier, *(tiers[name] for name in dependants)), key=TIERS.__getitem__)
    return Impact(
        severity=severity,
        urgency=_urgency(severity, share, business_tier, _burns_fast(seen)),
        users_affected=affected,
        requests_affected=requests,
        tier=tier,
        business_tier=business_tier,
        business_impact=round(TIERS[business_tier] * share, 3),
        dependants=dependants,
        budget_burn=burn.value if burn else None,
        budget_lasts_days=BUDGET_DAYS / burn.value if burn and burn.value > 0 else None,
        evidence=tuple(fact for fact in (*evidence, *counted, burn) if fact),
    )


def _urgency(severity: str, share: float, business_tier: str, burns_fast: bool) -> Urgency:
    if burns_fast or (severity == "critical" and (share >= 0.5 or business_tier == "critical")):
        return "now"
    if severity in ("none", "info") or (business_tier == "low" and share < SLOW_SHARE):
        return "later"
    return "soon"


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


def _requests_affected(seen: Observations) -> tuple[float | None, tuple[Evidence, ...]]:
    """Per second, with the traffic that they are a share of; None where what suffers is not counted."""
    apart = {place: there for place, there in seen.apart().items() if _requests(there, place)}
    if len(apart) < 2:  # whatever else is recorded without that place's labels is of the same requests
        affected, requests = _users_affected(seen)[0], _requests(seen)
        if affected is None or requests is None:
            return None, (requests,) if requests else ()
        return affected * requests.value, (requests,)
    total, counted = 0.0, []
    for place, there in seen.apart().items():
        affected, requests = _users_affected(there)[0], _requests(there, place)
        if not affected:
            continue
        if requests is None:
            return None, ()
        total += affected * requests.value
        counted.append(requests)
    return total, tuple(counted)


def _requests(seen: Observations, place: Place | None = None) -> Evidence | None:
    """Requests per second, the usual number of them for a service that does not answer; the `place` of what
    was seen is told."""
    silent, service = seen.breach(HEARTBEAT), seen.service
    rate = seen.value(
        catalogue.usual_request_rate_of(service) if silent else catalogue.series_of(REQUEST_RATE, service)
    )
    if rate is None:
        return None
    if silent:
        query, word = catalogue.usual_request_rate_of(service, place), "usually got"
    else:
        query, word = catalogue.series_of(REQUEST_RATE, service, place), "gets"
    where = f" in {'/'.join(filter(None, place))}" if place is not None else ""
    return Evidence(f"{service}{where} {word} {rate:.3g} requests per second.", query, rate, seen.at)


def _budget_burn(seen: Observations) -> Evidence | None:
    """The faster of the last hour and the last five minutes."""
    found = [
        Evidence(
            f"Over {window}, {seen.service} used its error budget {value:.1f} times too fast.",
            catalogue.series_of(catalogue.budget_burn(window), seen.service),
            value,
            seen.at,
        )
        for window in ("1h", "5m")
        if (value := seen.signal(catalogue.budget_burn(window))) is not None
    ]
    return max(found, key=lambda fact: fact.value, default=None)


def _burns_fast(seen: Observations) -> bool:
    """Both windows: the long one says that it matters, the short one that it still goes on."""
    burns = [seen.signal(catalogue.budget_burn(window)) for window in ("1h", "5m")]
    return all(burn is not None and burn >= BUDGET_GONE_IN_TWO_DAYS for burn in burns)
