"""Each pattern from the findings that speak for it; without a finding the prior remains."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from self_healing_fabric.diagnosis.call_graph import CallGraph
from self_healing_fabric.diagnosis.localization import localize
from self_healing_fabric.diagnosis.patterns import PRIOR, Change, Classified, Pattern, classify_pattern
from self_healing_fabric.diagnosis.scoring import Scorer, Symptom
from self_healing_fabric.diagnosis.windows import Window, window_of
from shf_queries import Series, catalogue

STEP, BEFORE, AFTER = 15.0, 60, 8


def window(*rows: tuple[str, float, float]) -> Window:
    """Series of `db` (`kind` or `kind@peer`) that go from one level to another at the alert."""
    made = []
    for seed, (name, level, then) in enumerate(rows):
        kind, _, peer = name.partition("@")
        values = np.full(BEFORE + AFTER, level) + 0.01 * level * np.random.default_rng(seed).normal(
            size=BEFORE + AFTER
        )
        values[BEFORE:] = then
        labels = {"__name__": f"{catalogue.CUSTOM}{kind}", "service": "db", "peer": peer}
        made.append(Series(labels, STEP * np.arange(BEFORE + AFTER), values))
    return window_of(made)


def classified(*rows: tuple[str, float, float], **changes: Any) -> Classified:
    """The patterns of `db`, believed entirely."""
    seen = window(*rows)
    scorer = Scorer(seen, Symptom("web", "", STEP * BEFORE), CallGraph([("web", "db")]))
    scored = scorer.score(scorer.onset.index, len(seen.times))
    return classify_pattern(scorer, scored, "db", 1.0, changes.get("changes", ()))


LOAD = ("request_rate", 50.0, 50.0)
TABLE: list[tuple[str, list[tuple[str, float, float]], Pattern]] = [
    ("cpu_up_without_load", [("cpu", 0.3, 0.9), LOAD], Pattern.RESOURCE_EXHAUSTION),
    ("memory_up", [("memory", 2e8, 9e8)], Pattern.RESOURCE_EXHAUSTION),
    ("disk_up", [("disk", 10, 50)], Pattern.RESOURCE_EXHAUSTION),
    (
        "load_up_and_saturated",
        [("request_rate", 50, 150), ("cpu", 0.3, 0.8), ("latency_p95", 0.1, 0.4)],
        Pattern.SERVICE_OVERLOAD,
    ),
    (
        "client_server_gap_up",
        [("edge_client_latency_p50@web", 0.1, 0.9), ("edge_server_latency_p50@web", 0.08, 0.08)],
        Pattern.NETWORK_ISSUE,
    ),
    (
        "client_server_gap_up",
        [("client_latency_p90", 0.1, 0.9), ("latency_p90", 0.08, 0.08)],
        Pattern.NETWORK_ISSUE,
    ),
    (
        "latency_up_and_gap_ruled_out",
        [("edge_client_latency_p50@web", 0.1, 0.9), ("edge_server_latency_p50@web", 0.08, 0.88)],
        Pattern.CODE_BUG,
    ),
    (
        "calls_lost",
        [("edge_client_lost_ratio@web", 0.0, 0.6), ("latency_p95", 0.1, 0.1)],
        Pattern.NETWORK_ISSUE,
    ),
    (
        "silent_for_its_callers",
        [("edge_client_lost_ratio@web", 0.0, 1.0), ("up_ratio", 1.0, 0.0)],
        Pattern.DEPENDENCY_FAILURE,
    ),
    ("errors_up_alone", [("error_ratio", 0.001, 0.3), ("latency_p95", 0.1, 0.1)], Pattern.CODE_BUG),
    ("dependency_down", [("up_ratio", 1.0, 0.0)], Pattern.DEPENDENCY_FAILURE),
    ("data_named", [("schema_validation_errors", 0.0, 5.0)], Pattern.DATA_CORRUPTION),
    ("replicas_diverged", [("state_digests", 1, 2)], Pattern.DATA_CORRUPTION),
    ("configuration_drifted", [("config_drift_paths", 0, 2)], Pattern.CONFIGURATION_ERROR),
    ("outside_named", [("upstream_timeouts", 0.0, 5.0)], Pattern.DEPENDENCY_FAILURE),
    ("pool_or_quota_named", [("pool_waiting", 0.0, 5.0)], Pattern.CONFIGURATION_ERROR),
    ("more_work_per_request", [("queries_per_request", 3, 40)], Pattern.CODE_BUG),
    ("quiet_root", [("cpu", 0.3, 0.3)], Pattern.CODE_BUG),
]


@pytest.mark.parametrize(("trait", "rows", "pattern"), TABLE, ids=[f"{row[0]}-{row[2]}" for row in TABLE])
def test_a_finding_speaks_for_its_pattern(
    trait: str, rows: list[tuple[str, float, float]], pattern: Pattern
) -> None:
    """The finding is made, and the pattern is the likeliest."""
    found = classified(*rows)
    assert trait in {one.name for one in found.traits}
    assert max(found.shares, key=lambda one: found.shares[one]) is pattern


@pytest.mark.parametrize(
    ("trait", "rows"),
    [
        ("cpu_up_without_load", [("cpu", 0.3, 0.9), ("request_rate", 50, 150)]),
        ("memory_up", [("memory", 2e7, 6e7)]),
        ("memory_up", [("memory", 2e9, 2.5e9)]),
        ("load_up_and_saturated", [("request_rate", 50, 150), ("cpu", 0.3, 0.3)]),
        ("throughput_collapsed", [("request_rate", 50, 40)]),
        ("calls_lost", [("edge_client_lost_ratio@web", 0.0, 0.6), ("latency_p95", 0.1, 0.9)]),
        ("calls_lost", [("edge_client_lost_ratio@web", 0.0, 0.6), ("up_ratio", 1.0, 0.0)]),
        (
            "client_server_gap_up",
            [("client_latency_p90", 0.1, 0.9), ("latency_p90", 0.08, 0.08), ("up_ratio", 1.0, 0.0)],
        ),
        (
            "client_server_gap_up",
            [("client_latency_p90", 0.1, 0.9), ("latency_p90", 0.08, 0.08), ("cpu", 0.1, 0.9)],
        ),
        ("silent_for_its_callers", [("up_ratio", 1.0, 0.0)]),
        ("no_exceptions", [("error_ratio", 0.001, 0.3)]),
        ("no_exceptions", [("error_ratio", 0.001, 0.3), ("unhandled_exceptions_rate", 0.0, 5.0)]),
        ("exceptions_up", [("unhandled_exceptions_rate", 0.0, 0.0), ("error_ratio", 0.001, 0.3)]),
        ("quiet_root", [("latency_p95", 0.1, 0.9)]),
        ("data_named", [("schema_validation_errors", 1.0, 1.0)]),
    ],
)
def test_a_finding_needs_its_evidence(trait: str, rows: list[tuple[str, float, float]]) -> None:
    """Near misses are no findings."""
    assert trait not in {one.name for one in classified(*rows).traits}


CALM_RESOURCES = [("cpu", 0.3, 0.3), ("memory", 2e8, 2e8)]


@pytest.mark.parametrize(
    ("trait", "calm", "pattern", "spoiled"),
    [
        ("resources_calm", CALM_RESOURCES, Pattern.RESOURCE_EXHAUSTION, ("disk", 10, 50)),
        ("resources_calm", CALM_RESOURCES, Pattern.RESOURCE_EXHAUSTION, ("memory_rss", np.nan, 2e8)),
        ("load_calm", [LOAD], Pattern.SERVICE_OVERLOAD, ("requests_total", 50, 150)),
        ("load_calm", [LOAD], Pattern.SERVICE_OVERLOAD, ("requests_total", 50, np.nan)),
    ],
)
def test_what_is_measured_and_calm_is_ruled_out(
    trait: str, calm: list[tuple[str, float, float]], pattern: Pattern, spoiled: tuple[str, float, float]
) -> None:
    """A resource that is not used up and a load that did not rise; not where one series is not known."""
    slow = ("latency_p95", 0.1, 0.9)
    plain, ruled_out = classified(slow), classified(slow, *calm)
    assert trait in {one.name for one in ruled_out.traits}
    assert ruled_out.shares[pattern] < plain.shares[pattern] / 2
    for rows in (calm[1:], [*calm, spoiled]):
        assert trait not in {one.name for one in classified(slow, *rows).traits}


def test_a_collapse_of_the_load_and_of_the_traffic_is_told() -> None:
    """Both are findings of their own."""
    names = {one.name for one in classified(("request_rate", 50, 5), ("net_rx", 1e5, 1e3)).traits}
    assert {"throughput_collapsed", "network_traffic_dropped"} <= names


def test_errors_without_exceptions_are_rather_those_of_somebody_whom_it_calls() -> None:
    """A service that measures its exceptions and raises none is no likely place of a fault of code."""
    errors = ("error_ratio", 0.001, 0.3)
    plain = classified(errors)
    quiet = classified(errors, ("unhandled_exceptions_rate", 0.0, 0.0))
    raising = classified(errors, ("unhandled_exceptions_rate", 0.0, 5.0))
    bug, outside = Pattern.CODE_BUG, Pattern.DEPENDENCY_FAILURE
    assert quiet.shares[bug] < plain.shares[bug] < raising.shares[bug]
    assert quiet.shares[outside] > plain.shares[outside] > raising.shares[outside]


@pytest.mark.parametrize("before", [True, False], ids=["no samples before", "no samples after"])
def test_exceptions_that_are_not_known_have_not_been_quiet(before: bool) -> None:
    """A counter appears with its first exception, and a process that is gone counts none any more."""
    errors = ("error_ratio", 0.001, 0.3)
    unknown = ("unhandled_exceptions_rate", *((np.nan, 3.0) if before else (0.0, np.nan)))
    names = {one.name for one in classified(errors, unknown).traits}
    assert not names & {"exceptions_up", "no_exceptions"}
    # What another of them says still counts, if it says that there were some.
    both = classified(errors, unknown, ("panics_rate", 0.0, 5.0))
    assert "exceptions_up" in {one.name for one in both.traits}
    calm = classified(errors, unknown, ("panics_rate", 0.0, 0.0))
    assert "no_exceptions" not in {one.name for one in calm.traits}


def test_a_change_counts_only_of_the_same_service_and_shortly_before() -> None:
    """A decoy elsewhere, one long ago and one after the onset are no findings."""
    onset = STEP * BEFORE
    decoys = [
        Change("web", onset - 60, "rollout"),
        Change("db", onset - 7200, "x"),
        Change("db", onset + 60, "x"),
    ]
    rows = ("error_ratio", 0.001, 0.3)
    plain, decoyed = classified(rows), classified(rows, changes=decoys)
    assert plain == decoyed
    told = classified(rows, changes=[*decoys, Change("db", onset - 600, "rollout")])
    assert "rollout 10 min before the onset" in [one.sentence for one in told.traits]
    assert told.shares[Pattern.CODE_BUG] > plain.shares[Pattern.CODE_BUG]


def test_a_doubtful_service_has_the_patterns_of_the_prior() -> None:
    """The pattern of the wrong service is worth nothing."""
    seen = window(("cpu", 0.3, 0.9))
    scorer = Scorer(seen, Symptom("web", "", STEP * BEFORE), CallGraph())
    scored = scorer.score(scorer.onset.index, len(seen.times))
    assert classify_pattern(scorer, scored, "db", 0.0, ()).shares == pytest.approx(PRIOR)


def test_the_alerting_service_is_not_its_own_dependency() -> None:
    """When db alerts itself, its silence is no dependency failure."""
    alone = localize(window(("up_ratio", 1.0, 0.0)), Symptom("db", "up_ratio", STEP * BEFORE), CallGraph())
    assert alone.pattern is not Pattern.DEPENDENCY_FAILURE
