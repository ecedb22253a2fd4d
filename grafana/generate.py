"""Dashboards as code: run `python grafana/generate.py`, commit the JSON that it writes into dashboards/.

Thirty kilobytes of JSON cannot be reviewed, this can. What is written is Grafana's classic model with
`schemaVersion` 42, the newest that file provisioning takes everywhere. The SDK numbers neither panels nor
queries and leaks settings of interval variables into all variables; `finished` mends that.

Traps avoided, each of which shows a calm picture during an outage: a state timeline coloured by thresholds
ignores its value mappings; `... or vector(0)` says "0 open incidents" when the fabric itself is gone, so
zeroes are made from a series that only a living fabric exports; `increase()` shows 1.33 actions unless it is
rounded; a share of nothing is no data, not 0 %; and the lowest threshold also colours the words "no data".
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from grafana_foundation_sdk.builders import (
    common,
    dashboard,
    prometheus,
    stat,
    statetimeline,
    table,
    timeseries,
)
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as common_model
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

FOLDER = Path(__file__).resolve().parent / "dashboards"
SCHEMA_VERSION = 42
SOURCE = common_model.DataSourceRef(type_val="prometheus", uid="${datasource}")
TAG = "self-healing-fabric"
NO_DATA = "no data"
OPEN_STATES = 'state!~"resolved|closed"'
ESCALATED = 'state="escalated"'
ALIVE = "0 * max(shf_build_info)"  # zero as long as a fabric is scraped, else nothing

Builder = stat.Panel | table.Panel | timeseries.Panel | statetimeline.Panel


def query(expression: str, *, legend: str = "", instant: bool = False) -> prometheus.Dataquery:
    """A query of the chosen data source; instant for a single number at the end of the range."""
    built = prometheus.Dataquery().datasource(SOURCE).expr(expression).legend_format(legend or "__auto")
    return built.instant() if instant else built.range()


def place(panel: Any, title: str, description: str, *, at: tuple[int, int], size: tuple[int, int]) -> Any:
    """Title, description and position (x, y) and size (width, height) on the grid of 24 columns."""
    (x, y), (width, height) = at, size
    position = model.GridPos(x=x, y=y, w=width, h=height)
    return panel.title(title).description(description).datasource(SOURCE).grid_pos(position)


def steps(*pairs: tuple[float | None, str]) -> dashboard.ThresholdsConfig:
    """Thresholds: from which value on which colour."""
    found = [model.Threshold(value=value, color=colour) for value, colour in pairs]
    return dashboard.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(found)


def names(**colours: str) -> list[model.ValueMapping]:
    """Mappings that give each text its colour."""
    options = {
        text: model.ValueMappingResult(text=text, color=colour, index=index)
        for index, (text, colour) in enumerate(colours.items())
    }
    return [model.ValueMap(options=options)]


def number(
    title: str,
    description: str,
    expression: str,
    *,
    x: int,
    colours: Any,
    unit: str = "none",
    legend: str = "",
) -> stat.Panel:
    """One number of the first row."""
    panel = stat.Panel().unit(unit).no_value(NO_DATA).thresholds(colours)
    panel.graph_mode(common_model.BigValueGraphMode.NONE).with_target(
        query(expression, legend=legend, instant=True)
    )
    panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    return place(panel, title, description, at=(x, 0), size=(4, 4))


def first_row() -> list[Builder]:
    """What one looks at first: is anything wrong, and does the fabric cope."""
    healed = 'sum(increase(shf_incidents_resolved_total{service=~"$service",outcome="healed"}[$__range]))'
    resolved = 'sum(increase(shf_incidents_resolved_total{service=~"$service"}[$__range]))'
    recovered = 'sum by (le) (increase(shf_time_to_recover_seconds_bucket{service=~"$service"}[$__range]))'
    recoveries = 'sum(increase(shf_time_to_recover_seconds_count{service=~"$service"}[$__range]))'
    blocked = 'sum(increase(shf_guardrail_blocks_total{service=~"$service"}[$__range]))'
    return [
        number(
            "Open incidents",
            "Incidents that are neither resolved nor closed, escalated ones included.",
            f"{once(OPEN_STATES)} or {ALIVE}",
            x=0, colours=steps((None, "text"), (0, "green"), (1, "orange")),
        ),
        number(
            "Escalated",
            "Open incidents that wait for a person: the fabric only watches them.",
            f"{once(ESCALATED)} or {ALIVE}",
            x=4, colours=steps((None, "text"), (0, "green"), (1, "red")),
        ),
        number(
            "Healed without a human",
            "Of the incidents resolved in the time range, the share that an action of the fabric healed, "
            "proved by fresh samples. The rest recovered by themselves, by people, or were closed.",
            f"{healed} / ({resolved} > 0)",
            x=8, unit="percentunit",
            colours=steps((None, "text"), (0, "red"), (0.5, "orange"), (0.8, "green")),
        ),
        number(
            "Median time to recover",
            "From the opening of an incident to its resolution, half of those in the time range were "
            "faster. Estimated from the buckets of a histogram.",
            f"histogram_quantile(0.5, {recovered}) and {recoveries} > 0",
            x=12, unit="s", colours=steps((None, "text"), (0, "green"), (120, "orange"), (600, "red")),
        ),
        number(
            "Guardrail blocks",
            "How often a guardrail refused an action in the time range.",
            f"round({blocked})",
            x=16, colours=steps((None, "text"), (1, "orange")),
        ),
        mode(),
    ]  # fmt: skip


def once(states: str) -> str:
    """How many incidents are in these states: every replica of a fabric exports the same ones."""
    each = "max by (service, failure_class, severity, state)"
    return f'sum({each} (shf_incidents{{service=~"$service",{states}}}))'


def mode() -> stat.Panel:
    """The mode in force, as a word."""
    panel = number(
        "Mode",
        "automatic acts, approval asks first, dry_run only says what it would do, paused is the kill switch.",
        "max by (mode) (shf_mode) == 1",
        x=20, legend="{{mode}}", colours=steps((None, "text")),
    )  # fmt: skip
    panel.text_mode(common_model.BigValueTextMode.NAME)
    colours = {"automatic": "green", "approval": "blue", "dry_run": "orange", "paused": "red"}
    for name, colour in colours.items():
        panel.override_by_name(name, [fixed(colour)])
    return panel


def fixed(colour: str) -> model.DynamicConfigValue:
    """A property: one colour, whatever the value."""
    return model.DynamicConfigValue(id_val="color", value={"mode": "fixed", "fixedColor": colour})


def open_incidents() -> table.Panel:
    """One row an open incident, joined in PromQL with the state in which it is."""
    age = (
        "time() - max by (incident, service, severity, signal) "
        '(shf_incident_start_timestamp_seconds{service=~"$service"})'
    )
    state = 'max by (incident, state) (shf_incident_state{service=~"$service"} == 1)'
    panel = table.Panel().unit("none").no_value("no open incident").filterable(True)
    panel.with_target(
        query(f"({age}) * on (incident) group_left (state) {state}", instant=True).format(
            PromQueryFormat.TABLE
        )
    )
    columns = {  # label: (title, width in pixels)
        "incident": ("Incident", 230),
        "service": ("Service", 200),
        "severity": ("Severity", 110),
        "signal": ("Signal", 140),
        "state": ("State", 160),
        "Value": ("Open for", 120),
    }
    options = {
        "excludeByName": {"Time": True},
        "indexByName": {name: index for index, name in enumerate(columns)},
        "renameByName": {name: title for name, (title, _) in columns.items()},
    }
    panel.with_transformation(model.DataTransformerConfig(id_val="organize", options=options))
    for title, width in columns.values():
        panel.override_by_name(title, [model.DynamicConfigValue(id_val="custom.width", value=width)])
    panel.override_by_name("Open for", [model.DynamicConfigValue(id_val="unit", value="dtdurations")])
    panel.override_by_name("Severity", coloured(names(critical="red", warning="orange", none="text")))
    panel.override_by_name("State", coloured(names(escalated="red", awaiting_approval="purple")))
    panel.sort_by([common.TableSortByFieldState().display_name("Open for").desc(True)])
    return place(
        panel,
        "Open incidents in detail",
        "Each open incident and what the fabric does about it (at most the newest 100). "
        "`shf incidents ID` tells its whole story.",
        at=(0, 4),
        size=(24, 7),
    )


def coloured(mappings: list[model.ValueMapping]) -> list[model.DynamicConfigValue]:
    """Properties of a column whose text has the colour of its mapping."""
    return [
        model.DynamicConfigValue(id_val="mappings", value=mappings),
        model.DynamicConfigValue(id_val="custom.cellOptions", value={"type": "color-text"}),
    ]


def service_states() -> statetimeline.Panel:
    """Every service through time. The colour is fixed: by thresholds Grafana would ignore the mappings."""
    states = {"0": ("healthy", "green"), "1": ("healing", "orange"), "2": ("escalated", "red")}
    options = {
        value: model.ValueMappingResult(text=text, color=colour, index=int(value))
        for value, (text, colour) in states.items()
    }
    panel = statetimeline.Panel().unit("none").no_value(NO_DATA).mappings([model.ValueMap(options=options)])
    panel.color_scheme(dashboard.FieldColor().mode(model.FieldColorModeId.FIXED).fixed_color("text"))
    panel.thresholds(steps((None, "text"))).merge_values(True).row_height(0.85)
    panel.show_value(common_model.VisibilityMode.NEVER).fill_opacity(85)
    panel.with_target(
        query('max by (service) (shf_service_state{service=~"$service"})', legend="{{service}}")
    )
    return place(
        panel,
        "State of the services",
        "Healthy: no open incident. Healing: the fabric works on one. Escalated: a person is asked. "
        "Gaps: the fabric was not scraped.",
        at=(0, 11),
        size=(24, 10),
    )


def bars(title: str, description: str, metric: str, by: str, colours: dict[str, str], *, x: int) -> Any:
    """Events of a counter as stacked bars of a minute or more: then the window hardly overlaps the next."""
    expression = f'round(sum by ({by}) (increase({metric}{{service=~"$service"}}[$__rate_interval])))'
    panel = timeseries.Panel().unit("none").decimals(0).min(0).no_value(NO_DATA).interval("1m")
    panel.draw_style(common_model.GraphDrawStyle.BARS).fill_opacity(80).line_width(0)
    panel.stacking(common.StackingConfig().mode(common_model.StackingMode.NORMAL).group("A"))
    panel.legend(
        common.VizLegendOptions()
        .display_mode(common_model.LegendDisplayMode.LIST)
        .placement(common_model.LegendPlacement.BOTTOM)
        .show_legend(True)
    )
    panel.tooltip(common.VizTooltipOptions().mode(common_model.TooltipDisplayMode.MULTI))
    panel.with_target(query(expression, legend=f"{{{{{by}}}}}"))
    for name, colour in colours.items():
        panel.override_by_name(name, [fixed(colour)])
    return place(panel, title, description, at=(x, 21), size=(12, 8))


def last_row() -> list[Builder]:
    """What the fabric did, and what it was kept from."""
    return [
        bars(
            "Recovery actions by outcome",
            "Finished actions of all strategies. Indeterminate: not even the target can tell whether it "
            "happened; those go to a person and are never repeated.",
            "shf_recovery_actions_total", "outcome",
            {"succeeded": "green", "failed": "red", "indeterminate": "purple"}, x=0,
        ),
        bars(
            "Guardrail blocks by guardrail",
            "Refused actions. Many by `cooldown` or `max_actions` mean that repairs do not last: "
            "look for the cause.",
            "shf_guardrail_blocks_total", "guardrail",
            {"mode": "blue", "one_at_a_time": "yellow", "cooldown": "orange", "max_actions": "red"}, x=12,
        ),
    ]  # fmt: skip


def variables() -> list[Any]:
    """Which Prometheus, and which services; `All` also means alerts that name no configured service."""
    services = dashboard.QueryVariable("service").label("Service").datasource(SOURCE)
    services.query("label_values(shf_service_state, service)").refresh(
        model.VariableRefresh.ON_TIME_RANGE_CHANGED
    )
    services.multi(True).include_all(True).all_value(".*").sort(model.VariableSort.ALPHABETICAL_ASC)
    services.current(model.VariableOption(text="All", value="$__all"))
    return [dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"), services]


def incident_overview() -> dashboard.Dashboard:
    """What is wrong now, what the fabric does about it, and how well it has coped."""
    built = (
        dashboard.Dashboard("Self-Healing Fabric / Incident overview")
        .uid("shf-incident-overview")
        .description("What is wrong now, what the fabric does about it, and how well it has coped.")
        .tags([TAG])
        .readonly()
        .time("now-6h", "now")
        .refresh("10s")
        .timezone("browser")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
    )
    others = dashboard.DashboardLink("Self-Healing Fabric").type(model.DashboardLinkType.DASHBOARDS)
    built.link(others.tags([TAG]).as_dropdown(True).keep_time(True).include_vars(True))
    for variable in variables():
        built.with_variable(variable)
    for panel in (*first_row(), open_incidents(), service_states(), *last_row()):
        built.with_panel(panel)
    return built


def finished(built: dashboard.Dashboard) -> dict[str, Any]:
    """The dashboard as Grafana writes it: numbered panels and queries, no settings of other variables."""
    content: dict[str, Any] = json.loads(json.dumps(built.build(), cls=JSONEncoder))
    content["schemaVersion"] = SCHEMA_VERSION
    content["annotations"].setdefault("list", [])
    for position, panel in enumerate(content["panels"], start=1):
        panel["id"] = position
        for letter, target in zip("ABCDEFGH", panel["targets"], strict=False):
            target["refId"] = letter
    for variable in content["templating"]["list"]:
        for leaked in ("auto", "auto_count", "auto_min"):
            variable.pop(leaked, None)
    return content


def rendered() -> dict[str, str]:
    """The text of each file in dashboards/, by its name."""
    return {"incident-overview.json": f"{json.dumps(finished(incident_overview()), indent=2)}\n"}


def main() -> None:
    """Write all dashboards."""
    FOLDER.mkdir(exist_ok=True)
    for name, text in rendered().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
        print(FOLDER / name)


if __name__ == "__main__":
    main()
