"""What people decide holds, once, and overtakes the machine only where that is safe."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from self_healing_fabric.errors import DecisionRefused, UnknownIncident
from self_healing_fabric.guardrails import mode
from self_healing_fabric.incidents.lifecycle import State
from self_healing_fabric.orchestration.decisions import DECISIONS, decide, split_off
from self_healing_fabric.settings import Mode
from self_healing_fabric.store import statements
from shf_queries.catalogue import ERROR_RATIO


def decision(world: Any, name: str, **said: str) -> None:
    """Carry out a decision on the only incident."""
    decide(world.context, world.incident().id, DECISIONS[name], by="ada", **said)


@pytest.fixture
def waiting(make_world: Callable[..., Any]) -> Any:
    """An incident that awaits approval."""
    world = make_world(mode="approval")
    world.silent()
    world.target.on_restart = world.healthy
    world.receive(world.alert())
    world.run(seconds=1)
    assert world.incident().state is State.AWAITING_APPROVAL
    return world


def test_approval_runs_the_plan_once(waiting: Any) -> None:
    """Approved a hundred times, restarted once, and the timeline names who approved."""
    for _ in range(100):
        decision(waiting, "approve")
    waiting.run(seconds=20)
    assert len(waiting.target.restarts) == 1
    assert waiting.incident().state is State.RESOLVED
    assert sum("ada approved" in line for line in waiting.story()) == 1


def test_rejection_goes_to_people(waiting: Any) -> None:
    """Rejected: no effect, one level up; rejecting again changes nothing."""
    decision(waiting, "reject")
    decision(waiting, "reject")
    waiting.run(seconds=20)
    assert waiting.target.restarts == []
    assert (waiting.incident().state, waiting.incident().level) == (State.ESCALATED, 1)


@pytest.mark.parametrize(
    ("name", "what"), [("reject", "ada rejected the plan"), ("escalate", "ada asked for it")]
)
def test_who_is_called_hears_why_a_person_called_them(waiting: Any, name: str, what: str) -> None:
    """What they gave as their reason is in the call."""
    decision(waiting, name, reason="no restart before the dump")
    waiting.run()
    assert [call.reason for call in waiting.calls] == [f"{what}: no restart before the dump"]


@pytest.mark.parametrize("name", ["escalate", "reject"])
def test_who_says_hands_off_when_people_are_called_already_is_obeyed(
    make_world: Callable[..., Any], name: str
) -> None:
    """The fabric gave up by itself, then a person tells it to leave the service alone: what is reported
    afterwards begins nothing, or the person was refused and told how to have that."""
    world = make_world()
    world.silent()
    world.target.answer = 403
    world.receive(world.alert())
    world.run(seconds=5)
    assert (world.incident().state, world.incident().level) == (State.ESCALATED, 1)
    if name == "reject":
        with pytest.raises(DecisionRefused, match="escalate it to have nothing more done about it"):
            decision(world, "reject")
    decision(world, "escalate", reason="I am restoring its disk")
    decision(world, "escalate", reason="I am restoring its disk")
    world.target.answer = 200
    world.measure(ERROR_RATIO, 0.9)
    world.receive(world.alert(signal="error_ratio", fingerprint="b" * 16))
    world.run(seconds=120)
    assert world.target.restarts == []
    assert "ada asked for it: I am restoring its disk" in [call.reason for call in world.calls]
    assert {call.level for call in world.calls} == {1, 2}  # the next one, whatever more was told to it


def test_another_suspect_takes_no_incident_out_of_peoples_hands(make_world: Callable[..., Any]) -> None:
    """A dependency alerts, too: it gets an incident of its own, and what was handed over stays so."""
    world = make_world({"web": ["db"], "db": []})
    world.silent("web")
    world.targets["web"].answer = 403
    world.receive(world.alert(service="web"))
    world.run(seconds=5)
    handed_over = world.incident().id
    decision(world, "escalate", reason="I am moving it to another database")
    world.targets["web"].answer = 200
    world.silent("db")
    world.targets["db"].on_restart = lambda: world.healthy("db")
    world.receive(world.alert(service="db", fingerprint="b" * 16))
    world.run(seconds=60)
    assert (world.incident_of("web").id, world.incident_of("web").state) == (handed_over, State.ESCALATED)
    assert len(world.targets["db"].restarts) == 1
    assert (world.incident_of("db").outcome, world.targets["web"].restarts) == ("healed", [])


def test_why_a_second_person_says_the_same_is_kept_once(waiting: Any) -> None:
    """A repetition changes nothing and loses no words; a double click doubles none."""
    incident_id = waiting.incident().id
    decision(waiting, "reject", reason="no restart before the dump")
    said = {"by": "bob", "reason": "the dump is at /backup/cart"}
    changed = [decide(waiting.context, incident_id, DECISIONS["reject"], **said) for _ in range(2)]
    assert changed == [False, False]
    story = waiting.story()
    assert story.count("note: bob: the dump is at /backup/cart") == 1
    assert story.count("note: ada: no restart before the dump") == 1


def test_who_rejects_what_another_has_approved_is_told_of_it(waiting: Any) -> None:
    """By name, and how it is stopped all the same."""
    decision(waiting, "approve")
    with pytest.raises(DecisionRefused) as refused:
        decide(waiting.context, waiting.incident().id, DECISIONS["reject"], by="bob")
    told = "the incident is recovering and awaits no approval, since ada approved it; escalate it"
    assert str(refused.value).startswith(told)
    decide(waiting.context, waiting.incident().id, DECISIONS["escalate"], by="bob")
    waiting.run(seconds=20)
    assert waiting.target.restarts == []


@pytest.mark.parametrize("approved", [True, False])
def test_what_the_plans_name_no_more_is_not_done(make_world: Callable[..., Any], approved: bool) -> None:
    """The fabric starts with another file while something waits: for a person, who allows it afterwards, or
    for the end of a pause. What was planned before is not used on the service any more."""
    world = make_world(mode="approval" if approved else "paused")
    world.silent()
    world.receive(world.alert())
    world.run(seconds=5)
    waiting = State.AWAITING_APPROVAL if approved else State.RECOVERING
    assert (world.incident().state, world.incident().plan) == (waiting, ("restart",))
    world.values["plans"] = {"service_failure": ["retry"]}
    world.values["mode"] = "approval" if approved else "automatic"
    world.crash()
    if approved:
        decision(world, "approve")
    world.run(seconds=30)
    assert world.target.restarts == []
    assert world.incident().state is State.ESCALATED
    assert [call.reason for call in world.calls] == ["the plans do not name restart for this any more"]


def test_approving_what_awaits_nothing_is_refused(world: Any) -> None:
    """A decision that does not fit the state changes nothing."""
    world.silent()
    world.receive(world.alert())
    world.run()
    with pytest.raises(DecisionRefused, match="awaits no approval"):
        decision(world, "approve")


def test_acknowledgement_stops_the_clock(world: Any) -> None:
    """Once somebody has acknowledged, no further level is called."""
    world.silent()
    world.target.answer = 403
    world.receive(world.alert())
    world.run(seconds=5)
    decision(world, "acknowledge")
    decision(world, "acknowledge")
    world.run(seconds=2000, tick=20)
    assert [call.level for call in world.calls] == [1]
    assert world.incident().acknowledged_by == "ada"


def test_acknowledgement_ends_with_the_incident(world: Any) -> None:
    """Who had it was told that it is over: a relapse that is only waited for calls people at its deadline."""
    world.silent()
    world.target.answer = 403
    first = {"starts_at": "2026-01-01T00:00:00Z"}
    world.receive(world.alert(**first))
    world.run(seconds=5)
    decision(world, "acknowledge")
    world.healthy()
    world.run(seconds=20)
    world.receive(world.alert(**first, status="resolved"))
    assert (world.incident().state, len(world.ends)) == (State.RESOLVED, 1)
    world.context.store.write(lambda c: mode.change(c, Mode.PAUSED, by="bob", now=world.clock.now))
    world.silent()
    world.receive(world.alert(starts_at="2026-01-01T00:05:00Z"))
    world.run(seconds=2000, tick=20)
    assert (world.incident().relapses, world.incident().acknowledged_by) == (1, None)
    assert [call.level for call in world.calls] == [1, 1, 2, 3, 4]
    assert any("ada acknowledged" in line for line in world.story())


def test_unacknowledged_levels_rise_to_the_last(world: Any) -> None:
    """Each level is called once, at its deadline, up to level 4; a restart in between loses none."""
    world.silent()
    world.target.answer = 403
    world.receive(world.alert())
    world.run(seconds=100, tick=5)
    world.crash()
    world.run(seconds=400, tick=5)
    world.crash()
    world.run(seconds=2000, tick=20)
    assert [call.level for call in world.calls] == [1, 2, 3, 4]


def test_person_can_escalate(world: Any) -> None:
    """Escalating by hand stops the plan and calls the next level."""
    world.receive(world.alert())
    world.run()
    decision(world, "escalate")
    world.run()
    assert (world.incident().state, world.incident().level) == (State.ESCALATED, 1)
    assert [call.reason for call in world.calls] == ["ada asked for it"]


def test_closing_is_final(world: Any) -> None:
    """Closed by a person: the same alert does not open it again."""
    world.silent()
    alert = world.alert()
    world.target.answer = 403
    world.receive(alert)
    world.run(seconds=5)
    decision(world, "close")
    decision(world, "close")
    world.receive(alert)
    world.run(seconds=50)
    assert (world.incident().state, world.incident().outcome) == (State.CLOSED, "closed_by_person")


def test_decisions_wait_for_an_action_under_way(world: Any) -> None:
    """While an effect is under way its incident cannot be closed: the end would be recorded nowhere."""
    world.silent()
    refused: list[DecisionRefused] = []

    def close_meanwhile() -> None:
        try:
            decision(world, "close")
        except DecisionRefused as error:
            refused.append(error)

    world.target.on_restart = close_meanwhile
    world.receive(world.alert())
    world.run()
    assert str(refused[0]) == f"restart of {world.target.restart_url} is under way: decide when it has ended"
    assert world.incident().state is State.VERIFYING


def test_acknowledging_disturbs_no_step_in_hand(world: Any) -> None:
    """An acknowledgement during an effect is kept, and so is the effect's record."""
    world.silent()
    world.target.on_restart = lambda: (decision(world, "acknowledge"), world.healthy())
    world.receive(world.alert())
    world.run(seconds=20)
    assert world.incident().acknowledged_by == "ada"
    assert world.incident().outcome == "healed"


def test_unknown_incident(world: Any) -> None:
    """A wrong id is said to be one."""
    with pytest.raises(UnknownIncident):
        decide(world.context, "nonsense", DECISIONS["close"], by="ada")


def test_overtaken_step_writes_nothing(world: Any) -> None:
    """A step whose incident was closed meanwhile does not bring it back."""
    world.receive(world.alert())
    ask = world.prometheus.instant

    def close_while_asking(*arguments: Any, **options: Any) -> Any:
        if world.context.store.read(statements.list_incidents)[0].state == State.DIAGNOSING:
            decision(world, "close")
        return ask(*arguments, **options)

    world.prometheus.instant = close_while_asking
    world.run(seconds=5)
    assert world.incident().state is State.CLOSED
    assert not any(line.startswith("diagnosis") for line in world.story())


@pytest.fixture
def merged(make_world: Callable[..., Any]) -> Any:
    """One incident of `db` with the alerts of `cart` and `web`, which depend on it, as symptoms."""
    world = make_world({"web": ["cart"], "cart": ["db"], "db": []}, mode="paused")
    world.silent("db")
    world.receive(*(world.alert(service=name) for name in ("db", "cart", "web")))
    world.orchestrator.take_in()
    return world


def test_splitting_off_opens_an_incident_that_says_who_and_why(merged: Any) -> None:
    """The service's alerts go to it, both timelines tell of it, and it counts as opened."""
    parent = merged.incident()
    split_id = split_off(merged.context, parent.id, "cart", by="ada", reason="its own release")
    split = merged.incident_of("cart")
    assert (split.id, split.split_from, split.state) == (split_id, parent.id, State.DETECTED)
    assert [row.service for row in merged.alerts_of(split)] == ["cart"]
    assert sorted(row.service for row in merged.alerts_of(parent)) == ["db", "web"]
    why = "ada decided so: its own release"
    assert merged.story(split) == [f"state: Split off from {parent.id}: {why}"]
    assert merged.story(merged.incident_of("db"))[-1] == f"state: cart was split off into {split_id}: {why}"
    assert merged.context.metrics.opened.labels("cart")._value.get() == 1.0


def test_splitting_off_disturbs_no_step_in_hand(merged: Any) -> None:
    """What the step on the cause wants to write is still written."""
    (claimed,) = merged.orchestrator.claim(1)
    split_off(merged.context, merged.incident().id, "web", by="ada")
    merged.orchestrator.work(claimed)
    assert merged.incident_of("db").state is not State.DETECTED


@pytest.mark.parametrize(
    ("service", "why"),
    [
        ("db", "db is no symptom in this incident; those that are: cart, web"),
        ("mail", "mail is no symptom in this incident; those that are: cart, web"),
        ("", " is no symptom"),
    ],
)
def test_only_a_symptom_can_be_split_off(merged: Any, service: str, why: str) -> None:
    """The suspected cause stays, a stranger was never in it; the refusal names what there is."""
    incident_id = merged.incident().id
    with pytest.raises(DecisionRefused, match=why):
        split_off(merged.context, incident_id, service, by="ada")
    assert [each.id for each in merged.incidents(merged=True)] == [incident_id]


def test_splitting_off_twice_is_once(merged: Any) -> None:
    """It is no symptom any more; the first split stands."""
    parent = merged.incident().id
    first = split_off(merged.context, parent, "cart", by="ada")
    assert split_off(merged.context, parent, "cart", by="ada") == first
    assert len(merged.incidents()) == 2


def test_nothing_is_split_off_what_is_closed_or_unknown(merged: Any) -> None:
    """A closed incident never changes again."""
    incident_id = merged.incident().id
    decide(merged.context, incident_id, DECISIONS["close"], by="ada")
    with pytest.raises(DecisionRefused, match="closed already"):
        split_off(merged.context, incident_id, "cart", by="ada")
    with pytest.raises(UnknownIncident):
        split_off(merged.context, "nonsense", "cart", by="ada")
    assert len(merged.incidents()) == 1
