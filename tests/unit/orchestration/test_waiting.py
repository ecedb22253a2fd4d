"""Waits: what heals by itself meanwhile ends, and a look that proves nothing changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from self_healing_fabric.api.incidents import story
from self_healing_fabric.errors import DecisionRefused
from self_healing_fabric.guardrails import mode
from self_healing_fabric.incidents.lifecycle import State
from self_healing_fabric.incidents.telling import tell
from self_healing_fabric.orchestration.approval_links import answer, approval_links
from self_healing_fabric.settings import Mode
from self_healing_fabric.store import statements

LEVEL = 300  # seconds until each level is called


def fails(world: Any) -> None:
    """The service falls silent and alerts."""
    world.silent()
    world.receive(world.alert(starts_at=f"{world.clock.now}"))


def alerts_end(world: Any) -> None:
    """As Alertmanager tells it."""
    ends = [
        world.alert(starts_at=row.starts_at, status="resolved") for row in world.alerts_of(world.incident())
    ]
    world.receive(*ends)


def cooling_down(world: Any) -> None:
    """Restarted a moment ago, it fails again: the cooldown is ahead."""
    world.target.on_restart = world.healthy
    fails(world)
    world.run(seconds=20)
    alerts_end(world)
    assert world.incident().state is State.RESOLVED
    fails(world)
    world.run(seconds=5)
    assert "cooldown" in world.incident().waiting_for


def asking(world: Any) -> None:
    """A person is asked to approve the restart."""
    fails(world)
    world.run(seconds=5)
    assert world.incident().state is State.AWAITING_APPROVAL


def paused(world: Any) -> None:
    """The kill switch is on before anything is done."""
    world.context.store.write(
        lambda connection: mode.change(connection, Mode.PAUSED, by="ada", now=world.clock.now)
    )
    fails(world)
    world.run(seconds=5)
    assert "paused" in world.incident().waiting_for


def silenced(world: Any) -> None:
    """People have silenced the alert of a plan that waits for its cooldown."""
    cooling_down(world)
    silence(world, True)
    world.run(seconds=70, tick=5)
    assert "silenced" in world.incident().waiting_for


def silence(world: Any, on: bool) -> None:
    """As people do at Alertmanager."""
    alerts = [alert.id for alert in world.alerts_of(world.incident())]
    world.context.store.write(lambda connection: statements.set_suppressed(connection, alerts, on))


WAITS: dict[str, tuple[dict[str, Any], Callable[[Any], None]]] = {
    "cooldown": ({"guardrails": {"cooldown": 3600}}, cooling_down),
    "approval": ({"mode": "approval"}, asking),
    "pause": ({}, paused),
    "pause of a retry": ({"plans": {"service_failure": ["retry"]}}, paused),
    "silence": ({"guardrails": {"cooldown": 3600}}, silenced),
}


@pytest.mark.parametrize("after", [5, LEVEL - 30])
@pytest.mark.parametrize("wait", WAITS)
def test_what_heals_by_itself_while_it_waits_is_over_and_nobody_is_called(
    make_world: Callable[..., Any], wait: str, after: float
) -> None:
    """Soon or just before level 1 would be called: resolved as recovered, and nothing was done about it."""
    changes, begin = WAITS[wait]
    world = make_world(**changes)
    begin(world)
    before = len(world.target.restarts)
    world.run(seconds=max(0.0, world.incident().opened_at + after - world.clock.now), tick=5)
    world.healthy()
    world.run(seconds=70, tick=5)
    assert (world.incident().state, world.incident().outcome) == (State.RESOLVED, "recovered")
    silence(world, False)
    alerts_end(world)
    world.run(seconds=4 * LEVEL, tick=5)
    assert (world.incident().state, world.incident().outcome) == (State.CLOSED, "recovered")
    assert world.calls == []
    assert len(world.target.restarts) == before


def test_an_approval_is_withdrawn_when_it_is_needed_no_more(make_world: Callable[..., Any]) -> None:
    """Who was called for it hears the end, and the link that would restart a healthy service is void."""
    world = make_world(mode="approval", external_url="https://shf.example.com")
    asking(world)
    world.run(seconds=LEVEL, tick=5)
    assert [call.level for call in world.calls] == [1]
    link = approval_links(world.context, world.incident().id, "on-call")["approve"]
    world.healthy()
    world.run(seconds=70, tick=5)
    assert [call.reason for call in world.ends] == ["Recovered, and proved"]
    with pytest.raises(DecisionRefused, match="void"):
        answer(world.context, link.rpartition("/")[2])
    assert world.restarts() == {}


def test_until_when_a_person_may_answer_is_told(make_world: Callable[..., Any]) -> None:
    """Also after looks at whether it heals meanwhile: the deadline is not that of the next look."""
    world = make_world(mode="approval")
    asking(world)
    asked_at = world.clock.now - 5
    world.run(seconds=100, tick=5)
    told = tell(story(world.fabric, world.incident().id)).prospects
    assert [each.at for each in told if "nobody answers" in each.text] == [asked_at + 5 * LEVEL]


def prospects(world: Any) -> list[str]:
    """What people are told comes next."""
    return [each.text for each in tell(story(world.fabric, world.incident().id)).prospects]


@pytest.mark.parametrize("paused", [True, False])
def test_what_has_begun_is_told_so_also_to_who_pauses_it(world: Any, paused: bool) -> None:
    """Whoever presses the kill switch must not read that nothing is done while the restart is under way."""
    told: list[str] = []

    def meanwhile() -> None:
        if paused:
            change = mode.change
            world.context.store.write(lambda connection: change(connection, Mode.PAUSED, by="a", now=1.0))
        told.extend(prospects(world))

    world.target.on_restart = meanwhile
    fails(world)
    world.run()
    assert "restart has begun, and is not called back any more." in told
    pause = "Paused: nothing more is begun before somebody lifts that; it is only watched."
    assert [each for each in told if "aused" in each] == ([pause] if paused else [])
    assert not any("is tried" in each for each in told)


def test_who_is_asked_in_a_dry_run_reads_that_nothing_will_be_done(make_world: Callable[..., Any]) -> None:
    """The mode became one while the question waited: a yes does nothing."""
    world = make_world(mode="approval")
    asking(world)
    change = mode.change
    world.context.store.write(lambda connection: change(connection, Mode.DRY_RUN, by="a", now=1.0))
    told = "Dry run: nothing is done, whoever allows it; people are told what would be."
    assert told in prospects(world)


def test_whoever_is_called_while_it_waits_can_answer(make_world: Callable[..., Any]) -> None:
    """The last level too: it is asked, so the link that it was sent must not be void a moment later."""
    world = make_world(mode="approval", external_url="https://shf.example.com")
    asking(world)
    for level in range(1, 5):
        world.run(seconds=LEVEL, tick=5)
        assert (world.incident().state, world.incident().level) == (State.AWAITING_APPROVAL, level)
    link = approval_links(world.context, world.incident().id, "human")["approve"]
    world.run(seconds=LEVEL - 20, tick=5)
    answer(world.context, link.rpartition("/")[2])
    world.run(seconds=5)
    assert world.restarts() == {"cart": 1}


def test_a_question_that_lapses_says_so(make_world: Callable[..., Any]) -> None:
    """When all have had their time; nobody is called over again for it."""
    world = make_world(mode="approval")
    asking(world)
    world.run(seconds=5 * LEVEL, tick=5)
    assert world.incident().state is State.ESCALATED
    assert [call.level for call in world.calls] == [1, 2, 3, 4]
    assert sum("Nobody has approved it in time" in line for line in world.story()) == 1


def flaps(world: Any) -> None:
    """Never inside its limit for a whole stability window."""
    for _ in range(20):
        world.healthy()
        world.run(seconds=3, tick=1)
        world.silent()
        world.run(seconds=3, tick=1)


def prometheus_fails(world: Any) -> None:
    """It is well by now, and Prometheus does not say so."""
    world.prometheus.away = "connection refused"
    world.healthy()
    world.run(seconds=120, tick=5)


@pytest.mark.parametrize("meanwhile", [flaps, prometheus_fails])
def test_without_proof_an_approval_goes_on_being_asked(
    make_world: Callable[..., Any], meanwhile: Callable[[Any], None]
) -> None:
    """Doubt withdraws nothing: the same question waits for its answer until its own deadline."""
    world = make_world(mode="approval")
    asking(world)
    began = world.clock.now
    meanwhile(world)
    world.silent()
    assert world.incident().state is State.AWAITING_APPROVAL
    assert len([line for line in world.story() if "Asks for approval" in line]) == 1
    world.prometheus.away = None
    world.run(seconds=began + 5 * LEVEL - 20 - world.clock.now, tick=5)
    assert world.incident().state is State.AWAITING_APPROVAL
    world.run(seconds=30, tick=5)
    assert world.incident().state is State.ESCALATED


def test_an_hour_of_waiting_is_a_look_a_minute(make_world: Callable[..., Any]) -> None:
    """Thousands may be asked for at once: the longer one waits, the fewer looks."""
    world = make_world(
        mode="approval", escalation={"levels": [{"name": f"{n}", "deadline": 7200} for n in range(5)]}
    )
    asking(world)
    world.run(seconds=600, tick=5)
    asked = len(world.prometheus.queries)
    world.run(seconds=3600, tick=5)
    assert world.incident().state is State.AWAITING_APPROVAL
    assert len(world.prometheus.queries) - asked < 200
