"""Other windows and thresholds reach the rules; those that cannot work are refused."""

import re
from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from rule_files import FAST, RULES, alerts, rules_of

from self_healing_fabric.rules import ADAPTERS, RuleParameters, render_rules


def defaults(rendered: dict[str, str]) -> dict[str, str]:
    """Series that holds a threshold -> the number for services without one of their own."""
    own = [rule for rule in rules_of(rendered) if " + on (service) group_left () " in rule["expr"]]
    return {rule["record"]: rule["expr"].split()[-1] for rule in own}


def test_durations_and_thresholds_reach_the_rules() -> None:
    """Each in the expression and in the text that people read."""
    rendered = render_rules(
        RuleParameters(
            scrape_interval="15s",
            heartbeat="45s",
            latency_for="50s",
            resource_for="3m",
            keep_firing="90s",
            state_for="75s",
            restarts=5,
            error_ratio=0.02,
            min_errors=9,
            latency_factor=3,
            latency_min_rise="200ms",
            min_request_rate=0.5,
            cpu=0.8,
            memory=0.85,
            runbook_base_url="https://wiki.example/runbooks",
        )
    )
    rules = alerts(rendered)
    assert "more than 45s" in rules["ShfHeartbeatMissed"]["annotations"]["summary"]
    assert rules["ShfHeartbeatMissed"]["annotations"]["runbook_url"] == (
        "https://wiki.example/runbooks/ShfHeartbeatMissed.md"
    )
    errors, latency = rules["ShfErrorRateHigh"], rules["ShfLatencyHigh"]
    assert ">= 9" in errors["expr"]
    assert "at least 9 failures" in errors["annotations"]["description"]
    assert ">= 0.2\n" in latency["expr"]
    assert "service:shf_requests:rate >= 0.5" in latency["expr"]
    assert latency["for"] == "50s"
    assert defaults(rendered) == {
        "service:shf_heartbeat:push_threshold_seconds": "45",
        "service:shf_errors:threshold": "0.02",
        "service:shf_latency:factor": "3",
        "service:shf_cpu:threshold": "0.8",
        "service:shf_memory:threshold": "0.85",
    }
    assert rules["ShfRestartLoop"]["expr"] == "service:shf_restarts:increase > 5"
    assert rules["ShfConfigDrift"]["for"] == rules["ShfStateDivergence"]["for"] == "75s"
    assert rules["ShfCpuExhausted"]["for"] == rules["ShfMemoryExhausted"]["for"] == "3m"
    assert {rule.get("keep_firing_for") for rule in rules.values()} == {"90s", None}


def test_windows_reach_the_signals() -> None:
    """The fast rendering of the demo holds none of the shipped windows."""
    rendered = render_rules(RuleParameters(**FAST))
    text = "\n".join(rendered.values())
    for window in (
        "up[10s]",
        "_count[15s]",
        "_bucket[15s]",
        "_count[4s]",
        "_cpu_seconds_total[10s]",
        "[1m] offset 5s",
    ):
        assert window in text
    assert "count_over_time(up[10s]) >= 9" in text
    # Burn rates are those of every book, 30m and 6h; what is counted of webhooks and rules is no parameter
    # either.
    text = "\n".join(
        text for name, text in rendered.items() if name not in ("slo.rules.yml", "meta.rules.yml")
    )
    assert not {"30s", "2m", "6h", "10m", "45s"} & set(re.findall(r"\d+(?:ms|s|m|h)\b", text))
    assert set(re.findall(r"^  interval: (.*)$", text, re.MULTILINE)) == {"1s"}


def test_groups_have_an_interval_only_when_asked(shipped: dict[str, str]) -> None:
    """Detection follows Prometheus's own interval. Only what reads hours is slower, which keeps it cheap."""
    asked = render_rules(RuleParameters(evaluation_interval="2s"))
    groups = [group for text in asked.values() for group in yaml.safe_load(text)["groups"]]
    assert {group["name"]: group["interval"] for group in groups} == {
        **dict.fromkeys(("shf-heartbeat", "shf-meta", "shf-healer", "shf-requests"), "2s"),
        **dict.fromkeys(("shf-latency", "shf-latency-short"), "2s"),
        **dict.fromkeys(("shf-resources", "shf-state", "shf-thresholds", "shf-paging"), "2s"),
        **dict.fromkeys(("shf-latency-baseline", "shf-slo"), "1m"),
        **dict.fromkeys(("shf-restarts", "shf-thresholds-memory"), "1m"),
    }
    shipped_groups = [group for text in shipped.values() for group in yaml.safe_load(text)["groups"]]
    assert [group["name"] for group in shipped_groups if "interval" in group] == [
        "shf-latency-baseline",
        "shf-slo",
        "shf-restarts",
        "shf-thresholds-memory",
    ]


def test_what_is_not_given_follows_from_the_rest() -> None:
    """Four scrapes make the short window, 360 points a full baseline, a twelfth of them the smallest."""
    default, fast = RuleParameters(), RuleParameters(**FAST)
    assert (default.short_window, default.baseline_interval, default.baseline_min_points) == (20.0, 60.0, 30)
    assert (fast.short_window, fast.baseline_interval, fast.baseline_min_points) == (4.0, 1.0, 5)
    assert (default.heartbeat_min_samples, fast.heartbeat_min_samples) == (5, 9)
    assert RuleParameters(scrape_interval="15s", heartbeat="30s").heartbeat_min_samples == 2


def test_the_same_parameters_give_the_same_text() -> None:
    assert render_rules(RuleParameters(**FAST)) == render_rules(RuleParameters(**FAST))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"error_window": "15s"},
            "error_window is 15s but needs 4 times scrape_interval, which is 5s: give at least 20s",
        ),
        ({"latency_window": "19s"}, "latency_window is 19s but needs 4 times scrape_interval"),
        ({"resource_window": "10s"}, "resource_window is 10s but needs 4 times scrape_interval"),
        ({"short_window": "15s"}, "short_window is 15s but needs 4 times scrape_interval"),
        (
            {"heartbeat": "9s"},
            "heartbeat is 9s but needs 2 times scrape_interval, which is 5s: give at least 10s",
        ),
        ({"scrape_interval": "30s"}, "error_window is 1m but needs 4 times scrape_interval, which is 30s"),
        ({"baseline_offset": "1m"}, "baseline_offset is 1m but needs 2 times baseline_interval, which is 1m"),
        ({"baseline_min_points": 400}, "baseline_window is 6h but needs 400 times baseline_interval"),
        ({"keep_firing": 0}, "greater than 0"),
        ({"heartbeat": "5x"}, "'5x' is not a duration"),
        ({"error_ratio": 5}, "less than 1"),
        ({"cpu": 90}, "less than 1"),
        ({"latency_factor": 1}, "greater than 1"),
        ({"min_request_rate": "inf"}, "finite number"),
        ({"runbook_base_url": 'https://x/{{ $labels.job }}"'}, "runbook_base_url"),
        ({"error_windw": "1m"}, "error_windw"),
        ({"slow_interval": "5m"}, "less than or equal to 120"),
        ({"restart_window": "15s"}, "restart_window is 15s but needs 4 times scrape_interval"),
        ({"dashboard_base_url": "https://x/d?a=1"}, "dashboard_base_url"),
        ({"adapters": "istio,graphite"}, "no adapter graphite: there are blackbox, scrape, pushed"),
        ({"adapters": []}, "adapters"),
    ],
)
def test_what_cannot_work_is_refused_with_the_way_out(given: dict[str, Any], message: str) -> None:
    """Such rules would load, look right and never fire."""
    with pytest.raises(ValidationError, match=re.escape(message)):
        RuleParameters(**given)


def test_all_windows_that_are_too_short_are_named_at_once() -> None:
    with pytest.raises(ValidationError) as caught:
        RuleParameters(scrape_interval="1m")
    for name in ("heartbeat", "error_window", "latency_window", "resource_window"):
        assert f"{name} is " in str(caught.value)


def test_exactly_enough_is_enough() -> None:
    """Also where floating point makes four times 0.1 s a little more."""
    exact = dict.fromkeys(("error_window", "latency_window", "resource_window"), "400ms")
    assert RuleParameters(scrape_interval="100ms", heartbeat="200ms", **exact).short_window == pytest.approx(
        0.4
    )


# Adapters and links


def test_only_the_chosen_adapters_are_rendered() -> None:
    """In the order of the rules, however they were named; the alerts are the same for every choice."""
    parameters = RuleParameters(adapters="node, scrape,istio")
    assert parameters.adapters == ("scrape", "istio", "node")
    rendered, everything = render_rules(parameters), render_rules(RuleParameters())
    text = "\n".join(rendered.values())
    assert "istio_requests_total" in text
    assert "node_cpu_seconds_total" in text
    for other in ("http_request_duration", "http_server", "container_", "process_cpu", "rate(probe_success"):
        assert other not in text
    assert alerts(rendered) == alerts(everything)


def test_every_adapter_is_a_file_and_every_file_an_adapter() -> None:
    """One that is not listed would never be rendered."""
    files = {path.name.removesuffix(".j2") for path in (RULES / "templates" / "adapters").iterdir()}
    assert files == set(ADAPTERS)


def test_every_source_has_its_place_in_the_order() -> None:
    """A source that is not in the order of choice would be recorded and never looked at."""
    requests = render_rules(RuleParameters())["requests.rules.yml"]
    recorded = set(re.findall(r"^ +source: (.*)$", requests, re.MULTILINE))
    (choice,) = [
        rule for rule in rules_of({"": requests}) if rule.get("record") == "service:shf_requests:source"
    ]
    chosen = re.findall(r'source="(\w+)"', choice["expr"])
    assert set(chosen) == recorded | {"custom"}
    assert chosen == chosen[: len(chosen) // 3] * 3  # how requests ended is known, there is traffic, neither


def test_dashboard_links_are_rendered_only_when_there_is_a_dashboard() -> None:
    """And lead to the alert's service where it has one."""
    plain = alerts(render_rules(RuleParameters()))
    assert not any("dashboard_url" in rule["annotations"] for rule in plain.values())
    linked = alerts(render_rules(RuleParameters(dashboard_base_url="https://grafana.example/d/shf-service")))
    assert linked["ShfErrorRateHigh"]["annotations"]["dashboard_url"] == (
        "https://grafana.example/d/shf-service?var-service={{ $labels.service | urlquery }}"
    )
    assert linked["ShfWatchdog"]["annotations"]["dashboard_url"] == "https://grafana.example/d/shf-service"
    assert all("dashboard_url" in rule["annotations"] for rule in linked.values())
