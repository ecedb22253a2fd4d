"""The healer itself: whether the fabric lives, keeps up, and hears what it should."""

from __future__ import annotations

from typing import Any

from grafana_foundation_sdk.builders import dashboard, stat

from shf_dashboards.panels import bars, lines, neutral_below, nothing_yet, number
from shf_dashboards.parts import (
    ALIVE,
    BAD,
    CLUSTER,
    CLUSTER_OR_NONE,
    HEALTHY,
    NO_FABRIC,
    NO_RULES,
    NOTHING_YET,
    WORKING,
    start,
)
from shf_dashboards.tables import alerts

LONGEST_SILENCE = 60  # seconds without a round, from which on ShfFabricNotReconciling counts
_TARGET = "cluster, job, instance"
MINE = f"* on ({_TARGET}) group_left () max by ({_TARGET}) (shf_build_info{{{CLUSTER}}})"
ABOUT_THE_HEALER = (
    "ShfFabricDown|ShfFabricNotReconciling|ShfAlertmanagerNotCompared|ShfWebhookFailing|"
    "ShfRulesFailing|ShfAlertsDropped|ShfMonitoringBlind"
)


def healer() -> dashboard.Dashboard:
    """The dashboard for whoever runs the fabric."""
    built = start(
        "shf-healer",
        "The healer itself",
        "Whether the fabric lives, keeps up with its work, and hears what it should.",
    )
    for panel in (*_lives(), *_hears(), *_through_time()):
        built.with_panel(panel)
    return built.with_panel(
        alerts(
            "Alerts about the healer",
            "While one of these fires, do not rely on the fabric: whoever is called repairs by hand. The "
            "name leads to its runbook.",
            f'alertname=~"{ABOUT_THE_HEALER}"',
            width=12,
        )
    )


def _lives() -> list[stat.Panel]:
    age = f"time() - max by (cluster) (shf_last_reconcile_timestamp_seconds{{{CLUSTER}}} > 0)"
    return [
        number(
            "Replicas",
            "Fabrics that Prometheus scrapes now. Fewer than you started: look for the missing one's log. "
            "None: nothing heals, repair by hand.",
            f"count(max by (cluster, job, instance) (shf_build_info{{{CLUSTER}}}))",
            thresholds=neutral_below((1, HEALTHY)),
        ),
        number(
            "Leaders",
            "Replicas that compare with the servers: exactly one in each cluster. None for longer than a "
            "lease: no replica reaches the store. Two: they have different stores.",
            f"sum by (cluster) (shf_leader{{{CLUSTER}}})",
            legend="{{cluster}}",
            thresholds=neutral_below((0, BAD), (1, HEALTHY), (2, BAD)),
        ),
        number(
            "Last round",
            "Seconds since alerts were last compared with the servers; a round comes every 10 s. Above a "
            "minute incidents stand still: see ShfFabricNotReconciling.",
            f"max({age}) or {NOTHING_YET}",
            unit="s",
            mappings=[nothing_yet("none yet")],
            thresholds=neutral_below((0, HEALTHY), (30, WORKING), (LONGEST_SILENCE, BAD)),
        ),
        number(
            "Longest wait for a step",
            "How long the incident that waits longest has been due without a worker taking it. Seconds are "
            "normal in a storm; minutes mean too few workers or a slow store.",
            f"max(shf_step_delay_seconds{{{CLUSTER}}})",
            unit="s",
            thresholds=neutral_below((0, HEALTHY), (10, WORKING), (60, BAD)),
        ),
        number(
            "Failed notifications",
            "Notifications that three times met an unexpected error. They are kept in the table `inbox` with "
            "the error: report it, the alerts themselves are fetched from Alertmanager.",
            f'max(shf_inbox_notifications{{{CLUSTER}, state="failed"}})',
            thresholds=neutral_below((0, HEALTHY), (1, BAD)),
        ),
        number(
            "Versions",
            "Versions that run now, and how many replicas of each. More than one for longer than an update "
            "takes: an update got stuck.",
            f"count by (version) (shf_build_info{{{CLUSTER}}})",
            legend="{{version}}",
            named=True,
            thresholds=neutral_below(),
        ),
    ]


def _hears() -> list[stat.Panel]:
    asked = f"sum(increase(shf_webhook_requests_total{{{CLUSTER}}}[$__range]))"
    refused = f'sum(increase(shf_webhook_requests_total{{{CLUSTER}, code=~"[45].."}}[$__range]))'
    cut = f"sum(increase(shf_alerts_truncated_total{{{CLUSTER}}}[$__range]))"
    buckets = f"sum by (le) (increase(shf_diagnosis_duration_seconds_bucket{{{CLUSTER}}}[$__range]))"
    diagnosed = f"sum(increase(shf_diagnosis_duration_seconds_count{{{CLUSTER}}}[$__range]))"
    return [
        number(
            "Notifications refused",
            "Share that was not answered with 202 in the time range. 401 and 403: the token; 422: not an "
            "Alertmanager; 503: the store. Alertmanager repeats after 503 at once, after 4xx much later.",
            f"{refused} / ({asked} > 0) or {NOTHING_YET}",
            unit="percentunit",
            mappings=[nothing_yet("none came")],
            thresholds=neutral_below((0, HEALTHY), (0.01, WORKING), (0.1, BAD)),
        ),
        number(
            "Alerts cut off",
            "By `max_alerts` of the receiver in Alertmanager, in the time range. They are fetched from "
            "Alertmanager, later. Remove `max_alerts`.",
            f"round({cut}) or {ALIVE}",
            thresholds=neutral_below((0, HEALTHY), (1, WORKING)),
        ),
        number(
            "Diagnosis takes",
            "95 % of the diagnoses of the time range took at most this long. Longer than some seconds: "
            "Prometheus is slow to answer.",
            f"histogram_quantile(0.95, {buckets}) and {diagnosed} > 0 or {NOTHING_YET}",
            unit="s",
            mappings=[nothing_yet("none made")],
            thresholds=neutral_below((0, HEALTHY), (5, WORKING), (20, BAD)),
        ),
        number(
            "Rules that fail",
            "Evaluations of the fabric's rules that failed or were left out in the last 5 min. What they "
            "detect goes unseen: see the rules' page of Prometheus.",
            f"max(job:shf_rule_failures:increase{{{CLUSTER_OR_NONE}}})",
            unknown=NO_RULES,
            thresholds=neutral_below((0, HEALTHY), (1, BAD)),
        ),
        number(
            "Alerts that Prometheus lost",
            "Alerts that reached no Alertmanager in the last 5 min. Look whether one answers, and at the "
            "queue of Prometheus.",
            f"max(job:shf_alert_losses:increase{{{CLUSTER_OR_NONE}}})",
            unknown=NO_RULES,
            thresholds=neutral_below((0, HEALTHY), (1, BAD)),
        ),
        number(
            "Webhooks that fail",
            "Share of the notifications of the last 5 min that Alertmanager gave up or the fabric refused. "
            "Above 10 %: ShfWebhookFailing.",
            f"max(job:shf_webhook_failures:ratio{{{CLUSTER_OR_NONE}}}) or {RULES_WITHOUT_NOTIFICATION}",
            unit="percentunit",
            mappings=[nothing_yet("none sent")],
            unknown=NO_RULES,
            thresholds=neutral_below((0, HEALTHY), (0.01, WORKING), (0.1, BAD)),
        ),
    ]


RULES_WITHOUT_NOTIFICATION = f"0 * max(job:shf_fabric:up{{{CLUSTER}}}) - 1"


def _through_time() -> list[Any]:
    age = f"time() - max by (cluster) (shf_last_reconcile_timestamp_seconds{{{CLUSTER}}} > 0)"

    def counted(metric: str, by: str) -> str:
        return f"round(sum by ({by}) (increase({metric}{{{CLUSTER}}}[$__rate_interval])))"

    return [
        lines(
            "Age of the last round",
            "Should stay near 10 s. Above the line ShfFabricNotReconciling fires; a gap is a fabric that was "
            "not scraped.",
            {"age": f"max({age})"},
            unit="s", limit=LONGEST_SILENCE,
        ),
        lines(
            "Work that waits",
            "Incidents that are due and notifications that are not worked in. Should fall back to 0 after "
            "each burst; a line that only rises: too few workers, or a slow store.",
            {
                "due incidents": f"max(shf_due_incidents{{{CLUSTER}}})",
                "notifications": f'max(shf_inbox_notifications{{{CLUSTER}, state="waiting"}})',
            },
            unit="none", decimals=0,
        ),
        bars(
            "Notifications by answer",
            "202 is stored. 4xx: Alertmanager will hardly try again, see its configuration. 503: it tries "
            "again at once, see the store.",
            {"{{code}}": counted("shf_webhook_requests_total", "code")},
            by_name={"202": HEALTHY, "503": WORKING, "401": BAD, "403": BAD, "422": BAD}, width=8,
        ),
        bars(
            "Alerts received",
            "In accepted notifications. A repeated notification counts again; an incident is opened once.",
            {"{{status}}": counted("shf_alerts_received_total", "status")},
            by_name={"firing": WORKING, "resolved": HEALTHY}, width=8,
        ),
        lines(
            "Memory of the fabric",
            "Resident memory of each replica. A rise over days without more incidents is worth a report.",
            {"{{instance}}": f"process_resident_memory_bytes{{{CLUSTER}}} {MINE}"},
            unit="bytes",
        ),
        lines(
            "CPU of the fabric",
            "Cores that each replica uses. Near 1 for long: Python can use no more; add a replica "
            "(PostgreSQL), or watch fewer services.",
            {"{{instance}}": f"rate(process_cpu_seconds_total{{{CLUSTER}}}[$__rate_interval]) {MINE}"},
            unit="none",
        ),
        lines(
            "Files that the fabric has open",
            "As a share of what the process may open. At 100 % it takes no more connections.",
            {
                "{{instance}}": f"process_open_fds{{{CLUSTER}}} / process_max_fds{{{CLUSTER}}} {MINE}",
            },
            unit="percentunit", highest=1, unknown=NO_FABRIC, width=12,
        ),
    ]  # fmt: skip
