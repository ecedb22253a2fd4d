"""The impact: whom it hurts follows from measured traffic, the configured tiers and the error budget."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from self_healing_fabric.diagnosis.evidence import Observations
from self_healing_fabric.diagnosis.impact_assessor import Impact, assess
from shf_queries import catalogue

See = Callable[..., Observations]
SLOW = {"latency:p95_seconds": 9.0, "latency:p95_seconds_baseline": 0.1}
USUAL = catalogue.usual_request_rate_of("cart")


def impact_of(seen: Observations, **changes: Any) -> Impact:
    """Of a critical alert of a standard service that nothing depends on."""
    facts = {"severity": "critical", "tier": "standard", "dependants": {}, "tiers": {}} | changes
    return assess(seen, **facts)


@pytest.mark.parametrize(
    ("signals", "affected"),
    [
        ({"heartbeat:answered": 0.0, "errors:ratio": 0.1}, 1.0),
        ({"heartbeat:answered": 1.0, "errors:ratio": 0.3}, 0.3),
        ({"errors:ratio": 0.01}, 0.01),
        ({"errors:ratio": 0.01, **SLOW}, 0.05),
        ({"errors:ratio": 0.3, **SLOW}, 0.3),
        (SLOW, 0.05),
        ({"errors:ratio": 1.5}, 1.0),
        ({}, None),
        ({"heartbeat:answered": 1.0}, None),
    ],
)
def test_users_affected_is_the_share_that_suffers(
    see: See, signals: Mapping[str, float], affected: float | None
) -> None:
    """All when it is silent, else the failing or slow share; unknown without traffic."""
    impact = impact_of(see(signals))
    assert impact.users_affected == affected
    assert bool(impact.evidence) is (affected is not None)


@pytest.mark.parametrize(
    ("signals", "affected"),
    [
        ({"errors:ratio": 0.25, "requests:rate": 8.0}, 2.0),
        ({"requests:rate": 8.0, **SLOW}, 0.4),
        ({"heartbeat:answered": 0.0, "requests:rate": 0.5}, 40.0),  # the usual rate, not the last drops
        ({"errors:ratio": 0.25}, None),
        ({"requests:rate": 8.0}, None),
    ],
)
def test_requests_affected_follow_the_traffic(
    see: See, signals: Mapping[str, float], affected: float | None
) -> None:
    """Requests a second; of a silent service the usual ones."""
    impact = impact_of(see(signals, queries={USUAL: 40.0}))
    assert impact.requests_affected == (None if affected is None else pytest.approx(affected))


def test_the_business_tier_is_that_of_whoever_depends_on_it_most(see: See) -> None:
    """Through others too; a dependant of a lower tier does not lower it."""
    seen = see({"errors:ratio": 0.5})
    tiers = {"shop": "critical", "report": "low"}
    for dependants, tier, business in (
        ({}, "standard", 0.3),
        ({"report": 1}, "standard", 0.3),
        ({"report": 1, "shop": 2}, "critical", 0.5),
    ):
        impact = impact_of(seen, dependants=dependants, tiers=tiers)
        assert (impact.business_tier, impact.business_impact) == (tier, business)
        assert impact.tier == "standard"
        assert impact.as_dict()["dependants"] == list(dependants)


@pytest.mark.parametrize(
    ("burns", "burn", "days"),
    [
        ({"1h": 2.0, "5m": 6.0}, 6.0, 5.0),
        ({"1h": 10.0, "5m": 1.0}, 10.0, 3.0),
        ({"5m": 0.0}, 0.0, None),
        ({}, None, None),
    ],
)
def test_the_error_budget(
    see: See, burns: Mapping[str, float], burn: float | None, days: float | None
) -> None:
    """The faster of two windows, and how long a month's budget would last."""
    impact = impact_of(see({f"error_budget:burn{window}": value for window, value in burns.items()}))
    assert (impact.budget_burn, impact.budget_lasts_days) == (burn, days)


@pytest.mark.parametrize(
    ("severity", "tier", "ratio", "urgency"),
    [
        ("critical", "standard", 0.5, "now"),
        ("critical", "standard", 0.49, "soon"),
        ("critical", "critical", 0.01, "now"),
        ("critical", "low", 0.01, "later"),
        ("critical", "standard", None, "now"),
        ("warning", "critical", 1.0, "soon"),
        ("warning", "low", 0.049, "later"),
        ("warning", "low", 0.05, "soon"),
        ("warning", "low", None, "soon"),
        ("info", "critical", 1.0, "later"),
        ("none", "standard", None, "later"),
    ],
)
def test_urgency_follows_severity_tier_and_share(
    see: See, severity: str, tier: str, ratio: float | None, urgency: str
) -> None:
    """Not knowing how many suffer is no reason to be slow."""
    signals = {} if ratio is None else {"errors:ratio": ratio}
    assert impact_of(see(signals), severity=severity, tier=tier).urgency == urgency


@pytest.mark.parametrize(
    ("hour", "minutes", "urgency"), [(14.4, 14.4, "now"), (14.4, 1.0, "later"), (1.0, 99.0, "later")]
)
def test_a_budget_that_is_gone_in_two_days_is_urgent(
    see: See, hour: float, minutes: float, urgency: str
) -> None:
    """Whatever the severity; not when it has stopped, nor when it has only begun."""
    seen = see({"errors:ratio": 0.01, "error_budget:burn1h": hour, "error_budget:burn5m": minutes})
    assert impact_of(seen, severity="info", tier="low").urgency == urgency


def test_it_is_told_in_a_sentence(see: See) -> None:
    """What is known is told, what is not is said to be unknown."""
    unknown = "Impact: an unknown share of the requests suffers; tier standard; urgent: now."
    assert str(impact_of(see({}))) == unknown
    seen = see({"errors:ratio": 0.25, "requests:rate": 8.0, "error_budget:burn1h": 3.0})
    told = str(impact_of(seen, dependants={"shop": 1, "till": 2}, tiers={"shop": "low", "till": "low"}))
    assert told == (
        "Impact: at least 25 % of the requests suffer, 2 each second; services that depend on it: shop, "
        "till; tier standard; the error budget is used up 3.0 times too fast; urgent: soon."
    )
    assert str(impact_of(see({"heartbeat:answered": 0.0}))).startswith("Impact: all requests suffer; ")
    assert str(impact_of(see({"errors:ratio": 0.0}))).startswith("Impact: no request is known to suffer; ")
