"""The main job on real servers: a fault is detected, notified, diagnosed, repaired, verified, resolved.

What counts is the target: how often the supervisor really restarted the process, and whether it answers
    again.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

import pytest
from asked_again import is_fact_shown_again

from shf_demo.stack import Stack

pytestmark = pytest.mark.e2e

SHF = (sys.executable, "-m", "self_healing_fabric.cli")


def test_hanging_guard_is_restarted_exactly_once(stack: Stack, fabric: Any) -> None:
    """tokenguard hangs: restarted once, proved with queries that anyone can repeat, resolved."""
    stack.inject("tokenguard", "hang")
    story = fabric.wait_resolved("tokenguard")
    assert stack.restarts("tokenguard") == 1
    assert stack.is_healthy("tokenguard")
    assert story["outcome"] == "healed"
    assert story["failure_class"] == "service_failure"
    assert [(action["strategy"], action["verdict"]) for action in story["actions"]] == [("restart", "healed")]
    kinds = {entry["kind"] for entry in story["timeline"]}
    assert {"alert", "evidence", "diagnosis", "plan", "action", "verification", "state"} <= kinds
    for entry in story["timeline"]:
        if entry["kind"] == "evidence" and "source" not in entry["data"]:
            assert is_fact_shown_again(stack, entry["data"]), entry


def test_failing_requests_are_healed(stack: Stack, fabric: Any) -> None:
    """trustguard answers errors; one restart heals it, and the other services are left alone."""
    before = {service.name: stack.restarts(service.name) for service in stack.services}
    stack.inject("trustguard", "errors")
    story = fabric.wait_resolved("trustguard")
    assert story["outcome"] == "healed"
    changed = {name: stack.restarts(name) - count for name, count in before.items()}
    assert {name: count for name, count in changed.items() if count} == {"trustguard": 1}


def test_what_fails_again_at_once_is_healed_again(stack: Stack, fabric: Any) -> None:
    """Its alert has not ended yet, so Alertmanager sends nothing: the fabric finds it, within the minute."""
    before = stack.restarts("guardian-two")
    for times in (1, 2):
        stack.inject("guardian-two", "hang")
        stack.wait_for("restarted", lambda times=times: stack.restarts("guardian-two") - before == times, 60)
        story = fabric.wait_resolved("guardian-two")
        assert story["outcome"] == "healed"
    if story["relapses"]:  # else Prometheus had ended the alert in between, and told of a new one
        assert len(story["actions"]) == 2


def test_fault_during_an_outage_of_the_fabric(stack: Stack, fabric: Any) -> None:
    """A guard exits while the fabric is down; started again it finds the alert and heals it, once."""
    stack.fabric.kill()
    stack.inject("flowguard", "exit")
    query = 'ALERTS{alertname="ShfHeartbeatMissed",alertstate="firing",service="flowguard"}'
    end = time.monotonic() + 60
    while stack.ask_prometheus(query) is None and time.monotonic() < end:
        time.sleep(0.5)
    stack.fabric.start()
    stack.fabric.wait_ready()
    story = fabric.wait_resolved("flowguard")
    assert story["outcome"] == "healed"
    assert stack.restarts("flowguard") == 1


def test_unknown_service_is_stored_and_not_acted_on(stack: Stack, fabric: Any) -> None:
    """An alert for a service that nobody configured becomes an incident without actions."""
    body = {
        "version": "4",
        "alerts": [
            {
                "status": "firing",
                "labels": {"alertname": "Strange", "service": "stranger", "signal": "heartbeat"},
                "annotations": {},
                "startsAt": "2026-01-01T00:00:00Z",
                "fingerprint": "00112233",
            }
        ],
    }
    assert fabric.http.post("/api/v1/alerts", json=body).status_code == 202
    stack.wait_for(
        "the stranger escalated",
        lambda: [row["state"] for row in fabric.incidents("stranger")][:1] in (["escalated"], ["closed"]),
        20,
    )
    story = fabric.story(fabric.incidents("stranger")[0]["id"])
    assert story["actions"] == []
    assert story["known_service"] is False


def test_check_finds_everything_well(stack: Stack) -> None:
    """`shf check` on the running stack asks every server, finds nothing wrong, and exits 0."""
    command = [*SHF, "check", "--json", "--config", str(stack.configuration_file)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    findings = json.loads(result.stdout)
    assert [finding for finding in findings if finding["ok"] is False] == []
    assert result.returncode == 0
    assert any("evaluates the shipped rules" in finding["message"] for finding in findings)


def test_incidents_command_shows_the_story(stack: Stack, fabric: Any) -> None:
    """`shf incidents` lists what happened, and with an id tells it with its queries."""
    command = [*SHF, "incidents", "--url", stack.fabric_url]
    listed = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert "tokenguard" in listed
    incident_id = fabric.incidents("tokenguard")[-1]["id"]
    command.append(incident_id)
    told = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert "Healed: inside all limits" in told
    assert 'service:shf_up:ratio{service="tokenguard"}' in told


def test_metrics_exist_before_anything_happened(stack: Stack, fabric: Any) -> None:
    """/metrics has series at 0 for a service that nothing happened to, and the loop's last run."""
    text = fabric.http.get("/metrics").text
    assert 'shf_incidents_resolved_total{outcome="healed",service="guardian-two"} 0.0' in text
    assert "shf_last_reconcile_timestamp_seconds" in text
