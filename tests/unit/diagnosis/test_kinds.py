"""What a name says of its series: the table is the rule."""

import pytest

from self_healing_fabric.diagnosis.kinds import Family, kind_of

NAMES = [
    ("cpu_utilisation", Family.CPU, 1),
    ("memory_persist_error_ratio", Family.ERRORS, 1),
    ("mem", Family.MEMORY, 1),
    ("latency_p95_seconds", Family.LATENCY, 1),
    ("http_server_duration_p99_ms", Family.LATENCY, 1),
    ("client_latency_p90", Family.CLIENT_LATENCY, 1),
    ("edge_server_latency_p50", Family.LATENCY, 1),
    ("edge_client_lost_ratio", Family.CLIENT_LOSS, 1),
    ("client_errors_total", Family.ERRORS, 1),
    ("edge_gap_latency_p50", Family.CLIENT_GAP, 1),
    ("availability_average", Family.ERRORS, -1),
    ("success_rate", Family.ERRORS, -1),
    ("cpu_throttled_ratio", Family.CPU, 1),
    ("write_throttle_ratio", Family.ERRORS, 1),
    ("up_ratio", Family.HEALTH, -1),
    ("scale_up_total", Family.OTHER, -1),
    ("restarts_increase", Family.RESTARTS, 1),
    ("queue_depth", Family.SATURATION, 1),
    ("disk", Family.DISK, 1),
    ("net_rx", Family.NETWORK, 0),
    ("requests_sum", Family.LOAD, 0),
    ("db_queries_per_second", Family.LOAD, 0),
    ("db_query_count_per_request", Family.OTHER, 0),
    ("cache_hit_ratio", Family.OTHER, -1),
    ("config_drift_paths", Family.DRIFT, 1),
    ("heapUsed", Family.MEMORY, 1),
    ("frobnication", Family.OTHER, 0),
]


@pytest.mark.parametrize(("name", "family", "direction"), NAMES, ids=[name for name, *_ in NAMES])
def test_a_name_tells_family_and_bad_direction(name: str, family: Family, direction: int) -> None:
    """Each name of the table is read so."""
    kind = kind_of(name)
    assert (kind.family, kind.direction) == (family, direction)


def test_what_is_vague_counts_less() -> None:
    """Load and unknown series count less than a resource, an edge more than what has no peer."""
    weight = {name: kind_of(name).weight for name in ("cpu", "requests", "frobnication", "syscall_read")}
    assert weight["cpu"] > weight["frobnication"] > weight["requests"] > weight["syscall_read"]
    assert kind_of("edge_client_latency_p50").weight > kind_of("client_latency_p50").weight


def test_shares_counts_and_statistics_are_read() -> None:
    """A share has another floor, a count is no rate, and P95 is not the mean."""
    assert kind_of("error_ratio").share
    assert not kind_of("errors").share
    assert kind_of("requests_sum").counted
    assert not kind_of("request_rate").counted
    assert (kind_of("latency_p95").statistic, kind_of("latency_mean").statistic) == ("p95", "mean")
