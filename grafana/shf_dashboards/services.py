"""Service healing detail: all that the fabric knows of, and does about, the chosen services."""

from __future__ import annotations

from grafana_foundation_sdk.builders import bargauge, dashboard, stat, statetimeline

from shf_dashboards.incidents import SERVICE_STATES, in_states, time_to_recover
from shf_dashboards.panels import (
    bars,
    lines,
    neutral_below,
    not_a_number,
    nothing_yet,
    number,
    ranking,
    states,
    words,
)
from shf_dashboards.parts import (
    ALIVE,
    ASKING,
    BAD,
    HEALTHY,
    NOTHING_YET,
    SERVICE,
    WORKING,
    start,
)
from shf_dashboards.tables import alerts, open_incidents

LEVELS = {
    "0": ("0 self-healing", HEALTHY),
    "1": ("level 1", "yellow"),
    "2": ("level 2", WORKING),
    "3": ("level 3", BAD),
    "4": ("4 everyone", "dark-red"),
}
INCIDENT_STATES = {
    "detected": "yellow",
    "diagnosing": "blue",
    "awaiting_approval": ASKING,
    "recovering": WORKING,
    "verifying": "semi-dark-green",
    "escalated": BAD,
}


def healing() -> dashboard.Dashboard:
    """The dashboard of one service, or of a few."""
    built = start(
        "shf-service-healing",
        "Service healing detail",
        "All that the fabric knows of, and does about, the services chosen above.",
    )
    for panel in (*_first_row(), open_incidents("Open incidents of the services"), _incident_states()):
        built.with_panel(panel)
    built.with_panel(_levels()).with_panel(_actions())
    built.with_panel(_guardrails()).with_panel(_recovery_by_service())
    return built.with_panel(
        alerts(
            "Alerts of the services",
            "What fires for them. The service leads to its signals, the alert to its runbook.",
            'service=~"$service", service!=""',
            width=24,
        )
    )


def _first_row() -> list[stat.Panel]:
    actions = f"sum(increase(shf_recovery_actions_total{{{SERVICE}}}[$__range]))"
    kept = in_states('state!="closed"')
    return [
        number(
            "Worst state",
            "Of the services chosen. Healing: leave it to the fabric, watch. Escalated: people are called; "
            "the incident's story below says what was tried.",
            f"max(shf_service_state{{{SERVICE}}})",
            mappings=[words(SERVICE_STATES)],
            thresholds=neutral_below(),
        ),
        number(
            "Escalation level",
            "Highest of the open incidents. From level 1 on people are called; acknowledge the incident to "
            "stop the next level.",
            f"max(shf_escalation_level{{{SERVICE}}})",
            mappings=[words(LEVELS)],
            thresholds=neutral_below(),
        ),
        number(
            "Incidents that are not closed",
            "Open ones, and resolved ones that would be opened again if their alert returned within the "
            "relapse window.",
            f"{kept} or {ALIVE}",
            thresholds=neutral_below((0, HEALTHY), (1, WORKING)),
        ),
        time_to_recover("Median time to recovery"),
        number(
            "Actions in the time range",
            "Recovery actions that ended, whatever their outcome. Many for one service mean that repairs do "
            "not last: look for the cause.",
            f"round({actions}) or {ALIVE}",
            thresholds=neutral_below((0, HEALTHY), (3, WORKING)),
        ),
        number(
            "Places that drifted",
            "Where the running configuration differs from the wanted one. `shf drift` shows each place. "
            "Unknown: the target or the source of the configuration cannot be read.",
            f"max(shf_config_drift{{{SERVICE}}}) or {NOTHING_YET}",
            mappings=[nothing_yet("not watched"), not_a_number("unknown")],
            thresholds=neutral_below((0, HEALTHY), (1, BAD)),
        ),
    ]


def _incident_states() -> statetimeline.Panel:
    numbered = {
        state: (str(index), colour) for index, (state, colour) in enumerate(INCIDENT_STATES.items(), 1)
    }
    each = " or ".join(
        f'{number} * (shf_incident_state{{{SERVICE}, state="{state}"}} == 1)'
        for state, (number, _) in numbered.items()
    )
    none = f'label_replace(label_replace({ALIVE}, "service", "(none", "", ""), "incident", "open)", "", "")'
    texts = {number: (state, colour) for state, (number, colour) in numbered.items()}
    return states(
        "Incidents through their states",
        "Each incident while it is open. A line that ends was resolved or closed. Long in verifying: it is "
        "not proved yet; long in awaiting_approval or escalated: someone has to act.",
        f"max by (cluster, service, incident) ({each}) or {none}",
        legend="{{service}} {{incident}}",
        texts={"0": ("-", "transparent"), **texts},
        height=8,
    )


def _levels() -> object:
    level = f"max by (service) (shf_escalation_level{{{SERVICE}}})"
    everyone = (
        f"topk(10, max by (service) (max_over_time(shf_escalation_level{{{SERVICE}}}[$__range] @ end())))"
    )
    return lines(
        "Escalation levels",
        "0 is self-healing, 4 everyone and a human; the ten services that went highest. A level rises when "
        "nobody acknowledged the one before in time.",
        {"{{service}}": f"{level} and on (service) ({everyone})"},
        unit="none", highest=4, stepped=True, decimals=0, width=12,
    )  # fmt: skip


def _actions() -> object:
    by = "strategy, outcome"
    expression = (
        f"round(sum by ({by}) (increase(shf_recovery_actions_total{{{SERVICE}}}[$__rate_interval])) > 0)"
    )
    none = f'label_replace(label_replace({ALIVE}, "strategy", "(any", "", ""), "outcome", "other)", "", "")'
    return bars(
        "Actions of the services",
        "What was done, and how it ended. The same action again and again: it does not cure the cause.",
        {"{{strategy}} {{outcome}}": f"{expression} or {none}"},
    )


def _guardrails() -> bargauge.Panel:
    own = f'{SERVICE}, service!="*"'
    left = (
        f"min by (service, guardrail) (shf_guardrail_remaining{{{own}}} / (shf_guardrail_limit{{{own}}} > 0))"
    )
    none = (
        f'label_replace(label_replace({NOTHING_YET}, "service", "none", "", ""), "guardrail", "used", "", "")'
    )
    return ranking(
        "Least left of the guardrails",
        "What each guardrail still allows, as a share of its limit, where some is used up; the tightest "
        "twelve. 0 %: refuses the next action. Raise the limit only when you know why it was reached.",
        f"bottomk(12, {left} < 1) or on () {none}",
        legend="{{service}} {{guardrail}}",
        unit="percentunit",
        mappings=[nothing_yet("-")],
        thresholds=neutral_below((0, BAD), (0.01, WORKING), (0.5, HEALTHY)),
        highest=1,
    )


def _recovery_by_service() -> bargauge.Panel:
    buckets = f"sum by (service, le) (increase(shf_time_to_recover_seconds_bucket{{{SERVICE}}}[$__range]))"
    number_of = f"sum by (service) (increase(shf_time_to_recover_seconds_count{{{SERVICE}}}[$__range]))"
    none = f'label_replace({NOTHING_YET}, "service", "none ended", "", "")'
    return ranking(
        "Slowest to recover",
        "Median time to recover in the time range, the ten slowest services. Slow ones need another plan, or "
        "a cure of what breaks them.",
        f"topk(10, histogram_quantile(0.5, {buckets}) and on (service) ({number_of} > 0)) or on () {none}",
        legend="{{service}}",
        unit="s",
        mappings=[nothing_yet("-")],
        thresholds=neutral_below((0, HEALTHY), (120, WORKING), (600, BAD)),
    )
