"""What guardrails and modes do to incidents: counted at the target, told in the timeline, called once."""

from collections.abc import Callable
from typing import Any

import pytest

from self_healing_fabric.guardrails import mode
from self_healing_fabric.incidents.lifecycle import State
from self_healing_fabric.orchestration.decisions import DECISIONS, decide
from self_healing_fabric.recovery.platforms.http import HttpRestart
from self_healing_fabric.settings import Mode
from self_healing_fabric.store import statements
from shf_queries.catalogue import ERROR_RATIO, HEARTBEAT, answering_targets_of

SERVICES = [f"s{number}" for number in range(12)]


def set_mode(world: Any, value: Mode | None, **scope: str) -> None:
    """As a person would."""
    now = world.clock.now
    world.context.store.write(lambda connection: mode.change(connection, value, by="ada", now=now, **scope))


def break_all(world: Any, names: list[str]) -> None:
    """They all fall silent and alert."""
    for name in names:
        world.silent(name)
        world.targets[name].on_restart = lambda name=name: world.healthy(name)
    world.receive(*(world.alert(service=name) for name in names))


def test_in_a_storm_nothing_is_done_and_people_are_called_once(make_world: Callable[..., Any]) -> None:
    """Eight of twelve fail: no restart for ten minutes; when the storm is over the rest is healed."""
    world = make_world({name: [] for name in SERVICES})
    began = f"{world.clock.now:.0f}"
    break_all(world, SERVICES[:8])
    world.run(seconds=120, tick=5)
    assert world.restarts() == {}
    assert len(world.calls) == 1
    assert "services fail at once" in world.calls[0].reason
    for name in SERVICES[:6]:
        world.healthy(name)  # most come back by themselves
        world.receive(world.alert(service=name, starts_at=began, status="resolved"))
    world.run(seconds=800, tick=5)
    assert sorted(world.restarts()) == ["s6", "s7"]


def test_a_quarter_is_restarted_at_a_time(make_world: Callable[..., Any]) -> None:
    """Five fail, which is no storm: all are healed, and never more than three at once."""
    world = make_world({name: [] for name in SERVICES})
    break_all(world, SERVICES[:5])
    world.run(seconds=120)
    assert world.restarts() == dict.fromkeys(SERVICES[:5], 1)


@pytest.mark.parametrize("scope", [{"service": "cart"}, {"strategy": "restart"}])
def test_a_pause_of_one_holds_only_that(make_world: Callable[..., Any], scope: dict[str, str]) -> None:
    """The incident waits, and goes on at once when the pause is taken back."""
    world = make_world()
    world.silent()
    world.target.on_restart = world.healthy
    set_mode(world, Mode.PAUSED, **scope)
    world.receive(world.alert())
    world.run(seconds=60)
    assert world.restarts() == {}
    assert "paused" in str(world.incident().waiting_for)
    set_mode(world, None, **scope)
    world.run(seconds=30)
    assert world.restarts() == {"cart": 1}


@pytest.mark.parametrize("moment", ["snapshot", "perform"])
@pytest.mark.parametrize(
    ("value", "then"), [(Mode.APPROVAL, State.AWAITING_APPROVAL), (Mode.DRY_RUN, State.ESCALATED)]
)
def test_a_stricter_mode_holds_for_what_is_being_begun(
    make_world: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, value: Mode, then: State, moment: str
) -> None:
    """Set while the target is read, or right before the order: nobody is surprised by one more restart."""
    world, step = make_world(), getattr(HttpRestart, moment)

    def set_meanwhile(*arguments: Any, **options: Any) -> Any:
        set_mode(world, value)
        return step(*arguments, **options)

    monkeypatch.setattr(HttpRestart, moment, set_meanwhile)
    world.silent()
    world.receive(world.alert())
    world.run(seconds=30)
    assert world.restarts() == {}
    assert world.incident().state is then


@pytest.mark.parametrize("scope", [{}, {"service": "cart"}, {"strategy": "restart"}])
def test_who_lifts_approval_need_not_answer_what_was_asked(
    make_world: Callable[..., Any], scope: dict[str, str]
) -> None:
    """Automatic again: the service is restarted, and nobody is called for an answer that nobody needs."""
    world = make_world()
    world.silent()
    world.target.on_restart = world.healthy
    set_mode(world, Mode.APPROVAL, **scope)
    world.receive(world.alert())
    world.run(seconds=60)
    assert (world.incident().state, world.restarts()) == (State.AWAITING_APPROVAL, {})
    set_mode(world, Mode.AUTOMATIC, **scope)
    world.run(seconds=60)
    assert (world.incident().state, world.restarts()) == (State.RESOLVED, {"cart": 1})
    assert world.calls == []


def test_a_pause_of_another_service_does_not_matter(make_world: Callable[..., Any]) -> None:
    """`db` is paused, `cart` is healed."""
    world = make_world({"cart": [], "db": []})
    set_mode(world, Mode.PAUSED, service="db")
    break_all(world, ["cart", "db"])
    world.run(seconds=30)
    assert world.restarts() == {"cart": 1}


def test_a_service_may_be_stricter_in_the_configuration(make_world: Callable[..., Any]) -> None:
    """One service asks first, the others are healed."""
    world = make_world({"cart": [], "db": []})
    world.close()
    services = world.values["services"]
    world.values["services"] = {**services, "db": {**services["db"], "mode": "approval"}}
    world.open()
    break_all(world, ["cart", "db"])
    world.run(seconds=30)
    assert world.restarts() == {"cart": 1}
    assert world.incident_of("db").state is State.AWAITING_APPROVAL


@pytest.mark.parametrize("refusing", [False, True])
def test_a_dry_run_says_what_would_have_been_done_or_refused(
    make_world: Callable[..., Any], refusing: bool
) -> None:
    """Everything but the effect: the target was looked at, the guardrails were asked, nothing was written."""
    world = make_world(mode="dry_run", guardrails={"max_actions": 0 if refusing else 3})
    world.silent()
    world.receive(world.alert())
    world.run(seconds=10)
    assert world.restarts() == {}
    assert world.actions() == []
    (told,) = [line for line in world.story() if "Dry run" in line]
    assert ("max_actions would refuse" in told) is refusing
    assert ("would restart http:" in told) is not refusing


def test_who_is_called_for_a_used_budget_reads_the_plain_address(make_world: Callable[..., Any]) -> None:
    """The key by which it is counted names the platform before the URL, which nobody can open."""
    world = make_world(guardrails={"max_actions": 0})
    world.silent()
    world.receive(world.alert())
    world.run(seconds=10)
    assert f"0 of 0 actions on {world.target.restart_url} were used" in world.calls[0].reason


@pytest.mark.parametrize(("answering", "restarts"), [(1.0, 0), (2.0, 1), (None, 0)])
def test_so_many_must_answer(make_world: Callable[..., Any], answering: float | None, restarts: int) -> None:
    """One of its two targets, or nobody knows how many: people are called."""
    world = make_world(guardrails={"min_healthy": 2})
    world.measure(HEARTBEAT, 0.5)
    if answering is not None:
        world.prometheus.set(answering_targets_of("cart"), answering)
    world.receive(world.alert())
    world.run(seconds=10)
    assert len(world.target.restarts) == restarts
    assert (world.incident().state is State.ESCALATED) is (restarts == 0)


def test_a_deployment_defers_and_is_over(make_world: Callable[..., Any]) -> None:
    """Nothing while the query says 1; healed when it says 0."""
    world = make_world(guardrails={"deploying": "rollouts"})
    world.silent()
    world.target.on_restart = world.healthy
    world.prometheus.set("rollouts", 1.0)
    world.receive(world.alert())
    world.run(seconds=60)
    assert world.restarts() == {}
    world.prometheus.set("rollouts", 0.0)
    world.run(seconds=40)
    assert world.restarts() == {"cart": 1}


def test_what_did_not_heal_is_skipped_for_the_next_strategy(make_world: Callable[..., Any]) -> None:
    """The restart has failed three times on this target: the plan goes on without it."""
    world = make_world(plans={"service_failure": ["restart", "retry"]}, guardrails={"cooldown": 0})
    world.silent()
    world.receive(world.alert(service="a-stranger"))
    world.run(seconds=1)
    values = {
        "incident_id": world.incident_of("a-stranger").id, "strategy": "restart", "platform": "http",
        "target": f"http:{world.target.restart_url}", "disruptive": True, "attempt": 1, "before": {},
        "status": "succeeded", "verdict": "not_healed",
    }  # fmt: skip

    def write(connection: Any) -> None:
        for number in range(3):
            at = world.clock.now - 7200 - number
            statements.insert_action(connection, {**values, "id": f"a{number}", "intended_at": at})

    world.context.store.write(write)
    world.receive(world.alert())
    world.run(seconds=10)
    assert world.restarts() == {}
    assert world.target.probes > 0
    incident = world.incident_of("cart")
    assert any("max_failures refuses" in line for line in world.story(incident))


def test_what_is_asked_for_is_possible(make_world: Callable[..., Any]) -> None:
    """It has all the replicas that it may have: people are asked for the restart, and it is done once."""
    world = make_world(mode="approval", plans={"degradation": ["scale", "restart"]})
    world.close()
    cart = world.values["services"]["cart"]
    http = {**cart["recovery"]["http"], "scale": world.target.replicas_url}
    world.values["services"] = {"cart": {**cart, "recovery": {"http": http, "scale": {"max": 2}}}}
    world.open()
    world.measure(ERROR_RATIO, 0.1)
    world.target.on_restart = lambda: world.measure(ERROR_RATIO, 0.0)
    world.receive(world.alert(signal="error_ratio"))
    world.run(seconds=10)
    assert world.incident().state is State.AWAITING_APPROVAL
    asked = [line for line in world.story() if "Asks for approval" in line]
    assert len(asked) == 1
    assert f"restart cart: {world.target.restart_url}" in asked[0]
    decide(world.context, world.incident().id, DECISIONS["approve"], by="ada")
    world.run(seconds=30)
    assert (world.target.scalings, len(world.target.restarts)) == ([], 1)


@pytest.mark.parametrize("refusing", [{"max_actions": 0}, {"min_healthy": 1}], ids=["budget", "measured"])
def test_nobody_is_asked_to_allow_what_a_guardrail_refuses_for_good(
    make_world: Callable[..., Any], refusing: dict[str, Any]
) -> None:
    """People are called at once, instead of an answer awaited that could change nothing."""
    world = make_world(mode="approval", guardrails=refusing)
    world.silent()
    world.receive(world.alert())
    world.run(seconds=10)
    incident = world.incident()
    assert (incident.state, incident.level) == (State.ESCALATED, 1)
    assert not any("Asks for approval" in line for line in world.story())
    assert any(f"{next(iter(refusing))} refuses" in line for line in world.story())


def test_what_a_guardrail_makes_wait_is_asked_for_meanwhile(make_world: Callable[..., Any]) -> None:
    """A deployment is under way: the answer is there when it is over, and then it is done once."""
    world = make_world(mode="approval", guardrails={"deploying": "rollouts"})
    world.prometheus.set("rollouts", 1.0)
    world.silent()
    world.target.on_restart = world.healthy
    world.receive(world.alert())
    world.run(seconds=10)
    assert world.incident().state is State.AWAITING_APPROVAL
    decide(world.context, world.incident().id, DECISIONS["approve"], by="ada")
    world.run(seconds=10)
    assert world.restarts() == {}
    world.prometheus.set("rollouts", 0.0)
    world.run(seconds=40)
    assert world.restarts() == {"cart": 1}
