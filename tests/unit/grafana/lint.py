"""Rules that a dashboard must keep; each names what is wrong where, in words.

Those of grafana/dashboard-linter that fit are here (data source, title and description, unit, targets, rate
interval, counters, not editable); its rules on the labels `job` and `instance` do not fit a product whose
series tell services. The others are faults that pass a schema and show a calm picture during an outage.
Whether a query parses and finds data is asked of a real Prometheus elsewhere.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import combinations
from typing import Any

from viewer import Content, panels

SOURCE = {"type": "prometheus", "uid": "${datasource}"}
NEUTRAL = ("text", "transparent")
UNITS = {"none", "s", "percentunit", "bytes", "dtdurations"}
WIDTH = 24
INSTANT = {"stat", "bargauge", "table"}
THROUGH_TIME = {"timeseries", "state-timeline"}
BUILT_IN = {"__rate_interval", "__range", "__interval", "__url_time_range"}
_COUNTER = re.compile(r"\b(?:shf_\w+?|process_\w+?)_(?:total|bucket|count|sum)\b")
_WINDOW = re.compile(r"\[([^\]:]+)(?::[^\]]*)?\]")
_SELECTOR = re.compile(
    r"(?<![\w:$])((?:shf_|process_|service:|service_signal:|job:)[\w:]+|ALERTS(?:_FOR_STATE)?)(\{[^}]*\})?"
)
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
# Neither the registry nor what is remembered of it has a cluster: a threshold is of a service.
_WITHOUT_CLUSTER = {"service_signal:shf_threshold:value"}

Rule = Callable[[Content], Iterator[str]]
RULES: dict[str, Rule] = {}


def rule(function: Rule) -> Rule:
    """Register a rule of one dashboard."""
    RULES[function.__name__] = function
    return function


def problems(content: Content) -> list[str]:
    """All that is wrong with one dashboard, each after the name of its rule."""
    return [f"{name}: {problem}" for name, check in RULES.items() for problem in check(content)]


def problems_between(contents: Mapping[str, Content]) -> list[str]:
    """What is wrong with several dashboards together."""
    found = []
    for key in ("uid", "title"):
        for value, number in Counter(content[key] for content in contents.values()).items():
            if number > 1:
                found.append(f"{number} dashboards have the {key} {value!r}")
    return found


def _shown(content: Content) -> Iterator[Mapping[str, Any]]:
    return (panel for panel in panels(content) if panel["type"] != "row")


def _expressions(content: Content) -> Iterator[tuple[str, str]]:
    for panel in _shown(content):
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]
    for annotation in content["annotations"]["list"]:
        yield f"annotation {annotation['name']}", annotation["expr"]
    for variable in content["templating"]["list"]:
        if variable["type"] == "query" and variable["name"] != "cluster":
            yield f"variable {variable['name']}", variable["query"]


@rule
def classic_model(content: Content) -> Iterator[str]:
    """File provisioning refuses the newer model."""
    if content.get("schemaVersion") != 42 or "elements" in content:
        yield "not the classic model with schemaVersion 42"


@rule
def uneditable(content: Content) -> Iterator[str]:
    """Changes in the browser would be lost at the next update."""
    if content.get("editable") is not False:
        yield "can be edited"


@rule
def stable_address(content: Content) -> Iterator[str]:
    """People keep it, and the other dashboards link to it."""
    if not re.fullmatch(r"shf-[a-z-]{3,36}", content.get("uid", "")):
        yield f"uid {content.get('uid')!r}"


@rule
def data_source_is_chosen(content: Content) -> Iterator[str]:
    """By the variable `datasource`, everywhere."""
    sources = [each for each in content["templating"]["list"] if each["type"] == "datasource"]
    if [(each["name"], each["query"]) for each in sources] != [("datasource", "prometheus")]:
        yield "no variable `datasource` for a Prometheus"
    for panel in _shown(content):
        if any(each.get("datasource") != SOURCE for each in (panel, *panel.get("targets", ()))):
            yield f"{panel['title']}: another data source"
    for each in (*content["annotations"]["list"], *content["templating"]["list"]):
        if each.get("type") in (None, "query", "dashboard") and each.get("datasource") != SOURCE:
            yield f"{each['name']}: another data source"


@rule
def said_what_to_do(content: Content) -> Iterator[str]:
    """A title, and a description in sentences."""
    for panel in _shown(content):
        if not panel.get("title"):
            yield f"panel {panel['id']} has no title"
        description = panel.get("description") or ""
        if len(description) < 40 or not description.endswith("."):
            yield f"{panel.get('title')}: description {description!r}"


@rule
def units(content: Content) -> Iterator[str]:
    """Every panel says what its numbers are."""
    for panel in _shown(content):
        if panel["fieldConfig"]["defaults"].get("unit") not in UNITS:
            yield f"{panel['title']}: unit {panel['fieldConfig']['defaults'].get('unit')!r}"


@rule
def asks_something(content: Content) -> Iterator[str]:
    """Every panel has a query, each with a letter of its own."""
    for panel in _shown(content):
        letters = [target.get("refId") for target in panel.get("targets", ())]
        if not letters or len(set(letters)) < len(letters) or not all(letters):
            yield f"{panel['title']}: queries {letters}"


@rule
def now_or_through_time(content: Content) -> Iterator[str]:
    """Numbers and tables ask for one moment, graphs for the range."""
    for panel in _shown(content):
        for target in panel.get("targets", ()):
            instant, ranged = bool(target.get("instant")), bool(target.get("range"))
            if panel["type"] in INSTANT and (not instant or ranged):
                yield f"{panel['title']}: does not ask for one moment"
            if panel["type"] in THROUGH_TIME and (instant or not ranged):
                yield f"{panel['title']}: does not ask for the range"
        if panel["type"] not in INSTANT | THROUGH_TIME:
            yield f"{panel['title']}: type {panel['type']!r} is not known here"


@rule
def newest_value(content: Content) -> Iterator[str]:
    """A mean or a maximum of the range would hide what is the case now."""
    for panel in _shown(content):
        calcs = panel["options"].get("reduceOptions", {"calcs": ["lastNotNull"]})["calcs"]
        if calcs != ["lastNotNull"]:
            yield f"{panel['title']}: {calcs}"


@rule
def told_apart(content: Content) -> Iterator[str]:
    """By id and by title."""
    for key in ("id", "title"):
        for value, number in Counter(panel.get(key) for panel in panels(content)).items():
            if number > 1 or not value:
                yield f"{number} panels have the {key} {value!r}"


@rule
def beside_each_other(content: Content) -> Iterator[str]:
    """Panels neither overlap nor stick out."""
    for panel in panels(content):
        at = panel["gridPos"]
        if at["x"] < 0 or at["w"] < 1 or at["h"] < 1 or at["x"] + at["w"] > WIDTH:
            yield f"{panel['title']} sticks out: {at}"
    for one, other in combinations(panels(content), 2):
        if _overlap(one["gridPos"], other["gridPos"]):
            yield f"{one['title']} covers {other['title']}"


def _overlap(one: Mapping[str, int], other: Mapping[str, int]) -> bool:
    beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
    return not (beside or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"])


@rule
def rate_interval(content: Content) -> Iterator[str]:
    """A fixed window misses samples at one zoom and blurs at another."""
    for panel in _shown(content):
        for target in panel.get("targets", ()):
            allowed = {"$__range"} if target.get("instant") else {"$__rate_interval"}
            bare = _QUOTED.sub('""', target["expr"])
            for function, window in re.findall(
                r"\b(rate|irate|increase|changes)\([^\[\]]*\[([^\]]+)\]", bare
            ):
                if window not in allowed:
                    yield f"{panel['title']}: {function} over [{window}]"
    for annotation in content["annotations"]["list"]:
        if _WINDOW.findall(annotation["expr"]) != ["$__rate_interval"]:
            yield f"annotation {annotation['name']}: {annotation['expr']}"


@rule
def counters_are_not_values(content: Content) -> Iterator[str]:
    """A counter by itself says since when the process runs."""
    for title, expression in _expressions(content):
        for found in _COUNTER.finditer(expression):
            if not re.search(r"\b(rate|increase|changes)\($", expression[: found.start()]):
                yield f"{title}: {found[0]} without rate or increase"


@rule
def whole_events(content: Content) -> Iterator[str]:
    """`increase()` shows 1.33 actions unless it is rounded; shares and durations may be what they are."""
    for panel in _shown(content):
        if panel["fieldConfig"]["defaults"].get("unit") != "none":
            continue
        for target in panel.get("targets", ()):
            if "increase(" in target["expr"] and "round(" not in target["expr"]:
                yield f"{panel['title']}: counts that are not rounded"


@rule
def clusters_can_be_chosen(content: Content) -> Iterator[str]:
    """Every series that belongs to a cluster is asked for in the chosen ones."""
    for title, expression in _expressions(content):
        for name, matchers in _SELECTOR.findall(expression):
            of_none = name in _WITHOUT_CLUSTER or 'alertname="ShfWatchdog"' in matchers
            if not of_none and not re.search(r'cluster=~"\$cluster\|?"', matchers):
                yield f"{title}: {name} of all clusters"


@rule
def variables_exist(content: Content) -> Iterator[str]:
    """What a query or a link names."""
    known = {each["name"] for each in content["templating"]["list"]} | BUILT_IN
    names = re.findall(
        r"\$(\w+)|\$\{(\w+)(?::\w+)?\}", str([content["panels"], content["annotations"], content["links"]])
    )
    for name in sorted({bare or braced for bare, braced in names} - known):
        yield f"no variable {name}"


@rule
def hidden_variables_stay_here(content: Content) -> Iterator[str]:
    """A link must not carry them to a dashboard where they are made from another cluster; nothing leaks."""
    for each in content["templating"]["list"]:
        if (each.get("hide") == 2) != bool(each.get("skipUrlSync")):
            yield f"{each['name']}: hide {each.get('hide')}, skipUrlSync {each.get('skipUrlSync')}"
        for leaked in {"auto", "auto_count", "auto_min"} & set(each):
            yield f"{each['name']}: {leaked} of another kind of variable"


@rule
def all_means_all(content: Content) -> Iterator[str]:
    """`.*` also matches series without the label; a list of all names would not."""
    for each in content["templating"]["list"]:
        if each.get("includeAll") and each.get("allValue") != ".*":
            yield f"{each['name']}: All is {each.get('allValue')!r}"
    if {"cluster", "service"} != {
        each["name"] for each in content["templating"]["list"] if each.get("multi")
    }:
        yield "clusters and services cannot be chosen"


@rule
def states_have_their_colours(content: Content) -> Iterator[str]:
    """By thresholds a state timeline ignores its mappings: all green during an outage."""
    for panel in _shown(content):
        defaults = panel["fieldConfig"]["defaults"]
        if panel["type"] == "state-timeline":
            if defaults.get("color", {}).get("mode") != "fixed":
                yield f"{panel['title']}: coloured by {defaults.get('color', {}).get('mode')!r}"
            texts = [each for each in defaults.get("mappings", ()) if each["type"] == "value"]
            if not texts or not all(
                option.get("color") for each in texts for option in each["options"].values()
            ):
                yield f"{panel['title']}: values without a text and a colour"


@rule
def unknown_judges_nothing(content: Content) -> Iterator[str]:
    """The words for no data have the colour of the lowest threshold."""
    for panel in _shown(content):
        steps = panel["fieldConfig"]["defaults"].get("thresholds", {"steps": []})["steps"]
        if not steps or steps[0]["value"] is not None or steps[0]["color"] not in NEUTRAL:
            yield f"{panel['title']}: lowest threshold {steps[:1]}"
        values = [step["value"] for step in steps[1:]]
        if None in values or values != sorted(values):
            yield f"{panel['title']}: thresholds out of order: {values}"


@rule
def unknown_is_said(content: Content) -> Iterator[str]:
    """No data is not zero, and it has a cause."""
    for panel in _shown(content):
        if not panel["fieldConfig"]["defaults"].get("noValue", "").startswith("unknown: "):
            yield f"{panel['title']}: no data is {panel['fieldConfig']['defaults'].get('noValue')!r}"


@rule
def zero_is_not_invented(content: Content) -> Iterator[str]:
    """`vector(0)` says that all is well when the fabric is gone."""
    for title, expression in _expressions(content):
        if "vector(" in expression or "absent(" in expression:
            yield f"{title}: {expression}"


@rule
def nothing_yet_has_words(content: Content) -> Iterator[str]:
    """A query that answers -1 for `nothing to count` needs words for it."""
    for panel in _shown(content):
        asked = any(re.search(r"\) - 1\b", target["expr"]) for target in panel.get("targets", ()))
        mappings = list(panel["fieldConfig"]["defaults"].get("mappings", ()))
        for override in panel["fieldConfig"].get("overrides", ()):
            mappings += [
                each for one in override["properties"] if one["id"] == "mappings" for each in one["value"]
            ]
        said = any("-1" in each["options"] for each in mappings if each["type"] == "value")
        if asked != said:
            yield f"{panel['title']}: -1 {'has no words' if asked else 'is never asked for'}"


@rule
def columns_have_a_width(content: Content) -> Iterator[str]:
    """Grafana divides the width among the columns otherwise, and cuts the names."""
    for panel in _shown(content):
        if panel["type"] != "table":
            continue
        wide = {
            override["matcher"]["options"]
            for override in panel["fieldConfig"]["overrides"]
            if any(one["id"] == "custom.width" and one["value"] > 0 for one in override["properties"])
        }
        names = {
            name
            for each in panel["transformations"]
            for name in each["options"].get("renameByName", {}).values()
        }
        if names != wide:
            yield f"{panel['title']}: {sorted(names ^ wide)}"
        for order in panel["options"].get("sortBy", ()):
            if order["displayName"] not in names:
                yield f"{panel['title']}: sorted by {order['displayName']}"


@rule
def joined_in_promql(content: Content) -> Iterator[str]:
    """A join by transformation loses rows silently."""
    for panel in _shown(content):
        kinds = {each["id"] for each in panel.get("transformations", ())}
        if kinds - {"organize"}:
            yield f"{panel['title']}: {sorted(kinds - {'organize'})}"


@rule
def links_lead_on(content: Content) -> Iterator[str]:
    """To the other dashboards with time and variables, to the incident pages, to the runbooks."""
    dropdowns = [each for each in content["links"] if each["type"] == "dashboards"]
    if not any(
        each["asDropdown"]
        and each["keepTime"]
        and each["includeVars"]
        and set(each["tags"]) & set(content["tags"])
        for each in dropdowns
    ):
        yield "no list of the other dashboards that keeps time and variables"
    if [each["url"] for each in content["links"] if each["type"] == "link"] != ["${fabric}/", "${runbooks}"]:
        yield "no links to the incident pages and the runbooks"


@rule
def marks_are_events(content: Content) -> Iterator[str]:
    """Incidents and actions; not from the start where rows repeat, since each row would show those of all."""
    found = content["annotations"]["list"]
    if [each["name"] for each in found] != ["Incidents", "Actions"]:
        yield f"marks {[each['name'] for each in found]}"
    repeated = any(panel.get("repeat") for panel in panels(content))
    for each in found:
        if not re.search(r"increase\(.*\) > 0$", each["expr"]):
            yield f"{each['name']}: {each['expr']}"
        if bool(each["enable"]) is repeated:
            yield f"{each['name']}: enable {each['enable']}"


@rule
def rows_repeat_for_a_choice(content: Content) -> Iterator[str]:
    """A repeated row needs a variable of several values, and is named by it."""
    several = {each["name"] for each in content["templating"]["list"] if each.get("multi")}
    for panel in panels(content):
        if panel.get("repeat") and (
            panel["repeat"] not in several or panel["title"] != f"${panel['repeat']}"
        ):
            yield f"{panel['title']}: repeats for {panel['repeat']}"
