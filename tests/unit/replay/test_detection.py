"""Rules over a history that the test writes: what alerts, what reads alerts, and where rules end."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import yaml

from self_healing_fabric.errors import UsageError
from self_healing_fabric.replay.detection import Detector, Told, reach_of, thresholds_of
from self_healing_fabric.replay.history import Coverage, HistoryUnavailable
from self_healing_fabric.replay.rule_sets import RuleSet, read_rules
from self_healing_fabric.settings import Settings
from shf_queries.evaluation import Grid, Vector

CART = (("service", "cart"),)
DAY = 86_400.0


class Written:
    """Raw series of cart: from when to when each has which value."""

    def __init__(self, **spans: list[tuple[float, float, float]]) -> None:
        self.spans = spans
        self.asked: list[str] = []

    def __call__(self, query: str, grid: Grid) -> Vector:
        self.asked.append(query)
        values = np.full(len(grid), np.nan)
        for begin, end, value in self.spans[query]:
            values[(grid.times >= begin) & (grid.times < end)] = value
        return {} if np.all(np.isnan(values)) else {CART: values}

    def forget(self) -> None: ...


def rules(*of_group: dict[str, Any], interval: float = 10.0) -> RuleSet:
    text = yaml.safe_dump({"groups": [{"name": "test", "rules": list(of_group)}]})
    return read_rules({"test.yml": text}, interval=interval)


def alerting(name: str, expr: str, **more: Any) -> dict[str, Any]:
    return {"alert": name, "expr": expr, "labels": {"signal": "heartbeat"}, **more}


SEEN = {"record": "seen", "expr": "down"}


def told(
    written: Written, of: RuleSet, end: float = DAY, pauses: tuple[tuple[float, float], ...] = ()
) -> list[tuple[str, str, float]]:
    detector = Detector(of, Settings(), written, Coverage(0.0, end, pauses), frozenset())  # type: ignore[arg-type]
    return [_short(each) for stretch in detector.stretches() for each in stretch.told]


def _short(each: Told) -> tuple[str, str, float]:
    return each.rule.name, "fires" if each.episode.ended_at is None else "ends", each.at


def test_for_and_keep_firing_for_are_honoured_across_stretches() -> None:
    """A stretch is six hours; what was pending or kept at its end goes on in the next."""
    written = Written(down=[(21_590.0, 21_640.0, 1.0), (43_180.0, 43_195.0, 1.0)])
    down = alerting("Down", "seen == 1", **{"for": "30s", "keep_firing_for": "45s"})
    short = alerting("Short", "seen == 1", keep_firing_for="20s")
    assert told(written, rules(SEEN, down, short)) == [
        ("Short", "fires", 21_590.0),
        ("Down", "fires", 21_620.0),
        ("Short", "ends", 21_660.0),
        ("Down", "ends", 21_690.0),
        ("Short", "fires", 43_180.0),
        ("Short", "ends", 43_220.0),
    ]


def test_recorded_series_are_computed_and_not_read() -> None:
    """In the order in which they need each other, whatever the order of the files."""
    written = Written(raw=[(100.0, 200.0, 4.0)])
    of = rules(
        alerting("High", "twice > 7"),
        {"record": "twice", "expr": "2 * max_over_time(once[30s])"},
        {"record": "once", "expr": "raw"},
    )
    assert told(written, of, end=400.0) == [("High", "fires", 100.0), ("High", "ends", 220.0)]
    assert set(written.asked) == {"raw"}


def test_what_reads_alerts_is_replayed_until_it_settles() -> None:
    """What is slow while it alerts is not learnt, so the second rise alerts too."""
    written = Written(
        value=[(0.0, 1000.0, 1.0), (1000.0, 1500.0, 5.0), (1500.0, 1600.0, 1.0), (1600.0, 2000.0, 5.0)]
    )
    of = rules(
        {"record": "age", "expr": 'max by (service) (time() - ALERTS_FOR_STATE{alertname="High"})'},
        {"record": "healthy", "expr": "value unless age < 86400"},
        {"record": "usual", "expr": "max_over_time(healthy[20m] offset 1m)"},
        alerting("High", "value > 2 * usual"),
    )
    assert told(written, of, end=2500.0) == [
        ("High", "fires", 1000.0),
        ("High", "ends", 1500.0),
        ("High", "fires", 1600.0),
        ("High", "ends", 2000.0),
    ]


def test_a_pause_of_prometheus_is_no_end_of_an_alert() -> None:
    written = Written(down=[(100.0, 200.0, 1.0), (900.0, 1000.0, 1.0)])
    of = rules(SEEN, alerting("Down", "seen == 1"))
    assert told(written, of, end=1500.0, pauses=((195.0, 905.0),)) == [
        ("Down", "fires", 100.0),
        ("Down", "ends", 1000.0),
    ]


def test_rules_that_read_each_other_are_refused() -> None:
    of = rules(
        alerting("Any", "one > 0"), {"record": "one", "expr": "other"}, {"record": "other", "expr": "one"}
    )
    with pytest.raises(HistoryUnavailable, match="one -> other -> one: these rules read each other"):
        told(Written(), of)


def test_only_what_the_route_sends_to_the_fabric_is_replayed() -> None:
    of = rules(alerting("Mine", "up == 0"), {"alert": "Meta", "expr": "vector(1)"})
    assert [rule.name for rule in of.alerting] == ["Mine"]
    assert of.left_out == ("Meta",)
    assert [rule.for_the_fabric for rule in of.alerting] == [True]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("groups: [", "a.yml: not valid YAML"),
        ("groups: {}", "a.yml: groups"),
        ("groups: []", "a.yml: no alerting rule to replay"),
        ("groups: [{name: x, rules: [{alert: A, expr: up, for: soon}]}]", "a.yml: groups.0.rules.0.for"),
        (
            "groups: [{name: x, rules: [{alert: A, expr: up, labels: {signal: '{{ $value }}'}}]}]",
            "a.yml: A: the label signal is a template",
        ),
    ],
)
def test_files_that_are_no_rules_are_named(text: str, problem: str) -> None:
    with pytest.raises(UsageError, match=problem.replace("{", r"\{").replace("$", r"\$")):
        read_rules({"a.yml": text}, interval=5.0)


def test_the_past_that_rules_need_is_the_longest_window_and_its_offset() -> None:
    of = rules(alerting("A", "max_over_time(x[6h] offset 10m) > 1"))
    assert reach_of(of) == 6 * 3600 + 600


def test_the_thresholds_are_those_that_the_fabric_would_export() -> None:
    """A service that pushes its heartbeats is not expected where no fabric heard them."""
    settings = Settings(services={"cart": {"thresholds": {"cpu": 0.5}}, "batch": {"pushes_heartbeats": True}})
    found = {
        (dict(labels)["exported_service"], dict(labels)["signal"]): limit
        for labels, limit in thresholds_of(settings, ()).items()
    }
    assert found["cart", "cpu"] == 0.5
    assert found["cart", "heartbeat"] == 30.0
    assert ("batch", "heartbeat") not in found
    assert ("batch", "cpu") in found
