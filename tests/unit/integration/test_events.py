"""What happens to incidents is told as CloudEvents 1.0: in order, at least once, without a loss.

The receivers are real HTTP servers; what they got is read by the CloudEvents SDK, as a receiver would.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cloudevents.http import CloudEvent, from_http
from pytest_httpserver import HTTPServer
from sqlalchemy import Connection
from werkzeug import Request, Response

from deadline import within_deadline
from one_step import INCIDENT, open_incident
from self_healing_fabric.incidents import timeline
from self_healing_fabric.incidents.timeline import Entry, Kind
from self_healing_fabric.integration import events
from self_healing_fabric.integration.collaborators import LocalBus
from self_healing_fabric.integration.events import EventRefused, SinkOfPlugin, Telling
from self_healing_fabric.integration.lifecycle import Fabric
from self_healing_fabric.settings import Settings
from self_healing_fabric.store import Store, event_statements


class Receiver:
    """Takes events, refuses or fails as the test says, and keeps what it has got."""

    def __init__(self, server: HTTPServer) -> None:
        self.answers: list[int] = []
        self.events: list[CloudEvent] = []
        self.on_event: Callable[[], None] = lambda: None
        self.url = server.url_for("/events")
        server.expect_request("/events", method="POST").respond_with_handler(self._take)

    def _take(self, request: Request) -> Response:
        self.on_event()
        status = self.answers.pop(0) if self.answers else 202
        if status < 300:
            self.events.append(from_http(dict(request.headers), request.get_data()))
        return Response(status=status)

    def types(self) -> list[str]:
        return [event["type"].removeprefix("io.github.self-healing-fabric.") for event in self.events]


def wait_until(condition: Callable[[], bool]) -> None:
    """A deadline for busy machines, not a measurement."""
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def receiver(httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> Receiver:
    """A receiver, and a fabric that does not wait long between two tries."""
    monkeypatch.setattr(events, "POLL", 0.02)
    monkeypatch.setattr(events, "FIRST_PAUSE", 0.02)
    return Receiver(httpserver)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Fabric]]:
    """Fabrics on one store, one after the other; only their events are told, nothing is healed."""
    made: list[Fabric] = []

    def new(**values: Any) -> Fabric:
        fabric = Fabric(Settings(store=f"sqlite:///{tmp_path}/shf.db", **values))
        fabric.orchestrator.claim = lambda _: []  # type: ignore[method-assign]
        made.append(fabric)
        return fabric

    yield new
    for fabric in made:
        fabric.stop()


def write(fabric: Fabric, *entries: Entry, incident: str = INCIDENT) -> None:
    fabric.store.write(lambda connection: timeline.append(connection, incident, entries, time.time()))


STORY = (
    (Entry(Kind.ALERT, "cart is down"), "incident.opened"),
    (Entry(Kind.EVIDENCE, "0 answer"), None),
    (Entry(Kind.DIAGNOSIS, "service_failure", {"failure_class": "service_failure"}), "incident.diagnosed"),
    (Entry(Kind.STATE, "diagnosing -> recovering", {"from": "diagnosing", "to": "recovering"}), None),
    (Entry(Kind.ALERT, "one more alert"), None),
    (Entry(Kind.GUARDRAIL, "cooldown refuses"), "action.refused"),
    (Entry(Kind.ACTION, "Intends to restart", {"action": "a"}), "action.announced"),
    (Entry(Kind.ACTION, "restart succeeded", {"action": "a", "status": "succeeded"}), "action.finished"),
    (Entry(Kind.VERIFICATION, "Healed"), "incident.verified"),
    (Entry(Kind.ESCALATION, "Level 1", {"level": 1}), "incident.escalated"),
    (Entry(Kind.STATE, "verifying -> resolved", {"to": "resolved"}), "incident.resolved"),
    (Entry(Kind.STATE, "resolved -> closed", {"to": "closed"}), "incident.closed"),
)
TOLD = [name for _, name in STORY if name]


def test_the_story_of_an_incident(make: Callable[..., Fabric], receiver: Receiver) -> None:
    """Each event that people care about, once, in order, as a valid CloudEvent."""
    fabric = make(events={"url": receiver.url}, external_url="https://shf.example")
    fabric.start()
    open_incident(fabric.context, "restart", service="cart")
    write(fabric, *(entry for entry, _ in STORY))
    wait_until(lambda: len(receiver.events) >= len(TOLD))
    fabric.stop()
    mine = [event for event in receiver.events if event["subject"] == INCIDENT]
    assert receiver.types()[: len(TOLD)] == TOLD
    first = mine[0]
    assert first["specversion"] == "1.0"
    assert first["source"] == "https://shf.example"
    assert first["datacontenttype"] == "application/json"
    assert first.data["service"] == "cart"
    assert first.data["message"] == "cart is down"
    assert len({event["id"] for event in mine}) == len(mine)
    assert fabric.context.metrics.events.labels("http", "delivered")._value.get() == len(receiver.events)


def test_a_receiver_that_was_away_gets_everything_in_order(
    make: Callable[..., Fabric], receiver: Receiver
) -> None:
    """Errors that end are waited out; nothing is skipped and nothing overtakes."""
    fabric = make(events={"url": receiver.url})
    fabric.start()
    receiver.answers = [202, 500, 503, 202, 429, 401]  # in the middle of a batch, too
    open_incident(fabric.context, "restart", service="cart")
    write(fabric, *(entry for entry, _ in STORY))
    wait_until(lambda: len(receiver.events) >= len(TOLD))
    assert receiver.types()[: len(TOLD)] == TOLD
    assert fabric.context.metrics.events.labels("http", "failed")._value.get() == 4


def test_after_a_restart_it_goes_on_where_it_was(make: Callable[..., Fabric], receiver: Receiver) -> None:
    """What happened while nobody told is told afterwards, and what was told is not told again."""
    first = make(events={"url": receiver.url})
    first.start()
    open_incident(first.context, "restart", service="cart")
    write(first, STORY[0][0])
    wait_until(lambda: len(receiver.events) == 1)
    first.stop()
    silent = make()
    write(silent, STORY[2][0], STORY[6][0])
    silent.stop()
    second = make(events={"url": receiver.url})
    second.start()
    wait_until(lambda: len(receiver.events) >= 3)
    second.stop()
    assert receiver.types()[:3] == ["incident.opened", "incident.diagnosed", "action.announced"]


def test_a_crash_before_the_note_tells_it_again_with_the_same_id(
    make: Callable[..., Fabric], receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At least once: a receiver knows it by its id."""
    first = make(events={"url": receiver.url})
    first.start()
    monkeypatch.setattr(Telling, "_note", lambda *_: None)
    open_incident(first.context, "restart", service="cart")
    write(first, STORY[0][0])
    wait_until(lambda: len(receiver.events) >= 1)
    first.stop()
    monkeypatch.undo()
    before = len(receiver.events)
    second = make(events={"url": receiver.url})
    second.start()
    wait_until(lambda: len(receiver.events) > before)
    assert {event["id"] for event in receiver.events if event["type"].endswith("opened")} == {
        receiver.events[0]["id"]
    }


def test_a_kill_amid_a_batch_has_only_the_event_in_hand_told_again(
    make: Callable[..., Fabric], receiver: Receiver
) -> None:
    """A receiver that takes its time: whatever comes next, what it has got is noted."""
    noted: list[str] = []
    fabric = make(events={"url": receiver.url})

    def look() -> None:
        time.sleep(events.NOTED_EVERY)
        noted.append(str(fabric.store.read(lambda connection: event_statements.cursor(connection, "http"))))

    receiver.on_event = look
    open_incident(fabric.context, "restart", service="cart")
    fabric.start()
    write(fabric, *[STORY[8][0]] * 5)
    wait_until(lambda: len(receiver.events) == 5)
    fabric.stop()
    assert noted[1:] == [event["id"] for event in receiver.events[:4]]


def test_an_event_that_is_refused_for_good_does_not_hold_up_the_others(
    make: Callable[..., Fabric], receiver: Receiver
) -> None:
    """It is left out, and counted."""
    fabric = make(events={"url": receiver.url})
    fabric.start()
    receiver.answers = [422]
    open_incident(fabric.context, "restart", service="cart")
    write(fabric, STORY[0][0], STORY[2][0])
    wait_until(lambda: len(receiver.events) >= 1)
    assert receiver.types()[0] == "incident.diagnosed"
    assert fabric.context.metrics.events.labels("http", "refused")._value.get() == 1


def test_what_happened_before_the_first_start_is_not_told(
    make: Callable[..., Fabric], receiver: Receiver
) -> None:
    """Who turns events on does not get the last 90 days."""
    before = make()
    open_incident(before.context, "restart", service="cart")
    write(before, STORY[0][0])
    before.stop()
    fabric = make(events={"url": receiver.url})
    fabric.start()
    write(fabric, STORY[2][0])
    wait_until(lambda: len(receiver.events) >= 1)
    assert receiver.types()[0] == "incident.diagnosed"


def test_a_slow_receiver_does_not_hold_up_another(make: Callable[..., Fabric], receiver: Receiver) -> None:
    """Each has its own thread and its own cursor; one that hangs is asked again."""
    release, got = threading.Event(), LocalBus()
    heard: list[str] = []
    got.subscribe(lambda event: heard.append(event["type"]))
    fabric = make(events={"url": receiver.url})
    fabric.tell("hangs", SinkOfPlugin("plugin hangs", lambda _: release.wait(60)), durable=True)
    fabric.tell("bus", SinkOfPlugin("the bus", got.publish), durable=False)
    fabric.start()
    open_incident(fabric.context, "restart", service="cart")
    write(fabric, STORY[0][0], STORY[2][0])
    wait_until(lambda: len(receiver.events) >= 2 and len(heard) >= 2)
    release.set()


def test_an_answer_that_never_ends_keeps_neither_the_event_nor_the_stop(
    make: Callable[..., Fabric], receiver: Receiver, httpserver: HTTPServer
) -> None:
    """The receiver gets it again, and the fabric ends: it waited for that answer for ever."""
    ended, tries = threading.Event(), threading.Semaphore(0)

    def drip(_: Request) -> Response:
        def parts() -> Iterator[bytes]:
            tries.release()
            while not ended.wait(0.1):
                yield b" "

        return Response(parts(), status=202)

    httpserver.expect_request("/slow").respond_with_handler(drip)
    fabric = make(events={"url": httpserver.url_for("/slow"), "timeout": 0.5})
    fabric.start()
    open_incident(fabric.context, "restart", service="cart")
    write(fabric, STORY[0][0])
    try:
        for _ in range(2):
            assert tries.acquire(timeout=30)
        within_deadline(fabric.stop)
    finally:
        ended.set()


def test_subscribers_do_not_disturb_each_other() -> None:
    """One raises, one wants only some types, one has left."""
    bus, heard = LocalBus(), []
    bus.subscribe(lambda _: 1 / 0)
    bus.subscribe(lambda event: heard.append(("all", event["type"])))
    bus.subscribe(lambda event: heard.append(("some", event["type"])), types=["b"])
    leave = bus.subscribe(lambda event: heard.append(("left", event["type"])))
    leave()
    leave()
    bus.publish({"type": "a"})
    bus.publish({"type": "b"})
    assert heard == [("all", "a"), ("all", "b"), ("some", "b")]


def test_the_bus_of_the_host_may_refuse(make: Callable[..., Fabric], receiver: Receiver) -> None:
    """EventRefused passes the boundary of the call."""
    taken: list[str] = []

    def send(event: Any) -> None:
        if event["type"].endswith("opened"):
            raise EventRefused("not of interest")
        taken.append(event["type"])

    fabric = make()
    fabric.tell("host", SinkOfPlugin("the host", send))
    fabric.start()
    open_incident(fabric.context, "restart", service="cart")
    write(fabric, STORY[0][0], STORY[2][0])
    wait_until(lambda: bool(taken))
    assert taken[0].endswith("incident.diagnosed")


def test_a_lower_number_that_is_committed_later_is_not_skipped(postgresql_url: str) -> None:
    """On PostgreSQL a line's number is given before it can be seen: the reader waits for the writer."""
    store = Store(postgresql_url)
    try:
        now = time.time()
        fabric_like = type("C", (), {"store": store, "clock": store.clock})()
        open_incident(fabric_like, "restart", service="cart")
        other = "20260101-000000-other"
        open_incident(fabric_like, "restart", service="till", incident_id=other)
        written, go_on = threading.Event(), threading.Event()

        def slow(connection: Connection) -> None:
            timeline.append(connection, INCIDENT, [Entry(Kind.NOTE, "slow")], now)
            written.set()
            go_on.wait(3)

        writing = threading.Thread(target=lambda: store.write(slow))
        writing.start()
        assert written.wait(10)
        store.write(lambda c: timeline.append(c, other, [Entry(Kind.NOTE, "quick")], now))

        def read(connection: Connection) -> list[str] | None:
            if not event_statements.nobody_writes(connection):
                return None
            return [row.message for row in event_statements.timeline_after(connection, 0, 10)]

        assert store.write(read) is None
        go_on.set()
        writing.join()
        assert store.write(read) == ["slow", "quick"]
    finally:
        store.close()
