"""The fabric in a history: guardrails count what was done in the replay, and nothing is known of effects."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import responses
from rich.console import Console

from self_healing_fabric import screens
from self_healing_fabric.replay.alert_states import Episode
from self_healing_fabric.replay.course import Clock, Course, replayed_fabric
from self_healing_fabric.replay.detection import Told
from self_healing_fabric.replay.history import Coverage, HistoricalPrometheus, HistoryUnavailable
from self_healing_fabric.replay.outcomes import Disruption, stopped_if_all_healed, stopped_if_none_healed
from self_healing_fabric.replay.report import report_of
from self_healing_fabric.replay.rule_sets import AlertingRule
from self_healing_fabric.settings import Settings
from shf_queries.evaluation import Grid, Recordings

START, END = 1_800_000_000.0, 1_800_007_200.0
STEP = 5.0
LABELS = tuple(
    sorted({"alertname": "Down", "service": "cart", "signal": "heartbeat", "severity": "critical"}.items())
)
RULE = AlertingRule(
    "Down",
    "x",
    STEP,
    labels={"signal": "heartbeat"},
    annotations={"summary": "{{ $labels.service }}: {{ $value }}"},
)
AWAY = "http://127.0.0.1:9"  # nobody listens there: whoever calls it fails


@pytest.fixture
def prometheus_without_raw_series() -> Iterator[None]:
    empty = {"status": "success", "data": {"resultType": "vector", "result": []}}
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        mock.get("http://prometheus.example/api/v1/query", json=empty)
        mock.get("http://prometheus.example/api/v1/query_range", json=empty)
        yield


def lived(outages: Sequence[tuple[float, float]], **changes: Any) -> dict[str, Any]:
    """The report on a service that was silent in these stretches, in seconds after the start."""
    recovery = {"http": {"restart": f"{AWAY}/restart", "started_at": AWAY}}
    settings = Settings(
        prometheus={"url": "http://prometheus.example"},
        services={"cart": {"health": f"{AWAY}/health", "recovery": recovery, **changes.pop("service", {})}},
        **changes,
    )
    grid = Grid(STEP, int(START / STEP) - 1000, int(END / STEP))
    up = np.ones(len(grid))
    for begin, end in outages:
        up[(grid.times >= START + begin) & (grid.times < START + end)] = 0.0
    recordings = Recordings()
    for series in ("service:shf_heartbeat:answered", "service:shf_up:ratio"):
        recordings.put(series, "0", grid, {(("service", "cart"),): up})
    told = [
        Told(RULE, Episode(LABELS, START + begin, 0.0, START + begin, ended))
        for begin, end in outages
        for ended in (None, START + end)
    ]
    clock = Clock(START)
    past = HistoricalPrometheus("http://prometheus.example", recordings, frozenset(), clock)
    with replayed_fabric(settings, past, clock) as context:
        course = Course(context, past, clock)
        course.live(told, END)
        course.close()
        report = report_of(
            context, told, Coverage(START, END, ()), since=START, until=END, service=None, left_out=(),
            settled=True,
        )  # fmt: skip
    past.close()
    return report


def course_of(report: dict[str, Any]) -> list[tuple[float, str, str]]:
    return [
        (round(told["seconds"]), told["what"], told.get("strategy") or told.get("guardrail") or "")
        for incident in report["incidents"]
        for told in incident["course"]
    ]


pytestmark = pytest.mark.usefixtures("prometheus_without_raw_series")


def test_an_action_is_told_and_then_history_goes_on_without_calling_people() -> None:
    """Half an hour of silence: one restart, no verdict on it, and nobody is called for what it did."""
    report = lived([(600, 2400)])
    (incident,) = report["incidents"]
    assert course_of(report) == [(0, "intent", "restart")]
    assert incident["title"] == "cart: 0"
    assert incident["seconds"] == 1800
    assert incident["calm_at"] > incident["alerts_ended_at"]
    assert not incident["open_at_the_end"]
    assert report["summary"]["pages"] == 0
    assert report["summary"]["actions"] == {"restart": 1}
    assert not Path("shf.db").exists()


@responses.activate
def test_a_prometheus_that_does_not_answer_ends_the_replay() -> None:
    """That it is away now says nothing of that time: nobody waited for it then."""
    with pytest.raises(HistoryUnavailable, match="does not answer"):
        lived([(600, 2400)])


def test_guardrails_count_what_the_replay_has_done() -> None:
    """A second outage soon after: the cooldown makes it wait, then there is a second restart."""
    report = lived([(600, 700), (760, 1500)], guardrails={"cooldown": 300})
    assert course_of(report)[:3] == [
        (0, "intent", "restart"),
        (160, "guardrail", "cooldown"),
        (300, "intent", "restart"),
    ]
    assert report["summary"]["guardrail_blocks"] == {"cooldown": 1}


def test_a_budget_that_is_used_up_calls_people() -> None:
    outages = [(600.0 + 900 * n, 900.0 + 900 * n) for n in range(3)]
    report = lived(outages, guardrails={"cooldown": 0, "max_actions": 2, "per": "2h"})
    assert report["summary"]["actions"] == {"restart": 2}
    assert report["summary"]["guardrail_blocks"] == {"max_actions": 1}
    assert report["summary"]["pages"] >= 1


def test_a_maintenance_window_of_the_past_holds() -> None:
    window = {"start": "2027-01-15T08:00:00Z", "end": "2027-01-15T12:00:00Z"}
    report = lived([(600, 900)], guardrails={"maintenance": [window]})
    assert report["summary"]["actions"] == {}
    assert report["summary"]["guardrail_blocks"] == {"maintenance": 1}


def test_what_is_not_asked_is_said() -> None:
    """The diagnosis names its health endpoint as missing: it is not asked."""
    report = lived([(600, 900)])
    (incident,) = report["incidents"]
    assert incident["failure_class"] == "service_failure"
    assert "health: a replay asks nobody but Prometheus" in incident["missing"]


def test_in_dry_run_people_are_called_and_told_what_would_be_done() -> None:
    report = lived([(600, 900)], mode="dry_run")
    assert course_of(report)[0] == (0, "would", "restart")
    assert report["summary"]["pages"] >= 1


def test_guardrails_that_count_outcomes_are_told_at_their_ends() -> None:
    """Four restarts, of which nobody knows whether they healed: all that the replay can say of these two."""
    outages = [(600.0 + 900 * n, 900.0 + 900 * n) for n in range(4)]
    limits = {"cooldown": 0, "max_actions": 9, "max_heals": 2, "max_failures": 3}
    report = lived(outages, guardrails=limits)
    assert report["summary"]["actions"] == {"restart": 4}
    assert report["stopped_by_outcomes"] == {"max_heals_if_all_healed": 2, "max_failures_if_none_healed": 1}
    written = io.StringIO()
    screens.show_replay(Console(file=written, width=200), report)
    told = " ".join(written.getvalue().split())
    assert "had every action healed, the first would have stopped 2 of them; had none, the second 1." in told
    assert "Silences, acknowledgements and approvals of people are not replayed" in told


def test_what_is_out_of_the_window_is_not_counted() -> None:
    """A heal eight days ago and one today are not two in seven days; another target has its own budget."""
    settings = Settings(services={"cart": {}}, guardrails={"max_heals": 1, "max_failures": 1})
    day = 86_400.0
    at = {"cart": (0, 8 * day, 8.5 * day), "pay": (8.6 * day,)}
    actions = [Disruption(when, "cart", "restart", target) for target, all_ in at.items() for when in all_]
    assert stopped_if_all_healed(actions, settings) == 1
    assert stopped_if_none_healed(actions, settings) == 1


def test_a_calm_history_opens_nothing() -> None:
    report = lived([])
    assert report["incidents"] == []
    assert report["summary"]["incidents"] == 0
