"""A service is taken out of the configuration while its incident is open: in no state does that break it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pytest_httpserver import HTTPServer

from killed import killed_at
from self_healing_fabric.incidents.lifecycle import State
from self_healing_fabric.incidents.models import Alert
from self_healing_fabric.orchestration.decisions import DECISIONS, decide
from self_healing_fabric.orchestration.leases import Leases
from self_healing_fabric.store import statements
from shf_queries.catalogue import ERROR_RATIO
from world import Target

GONE = "the alert names 'db', which the configuration does not any more: nothing more will be done about it"


def fails(world: Any) -> Alert:
    """The database hangs, and its alert arrives."""
    world.silent("db")
    alert: Alert = world.alert(service="db")
    world.receive(alert)
    return alert


def leaves(world: Any, service: str = "db") -> None:
    """Stop the fabric, delete the service from its configuration, and start it again."""
    world.close()
    services = {name: dict(each) for name, each in world.values["services"].items() if name != service}
    for each in services.values():
        each["depends_on"] = [name for name in each["depends_on"] if name != service]
    world.values["services"] = services
    world.open()


def ends(world: Any, alert: Alert) -> None:
    """Alertmanager says that the alert is over."""
    world.receive(Alert(alert.fingerprint, alert.starts_at, "resolved", alert.labels, alert.annotations))


def faults(world: Any) -> list[str]:
    """What the timelines tell of errors of the fabric itself."""
    stories = [line for incident in world.incidents() for line in world.story(incident)]
    return [line for line in stories if "nexpected error" in line or "itself failed" in line]


@pytest.fixture
def pair(make_world: Callable[..., Any]) -> Any:
    """A service and the database that it depends on."""
    return make_world({"db": (), "cart": ("db",)})


def test_a_plan_that_is_approved_too_late_goes_to_people(make_world: Callable[..., Any]) -> None:
    """Approved after its service is gone: nothing is done, and people hear why, once."""
    world = make_world({"db": (), "cart": ("db",)}, mode="approval")
    fails(world)
    world.run(seconds=1)
    assert world.incident().state is State.AWAITING_APPROVAL
    leaves(world)
    decide(world.context, world.incident().id, DECISIONS["approve"], by="ada")
    world.run(seconds=2000, tick=20)
    incident = world.incident()
    assert (incident.state, incident.known_service, incident.level) == (State.ESCALATED, False, 1)
    assert [call.reason for call in world.calls] == [GONE]
    assert (world.restarts(), faults(world)) == ({}, [])


def test_what_a_repair_has_healed_closes_when_its_alert_ends(pair: Any) -> None:
    """Restarted, then taken out while it is verified: nobody is called for what the repair has ended."""
    alert = fails(pair)
    pair.targets["db"].on_restart = lambda: pair.healthy("db")
    pair.run(seconds=1)
    assert pair.incident().state is State.VERIFYING
    leaves(pair)
    pair.run(seconds=10)
    ends(pair, alert)
    pair.run(seconds=20)
    assert pair.incident().state is State.CLOSED
    assert (pair.restarts(), pair.calls, faults(pair)) == ({"db": 1}, [], [])


def test_a_replica_that_does_not_know_the_service_leaves_it_to_others(
    make_world: Callable[..., Any], postgresql_url: str
) -> None:
    """One with another configuration looks first, as while one is rolled out: it is healed all the same."""
    world = make_world({"db": ()}, store=postgresql_url)
    other = Leases(world.context.store, world.clock, services=())
    world.targets["db"].on_restart = lambda: world.healthy("db")
    fails(world)
    world.orchestrator.take_in()
    for _ in range(60):
        assert other.claim(8) == []
        world.run(seconds=0.5)
    assert (world.incident().outcome, world.restarts(), world.calls) == ("healed", {"db": 1}, [])


def test_a_service_that_no_replica_knows_is_told_after_a_while(
    make_world: Callable[..., Any], postgresql_url: str
) -> None:
    """Left to the others for a minute, and no longer: people hear of it, once."""
    world = make_world({"db": (), "cart": ("db",)}, store=postgresql_url)
    fails(world)
    world.orchestrator.take_in()
    leaves(world)
    world.run(seconds=59)
    assert (world.incident().state, world.calls) == (State.DETECTED, [])
    world.run(seconds=5)
    assert (world.incident().state, len(world.calls)) == (State.ESCALATED, 1)


def test_what_a_repair_has_not_healed_goes_to_people_at_the_deadline(pair: Any) -> None:
    """Its alert outlives the verification: people are told once, and nothing is restarted again."""
    fails(pair)
    pair.run(seconds=1)
    leaves(pair)
    pair.run(seconds=2000, tick=10)
    assert (pair.incident().state, [call.reason for call in pair.calls]) == (State.ESCALATED, [GONE])
    assert (pair.restarts(), faults(pair)) == ({"db": 1}, [])


def test_an_action_under_way_is_said_to_be_uncertain(pair: Any) -> None:
    """Killed during a restart whose target cannot be asked any more: people are told, level by level."""
    fails(pair)
    effect = pair.context.strategies["restart"].on("db")
    key = effect.target
    with killed_at(type(effect), done=False):
        pair.run()
    leaves(pair)
    pair.run(seconds=2000, tick=20)
    (action,) = pair.actions()
    assert action.status == "indeterminate"
    assert pair.calls[0].reason.startswith(f"{GONE}; whether its action, restart ")
    assert action.target == key
    assert [call.level for call in pair.calls] == [1, 2, 3, 4]
    assert (pair.restarts(), faults(pair)) == ({}, [])


@pytest.fixture
def scaled(make_world: Callable[..., Any]) -> Any:
    """One replica more was lent to a degraded database a moment ago."""
    world = make_world({"db": ()}, plans={"degradation": ["scale"]}, guardrails={"cooldown": 0})
    world.close()
    db = world.values["services"]["db"]
    http = {**db["recovery"]["http"], "scale": world.targets["db"].replicas_url}
    world.values["services"]["db"] = {**db, "recovery": {"http": http, "scale": {"max": 3, "calm": 400}}}
    world.open()
    world.measure(ERROR_RATIO, 0.1, "db")
    world.targets["db"].on_scale = lambda: world.measure(ERROR_RATIO, 0.0, "db")
    world.receive(world.alert(signal="error_ratio", service="db", starts_at="2026-01-01T00:00:00Z"))
    world.run(seconds=1)
    assert (world.targets["db"].scalings, world.incident().state) == ([3], State.VERIFYING)
    return world


@pytest.fixture
def lent(scaled: Any) -> Any:
    """It has healed; its alert still fires."""
    scaled.run(seconds=30)
    assert scaled.incident().state is State.RESOLVED
    return scaled


def test_what_was_lent_is_told_when_its_alert_does_not_end(lent: Any) -> None:
    """The replica stays, and people hear that nobody takes it back."""
    leaves(lent)
    lent.run(seconds=2000, tick=20)
    assert lent.incident().state is State.ESCALATED
    assert f"{GONE}; scale " in lent.calls[0].reason
    assert lent.calls[0].reason.endswith(" is not taken back")
    assert (lent.targets["db"].scalings, faults(lent)) == ([3], [])


def test_what_was_lent_is_noted_when_it_closes(lent: Any) -> None:
    """Its alert ends: closed as healed, and the timeline says what stays."""
    leaves(lent)
    lent.receive(
        lent.alert(signal="error_ratio", service="db", starts_at="2026-01-01T00:00:00Z", status="resolved")
    )
    lent.run(seconds=400, tick=5)
    incident = lent.incident()
    assert (incident.state, incident.outcome, lent.calls) == (State.CLOSED, "healed", [])
    assert any("All of its alerts ended; scale " in line for line in lent.story())


def test_who_was_called_already_is_not_called_for_it_again(pair: Any) -> None:
    """Escalated before: it is noted, and the incident closes with its alert."""
    pair.targets["db"].answer = 403
    alert = fails(pair)
    pair.run(seconds=5)
    decide(pair.context, pair.incident().id, DECISIONS["acknowledge"], by="ada")
    leaves(pair)
    pair.run(seconds=1000, tick=10)
    assert (len(pair.calls), pair.incident().acknowledged_by) == (1, "ada")
    assert sum("db is not configured any more" in line for line in pair.story()) == 1
    ends(pair, alert)
    pair.run(seconds=100, tick=5)
    assert (pair.incident().state, faults(pair)) == (State.CLOSED, [])


@pytest.mark.parametrize("state", ["detected", "diagnosing"])
def test_what_was_not_looked_into_yet_goes_to_people(pair: Any, state: str) -> None:
    """Taken out before its diagnosis: as any stranger's alert."""
    fails(pair)
    pair.prometheus.away = "Prometheus does not answer"
    pair.run()
    pair.context.store.write(
        lambda connection: statements.overtake(connection, pair.incident().id, {"state": state})
    )
    leaves(pair)
    pair.run(seconds=2000, tick=20)
    assert (pair.incident().state, len(pair.calls), faults(pair)) == (State.ESCALATED, 1, [])


def test_its_symptoms_are_still_healed(pair: Any) -> None:
    """What was taken for a symptom of it gets an incident of its own."""
    fails(pair)
    pair.targets["db"].answer = 403
    pair.run(seconds=5)
    pair.silent("cart")
    pair.targets["cart"].on_restart = pair.healthy
    pair.receive(pair.alert())
    pair.run(seconds=1)
    assert [incident.service for incident in pair.incidents()] == ["db"]
    leaves(pair)
    pair.run(seconds=100, tick=1)
    assert pair.restarts() == {"cart": 1}
    assert pair.incident_of("cart").outcome == "healed"


def test_a_service_that_is_put_back_is_healed_again(pair: Any) -> None:
    """Its next alert begins the incident anew, and who was called hears of it."""
    edges = pair.values["services"]
    pair.targets["db"].answer = 403
    fails(pair)
    pair.run(seconds=5)
    leaves(pair)
    pair.run(seconds=60)
    pair.close()
    pair.values["services"] = edges
    pair.open()
    pair.targets["db"].answer = 200
    pair.targets["db"].on_restart = lambda: pair.healthy("db")
    fails(pair)
    pair.run(seconds=60)
    assert (pair.incident().outcome, pair.incident().known_service) == ("healed", True)
    assert "db is configured again" in [call.reason for call in pair.calls]


def test_what_had_healed_and_fails_again_when_it_is_put_back_is_healed(lent: Any) -> None:
    """It left and came back within the relapse window: its next alert is not taken for a stranger's."""
    services = lent.values["services"]
    leaves(lent)
    lent.context.store.write(
        lambda connection: statements.annotate(connection, lent.incident().id, {"due_at": lent.clock.now})
    )
    lent.run(seconds=1)
    assert (lent.incident().state, lent.incident().known_service) == (State.RESOLVED, False)
    lent.close()
    lent.values["services"] = services
    lent.open()
    lent.targets["db"].on_restart = lambda: lent.healthy("db")
    fails(lent)
    lent.run(seconds=60)
    assert (lent.incident().outcome, lent.restarts()) == ("healed", {"db": 1})


def moves(world: Any, elsewhere: Target) -> None:
    """Stop the fabric, give the database another target, and start it again."""
    world.close()
    urls = {"restart": elsewhere.restart_url, "started_at": elsewhere.started_at_url}
    if "scale" in world.values["services"]["db"]["recovery"]:
        urls["scale"] = elsewhere.replicas_url
    world.values["services"]["db"]["recovery"]["http"] = urls
    world.open()


def test_another_target_cannot_tell_what_became_of_an_action(pair: Any, httpserver: HTTPServer) -> None:
    """Killed during a restart, then the service has another target: whatever that says is of no restart."""
    elsewhere = Target(httpserver, "elsewhere")
    elsewhere.restarts.append("long ago")  # it says that it started at another time than the old one
    fails(pair)
    with killed_at(type(pair.context.strategies["restart"].on("db")), done=False):
        pair.run()
    moves(pair, elsewhere)
    pair.run(seconds=200, tick=5)
    (action,) = pair.actions()
    assert (action.status, "does not have the target" in action.detail) == ("indeterminate", True)
    assert [call.level for call in pair.calls] == [1]
    assert elsewhere.restarts == ["long ago"]


def test_what_was_scaled_elsewhere_is_not_measured_at_another_target(
    scaled: Any, httpserver: HTTPServer
) -> None:
    """It has another target before its scaling was proved: that one's replicas do not say that it failed."""
    moves(scaled, Target(httpserver, "elsewhere"))
    scaled.run(seconds=200, tick=1)
    assert [row.verdict for row in scaled.actions()] == ["no_evidence"]
    assert any("does not have the target" in line for line in scaled.story())
    assert scaled.targets["db"].scalings == [3]
