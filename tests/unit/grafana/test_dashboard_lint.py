"""The dashboards keep all rules of `lint`, and every rule finds the fault that it is there for."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from lint import RULES, problems, problems_between
from viewer import Content, dashboards

DASHBOARDS = dashboards()
Fault = Callable[[Content], Any]


@pytest.mark.parametrize("name", DASHBOARDS)
def test_a_dashboard_keeps_all_rules(name: str) -> None:
    """Each of them."""
    assert problems(DASHBOARDS[name]) == []


def test_the_dashboards_together_keep_the_rules() -> None:
    """No uid and no title twice."""
    assert problems_between(DASHBOARDS) == []


def the(content: Content, title: str) -> dict[str, Any]:
    """The panel with this title."""
    return next(panel for panel in content["panels"] if panel["title"] == title)


def target(content: Content, title: str, **changes: Any) -> None:
    """Change the first query of a panel; a text `a -> b` replaces within its expression."""
    first = the(content, title)["targets"][0]
    replaced = changes.pop("replace", None)
    if replaced:
        old, new = replaced
        assert old in first["expr"]
        first["expr"] = first["expr"].replace(old, new)
    first.update(changes)


def defaults(content: Content, title: str) -> dict[str, Any]:
    """What holds for all values of a panel."""
    found: dict[str, Any] = the(content, title)["fieldConfig"]["defaults"]
    return found


def variable(content: Content, name: str) -> dict[str, Any]:
    """The variable of this name."""
    return next(each for each in content["templating"]["list"] if each["name"] == name)


OPEN, STATES, TABLE, BARS, SHARE = (
    "Open incidents",
    "State of the services",
    "Open incidents in detail",
    "Incidents opened and resolved",
    "Recovered without a human",
)
FAULTS: dict[str, list[Fault]] = {
    "classic_model": [lambda c: c.update(schemaVersion=41), lambda c: c.update(elements={})],
    "uneditable": [lambda c: c.update(editable=True)],
    "stable_address": [lambda c: c.update(uid="Overview"), lambda c: c.update(uid="")],
    "data_source_is_chosen": [
        lambda c: target(c, OPEN, datasource={"type": "prometheus", "uid": "abc"}),
        lambda c: c["templating"]["list"].pop(0),
        lambda c: c["annotations"]["list"][0].pop("datasource"),
        lambda c: variable(c, "service").update(datasource={"type": "prometheus", "uid": "abc"}),
    ],
    "said_what_to_do": [
        lambda c: the(c, OPEN).update(description="Open incidents."),
        lambda c: the(c, OPEN).update(title=""),
    ],
    "units": [lambda c: defaults(c, OPEN).pop("unit"), lambda c: defaults(c, OPEN).update(unit="short")],
    "asks_something": [
        lambda c: the(c, OPEN).update(targets=[]),
        lambda c: the(c, BARS)["targets"][1].update(refId="A"),
        lambda c: target(c, OPEN, refId=""),
    ],
    "now_or_through_time": [
        lambda c: target(c, OPEN, instant=False, range=True),
        lambda c: target(c, STATES, instant=True, range=False),
        lambda c: the(c, OPEN).update(type="graph"),
    ],
    "newest_value": [lambda c: the(c, OPEN)["options"]["reduceOptions"].update(calcs=["mean"])],
    "told_apart": [
        lambda c: the(c, OPEN).update(id=the(c, STATES)["id"]),
        lambda c: the(c, OPEN).update(title=STATES),
    ],
    "beside_each_other": [
        lambda c: the(c, OPEN)["gridPos"].update(w=5),
        lambda c: the(c, OPEN)["gridPos"].update(x=22, y=90),
    ],
    "rate_interval": [
        lambda c: target(c, BARS, replace=("$__rate_interval", "5m")),
        lambda c: target(c, SHARE, replace=("$__range", "1h")),
        lambda c: c["annotations"]["list"][0].update(expr="sum(changes(shf_incidents_opened_total[1m])) > 0"),
    ],
    "counters_are_not_values": [
        lambda c: target(c, BARS, expr='sum(shf_incidents_opened_total{cluster=~"$cluster"})')
    ],
    "whole_events": [lambda c: target(c, BARS, replace=("round(sum", "(sum"))],
    "clusters_can_be_chosen": [
        lambda c: target(c, OPEN, replace=('cluster=~"$cluster", service', "service")),
        lambda c: target(c, OPEN, expr="sum(shf_incidents)"),
    ],
    "variables_exist": [lambda c: target(c, OPEN, replace=("$service", "$svc"))],
    "hidden_variables_stay_here": [
        lambda c: variable(c, "fabric").update(skipUrlSync=False),
        lambda c: variable(c, "service").update(auto_count=0),
    ],
    "all_means_all": [
        lambda c: variable(c, "service").update(allValue=None),
        lambda c: variable(c, "cluster").update(multi=False),
    ],
    "states_have_their_colours": [
        lambda c: defaults(c, STATES)["color"].update(mode="thresholds"),
        lambda c: defaults(c, STATES).update(mappings=[]),
        lambda c: defaults(c, STATES)["mappings"][0]["options"]["2"].pop("color"),
    ],
    "unknown_judges_nothing": [
        lambda c: defaults(c, OPEN)["thresholds"]["steps"][0].update(color="green"),
        lambda c: defaults(c, OPEN)["thresholds"]["steps"].reverse(),
    ],
    "unknown_is_said": [
        lambda c: defaults(c, OPEN).pop("noValue"),
        lambda c: defaults(c, OPEN).update(noValue="0"),
    ],
    "zero_is_not_invented": [lambda c: target(c, OPEN, replace=(" or 0 *", " or vector(0) or 0 *"))],
    "nothing_yet_has_words": [
        lambda c: defaults(c, SHARE).update(mappings=[]),
        lambda c: target(c, SHARE, replace=(") - 1", ")")),
    ],
    "columns_have_a_width": [
        lambda c: the(c, TABLE)["fieldConfig"]["overrides"].pop(),
        lambda c: the(c, TABLE)["options"]["sortBy"][0].update(displayName="Age"),
    ],
    "joined_in_promql": [
        lambda c: the(c, TABLE)["transformations"].append({"id": "merge", "options": {"renameByName": {}}})
    ],
    "links_lead_on": [
        lambda c: c["links"][0].update(keepTime=False),
        lambda c: c["links"][0].update(includeVars=False),
        lambda c: c["links"].pop(),
        lambda c: c.update(tags=["other"]),
    ],
    "marks_are_events": [
        lambda c: c["annotations"]["list"].pop(),
        lambda c: c["annotations"]["list"][0].update(enable=False),
        lambda c: c["annotations"]["list"][0].update(
            expr='sum(increase(shf_incidents_opened_total{cluster=~"$cluster"}[$__rate_interval]))'
        ),
    ],
    "rows_repeat_for_a_choice": [lambda c: the(c, "$service").update(repeat="host")],
}  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "fault"), [(rule, fault) for rule, faults in FAULTS.items() for fault in faults]
)
def test_a_rule_finds_its_fault(rule: str, fault: Fault) -> None:
    """In a dashboard that has no other."""
    repeats = rule == "rows_repeat_for_a_choice"
    content = copy.deepcopy(DASHBOARDS["detection-signals.json" if repeats else "incident-overview.json"])
    fault(content)
    assert rule in {problem.partition(":")[0] for problem in problems(content)}


def test_every_rule_has_a_fault_that_trips_it() -> None:
    """A rule that finds nothing guards nothing."""
    assert set(FAULTS) == set(RULES)


@pytest.mark.parametrize("key", ["uid", "title"])
def test_what_two_dashboards_share_is_found(key: str) -> None:
    """Grafana would show only one of them."""
    one, other = (copy.deepcopy(content) for content in list(DASHBOARDS.values())[:2])
    other[key] = one[key]
    assert problems_between({"one": one, "other": other}) == [f"2 dashboards have the {key} {one[key]!r}"]
