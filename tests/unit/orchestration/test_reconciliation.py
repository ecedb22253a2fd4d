"""The servers are the truth: what was never delivered is found, what ended ends, doubt changes nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from structlog.testing import capture_logs
from werkzeug import Request, Response

from deadline import wait_until
from self_healing_fabric import servers_asked
from self_healing_fabric.guardrails import mode
from self_healing_fabric.incidents.ingestion import identity_time
from self_healing_fabric.incidents.lifecycle import State
from self_healing_fabric.incidents.limits import MAX_LABELS
from self_healing_fabric.orchestration import waits
from self_healing_fabric.orchestration.decisions import DECISIONS, decide
from self_healing_fabric.orchestration.healing_orchestrator import HealingOrchestrator
from self_healing_fabric.orchestration.leases import Leases
from self_healing_fabric.orchestration.reconciliation import Reconciliation
from self_healing_fabric.settings import Mode
from self_healing_fabric.store import statements

SENT = "2026-11-22T07:31:33.778033912Z"  # as the webhook sends it
LISTED = "2026-11-22T07:31:33.778Z"  # as the API of the same Alertmanager lists it


class Alertmanager:
    """What GET /api/v2/alerts lists, the receivers that it has, and its silences."""

    def __init__(self, server: HTTPServer) -> None:
        self.alerts: list[dict[str, Any]] = []
        self.receivers = ["people", "self-healing-fabric"]
        self.silences: list[dict[str, Any]] = []
        self.status = 200
        self.takes = 0.0  # seconds to list the alerts
        self.silences_status = 200
        self.url = server.url_for("/am")
        server.expect_request("/am/api/v2/alerts").respond_with_handler(self._answer)
        server.expect_request("/am/api/v2/receivers").respond_with_handler(self._known)
        server.expect_request("/am/api/v2/silences").respond_with_handler(self._silences)

    def _answer(self, _: Request) -> Response:
        time.sleep(self.takes)
        return Response(json.dumps(self.alerts), status=self.status, mimetype="application/json")

    def _known(self, _: Request) -> Response:
        named = [{"name": name} for name in self.receivers]
        return Response(json.dumps(named), status=self.status, mimetype="application/json")

    def _silences(self, _: Request) -> Response:
        return Response(json.dumps(self.silences), self.silences_status, mimetype="application/json")

    def silence(self, *matchers: dict[str, Any], state: str = "active") -> None:
        """List a silence."""
        self.silences.append({"id": "a", "matchers": list(matchers), "status": {"state": state}})

    def list(
        self,
        *,
        state: str = "active",
        receiver: str = "self-healing-fabric",
        starts_at: str = LISTED,
        **changed: str,
    ) -> None:
        """List the alert of `cart`, with these labels changed."""
        labels = {"alertname": "Test", "service": "cart", "signal": "heartbeat", "severity": "critical"}
        labels |= changed
        self.alerts.append(
            {
                "annotations": {"summary": "it fails"},
                "endsAt": "2026-11-22T07:35:33.778Z",
                "fingerprint": "heartbeat-cart",
                "receivers": [{"name": receiver}],
                "startsAt": starts_at,
                "status": {"inhibitedBy": [], "silencedBy": [], "state": state},
                "updatedAt": "2026-11-22T07:31:33.780Z",
                "generatorURL": "http://prom.example/graph",
                "labels": labels,
            }
        )


@pytest.fixture
def alertmanager(httpserver: HTTPServer) -> Alertmanager:
    """An Alertmanager that lists nothing."""
    return Alertmanager(httpserver)


@pytest.fixture
def compared(
    make_world: Callable[..., Any], alertmanager: Alertmanager
) -> Iterator[tuple[Any, Callable[[], None]]]:
    """A world with that Alertmanager, and a function that compares once and does what follows."""
    world = make_world(alertmanager={"url": alertmanager.url})
    reconciliation = Reconciliation(world.context)

    def compare() -> None:
        reconciliation.run()
        world.run()

    yield world, compare
    reconciliation.close()


def alert(world: Any, **changes: Any) -> Any:
    """The alert of `cart` as the webhook takes it in."""
    moment = datetime.fromisoformat(SENT[:26] + "+00:00")
    return world.alert(**{"fingerprint": "heartbeat-cart", "starts_at": identity_time(moment), **changes})


def statuses(world: Any) -> list[str]:
    """The statuses of the only incident's alerts."""
    return [row.status for row in world.alerts_of(world.incident())]


def test_lost_notification_is_found(compared: Any, alertmanager: Alertmanager) -> None:
    """Listed as active and never delivered: taken in, and healed without a notification."""
    world, compare = compared
    world.silent()
    world.target.on_restart = world.healthy
    alertmanager.list()
    compare()
    world.run(seconds=20)
    assert len(world.target.restarts) == 1
    assert world.incident().outcome == "healed"


def test_listed_and_delivered_is_one_alert(compared: Any, alertmanager: Alertmanager) -> None:
    """The webhook's nanoseconds and the list's milliseconds are the same alert."""
    world, compare = compared
    world.receive(alert(world))
    alertmanager.list()
    compare()
    compare()
    assert statuses(world) == ["firing"]


@pytest.mark.parametrize("listed", [{"state": "suppressed"}, {"receiver": "people"}])
def test_silenced_and_foreign_alerts_are_left_alone(
    compared: Any, alertmanager: Alertmanager, listed: dict[str, str]
) -> None:
    """A silenced alert is somebody's decision, another receiver's is not ours: no incident."""
    world, compare = compared
    world.silent()
    alertmanager.list(**listed)
    compare()
    assert world.context.store.read(statements.list_incidents) == []


def test_alert_that_is_no_longer_listed_has_ended(compared: Any, alertmanager: Alertmanager) -> None:
    """`resolved` was lost: after the grace the alert ends, so the resolved incident can close."""
    world, compare = compared
    world.silent()
    world.target.on_restart = world.healthy
    world.receive(alert(world))
    world.run(seconds=20)
    assert world.incident().state is State.RESOLVED
    compare()
    assert statuses(world) == ["firing"]
    world.run(seconds=60, tick=5)
    compare()
    assert statuses(world) == ["resolved"]
    world.run(seconds=300, tick=10)
    assert world.incident().state is State.CLOSED


FOREIGN = [{"service": "billing"}, {"signal": "disk_full"}]  # what another Prometheus may have sent


def compare_for(world: Any, compare: Callable[[], None], seconds: int) -> None:
    """Let time pass, and the loop compare as often as it does."""
    for _ in range(seconds // 10):
        world.run(seconds=10, tick=5)
        compare()


@pytest.mark.parametrize("labels", FOREIGN)
def test_alertmanager_that_starts_anew_calls_nobody_again(
    compared: Any, alertmanager: Alertmanager, labels: dict[str, str]
) -> None:
    """Twice: it lists nothing until it is told again. Nothing has ended, and nobody hears so."""
    world, compare = compared
    alertmanager.list(**labels)
    compare()
    compare_for(world, compare, 60)
    known = alertmanager.alerts[:]
    alertmanager.alerts.clear()
    compare_for(world, compare, 60)
    alertmanager.status = 503
    compare_for(world, compare, 200)
    alertmanager.status = 200
    compare_for(world, compare, 120)
    alertmanager.alerts.extend(known)
    compare_for(world, compare, 60)
    assert [each.state for each in world.incidents()] == [State.ESCALATED]
    assert world.ends == []
    assert len({call.incident_id for call in world.calls}) == 1
    assert len({call.level for call in world.calls}) == len(world.calls)


@pytest.mark.parametrize("labels", FOREIGN)
@pytest.mark.parametrize("away", [None, "Prometheus does not answer"])
def test_foreign_alert_ends_when_nobody_sends_it_again(
    compared: Any, alertmanager: Alertmanager, labels: dict[str, str], away: str | None
) -> None:
    """`resolved` was lost: Alertmanager has listed nothing for longer than it takes to be told again."""
    world, compare = compared
    alertmanager.list(**labels)
    compare()
    world.prometheus.away = away
    compare_for(world, compare, 60)
    alertmanager.alerts.clear()
    compare_for(world, compare, 240)
    assert world.incident().state is State.CLOSED
    assert len(world.ends) == 1


def test_replica_that_took_over_waits_anew(
    compared: Any, alertmanager: Alertmanager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What another one saw meanwhile it does not know: the foreign alert ends later."""
    world, compare = compared
    alertmanager.list(service="billing")
    compare()
    compare_for(world, compare, 60)
    alertmanager.alerts.clear()
    compare_for(world, compare, 120)
    with monkeypatch.context() as patch:
        patch.setattr(world.context.leases, "lead", lambda: False)
        compare()
    compare_for(world, compare, 120)
    assert statuses(world) == ["firing"]
    compare_for(world, compare, 60)
    assert statuses(world) == ["resolved"]


def test_alertmanager_that_starts_anew_ends_nothing_that_prometheus_fires(
    compared: Any, alertmanager: Alertmanager
) -> None:
    """Or may fire, while it does not answer: it ends when both say so."""
    world, compare = compared
    known = alert(world)
    world.receive(known)
    world.prometheus.alerts = lambda: [{"labels": known.labels, "state": "firing"}]
    compare_for(world, compare, 200)
    assert statuses(world) == ["firing"]
    del world.prometheus.alerts
    world.prometheus.away = "Prometheus does not answer"
    compare_for(world, compare, 200)
    assert statuses(world) == ["firing"]
    world.prometheus.away = None
    compare()
    assert statuses(world) == ["resolved"]


def test_alert_that_was_cut_ends_by_alertmanagers_word(compared: Any, alertmanager: Alertmanager) -> None:
    """Prometheus lists it whole, so a comparison of labels would find it nowhere."""
    world, compare = compared
    whole = alert(world, labels={f"l{number}": "v" for number in range(MAX_LABELS)})
    world.receive(whole)
    world.prometheus.alerts = lambda: [{"labels": whole.labels, "state": "firing"}]
    alertmanager.status = 503
    compare_for(world, compare, 240)
    assert statuses(world) == ["firing"]
    alertmanager.status = 200
    compare_for(world, compare, 120)
    assert statuses(world) == ["firing"]
    compare_for(world, compare, 60)
    assert statuses(world) == ["resolved"]


def test_what_alertmanager_lists_with_another_start_it_has_not_forgotten(
    compared: Any, alertmanager: Alertmanager
) -> None:
    """It began anew: this one has ended, although Prometheus still fires it."""
    world, compare = compared
    known = alert(world)
    world.receive(known)
    world.prometheus.alerts = lambda: [{"labels": known.labels, "state": "firing"}]
    world.run(seconds=60, tick=5)
    alertmanager.list(starts_at="2026-11-22T08:00:00Z")
    compare()
    assert statuses(world)[0] == "resolved"


@pytest.mark.parametrize("labels", FOREIGN)
def test_an_alert_that_goes_to_others_now_has_not_ended(
    compared: Any, alertmanager: Alertmanager, labels: dict[str, str]
) -> None:
    """A route was changed: it fires all the same, so nobody is told that it is over until it is."""
    world, compare = compared
    alertmanager.list(**labels)
    compare()
    alertmanager.alerts[0]["receivers"] = [{"name": "people"}]
    compare_for(world, compare, 300)
    assert (world.incident().state, world.ends) == (State.ESCALATED, [])
    alertmanager.alerts.clear()
    compare_for(world, compare, 240)
    assert (world.incident().state, len(world.ends)) == (State.CLOSED, 1)


@pytest.mark.parametrize("labels", [{}, *FOREIGN])
def test_a_receiver_that_does_not_exist_ends_nothing(
    compared: Any, alertmanager: Alertmanager, labels: dict[str, str]
) -> None:
    """Renamed in Alertmanager only: its list has nothing for us, which is not that nothing fires."""
    world, compare = compared
    alertmanager.list(**labels)
    compare()
    at, known = world.clock.now, alert(world).labels
    world.prometheus.alerts = lambda: [{"labels": known, "state": "firing"}]
    alertmanager.receivers = ["people", "healer"]
    alertmanager.alerts.clear()
    with capture_logs() as logs:
        compare_for(world, compare, 300)
    (told,) = [each for each in logs if each["event"] == "server_unreachable"]
    assert "has no receiver self-healing-fabric" in told["error"]
    assert "it has: people, healer" in told["error"]
    (asked,) = servers_asked.known("alertmanager", alertmanager.url)
    assert (asked.answers, asked.error) == (False, told["error"])
    assert world.context.metrics.alertmanager_compared._value.get() == at
    assert world.ends == []
    assert statuses(world) == ["firing"]


@pytest.mark.parametrize("status", [500, 503, 401])
def test_servers_that_do_not_answer_end_nothing(
    compared: Any, alertmanager: Alertmanager, status: int
) -> None:
    """No answer is no evidence that an alert ended, and no success of the loop."""
    world, compare = compared
    world.receive(alert(world))
    world.run(seconds=60, tick=5)
    alertmanager.status = status
    world.prometheus.away = "Prometheus does not answer"
    compare()
    assert statuses(world) == ["firing"]
    assert world.context.metrics.last_reconcile._value.get() == 0.0


def test_absurd_list_ends_nothing(compared: Any, alertmanager: Alertmanager) -> None:
    """An answer of another shape, or with a time that cannot be, is no answer."""
    world, compare = compared
    world.receive(alert(world))
    world.run(seconds=60, tick=5)
    alertmanager.list()
    alertmanager.alerts[0]["startsAt"] = "0001-01-01T00:00:00+14:00"
    world.prometheus.away = "Prometheus does not answer"
    compare()
    assert statuses(world) == ["firing"]
    assert world.context.metrics.last_reconcile._value.get() == 0.0


@pytest.mark.parametrize("listed", [True, False])
def test_while_alertmanager_is_away_prometheus_tells_what_ended(
    compared: Any, alertmanager: Alertmanager, listed: bool
) -> None:
    """The loop goes on without Alertmanager: an alert ends when Prometheus answers and does not fire it.

    A rule whose condition is only pending does not fire.
    """
    world, compare = compared
    known = alert(world)
    world.receive(known)
    world.run(seconds=60, tick=5)
    alertmanager.status = 503
    firing = [{"labels": known.labels, "state": "firing"}]
    pending = [{"labels": known.labels, "state": "pending"}]
    world.prometheus.alerts = lambda: firing if listed else pending
    compare()
    assert statuses(world) == ["firing" if listed else "resolved"]
    assert world.context.metrics.last_reconcile._value.get() == world.clock.now


def test_alertmanager_that_answers_is_believed_before_prometheus(
    compared: Any, alertmanager: Alertmanager
) -> None:
    """Prometheus lists nothing right after its restart; what Alertmanager still lists goes on."""
    world, compare = compared
    world.receive(alert(world))
    world.run(seconds=60, tick=5)
    alertmanager.list()
    world.prometheus.alerts = list
    compare()
    assert statuses(world) == ["firing"]


def test_false_end_is_taken_back(compared: Any, alertmanager: Alertmanager) -> None:
    """A `resolved` that was false (Prometheus was away) does not hide an alert that is still listed."""
    world, compare = compared
    world.silent()
    world.target.answer = 403
    world.receive(alert(world))
    world.receive(alert(world, status="resolved"))
    alertmanager.list()
    compare()
    assert statuses(world) == ["firing"]


@pytest.fixture
def silence(compared: Any, alertmanager: Alertmanager) -> Callable[[bool], None]:
    """Silence the alert of `cart` at Alertmanager, or end the silence, and compare."""
    _, compare = compared

    def silence(on: bool) -> None:
        alertmanager.alerts.clear()
        alertmanager.list(state="suppressed" if on else "active")
        compare()

    return silence


def set_mode(world: Any, new: Mode) -> None:
    """A person sets the mode."""
    change = mode.change
    world.context.store.write(lambda connection: change(connection, new, by="ada", now=world.clock.now))


def test_silence_during_an_incident_stops_what_was_to_be_done(
    compared: Any, silence: Callable[[bool], None]
) -> None:
    """Silenced before the effect: nothing is done and nobody is called, until the silence ends."""
    world, _ = compared
    set_mode(world, Mode.PAUSED)
    world.silent()
    world.target.on_restart = world.healthy
    world.receive(alert(world))
    world.run(seconds=5)
    silence(True)
    set_mode(world, Mode.AUTOMATIC)
    world.run(seconds=400, tick=2)
    assert world.target.restarts == []
    assert "silenced" in world.incident().waiting_for
    assert world.calls == []
    silence(False)
    world.run(seconds=20)
    assert len(world.target.restarts) == 1
    assert world.incident().outcome == "healed"


def test_silence_holds_what_alertmanager_does_not_list_although_prometheus_fires_it(
    compared: Any, alertmanager: Alertmanager, silence: Callable[[bool], None]
) -> None:
    """It ended there and has begun anew in Prometheus, or Alertmanager has just started: silenced it is."""
    world, compare = compared
    set_mode(world, Mode.PAUSED)
    world.silent()
    world.target.on_restart = world.healthy
    known = alert(world)
    world.receive(known)
    world.prometheus.alerts = lambda: [{"labels": known.labels, "state": "firing"}]
    world.run(seconds=5)
    alertmanager.silence(matcher("service", "cart"))
    compare()
    set_mode(world, Mode.AUTOMATIC)
    world.run(seconds=100)
    assert statuses(world) == ["firing"]
    assert (world.target.restarts, world.calls) == ([], [])
    assert "silenced" in world.incident().waiting_for
    alertmanager.silences.clear()
    silence(False)
    world.run(seconds=20)
    assert len(world.target.restarts) == 1


def matcher(name: str, value: str, *, regex: bool = False, equal: bool = True) -> dict[str, Any]:
    """A matcher as GET /api/v2/silences lists it."""
    return {"name": name, "value": value, "isRegex": regex, "isEqual": equal}


CART = matcher("service", "cart")


@pytest.mark.parametrize(
    "matchers",
    [
        [CART],
        [matcher("service", "ca.*", regex=True), matcher("alertname", "Other", equal=False)],
        [
            matcher("service", "ca.*|shop", regex=True),
            matcher("severity", "info|none", regex=True, equal=False),
        ],
        [matcher("service", r"\Qcart\E", regex=True)],  # Go's, which Python does not know
        [matcher("service", "[[:alpha:]]+", regex=True)],
        [CART, matcher("team", "")],  # a label that is missing is empty
    ],
    ids=["equal", "unequal", "not like", "unreadable", "of a class", "missing"],
)
def test_silence_goes_on_between_two_alerts(
    compared: Any, alertmanager: Alertmanager, silence: Callable[[bool], None], matchers: list[dict[str, Any]]
) -> None:
    """Whoever silenced the service and works on it makes its alert end and come again: nothing is done about
    what fails meanwhile, before the silence ends."""
    world, compare = compared
    set_mode(world, Mode.PAUSED)
    world.silent()
    world.target.on_restart = world.healthy
    world.receive(alert(world))
    world.run(seconds=5)
    alertmanager.silence(*matchers)
    silence(True)
    set_mode(world, Mode.AUTOMATIC)
    world.run(seconds=40)
    alertmanager.alerts.clear()
    compare()
    assert statuses(world) == ["resolved"]
    world.run(seconds=100)
    assert world.target.restarts == []
    assert "silenced" in world.incident().waiting_for
    alertmanager.list(state="suppressed", starts_at="2026-11-22T07:45:00.000Z")
    compare()
    world.run(seconds=100)
    assert (world.target.restarts, world.calls) == ([], [])
    alertmanager.silences.clear()
    alertmanager.silence(*matchers, state="expired")
    silence(False)
    world.run(seconds=20)
    assert len(world.target.restarts) == 1
    assert world.incident().outcome == "healed"


@pytest.mark.parametrize(
    "matchers",
    [
        [matcher("service", "prices")],
        [CART, matcher("alertname", "Other")],
        [matcher("service", "ca", regex=True)],
    ],
    ids=["service", "alert", "part of a name"],
)
def test_silence_of_something_else_ends_with_the_alert(
    compared: Any, alertmanager: Alertmanager, silence: Callable[[bool], None], matchers: list[dict[str, Any]]
) -> None:
    """The alert was inhibited and has ended; a silence of others holds back nothing of what still fails."""
    world, compare = compared
    set_mode(world, Mode.PAUSED)
    world.silent()
    world.receive(alert(world))
    world.run(seconds=5)
    alertmanager.silence(*matchers)
    silence(True)
    set_mode(world, Mode.AUTOMATIC)
    world.run(seconds=40)
    assert world.target.restarts == []
    alertmanager.alerts.clear()
    compare()
    world.run(seconds=10)
    assert len(world.target.restarts) == 1


def test_a_silence_that_python_would_evaluate_for_ever_holds_back(
    compared: Any, alertmanager: Alertmanager, silence: Callable[[bool], None]
) -> None:
    """What takes Alertmanager no time may take Python until the end of days, with all threads held up."""
    world, compare = compared
    set_mode(world, Mode.PAUSED)
    world.silent()
    told = alert(world)
    world.receive(replace(told, labels={**told.labels, "long": "a" * 40}))
    world.run(seconds=5)
    alertmanager.silence(CART, matcher("long", "(a|b|ab)*(a+)+c", regex=True, equal=False))
    silence(True)
    set_mode(world, Mode.AUTOMATIC)
    alertmanager.alerts.clear()
    world.run(seconds=40)
    compare()
    world.run(seconds=100)
    assert world.target.restarts == []
    assert "silenced" in world.incident().waiting_for


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_proxy_that_shows_no_silences_is_compared_with_all_the_same(
    compared: Any, alertmanager: Alertmanager, silence: Callable[[bool], None], status: int
) -> None:
    """Rights to the alerts and the receivers tell of all that fires, and what of it is silenced."""
    world, compare = compared
    alertmanager.silences_status = status
    alertmanager.list()
    world.silent()
    set_mode(world, Mode.PAUSED)
    with capture_logs() as logs:
        compare()
        compare()
    assert statuses(world) == ["firing"]
    assert [each["server"] for each in logs if each["event"] == "server_unreachable"] == [
        "alertmanager's silences"
    ]
    silence(True)
    set_mode(world, Mode.AUTOMATIC)
    world.run(seconds=40)
    assert world.target.restarts == []
    alertmanager.alerts.clear()
    compare()
    world.run(seconds=10)
    assert len(world.target.restarts) == 1


def test_healing_between_two_alerts_is_seen_during_a_silence(
    compared: Any, alertmanager: Alertmanager, silence: Callable[[bool], None]
) -> None:
    """It was silenced before it was looked at, and repaired by hand: resolved, whatever the silence."""
    world, compare = compared
    world.prometheus.away = "Prometheus does not answer"
    world.silent()
    world.receive(alert(world))
    world.run(seconds=2)
    alertmanager.silence(CART)
    silence(True)
    world.run(seconds=40)
    world.prometheus.away = None
    world.healthy()
    alertmanager.alerts.clear()
    compare()
    world.run(seconds=30)
    assert (world.incident().state, world.incident().outcome) == (State.RESOLVED, "recovered")
    assert (world.target.restarts, world.calls) == ([], [])


def test_silence_of_a_part_of_the_alerts_stops_nothing(
    compared: Any, silence: Callable[[bool], None]
) -> None:
    """One alert is silenced and another of the service fires on: it is healed."""
    world, _ = compared
    set_mode(world, Mode.PAUSED)
    world.silent()
    world.receive(alert(world), world.alert(fingerprint="another"))
    world.run(seconds=5)
    silence(True)
    set_mode(world, Mode.AUTOMATIC)
    world.run(seconds=5)
    assert len(world.target.restarts) == 1


def test_silence_calls_no_further_level(compared: Any, silence: Callable[[bool], None]) -> None:
    """People were called; while the alert is silenced no deadline calls the next ones."""
    world, _ = compared
    world.silent()
    world.target.answer = 403
    world.receive(alert(world))
    world.run(seconds=5)
    assert [call.level for call in world.calls] == [1]
    silence(True)
    world.run(seconds=1000, tick=10)
    assert [call.level for call in world.calls] == [1]
    silence(False)
    world.run(seconds=100, tick=10)
    assert [call.level for call in world.calls] == [1, 2]


def test_verdict_on_a_silenced_incident_waits(compared: Any, silence: Callable[[bool], None]) -> None:
    """Restarted in vain and silenced meanwhile: nobody is called before the silence ends."""
    world, _ = compared
    world.silent()
    world.receive(alert(world))
    world.run(seconds=5)
    silence(True)
    world.run(seconds=200, tick=2)
    assert world.calls == []
    silence(False)
    world.run(seconds=5)
    assert [call.level for call in world.calls] == [1]
    assert [row.verdict for row in world.actions()] == ["not_healed"]


def test_healing_is_seen_during_a_silence(compared: Any, silence: Callable[[bool], None]) -> None:
    """Whoever silenced it repaired it: resolved, and nobody was called."""
    world, _ = compared
    world.silent()
    world.receive(alert(world))
    world.run(seconds=5)
    silence(True)
    world.run(seconds=100, tick=2)
    world.healthy()
    world.run(seconds=20)
    assert (world.incident().state, world.calls) == (State.RESOLVED, [])


def test_silenced_incident_that_waits_for_prometheus_calls_nobody(
    compared: Any, silence: Callable[[bool], None]
) -> None:
    """The patience for a server that is away runs out only for what people want to hear of."""
    world, _ = compared
    world.silent()
    world.prometheus.away = "Prometheus does not answer"
    world.receive(alert(world))
    world.run(seconds=5)
    silence(True)
    world.run(seconds=400, tick=2)
    assert world.calls == []
    world.prometheus.away = None
    world.run(seconds=20)
    assert world.target.restarts == []


def test_silenced_incident_is_not_asked_about(
    make_world: Callable[..., Any], alertmanager: Alertmanager
) -> None:
    """Nobody approved the plan of an incident that people have silenced: nobody is called for that."""
    world = make_world(mode="approval", alertmanager={"url": alertmanager.url})
    reconciliation = Reconciliation(world.context)
    world.silent()
    world.receive(alert(world))
    world.run(seconds=5)
    alertmanager.list(state="suppressed")
    reconciliation.run()
    reconciliation.close()
    world.run(seconds=400, tick=5)
    assert world.calls == []
    assert world.incident().state is State.AWAITING_APPROVAL
    decide(world.context, world.incident().id, DECISIONS["approve"], by="ada")


def test_suppression_follows_alertmanager(compared: Any, silence: Callable[[bool], None]) -> None:
    """Noted when it begins, forgotten when it ends; the alert fires all the while."""
    world, _ = compared
    world.receive(alert(world))
    world.run()
    seen = []
    for on in (True, True, False, True):
        silence(on)
        seen += [(row.status, row.suppressed) for row in world.alerts_of(world.incident())]
    assert seen == [("firing", True), ("firing", True), ("firing", False), ("firing", True)]


def test_incident_without_a_timer_is_taken_up(compared: Any) -> None:
    """Whatever lost its timer, nobody would look at it again: the comparison gives it one."""
    world, compare = compared
    world.silent()
    world.target.on_restart = world.healthy
    world.receive(alert(world))
    world.orchestrator.take_in()
    incident_id = world.incident().id
    world.context.store.write(lambda c: statements.annotate(c, incident_id, {"due_at": None}))
    world.run(seconds=60, tick=5)
    assert world.target.restarts == []
    compare()
    assert len(world.target.restarts) == 1


def test_incident_in_hand_is_not_taken_up(compared: Any) -> None:
    """A worker that has it will give it a timer: nobody else begins."""
    world, compare = compared
    world.receive(alert(world))
    world.orchestrator.take_in()
    (claimed,) = world.orchestrator.claim(8)
    world.context.store.write(lambda c: statements.annotate(c, claimed.id, {"due_at": None}))
    compare()
    assert world.incident().state is State.DIAGNOSING
    assert world.incident().due_at is None


def test_a_clock_that_is_set_back_does_not_stop_the_work(compared: Any) -> None:
    """By a day: what was due by the old time is done after the longest wait that there is, not tomorrow."""
    world, compare = compared
    world.silent()
    world.prometheus.away = "Prometheus does not answer"
    world.receive(world.alert())
    world.run()
    world.prometheus.away = None
    world.clock.now -= 86_400.0
    world.silent()
    compare()
    world.run(seconds=waits.longest(world.context.settings) + 30, tick=5)
    assert len(world.target.restarts) == 1


def test_old_incidents_are_retired(make_world: Callable[..., Any], alertmanager: Alertmanager) -> None:
    """Closed for longer than the retention: deleted with all that belongs to them; the others stay."""
    day = {"failures_within": "1d", "heals_within": "1d"}
    world = make_world(
        {"cart": [], "db": []}, retention="1d", guardrails=day, alertmanager={"url": alertmanager.url}
    )
    reconciliation = Reconciliation(world.context)
    for service in ("cart", "db"):
        world.silent(service)
        world.receive(world.alert(service=service))
        world.run(seconds=2)
        decide(world.context, world.incident_of(service).id, DECISIONS["close"], by="ada")
        world.clock.now += 50_000
    reconciliation.run()
    reconciliation.close()
    assert [each.service for each in world.incidents()] == ["db"]
    left = world.context.store.read(
        lambda c: [c.exec_driver_sql(f"SELECT count(*) FROM {name}").scalar() for name in RETAINED]  # noqa: S608
    )
    assert left == [1, 1, 1, 1]


RETAINED = ("incidents", "alerts", "actions", "retired")


def test_replica_that_does_not_lead_compares_nothing(
    compared: Any, alertmanager: Alertmanager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of several replicas compares for all; the others take nothing in and end nothing."""
    world, compare = compared
    world.receive(alert(world, fingerprint="gone"))
    world.run(seconds=60, tick=5)
    alertmanager.list()
    monkeypatch.setattr(world.context.leases, "lead", lambda: False)
    compare()
    known = [(row.fingerprint, row.status) for row in world.alerts_of(world.incident())]
    assert known == [("gone", "firing")]
    assert world.context.metrics.last_reconcile._value.get() == 0.0


def test_without_alertmanager_prometheus_tells_what_ended(world: Any) -> None:
    """Prometheus's own list ends an alert; one that it still lists with fewer labels goes on."""
    world.receive(world.alert(), world.alert(signal="cpu"))
    world.run(seconds=60, tick=5)
    listed = {"alertname": "Test", "service": "cart", "signal": "cpu"}  # external labels are missing
    world.prometheus.alerts = lambda: [{"labels": listed, "state": "firing"}]
    reconciliation = Reconciliation(world.context)
    reconciliation.run()
    reconciliation.close()
    ended = {row.labels["signal"]: row.status for row in world.alerts_of(world.incident())}
    assert ended == {"heartbeat": "resolved", "cpu": "firing"}


def test_a_silence_of_an_alertmanager_that_is_configured_no_more_holds_nothing(
    compared: Any, alertmanager: Alertmanager
) -> None:
    """Nobody would tell of its end: the incident would wait for ever."""
    world, compare = compared
    set_mode(world, Mode.PAUSED)
    world.silent()
    world.target.on_restart = world.healthy
    world.receive(alert(world), alert(world, fingerprint="another"))
    world.run(seconds=5)
    world.receive(alert(world, fingerprint="another", status="resolved"))
    world.run(seconds=5)
    alertmanager.list(state="suppressed")
    alertmanager.silence({"name": "service", "value": "cart", "isRegex": False, "isEqual": True})
    compare()
    assert [row.suppressed for row in world.alerts_of(world.incident())] == [True, True]
    world.close()
    del world.values["alertmanager"]
    world.open()
    set_mode(world, Mode.AUTOMATIC)
    world.run(seconds=60)
    assert world.target.restarts == []
    fired = {"service": "cart", "signal": "heartbeat"}
    world.prometheus.alerts = lambda: [{"labels": fired, "state": "firing"}]
    reconciliation = Reconciliation(world.context)
    reconciliation.run()
    reconciliation.close()
    assert not any(row.suppressed for row in world.alerts_of(world.incident()))
    world.run(seconds=60)
    assert len(world.target.restarts) == 1


@pytest.mark.parametrize("frozen", [False, True], ids=["between two processes", "frozen"])
def test_what_was_silenced_while_nothing_ran_is_left_alone(
    make_world: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, frozen: bool
) -> None:
    """People silence what fails and work on it; the fabric comes back, and Alertmanager takes its time."""
    with HTTPServer(threaded=True) as server, ExitStack() as running:
        alertmanager = Alertmanager(server)
        known = {"url": alertmanager.url, "timeout": 30}  # a busy machine is not an Alertmanager that is away
        world = make_world(alertmanager=known, reconcile_interval=1)
        world.clock.now = time.time() - 60
        pause, goes_on = 0.0, time.clock_gettime
        monkeypatch.setattr(time, "clock_gettime", lambda which: goes_on(which) + pause)

        def start() -> None:
            leases = Leases(world.context.store, time.time)
            orchestrator = HealingOrchestrator(replace(world.context, clock=time.time, leases=leases))
            orchestrator.start()
            running.callback(orchestrator.stop)

        def waits_for(what: str) -> None:
            wait_until(lambda: bool(world.incidents()) and what in (world.incident().waiting_for or ""))

        set_mode(world, Mode.PAUSED)
        world.silent()
        alertmanager.list()
        start()
        waits_for("paused")
        if not frozen:
            running.close()
        alertmanager.alerts.clear()
        alertmanager.list(state="suppressed")
        alertmanager.takes = 2.5
        pause = 3600.0
        set_mode(world, Mode.AUTOMATIC)
        if not frozen:
            start()
        waits_for("silenced")
    assert world.target.restarts == []
