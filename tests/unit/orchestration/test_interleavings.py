"""One incident and one action for one problem, in any order in which the world can tell of it.

Hypothesis draws histories: notifications that are repeated, reordered, duplicated by an HA pair, resolved
before they fire, fired again with a new `startsAt`; mixed with comparisons with the servers, a clock that is
set, a process that dies before or after any write or effect, or freezes there while another takes over.

The service fails once, and one restart at the target repairs it. What "one problem" means:

- An alert is `fingerprint` and `startsAt`. What is told of it again, or late, changes nothing.
- A new alert (a new `startsAt` included) belongs to the service's open incident; it re-opens one that is
  resolved and not closed yet, unless it began before that; after the close it is a new problem with a new
  incident.
- `resolved` that comes before its `firing` is the end of an alert that nobody needs to hear of.
- What Alertmanager itself lists as active fires, whatever was told before.

`Expected` is that definition, on plain values. The histories run on the product's orchestrator,
reconciliation, correlation and journal; only the file, the servers and the target are stand-ins, for speed.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeVar

import httpx
import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, create_engine, event
from sqlalchemy.pool import StaticPool

from killed import Killed
from self_healing_fabric.incidents.lifecycle import State
from self_healing_fabric.orchestration.context import Context
from self_healing_fabric.orchestration.diagnosis_verdicts import Calibrator
from self_healing_fabric.orchestration.healing_orchestrator import HealingOrchestrator
from self_healing_fabric.orchestration.leases import LEASE, Leases
from self_healing_fabric.orchestration.reconciliation import _LISTED, GRACE, Reconciliation
from self_healing_fabric.orchestration.service_graph import ServiceGraph
from self_healing_fabric.recovery.effects import Effect
from self_healing_fabric.recovery.outcomes import BEGINS_WITHIN, Outcome, Permit, Status, forbidden
from self_healing_fabric.recovery.verification import Verifier
from self_healing_fabric.settings import Settings
from self_healing_fabric.store import sqlite, statements
from self_healing_fabric.store.documents import dumps
from self_healing_fabric.store.migrations import migrate
from self_healing_fabric.telemetry import Metrics
from shf_queries import PrometheusUnavailable
from shf_queries.catalogue import HEARTBEAT, series_of
from world import Clock, FakePrometheus

T = TypeVar("T")
Identity = tuple[str, int]  # the fingerprint and the number of the start

SETTINGS = Settings(
    services={"cart": {}},
    prometheus={"scrape_interval": 1, "evaluation_interval": 1},  # type: ignore[arg-type]
    verification={"stability": 10, "deadline": 90, "interval": 5},  # type: ignore[arg-type]
    guardrails={"cooldown": 0, "max_actions": 100},  # type: ignore[arg-type]  # they must not hide a second try
    relapse_window=30,
    alertmanager={"url": "http://127.0.0.1:9"},  # type: ignore[arg-type]
    plans={"service_failure": ("restart",), "degradation": ("restart",)},  # all that the target below can do
)
METRICS = Metrics(SETTINGS.services)
STARTS = ("2026-11-22T07:00:00", "2030-11-22T07:00:00", "2030-11-22T07:02:00")
RESOLVED = "2027"  # all that is resolved in a history
LABELS = {
    name: {"alertname": name, "service": "cart", "signal": "heartbeat", "severity": "critical"}
    for name in ("f0", "f1")
}


class MemoryStore:
    """The product's statements on SQLite in memory: what is committed stays, whoever dies."""

    shared = False

    def __init__(self) -> None:
        self._engine = create_engine(
            "sqlite://",
            poolclass=StaticPool,
            connect_args={"check_same_thread": False},
            json_serializer=dumps,
        )
        event.listen(self._engine, "connect", sqlite._configure)
        sqlite._begin_with(self._engine, "BEGIN IMMEDIATE")
        with self._engine.begin() as connection:
            migrate(connection)
            self._driver: Any = connection.connection.driver_connection
        self._empty = self._driver.serialize()
        self.before_write: Callable[[], None] = lambda: None
        self.committed: Callable[[], None] = lambda: None
        self.after_write: Callable[[], None] = lambda: None

    def clear(self) -> None:
        """Forget everything; one engine for all examples keeps its compiled statements."""
        self._driver.deserialize(self._empty)
        self.before_write = self.committed = self.after_write = lambda: None

    def sql(self, query: str) -> list[Any]:
        """Rows of plain SQL, for what a test wants to know."""
        return self._driver.execute(query).fetchall()

    def write(self, function: Callable[[Connection], T]) -> T:
        self.before_write()
        with self._engine.begin() as connection:
            value = function(connection)
        self.committed()
        self.after_write()
        return value

    def read(self, function: Callable[[Connection], T]) -> T:
        with self._engine.begin() as connection:
            return function(connection)

    ask = read

    def since_set_forward(self) -> float:
        return math.inf


class Target(Effect):
    """Counts what was really done to the service; knows whether it was started since it was asked."""

    name, disruptive = "restart", True
    platform, target = "stub", "stub:cart"
    longest_effect = BEGINS_WITHIN + 1.0
    renews_process = True

    def __init__(self, world: World) -> None:
        self.restarts = 0
        self.before_effect: Callable[[], None] = lambda: None
        self.after_effect: Callable[[], None] = lambda: None
        self._world = world

    def on(self, service: str) -> Target:
        return self

    def snapshot(self) -> Mapping[str, Any]:
        return {"restarts": self.restarts}

    def perform(self, *, key: str, attempt: int, before: Mapping[str, Any], permit: Permit) -> Outcome:
        self.before_effect()
        if not permit():
            return forbidden()
        self.restarts += 1
        self._world.restarted()
        self.after_effect()
        return Outcome(Status.SUCCEEDED, "done")

    def observe(self, before: Mapping[str, Any]) -> Outcome:
        done = self.restarts > before["restarts"]
        return Outcome(Status.SUCCEEDED if done else Status.FAILED, "asked", None if done else 0.0)

    def check(self) -> str:
        return "counts"


class Process:
    """One process of the fabric: all that a kill takes away."""

    def __init__(self, world: World) -> None:
        self.context = Context(
            settings=SETTINGS,
            store=world.store,  # type: ignore[arg-type]
            prometheus=world.prometheus,  # type: ignore[arg-type]
            verifier=Verifier(world.prometheus, SETTINGS),  # type: ignore[arg-type]
            strategies={"restart": world.target, "retry": world.target},
            channels={},
            metrics=METRICS,
            leases=Leases(world.store, world.clock),  # type: ignore[arg-type]
            graph=ServiceGraph(SETTINGS, world.prometheus),  # type: ignore[arg-type]
            calibrator=Calibrator(world.store),  # type: ignore[arg-type]
            clock=world.clock,
        )
        self.orchestrator = HealingOrchestrator(self.context)
        self.reconciliation = self.orchestrator.reconciliation


class Expected:
    """What must be true, by the definition above."""

    def __init__(self) -> None:
        self.waiting: list[tuple[float, list[tuple[Identity, str]]]] = []  # notifications not worked in yet
        self.firing: dict[Identity, bool] = {}
        self.received: dict[Identity, float] = {}
        self.problem: dict[Identity, int] = {}  # the number of the problem that an alert belongs to
        self.problems = 0
        self.reopened = 0

    def _hear(self, identity: Identity, status: str, at: float) -> None:
        if identity not in self.firing:
            self.firing[identity] = status == "firing"
            self.received[identity] = at
        elif status == "resolved":
            self.firing[identity] = False

    def take_in(self, state: State | None) -> None:
        """What waits is worked in while the newest incident is in this state; None: there is none."""
        for at, alerts in self.waiting:
            for identity, status in alerts:
                self._hear(identity, status, at)
        self.waiting.clear()
        new = [each for each, firing in self.firing.items() if firing and each not in self.problem]
        if not new:
            return
        if state in (None, State.CLOSED):
            self.problems += 1
        elif state is State.RESOLVED:
            self.reopened += any(STARTS[number] > RESOLVED for _, number in new)
        for identity in new:
            self.problem[identity] = self.problems

    def compare(
        self,
        listed: Sequence[Identity],
        measured: Sequence[str] | None,
        state: State | None,
        now: float,
    ) -> None:
        """Alertmanager lists exactly these. What it has forgotten ends when Prometheus says so, too; what it
        lists under another start it has not forgotten."""
        for identity in listed:
            if not self.firing.get(identity):
                self._hear(identity, "firing", now)
                self.firing[identity] = True
                past = self.problem.get(identity, self.problems) < self.problems or state is State.CLOSED
                if past:
                    self.problem.pop(identity, None)
        over = {fingerprint for fingerprint, _ in listed}
        if measured is not None:
            over |= {fingerprint for fingerprint, _ in self.firing} - set(measured)
        self.end([each for each in self.firing if each not in listed and each[0] in over], now)

    def end(self, gone: Sequence[Identity], now: float) -> None:
        """A server no longer lists these."""
        for identity in gone:
            if now - self.received[identity] > GRACE:
                self.firing[identity] = False


class World:
    """A service that fails, what watches it, and the processes of the fabric, one after the other."""

    def __init__(self, store: MemoryStore, heals_after: float) -> None:
        store.clear()
        self.store = store
        self.clock = Clock()
        self.steady = 0.0
        self.prometheus = FakePrometheus(self.clock)
        self.heals_after = heals_after
        self.heals_at: float | None = None  # on the steady clock
        self.target = Target(self)
        self.expected = Expected()
        self.listed: Sequence[Identity] | None = None  # by Alertmanager; None: it does not answer
        self.measured: Sequence[str] | None = None  # fingerprints that Prometheus fires; None likewise
        self._measure(0.0)
        self.clock.now += 100.0
        self.process = Process(self)

    def _measure(self, value: float) -> None:
        for series in (HEARTBEAT.series, HEARTBEAT.fresh_series):
            self.prometheus.set(series_of(series, "cart"), value)

    def restarted(self) -> None:
        self.heals_at = self.steady + self.heals_after

    def list(self) -> Any:
        """What GET /api/v2/alerts answers, with the milliseconds that it cuts times to."""
        if self.listed is None:
            raise httpx.ConnectError("refused")
        return _LISTED.validate_python(
            [
                {
                    "fingerprint": fingerprint,
                    "startsAt": f"{STARTS[number]}.123Z",
                    "labels": LABELS[fingerprint],
                    "receivers": [{"name": "self-healing-fabric"}],
                    "status": {"state": "active"},
                }
                for fingerprint, number in self.listed
            ]
        )

    def alerts(self) -> Any:
        """What Prometheus's GET /api/v1/alerts answers."""
        if self.measured is None:
            raise PrometheusUnavailable("Prometheus does not answer")
        return [{"labels": LABELS[name], "state": "firing"} for name in self.measured]

    def state(self) -> State | None:
        """Of the newest incident."""
        found = self.store.sql("SELECT state FROM incidents ORDER BY rowid DESC LIMIT 1")
        return State(found[0][0]) if found else None

    def receive(self, alerts: Sequence[tuple[Identity, str]]) -> None:
        """Acknowledge a notification."""
        listed = [
            {
                "status": status,
                "labels": LABELS[fingerprint],
                "startsAt": f"{STARTS[number]}.123456789Z",
                "fingerprint": fingerprint,
            }
            for (fingerprint, number), status in alerts
        ]
        body, now = json.dumps({"version": "4", "alerts": listed}).encode(), self.clock.now
        self.store.write(lambda connection: statements.put_in_inbox(connection, [(body, now)]))
        self.expected.waiting.append((now, list(alerts)))

    def take_in(self) -> None:
        state = self.state()
        self.store.committed = lambda: self.expected.take_in(state)
        try:
            self.process.orchestrator.take_in()
        finally:
            self.store.committed = lambda: None

    def compare(self) -> None:
        state = self.state()
        self.process.reconciliation.run()
        if self.listed is not None:
            self.expected.compare(self.listed, self.measured, state, self.clock.now)
        elif self.measured is not None:
            gone = [each for each in self.expected.firing if each[0] not in self.measured]
            self.expected.end(gone, self.clock.now)

    def run(self, seconds: float) -> None:
        """Do what is due now and what falls due in this time."""
        end = self.steady + seconds
        while True:
            self._work()
            if self.steady >= end:
                return
            self._pass(min(max(self._until_next(), 0.5), end - self.steady))

    def _until_next(self) -> float:
        due = [row[0] - self.clock.now for row in self.store.sql("SELECT due_at FROM incidents WHERE due_at")]
        heals = [] if self.heals_at is None else [self.heals_at - self.steady]
        return min([*due, *heals, 1000.0])

    def _pass(self, seconds: float) -> None:
        self.clock.now += seconds
        self.steady += seconds
        if self.heals_at is not None and self.steady >= self.heals_at:
            self._measure(1.0)
            self.heals_at = None

    def _work(self) -> None:
        self.take_in()
        process = self.process
        while process is self.process and (claimed := process.orchestrator.claim(8)):
            for incident in claimed:
                process.orchestrator.work(incident)

    def set_clock(self, by: float) -> None:
        """The clock is set, Prometheus's too: what is measured last stays what is measured now."""
        self.clock.now += by
        for changes in self.prometheus.history.values():
            changes[:] = [(min(since, self.clock.now), value) for since, value in changes]

    def restart(self) -> None:
        """The process is gone; a new one starts on what was committed."""
        self.disarm()
        self.process = Process(self)
        self.store.write(statements.release_all_leases)

    def disarm(self) -> None:
        self.store.before_write = self.store.after_write = lambda: None
        self.target.before_effect = self.target.after_effect = lambda: None

    def arm(self, place: str, number: int, strike: Callable[[], None]) -> None:
        """Let something happen at the n-th time that a process comes to this place."""
        left = number

        def pass_by() -> None:
            nonlocal left
            left -= 1
            if left == 0:
                self.disarm()
                strike()

        owner = self.store if place.endswith("write") else self.target
        setattr(owner, place, pass_by)

    def die(self) -> None:
        raise Killed

    def freeze(self, seconds: float) -> None:
        """The process stops where it is; another one takes over when its lease is over, and goes on."""
        self._pass(LEASE + 1.0)
        self.process = Process(self)
        self.run(seconds)


class Step:
    """Something that happens to the world."""

    def __call__(self, world: World) -> None:
        raise NotImplementedError


@dataclass(frozen=True)
class Notify(Step):
    """Notifications arrive, each as often as it is sent."""

    alerts: tuple[tuple[Identity, str], ...]
    times: int  # 2: both peers of a pair

    def __call__(self, world: World) -> None:
        for _ in range(self.times):
            world.receive(self.alerts)


@dataclass(frozen=True)
class Compare(Step):
    """The loop that asks the servers."""

    listed: tuple[Identity, ...] | None
    measured: tuple[str, ...] | None

    def __call__(self, world: World) -> None:
        world.listed, world.measured = self.listed, self.measured
        world.compare()


@dataclass(frozen=True)
class Work(Step):
    """Time passes."""

    seconds: float

    def __call__(self, world: World) -> None:
        world.run(self.seconds)


@dataclass(frozen=True)
class SetClock(Step):
    """Somebody sets the clock."""

    by: float

    def __call__(self, world: World) -> None:
        world.set_clock(self.by)


@dataclass(frozen=True)
class Crash(Step):
    """The process dies, at the n-th time that it comes to this place in the next seconds, or after them."""

    place: tuple[str, int]
    seconds: float

    def __call__(self, world: World) -> None:
        world.arm(*self.place, world.die)
        with suppress(Killed):
            world.run(self.seconds)
        world.restart()


@dataclass(frozen=True)
class Freeze(Step):
    """The process freezes at such a place; when it wakes up, another one has had its work for a while."""

    place: tuple[str, int]
    seconds: float
    frozen: float

    def __call__(self, world: World) -> None:
        world.arm(*self.place, lambda: world.freeze(self.frozen))
        world.run(self.seconds)
        world.disarm()


IDENTITIES = st.tuples(st.sampled_from(["f0", "f1"]), st.integers(0, 2))
STATUSES = st.sampled_from(["firing", "firing", "resolved"])
ALERTS = st.lists(st.tuples(IDENTITIES, STATUSES), min_size=1, max_size=3)
WRITES = st.tuples(st.sampled_from(["before_write", "after_write"]), st.integers(1, 12))
EFFECTS = st.tuples(st.sampled_from(["before_effect", "after_effect"]), st.just(1))
PLACES = WRITES | EFFECTS
SECONDS = st.sampled_from([0.0, 3.0, 20.0, 100.0])
NOTIFICATIONS = st.builds(Notify, ALERTS.map(tuple), st.integers(1, 2))
STRIKES = st.builds(Crash, PLACES, SECONDS) | st.builds(Freeze, PLACES, SECONDS, st.sampled_from([2.0, 53.0]))
STEPS = st.one_of(
    NOTIFICATIONS.map(lambda step: (step,)),
    # Struck while it is busy with what was told: by themselves the two would seldom follow each other.
    st.tuples(NOTIFICATIONS, STRIKES),
    STRIKES.map(lambda step: (step,)),
    st.builds(
        Compare,
        st.none() | st.lists(IDENTITIES, max_size=2, unique=True).map(tuple),
        st.none() | st.lists(st.sampled_from(["f0", "f1"]), unique=True).map(tuple),
    ).map(lambda step: (step,)),
    st.builds(Work, SECONDS).map(lambda step: (step,)),
    st.builds(SetClock, st.sampled_from([-30.0, -5.0, 5.0, 60.0, 400.0])).map(lambda step: (step,)),
)
HISTORIES = st.lists(STEPS, max_size=8).map(lambda steps: list(chain.from_iterable(steps)))


@pytest.fixture(scope="module")
def memory() -> Iterator[MemoryStore]:
    """The store of all examples; nothing is logged, for nobody reads it and it takes most of the time."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield MemoryStore()
    structlog.reset_defaults()


def check(world: World) -> None:
    """As many incidents and re-openings as problems and returns; one action at the target at most."""
    states = [row[0] for row in world.store.sql("SELECT state FROM incidents ORDER BY rowid")]
    assert len(states) == world.expected.problems
    assert all(state == State.CLOSED for state in states[:-1])
    returned = "SELECT count(*) FROM timeline WHERE message LIKE 'Re-opened: an alert came back%'"
    assert world.store.sql(returned) == [(world.expected.reopened,)]
    assert world.target.restarts <= 1


@settings(max_examples=1000, deadline=None)
@given(history=HISTORIES, heals_after=st.sampled_from([0.0, 3.0, 45.0]))
def test_any_history_of_one_failure_is_one_incident_and_one_action(
    memory: MemoryStore, history: list[Step], heals_after: float
) -> None:
    """Whatever is told how often, in which order, and whoever dies on the way; counted at the target."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(httpx, "Client", lambda **_: None)  # loads certificates, and is not used here
        world = World(memory, heals_after)
        patch.setattr(Reconciliation, "_list", lambda *_: (world.list(), []))
        patch.setattr(world.prometheus, "alerts", world.alerts)
        patch.setattr(time, "clock_gettime", lambda _: world.steady)  # the clock of the leases
        for step in history:
            step(world)
            check(world)
        # However badly it was told, the servers know it: in the end the service is repaired, once.
        world.listed = [("f0", 0)]
        for _ in range(8):
            world.compare()
            world.run(10.0)
            if world.target.restarts:
                break
        world.run(20.0)
        check(world)
        assert world.target.restarts == 1
