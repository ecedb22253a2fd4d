"""Faults to seed into the dashboards, one at a time: each kind is a mistake that an editor of them makes.

Every kind is applied to every part where it changes something. Which fault comes where is fixed, so that a
survivor can be looked at again.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from viewer import Content, parts

Change = Callable[[dict[str, Any]], None]
KINDS: dict[str, Change] = {}


@dataclass(frozen=True)
class Mutant:
    """One dashboard with one fault in it."""

    kind: str
    dashboard: str
    part: str  # its name, as in shown.yaml
    asked: str  # panel, annotation or variable
    whole: Content
    original: Any
    changed: Any  # the part with the fault

    @property
    def name(self) -> str:
        """For the list of survivors."""
        return f"{self.kind}: {self.dashboard}: {self.part}"

    @property
    def content(self) -> Content:
        """The dashboard; all but the part is shared with the faultless one."""

        def replaced(found: list[Any]) -> list[Any]:
            return [self.changed if each is self.original else each for each in found]

        marks, variables = self.whole["annotations"]["list"], self.whole["templating"]["list"]
        return {
            **self.whole,
            "panels": replaced(self.whole["panels"]),
            "annotations": {"list": replaced(marks)},
            "templating": {"list": replaced(variables)},
        }


def mutants(dashboards: dict[str, Content]) -> Iterator[Mutant]:
    """All of them, always in the same order."""
    for name, change in KINDS.items():
        for dashboard, content in dashboards.items():
            for asked, part, original in parts(content):
                changed = copy.deepcopy(original)
                try:
                    change(changed)
                except (KeyError, IndexError, TypeError):
                    continue  # the part has nothing of the kind
                if changed != original:
                    yield Mutant(name, dashboard, part, asked, content, original, changed)


def kind(function: Change) -> Change:
    """Register a kind of fault."""
    KINDS[function.__name__] = function
    return function


def _expression(change: Callable[[str], str]) -> Change:
    """A fault in the first query of a panel, or in that of a mark or variable."""

    def apply(part: dict[str, Any]) -> None:
        if "targets" in part:
            part["targets"][0]["expr"] = change(part["targets"][0]["expr"])
        elif "expr" in part:
            part["expr"] = change(part["expr"])
        else:
            part["query"] = change(part["query"])

    return apply


def _in_expressions(name: str, pattern: str, replacement: str) -> None:
    KINDS[name] = _expression(lambda text: re.sub(pattern, replacement, text, count=1))


_in_expressions("metric_renamed", r"((?:shf|process)_\w+|(?:service|job)\w*:\w+:\w+|ALERTS)", r"\1_x")
_in_expressions("label_misspelt_in_by", r"by \((?:\w+, )*(\w+)", "by (labell")
_in_expressions("matcher_dropped", r', (\w+)="[^"]+"', "")
_in_expressions(
    "matcher_of_another_value", r'(outcome|state|guardrail|mode|code)(=~?)"[^"]+"', r'\1\2"other"'
)
_in_expressions("matcher_negated", r'service=~"\$service', 'service!~"$service')
_in_expressions("cluster_forgotten", r'cluster=~"\$cluster",? ?', "")
_in_expressions("rate_for_increase", r"\bincrease\(", "rate(")
_in_expressions("increase_for_rate", r"\brate\(", "increase(")
_in_expressions("counter_not_increased", r"increase\((\w+\{[^}]*\})\[[^\]]*\]\)", r"\1")
_in_expressions("round_dropped", r"\bround\(", "(")
_in_expressions("window_fixed", r"\[\$__(?:range|rate_interval)\]", "[5m]")
_in_expressions("sum_for_max", r"(?<!0 \* )\bmax\b(?= by|\()", "sum")
_in_expressions("max_for_sum", r"\bsum\b(?= by|\()", "max")
_in_expressions("max_for_min", r"\bmin\b(?= by|\()", "max")
_in_expressions("fallback_dropped", r" or (?:on \(\) )?(?:0 \*|label_replace\().*$", "")
_in_expressions("fallback_invented", r" or 0 \* max\(shf_build_info\{[^}]*\}\)(?: - 1)?", " or vector(0)")
_in_expressions("nothing_yet_is_zero", r"(max\([^()]*\)) - 1", r"\1")
_in_expressions("comparison_turned", r" > 0\b", " < 0")
_in_expressions("comparison_dropped", r" (?:> 0|== 1|== 0)\b", "")
_in_expressions("other_quantile", r"histogram_quantile\(0\.\d+", "histogram_quantile(0.01")
_in_expressions("other_factor", r"\b2 \* \(", "1 * (")
_in_expressions("join_dropped", r" \* on \([^)]*\) group_left \([^)]*\) .*?(?= or | \* on |$)", "")
_in_expressions("most_for_least", r"\btopk\(", "bottomk(")
_in_expressions("least_for_most", r"\bbottomk\(", "topk(")
_in_expressions("syntax", r"\)$|\)(?= or)", "")


@kind
def query_dropped(part: dict[str, Any]) -> None:
    part["targets"].pop()


@kind
def legend_of_another_label(part: dict[str, Any]) -> None:
    target = part["targets"][0]
    target["legendFormat"] = re.sub(r"\{\{\w+\}\}", "{{labell}}", target["legendFormat"])


@kind
def moment_for_range(part: dict[str, Any]) -> None:
    target = part["targets"][0]
    target["instant"], target["range"] = bool(target.get("range")), bool(target.get("instant"))


@kind
def data_source_of_mine(part: dict[str, Any]) -> None:
    part["datasource"] = {"type": "prometheus", "uid": "P1809F7CD0C75ACF3"}


@kind
def letter_twice(part: dict[str, Any]) -> None:
    part["targets"][1]["refId"] = part["targets"][0]["refId"]


def _defaults(part: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = part["fieldConfig"]["defaults"]
    return found


@kind
def unit_swapped(part: dict[str, Any]) -> None:
    if part["type"] in ("table", "state-timeline"):
        return  # whose values are words, or have units of their own
    others = {"none": "s", "s": "percentunit", "percentunit": "none", "bytes": "s"}
    _defaults(part)["unit"] = others[_defaults(part)["unit"]]


@kind
def unit_in_percent(part: dict[str, Any]) -> None:
    if _defaults(part)["unit"] == "percentunit":
        _defaults(part)["unit"] = "percent"


@kind
def mappings_dropped(part: dict[str, Any]) -> None:
    _defaults(part)["mappings"].pop()


@kind
def mapping_of_another_value(part: dict[str, Any]) -> None:
    options = _defaults(part)["mappings"][0]["options"]
    value = next(iter(options))
    options["77"] = options.pop(value)


@kind
def mapping_colours_rotated(part: dict[str, Any]) -> None:
    options = list(_defaults(part)["mappings"][0]["options"].values())
    tints = [option["color"] for option in options]
    for option, tint in zip(options, tints[1:] + tints[:1], strict=True):
        option["color"] = tint


@kind
def mapping_colour_dropped(part: dict[str, Any]) -> None:
    tinted = [each for each in _defaults(part)["mappings"][0]["options"].values() if each["color"] != "text"]
    del tinted[0]["color"]  # without one, the lowest threshold's


@kind
def thresholds_inverted(part: dict[str, Any]) -> None:
    steps = _defaults(part)["thresholds"]["steps"]
    tints = [step["color"] for step in steps[1:]]
    for step, tint in zip(steps[1:], reversed(tints), strict=True):
        step["color"] = tint


@kind
def first_threshold_gone(part: dict[str, Any]) -> None:
    _defaults(part)["thresholds"]["steps"].pop(1)


@kind
def last_threshold_gone(part: dict[str, Any]) -> None:
    steps = _defaults(part)["thresholds"]["steps"]
    steps[1:] = steps[1:-1]


@kind
def lowest_threshold_judges(part: dict[str, Any]) -> None:
    _defaults(part)["thresholds"]["steps"][0]["color"] = "green"


@kind
def colour_by_thresholds(part: dict[str, Any]) -> None:
    _defaults(part)["color"]["mode"] = "thresholds"


@kind
def colour_fixed(part: dict[str, Any]) -> None:
    _defaults(part)["color"].update(mode="fixed", fixedColor="green")


@kind
def no_value_dropped(part: dict[str, Any]) -> None:
    del _defaults(part)["noValue"]


@kind
def no_value_is_zero(part: dict[str, Any]) -> None:
    _defaults(part)["noValue"] = "0"


@kind
def override_dropped(part: dict[str, Any]) -> None:
    part["fieldConfig"]["overrides"].pop()


@kind
def override_of_another_name(part: dict[str, Any]) -> None:
    part["fieldConfig"]["overrides"][0]["matcher"]["options"] += " "


def _property(part: dict[str, Any], name: str) -> dict[str, Any]:
    properties = [each for override in part["fieldConfig"]["overrides"] for each in override["properties"]]
    return next(each for each in properties if each["id"] == name)


def _of_property(name: str) -> Callable[[Callable[[Any], Any]], None]:
    def register(change: Callable[[Any], Any]) -> None:
        def apply(part: dict[str, Any]) -> None:
            try:
                found = _property(part, name)
            except StopIteration:
                raise KeyError(name) from None
            found["value"] = change(found["value"])

        KINDS[change.__name__] = apply

    return register


@_of_property("links")
def link_to_another_field(links: Any) -> Any:
    return [
        {**link, "url": re.sub(r"__value\.text|fields\.url", "__data.fields.labell", link["url"])}
        for link in links
    ]


@_of_property("links")
def link_loses_the_time(links: Any) -> Any:
    return [{**link, "url": link["url"].replace("${__url_time_range}&", "")} for link in links]


@_of_property("custom.width")
def width_forgotten(_: Any) -> Any:
    return 0


@_of_property("mappings")
def cell_mapping_dropped(_: Any) -> Any:
    return []


@_of_property("custom.cellOptions")
def cell_without_colour(_: Any) -> Any:
    return {"type": "auto"}


@_of_property("unit")
def cell_unit_swapped(_: Any) -> Any:
    return "bytes"


@_of_property("custom.transform")
def bars_not_turned(_: Any) -> Any:
    return "constant"


@_of_property("custom.lineStyle")
def line_not_dashed(_: Any) -> Any:
    return {"fill": "solid"}


@kind
def columns_renamed(part: dict[str, Any]) -> None:
    names = part["transformations"][0]["options"]["renameByName"]
    names[next(iter(names))] = "Other"


@kind
def column_left_out(part: dict[str, Any]) -> None:
    options = part["transformations"][0]["options"]
    options["excludeByName"][next(iter(options["renameByName"]))] = True


@kind
def sorted_the_other_way(part: dict[str, Any]) -> None:
    order = part["options"]["sortBy"][0]
    order["desc"] = not order["desc"]


@kind
def joined_by_transformation(part: dict[str, Any]) -> None:
    if part["type"] == "table":
        part["transformations"].append({"id": "joinByField", "options": {"byField": "service"}})


@kind
def description_dropped(part: dict[str, Any]) -> None:
    part["description"] = part["title"]


@kind
def title_of_another(part: dict[str, Any]) -> None:
    if "gridPos" in part:
        part["id"] = 1 if part["id"] != 1 else 2


@kind
def moved_onto_another(part: dict[str, Any]) -> None:
    at = part["gridPos"]
    at["x"], at["y"] = (at["x"] - 1, at["y"]) if at["x"] else (at["x"], at["y"] + 1)


@kind
def unknown_option(part: dict[str, Any]) -> None:
    part["options"]["showUnits"] = True


@kind
def reduced_otherwise(part: dict[str, Any]) -> None:
    part["options"]["reduceOptions"]["calcs"] = ["first"]


@kind
def type_of_panel(part: dict[str, Any]) -> None:
    part["type"] = {"stat": "gauge", "table": "timeseries", "timeseries": "state-timeline"}[part["type"]]


@kind
def mark_text_of_another_label(part: dict[str, Any]) -> None:
    part["titleFormat"] = part["titleFormat"].replace("service", "labell")


@kind
def mark_not_shown(part: dict[str, Any]) -> None:
    part["enable"] = not part["enable"]


@kind
def variable_of_another_label(part: dict[str, Any]) -> None:
    part["query"] = re.sub(r", \w+\)$", ", labell)", part["query"])


@kind
def variable_of_one_value(part: dict[str, Any]) -> None:
    part["multi"] = not part["multi"]


@kind
def all_is_a_list(part: dict[str, Any]) -> None:
    del part["allValue"]
