"""Recovery actions and guardrails: what the fabric did, how it ended, and what it was kept from."""

from __future__ import annotations

from grafana_foundation_sdk.builders import bargauge, dashboard, stat, statetimeline, table

from shf_dashboards.incidents import MODES, mode_as_number
from shf_dashboards.panels import (
    Column,
    bars,
    colours,
    in_unit,
    in_words,
    neutral_below,
    nothing_yet,
    number,
    ranking,
    rows,
    states,
)
from shf_dashboards.parts import (
    ALIVE,
    ASKING,
    BAD,
    CLUSTER,
    HEALTHY,
    NO_FABRIC,
    NOTHING_YET,
    SERVICE,
    WORKING,
    start,
)
from shf_dashboards.tables import TO_SERVICE

OUTCOMES = {"succeeded": HEALTHY, "failed": BAD, "indeterminate": ASKING}
GUARDRAIL_COLOURS = {
    "mode": "blue",
    "one_at_a_time": "yellow",
    "cooldown": WORKING,
    "max_actions": BAD,
    "max_failures": "dark-red",
    "storm": ASKING,
}
FLEET = f'{CLUSTER}, service="*"'


def actions_and_guardrails() -> dashboard.Dashboard:
    """The dashboard for whoever decides how much the fabric may do."""
    built = start(
        "shf-actions-guardrails",
        "Recovery actions and guardrails",
        "What the fabric did, how it ended, and what it was kept from.",
    )
    for panel in (*_first_row(), _modes(), *_bars(), _durations(), _fleet(), _exhausted(), _busiest()):
        built.with_panel(panel)
    return built


def _total(metric: str, matcher: str = "") -> str:
    return f"sum(increase({metric}{{{SERVICE}{matcher}}}[$__range]))"


def _first_row() -> list[stat.Panel]:
    ended = _total("shf_recovery_actions_total")
    succeeded = _total("shf_recovery_actions_total", ', outcome="succeeded"')
    unclear = _total("shf_recovery_actions_total", ', outcome="indeterminate"')
    blocked = _total("shf_guardrail_blocks_total")
    at_once = f'min(shf_guardrail_remaining{{{FLEET}, guardrail="fleet_at_once"}})'
    storm = f'min(shf_guardrail_remaining{{{FLEET}, guardrail="storm"}})'
    return [
        number(
            "Actions",
            "Recovery actions that ended in the time range.",
            f"round({ended}) or {ALIVE}",
            thresholds=neutral_below(),
        ),
        number(
            "Actions that succeeded",
            "The share whose effect happened. Whether it healed is another question: see Recovered without a "
            "human. Below 80 %: look at the failed ones' details with `shf incidents ID`.",
            f"{succeeded} / ({ended} > 0) or {NOTHING_YET}",
            unit="percentunit",
            mappings=[nothing_yet("none ended")],
            thresholds=neutral_below((0, BAD), (0.8, WORKING), (0.95, HEALTHY)),
        ),
        number(
            "Indeterminate actions",
            "Not even the target can tell whether they happened. They are never repeated: a person has to "
            "look at the target and close the incident.",
            f"round({unclear}) or {ALIVE}",
            thresholds=neutral_below((0, HEALTHY), (1, BAD)),
        ),
        number(
            "Actions refused",
            "How often a guardrail said no in the time range; each with its reason in the incident's story.",
            f"round({blocked}) or {ALIVE}",
            thresholds=neutral_below((0, HEALTHY), (1, WORKING)),
        ),
        number(
            "Actions allowed at once",
            "How many further actions may run in the fleet right now. 0: those that run have to end first.",
            at_once,
            thresholds=neutral_below((0, WORKING), (1, HEALTHY)),
        ),
        number(
            "Failing services to a storm",
            "How many more services may fail before the storm breaker stops all actions, because so many "
            "failures at once have a common cause. 0: find that cause; nothing is repaired meanwhile.",
            storm,
            thresholds=neutral_below((0, BAD), (1, WORKING), (3, HEALTHY)),
        ),
    ]


def _modes() -> statetimeline.Panel:
    return states(
        "Mode through time",
        "automatic acts, approval asks first, dry_run only says what it would do, paused is the kill switch. "
        "Of several clusters the strictest. Red for longer than somebody remembers: ask who paused it.",
        f"max({mode_as_number()})",
        legend="mode",
        texts=MODES,
        height=4,
    )


def _bars() -> list[object]:
    def counted(metric: str, by: str) -> str:
        return f"round(sum by ({by}) (increase({metric}{{{SERVICE}}}[$__rate_interval])))"

    def happened(metric: str, by: str) -> str:
        """Only what there was: a legend of all that there might have been hides it."""
        none = f'label_replace({ALIVE}, "{by}", "(any other)", "", "")'
        return f"{counted(metric, by)} > 0 or {none}"

    return [
        bars(
            "Recovery actions by outcome",
            "Finished actions of all strategies. Indeterminate: not even the target can tell whether it "
            "happened; those go to a person and are never repeated.",
            {"{{outcome}}": counted("shf_recovery_actions_total", "outcome")},
            by_name=OUTCOMES, width=8,
        ),
        bars(
            "Recovery actions by strategy",
            "What is done most. Only undo: actions make things worse; stop with `shf mode paused` and look.",
            {"{{strategy}}": happened("shf_recovery_actions_total", "strategy")},
            width=8,
        ),
        bars(
            "Guardrail blocks by guardrail",
            "Refused actions. Many by `cooldown` or `max_actions` mean that repairs do not last: "
            "look for the cause.",
            {"{{guardrail}}": happened("shf_guardrail_blocks_total", "guardrail")},
            by_name=GUARDRAIL_COLOURS, width=8,
        ),
    ]  # fmt: skip


def _durations() -> bargauge.Panel:
    buckets = (
        "sum by (strategy, le) "
        f"(increase(shf_recovery_action_duration_seconds_bucket{{{CLUSTER}}}[$__range]))"
    )
    number_of = (
        "sum by (strategy) "
        f"(increase(shf_recovery_action_duration_seconds_count{{{CLUSTER}}}[$__range]))"
    )  # fmt: skip
    none = f'label_replace({NOTHING_YET}, "strategy", "none ended", "", "")'
    return ranking(
        "Duration of the actions",
        "95 % of each strategy's actions took at most this long, of all services of the clusters. Close to "
        "the strategy's timeout: raise that, or find out what the target does for so long.",
        f"histogram_quantile(0.95, {buckets}) and on (strategy) ({number_of} > 0) or on () {none}",
        legend="{{strategy}}",
        unit="s",
        mappings=[nothing_yet("-")],
        thresholds=neutral_below((0, HEALTHY), (10, WORKING), (30, BAD)),
    )


def _fleet() -> bargauge.Panel:
    left = f"min by (guardrail) (shf_guardrail_remaining{{{FLEET}}} / (shf_guardrail_limit{{{FLEET}}} > 0))"
    return ranking(
        "Left of the fleet's guardrails",
        "Of what all services share, as a share of the limit. Mode 0 %: paused. Storm 0 %: so many services "
        "fail that nothing is repaired one by one.",
        left,
        legend="{{guardrail}}",
        unit="percentunit",
        thresholds=neutral_below((0, BAD), (0.01, WORKING), (0.5, HEALTHY)),
        highest=1,
    )


def _exhausted() -> table.Panel:
    chosen = f'{CLUSTER}, service=~"$service|[*]"'
    used_up = f"max by (cluster, service, guardrail) (shf_guardrail_remaining{{{chosen}}} == 0)"
    allowed = f"max by (cluster, service, guardrail) (shf_guardrail_limit{{{chosen}}})"
    none = f'label_replace({NOTHING_YET}, "guardrail", "none", "", "")'
    return rows(
        "Guardrails that allow nothing now",
        "The next action on these services would be refused; * is the whole fleet. Cooldown ends by itself. "
        "After max_failures and max_heals a person should look for the cause.",
        f"{used_up} + on (cluster, service, guardrail) {allowed} or on () {none}",
        columns={
            "service": Column("Service", 200, (TO_SERVICE,)),
            "cluster": Column("Cluster", 120),
            "guardrail": Column("Guardrail", 160, in_words(colours(none="green"))),
            "Value": Column("Limit", 90, in_unit("none", nothing_yet("-"))),
        },
        unknown=NO_FABRIC,
        sort="Guardrail",
        descending=False,
        width=12,
    )


def _busiest() -> table.Panel:
    by = "cluster, service, strategy, outcome"
    each = f"sum by ({by}) (increase(shf_recovery_actions_total{{{SERVICE}}}[$__range]))"
    none = f'label_replace({NOTHING_YET}, "strategy", "no action", "", "")'
    return rows(
        "Most frequent actions",
        "Service, strategy and outcome of the twenty most frequent in the time range. A service on top with "
        "`succeeded` is repaired again and again: find out why it breaks.",
        f"topk(20, round({each}) > 0) or on () {none}",
        columns={
            "service": Column("Service", 180, (TO_SERVICE,)),
            "cluster": Column("Cluster", 110),
            "strategy": Column("Strategy", 110),
            "outcome": Column("Outcome", 130, in_words(colours(**OUTCOMES))),
            "Value": Column("Actions", 90, in_unit("none", nothing_yet("-"))),
        },
        unknown=NO_FABRIC,
        sort="Actions",
        width=12,
    )
