"""From an alert to a proved healing, and every way in which it must not act. Counted at the target."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from self_healing_fabric.guardrails import mode
from self_healing_fabric.incidents.lifecycle import State
from self_healing_fabric.orchestration import journal
from self_healing_fabric.recovery.platforms.http import HttpRestart
from self_healing_fabric.settings import Mode
from shf_queries import PrometheusUnavailable, catalogue
from shf_queries.catalogue import ERROR_RATIO, HEARTBEAT


def test_hanging_service_is_restarted_once_and_proved_healed(world: Any) -> None:
    """One alert, one restart at the target, resolved only after fresh samples filled the stability window."""
    world.silent()
    world.receive(world.alert())
    world.target.on_restart = world.healthy
    world.run()
    assert len(world.target.restarts) == 1
    assert world.incident().state is State.VERIFYING
    world.run(seconds=4)
    assert world.incident().state is State.VERIFYING  # the stability window is not over
    world.run(seconds=10)
    incident = world.incident()
    assert (incident.state, incident.outcome) == (State.RESOLVED, "healed")
    assert len(world.target.restarts) == 1
    assert [row.verdict for row in world.actions()] == ["healed"]
    assert incident.failure_class == "service_failure"


def test_repeated_notifications_restart_nothing_again(world: Any) -> None:
    """The same alert delivered a hundred times is one incident and one restart."""
    world.silent()
    alert = world.alert()
    world.target.on_restart = world.healthy
    for _ in range(100):
        world.receive(alert)
        world.run(seconds=0.5)
    assert len(world.target.restarts) == 1
    assert world.incident().state is State.RESOLVED


def test_resolved_notification_is_no_proof(world: Any) -> None:
    """The alert resolves because its series vanished: nothing fresh, so the verdict is no_evidence."""
    world.silent()
    alert = world.alert()
    world.receive(alert)

    def vanish() -> None:
        world.set(HEARTBEAT.series, None)
        world.set(HEARTBEAT.fresh_series, None)

    world.target.on_restart = vanish
    world.run()
    world.receive(world.alert(starts_at=alert.starts_at, status="resolved"))
    world.run(seconds=70)
    incident = world.incident()
    assert (incident.state, incident.level) == (State.ESCALATED, 1)
    assert [row.verdict for row in world.actions()] == ["no_evidence"]


def test_not_healed_escalates_one_level(world: Any) -> None:
    """A restart that does not help goes to people, one level up, and is not repeated."""
    world.silent()
    world.receive(world.alert())
    world.run(seconds=70)
    incident = world.incident()
    assert (incident.state, incident.level) == (State.ESCALATED, 1)
    assert [row.verdict for row in world.actions()] == ["not_healed"]
    assert len(world.target.restarts) == 1
    assert [call.level for call in world.calls] == [1]


def test_service_that_comes_and_goes_is_a_relapse(world: Any) -> None:
    """Healthy for less than the stability window and silent again at the deadline: relapsed, escalated."""
    world.silent()
    world.receive(world.alert())
    world.target.on_restart = world.healthy
    world.run(seconds=4)
    world.silent()
    world.run(seconds=70)
    assert world.incident().state is State.ESCALATED
    assert [row.verdict for row in world.actions()] == ["relapsed"]


def test_unknown_service_is_shown_and_never_acted_on(world: Any) -> None:
    """An alert for a service that is not configured is stored, escalated once, and touches no target."""
    world.silent()
    world.receive(world.alert(service="stranger"))
    world.run(seconds=2000, tick=20)
    incident = world.incident()
    assert (incident.state, incident.level, incident.known_service) == (State.ESCALATED, 1, False)
    assert world.target.restarts == []
    assert world.target.probes == 0
    assert world.actions() == []


def test_alert_without_service_has_no_target(world: Any) -> None:
    """An alert that names no service at all is an incident of its own."""
    world.receive(world.alert(service=None))
    world.run()
    assert world.incident().service is None
    assert world.incident().state is State.ESCALATED
    assert any("the alert names no service: nothing will be done about it" in line for line in world.story())


def test_unknown_service_closes_when_its_alert_ends(world: Any) -> None:
    """People's view is not filled with strangers' alerts that are over."""
    alert = world.alert(service="stranger")
    world.receive(alert)
    world.run()
    world.receive(world.alert(service="stranger", starts_at=alert.starts_at, status="resolved"))
    world.run(seconds=30)
    assert world.incident().state is State.CLOSED


def test_prometheus_away_waits_and_says_so(world: Any) -> None:
    """Without Prometheus nothing is done; when it is back the incident goes on by itself."""
    world.silent()
    world.prometheus.away = "Prometheus does not answer"
    world.receive(world.alert())
    world.run(seconds=60)
    incident = world.incident()
    assert incident.state is State.DIAGNOSING
    assert incident.waiting_for == "evidence: Prometheus does not answer"
    assert world.target.restarts == []
    world.prometheus.away = None
    world.run(seconds=6)
    assert len(world.target.restarts) == 1
    assert world.incident().waiting_for is None
    assert sum(line.startswith("waiting:") for line in world.story()) == 1


def test_waiting_too_long_calls_people(world: Any) -> None:
    """Prometheus away for longer than max_wait: they hear of it once, and nothing is done; when it is back,
    the incident is healed all the same."""
    world.silent()
    world.prometheus.away = "Prometheus does not answer"
    world.receive(world.alert())
    world.run(seconds=320, tick=5)
    assert (len(world.calls), world.target.restarts) == (1, [])
    world.prometheus.away = None
    world.target.on_restart = world.healthy
    world.run(seconds=20)
    assert (world.incident().outcome, len(world.target.restarts)) == ("healed", 1)


def test_people_hear_of_a_wait_before_their_deadline(make_world: Callable[..., Any]) -> None:
    """`max_wait` may be shorter than the deadline of self-healing."""
    world = make_world(escalation={"max_wait": 60})
    world.silent()
    world.prometheus.away = "Prometheus does not answer"
    world.receive(world.alert())
    world.run(seconds=280, tick=5)
    assert [call.reason for call in world.calls] == ["has waited 60 s: Prometheus does not answer"]


def test_whichever_errors_come_in_turn_the_wait_counts_on(make_world: Callable[..., Any]) -> None:
    """A Prometheus that fails in another way at each look is away all the same."""
    world = make_world(escalation={"max_wait": 60})
    world.silent()
    world.receive(world.alert())
    for number in range(14):
        world.prometheus.away = f"Prometheus fails: {number}"
        world.run(seconds=5, tick=5)
    assert [call.reason.partition(":")[0] for call in world.calls] == ["has waited 60 s"]


def test_a_long_pause_is_not_counted_as_waiting_for_prometheus(make_world: Callable[..., Any]) -> None:
    """The first query that fails after a pause of an hour calls nobody; after max_wait people are called."""
    levels = [{"name": f"level {number}", "call": [], "deadline": 7200} for number in range(5)]
    world = make_world(escalation={"levels": levels})
    world.silent()
    world.context.store.write(lambda connection: mode.change(connection, Mode.PAUSED, by="me", now=1.0))
    world.receive(world.alert())
    world.run(seconds=3600, tick=10)
    assert "paused" in world.incident().waiting_for
    world.prometheus.away = "Prometheus does not answer"
    world.run(seconds=290, tick=5)
    assert world.calls == []
    world.run(seconds=30, tick=5)
    assert [call.reason for call in world.calls] == ["has waited 300 s: Prometheus does not answer"]


def test_waiting_for_prometheus_is_not_waiting_for_the_causes_alert(make_world: Callable[..., Any]) -> None:
    """Away for longer than wait_for_cause: then the suspect's own alert is waited for as long as ever."""
    world = make_world({"cart": ["database"], "database": []})
    world.silent("database")
    world.measure(ERROR_RATIO, 0.9)
    world.prometheus.away = "Prometheus does not answer"
    world.receive(world.alert(signal="error_ratio"))
    world.run(seconds=100, tick=5)
    world.prometheus.away = None
    world.run(seconds=50)
    incident = world.incident()
    assert (incident.service, incident.state) == ("database", State.DIAGNOSING)
    assert world.restarts() == {}
    world.run(seconds=30)
    assert world.incident().state is State.ESCALATED


def test_levels_rise_while_prometheus_is_away(world: Any) -> None:
    """The deadlines of the levels do not depend on Prometheus."""
    world.silent()
    world.prometheus.away = "Prometheus does not answer"
    world.receive(world.alert())
    world.run(seconds=3000, tick=10)
    assert [call.level for call in world.calls] == [1, 2, 3, 4]


def test_calm_service_is_not_touched(world: Any) -> None:
    """The signal is asked again right before the effect: a blip that is over is only watched."""
    world.receive(world.alert())
    world.run(seconds=20)
    incident = world.incident()
    assert (incident.state, incident.outcome) == (State.RESOLVED, "recovered")
    assert world.target.restarts == []


def test_unknown_health_blocks(world: Any) -> None:
    """Diagnosed as failing, but no current samples right before the effect: wait, do nothing."""
    world.set(ERROR_RATIO.series, 0.5)
    world.receive(world.alert(signal="error_ratio"))
    world.run(seconds=30)
    incident = world.incident()
    assert incident.state is State.RECOVERING
    assert "nothing is done" in incident.waiting_for
    assert catalogue.series_of(ERROR_RATIO.fresh_series, "cart") in incident.waiting_for
    assert world.target.restarts == []


def strange(world: Any, signal: str | None, **changes: Any) -> Any:
    """An alert of `cart` whose signal nobody knows, or that has none."""
    alert = world.alert(starts_at="2026-01-01T00:00:00Z", **changes)
    others = {name: value for name, value in alert.labels.items() if name != "signal"}
    return replace(alert, labels=others if signal is None else {**others, "signal": signal})


@pytest.mark.parametrize("signal", ["disk_full", None])
def test_what_no_known_signal_tells_is_never_called_healed(world: Any, signal: str | None) -> None:
    """It answers all the while, which proves nothing: over when the alert is; each level is called once."""
    world.receive(strange(world, signal))
    world.run(seconds=2000, tick=5)
    assert (world.incident().state, world.incident().relapses) == (State.ESCALATED, 0)
    assert [call.level for call in world.calls] == [1, 2, 3, 4]
    assert world.ends == []
    world.receive(strange(world, signal, status="resolved"))
    world.run(seconds=70, tick=5)
    assert (world.incident().state, world.incident().outcome) == (State.CLOSED, None)
    assert {call.reason for call in world.ends} == {"It is closed"}
    assert "state: All of its alerts ended, and no known signal tells whether it has healed." in world.story()


def test_a_probe_proves_nothing_of_what_no_known_signal_tells(make_world: Callable[..., Any]) -> None:
    """Silent for a moment, probed, and answering again: people are called, as it alerts of another thing."""
    world = make_world(plans={"service_failure": ["retry"]})
    world.silent()
    world.receive(strange(world, "disk_full"))
    world.run(seconds=1)
    world.healthy()
    world.run(seconds=20)
    assert [(row.strategy, row.verdict) for row in world.actions()] == [("retry", "no_evidence")]
    assert (world.incident().state, len(world.calls), world.ends) == (State.ESCALATED, 1, [])


def test_failing_dependency_is_not_healed_by_restarting_its_caller(make_world: Callable[..., Any]) -> None:
    """The caller of a silent service is left alone, and so is the service, which does not alert: people."""
    world = make_world({"cart": ["database"], "database": []})
    world.silent("database")
    world.measure(ERROR_RATIO, 0.9)
    world.receive(world.alert(signal="error_ratio"))
    world.run(seconds=5)
    incident = world.incident()
    assert (incident.service, incident.state) == ("database", State.DIAGNOSING)
    assert incident.waiting_for.startswith("cause: an alert of database, the likely cause")
    assert any("dependency_failure in database" in line for line in world.story())
    assert world.calls == []
    world.run(seconds=60)
    incident = world.incident()
    assert (incident.service, incident.state, incident.level) == ("database", State.ESCALATED, 1)
    assert incident.failure_class == "service_failure"
    world.run(seconds=400, tick=5)
    assert world.restarts() == {}


def test_mass_failure_heals_nothing_one_by_one(world: Any) -> None:
    """More than half of at least five services silent at once is critical: people, not restarts."""
    world.silent()
    world.prometheus.set(catalogue.silent_services(), 4.0)
    world.prometheus.set(catalogue.known_services(), 6.0)
    world.receive(world.alert())
    world.run(seconds=5)
    assert world.incident().failure_class == "critical"
    assert world.incident().state is State.ESCALATED
    assert world.target.restarts == []


def test_transient_failure_is_probed_first(world: Any) -> None:
    """Errors that stopped by themselves: the health endpoint is asked, nothing is restarted."""
    world.set(ERROR_RATIO.series, 0.5)
    world.set(ERROR_RATIO.fresh_series, 0.0)
    world.receive(world.alert(signal="error_ratio"))
    world.run(seconds=20)
    assert world.incident().failure_class == "transient"
    assert world.incident().outcome == "recovered"
    assert world.target.probes == 1
    assert world.target.restarts == []


def test_retry_gives_up_after_three_attempts_and_goes_on(world: Any) -> None:
    """Three failing probes with waits between, then the next strategy of the plan."""
    world.set(ERROR_RATIO.series, 0.5)
    world.set(ERROR_RATIO.fresh_series, 0.0)
    world.target.health = 503
    world.receive(world.alert(signal="error_ratio"))
    world.run()  # diagnosed as transient
    world.set(ERROR_RATIO.fresh_series, 0.5)
    world.run(seconds=40)
    assert world.target.probes == 3
    assert [row.strategy for row in world.actions()] == ["retry", "retry", "retry", "restart"]
    assert [row.attempt for row in world.actions()] == [1, 2, 3, 1]
    assert len(world.target.restarts) == 1


@pytest.mark.parametrize("status", [500, 503])
def test_lost_answer_is_learnt_from_the_target(world: Any, status: int) -> None:
    """The restart happened but the answer was an error: `started_at` tells, so it counts as done, once."""
    world.silent()
    world.target.answer = status
    world.target.on_restart = world.healthy
    world.receive(world.alert())
    world.run(seconds=20)
    assert len(world.target.restarts) == 1
    assert [row.status for row in world.actions()] == ["succeeded"]
    assert world.incident().outcome == "healed"


def test_refused_restart_goes_to_people(world: Any) -> None:
    """A 4xx means that nothing happened: failed, and nothing else is left to try."""
    world.silent()
    world.target.answer = 403
    world.receive(world.alert())
    world.run(seconds=5)
    assert [row.status for row in world.actions()] == ["failed"]
    assert world.incident().state is State.ESCALATED


def test_process_that_was_not_replaced_is_not_healed(world: Any) -> None:
    """All signals calm, but the process start time is the old one: not healed by this restart."""
    start = catalogue.start_time_of("cart")
    world.prometheus.set(start, 5.0)
    world.silent()
    world.target.on_restart = world.healthy
    world.receive(world.alert())
    world.run(seconds=70)
    assert [row.verdict for row in world.actions()] == ["not_healed"]


def test_a_restart_that_was_only_promised_has_healed_nothing(world: Any) -> None:
    """The target says yes, does nothing, and the service recovers. `started_at` tells that it was not us."""
    world.silent()
    world.target.pretends, world.target.on_restart = True, world.healthy
    world.receive(world.alert())
    world.run(seconds=90)
    assert [row.verdict for row in world.actions()] == ["not_healed"]
    assert world.incident().outcome == "recovered"
    assert any("the target still says it started at 0" in line for line in world.story())


def test_a_restart_that_comes_after_the_promise_is_waited_for(world: Any) -> None:
    """The target answers at once and restarts some seconds later."""
    world.silent()
    world.target.pretends, world.target.on_restart = True, world.healthy
    world.receive(world.alert())
    world.run(seconds=20)
    assert world.incident().state is State.VERIFYING
    world.target.restarts.append("the one that was promised")
    world.run(seconds=5)
    assert (world.incident().state, world.incident().outcome) == (State.RESOLVED, "healed")


def test_who_is_called_hears_that_the_restart_was_only_promised(world: Any) -> None:
    """It goes on failing, and the target has not done what it said."""
    world.silent()
    world.target.pretends = True
    world.receive(world.alert())
    world.run(seconds=90)
    assert world.incident().state is State.ESCALATED
    assert "the target still says it started at 0" in world.calls[0].reason


def test_paused_stops_before_the_effect_and_goes_on_after(world: Any) -> None:
    """The kill switch: no effect while paused, one after."""
    change = mode.change
    world.context.store.write(lambda connection: change(connection, Mode.PAUSED, by="me", now=1.0))
    world.silent()
    world.target.on_restart = world.healthy
    world.receive(world.alert())
    world.run(seconds=60)
    assert world.target.restarts == []
    assert "paused" in world.incident().waiting_for
    assert sum(line.startswith("guardrail:") for line in world.story()) == 1
    world.context.store.write(lambda connection: change(connection, Mode.AUTOMATIC, by="me", now=2.0))
    world.run(seconds=3)
    assert len(world.target.restarts) == 1


def test_dry_run_has_no_effect_and_says_what_it_would_do(make_world: Callable[..., Any]) -> None:
    """Everything but the effect."""
    world = make_world(mode="dry_run")
    world.silent()
    world.receive(world.alert())
    world.run(seconds=5)
    assert world.target.restarts == []
    assert any("Dry run: would restart" in line for line in world.story())
    assert [call.reason for call in world.calls] == [f"dry run: would restart {world.target.restart_url}"]


def test_unanswered_approval_escalates(make_world: Callable[..., Any]) -> None:
    """In approval mode nothing happens without a person, and silence goes to people."""
    world = make_world(mode="approval")
    world.silent()
    world.receive(world.alert())
    world.run(seconds=10)
    world.run(seconds=1400, tick=20)
    assert world.incident().state is State.AWAITING_APPROVAL, "who was called last may still allow it"
    world.run(seconds=200, tick=20)
    assert world.incident().state is State.ESCALATED
    assert world.target.restarts == []


def test_someone_else_heals_an_escalated_incident(world: Any) -> None:
    """People heal too: fresh samples prove it, it resolves as recovered and calls nobody further."""
    world.silent()
    world.target.answer = 403
    world.receive(world.alert())
    world.run(seconds=5)
    world.healthy()
    world.run(seconds=20)
    incident = world.incident()
    assert (incident.state, incident.outcome, incident.level_due_at) == (State.RESOLVED, "recovered", None)
    assert "verification: Healed: inside all limits for 5 s, on fresh samples." in world.story()


def test_calm_after_resolution_closes(world: Any) -> None:
    """Closed after the relapse window once the alert has ended."""
    world.silent()
    alert = world.alert()
    world.receive(alert)
    world.target.on_restart = world.healthy
    world.run(seconds=20)
    world.receive(world.alert(starts_at=alert.starts_at, status="resolved"))
    world.run(seconds=320, tick=5)
    assert world.incident().state is State.CLOSED


def test_relapse_reopens_and_cooldown_holds(world: Any) -> None:
    """A new alert re-opens the incident, and the cooldown delays the second restart."""
    world.silent()
    first = world.alert()
    world.receive(first)
    world.target.on_restart = world.healthy
    world.run(seconds=20)
    assert world.incident().state is State.RESOLVED
    world.silent()
    world.receive(world.alert(starts_at="later"))
    world.run(seconds=10)
    incident = world.incident()
    assert incident.relapses == 1
    assert "cooldown" in incident.waiting_for
    assert len(world.target.restarts) == 1
    world.run(seconds=60)
    assert len(world.target.restarts) == 2


def test_budget_used_up_goes_to_people(make_world: Callable[..., Any]) -> None:
    """The fourth restart within the window is refused, and no cooldown brings it back."""
    world = make_world(guardrails={"max_actions": 2, "per": "1h", "cooldown": 0})
    world.target.on_restart = world.healthy
    for number in range(3):
        world.silent()
        world.receive(world.alert(starts_at=f"{number}"))
        world.run(seconds=20)
    assert len(world.target.restarts) == 2
    assert world.incident().state is State.ESCALATED
    assert any("max_actions refuses" in line for line in world.story())


def test_alert_that_outlives_the_proof_starts_over(world: Any) -> None:
    """Resolved, but its alert still fires after the relapse window: diagnosed again."""
    world.silent()
    world.receive(world.alert())
    world.target.on_restart = world.healthy
    world.run(seconds=20)
    world.run(seconds=310, tick=5)
    assert world.incident().relapses == 1
    assert len(world.target.restarts) == 1  # calm, so nothing is done again


def test_unexpected_error_harms_only_its_incident(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A strategy that raises is noted, tried again, and after three times handed to people."""

    def explode(*_: Any, **__: Any) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr(HttpRestart, "snapshot", explode)
    world.silent()
    world.receive(world.alert())
    world.run(seconds=60)
    assert world.incident().state is State.ESCALATED
    assert sum("boom" in line for line in world.story() if line.startswith("note:")) == 3


def test_service_is_held_against_its_own_limits(make_world: Callable[..., Any]) -> None:
    """A service that normally fails 10 % of its requests is calm at 15 % when its own limit is 20 %."""
    world = make_world()
    world.close()
    services = world.values["services"]
    world.values["services"] = {"cart": {**services["cart"], "thresholds": {"error_ratio": 0.2}}}
    world.open()
    world.set(ERROR_RATIO.series, 0.15)
    world.set(ERROR_RATIO.fresh_series, 0.15)
    world.receive(world.alert(signal="error_ratio"))
    world.run(seconds=20)
    assert world.incident().outcome == "recovered"
    assert world.target.restarts == []


def test_blip_that_is_over_is_not_restarted(world: Any) -> None:
    """The detection's window still shows the failure, the newest samples do not: only watched."""
    world.set(HEARTBEAT.series, 0.0)
    world.receive(world.alert())
    world.run(seconds=3)
    world.set(HEARTBEAT.series, 1.0)
    world.run(seconds=20)
    assert world.incident().failure_class == "service_failure"
    assert world.incident().outcome == "recovered"
    assert world.target.restarts == []


def test_pause_between_intent_and_effect_stops_the_effect(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paused after the guardrails allowed it: nothing happens; it is done after pause and cooldown."""
    change, announce = mode.change, journal.announce

    def announce_and_pause(*arguments: Any, **options: Any) -> Any:
        answer = announce(*arguments, **options)
        world.context.store.write(lambda connection: change(connection, Mode.PAUSED, by="me", now=1.0))
        return answer

    world.silent()
    world.receive(world.alert())
    with monkeypatch.context() as patch:
        patch.setattr(journal, "announce", announce_and_pause)
        world.run()
    assert world.target.restarts == []
    assert [row.status for row in world.actions()] == ["failed"]
    world.context.store.write(lambda connection: change(connection, Mode.AUTOMATIC, by="me", now=2.0))
    world.run(seconds=3)
    assert world.target.restarts == []  # it was written down as begun, so it counts
    world.run(seconds=70)
    assert len(world.target.restarts) == 1


def test_without_evidence_the_plan_does_not_go_on(make_world: Callable[..., Any]) -> None:
    """No evidence after the first strategy: the next one is not tried, for it may have healed."""
    world = make_world(plans={"service_failure": ["restart", "retry"]})
    world.silent()
    world.receive(world.alert())

    def vanish() -> None:
        world.set(HEARTBEAT.fresh_series, None)

    world.target.on_restart = vanish
    world.run(seconds=70)
    assert [row.verdict for row in world.actions()] == ["no_evidence"]
    assert world.target.probes == 0
    assert world.incident().state is State.ESCALATED


def test_not_healed_goes_on_with_the_next_strategy(make_world: Callable[..., Any]) -> None:
    """Known to fail still: one level up, and the plan's next strategy."""
    world = make_world(plans={"service_failure": ["restart", "retry"]})
    world.silent()
    world.receive(world.alert())
    world.run(seconds=64)
    assert world.incident().level == 1
    assert [row.strategy for row in world.actions()] == ["restart", "retry"]


def iso(at: float) -> str:
    """A time as alerts tell it."""
    return datetime.fromtimestamp(at, UTC).isoformat()


def test_the_diagnosis_keeps_what_the_series_say(world: Any) -> None:
    """Stored with the incident: the lead, what is missing, the version of the rules, and queries to paste."""
    world.clock.now += 600
    world.silent()
    world.clock.now += 30
    world.receive(world.alert())
    world.run()
    told = world.incident().diagnosis
    assert told["localization"]["lead"] == "cart"
    assert told["rules_version"] == told["localization"]["rules_version"]
    assert (
        told["localization"]["suspects"][0]["claims"][0]["series"] == 'service:shf_up:ratio{service="cart"}'
    )
    assert any("cart: cpu" in text for text in told["missing"])


def test_a_relapse_is_diagnosed_from_its_own_beginning(world: Any) -> None:
    """Not from that of the failure before it, which is over and may have had another cause."""
    world.clock.now += 3600
    world.silent()
    first = world.alert(starts_at=iso(world.clock.now))
    world.receive(first)
    world.target.on_restart = world.healthy
    world.run(seconds=20)
    world.receive(replace(first, status="resolved"))
    world.run(seconds=200, tick=5)
    again = world.clock.now
    world.silent()
    world.receive(world.alert(starts_at=iso(again)))
    world.run(seconds=1)
    assert world.incident().relapses == 1
    assert world.incident().diagnosis["localization"]["onset_at"] >= again - 5  # a sample


def test_what_begins_days_later_is_diagnosed_from_its_own_beginning(world: Any) -> None:
    """Another signal of an incident that people were called for, while its first alert fires on."""
    world.receive(world.alert(signal="cpu", starts_at=iso(world.clock.now)))
    world.run(seconds=1)
    assert world.incident().state is State.ESCALATED
    world.clock.now += 3 * 86_400
    world.silent()
    again = world.clock.now
    world.receive(world.alert(starts_at=iso(again)))
    world.run(seconds=1)
    assert world.incident().diagnosis["localization"]["onset_at"] >= again - 5  # a sample


def test_a_range_query_that_fails_does_not_stop_the_healing(world: Any) -> None:
    """The dearest query may fail while the others answer: the service is healed, and the gap is told."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise PrometheusUnavailable("query timed out")

    world.prometheus.range = refuse
    world.silent()
    world.target.on_restart = world.healthy
    world.receive(world.alert())
    world.run(seconds=15)
    assert (world.incident().state, world.incident().outcome) == (State.RESOLVED, "healed")
    assert world.incident().diagnosis["missing"] == ["series over time: query timed out"]


def test_what_is_new_is_begun_with_in_the_transaction_that_takes_it_in(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One commit until the first step is done; nobody else can have the incident in between."""
    world.silent()
    world.receive(world.alert())
    commits: list[str] = []
    write = world.context.store.write

    def count(function: Any) -> Any:
        answer = write(function)
        commits.append(world.incidents()[0].state.value)
        return answer

    monkeypatch.setattr(world.context.store, "write", count)
    (incident,) = world.orchestrator.take_in_and_claim(8)
    assert commits == ["diagnosing"]
    assert (incident.state, incident.epoch) == (State.DIAGNOSING, 1)
    assert world.context.leases.holds(incident)
    assert "detected -> diagnosing" in world.story()[-1]


def test_an_incident_that_cannot_be_taken_up_keeps_no_other_waiting(
    make_world: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is claimed together is taken up in one transaction: one fault must not undo it all for ever."""
    world = make_world(depends_on={"cart": (), "db": ()})
    for service in ("cart", "db"):
        world.silent(service)
        world.receive(world.alert(service=service))
    world.targets["db"].on_restart = lambda: world.healthy("db")
    decide = world.orchestrator.decide

    def broken(incident: Any) -> Any:
        if incident.service == "cart":
            raise ValueError("not to be understood")
        return decide(incident)

    monkeypatch.setattr(world.orchestrator, "decide", broken)
    taken = world.orchestrator.take_in_and_claim(8)
    assert {incident.service for incident in taken} == {"cart", "db"}, "taken in nevertheless"
    for incident in taken:
        world.orchestrator.work(incident)
    world.run(seconds=20)
    assert world.restarts() == {"db": 1}
    assert world.incident_of("db").outcome == "healed"
    assert any("Unexpected error" in line for line in world.story(world.incident_of("cart")))
