"""What fails again while its alert has not ended yet: no notification tells of it, and the loop finds it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from self_healing_fabric.incidents.lifecycle import State
from self_healing_fabric.orchestration.reconciliation import Reconciliation
from self_healing_fabric.orchestration.relapse_watch import look_for_relapses
from self_healing_fabric.store import statements
from shf_queries import catalogue
from shf_queries.catalogue import ERROR_RATIO, LATENCY_P95


@pytest.fixture
def healed(make_world: Callable[..., Any]) -> Any:
    """A world whose service hung and was healed; to Prometheus the alert still fires."""
    world = make_world(guardrails={"cooldown": 0})
    hung_and_healed(world)
    return world


def hung_and_healed(world: Any) -> None:
    """Its restart helped."""
    world.silent()
    world.receive(world.alert())
    world.target.on_restart = world.healthy
    world.run(seconds=20)
    assert world.incident().state is State.RESOLVED


def pass_time(world: Any, seconds: float, every: float = 10.0) -> None:
    """Let time pass, and the loop look as often as it does."""
    for _ in range(int(seconds / every)):
        world.run(seconds=every)
        look_for_relapses(world.context)
    world.run()


def test_it_is_repaired_again_without_a_notification(healed: Any) -> None:
    """Long before the relapse window is over, and its story says what was seen."""
    healed.silent()
    pass_time(healed, 40)
    assert len(healed.target.restarts) == 2
    incident = healed.incident()
    assert (incident.state, incident.outcome, incident.relapses) == (State.RESOLVED, "healed", 1)
    told = " ".join(healed.story())
    assert "Re-opened: it fails again, and its alert has never ended." in told
    assert [row.verdict for row in healed.actions()] == ["healed", "healed"]


def test_the_loop_looks(healed: Any) -> None:
    """As part of the comparison that is made every 10 s."""
    reconciliation = Reconciliation(healed.context)
    healed.silent()
    for _ in range(3):
        healed.run(seconds=10)
        reconciliation.run()
    healed.run()
    reconciliation.close()
    assert healed.incident().relapses == 1


def test_a_blip_is_none(healed: Any) -> None:
    """Shorter than the stability window: nothing is opened again, nothing is restarted."""
    pass_time(healed, 10)
    healed.silent()
    healed.run(seconds=3)
    look_for_relapses(healed.context)
    healed.run()
    healed.healthy()
    pass_time(healed, 40)
    assert (healed.incident().state, healed.incident().relapses) == (State.RESOLVED, 0)
    assert len(healed.target.restarts) == 1


def test_what_stays_calm_closes_when_it_would_have(healed: Any) -> None:
    """Looking moves no timer, and asks one query for all."""
    due = healed.incident().due_at
    asked = len(healed.prometheus.queries)
    look_for_relapses(healed.context)
    assert len(healed.prometheus.queries) == asked + 1
    assert healed.incident().due_at == due


def test_a_look_in_vain_does_not_lengthen_the_window(healed: Any) -> None:
    """After a blip its incident is looked at again when the window is over, as before."""
    due = healed.incident().due_at
    healed.silent()
    healed.run(seconds=3)
    look_for_relapses(healed.context)
    healed.run()
    healed.healthy()
    assert healed.incident().due_at == pytest.approx(due, abs=1)


@pytest.mark.parametrize("reason", ["silenced", "ended", "prometheus away"])
def test_it_is_left_alone(healed: Any, reason: str) -> None:
    """What people have silenced, what has ended (a new alert would tell), and what cannot be seen."""
    (alert,) = healed.alerts_of(healed.incident())
    if reason == "silenced":
        healed.context.store.write(lambda each: statements.set_suppressed(each, [alert.id], True))
    elif reason == "ended":
        healed.context.store.write(lambda each: statements.end_alert(each, alert.id, healed.clock.now))
    else:
        healed.prometheus.away = "gone"
    healed.silent()
    pass_time(healed, 60)
    assert (healed.incident().state, healed.incident().relapses) == (State.RESOLVED, 0)
    assert len(healed.target.restarts) == 1


def test_other_signals_are_not_its_own(healed: Any) -> None:
    """Errors of a service whose heartbeat alerted are another alert's matter."""
    healed.measure(ERROR_RATIO, 0.9)
    pass_time(healed, 40)
    assert healed.incident().relapses == 0


def test_latency_is_held_against_its_own_baseline(make_world: Callable[..., Any]) -> None:
    """0.5 s where 0.1 s is normal fails; where 0.4 s is, it does not."""
    world = make_world({"cart": (), "shop": ()})
    for service, normal in (("cart", 0.1), ("shop", 0.4)):
        world.measure(LATENCY_P95, 0.5, service)
        world.set(str(LATENCY_P95.baseline_series), normal, service)
    signals = {"cart": ["latency_p95"], "shop": ["latency_p95"]}
    assert world.context.verifier.failing(signals, world.clock.now) == {"cart"}
    assert world.prometheus.queries == [catalogue.all_signals_of(["cart", "shop"])]


@pytest.fixture(params=["disk_full", "error_ratio"])
def outlived(request: pytest.FixtureRequest, make_world: Callable[..., Any]) -> Any:
    """A world whose service was healed, and has another alert that does not end: no known signal tells of
    it, or its rule has another limit."""
    world = make_world(guardrails={"cooldown": 0})
    world.measure(ERROR_RATIO, 0.01)
    world.silent()
    world.receive(*(world.alert(signal=each, starts_at="then") for each in ("heartbeat", request.param)))
    world.target.on_restart = world.healthy
    world.run(seconds=20)
    world.receive(world.alert(starts_at="then", status="resolved"))
    world.run(seconds=1500, tick=5)
    return world


def test_an_alert_that_outlives_two_proofs_goes_to_people(outlived: Any) -> None:
    """Level by level, as nobody answers; it is not proved again for ever, and ends with the alert."""
    told = outlived.story()
    assert sum("Re-opened" in line for line in told) == 1
    assert any("an alert still fires although the incident was resolved, and its signals are" in line
               for line in told)  # fmt: skip
    assert [call.level for call in outlived.calls] == [1, 2, 3, 4]
    assert (outlived.incident().state, outlived.incident().outcome) == (State.ESCALATED, None)
    (firing,) = (row for row in outlived.alerts_of(outlived.incident()) if row.status == "firing")
    outlived.receive(outlived.alert(signal=firing.labels["signal"], starts_at="then", status="resolved"))
    outlived.run(seconds=70, tick=5)
    assert (outlived.incident().state, outlived.incident().outcome) == (State.RESOLVED, "recovered")
    assert outlived.restarts() == {"cart": 1}


def test_what_outlived_the_proof_hides_no_later_failure(outlived: Any) -> None:
    """The service hangs again, and the same rule tells of it: it is healed again."""
    outlived.silent()
    outlived.receive(outlived.alert(starts_at="now"))
    outlived.run(seconds=20)
    assert (outlived.incident().state, outlived.restarts()) == (State.RESOLVED, {"cart": 2})


def test_what_fails_while_its_alert_outlives_the_proof_is_found(make_world: Callable[..., Any]) -> None:
    """No notification tells of it, for to Alertmanager it is the same alert."""
    world = make_world(guardrails={"cooldown": 0})
    world.receive(world.alert())
    world.run(seconds=1500, tick=5)
    assert (world.incident().state, world.restarts()) == (State.ESCALATED, {})
    world.silent()
    world.target.on_restart = world.healthy
    world.run(seconds=90, tick=1)
    assert (world.incident().state, world.restarts()) == (State.RESOLVED, {"cart": 1})


def test_who_was_told_that_it_is_over_hears_that_its_alert_outlives_that(
    make_world: Callable[..., Any],
) -> None:
    """All levels had been called and told of the end: they begin anew, as after a relapse."""
    world = make_world(guardrails={"cooldown": 0})
    world.target.answer = 403
    world.receive(world.alert())
    world.run(seconds=100, tick=5)
    world.silent()
    pass_time(world, 2000)
    assert [call.level for call in world.calls] == [1, 2, 3, 4]
    world.healthy()
    world.run(seconds=800, tick=5)
    assert (world.incident().state, len(world.ends)) == (State.ESCALATED, 1)
    assert "its signals are inside all limits" in world.calls[4].reason
    assert [call.level for call in world.calls[4:]] == [1, 2]


def of_the_pair(world: Any, after_resolution: float) -> Any:
    """The alert of a pair's second server: when it began, in seconds after the incident was resolved."""
    began = datetime.fromtimestamp(world.incident().resolved_at + after_resolution, UTC)
    return world.alert(fingerprint="second", labels={"replica": "b"}, starts_at=began.isoformat())


def test_an_alert_that_comes_late_re_opens_nothing(make_world: Callable[..., Any]) -> None:
    """Of a pair's second server, after it was proved that this has healed: nobody is called over again."""
    world = make_world(escalation={"tiers": {"standard": {"call_at_once": True}}})
    hung_and_healed(world)
    assert [call.level for call in world.calls] == [1]
    world.receive(of_the_pair(world, -20))
    pass_time(world, 100)
    assert (world.incident().state, world.incident().relapses) == (State.RESOLVED, 0)
    assert [call.level for call in world.calls] == [1]
    assert any("it began before that was resolved" in line for line in world.story())


def test_what_fails_again_is_seen_by_the_late_alert(healed: Any) -> None:
    """The first server's alert has ended, and the second one's tells which samples are to be looked at."""
    (alert,) = healed.alerts_of(healed.incident())
    healed.context.store.write(lambda each: statements.end_alert(each, alert.id, healed.clock.now))
    healed.receive(of_the_pair(healed, -5))
    healed.silent()
    pass_time(healed, 40)
    assert (healed.incident().relapses, len(healed.target.restarts)) == (1, 2)


@pytest.mark.parametrize(("began", "signal"), [(5.0, "heartbeat"), (-5.0, "cpu"), (-5.0, "unheard_of")])
def test_an_alert_of_what_was_not_proved_re_opens(healed: Any, began: float, signal: str) -> None:
    """It began since, or tells of something else, of which the samples that were looked at say nothing."""
    late = of_the_pair(healed, began)
    healed.receive(replace(late, labels={**late.labels, "signal": signal}))
    healed.run()
    assert healed.incident().relapses == 1
