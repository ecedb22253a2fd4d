"""The impact: whom it hurts follows from measured traffic and the configured tier."""

from collections.abc import Callable, Mapping

import pytest

from self_healing_fabric.diagnosis.evidence import Observations
from self_healing_fabric.diagnosis.impact_assessor import assess

See = Callable[..., Observations]
SLOW = {"latency:p95_seconds": 9.0, "latency:p95_seconds_baseline": 0.1}


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
    impact = assess(see(signals), severity="critical", tier="standard", dependants=[])
    assert impact.users_affected == affected
    assert bool(impact.evidence) is (affected is not None)


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
    impact = assess(see(signals), severity=severity, tier=tier, dependants=["shop"])
    assert impact.urgency == urgency
    assert impact.as_dict()["dependants"] == ["shop"]
