"""The kinds of panels that the dashboards are made of, each with the traps of its kind avoided.

Each of these shows a calm picture during an outage: a state timeline coloured by thresholds ignores its value
mappings; `increase()` shows 1.33 actions unless it is rounded; the lowest threshold also colours the words
for no data. An empty table does not say whether nothing is wrong or nothing is known: it gets a row that says
the former.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    dashboard,
    prometheus,
    stat,
    statetimeline,
    table,
    timeseries,
)
from grafana_foundation_sdk.models import common as common_model
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from shf_dashboards.parts import NEUTRAL, NO_FABRIC, SOURCE

Steps = Sequence[tuple[float | None, str]]


def query(expression: str, *, legend: str = "", instant: bool = False) -> prometheus.Dataquery:
    """A query of the chosen data source; instant for what holds at the end of the range."""
    built = prometheus.Dataquery().datasource(SOURCE).expr(expression).legend_format(legend or "__auto")
    return built.instant() if instant else built.range()


def steps(*pairs: tuple[float | None, str]) -> dashboard.ThresholdsConfig:
    """Thresholds: from which value on which colour."""
    found = [model.Threshold(value=value, color=colour) for value, colour in pairs]
    return dashboard.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(found)


def neutral_below(*pairs: tuple[float, str]) -> dashboard.ThresholdsConfig:
    """Thresholds whose base, which also colours the words for no data, judges nothing."""
    return steps((None, NEUTRAL), *pairs)


def words(texts: Mapping[str, tuple[str, str]]) -> model.ValueMap:
    """A mapping of values to texts and their colours."""
    options = {
        value: model.ValueMappingResult(text=text, color=colour, index=index)
        for index, (value, (text, colour)) in enumerate(texts.items())
    }
    return model.ValueMap(options=options)


def colours(**by_text: str) -> list[Any]:
    """Mappings that give each text its colour and leave the text."""
    return [words({text: (text, colour) for text, colour in by_text.items()})]


def nothing_yet(text: str) -> model.ValueMap:
    """The words for the -1 of `parts.NOTHING_YET`."""
    return words({"-1": (text, NEUTRAL)})


def not_a_number(text: str) -> model.SpecialValueMap:
    """The words for NaN, which the fabric exports for what it cannot know."""
    result = model.ValueMappingResult(text=text, color=NEUTRAL, index=0)
    options = model.DashboardSpecialValueMapOptions(match=model.SpecialValueMatch.NA_N, result=result)
    return model.SpecialValueMap(options=options)


def fixed(colour: str) -> model.DynamicConfigValue:
    """A property: one colour, whatever the value."""
    return model.DynamicConfigValue(id_val="color", value={"mode": "fixed", "fixedColor": colour})


def number(
    title: str,
    description: str,
    expression: str,
    *,
    thresholds: dashboard.ThresholdsConfig,
    unit: str = "none",
    mappings: Sequence[Any] = (),
    unknown: str = NO_FABRIC,
    width: int = 4,
    legend: str = "",
    named: bool = False,
) -> stat.Panel:
    """One number, as it is at the end of the time range; `named` shows the legend beside it."""
    panel = stat.Panel().title(title).description(description).datasource(SOURCE).span(width).height(4)
    panel.unit(unit).no_value(unknown).thresholds(thresholds).mappings(list(mappings))
    panel.color_scheme(dashboard.FieldColor().mode(model.FieldColorModeId.THRESHOLDS))
    panel.graph_mode(common_model.BigValueGraphMode.NONE)
    panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    if named:
        panel.text_mode(common_model.BigValueTextMode.VALUE_AND_NAME)
    return panel.with_target(query(expression, legend=legend, instant=True))


def states(
    title: str,
    description: str,
    expression: str,
    *,
    legend: str,
    texts: Mapping[str, tuple[str, str]],
    unknown: str = NO_FABRIC,
    width: int = 24,
    height: int = 9,
) -> statetimeline.Panel:
    """States through time. The colour is fixed: by thresholds Grafana would ignore the mappings."""
    panel = statetimeline.Panel().title(title).description(description).datasource(SOURCE)
    panel.span(width).height(height).unit("none").no_value(unknown).mappings([words(texts)])
    panel.color_scheme(dashboard.FieldColor().mode(model.FieldColorModeId.FIXED).fixed_color(NEUTRAL))
    panel.thresholds(neutral_below()).merge_values(True).row_height(0.85)
    panel.show_value(common_model.VisibilityMode.AUTO).fill_opacity(85)
    return panel.with_target(query(expression, legend=legend))


@dataclass(frozen=True)
class Column:
    """A column of a table: what it is called, how wide it is in pixels, and what its cells look like."""

    title: str
    width: int
    properties: tuple[model.DynamicConfigValue, ...] = ()


def linked(title: str, url: str, *, elsewhere: bool = False) -> model.DynamicConfigValue:
    """A property: cells lead to the URL; `elsewhere` opens it in a tab of its own."""
    return model.DynamicConfigValue(
        id_val="links", value=[{"title": title, "url": url, "targetBlank": elsewhere}]
    )


def in_words(mappings: Sequence[Any], *, coloured: bool = True) -> tuple[model.DynamicConfigValue, ...]:
    """Properties of a column whose text has the colour of its mapping."""
    found = [model.DynamicConfigValue(id_val="mappings", value=list(mappings))]
    if coloured:
        found.append(model.DynamicConfigValue(id_val="custom.cellOptions", value={"type": "color-text"}))
    return tuple(found)


def in_unit(unit: str, *mappings: Any) -> tuple[model.DynamicConfigValue, ...]:
    """Properties of a column of numbers."""
    found = [model.DynamicConfigValue(id_val="unit", value=unit)]
    if mappings:
        found.append(model.DynamicConfigValue(id_val="mappings", value=list(mappings)))
    return tuple(found)


def graded(unit: str, thresholds: Steps, *mappings: Any) -> tuple[model.DynamicConfigValue, ...]:
    """Properties of a column of numbers that have the colour of their threshold."""
    found = [{"value": value, "color": colour} for value, colour in thresholds]
    return (
        *in_unit(unit, *mappings),
        model.DynamicConfigValue(id_val="thresholds", value={"mode": "absolute", "steps": found}),
        model.DynamicConfigValue(id_val="custom.cellOptions", value={"type": "color-text"}),
    )


def rows(
    title: str,
    description: str,
    expression: str,
    *,
    columns: Mapping[str, Column],
    unknown: str,
    hidden: Sequence[str] = (),
    sort: str,
    descending: bool = True,
    width: int = 24,
    height: int = 8,
) -> table.Panel:
    """A table of series: a column for each label, in this order, and one for the value."""
    panel = table.Panel().title(title).description(description).datasource(SOURCE)
    panel.span(width).height(height).unit("none").no_value(unknown).filterable(True)
    panel.thresholds(neutral_below()).cell_options(common_model.TableAutoCellOptions())
    panel.with_target(query(expression, instant=True).format(PromQueryFormat.TABLE))
    options = {
        "excludeByName": dict.fromkeys(("Time", *hidden), True),
        "indexByName": {name: index for index, name in enumerate(columns)},
        "renameByName": {name: column.title for name, column in columns.items()},
    }
    panel.with_transformation(model.DataTransformerConfig(id_val="organize", options=options))
    for column in columns.values():
        size = model.DynamicConfigValue(id_val="custom.width", value=column.width)
        # An empty cell would show the table's own words for no data.
        empty = model.DynamicConfigValue(id_val="noValue", value="-")
        panel.override_by_name(column.title, [size, empty, *column.properties])
    return panel.sort_by([common.TableSortByFieldState().display_name(sort).desc(descending)])


def _graph(
    title: str, description: str, unit: str, unknown: str, width: int, height: int
) -> timeseries.Panel:
    panel = timeseries.Panel().title(title).description(description).datasource(SOURCE)
    panel.span(width).height(height).unit(unit).no_value(unknown).thresholds(neutral_below())
    panel.color_scheme(dashboard.FieldColor().mode(model.FieldColorModeId.PALETTE_CLASSIC))
    panel.legend(
        common.VizLegendOptions()
        .display_mode(common_model.LegendDisplayMode.LIST)
        .placement(common_model.LegendPlacement.BOTTOM)
        .show_legend(True)
    )
    return panel.tooltip(
        common.VizTooltipOptions()
        .mode(common_model.TooltipDisplayMode.MULTI)
        .sort(common_model.SortOrder.DESCENDING)
    )


def bars(
    title: str,
    description: str,
    targets: Mapping[str, str],
    *,
    by_name: Mapping[str, str] | None = None,
    downwards: Sequence[str] = (),
    unknown: str = NO_FABRIC,
    width: int = 12,
    height: int = 8,
) -> timeseries.Panel:
    """Events of counters as stacked bars of a minute or more: then the window hardly overlaps the next.

    Args:
        title: of the panel.
        description: of the panel.
        targets: legend and expression, with a rounded `increase`.
        by_name: a colour for each legend.
        downwards: legends whose bars hang from the line of zero.
        unknown: the words for no data.
        width: of 24 columns.
        height: in rows of the grid.
    """
    panel = _graph(title, description, "none", unknown, width, height).decimals(0).interval("1m")
    panel.draw_style(common_model.GraphDrawStyle.BARS).fill_opacity(80).line_width(0)
    panel.stacking(common.StackingConfig().mode(common_model.StackingMode.NORMAL).group("A"))
    for legend, expression in targets.items():
        panel.with_target(query(expression, legend=legend))
    for name, colour in (by_name or {}).items():
        below = [model.DynamicConfigValue(id_val="custom.transform", value="negative-Y")]
        panel.override_by_name(name, [fixed(colour), *(below if name in downwards else [])])
    return panel


def lines(
    title: str,
    description: str,
    targets: Mapping[str, str],
    *,
    unit: str,
    by_name: Mapping[str, str] | None = None,
    dashed: Sequence[str] = (),
    unknown: str = NO_FABRIC,
    limit: float | None = None,
    highest: float | None = None,
    stepped: bool = False,
    decimals: int | None = None,
    width: int = 8,
    height: int = 8,
) -> timeseries.Panel:
    """Values through time.

    Args:
        title: of the panel.
        description: of the panel.
        targets: legend and expression.
        unit: of the values.
        by_name: a colour for each legend.
        dashed: legends of what the values are compared with.
        unknown: the words for no data.
        limit: where a red line is drawn.
        highest: end of the axis, for values that have one.
        stepped: whether values hold until the next one, as levels do.
        decimals: of the values; by default as many as they need.
        width: of 24 columns.
        height: in rows of the grid.
    """
    panel = _graph(title, description, unit, unknown, width, height).min(0)
    panel.line_width(2).fill_opacity(0).show_points(common_model.VisibilityMode.NEVER)
    if highest is not None:
        panel.max(highest)
    if decimals is not None:
        panel.decimals(decimals)
    if stepped:
        panel.line_interpolation(common_model.LineInterpolation.STEP_AFTER)
    if limit is not None:
        panel.thresholds(neutral_below((limit, "red")))
        line = common.GraphThresholdsStyleConfig().mode(common_model.GraphThresholdsStyleMode.DASHED)
        panel.thresholds_style(line)
    for legend, expression in targets.items():
        panel.with_target(query(expression, legend=legend))
    for name, colour in (by_name or {}).items():
        style = {"fill": "dash", "dash": [8, 6]}
        broken = [model.DynamicConfigValue(id_val="custom.lineStyle", value=style)]
        panel.override_by_name(name, [fixed(colour), *(broken if name in dashed else [])])
    return panel


def ranking(
    title: str,
    description: str,
    expression: str,
    *,
    legend: str,
    unit: str,
    thresholds: dashboard.ThresholdsConfig,
    mappings: Sequence[Any] = (),
    unknown: str = NO_FABRIC,
    highest: float | None = None,
    width: int = 12,
    height: int = 8,
) -> bargauge.Panel:
    """One bar for each series, as they are at the end of the time range."""
    panel = bargauge.Panel().title(title).description(description).datasource(SOURCE)
    panel.span(width).height(height).unit(unit).no_value(unknown).min(0).thresholds(thresholds)
    panel.mappings(list(mappings))
    panel.color_scheme(dashboard.FieldColor().mode(model.FieldColorModeId.THRESHOLDS))
    if highest is not None:
        panel.max(highest)
    panel.orientation(common_model.VizOrientation.HORIZONTAL)
    panel.display_mode(common_model.BarGaugeDisplayMode.BASIC)
    panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    return panel.with_target(query(expression, legend=legend, instant=True))
