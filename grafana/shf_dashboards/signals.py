"""Detection signals: what the rules measure, what they compare it with, and what is usual.

One row of graphs for each chosen service. All is not offered here: thousands of services would be thousands
of rows. The table above the rows reads all of them, and leads to the rows of one.
"""

from __future__ import annotations

from typing import Any

from grafana_foundation_sdk.builders import dashboard, table

from shf_dashboards.panels import Column, graded, lines, nothing_yet, rows
from shf_dashboards.parts import (
    BAD,
    CLUSTER,
    HEALTHY,
    NEUTRAL,
    NO_RULES,
    RULES_RUN,
    SERVICE,
    WATCHDOG_SILENT,
    WORKING,
    start,
)
from shf_dashboards.tables import TO_SIGNALS

REACHED = ((None, NEUTRAL), (0, HEALTHY), (0.8, WORKING), (1, BAD))  # of a limit
VALUE, LIMIT, USUAL = "value", "limit", "usual"
COLOURS = {VALUE: "blue", LIMIT: BAD, USUAL: "text"}
# The median of six hours that ended ten minutes ago, as the rules take it for the latency, in steps that are
# cheap enough for a graph.
OF_SIX_HOURS = "[6h:5m] offset 10m"


def detection() -> dashboard.Dashboard:
    """The dashboard for whoever asks why an alert fired, or did not."""
    built = start(
        "shf-detection-signals",
        "Detection signals",
        "What the rules measure of each service, the limit that they hold it against, and what is usual.",
        annotated=False,
    )
    built.with_panel(_closest_to_limits())
    built.with_row(dashboard.Row("$service").repeat("service"))
    for panel in _signals():
        built.with_panel(panel)
    return built


def _worst(recording: str) -> str:
    return f"max by (cluster, service) ({recording}{{{CLUSTER}}})"


def _closest_to_limits() -> table.Panel:
    own = 'max by (service) (service_signal:shf_threshold:value{signal="heartbeat"})'
    shares = {
        "heartbeat": f"{_worst('service:shf_heartbeat:age_seconds')} / on (service) group_left () {own}",
        "error_ratio": f"{_worst('service:shf_errors:ratio')} / {_worst('service:shf_errors:threshold')}",
        "latency_p95": (
            f"{_worst('service:shf_latency:p95_seconds')} / {_worst('service:shf_latency:threshold_seconds')}"
        ),
        "cpu": f"{_worst('service:shf_cpu:utilisation')} / {_worst('service:shf_cpu:threshold')}",
        "memory": f"{_worst('service:shf_memory:utilisation')} / {_worst('service:shf_memory:threshold')}",
    }
    each = " or ".join(
        f'label_replace({share}, "signal", "{signal}", "", "")' for signal, share in shares.items()
    )
    none = f'label_replace({RULES_RUN} - 1, "signal", "none is close", "", "")'
    return rows(
        "Closest to their limits",
        "All services of the chosen clusters: signals that have reached more than 60 % of their limit, the "
        "twenty highest. Above 100 % an alert is due. A service leads to its row below.",
        f"topk(20, ({each}) > 0.6) or on () {none}",
        columns={
            "service": Column("Service", 240, (TO_SIGNALS,)),
            "cluster": Column("Cluster", 160),
            "signal": Column("Signal", 160),
            "Value": Column(
                "Of the limit", 140,
                graded("percentunit", REACHED, nothing_yet("-")),
            ),
        },
        unknown=WATCHDOG_SILENT,
        sort="Of the limit",
    )  # fmt: skip


def _signal(
    title: str,
    description: str,
    value: str,
    limit: str,
    usual: str,
    *,
    unit: str,
    width: int,
) -> Any:
    """Value, limit and what is usual, together: a value says nothing by itself."""
    return lines(
        title,
        description,
        {VALUE: value, LIMIT: limit, USUAL: usual},
        unit=unit,
        by_name=COLOURS,
        dashed=(LIMIT, USUAL),
        unknown=NO_RULES,
        width=width,
    )


def _of(recording: str) -> str:
    return f"max({recording}{{{SERVICE}}})"


def _usual(recording: str) -> str:
    """Only beside a value: by itself it would outlive the service by hours."""
    return f"max(quantile_over_time(0.5, {recording}{{{SERVICE}}}{OF_SIX_HOURS})) and on () {_of(recording)}"


def _signals() -> list[Any]:
    beat = "service:shf_heartbeat:age_seconds"
    own = 'max(service_signal:shf_threshold:value{service=~"$service", signal="heartbeat"})'
    return [
        _signal(
            "Heartbeat",
            "Seconds since the service last answered all its kinds of checks. Above the limit: "
            "ShfHeartbeatMissed. A line that rises steadily is a service that is silent.",
            _of(beat), own, _usual(beat), unit="s", width=5,
        ),
        _signal(
            "Error ratio",
            "Failed share of the requests of the last minute. Above the limit with at least five failures: "
            "ShfErrorRateHigh. No line: there were no requests.",
            _of("service:shf_errors:ratio"), _of("service:shf_errors:threshold"),
            _usual("service:shf_errors:ratio"), unit="percentunit", width=5,
        ),
        _signal(
            "P95 latency",
            "95 % of the requests were faster. The limit is a multiple of the baseline, which only learns "
            "from healthy times; without a baseline (new services) there is no limit yet.",
            _of("service:shf_latency:p95_seconds"), _of("service:shf_latency:threshold_seconds"),
            _of("service:shf_latency:p95_seconds_baseline"), unit="s", width=5,
        ),
        _signal(
            "CPU",
            "Share of the CPU that the busiest instance may use. Above the limit for two minutes: "
            "ShfCpuExhausted; scale, or find what burns it.",
            _of("service:shf_cpu:utilisation"), _of("service:shf_cpu:threshold"),
            _usual("service:shf_cpu:utilisation"), unit="percentunit", width=5,
        ),
        _signal(
            "Memory",
            "Share of the memory limit of the fullest instance. Above the limit for two minutes: "
            "ShfMemoryExhausted; a steady rise is a leak.",
            _of("service:shf_memory:utilisation"), _of("service:shf_memory:threshold"),
            _usual("service:shf_memory:utilisation"), unit="percentunit", width=4,
        ),
    ]  # fmt: skip
