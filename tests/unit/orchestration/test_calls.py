"""Calls: each level once and in time whatever is restarted, no more messages than a person can read.

The receivers are real HTTP servers that count what arrives; only time is held by the test.
"""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from sqlalchemy import event
from werkzeug import Request, Response

from self_healing_fabric.api.incidents import story
from self_healing_fabric.app import create_app
from self_healing_fabric.escalation.channels import CallFailed, Receipt
from self_healing_fabric.guardrails import mode
from self_healing_fabric.incidents import timeline
from self_healing_fabric.incidents.lifecycle import State
from self_healing_fabric.incidents.timeline import Entry, Kind
from self_healing_fabric.orchestration.caller import Batch, Caller, Sending
from self_healing_fabric.orchestration.decisions import DECISIONS, decide
from self_healing_fabric.orchestration.reconciliation import Reconciliation
from self_healing_fabric.settings import Mode
from self_healing_fabric.store import call_statements, statements
from world import START

SECRET = "a-secret-of-tests-long-enough"
DEADLINE = 100.0  # seconds of every level
IN_TIME = 5.0  # seconds


@dataclass
class Guardian:
    """A guardian's endpoint: keeps what it heard and when, and answers as told."""

    name: str
    url: str
    clock: Callable[[], float]
    answers: list[tuple[int, Any]] = field(default_factory=list)  # of the next calls; then 204
    heard: list[tuple[float, str, dict[str, Any]]] = field(default_factory=list)  # at, key, document
    meanwhile: Callable[[], Any] | None = None  # happens before the next call is answered

    def handle(self, request: Request) -> Response:
        """Note the call, then answer."""
        self.heard.append((self.clock(), request.headers["Idempotency-Key"], request.get_json()))
        status, said = self.answers.pop(0) if self.answers else (204, None)
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            meanwhile()
        if said is None:
            return Response(status=status)
        return Response(json.dumps(said), status=status, mimetype="application/json")

    @property
    def kinds(self) -> list[str]:
        """What each call was about."""
        return [document["kind"] for _, _, document in self.heard]


Guarded = Callable[..., tuple[Any, list[Guardian]]]


@pytest.fixture
def guarded(make_world: Callable[..., Any], httpserver: HTTPServer, tmp_path: Path) -> Guarded:
    """A world in which level N calls guardian N over HTTP; `settings` are further ones of escalation."""
    secret = tmp_path / "secret"
    secret.write_text(SECRET)

    def make(
        depends_on: Any = None, levels: Any = None, changes: Any = None, more: Any = None, **settings: Any
    ) -> Any:
        names = [f"guardian-{number}" for number in range(1, 5)]
        channels = {
            name: {"guardian": {"url": httpserver.url_for(f"/{name}"), "secret_file": str(secret)}}
            for name in names
        }
        channels |= more or {}
        each = [
            {"name": f"level {n}", "call": names[n - 1 : n] if n else [], "deadline": DEADLINE}
            for n in range(5)
        ]
        escalation = {"channels": channels, "levels": levels or each, **settings}
        world = make_world(depends_on, escalation=escalation, **(changes or {}))
        guardians = [Guardian(name, f"/{name}", world.clock) for name in names]
        for guardian in guardians:
            httpserver.expect_request(guardian.url, method="POST").respond_with_handler(guardian.handle)
        return world, guardians

    return make


def fails(world: Any, service: str) -> None:
    """The service is down, and a restart will be refused: people are called at once."""
    world.silent(service)
    world.targets[service].answer = 403
    world.receive(world.alert(service=service))


def failing(world: Any) -> None:
    """It is, and they were."""
    fails(world, "cart")
    world.run()


def calls_of(world: Any) -> dict[str, str]:
    """What became of the calls of the only incident, by contact and kind."""
    incident_id = world.incident().id
    rows = world.context.store.read(lambda connection: call_statements.calls_of(connection, incident_id))
    return {f"{row.contact} {row.kind}": row.status for row in rows if row.channel != "log"}


def waiting_for_prometheus(world: Any) -> None:
    """Diagnosing waits."""
    world.prometheus.away = "connection refused"
    world.receive(world.alert())


def waiting_for_a_person(world: Any) -> None:
    """A plan awaits approval."""
    world.context.store.write(
        lambda connection: mode.change(connection, Mode.APPROVAL, by="ada", now=world.clock.now)
    )
    world.silent()
    world.receive(world.alert())


def paused(world: Any) -> None:
    """Recovering waits for the end of a pause."""
    world.silent()
    world.receive(world.alert())
    world.context.store.write(
        lambda connection: mode.change(connection, Mode.PAUSED, by="ada", now=world.clock.now)
    )


def verifying(world: Any) -> None:
    """The restart has happened and nothing is proved yet."""
    world.silent()
    world.receive(world.alert())


WAITS = {
    State.DIAGNOSING: waiting_for_prometheus,
    State.AWAITING_APPROVAL: waiting_for_a_person,
    State.RECOVERING: paused,
    State.VERIFYING: verifying,
}


@pytest.mark.parametrize("state", WAITS)
def test_a_restart_in_any_wait_of_level_0_calls_level_1_once_and_in_time(
    guarded: Guarded, state: State
) -> None:
    """Whatever the incident waits for: not healed in level 0's deadline, level 1 hears of it once."""
    world, (first, second, *_) = guarded(
        changes={"verification": {"stability": 5, "deadline": 500, "interval": 1}}
    )
    began = world.clock.now
    WAITS[state](world)
    world.run(seconds=60, tick=2)
    assert (world.incident().state, world.incident().level) == (state, 0)
    world.crash()
    world.clock.now = began + DEADLINE - 1  # the process was away nearly until then
    world.run()
    assert first.heard == []
    world.crash()
    world.run(seconds=10)
    assert first.kinds == ["escalation"]
    (at, _, document) = first.heard[0]
    assert 0 <= at - (began + DEADLINE) <= IN_TIME
    assert (document["level"], document["incident"]["state"]) == (1, state.value)
    assert second.heard == []


@pytest.mark.parametrize("level", [1, 2, 3])
def test_a_restart_in_the_wait_of_a_level_calls_the_next_once_and_in_time(
    guarded: Guarded, level: int
) -> None:
    """Levels rise at their deadlines, each exactly once, however often the process starts anew."""
    world, guardians = guarded()
    failing(world)
    world.run(seconds=(level - 1) * DEADLINE + 10, tick=5)
    due = world.incident().level_due_at
    world.crash()
    world.run(seconds=due - world.clock.now - 0.5, tick=30)
    world.crash()
    world.run(seconds=10, tick=1)
    assert [len(guardian.heard) for guardian in guardians] == [1] * (level + 1) + [0] * (3 - level)
    at, _, document = guardians[level].heard[0]
    assert 0 <= at - due <= IN_TIME
    assert document["level"] == level + 1


def test_a_process_that_was_away_for_all_levels_calls_one_after_the_other(guarded: Guarded) -> None:
    """Down for an hour: the next level hears of it at once, those after it in their turn."""
    world, guardians = guarded()
    failing(world)
    world.run(seconds=5)
    world.crash()
    world.clock.now += 3600
    world.run(seconds=5)
    assert [len(guardian.heard) for guardian in guardians] == [1, 1, 0, 0]


def test_acknowledgement_stops_the_clock_and_withdraws_what_was_not_sent(guarded: Guarded) -> None:
    """Who was not reached yet needs not be: somebody has it."""
    world, (first, second, *_) = guarded()
    first.answers += [(503, None)] * 2
    failing(world)
    world.run(seconds=1.5)
    assert len(first.heard) == 1
    decide(world.context, world.incident().id, DECISIONS["acknowledge"], by="ada")
    world.run(seconds=4 * DEADLINE, tick=5)
    assert (len(first.heard), second.heard) == (1, [])
    assert calls_of(world) == {"guardian-1 escalation": "withdrawn"}


def test_healing_announces_itself_once_to_everyone_who_was_called(guarded: Guarded) -> None:
    """Both levels that were called hear how it ended, and nobody else; also when the process dies there."""
    world, guardians = guarded()
    failing(world)
    world.run(seconds=DEADLINE + 10, tick=2)
    world.healthy()
    world.run(seconds=8)
    world.crash()
    world.run(seconds=8)
    assert world.incident().state is State.RESOLVED
    assert [guardian.kinds for guardian in guardians] == [["escalation", "ended"]] * 2 + [[], []]
    assert guardians[0].heard[1][2]["reason"] == "Recovered, and proved"
    assert [call.level for call in world.ends] == [2]
    (alert,) = world.alerts_of(world.incident())
    world.context.store.write(lambda connection: statements.end_alert(connection, alert.id, world.clock.now))
    world.run(seconds=700, tick=20)
    assert [len(guardian.heard) for guardian in guardians] == [2, 2, 0, 0]


def test_levels_begin_anew_when_it_relapses(guarded: Guarded) -> None:
    """All were called and told that it is over: of the relapse they hear level by level, as of any."""
    world, guardians = guarded()
    failing(world)
    world.run(seconds=5 * DEADLINE, tick=5)
    assert [guardian.kinds for guardian in guardians] == [["escalation"]] * 4
    world.healthy()
    world.run(seconds=20)
    assert world.incident().state is State.RESOLVED
    world.silent()
    world.receive(world.alert(starts_at="later"))
    world.run(seconds=6 * DEADLINE, tick=5)
    assert [guardian.kinds for guardian in guardians] == [["escalation", "ended", "escalation"]] * 4
    assert world.incident().relapses == 1


def test_who_hands_on_the_last_level_calls_it_again(guarded: Guarded) -> None:
    """Above it is nobody, and whoever had it has it no more."""
    world, guardians = guarded()
    failing(world)
    world.run(seconds=4 * DEADLINE, tick=5)
    for decision in ("acknowledge", "escalate"):
        decide(world.context, world.incident().id, DECISIONS[decision], by="ada")
    world.run(seconds=5)
    assert [len(guardian.heard) for guardian in guardians] == [1, 1, 1, 2]
    assert (world.incident().level, world.incident().acknowledged_by) == (4, None)


def test_who_is_called_again_over_alertmanager_hears_of_it(guarded: Guarded, httpserver: HTTPServer) -> None:
    """It does not repeat an alert that fires already: each call is an alert, which ends with the incident."""
    posted: list[dict[str, Any]] = []

    def take(request: Request) -> Response:
        posted.extend(request.get_json())
        return Response()

    httpserver.expect_request("/am/api/v2/alerts", method="POST").respond_with_handler(take)
    on_call = {"on-call": {"alertmanager": {"urls": [httpserver.url_for("/am")]}}}
    levels = [{"name": f"level {n}", "call": ["on-call"] if n else []} for n in range(5)]
    world, _ = guarded(levels=levels, channels=on_call)
    failing(world)
    world.receive(world.alert(signal="cpu", labels={"severity": "critical"}))
    world.run(seconds=5)
    fired = {json.dumps(alert["labels"], sort_keys=True) for alert in posted}
    assert len({json.loads(labels)["call"] for labels in fired if '"escalation_level": "1"' in labels}) == 2
    posted.clear()
    decide(world.context, world.incident().id, DECISIONS["close"], by="ada")
    world.run(seconds=5)
    assert {json.dumps(alert["labels"], sort_keys=True) for alert in posted} == fired


def test_a_channel_that_hangs_keeps_no_other_from_calling(guarded: Guarded) -> None:
    """An Alertmanager swallows what it is told of many incidents: a guardian hears of another at once."""
    heard = threading.Event()
    names = [f"s{number}" for number in range(20)]
    calls = [[], ["on-call"], ["ana"], ["on-call"], ["on-call"]]
    levels = [{"name": f"level {n}", "call": call} for n, call in enumerate(calls)]
    with socket.create_server(("127.0.0.1", 0), backlog=100) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        world, (ana, *_) = guarded(
            dict.fromkeys([*names, "cart"], ()),
            levels=levels,
            contacts={"ana": ["guardian-1"]},
            more={"on-call": {"alertmanager": {"urls": [url], "timeout": "30s"}}},
            changes={"guardrails": {"fleet": {"storm": 100}}},
        )
        world.values["services"]["cart"]["escalation"] = {"start_level": 2}
        world.crash()
        for name in [*names, "cart"]:
            fails(world, name)
            world._work(world.orchestrator.take_in_and_claim(8))
        world.clock.now += 1  # what is gathered is due
        ana.meanwhile = heard.set
        world.caller.start()
        try:
            assert heard.wait(15.0)
        finally:
            silent.close()  # resets those that wait
            world.caller.stop()


def test_a_sign_of_life_that_comes_late_does_not_call_again_what_is_over(
    guarded: Guarded, httpserver: HTTPServer
) -> None:
    """A process was frozen before it kept the alert alive; another one has ended it meanwhile."""
    posted: list[dict[str, Any]] = []

    def take(request: Request) -> Response:
        posted.extend(request.get_json())
        return Response()

    httpserver.expect_request("/am/api/v2/alerts", method="POST").respond_with_handler(take)
    on_call = {"on-call": {"alertmanager": {"urls": [httpserver.url_for("/am")]}}}
    levels = [{"name": f"level {n}", "call": ["on-call"] if n else [], "deadline": 900} for n in range(5)]
    world, _ = guarded(levels=levels, channels=on_call)
    failing(world)
    world.run(seconds=5)
    world.clock.now += 100  # a sign of life is due
    (late,) = [batch for batch in world.caller.look() if batch.rows[0].channel == "on-call"]
    decide(world.context, world.incident().id, DECISIONS["close"], by="ada")
    world.run(seconds=5)
    assert len(posted) == 2  # that it fires, and that it is over
    world.caller.send(late)
    assert len(posted) == 2


def test_what_is_posted_while_alertmanager_is_asked_is_not_forgotten(
    guarded: Guarded, httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its list was made before: the alert is not posted again at once."""
    posted: list[Any] = []

    def take(request: Request) -> Response:
        posted.append(request.get_json())
        return Response()

    httpserver.expect_request("/am/api/v2/alerts", method="POST").respond_with_handler(take)
    httpserver.expect_request("/am/api/v2/alerts", method="GET").respond_with_json([])
    httpserver.expect_request("/am/api/v2/receivers").respond_with_json([{"name": "self-healing-fabric"}])
    httpserver.expect_request("/am/api/v2/silences").respond_with_json([])
    world, _ = guarded(
        levels=[{"name": f"level {n}", "call": ["on-call"] if n else [], "deadline": 900} for n in range(5)],
        channels={"on-call": {"alertmanager": {}}},
        changes={"alertmanager": {"url": httpserver.url_for("/am")}},
    )
    fails(world, "cart")
    world.orchestrator.take_in()
    while not world.incident().level:
        for incident in world.orchestrator.claim(8):
            world.orchestrator.work(incident)
        world.clock.now += 1
    reconciliation = Reconciliation(world.context)
    made = reconciliation._list

    def list_then_send(settings: Any) -> Any:
        listed = made(settings)
        for batch in world.caller.look():
            world.caller.send(batch)
        return listed

    monkeypatch.setattr(reconciliation, "_list", list_then_send)
    reconciliation.run()
    assert len(posted) == 1
    world.run(seconds=5)
    assert len(posted) == 1
    reconciliation.close()


def test_what_healed_before_it_was_told_is_not_told(guarded: Guarded) -> None:
    """Healed while the call was still being gathered: nobody is disturbed, not even by the end."""
    world, (first, *_) = guarded(bounds={"gather": 4})
    failing(world)
    incident_id = world.incident().id
    decide(world.context, incident_id, DECISIONS["close"], by="ada")
    world.run(seconds=20)
    assert first.heard == []
    assert calls_of(world) == {"guardian-1 escalation": "withdrawn"}


def test_a_call_is_tried_again_under_the_same_key(guarded: Guarded) -> None:
    """A guardian that is away for a moment hears of it when it is back, and can tell that it is one call."""
    world, (first, second, *_) = guarded()
    first.answers += [(503, None), (500, None), (429, None)]
    failing(world)
    world.run(seconds=50)
    assert len(first.heard) == 4
    assert len({key for _, key, _ in first.heard}) == 1
    assert second.heard == []
    assert any("guardian-1 was called over guardian-1 (level 1), at try 4." in line for line in world.story())


def test_a_crash_after_the_answer_sends_the_same_key_again(guarded: Guarded, monkeypatch: Any) -> None:
    """At least once: what was sent and not written down is sent again, recognisably."""
    world, (first, *_) = guarded()
    caller = world.caller
    monkeypatch.setattr(caller, "_sent", lambda *_: None)  # the process dies between answer and commit
    failing(world)
    world.run(seconds=2)
    assert len(first.heard) == 1
    world.crash()
    world.run(seconds=5)
    assert len(first.heard) == 2
    assert len({key for _, key, _ in first.heard}) == 1


@pytest.mark.parametrize("status", [302, 400, 401, 404, 410])
def test_an_answer_that_will_not_change_calls_the_next_level_at_once(guarded: Guarded, status: int) -> None:
    """Nobody of level 1 can be reached: that is a reason of its own for level 2, and it is counted."""
    world, (first, second, *_) = guarded()
    first.answers += [(status, None)] * 5
    failing(world)
    world.run(seconds=5)
    assert (len(first.heard), len(second.heard)) == (1, 1)
    assert second.heard[0][2]["reason"] == "nobody of level 1 could be reached"
    assert (
        world.context.metrics.registry.get_sample_value("shf_escalation_unreached_total", {"level": "1"}) == 1
    )
    labels = {"level": "1", "channel": "guardian-1", "outcome": "failed"}
    assert world.context.metrics.registry.get_sample_value("shf_escalation_calls_total", labels) == 1


@pytest.mark.parametrize(("seconds", "heard"), [(59, (1, 0)), (61, (0, 1))], ids=["in time", "too late"])
def test_a_replica_that_does_not_know_a_channel_leaves_its_calls_to_others(
    guarded: Guarded, postgresql_url: str, seconds: float, heard: tuple[int, int]
) -> None:
    """One with another configuration, as while one is rolled out: given up when nobody else has called."""
    world, (first, second, *_) = guarded(changes={"store": postgresql_url})
    known = {name: each for name, each in world.context.channels.items() if name != "guardian-1"}
    other = Caller(replace(world.context, channels=known))
    fails(world, "cart")
    world._work(world.orchestrator.take_in_and_claim(8))
    for after in (0, seconds):
        world.clock.now += after
        for batch in other.look():
            other.send(batch)
    world.run(seconds=5)
    assert (len(first.heard), len(second.heard)) == heard


class Defective:
    """A channel that reaches one of two, then breaks."""

    gathers, alive_for = False, None

    def __init__(self) -> None:
        self.given: list[dict[str, Any]] = []

    def send(self, _: Any, progress: Any) -> Receipt:
        """To those that an earlier try has not reached."""
        self.given.append(dict(progress))
        if len(self.given) == 1:
            raise CallFailed("bob did not take it", partly=True, progress={"reached": ["ada"]})
        if len(self.given) == 2:
            raise ValueError("a defect")
        return Receipt()


def test_a_try_that_breaks_forgets_nobody_who_was_reached(guarded: Guarded) -> None:
    """The next one would tell them again."""
    world, _ = guarded()
    channel = Defective()
    caller = Caller(replace(world.context, channels={**world.context.channels, "guardian-1": channel}))
    fails(world, "cart")
    world._work(world.orchestrator.take_in_and_claim(8))
    for _ in range(4):
        for batch in caller.look():
            caller.send(batch)
        world.clock.now += 10
    assert channel.given == [{}, {"reached": ["ada"]}, {"reached": ["ada"]}]


def first_unreachable(guarded: Guarded, reach_within: float = 20) -> tuple[Any, Any]:
    """A guardian for each level; the first never answers, and a call ends long before its level does."""
    levels = [
        {
            "name": f"l{n}",
            "call": [f"guardian-{n}"] if n else [],
            "deadline": 1000,
            "reach_within": reach_within,
        }
        for n in range(5)
    ]
    world, guardians = guarded(levels=levels)
    guardians[0].answers += [(503, None)] * 100
    return world, guardians


def test_nobody_reached_until_the_deadline_calls_the_next_level(guarded: Guarded) -> None:
    """The call's own deadline, long before that of the level."""
    world, (first, second, *_) = first_unreachable(guarded)
    failing(world)
    world.run(seconds=30)
    assert len(first.heard) > 2
    assert len(second.heard) == 1
    assert second.heard[0][0] - first.heard[0][0] <= 20 + IN_TIME


def test_the_last_level_is_called_until_somebody_hears(guarded: Guarded) -> None:
    """Above it is nobody, so it is not given up."""
    world, guardians = guarded()
    for guardian in guardians[:3]:
        guardian.answers += [(404, None)] * 9
    guardians[3].answers += [(404, None)] * 3
    failing(world)
    world.run(seconds=200, tick=1)
    assert len(guardians[3].heard) == 4
    assert calls_of(world)["guardian-4 escalation"] == "sent"


def test_a_storm_is_one_message(guarded: Guarded) -> None:
    """Many incidents at once: one message lists them all, and their end is one message too."""
    names = [f"s{number}" for number in range(8)]
    world, (first, *_) = guarded(dict.fromkeys(names, ()), changes={"guardrails": {"fleet": {"storm": 100}}})
    for name in names:
        fails(world, name)
    world.run(seconds=5)
    assert first.kinds == ["storm"]
    (_, key, document) = first.heard[0]
    assert sorted(call["incident"]["service"] for call in document["calls"]) == names
    for name in names:
        world.healthy(name)
    world.run(seconds=70)
    assert first.kinds == ["storm", "storm"]
    assert {call["kind"] for call in first.heard[1][2]["calls"]} == {"ended"}
    assert first.heard[1][1] != key


@pytest.mark.parametrize("status", [204, 503])
def test_who_ends_while_all_are_told_does_not_make_the_others_heard_twice(
    guarded: Guarded, status: int
) -> None:
    """A person closes one of the incidents that are on their way in one message."""
    names = [f"s{number}" for number in range(6)]
    world, (first, *_) = guarded(dict.fromkeys(names, ()), changes={"guardrails": {"fleet": {"storm": 100}}})
    for name in names:
        fails(world, name)

    def close_one() -> None:
        decide(world.context, first.heard[0][2]["calls"][0]["incident"]["id"], DECISIONS["close"], by="ada")
        world.caller.tell_of_ends()

    first.answers, first.meanwhile = [(status, None)], close_one
    world.run(seconds=20)
    heard = Counter(
        call["incident"]["service"]
        for _, _, document in first.heard
        for call in document.get("calls", [document])
        if call["kind"] == "escalation"
    )
    told_once = 1 if status == 204 else 2  # what was not taken is told again, but not what has ended
    assert sorted(heard.values()) == [1, *[told_once] * 5]


def test_a_storm_that_goes_on_is_collected(guarded: Guarded) -> None:
    """After a message of many, what comes within the minute follows as one."""
    names = [f"s{number}" for number in range(9)]
    world, (first, *_) = guarded(dict.fromkeys(names, ()), changes={"guardrails": {"fleet": {"storm": 100}}})
    for number, name in enumerate(names):
        fails(world, name)
        if number >= 4:
            world.run(seconds=3)
    world.run(seconds=60)
    assert first.kinds == ["storm", "storm"]
    assert "is collected and told then" in first.heard[0][2]["note"]
    assert [len(document["calls"]) for _, _, document in first.heard] == [5, 4]


def test_a_contact_hears_no_more_than_the_cap_and_is_told_so(guarded: Guarded) -> None:
    """The last message of a window says that more is collected; that comes as one when the window is over."""
    names = [f"s{number}" for number in range(7)]
    world, (first, *_) = guarded(
        dict.fromkeys(names, ()),
        bounds={"messages": 3, "per": 90},
        changes={"guardrails": {"fleet": {"storm": 100}}},
    )
    for name in names:
        fails(world, name)
        world.run(seconds=5)
    assert first.kinds == ["escalation"] * 3
    assert "No more until" in first.heard[2][2]["note"]
    world.run(seconds=90)
    assert first.kinds == ["escalation"] * 3 + ["storm"]
    assert len(first.heard[3][2]["calls"]) == 4


def test_until_when_nothing_more_comes_is_a_moment_to_come(guarded: Guarded) -> None:
    """Not one that is past when it is read, nor one before which another rule holds back the next message."""
    names = [f"s{number}" for number in range(9)]
    world, (first, *_) = guarded(
        dict.fromkeys(names, ()),
        bounds={"messages": 3, "per": 90, "storm": 2, "storm_interval": 60},
        changes={"guardrails": {"fleet": {"storm": 100}}},
    )
    began = world.clock.now
    for name, at in zip(names[:3], (0, 44, 85), strict=True):
        world.run(seconds=began + at - world.clock.now)
        fails(world, name)
        world.run(seconds=3)
    assert first.kinds == ["escalation"] * 3
    assert first.heard[2][2]["note"] is None  # five seconds later there may be another
    world.run(seconds=began + 85 + 89 - world.clock.now)  # two are heard now that are not too old
    fails(world, names[3])
    world.run(seconds=3)
    for name in names[4:]:
        fails(world, name)
    world.run(seconds=200)
    spoken = [(at, document["note"]) for at, _, document in first.heard]
    for (at, note), (following, _) in pairwise(spoken):
        told = re.search("until (.*) UTC", note or "")
        if told is not None:
            until = datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d ") + told[1]
            moment = datetime.fromisoformat(until).replace(tzinfo=UTC).timestamp()
            assert at + 15 < moment <= following + 1, spoken
    assert len(spoken) > 4


def test_what_was_collected_tells_of_each_incident_once(guarded: Guarded) -> None:
    """Levels rise meanwhile, and call the same people: three incidents are three, at their present level."""
    names = [f"s{number}" for number in range(5)]
    levels = [
        {"name": f"level {n}", "call": ["guardian-1"] if n else [], "deadline": DEADLINE} for n in range(5)
    ]
    world, (first, *_) = guarded(
        dict.fromkeys(names, ()),
        levels=levels,
        bounds={"messages": 2, "per": 10 * DEADLINE},
        changes={"guardrails": {"fleet": {"storm": 100}}},
    )
    for name in names[:2]:
        fails(world, name)
        world.run(seconds=5)
    for name in names[2:]:
        fails(world, name)
    world.run(seconds=10 * DEADLINE + 5, tick=5)
    assert first.kinds == ["escalation", "escalation", "storm"]
    told = first.heard[2][2]["calls"]
    assert sorted(call["incident"]["service"] for call in told) == names
    assert {call["level"] for call in told} == {4}
    calls = story(world.fabric, told[0]["incident"]["id"])["calls"]
    assert "a later call tells of it" in {call["error"] for call in calls if call["status"] == "withdrawn"}


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_what_is_still_being_sent_counts_for_the_cap(
    guarded: Guarded, request: pytest.FixtureRequest, database: str
) -> None:
    """A slow receiver hears no more than a quick one, and the last message says so."""
    names = [f"s{number}" for number in range(7)]
    changes: dict[str, Any] = {"guardrails": {"fleet": {"storm": 100}}}
    if database == "postgresql":
        changes["store"] = request.getfixturevalue("postgresql_url")
    bounds = {"messages": 3, "per": 90, "gather": 0.5}
    world, (first, *_) = guarded(dict.fromkeys(names, ()), bounds=bounds, changes=changes)
    slow: list[Batch] = []

    def look() -> None:
        for batch in world.caller.look():
            if batch.rows[0].channel == "log":
                world.caller.send(batch)
            else:
                slow.append(batch)

    for name in names:
        fails(world, name)
        world._work(world.orchestrator.take_in_and_claim(8))
        look()
        world.clock.now += 1
        look()
        world.caller._sending = {batch.key: Sending("guardian-1", time.monotonic()) for batch in slow}
        world.caller._renew()
    for batch in slow:
        world.caller.send(batch)
    assert first.kinds == ["escalation"] * 3
    assert "No more until" in first.heard[2][2]["note"]
    world.run(seconds=100)
    assert first.kinds == ["escalation"] * 3 + ["storm"]


def test_a_critical_tier_starts_higher_up(guarded: Guarded) -> None:
    """Impact decides how high the first call goes; the levels below are skipped."""
    world, (first, second, *_) = guarded(tiers={"critical": {"start_level": 2}})
    world.values["services"]["cart"]["tier"] = "critical"
    world.crash()
    failing(world)
    world.run(seconds=3)
    assert (first.heard, len(second.heard), world.incident().level) == ([], 1, 2)


def test_a_service_may_differ_from_its_tier(guarded: Guarded) -> None:
    """The service's own word counts."""
    world, (first, *_) = guarded(tiers={"standard": {"start_level": 3}})
    world.values["services"]["cart"]["escalation"] = {"start_level": 1}
    world.crash()
    failing(world)
    world.run(seconds=3)
    assert len(first.heard) == 1


def test_a_service_that_is_told_at_once_is_healed_beside_it(guarded: Guarded) -> None:
    """Called when the incident opens, and the fabric repairs all the same."""
    world, (first, second, *_) = guarded(tiers={"standard": {"call_at_once": True}})
    world.silent()
    world.target.on_restart = world.healthy
    world.receive(world.alert())
    world.run(seconds=20)
    assert (first.kinds, second.heard) == (["escalation", "ended"], [])
    assert world.restarts() == {"cart": 1}
    assert world.incident().outcome == "healed"


def test_dependants_of_a_critical_tier_are_impact_too(guarded: Guarded) -> None:
    """A standard database behind a critical shop: told at once when the diagnosis knows who depends on it."""
    world, (first, *_) = guarded({"db": (), "shop": ("db",)}, tiers={"critical": {"call_at_once": True}})
    world.values["services"]["shop"]["tier"] = "critical"
    world.crash()
    world.silent("db")
    world.targets["db"].on_restart = lambda: world.healthy("db")
    world.receive(world.alert(service="db"))
    world.run(seconds=20)
    assert first.kinds == ["escalation", "ended"]
    assert world.restarts() == {"db": 1}


def test_a_guardian_may_acknowledge(guarded: Guarded) -> None:
    """Its answer stops the clock, and the timeline says who."""
    world, (first, second, *_) = guarded()
    first.answers.append((200, {"decision": "acknowledge", "reason": "I look at it"}))
    failing(world)
    world.run(seconds=3 * DEADLINE, tick=5)
    assert world.incident().acknowledged_by == "guardian guardian-1"
    assert second.heard == []
    assert "note: guardian guardian-1: I look at it" in world.story()


def test_a_level_has_one_owner(guarded: Guarded) -> None:
    """Two are called at once: the first who acknowledges has it, the other one is told who."""
    levels = [{"name": f"l{n}", "call": ["guardian-1", "guardian-2"] if n == 1 else []} for n in range(5)]
    world, (first, second, *_) = guarded(levels=levels)
    for guardian in (first, second):
        guardian.answers.append((200, {"decision": "acknowledge"}))
    failing(world)
    world.run(seconds=10)
    owner = world.incident().acknowledged_by
    assert owner in ("guardian guardian-1", "guardian guardian-2")
    assert sum("acknowledged: no further level is called" in line for line in world.story()) == 1
    # Both were claimed together, or the second was withdrawn because the first had it.
    assert len(first.heard) + len(second.heard) in (1, 2)


@pytest.mark.parametrize(("decision", "state"), [("approve", State.VERIFYING), ("reject", State.ESCALATED)])
def test_a_guardian_may_decide_on_a_plan(guarded: Guarded, decision: str, state: State) -> None:
    """Asked for approval over HTTP, it answers for the plan as a person would."""
    world, (first, *_) = guarded(tiers={"standard": {"call_at_once": True}})
    waiting_for_a_person(world)
    first.answers += [(503, None), (200, {"decision": decision})]
    world.run(seconds=20)
    assert len(first.heard) == 2
    assert world.incident().state is state
    assert world.restarts() == ({"cart": 1} if decision == "approve" else {})


def test_a_guardian_approves_only_what_its_call_told_of(guarded: Guarded) -> None:
    """While it makes up its mind, something else is asked for: its yes is refused and nothing is done."""
    world, (first, *_) = guarded(tiers={"standard": {"call_at_once": True}})
    waiting_for_a_person(world)
    first.answers.append((200, {"decision": "approve"}))
    other = Entry(Kind.PLAN, "May I?", {"action": "another", "strategy": "restart"})
    first.meanwhile = lambda: world.context.store.write(
        lambda connection: timeline.append(connection, world.incident().id, [other], world.clock.now)
    )
    world.run(seconds=20)
    (heard,) = first.heard
    assert heard[2]["incident"]["asked_for"].startswith(f"{world.incident().id}/restart-")
    assert any("guardian-1 was refused: something else is asked for" in line for line in world.story())
    assert (world.incident().state, world.restarts()) == (State.AWAITING_APPROVAL, {})


def test_a_call_about_a_plan_carries_links_that_answer_it(guarded: Guarded) -> None:
    """Who is called by name can answer by them; the log, which many read, has none."""
    changes = {"mode": "approval", "external_url": "https://shf.example.com"}
    world, (first, *_) = guarded(tiers={"standard": {"call_at_once": True}}, changes=changes)
    logged: list[Any] = []
    world.send = lambda message, _: (logged.append(message), Receipt())[1]
    world.silent()
    world.receive(world.alert())
    world.run(seconds=DEADLINE + 1)
    (document,) = [each for _, _, each in first.heard if "approve" in each["links"]]
    assert document["incident"]["state"] == "awaiting_approval"
    link = document["links"]["approve"].removeprefix("https://shf.example.com")
    assert logged
    assert not any("/approvals/" in message.body for message in logged)
    world.fabric.context = world.context
    assert create_app(world.fabric).test_client().post(link).status_code == 200
    world.run(seconds=1)
    assert world.restarts() == {"cart": 1}
    assert "guardian-1 (level 1)" in world.incident().approved_by


def test_a_proposed_strategy_passes_the_guardrails(guarded: Guarded) -> None:
    """Who proposed it is in the timeline, and it is done and verified like any plan."""
    world, (first, *_) = guarded()
    first.answers.append((200, {"decision": "propose", "strategy": "restart", "reason": "worked last time"}))
    world.silent()
    world.target.on_restart = lambda: world.healthy() if len(world.target.restarts) == 2 else None
    world.receive(world.alert())
    world.run(seconds=80)  # restarted, not healed at the deadline of the verification, and restarted again
    story = "\n".join(world.story())
    assert "guardian guardian-1 proposed to restart cart." in story
    assert world.restarts() == {"cart": 2}
    assert world.incident().outcome == "healed"


def test_a_proposal_waits_for_its_guardrail(guarded: Guarded) -> None:
    """The cooldown of a minute holds for what a guardian wants too."""
    world, (first, *_) = guarded(changes={"guardrails": {"cooldown": 300}})
    first.answers.append((200, {"decision": "propose", "strategy": "restart"}))
    world.silent()
    world.receive(world.alert())
    world.run(seconds=100)
    assert "guardrail: cooldown refuses" in "\n".join(world.story())
    assert world.restarts() == {"cart": 1}


@pytest.mark.parametrize(
    "said",
    [
        {"decision": "destroy"},
        {"decision": "propose"},
        {"decision": "propose", "strategy": "rm -rf"},
        {"decision": "propose", "strategy": "repair"},  # no target of it
        {"decision": "acknowledge", "strategy": "restart"},
        {"decision": "acknowledge", "mode": "automatic"},
        {"decision": "approve"},  # nothing awaits it
        {"decision": ["acknowledge"]},
        {"decision": "acknowledge", "reason": "x" * 1001},
        ["acknowledge"],
        "acknowledge",
    ],
)
def test_any_other_answer_is_refused_noted_and_never_obeyed(guarded: Guarded, said: Any) -> None:
    """A stranger's text changes nothing, and people can read that it came."""
    world, (first, *_) = guarded()
    first.answers.append((200, said))
    failing(world)
    world.run(seconds=5)
    incident = world.incident()
    assert (incident.state, incident.acknowledged_by, incident.level) == (State.ESCALATED, None, 1)
    assert world.restarts() == {}
    assert [line for line in world.story() if "The answer of guardian guardian-1 was refused" in line]
    assert calls_of(world) == {"guardian-1 escalation": "sent"}


def test_a_strategy_that_no_plan_allows_cannot_be_proposed(guarded: Guarded) -> None:
    """The service could be restarted, and whoever configured it said that it must not be."""
    plans: dict[str, list[str]] = {name: [] for name in ("transient", "degradation", "service_failure")}
    world, (first, *_) = guarded(changes={"plans": plans})
    first.answers.append((200, {"decision": "propose", "strategy": "restart"}))
    world.silent()
    world.receive(world.alert())
    world.run(seconds=10)
    assert (world.incident().state, world.restarts()) == (State.ESCALATED, {})
    assert any("no plan of cart allows restart" in line for line in world.story())


def test_a_guardian_may_only_what_it_is_allowed(guarded: Guarded) -> None:
    """`may` bounds what an answer can decide."""
    world, (first, *_) = guarded()
    world.values["escalation"]["channels"]["guardian-1"]["guardian"]["may"] = ["acknowledge"]
    world.crash()
    first.answers.append((200, {"decision": "propose", "strategy": "restart"}))
    failing(world)
    world.run(seconds=5)
    assert world.incident().state is State.ESCALATED
    assert any("it may not propose" in line for line in world.story())


def test_a_silence_holds_the_levels_back(guarded: Guarded) -> None:
    """What people have silenced is not told to anybody; when the silence ends, it is."""
    world, (first, *_) = guarded()
    world.prometheus.away = "connection refused"
    world.receive(world.alert())
    world.run()
    alerts = [row.id for row in world.alerts_of(world.incident())]
    world.context.store.write(lambda connection: statements.set_suppressed(connection, alerts, True))
    world.run(seconds=2 * DEADLINE, tick=5)
    assert first.heard == []
    world.context.store.write(lambda connection: statements.set_suppressed(connection, alerts, False))
    world.run(seconds=10)
    assert len(first.heard) == 1


def silence(world: Any, on: bool) -> None:
    """Silence the alerts of the only incident, or end that."""
    ids = [row.id for row in world.alerts_of(world.incident())]
    world.context.store.write(lambda connection: statements.set_suppressed(connection, ids, on))


def test_who_cannot_be_reached_in_a_silence_is_followed_at_its_end(guarded: Guarded) -> None:
    """Nobody else is called for what people have silenced, and then they hear why."""
    world, (first, second, *_) = guarded()
    first.answers, first.meanwhile = [(404, None)], lambda: silence(world, True)
    failing(world)
    world.run(seconds=200, tick=5)
    assert (len(first.heard), second.heard, world.incident().level) == (1, [], 1)
    silence(world, False)
    world.run(seconds=10)
    assert len(second.heard) == 1
    assert second.heard[0][2]["reason"].startswith("nobody of level 1 could be reached (held back")


def test_a_call_that_waits_is_not_made_in_a_silence(guarded: Guarded) -> None:
    """It is tried again from the end on, for as long as was left; then the next level is called."""
    world, (first, second, *_) = first_unreachable(guarded, reach_within=100)
    failing(world)
    world.run(seconds=5)
    tries = len(first.heard)
    silence(world, True)
    world.run(seconds=200, tick=5)
    assert (len(first.heard), second.heard, world.incident().level) == (tries, [], 1)
    silence(world, False)
    world.run(seconds=40)
    assert (len(first.heard) > tries, second.heard) == (True, [])
    world.run(seconds=120)
    assert len(second.heard) == 1


def collecting(
    guarded: Guarded, names: Sequence[str], told: int, **more: Any
) -> tuple[Any, tuple[Guardian, ...]]:
    """A world in which so many of the services were told of together, and the others wait for the next
    message; and its guardians."""
    world, guardians = guarded(
        dict.fromkeys(names, ()),
        changes={"guardrails": {"fleet": {"storm": 100}}},
        bounds={"storm": 2},
        **more,
    )
    for together in (names[:told], names[told:]):
        for name in together:
            fails(world, name)
        world.run(seconds=5)
    assert guardians[0].kinds == ["storm"]
    return world, guardians


def services_told(guardian: Guardian) -> list[list[str]]:
    """The services of each message."""
    told = [document.get("calls", [document]) for _, _, document in guardian.heard]
    return [sorted(call["incident"]["service"] for call in calls) for calls in told]


def test_what_is_collected_is_not_told_in_a_silence(guarded: Guarded) -> None:
    """Of what waits for the next message only that is told which nobody has silenced."""
    names = [f"s{number}" for number in range(8)]
    world, (first, *_) = collecting(guarded, names, told=5)
    by_service = {row.service: row for row in world.incidents()}
    silenced = [row.id for name in names[6:] for row in world.alerts_of(by_service[name])]
    world.context.store.write(lambda connection: statements.set_suppressed(connection, silenced, True))
    world.run(seconds=80)
    assert services_told(first)[1:] == [names[5:6]]
    world.context.store.write(lambda connection: statements.set_suppressed(connection, silenced, False))
    world.run(seconds=10)
    assert services_told(first)[2:] == [names[6:]]


def test_what_was_collected_is_tried_for_its_whole_time(guarded: Guarded) -> None:
    """It had to wait for longer than its receiver has to be reached; that is away for a moment then."""
    levels = [
        {"name": f"l{n}", "call": [f"guardian-{n}"] if n else [], "deadline": 1000, "reach_within": 20}
        for n in range(5)
    ]
    world, (first, second, *_) = collecting(guarded, ["a", "b", "c"], told=2, levels=levels)
    assert services_told(first) == [["a", "b"]]
    first.answers = [(503, None)]
    world.run(seconds=80)
    assert services_told(first) == [["a", "b"], ["c"], ["c"]]
    assert second.heard == []


def test_what_is_held_back_for_one_contact_is_looked_at_once(guarded: Guarded) -> None:
    """Not by each of the others anew, in the one transaction: much is collected in a storm."""
    names = [f"s{number}" for number in range(22)]
    world, _ = collecting(guarded, names, told=2)
    world.context.store.write(
        lambda connection: statements.set_suppressed(
            connection, [row.id for each in world.incidents() for row in world.alerts_of(each)], True
        )
    )
    world.clock.now += 80
    asked: list[str] = []
    engine = world.context.store._backend.engine
    event.listen(engine, "before_cursor_execute", lambda *given: asked.append(given[2]))
    assert [batch for batch in world.caller.claim({}) if batch.rows[0].channel == "guardian-1"] == []
    assert 20 <= len(asked) < 200


def test_a_call_that_waits_is_not_made_in_a_maintenance_window(guarded: Guarded) -> None:
    """The window begins while its receiver is away."""
    begins = datetime.fromtimestamp(START + 10, UTC)
    window = {"start": begins.isoformat(), "end": (begins + timedelta(seconds=100)).isoformat()}
    world, (first, *_) = guarded(changes={"guardrails": {"maintenance": [window]}})
    first.answers += [(503, None)] * 100
    failing(world)
    world.run(seconds=11)
    tries = len(first.heard)
    assert tries > 0
    world.run(seconds=95, tick=5)
    assert len(first.heard) == tries
    first.answers.clear()
    world.run(seconds=40)
    assert len(first.heard) == tries + 1


def test_a_call_that_waits_for_the_end_of_a_window_is_tried_for_what_was_left(guarded: Guarded) -> None:
    """Also of a window that is longer than any other wait: then its next level is called."""
    long = 10_000.0
    begins = datetime.fromtimestamp(START + 10, UTC)
    window = {"start": begins.isoformat(), "end": (begins + timedelta(seconds=long)).isoformat()}
    levels = [
        {"name": f"l{n}", "call": [f"guardian-{n}"] if n else [], "deadline": 900, "reach_within": 100}
        for n in range(5)
    ]
    world, (first, second, *_) = guarded(levels=levels, changes={"guardrails": {"maintenance": [window]}})
    reconciliation = Reconciliation(world.context)
    first.answers += [(503, None)] * 1000
    failing(world)
    world.run(seconds=11)
    ends = START + 10 + long
    while world.clock.now < ends:
        reconciliation.run()
        world.run(seconds=100, tick=10)
    assert second.heard == []
    world.run(seconds=ends + 200 - world.clock.now)
    reconciliation.close()
    assert [document["reason"].split(" (")[0] for _, _, document in second.heard] == [
        "nobody of level 1 could be reached"
    ]


def test_whom_a_person_calls_hears_it_in_a_silence(guarded: Guarded) -> None:
    """The silence is for what the fabric does by itself."""
    world, (first, second, *_) = guarded()
    failing(world)
    world.run(seconds=5)
    silence(world, True)
    decide(world.context, world.incident().id, DECISIONS["acknowledge"], by="ada")
    decide(world.context, world.incident().id, DECISIONS["escalate"], by="ada")
    world.run(seconds=10)
    assert (len(first.heard), len(second.heard)) == (1, 1)


def test_what_is_given_up_in_a_silence_is_called_for_at_its_end(guarded: Guarded) -> None:
    """Silenced while the target restarts, of which nobody learns what became; levels rise from the end on."""
    world, (first, second, *_) = guarded()
    del world.values["services"]["cart"]["recovery"]["http"]["started_at"]
    world.crash()
    world.silent()
    world.target.answer = 500
    world.target.on_restart = lambda: silence(world, True)
    world.receive(world.alert())
    world.run(seconds=3 * DEADLINE, tick=5)
    assert (first.heard, world.incident().state) == ([], State.ESCALATED)
    silence(world, False)
    world.run(seconds=10)
    assert len(first.heard) == 1
    assert first.heard[0][2]["reason"].startswith("whether restart happened cannot be learnt")
    world.run(seconds=DEADLINE, tick=5)
    assert len(second.heard) == 1


def test_a_guardian_hears_the_whole_incident(guarded: Guarded) -> None:
    """The document is what the API tells of the incident, with where to look."""
    world, (first, *_) = guarded(
        changes={"external_url": "https://shf.example", "grafana": {"url": "https://grafana.example"}}
    )
    failing(world)
    world.run(seconds=3)
    document = first.heard[0][2]
    incident = document["incident"]
    assert incident["id"] == world.incident().id
    assert {"timeline", "diagnosis", "actions", "alerts", "plan", "calls"} <= incident.keys()
    assert document["links"] == {
        "incident": f"https://shf.example/incidents/{incident['id']}",
        "dashboard": "https://grafana.example/d/shf-incident-overview?var-service=cart",
    }
    assert re.fullmatch(r"[0-9a-f-]+/call-[0-9a-f]+", document["call"])
