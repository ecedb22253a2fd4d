"""What fails later and otherwise is not lost in an incident that people were called for already."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from self_healing_fabric.incidents.lifecycle import State
from self_healing_fabric.incidents.models import Alert
from self_healing_fabric.orchestration.decisions import DECISIONS, decide
from shf_queries.catalogue import CPU


def decided(world: Any, name: str) -> None:
    """Carry out a decision on the only incident."""
    decide(world.context, world.incident().id, DECISIONS[name], by="ada")


def doubtful(world: Any) -> Any:
    """An alert of the CPU that Prometheus cannot confirm: people were called, nothing may be tried."""
    world.receive(world.alert(signal="cpu", annotations={"summary": "busy"}, labels={"severity": "warning"}))
    world.run(seconds=1)
    assert (world.incident().state, world.incident().level) == (State.ESCALATED, 1)
    reason = "nothing may be tried for unknown: no strategy is configured for it"
    assert world.calls[0].reason == reason
    return world


def hangs(world: Any, **changes: Any) -> Alert:
    """It does not answer any more, and a second alert says so."""
    world.silent()
    alert: Alert = world.alert(annotations={"summary": "it hangs"}, **changes)
    world.receive(alert)
    return alert


def heals(world: Any) -> None:
    """Its next restart helps, and the CPU can be measured again."""
    world.target.on_restart = lambda: (world.healthy(), world.measure(CPU, 0.1))


@pytest.fixture
def escalated(world: Any) -> Any:
    """See `doubtful`."""
    return doubtful(world)


def test_a_new_signal_is_healed(escalated: Any) -> None:
    """Escalated for a doubt, then it hangs: diagnosed and restarted as any other, and healed."""
    heals(escalated)
    hangs(escalated)
    escalated.run(seconds=30)
    incident = escalated.incident()
    assert len(escalated.target.restarts) == 1
    assert (incident.outcome, incident.title, incident.severity) == ("healed", "it hangs", "critical")
    assert incident.signal == "heartbeat"


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_a_new_signal_is_healed_whatever_the_labels_hold(
    request: pytest.FixtureRequest, make_world: Callable[..., Any], database: str
) -> None:
    """A NUL in a label of an alert before: what comes later is taken in on either database."""
    store = {"store": request.getfixturevalue("postgresql_url")} if database == "postgresql" else {}
    world = make_world(**store)
    world.receive(world.alert(signal="cpu", labels={"severity": "warning", "pod": "a\x00b"}))
    world.run(seconds=1)
    assert world.incident().state is State.ESCALATED
    heals(world)
    hangs(world)
    world.run(seconds=30)
    assert (len(world.target.restarts), world.incident().outcome) == (1, "healed")


def test_who_was_called_hears_of_a_new_signal(escalated: Any) -> None:
    """Once, at the level that was called, before anything has failed."""
    heals(escalated)
    hangs(escalated)
    escalated.run(seconds=30)
    assert [call.level for call in escalated.calls] == [1, 1]
    assert "heartbeat" in escalated.calls[1].reason
    assert len(escalated.ends) == 1


def test_a_new_signal_is_told_to_who_has_acknowledged(escalated: Any) -> None:
    """An acknowledgement was of what was known then: they are called, and levels rise until they do again."""
    decided(escalated, "acknowledge")
    escalated.target.answer = 403
    hangs(escalated)
    escalated.run(seconds=20)
    assert sorted(call.level for call in escalated.calls) == [1, 1, 2]  # the last: the restart was refused
    escalated.run(seconds=2000, tick=20)
    assert sorted(call.level for call in escalated.calls) == [1, 1, 2, 3, 4]


def test_a_new_signal_is_only_told_after_a_person_stopped_it(escalated: Any) -> None:
    """Who escalated an incident does not find the fabric at work on it again; all who were called hear."""
    decided(escalated, "acknowledge")
    decided(escalated, "escalate")
    escalated.run(seconds=1)
    hangs(escalated)
    escalated.run(seconds=30)
    incident = escalated.incident()
    assert (incident.state, incident.title, escalated.target.restarts) == (State.ESCALATED, "it hangs", [])
    assert [call.level for call in escalated.calls] == [1, 2, 2]
    assert "heartbeat" in escalated.calls[2].reason


def test_a_new_signal_awaits_approval(make_world: Callable[..., Any]) -> None:
    """In mode approval a person is asked before the restart."""
    world = doubtful(make_world(mode="approval"))
    heals(world)
    hangs(world)
    world.run(seconds=1)
    assert (world.incident().state, world.target.restarts) == (State.AWAITING_APPROVAL, [])
    decided(world, "approve")
    world.run(seconds=30)
    assert len(world.target.restarts) == 1


def test_a_new_signal_is_planned_in_a_dry_run(make_world: Callable[..., Any]) -> None:
    """What a dry run would do now is told, and nothing is done."""
    world = doubtful(make_world(mode="dry_run"))
    hangs(world)
    world.run(seconds=10)
    assert (world.incident().state, world.target.restarts) == (State.ESCALATED, [])
    assert any("Dry run: would restart" in line for line in world.story())


def test_the_same_signal_begins_nothing_anew(escalated: Any) -> None:
    """Repeated, flapping or from another instance: a signal is looked into once."""
    escalated.target.answer = 403
    alert = hangs(escalated)
    escalated.run(seconds=20)
    told = len(escalated.calls)
    escalated.receive(Alert(alert.fingerprint, alert.starts_at, "resolved", alert.labels, {}))
    for each in range(5):
        escalated.receive(alert, escalated.alert(fingerprint=f"again-{each}"))
        escalated.run(seconds=5)
    assert sum("escalated -> diagnosing" in line for line in escalated.story()) <= 1
    assert sum("egun anew" in line for line in escalated.story()) == 1
    assert len(escalated.calls) == told


@pytest.mark.parametrize("signal", ["", "weather"])
def test_what_names_no_signal_begins_nothing_anew(escalated: Any, signal: str) -> None:
    """A label of a stranger's own choice has nothing diagnosed again and again."""
    escalated.receive(escalated.alert(signal=signal))
    escalated.run(seconds=5)
    assert (escalated.incident().state, len(escalated.calls)) == (State.ESCALATED, 1)


def test_a_strangers_alert_that_returns_begins_nothing_anew(world: Any) -> None:
    """Nothing is diagnosed for a service that is not configured, whatever its alerts name."""
    for _ in range(3):
        world.receive(world.alert(service="stranger"))
        world.run(seconds=5)
    incident = world.incident()
    assert (incident.service, incident.subject) == ("stranger", "alert/heartbeat-stranger")
    assert (incident.state, incident.known_service, len(world.calls)) == (State.ESCALATED, False, 1)


def test_a_signal_that_comes_during_the_diagnosis_is_not_lost(world: Any) -> None:
    """Its alert joins while Prometheus is asked about the first one, which nothing may be tried for."""
    asked = world.prometheus.range
    heals(world)

    def meanwhile(*args: Any, **values: Any) -> Any:
        world.prometheus.range = asked
        hangs(world)
        world.orchestrator.take_in()
        return asked(*args, **values)

    world.prometheus.range = meanwhile
    world.receive(world.alert(signal="cpu"))
    world.run(seconds=60)
    assert len(world.target.restarts) == 1


def test_a_new_alert_after_a_close_opens_a_new_incident(escalated: Any) -> None:
    """Only what belonged to the closed incident stays quiet."""
    decided(escalated, "close")
    heals(escalated)
    hangs(escalated)
    escalated.run(seconds=30)
    first, second = escalated.incidents()
    assert (first.outcome, second.outcome) == ("closed_by_person", "healed")
    assert len(escalated.target.restarts) == 1
