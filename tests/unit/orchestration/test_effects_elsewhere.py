"""An incident moves to its cause, or is merged into that of its cause: what it did is undone where it did it.

Counted at the targets: the service that was changed is put back, and no other one.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from test_sync_healing import RUNNING, WANTED, Configured

from killed import killed_at
from self_healing_fabric.api.incidents import story
from self_healing_fabric.guardrails import mode
from self_healing_fabric.incidents.lifecycle import State
from self_healing_fabric.orchestration.decisions import DECISIONS, decide
from self_healing_fabric.recovery.platforms.http import HttpScale
from self_healing_fabric.recovery.strategies.sync import Synchronization
from self_healing_fabric.settings import Mode
from self_healing_fabric.store import statements
from shf_queries.catalogue import CPU, ERROR_RATIO

T0, T1 = "2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z"


@pytest.fixture
def shop(make_world: Callable[..., Any]) -> Any:
    """`cart` depends on `db`; both can be scaled, and `cart` fails requests until `db` was restarted."""
    plans = {"degradation": ["scale"], "service_failure": ["restart"]}
    world = make_world({"cart": ["db"], "db": []}, plans=plans, guardrails={"cooldown": 0})
    world.close()
    for name, target in world.targets.items():
        recovery = world.values["services"][name]["recovery"]
        recovery["http"]["scale"] = target.replicas_url
        recovery["scale"] = {"max": 3, "calm": 400}
    world.open()
    world.targets["db"].replicas = 3  # as many as a scale of `cart` leaves there
    world.measure(ERROR_RATIO, 0.1)
    world.measure(CPU, 0.5)
    world.targets["db"].on_restart = lambda: (world.healthy("db"), world.measure(ERROR_RATIO, 0.0))
    return world


def symptom(world: Any, **changes: Any) -> None:
    """The alert of `cart` arrives."""
    world.receive(world.alert(signal="error_ratio", starts_at=T0, **changes))


def cause(world: Any, **changes: Any) -> None:
    """The alert of `db` arrives."""
    world.receive(world.alert(service="db", starts_at=T1, **changes))


def moved(world: Any) -> None:
    """`cart` is scaled in vain and people are called, then `db` falls silent and is suspected."""
    symptom(world)
    world.run(seconds=75)
    assert (world.incident().service, world.incident().state) == ("cart", State.ESCALATED)
    world.silent("db")
    cause(world)
    world.run()
    assert world.incident().service == "db"


def merged(world: Any) -> None:
    """`cart` is scaled, and before it is known that this is in vain `db` has an incident of its own."""
    symptom(world)
    world.run(seconds=10)
    world.silent("db")
    world.targets["db"].answer = 403  # nobody can restart it
    cause(world)
    world.run(seconds=120)
    assert [each.merged_into for each in world.incidents(merged=True)] == [world.incident_of("db").id, None]
    world.healthy("db")
    world.measure(ERROR_RATIO, 0.0)


both = pytest.mark.parametrize("joins", [moved, merged])


def all_end(world: Any) -> None:
    """Prometheus has seen that all is well."""
    world.run(seconds=30)
    cause(world, status="resolved")
    symptom(world, status="resolved")


def change_mode(world: Any, new: Mode, service: str | None = None) -> None:
    """A person sets the mode of everything, or of a service."""
    world.context.store.write(lambda c: mode.change(c, new, by="ada", now=world.clock.now, service=service))


def scalings(world: Any) -> dict[str, list[int]]:
    return {name: target.scalings for name, target in world.targets.items()}


@both
def test_a_service_is_scaled_back_when_its_cause_has_healed(shop: Any, joins: Callable[[Any], None]) -> None:
    """The symptom gives its replica back after the calm, once; the cause keeps all that it has."""
    joins(shop)
    all_end(shop)
    shop.run(seconds=340, tick=5)
    assert scalings(shop) == {"cart": [3], "db": []}  # not before the calm
    shop.run(seconds=700, tick=5)
    assert scalings(shop) == {"cart": [3, 2], "db": []}
    assert shop.incident().state is State.CLOSED


@both
@pytest.mark.parametrize("sent", [True, False])
def test_killed_while_scaling_back_there_is_one_order(
    shop: Any, joins: Callable[[Any], None], sent: bool
) -> None:
    """Killed before or after the order to the symptom: the target tells, and none goes to the cause."""
    joins(shop)
    all_end(shop)
    with killed_at(HttpScale, done=sent):
        shop.run(seconds=1000, tick=5)
    shop.crash()
    shop.run(seconds=500, tick=5)
    assert scalings(shop) == {"cart": [3, 2], "db": []}
    assert shop.incident().state is State.CLOSED


@both
def test_what_fails_again_when_scaled_back_gets_an_incident_of_its_own(
    shop: Any, joins: Callable[[Any], None]
) -> None:
    """The symptom needs its replica after all: it is scaled again, and its cause stays resolved."""
    joins(shop)
    all_end(shop)
    cart = shop.targets["cart"]
    cart.on_scale = lambda: shop.measure(ERROR_RATIO, 0.0 if cart.replicas > 2 else 0.1)
    shop.run(seconds=600, tick=5)
    assert scalings(shop) == {"cart": [3, 2, 3], "db": []}
    assert (shop.incident_of("db").state, shop.incident_of("db").relapses) == (State.RESOLVED, 0)
    assert shop.incident_of("cart").outcome == "healed"


@both
def test_a_symptom_that_is_split_off_takes_its_replica_back_itself(
    shop: Any, joins: Callable[[Any], None]
) -> None:
    """Its alert outlives the relapse window of the cause: once it is calm, its own incident scales back."""
    joins(shop)
    shop.run(seconds=30)
    cause(shop, status="resolved")
    shop.run(seconds=330, tick=5)
    assert shop.incident_of("db").state is State.CLOSED
    assert scalings(shop) == {"cart": [3], "db": []}
    symptom(shop, status="resolved")
    shop.run(seconds=800, tick=5)
    assert scalings(shop) == {"cart": [3, 2], "db": []}
    assert shop.incident_of("cart").state is State.CLOSED


@both
def test_the_mode_of_the_service_that_is_scaled_back_counts(shop: Any, joins: Callable[[Any], None]) -> None:
    """A person must allow what is done to the symptom, and nothing else: asked for, and done when allowed."""
    joins(shop)
    all_end(shop)
    change_mode(shop, Mode.APPROVAL, service="cart")
    shop.run(seconds=450, tick=5)
    assert scalings(shop) == {"cart": [3], "db": []}
    assert any("Asks for approval to undo cart" in line for line in shop.story())
    decide(shop.context, shop.incident().id, DECISIONS["approve"], by="ada")
    shop.run(seconds=10)
    assert scalings(shop) == {"cart": [3, 2], "db": []}


@pytest.mark.parametrize("why", ["refused", "changed by somebody"])
def test_one_scaling_that_is_left_to_people_keeps_no_other(shop: Any, why: str) -> None:
    """Both were scaled, and the one that is taken back first cannot be: the other is, and nobody is called
    twice."""
    shop.targets["db"].replicas = 2
    symptom(shop)
    shop.run(seconds=75)
    shop.measure(ERROR_RATIO, 0.1, "db")
    shop.targets["db"].on_scale = lambda: [shop.measure(ERROR_RATIO, 0.0, each) for each in ("cart", "db")]
    cause(shop, signal="error_ratio")
    shop.run(seconds=30)
    assert scalings(shop) == {"cart": [3], "db": [3]}
    if why == "refused":
        shop.targets["db"].scale_answer = 403
    else:
        shop.targets["db"].replicas = 5
    cause(shop, signal="error_ratio", status="resolved")
    symptom(shop, status="resolved")
    shop.calls.clear()
    shop.run(seconds=1500, tick=5)
    assert scalings(shop) == {"cart": [3, 2], "db": [3]}
    assert len(shop.calls) == (why == "refused")
    assert shop.incident().state is State.CLOSED


def test_an_action_says_whose_target_it_was(shop: Any) -> None:
    """Also the one that takes back: in the answer of the API, not that of the incident."""
    moved(shop)
    all_end(shop)
    shop.run(seconds=1000, tick=5)
    actions = story(shop.fabric, shop.incident().id)["actions"]
    assert [(each["strategy"], each["service"]) for each in actions] == [
        ("scale", "cart"),
        ("restart", "db"),
        ("undo", "cart"),
    ]


def test_an_action_without_a_service_is_never_undone_on_another_target(shop: Any) -> None:
    """A replica of the version before wrote it, and the incident moved: nothing is scaled."""
    moved(shop)
    shop.context.store.write(lambda c: statements.update_action(c, shop.actions()[0].id, {"service": None}))
    all_end(shop)
    shop.run(seconds=1000, tick=5)
    assert scalings(shop) == {"cart": [3], "db": []}
    assert shop.incident().state is State.CLOSED


def test_closed_by_a_person_it_says_what_stays(shop: Any) -> None:
    """Nothing is scaled back after a person's end, and the timeline names what is left to people."""
    symptom(shop)
    shop.run(seconds=75)
    decide(shop.context, shop.incident().id, DECISIONS["close"], by="ada")
    shop.measure(ERROR_RATIO, 0.0)
    symptom(shop, status="resolved")
    shop.run(seconds=1000, tick=5)
    assert scalings(shop) == {"cart": [3], "db": []}
    (told,) = [line for line in shop.story() if "Stays in force" in line]
    assert "scale" in told
    assert "/cart/" in told


@pytest.fixture
def configured(shop: Any, httpserver: HTTPServer, tmp_path: Path) -> Callable[[bool], Configured]:
    """`cart` has a configuration; to write it does not help."""

    def make(restart: bool) -> Configured:
        made = Configured(shop, httpserver, tmp_path / "cart.yaml", restart=restart)
        made.heals = False
        shop.measure(ERROR_RATIO, 0.0)
        return made

    return make


@pytest.mark.parametrize("restart", [False, True])
def test_a_configuration_that_did_not_help_is_put_back_before_the_merge(
    shop: Any, configured: Callable[[bool], Configured], restart: bool
) -> None:
    """The cause has an incident by then: the previous bytes are back, once, and nobody is called for it."""
    shop.values["plans"]["cluster_drift"] = ["sync", "scale"]
    made = configured(restart)
    world = made.world
    made.drift()
    world.run(10)
    world.silent("db")
    world.targets["db"].answer = 403
    cause(world)
    world.run(200)
    assert made.puts == [WANTED, RUNNING]
    assert made.order == ["put", "restart", "put", "restart"] if restart else ["put", "put"]
    assert (world.incident().service, world.target.scalings) == ("db", [])
    assert {call.service for call in world.calls} == {"db"}


def test_what_is_to_be_put_back_is_not_forgotten_when_the_cause_alerts(
    configured: Callable[[bool], Configured],
) -> None:
    """Paused before the undo, and the cause's alert comes meanwhile: put back when it is not paused."""
    made = configured(False)
    world = made.world
    made.drift()
    world.run(10)
    change_mode(world, Mode.PAUSED)
    world.run(60)
    assert world.incident().plan[:1] == ("undo",)
    world.silent("db")
    world.targets["db"].answer = 403
    cause(world)
    world.run(1)
    change_mode(world, Mode.AUTOMATIC)
    world.run(10)
    assert made.puts == [WANTED, RUNNING]
    assert world.incident().service == "db"


def test_a_configuration_gets_its_restart_when_the_cause_alerts_meanwhile(
    configured: Callable[[bool], Configured], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paused between the two, and the cause's alert comes: the restart that completes it goes first."""
    made = configured(True)
    world = made.world
    perform = Synchronization.perform

    def and_pause(effect: Synchronization, **options: Any) -> Any:
        outcome = perform(effect, **options)
        change_mode(world, Mode.PAUSED)
        return outcome

    monkeypatch.setattr(Synchronization, "perform", and_pause)
    made.drift()
    world.run(5)
    world.silent("db")
    cause(world)
    world.run(1)
    assert made.order == ["put"]
    change_mode(world, Mode.AUTOMATIC)
    world.run(5)
    assert made.order == ["put", "restart"]


def test_a_restart_that_failed_after_a_write_lets_none_of_the_cause_through(
    configured: Callable[[bool], Configured],
) -> None:
    """It completes what was written to the symptom, not to the cause: that one is asked, and is well."""
    made = configured(True)
    world = made.world
    world.target.answer = 403
    made.drift()
    world.run(60)
    assert world.incident().state is State.ESCALATED
    world.measure(ERROR_RATIO, 0.0, "db")
    change_mode(world, Mode.PAUSED)
    world.silent("db")
    cause(world)
    world.run(5)
    assert (world.incident().service, world.incident().plan) == ("db", ("restart",))
    world.healthy("db")
    world.run(10)
    change_mode(world, Mode.AUTOMATIC)
    world.run(10)
    assert world.restarts() == {}
