"""Tables that several dashboards show: open incidents and alerts, with links to what one does about them."""

from __future__ import annotations

from grafana_foundation_sdk.builders import table

from shf_dashboards.panels import Column, colours, in_unit, in_words, linked, nothing_yet, rows
from shf_dashboards.parts import (
    ALIVE,
    CLUSTER,
    CLUSTER_OR_NONE,
    NO_FABRIC,
    RULES_RUN,
    SERVICE,
    WATCHDOG_SILENT,
)

HERE = "${__url_time_range}&${datasource:queryparam}&${cluster:queryparam}"
OF_SERVICE = f"{HERE}&var-service=${{__value.text:percentencode}}"
TO_SERVICE = linked("What the fabric does about ${__value.text}", f"/d/shf-service-healing?{OF_SERVICE}")
TO_SIGNALS = linked("Signals of ${__value.text}", f"/d/shf-detection-signals?{OF_SERVICE}")
TO_INCIDENT = linked(
    "Story of the incident", "${__data.fields.url}/incidents/${__data.fields.incident}", elsewhere=True
)
TO_RUNBOOK = linked("Runbook", "${runbooks}/${__data.fields.alertname}.md", elsewhere=True)

SEVERITIES = colours(critical="red", warning="orange", none="text")
STATES = colours(escalated="red", awaiting_approval="purple", recovering="orange", verifying="blue")
# The address of the fabric of each cluster: replicas share one, and were they not to, the join must not fail.
ADDRESS = f"topk by (cluster) (1, max by (cluster, url) (shf_external_url_info{{{CLUSTER}}}))"


def open_incidents(title: str, *, width: int = 24) -> table.Panel:
    """One row an open incident, joined in PromQL with its state and with the address of its fabric.

    Replicas are scraped one after another, so they differ while an incident changes: the join needs one state
    an incident, and the newest scrape has it.
    """
    one = "topk by (cluster, incident) (1, max by (cluster, incident"
    age = f"time() - {one}, service, severity, signal) (shf_incident_start_timestamp_seconds{{{SERVICE}}}))"
    states = f"shf_incident_state{{{SERVICE}}}"
    state = f"({one}, state) (timestamp({states}) and {states} == 1)) > bool 0)"
    none = f'label_replace({ALIVE} - 1, "state", "no open incident", "", "")'
    return rows(
        title,
        "Each open incident and what the fabric does about it (at most the newest 100). Red is for people: "
        "open its story by its number, which says why and offers what can be decided. No row at all: look "
        "whether the fabric is scraped.",
        f"({age}) * on (cluster, incident) group_left (state) {state} "
        f"* on (cluster) group_left (url) {ADDRESS} or on () {none}",
        columns={
            "incident": Column("Incident", 230, (TO_INCIDENT,)),
            "service": Column("Service", 200, (TO_SERVICE,)),
            "cluster": Column("Cluster", 140),
            "severity": Column("Severity", 110, in_words(SEVERITIES)),
            "signal": Column("Signal", 140),
            "state": Column("State", 180, in_words(STATES)),
            "Value": Column("Open for", 120, in_unit("dtdurations", nothing_yet("-"))),
            # Last, but not left out: a link can only read what is in the table.
            "url": Column(
                "Fabric", 220, (linked("Incident pages", "${__data.fields.url}/", elsewhere=True),)
            ),
        },
        unknown=NO_FABRIC,
        sort="Open for",
        width=width,
        height=7,
    )


def alerts(title: str, description: str, matchers: str, *, width: int = 12) -> table.Panel:
    """One row an alert that fires, with its runbook. Prometheus knows them without Alertmanager."""
    labels, matchers = "cluster, alertname, service, severity", f"{CLUSTER_OR_NONE}, {matchers}"
    fires = f'ALERTS{{alertstate="firing", alertname=~"Shf.+", alertname!="ShfWatchdog", {matchers}}}'
    since = f'max by ({labels}) (ALERTS_FOR_STATE{{alertname=~"Shf.+", {matchers}}})'
    none = f'label_replace({RULES_RUN} - 1, "severity", "no alert fires", "", "")'
    return rows(
        title,
        description,
        f"(time() - {since}) and on ({labels}) {fires} or on () {none}",
        columns={
            "alertname": Column("Alert", 210, (TO_RUNBOOK,)),
            "service": Column("Service", 180, (TO_SIGNALS,)),
            "cluster": Column("Cluster", 120),
            "severity": Column("Severity", 130, in_words(SEVERITIES)),
            "Value": Column("Since", 110, in_unit("dtdurations", nothing_yet("-"))),
        },
        unknown=WATCHDOG_SILENT,
        sort="Since",
        width=width,
    )
