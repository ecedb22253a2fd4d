"""A fault counts as healed only when the fabric says so and the target agrees."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from pytest_httpserver import HTTPServer
from rich.console import Console

from shf_demo.screen import Screen
from shf_demo.stack import Stack
from shf_demo.timings import SHORTENED, Timings
from shf_demo.trials import FAULT_KINDS, Trial, all_trials, run_trial
from shf_demo.watching import Happening

ACTION = {"strategy": "restart", "platform": "http", "status": "succeeded"}
IMPATIENT = replace(SHORTENED, fault_deadline=1.0)


@dataclass
class Target:
    """Stands for the stack: what the supervisor counted and the health endpoint answers after the fault."""

    fabric_url: str
    restarts_done: int = 1
    healthy: bool = True
    timings: Timings = IMPATIENT
    injected: tuple[str, str] | None = None

    def restarts(self, _service: str) -> int:
        return 4 + (self.restarts_done if self.injected else 0)

    def inject(self, service: str, kind: str) -> datetime:
        self.injected = (service, kind)
        return datetime(2026, 5, 4, 12, 0, 0, tzinfo=UTC)

    def is_healthy(self, _service: str) -> bool:
        return self.healthy

    def check_servers(self) -> None:
        pass


def claim(httpserver: HTTPServer, **more: Any) -> None:
    incident = {
        "id": "i-1",
        "service": "tokenguard",
        "state": "resolved",
        "outcome": "healed",
        "level": 0,
        "opened_at": "2026-05-04T12:00:10Z",
        "resolved_at": "2026-05-04T12:00:20Z",
        "actions": [ACTION],
        "timeline": [
            {"id": 1, "at": "2026-05-04T12:00:10Z", "kind": "alert", "message": "silent", "data": {}}
        ],
        **more,
    }
    httpserver.expect_request("/api/v1/incidents").respond_with_json({"incidents": [incident]})
    httpserver.expect_request("/api/v1/incidents/i-1").respond_with_json(incident)


def run(target: Target) -> tuple[Trial, list[Happening]]:
    trial, told = Trial("hang", "tokenguard"), list[Happening]()
    run_trial(trial, cast("Stack", target), told.append, lambda: None)
    return trial, told


def test_healed_with_one_restart_and_an_answer_counts(httpserver: HTTPServer) -> None:
    """The claim and the truth at the target agree; the times are those of the timeline."""
    claim(httpserver)
    trial, told = run(Target(httpserver.url_for("")))
    assert trial.healed
    assert trial.detected_after == pytest.approx(10, abs=0.1)
    assert trial.healed_after == pytest.approx(20, abs=0.1)
    assert (trial.action, trial.verdict) == ("restart", "healed")
    assert [happening.kind for happening in told] == ["fault", "alert", "healed"]


@pytest.mark.parametrize(
    ("restarts", "healthy", "verdict"),
    [
        (0, True, "healed; 0 restarts, answers"),
        (2, True, "healed; 2 restarts, answers"),
        (1, False, "healed; 1 restart, does not answer"),
    ],
)
def test_a_claim_that_the_target_denies_does_not_count(
    httpserver: HTTPServer, restarts: int, healthy: bool, verdict: str
) -> None:
    """The fabric says healed, the target does not: not healed, and the table says why."""
    claim(httpserver)
    trial, told = run(Target(httpserver.url_for(""), restarts, healthy))
    assert (trial.healed, trial.healed_after, trial.verdict) == (False, None, verdict)
    assert told[-1].kind == "not healed"


def test_an_escalated_incident_is_not_healed(httpserver: HTTPServer) -> None:
    """Waiting ends with the deadline, and the verdict names the state and the level."""
    claim(httpserver, state="escalated", outcome=None, resolved_at=None, level=2)
    trial, _ = run(Target(httpserver.url_for("")))
    assert (trial.healed, trial.verdict) == (False, "escalated, level 2; 1 restart, answers")


def test_a_fault_without_an_incident_is_not_detected(httpserver: HTTPServer) -> None:
    """No incident within the deadline is a failure, even though nothing claims anything."""
    httpserver.expect_request("/api/v1/incidents").respond_with_json({"incidents": []})
    trial, _ = run(Target(httpserver.url_for(""), restarts_done=0))
    assert (trial.healed, trial.verdict) == (False, "not detected")


def test_the_faults_come_in_the_order_of_the_mission() -> None:
    """A hanging guard comes first; every kind of fault has a service of its own."""
    assert FAULT_KINDS == ("hang", "exit", "errors", "latency", "cpu", "memory")
    trials = all_trials()
    assert trials[0].service == "tokenguard"
    assert len({trial.service for trial in trials}) == len(trials)


def test_a_log_gets_plain_lines() -> None:
    """Without a terminal there are no escape sequences, repeated tables, wrapped lines or lost brackets."""
    out = io.StringIO()
    trials = [Trial("hang", "tokenguard", verdict="healed", healed=True)]
    query = "value 0 of service:shf_heartbeat:answered[30s] " + "x" * 200
    with Screen(Console(file=out, width=80, soft_wrap=True)) as screen:
        screen.durations(SHORTENED)
        screen.update(trials)
        screen.happened(Happening(1.5, "evidence", query))
        screen.update(trials)
        screen.result(trials)
    text = out.getvalue()
    assert "\x1b" not in text
    assert f"    1.5 s  evidence     {query}\n" in text
    assert text.count("tokenguard") == 1
