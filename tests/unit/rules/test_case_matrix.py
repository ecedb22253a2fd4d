"""Every alert is tried in every case, or this table says why the case does not apply to it.

A scenario of alert_rules/tests says at the end of its name what it shows: `[ShfErrorRateHigh boundary, nan]`.
"""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from rule_files import RULES, SIGNAL_OF_ALERT

CASES = (
    "fires",
    "silent",
    "boundary",  # what is exactly at the threshold, and what is just over it
    "missing_series",  # what is measured vanishes, or was never there
    "nan",
    "flapping",  # comes and goes
    "low_traffic",
    "counter_reset",
    "two_conventions",  # one service measured in two ways
)

NO_REQUESTS = {"low_traffic": "counts no requests"}
GAUGES = {"counter_reset": "reads gauges"}
ONE_SOURCE = {"two_conventions": "there is one way to measure it"}
RATES = {
    "counter_reset": "reads the rates of ShfErrorRateHigh, which has the case",
    "two_conventions": "reads the rates of ShfErrorRateHigh, which has the case",
}
DOES_NOT_APPLY: dict[str, dict[str, str]] = {
    "ShfHeartbeatMissed": NO_REQUESTS | GAUGES,
    "ShfServiceAbsent": NO_REQUESTS | GAUGES,
    "ShfErrorRateHigh": {},
    "ShfLatencyHigh": {},
    "ShfCpuExhausted": NO_REQUESTS,
    "ShfMemoryExhausted": NO_REQUESTS | GAUGES,
    "ShfErrorBudgetBurnFast": RATES,
    "ShfErrorBudgetBurnSlow": RATES,
    "ShfConfigDrift": NO_REQUESTS | GAUGES | ONE_SOURCE,
    "ShfStateDivergence": NO_REQUESTS | GAUGES | ONE_SOURCE,
    "ShfRestartLoop": NO_REQUESTS,
    "ShfWatchdog": {case: "reads nothing and always fires" for case in CASES if case != "fires"},
    "ShfMonitoringBlind": NO_REQUESTS | GAUGES | {"two_conventions": "counts services, not their checks"},
    "ShfFabricDown": NO_REQUESTS | GAUGES | ONE_SOURCE,
    "ShfFabricNotReconciling": NO_REQUESTS | GAUGES | ONE_SOURCE,
    "ShfAlertmanagerNotCompared": NO_REQUESTS | GAUGES | ONE_SOURCE,
    "ShfWebhookFailing": {},
    "ShfRulesFailing": NO_REQUESTS | ONE_SOURCE,
    "ShfAlertsDropped": NO_REQUESTS | ONE_SOURCE,
}

DOES_NOT_APPLY |= dict.fromkeys(
    ("ShfServiceFailing", "ShfServiceUnhealed"),
    NO_REQUESTS
    | GAUGES
    | ONE_SOURCE
    | {"boundary": "an alert fires or does not", "nan": "Prometheus writes ALERTS itself, as 1"},
)

Scenario = dict[str, Any]


def scenarios() -> list[Scenario]:
    return [
        scenario
        for path in sorted((RULES / "tests").glob("*_test.yml"))
        for scenario in yaml.safe_load(path.read_text(encoding="utf-8"))["tests"]
    ]


def tags(scenario: Scenario) -> Iterator[tuple[str, str]]:
    """What the name claims to show: pairs of an alert and a case."""
    for tag in re.findall(r"\[([^]]*)\]", scenario["name"]):
        alert, _, cases = tag.partition(" ")
        yield from ((alert, case) for case in cases.split(", "))


def expectations(scenario: Scenario, alert: str) -> list[bool]:
    """Whether something is expected, of each check of that alert: ALERTS must be asked for it by name."""
    selected = re.compile(rf'ALERTS\{{[^}}]*alertname=(?:"{alert}"|~"(?:\w+\|)*{alert}(?:\|\w+)*")')
    return [
        *(bool(t.get("exp_alerts")) for t in scenario.get("alert_rule_test", []) if t["alertname"] == alert),
        *(
            bool(test.get("exp_samples"))
            for test in scenario.get("promql_expr_test", [])
            if selected.search(test["expr"])
        ),
    ]


def problems(found: list[Scenario]) -> list[str]:
    """What is wrong with the tags of these scenarios."""
    result = []
    for scenario in found:
        for alert, case in tags(scenario):
            where = f"{scenario['name']!r}: "
            checks = expectations(scenario, alert)
            if alert not in DOES_NOT_APPLY:
                result.append(f"{where}there is no alert {alert!r}")
            elif case not in CASES:
                result.append(f"{where}there is no case {case!r}")
            elif case in DOES_NOT_APPLY[alert]:
                result.append(f"{where}the table says that {case} does not apply to {alert}")
            elif not checks:
                result.append(f"{where}says nothing about {alert}")
            elif case == "fires" and not any(checks):
                result.append(f"{where}{alert} is never expected to fire")
    return result


def missing(found: list[Scenario], alert: str) -> list[str]:
    """The cases that apply to the alert and that none of these scenarios has."""
    shown = {tag for scenario in found for tag in tags(scenario)}
    return [case for case in CASES if case not in DOES_NOT_APPLY[alert] and (alert, case) not in shown]


def test_the_table_names_every_alert_and_no_other() -> None:
    assert set(DOES_NOT_APPLY) == set(SIGNAL_OF_ALERT)
    assert {case for reasons in DOES_NOT_APPLY.values() for case in reasons} <= set(CASES)


@pytest.mark.parametrize("alert", SIGNAL_OF_ALERT)
def test_every_alert_is_tried_in_every_case_that_applies(alert: str) -> None:
    assert missing(scenarios(), alert) == []


def test_every_tag_is_true() -> None:
    assert problems(scenarios()) == []


FIRED = {"alertname": "ShfCpuExhausted", "exp_alerts": [{}]}
ABOUT_ANOTHER = {"expr": 'count(ALERTS{alertname="ShfCpu"})'}
ABOUT_ALL = {"expr": "count(ALERTS)"}
SILENT = {"expr": 'max_over_time(ALERTS{alertstate="firing",alertname="ShfCpuExhausted"}[5m])'}
ONE_OF_TWO = {"expr": 'ALERTS{alertname=~"ShfMemoryExhausted|ShfCpuExhausted"}', "exp_samples": [{}]}


@pytest.mark.parametrize(
    ("tag", "checks", "problem"),
    [
        ("[ShfCpu fires]", {"alert_rule_test": [FIRED]}, "no alert 'ShfCpu'"),
        ("[ShfCpuExhausted burns]", {"alert_rule_test": [FIRED]}, "no case 'burns'"),
        ("[ShfCpuExhausted]", {"alert_rule_test": [FIRED]}, "no case ''"),
        ("[ShfCpuExhausted low_traffic]", {"alert_rule_test": [FIRED]}, "does not apply"),
        ("[ShfCpuExhausted nan]", {}, "says nothing about ShfCpuExhausted"),
        ("[ShfCpuExhausted nan]", {"promql_expr_test": [ABOUT_ANOTHER, ABOUT_ALL]}, "says nothing"),
        ("[ShfCpuExhausted fires, nan]", {"promql_expr_test": [SILENT]}, "never expected to fire"),
        ("[ShfCpuExhausted nan]", {"promql_expr_test": [SILENT]}, None),
        ("[ShfCpuExhausted fires, nan]", {"promql_expr_test": [ONE_OF_TWO]}, None),
        ("[ShfCpuExhausted fires, nan]", {"alert_rule_test": [FIRED]}, None),
    ],
)
def test_a_wrong_tag_is_seen(tag: str, checks: Scenario, problem: str | None) -> None:
    found = problems([{"name": f"what is shown {tag}", **checks}])
    assert len(found) == (0 if problem is None else 1)
    assert problem is None or problem in found[0]


def test_a_missing_case_is_seen() -> None:
    found: list[Scenario] = [{"name": "one [ShfCpuExhausted fires, silent] [ShfMemoryExhausted nan]"}]
    assert missing(found, "ShfCpuExhausted") == [
        *("boundary", "missing_series", "nan", "flapping", "counter_reset", "two_conventions")
    ]
