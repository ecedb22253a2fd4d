"""Services that fail together: the cause is healed, once; its symptoms are left alone until they prove none.

All effects are counted at real HTTP targets, one for each service.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from self_healing_fabric.guardrails import mode
from self_healing_fabric.incidents.lifecycle import State
from self_healing_fabric.orchestration.decisions import DECISIONS, decide, split_off
from self_healing_fabric.orchestration.reconciliation import Reconciliation
from self_healing_fabric.settings import Mode
from self_healing_fabric.store import statements
from shf_demo.ports import free_ports
from shf_queries.catalogue import ERROR_RATIO, HEARTBEAT, LATENCY_P95, Signal


@pytest.fixture
def shop(make_world: Callable[..., Any]) -> Any:
    """`cart` depends on `db`: `db` has fallen silent, so `cart` fails its requests until `db` is back."""
    world = make_world({"cart": ["db"], "db": []})
    world.silent("db")
    world.measure(ERROR_RATIO, 0.9)

    def back() -> None:
        world.healthy("db")
        world.measure(ERROR_RATIO, 0.0)

    world.targets["db"].on_restart = back
    return world


def symptom(world: Any, **changes: Any) -> Any:
    """The alert of `cart`."""
    return world.alert(signal="error_ratio", **changes)


def cause(world: Any, **changes: Any) -> Any:
    """The alert of `db`."""
    return world.alert(service="db", **changes)


def change_mode(world: Any, new: Mode) -> None:
    """A person sets the mode."""
    change = mode.change
    world.context.store.write(lambda connection: change(connection, new, by="ada", now=world.clock.now))


def test_symptom_joins_its_cause_and_is_not_healed_by_itself(shop: Any) -> None:
    """Both alert, the cause first: one incident, one restart of the cause, none of the symptom."""
    shop.receive(cause(shop))
    shop.orchestrator.take_in()
    shop.receive(symptom(shop))
    shop.run(seconds=30)
    incident = shop.incident()
    assert (incident.service, incident.state, incident.outcome) == ("db", State.RESOLVED, "healed")
    assert [alert.service for alert in shop.alerts_of(incident)] == ["db", "cart"]
    assert any("cart depends on db and is taken for a symptom" in line for line in shop.story())
    assert shop.restarts() == {"db": 1}
    assert shop.calls == []


def test_cause_that_alerts_after_its_symptom_is_healed_once(shop: Any) -> None:
    """The symptom's diagnosis names the cause: nothing is done until that one alerts, then it is healed."""
    shop.receive(symptom(shop))
    shop.run(seconds=30)
    assert shop.restarts() == {}
    opened = shop.incident()
    assert (opened.service, opened.state) == ("db", State.DIAGNOSING)
    shop.receive(cause(shop))
    shop.run(seconds=30)
    incident = shop.incident()
    assert (incident.id, incident.service, incident.outcome) == (opened.id, "db", "healed")
    assert shop.restarts() == {"db": 1}
    assert shop.calls == []


@pytest.mark.parametrize(("signal", "good", "bad"), [(HEARTBEAT, 1.0, 0.0), (ERROR_RATIO, 0.0, 0.9)])
def test_symptom_that_alerts_at_once_waits_for_a_cause_whose_window_is_not_full(
    shop: Any, signal: Signal, good: float, bad: float
) -> None:
    """`db` fails by its newest samples, and alerts later: only `db` is restarted, and nobody is called."""
    back = shop.targets["db"].on_restart
    shop.targets["db"].on_restart = lambda: (back(), shop.measure(signal, good, "db"))
    shop.healthy("db")
    shop.set(signal.fresh_series, bad, "db")
    shop.receive(symptom(shop))
    shop.run(seconds=20)
    assert (shop.restarts(), shop.calls) == ({}, [])
    shop.measure(signal, bad, "db")
    shop.receive(cause(shop, signal=signal.name))
    shop.run(seconds=30)
    assert (shop.incident().service, shop.incident().outcome) == ("db", "healed")
    assert (shop.restarts(), shop.calls) == ({"db": 1}, [])


def test_cause_whose_process_is_gone_is_told_by_what_it_does_to_its_callers(shop: Any) -> None:
    """Its own alert or its callers': the same pattern. A refused connection says that no network is cut."""
    (port,) = free_ports(1)
    shop.values["services"]["db"]["health"] = f"http://127.0.0.1:{port}/health"
    shop.crash()
    shop.receive(cause(shop))
    shop.run()
    assert shop.incident().service == "db"
    told = shop.incident().diagnosis["cause"]
    assert (told["pattern"], told["service"]) == ("dependency_failure", "db")
    assert any("Connection refused" in evidence["statement"] for evidence in told["evidence"])
    assert any("cart: error_ratio" in evidence["statement"] for evidence in told["evidence"])


def test_alert_that_is_waited_for_is_taken_up_at_once(shop: Any) -> None:
    """The wait for the cause's alert ends with that alert, not with the next look."""
    shop.receive(symptom(shop))
    shop.run()
    shop.receive(cause(shop))
    shop.run()
    assert shop.restarts() == {"db": 1}


def test_suspect_that_never_alerts_goes_to_people(shop: Any) -> None:
    """After the wait for its alert people are called; neither is restarted, however long it takes."""
    shop.receive(symptom(shop))
    shop.run(seconds=55)
    assert shop.calls == []
    shop.run(seconds=10)
    assert shop.incident().state is State.ESCALATED
    assert [(call.service, call.level) for call in shop.calls] == [("db", 1)]
    assert "does not alert" in shop.calls[0].reason
    assert shop.incident().title == "db fails, on which cart depends"
    shop.run(seconds=200, tick=2)
    assert shop.restarts() == {}


@pytest.fixture
def suspected(make_world: Callable[..., Any]) -> Any:
    """`db` answers and fails its requests, without an alert; `cart` alerts, and `db` is suspected."""
    world = make_world({"cart": ["db"], "db": []})
    world.measure(ERROR_RATIO, 0.9)
    world.measure(ERROR_RATIO, 0.9, "db")
    world.receive(symptom(world, starts_at="2026-01-01T00:00:00Z"))
    world.run(seconds=5)
    assert (world.incident().service, world.incident().state) == ("db", State.DIAGNOSING)
    return world


def decided(world: Any, *names: str) -> None:
    """Ada carries out these decisions on the incident of `db`."""
    for name in names:
        decide(world.context, world.incident_of("db").id, DECISIONS[name], by="ada")


@pytest.mark.parametrize("decisions", [(), ("escalate",), ("acknowledge", "escalate")])
def test_suspect_is_not_healed_while_that_lasts_for_which_it_is_suspected(
    suspected: Any, decisions: tuple[str, ...]
) -> None:
    """It answers all the while: nobody is told that it is over, also when its caller's alert has ended."""
    decided(suspected, *decisions)
    suspected.run(seconds=100)
    suspected.receive(symptom(suspected, starts_at="2026-01-01T00:00:00Z", status="resolved"))
    suspected.run(seconds=100, tick=2)
    assert [(each.service, each.state) for each in suspected.incidents()] == [("db", State.ESCALATED)]
    assert suspected.ends == []
    suspected.measure(ERROR_RATIO, 0.0, "db")
    suspected.run(seconds=60)
    assert (suspected.incident().state, suspected.incident().outcome) == (State.RESOLVED, "recovered")
    assert len(suspected.ends) == 1


@pytest.mark.parametrize("called_before", [0, 1])
def test_whoever_silences_the_symptom_of_a_suspect_is_not_called(suspected: Any, called_before: int) -> None:
    """All that fires is silenced: no level is called before that ends."""
    suspected.run(seconds=100 * called_before)
    assert len(suspected.calls) == called_before
    alerts = [row.id for row in suspected.alerts_of(suspected.incident())]
    suspected.context.store.write(lambda each: statements.set_suppressed(each, alerts, True))
    suspected.run(seconds=3600, tick=5)
    assert len(suspected.calls) == called_before
    suspected.context.store.write(lambda each: statements.set_suppressed(each, alerts, False))
    suspected.run(seconds=100, tick=5)
    assert len(suspected.calls) > called_before


def test_suspect_that_could_not_be_asked_about_is_still_watched(suspected: Any) -> None:
    """Prometheus was away for so long that people were called: what it is suspected for is not forgotten."""
    suspected.prometheus.away = "Prometheus does not answer"
    suspected.run(seconds=400, tick=2)
    assert suspected.calls
    suspected.prometheus.away = None
    suspected.run(seconds=100)
    assert (suspected.incident().state, suspected.ends) == (State.ESCALATED, [])
    suspected.measure(ERROR_RATIO, 0.0, "db")
    suspected.run(seconds=30)
    assert suspected.incident_of("db").outcome == "recovered"


def test_suspect_that_fails_otherwise_after_the_wait_is_not_healed(suspected: Any) -> None:
    """Its errors have ended and it is slow now: both are watched."""
    suspected.measure(ERROR_RATIO, 0.0, "db")
    suspected.measure(LATENCY_P95, 9.0, "db")
    suspected.set(LATENCY_P95.baseline_series, 0.1, "db")
    suspected.run(seconds=100)
    assert (suspected.incident().state, suspected.ends) == (State.ESCALATED, [])


def test_suspect_that_recovers_during_the_wait_lets_its_caller_go(suspected: Any) -> None:
    """It was suspected for its errors, and these have ended: `cart` still fails and is healed."""
    suspected.target.on_restart = lambda: suspected.measure(ERROR_RATIO, 0.0)
    suspected.measure(ERROR_RATIO, 0.0, "db")
    suspected.run(seconds=100)
    assert suspected.incident_of("db").outcome == "recovered"
    assert suspected.incident_of("cart").outcome == "healed"
    assert suspected.restarts() == {"cart": 1}


def test_symptom_that_still_fails_is_healed_by_itself(shop: Any) -> None:
    """The cause has healed and the symptom has not: it gets its own incident, and is restarted once."""
    shop.targets["db"].on_restart = lambda: shop.healthy("db")
    shop.target.on_restart = lambda: shop.measure(ERROR_RATIO, 0.0)
    shop.receive(cause(shop), symptom(shop))
    shop.run(seconds=40)
    healed, split = shop.incident_of("db"), shop.incident_of("cart")
    assert (healed.outcome, split.outcome) == ("healed", "healed")
    assert (split.split_from, healed.split_from) == (healed.id, None)
    assert shop.restarts() == {"db": 1, "cart": 1}
    assert any("db has healed, and it still fails" in line for line in shop.story(split))
    assert shop.context.metrics.opened.labels("cart")._value.get() == 1.0
    assert [alert.service for alert in shop.alerts_of(healed)] == ["db"]


def test_what_a_healed_cause_still_shows_keeps_no_symptom_from_its_repair(shop: Any) -> None:
    """The window of detection tells of its failures for a while after the proof: it is not suspected anew."""
    shop.measure(ERROR_RATIO, 0.9, "db")
    shop.targets["db"].on_restart = lambda: (
        shop.healthy("db"),
        shop.set(ERROR_RATIO.fresh_series, 0.0, "db"),
    )
    shop.target.on_restart = lambda: shop.measure(ERROR_RATIO, 0.0)
    shop.receive(cause(shop, signal="error_ratio"), symptom(shop))
    shop.run(seconds=40)
    split = shop.incident_of("cart")
    assert split.split_from == shop.incident_of("db").id
    assert split.diagnosis["cause"]["service"] == "cart"
    assert (shop.restarts(), shop.calls) == ({"db": 1, "cart": 1}, [])


def test_what_the_series_tell_of_a_healed_cause_keeps_no_symptom_from_its_repair(make_world: Any) -> None:
    """`cart` falls silent, `db` more clearly after it, and fails no more: the series around the alert of
    `cart` go on telling of it."""
    shop = make_world({"cart": ["db"], "db": []})
    shop.targets["db"].on_restart = lambda: shop.healthy("db")
    shop.target.on_restart = shop.healthy
    shop.measure(LATENCY_P95, 0.1, "db")
    shop.clock.now += 1800
    change_mode(shop, Mode.PAUSED)
    shop.silent()
    shop.receive(shop.alert())
    shop.run(seconds=60, tick=5)
    shop.silent("db")
    shop.measure(LATENCY_P95, 0.4, "db")
    shop.receive(cause(shop))
    shop.run(seconds=60, tick=5)
    change_mode(shop, Mode.AUTOMATIC)
    shop.run(seconds=40)
    split = shop.incident_of("cart")
    assert split.split_from == shop.incident_of("db").id
    assert split.diagnosis["cause"]["service"] == "cart"
    assert (shop.restarts(), shop.calls) == ({"db": 1, "cart": 1}, [])


def test_symptom_whose_alert_outlives_the_cause_is_looked_at_by_itself(shop: Any) -> None:
    """Calm when the cause healed, its alert still firing after the relapse window: split, not lost."""
    first = cause(shop)
    shop.receive(first, symptom(shop))
    shop.run(seconds=20)
    shop.receive(cause(shop, starts_at=first.starts_at, status="resolved"))
    shop.run(seconds=320, tick=5)
    assert shop.incident_of("db").state is State.CLOSED
    split = shop.incident_of("cart")
    assert (split.split_from, split.outcome) == (shop.incident_of("db").id, "recovered")
    assert shop.restarts() == {"db": 1}


def test_effect_under_way_is_not_overtaken_by_the_cause(shop: Any) -> None:
    """The cause alerts while its symptom is being restarted: that is written to its end, the cause heals."""
    shop.healthy("db")

    def fall_silent() -> None:
        shop.silent("db")
        shop.receive(cause(shop))
        shop.orchestrator.take_in()

    shop.target.on_restart = fall_silent
    shop.receive(symptom(shop))
    shop.run(seconds=30)
    acted, healed = shop.incident_of("cart"), shop.incident_of("db")
    actions = shop.context.store.read(lambda connection: statements.actions_of(connection, acted.id))
    assert [row.status for row in actions] == ["succeeded"]
    assert (acted.merged_into, healed.outcome) == (None, "healed")
    assert shop.restarts() == {"cart": 1, "db": 1}


def test_restart_that_did_not_help_is_put_down_to_the_failing_cause(shop: Any) -> None:
    """Not healed at the deadline while its dependency fails: merged into that, nobody is called for it."""
    shop.healthy("db")
    shop.targets["db"].answer = 403
    shop.target.on_restart = lambda: shop.silent("db")
    shop.receive(symptom(shop))
    shop.run(seconds=10)
    shop.receive(cause(shop))
    shop.run(seconds=70)
    incident = shop.incident()
    assert (incident.service, incident.state) == ("db", State.ESCALATED)
    merged = next(each for each in shop.incidents(merged=True) if each.merged_into)
    assert (merged.service, merged.outcome, merged.merged_into) == ("cart", "merged", incident.id)
    actions = shop.context.store.read(lambda connection: statements.actions_of(connection, merged.id))
    assert [(row.status, row.verdict) for row in actions] == [("succeeded", "not_healed")]
    assert {alert.service for alert in shop.alerts_of(incident)} == {"db", "cart"}
    assert [call.service for call in shop.calls] == ["db"]
    assert shop.restarts() == {"cart": 1}
    assert shop.context.metrics.merged.labels("cart")._value.get() == 1.0


def test_incidents_that_the_cause_takes_over_count_as_merged(make_world: Callable[..., Any]) -> None:
    """Two were opened for symptoms: one becomes that of the cause, the other is counted as merged."""
    world = make_world({"web": ["db"], "cart": ["db"], "db": []}, mode="paused")
    for service in ("web", "cart", "db"):
        world.receive(world.alert(service=service))
        world.orchestrator.take_in()
        world.clock.now += 1
    metrics = world.context.metrics
    counted = {
        service: (metrics.opened.labels(service)._value.get(), metrics.merged.labels(service)._value.get())
        for service in world.targets
    }
    assert counted == {"web": (1.0, 0.0), "cart": (1.0, 1.0), "db": (0.0, 0.0)}


def test_cause_is_asked_for_right_before_the_effect(make_world: Callable[..., Any]) -> None:
    """Two incidents of which one turns out to be the other's cause: the symptom's plan is not carried out."""
    world = make_world({"cart": [], "db": []}, correlation={"service_graph": {}})
    change_mode(world, Mode.PAUSED)
    world.measure(ERROR_RATIO, 0.9)
    world.silent("db")
    world.receive(symptom(world), cause(world))
    world.run(seconds=5)
    assert [each.state for each in world.incidents()] == [State.RECOVERING, State.RECOVERING]
    world.prometheus.calls = [("cart", "db")]
    world.context.graph.refresh(world.clock.now)
    world.targets["db"].on_restart = lambda: (world.healthy("db"), world.measure(ERROR_RATIO, 0.0))
    change_mode(world, Mode.AUTOMATIC)
    world.run(seconds=30)
    assert (world.incident().service, world.incident().outcome) == ("db", "healed")
    assert world.restarts() == {"db": 1}


def test_relapse_of_a_symptom_does_not_reopen_the_cause(shop: Any) -> None:
    """The cause is resolved and calm: a new alert of what was its symptom is a problem of that service."""
    shop.receive(cause(shop), symptom(shop))
    shop.run(seconds=20)
    assert shop.incident().state is State.RESOLVED
    shop.target.on_restart = lambda: shop.measure(ERROR_RATIO, 0.0)
    shop.measure(ERROR_RATIO, 0.9)
    shop.receive(symptom(shop, starts_at="later"))
    shop.run(seconds=20)
    assert (shop.incident_of("db").state, shop.incident_of("db").relapses) == (State.RESOLVED, 0)
    assert shop.incident_of("cart").outcome == "healed"
    assert shop.restarts() == {"db": 1, "cart": 1}


def test_relapse_of_the_cause_reopens_its_incident_and_takes_the_symptom_with_it(shop: Any) -> None:
    """Both fail again within the relapse window: the same incident, a second restart of the cause."""
    shop.receive(cause(shop), symptom(shop))
    shop.run(seconds=20)
    shop.silent("db")
    shop.measure(ERROR_RATIO, 0.9)
    shop.receive(symptom(shop, starts_at="later"), cause(shop, starts_at="later"))
    shop.run(seconds=90)
    incident = shop.incident()
    assert (incident.service, incident.relapses, incident.outcome) == ("db", 1, "healed")
    assert shop.restarts() == {"db": 2}


def test_split_by_hand_is_healed_by_itself_and_stays_apart(shop: Any) -> None:
    """A person says that it is no symptom: healed like any other; the cause's next alert leaves it alone."""
    change_mode(shop, Mode.PAUSED)
    shop.receive(cause(shop), symptom(shop))
    shop.run(seconds=2)
    split_id = split_off(shop.context, shop.incident().id, "cart", by="ada", reason="its own release")
    shop.receive(cause(shop, signal="error_ratio", fingerprint="another"))
    shop.healthy("db")
    shop.target.on_restart = lambda: shop.measure(ERROR_RATIO, 0.0)
    change_mode(shop, Mode.AUTOMATIC)
    shop.run(seconds=30)
    split = shop.incident_of("cart")
    assert (split.id, split.outcome, split.merged_into) == (split_id, "healed", None)
    assert shop.restarts() == {"cart": 1}


@pytest.mark.parametrize("by_hand", [True, False])
def test_who_was_called_hears_of_what_is_split_off_to_them(shop: Any, by_hand: bool) -> None:
    """The service has an escalated incident of its own already, of another signal: a symptom that was none is
    news to those who were called for that."""
    shop.receive(cause(shop, starts_at="first"), symptom(shop))
    shop.run(seconds=30)
    shop.receive(cause(shop, starts_at="first", status="resolved"))
    shop.silent("cart")
    shop.target.answer = 403
    shop.receive(shop.alert())
    shop.run(seconds=10)
    own = shop.incident_of("cart")
    assert (own.state, [call.level for call in shop.calls]) == (State.ESCALATED, [1])
    opened = shop.context.metrics.opened.labels("cart")
    before = opened._value.get()
    if by_hand:
        assert split_off(shop.context, shop.incident_of("db").id, "cart", by="ada") == own.id
        shop.run(seconds=10)
    else:
        shop.run(seconds=shop.context.settings.relapse_window, tick=5)
    assert {alert.labels["signal"] for alert in shop.alerts_of(own)} == {"heartbeat", "error_ratio"}
    assert [call.level for call in shop.calls if "error_ratio is reported too" in call.reason] == [1]
    assert opened._value.get() == before  # none was opened for it


def test_acknowledgement_does_not_hold_up_the_cause(shop: Any) -> None:
    """Somebody has taken the symptom's incident; the cause's alert moves it all the same and is healed."""
    shop.receive(symptom(shop))
    shop.run(seconds=2)
    decide(shop.context, shop.incident().id, DECISIONS["acknowledge"], by="ada")
    shop.receive(cause(shop))
    shop.run(seconds=30)
    assert (shop.incident().outcome, shop.incident().acknowledged_by) == ("healed", "ada")
    assert shop.restarts() == {"db": 1}


def test_crash_between_the_alerts_changes_nothing(shop: Any) -> None:
    """The process dies after each step of the way: still one incident and one restart of the cause."""
    shop.receive(symptom(shop))
    shop.crash()
    shop.run(seconds=3)
    shop.crash()
    shop.receive(cause(shop))
    shop.crash()
    shop.run()
    shop.crash()
    shop.run(seconds=30)
    assert (shop.incident().service, shop.incident().outcome) == ("db", "healed")
    assert shop.restarts() == {"db": 1}


def test_measured_dependency_counts_like_a_configured_one(make_world: Callable[..., Any]) -> None:
    """Nobody configured it; the service graph shows it at the comparison with the servers."""
    world = make_world({"cart": [], "db": []}, correlation={"service_graph": {}})
    world.prometheus.calls = [("cart", "db")]
    reconciliation = Reconciliation(world.context)
    reconciliation.run()
    reconciliation.close()
    world.silent("db")
    world.measure(ERROR_RATIO, 0.9)
    world.targets["db"].on_restart = lambda: (world.healthy("db"), world.measure(ERROR_RATIO, 0.0))
    world.receive(symptom(world), cause(world))
    world.run(seconds=20)
    assert (world.incident().service, world.incident().outcome) == ("db", "healed")
    assert world.restarts() == {"db": 1}


def chain(services: int) -> dict[str, list[str]]:
    """A fleet in which all depend on `root`: most of them only through others, some twice."""
    names = [f"s{number}" for number in range(1, services)]
    edges = {name: [names[(number - 1) // 3]] for number, name in enumerate(names) if number}
    edges[names[0]] = ["root"]
    for name in names[5::7]:
        edges[name] = [*edges[name], "root"]
    return {"root": [], **edges}


@pytest.mark.parametrize("seed", range(3))
def test_storm_of_one_root_failure_is_one_restart(make_world: Callable[..., Any], seed: int) -> None:
    """500 alerts of 100 services in random order, worked on while they arrive: only the root is restarted."""
    edges = chain(100)
    world = make_world(edges, verification={"stability": 5, "deadline": 600, "interval": 5})
    callers = [name for name in edges if name != "root"]

    def fail(ratio: float) -> None:
        for name in callers:
            world.measure(ERROR_RATIO, ratio, name)

    def back() -> None:
        world.healthy("root")
        fail(0.0)

    world.silent("root")
    fail(0.9)
    world.targets["root"].on_restart = back
    signals = {name: "heartbeat" if name == "root" else "error_ratio" for name in edges}
    alerts = [
        world.alert(service=name, signal=signal, fingerprint=f"{name}/{number}")
        for name, signal in signals.items()
        for number in range(5)
    ]
    dice = random.Random(seed)  # noqa: S311 - a shuffle
    dice.shuffle(alerts)
    while alerts:
        taken = dice.randint(1, 60)
        world.receive(*alerts[:taken])
        del alerts[:taken]
        world.run(seconds=dice.choice([0.0, 0.5]))
    world.run(seconds=30, tick=1)
    assert world.restarts() == {"root": 1}
    assert len(world.incidents()) <= 3
    assert world.incident_of("root").outcome == "healed"
    assert world.calls == []


def test_person_splits_off_while_the_fabric_is_about_to(shop: Any) -> None:
    """Both find that it is no symptom: one incident of its own, and the cause's end is still recorded."""
    shop.targets["db"].on_restart = lambda: shop.healthy("db")
    shop.receive(cause(shop), symptom(shop))
    health = shop.context.verifier.health

    def split_meanwhile(service: str, *arguments: Any) -> Any:
        if service == "cart" and len(shop.incidents()) == 1:
            split_off(shop.context, shop.incident().id, "cart", by="ada")
        return health(service, *arguments)

    shop.context.verifier.health = split_meanwhile
    shop.run(seconds=15)
    assert shop.incident_of("db").outcome == "healed"
    assert shop.incident_of("cart").split_from == shop.incident_of("db").id
    assert not any("Unexpected error" in line for line in shop.story(shop.incident_of("db")))
