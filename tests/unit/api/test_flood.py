"""Answers to a flood of notifications and to a scrape go first; what was stored is taken in before long."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import Metric
from sqlalchemy import Connection

from deadline import within_deadline
from self_healing_fabric.app import CROWD_BYTES, BackgroundServer
from self_healing_fabric.orchestration import healing_orchestrator
from self_healing_fabric.orchestration.healing_orchestrator import CROWD
from self_healing_fabric.store import statements
from shf_demo.ports import reserved_ports

BODY = (Path(__file__).parents[2] / "data" / "webhook" / "firing_single.json").read_bytes()
FLOOD = "flood"


@contextmanager
def flood(api: Any, monkeypatch: pytest.MonkeyPatch, size: int) -> Iterator[list[Future[Any]]]:
    """So many notifications wait for their answers for as long as the block lasts."""
    gate, waiting, put = threading.Event(), threading.Semaphore(0), api.store.inbox.put

    def slowly(body: bytes, received_at: float) -> None:
        if threading.current_thread().name.startswith(FLOOD):
            waiting.release()
            gate.wait(30)
        put(body, received_at)

    monkeypatch.setattr(api.store.inbox, "put", slowly)
    with ThreadPoolExecutor(size, thread_name_prefix=FLOOD) as pool:
        answers = [pool.submit(api.app.test_client().post, "/api/v1/alerts", data=BODY) for _ in range(size)]
        for _ in answers:
            assert waiting.acquire(timeout=10)
        try:
            yield answers
        finally:
            gate.set()


@pytest.fixture
def running(api: Any) -> Iterator[Any]:
    """The loop runs, and one notification is stored."""
    api.fabric.orchestrator.start()
    yield api
    api.fabric.orchestrator.stop()


def stored_one(api: Any) -> None:
    """One notification is acknowledged."""
    assert api.client.post("/api/v1/alerts", data=BODY).status_code == 202


def due_one(api: Any) -> None:
    """One incident waits to be claimed, and the servers were asked what is silenced."""
    api.fabric.context.leases.compared(api.fabric.settings.reconcile_interval)
    api.clock.now = api.store.clock()  # by which leases are claimed
    api.receive("cart")


def taken_in(api: Any, seconds: float) -> bool:
    """Whether nothing waits in the inbox, within that time."""
    until = time.monotonic() + seconds
    while api.inbox() and time.monotonic() < until:
        time.sleep(0.02)
    return not api.inbox()


def test_nothing_is_taken_in_while_a_crowd_waits(running: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits in the store until the others have their answers; then all of it is taken in."""
    monkeypatch.setattr(healing_orchestrator, "LONGEST_YIELD", 60.0)
    with flood(running, monkeypatch, CROWD) as answers:
        stored_one(running)
        assert not taken_in(running, 0.5)
    assert [each.result().status_code for each in answers] == [202] * CROWD
    assert taken_in(running, 10)
    assert len(running.alerts()) == len(json.loads(BODY)["alerts"])


@pytest.fixture
def serving(running: Any) -> Iterator[Any]:
    """It can be connected to, too."""
    with reserved_ports(1) as (port,):
        running.fabric.settings = running.fabric.settings.model_copy(update={"listen": f"127.0.0.1:{port}"})
        server = BackgroundServer(running.app, running.fabric)
        server.start()
        running.port = port
        yield running
        server.stop()


def test_large_ones_on_their_way_are_a_flood_too(serving: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """They come in waves: eight were never read at once, and between the waves steps took their time. A
    connection on which nothing comes any more holds nobody up."""
    monkeypatch.setattr(healing_orchestrator, "LONGEST_YIELD", 60.0)
    monkeypatch.setattr(healing_orchestrator, "FLOOD_LASTS", 60.0)
    head = f"POST /api/v1/alerts HTTP/1.1\r\nHost: x\r\nContent-Length: {2 * CROWD_BYTES}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", serving.port)) as client:
        client.sendall(head.encode() + b" " * CROWD_BYTES)
        assert within_deadline(lambda: pressed(serving))
        stored_one(serving)
        assert not taken_in(serving, 0.5)
        monkeypatch.setattr(healing_orchestrator, "FLOOD_LASTS", 1.0)
        assert taken_in(serving, 10)


def pressed(api: Any) -> bool:
    """Waits until the loop knows of a flood."""
    while not api.fabric.orchestrator._pressed():
        time.sleep(0.01)
    return True


def test_a_flood_without_end_keeps_nothing_waiting(running: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a while it is taken in beside the flood."""
    monkeypatch.setattr(healing_orchestrator, "LONGEST_YIELD", 0.2)
    with flood(running, monkeypatch, CROWD):
        stored_one(running)
        assert taken_in(running, 10)


def test_fewer_are_no_flood(running: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who sends one after the other is not kept waiting."""
    monkeypatch.setattr(healing_orchestrator, "LONGEST_YIELD", 60.0)
    with flood(running, monkeypatch, CROWD - 2):
        stored_one(running)
        assert taken_in(running, 10)


def test_no_step_begins_while_a_crowd_waits(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was claimed before the flood is worked on after it."""
    monkeypatch.setattr(healing_orchestrator, "LONGEST_YIELD", 60.0)
    begun = threading.Event()
    monkeypatch.setattr(api.fabric.orchestrator, "advance", lambda _: begun.set())
    due_one(api)
    with flood(api, monkeypatch, CROWD):
        api.fabric.orchestrator._dispatch()
        assert not begun.wait(0.3)
    assert begun.wait(10)


class Held:
    """A collector that is read for as long as the test likes, and may fail then."""

    def __init__(self, *, fails: bool = False) -> None:
        self.read, self.may_end = threading.Event(), threading.Event()
        self._fails = fails

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> list[Metric]:
        self.read.set()
        assert self.may_end.wait(30)
        if self._fails:
            raise OSError
        return []


@pytest.mark.parametrize("fails", [False, True])
def test_no_step_begins_while_metrics_are_scraped(
    api: Any, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    """Thousands of series take their time, and Prometheus gives up after 10 s; also one that fails ends."""
    monkeypatch.setattr(healing_orchestrator, "LONGEST_YIELD", 60.0)
    begun = threading.Event()
    monkeypatch.setattr(api.fabric.orchestrator, "advance", lambda _: begun.set())
    api.fabric.context.metrics.registry.register(held := Held(fails=fails))
    due_one(api)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(api.app.test_client().get, "/metrics")
        assert held.read.wait(10)
        api.fabric.orchestrator._dispatch()
        assert not begun.wait(0.3)
        held.may_end.set()
        assert (answer.result(10).status_code == 200) is not fails
    assert begun.wait(10)


class Steps:
    """The steps of one incident, which are held up as long as the test likes; there are `count` of them."""

    def __init__(self, count: int) -> None:
        self.begun, self.may_end = threading.Semaphore(0), threading.Semaphore(0)
        self._left = count

    def __call__(self, incident: Any) -> Any:
        self.begun.release()
        assert self.may_end.acquire(timeout=10)
        self._left -= 1
        return incident if self._left else None


def test_the_next_step_waits_for_a_crowd_that_came_meanwhile(
    api: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An incident under way lets the answers go first between two of its steps."""
    monkeypatch.setattr(healing_orchestrator, "LONGEST_YIELD", 60.0)
    monkeypatch.setattr(api.fabric.orchestrator, "advance", steps := Steps(2))
    due_one(api)
    api.fabric.orchestrator._dispatch()
    assert steps.begun.acquire(timeout=10)
    with flood(api, monkeypatch, CROWD):
        steps.may_end.release(2)
        assert not steps.begun.acquire(timeout=0.3)
    assert steps.begun.acquire(timeout=10)


def test_many_steps_wait_no_longer_than_one(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flood without end holds an incident up once, and not before each of its steps."""
    monkeypatch.setattr(healing_orchestrator, "LONGEST_YIELD", 0.5)
    monkeypatch.setattr(api.fabric.orchestrator, "advance", steps := Steps(100))
    steps.may_end.release(100)
    due_one(api)
    with flood(api, monkeypatch, CROWD):
        api.fabric.orchestrator._dispatch()
        assert within_deadline(lambda: all(steps.begun.acquire(timeout=10) for _ in range(100)), within=15)


def test_who_stops_in_a_flood_gives_back_what_was_not_begun(
    api: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No effect begins when the process is told to end, and another replica need not wait for the lease."""
    monkeypatch.setattr(healing_orchestrator, "LONGEST_YIELD", 60.0)
    begun: list[Any] = []
    monkeypatch.setattr(api.fabric.orchestrator, "advance", begun.append)
    due_one(api)
    query = "SELECT lease_owner FROM incidents"
    with flood(api, monkeypatch, CROWD):
        api.fabric.orchestrator._dispatch()
        assert api.store.read(lambda c: c.exec_driver_sql(query).scalar_one()) is not None
        within_deadline(api.fabric.orchestrator.stop)
    assert begun == []
    assert api.store.read(lambda c: c.exec_driver_sql(query).scalar_one()) is None


def test_what_was_brought_is_taken_in_without_asking_for_it(
    api: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request that stored it says so; the look after it asks again."""
    monkeypatch.setattr(api.fabric.orchestrator, "work", lambda _: None)
    asked: list[float] = []
    to_do = statements.to_do

    def count(connection: Connection, now: float) -> tuple[bool, float | None]:
        asked.append(now)
        return to_do(connection, now)

    monkeypatch.setattr(statements, "to_do", count)
    stored_one(api)
    assert api.fabric.orchestrator._look() == 0.0
    assert (api.inbox(), len(asked)) == ([], 0)
    api.fabric.orchestrator._look()
    assert len(asked) == 1
