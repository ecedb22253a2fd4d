"""Incident overview: what is wrong now, what the fabric does about it, and how well it has coped."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard, stat, statetimeline, timeseries

from shf_dashboards.panels import bars, neutral_below, nothing_yet, number, states, words
from shf_dashboards.parts import ALIVE, ASKING, BAD, CLUSTER, HEALTHY, NOTHING_YET, SERVICE, WORKING, start
from shf_dashboards.tables import alerts, open_incidents

MODES = {
    "1": ("automatic", HEALTHY),
    "2": ("approval", "blue"),
    "3": ("dry_run", WORKING),
    "4": ("paused", BAD),
}
OPEN = 'state!~"resolved|closed"'
WAITING = 'state=~"escalated|awaiting_approval"'
SERVICE_STATES = {"0": ("healthy", HEALTHY), "1": ("healing", WORKING), "2": ("escalated", BAD)}


def overview() -> dashboard.Dashboard:
    """The dashboard to begin with."""
    built = start(
        "shf-incident-overview",
        "Incident overview",
        "What is wrong now, what the fabric does about it, and how well it has coped.",
    )
    for panel in (*_first_row(), open_incidents("Open incidents in detail"), _service_states()):
        built.with_panel(panel)
    built.with_panel(_opened_and_resolved())
    return built.with_panel(
        alerts(
            "Alerts that fire",
            "Alerts of the shipped rules, whether or not the fabric heals them. Those without a service are "
            "about the monitoring and the healer: see to them first. The name leads to the runbook.",
            'service=~"$service"',
        )
    )


def _first_row() -> list[stat.Panel]:
    ended = f"sum(increase(shf_incidents_resolved_total{{{SERVICE}}}[$__range]))"
    healed = f'sum(increase(shf_incidents_resolved_total{{{SERVICE}, outcome="healed"}}[$__range]))'
    opened, waiting = in_states(OPEN), in_states(WAITING)
    blocked = f"sum(increase(shf_guardrail_blocks_total{{{SERVICE}}}[$__range]))"
    return [
        number(
            "Open incidents",
            "Incidents that are neither resolved nor closed, those that wait for people included. More than "
            "one or two at a time: look for what they have in common before you repair one by one.",
            f"{opened} or {ALIVE}",
            thresholds=neutral_below((0, HEALTHY), (1, WORKING)),
        ),
        number(
            "Waiting for a human",
            "Open incidents that are escalated or await approval: the fabric does nothing more about them "
            "until someone acts. The table below leads to each.",
            f"{waiting} or {ALIVE}",
            thresholds=neutral_below((0, HEALTHY), (1, BAD)),
        ),
        number(
            "Recovered without a human",
            "Of the incidents that ended in the time range, the share that an action of the fabric healed, "
            "proved by fresh samples. The rest recovered by themselves, by people, or were closed. A share "
            "that falls: see which strategies fail on Recovery actions and guardrails.",
            f"{healed} / ({ended} > 0) or {NOTHING_YET}",
            unit="percentunit",
            mappings=[nothing_yet("none ended")],
            thresholds=neutral_below((0, BAD), (0.5, WORKING), (0.8, HEALTHY)),
        ),
        time_to_recover("Median time to recover"),
        number(
            "Guardrail blocks",
            "How often a guardrail refused an action in the time range. Some are normal; which ones they "
            "were, and for whom, is on Recovery actions and guardrails.",
            f"round({blocked}) or {ALIVE}",
            thresholds=neutral_below((0, HEALTHY), (1, WORKING)),
        ),
        mode(),
    ]


def in_states(matcher: str) -> str:
    """How many incidents are in these states: every replica of a fabric exports the same ones.

    Counted in each replica before they are compared: one that is scraped a little later has an incident in
    its next state, which would be one more.
    """
    of_replica = f"sum by (cluster, service, job, instance) (shf_incidents{{{SERVICE}, {matcher}}})"
    return f"sum(max by (cluster, service) ({of_replica}))"


def time_to_recover(title: str) -> stat.Panel:
    """Half of the recoveries were faster."""
    buckets = f"sum by (le) (increase(shf_time_to_recover_seconds_bucket{{{SERVICE}}}[$__range]))"
    number_of = f"sum(increase(shf_time_to_recover_seconds_count{{{SERVICE}}}[$__range]))"
    return number(
        title,
        "From the opening of an incident to its resolution: half of those in the time range were faster. "
        "Estimated from the buckets of a histogram. Rises when first attempts fail: see the actions.",
        f"histogram_quantile(0.5, {buckets}) and {number_of} > 0 or {NOTHING_YET}",
        unit="s",
        mappings=[nothing_yet("none ended")],
        thresholds=neutral_below((0, HEALTHY), (120, WORKING), (600, BAD)),
    )


def mode() -> stat.Panel:
    """The mode in force, as a word; of several clusters the strictest."""
    return number(
        "Mode",
        "automatic acts, approval asks first, dry_run only says what it would do, paused is the kill switch. "
        "Change it with `shf mode`; single services and strategies may have a stricter one.",
        f"max({mode_as_number()})",
        mappings=[words(MODES)],
        thresholds=neutral_below(),
    )


def mode_as_number() -> str:
    """A number for each mode, so that a mapping can name and colour it; see `MODES`."""
    return " or ".join(
        f'{number} * (shf_mode{{{CLUSTER}, mode="{name}"}} == 1)' for number, (name, _) in MODES.items()
    )


def _service_states() -> statetimeline.Panel:
    """Services that were not healthy at some time of the range: thousands that were would hide them."""
    state = f"max by (cluster, service) (shf_service_state{{{SERVICE}}})"
    troubled = (
        f"max by (cluster, service) (max_over_time(shf_service_state{{{SERVICE}}}[$__range] @ end())) > 0"
    )
    rest = f'label_replace({ALIVE}, "service", "all others", "", "")'
    return states(
        "State of the services",
        "Each service that had an incident in the time range; all others were healthy. Healing: the fabric "
        "works on it. Escalated: people are called. Gaps: the fabric was not scraped, so nothing is known. "
        "What was healed between two scrapes is only in the bars below.",
        f"{state} and on (cluster, service) ({troubled}) or {rest}",
        legend="{{service}}",
        texts=SERVICE_STATES,
    )


def _opened_and_resolved() -> timeseries.Panel:
    opened = f"round(sum(increase(shf_incidents_opened_total{{{SERVICE}}}[$__rate_interval])))"
    resolved = (
        f"round(sum by (outcome) (increase(shf_incidents_resolved_total{{{SERVICE}}}[$__rate_interval])))"
    )
    return bars(
        "Incidents opened and resolved",
        "Opened upwards, resolved downwards. Healed: by an action. Recovered: by itself or by people. Both "
        "proved. Bars upwards without their match below are incidents that stay open.",
        {"opened": opened, "{{outcome}}": resolved},
        by_name={"opened": WORKING, "healed": HEALTHY, "recovered": "blue", "closed_by_person": ASKING},
        downwards=("healed", "recovered", "closed_by_person"),
    )
