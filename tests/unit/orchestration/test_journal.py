"""The journal between replicas: what was announced counts for all, and a pause stops what has not begun.

Two stores on one PostgreSQL are two replicas; the moments at which they meet are held by the test.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count
from typing import Any

import pytest
from sqlalchemy import text

from self_healing_fabric import guardrails
from self_healing_fabric.errors import LeaseLost
from self_healing_fabric.guardrails import Refusal, mode
from self_healing_fabric.incidents.lifecycle import State, Transition
from self_healing_fabric.incidents.models import Incident
from self_healing_fabric.incidents.timeline import Entry, Kind
from self_healing_fabric.orchestration import journal
from self_healing_fabric.orchestration import leases as leases_module
from self_healing_fabric.orchestration.context import Context
from self_healing_fabric.orchestration.diagnosis_verdicts import Calibrator
from self_healing_fabric.orchestration.leases import LEASE, Leases
from self_healing_fabric.orchestration.service_graph import ServiceGraph
from self_healing_fabric.recovery.outcomes import Outcome, Status
from self_healing_fabric.settings import Mode, Settings
from self_healing_fabric.store import Store, statements
from self_healing_fabric.telemetry import Metrics

START = 1_800_000_000.0
TARGET = "http:cart"
ENDED = {"status": "succeeded", "started_at": START, "finished_at": START}
numbers = count()


class Replica:
    """The parts of a fabric that write."""

    def __init__(self, url: str, settings: Settings) -> None:
        self.now = START
        self.store = Store(url)
        self.context = Context(
            settings=settings,
            store=self.store,
            prometheus=None,  # type: ignore[arg-type]
            verifier=None,  # type: ignore[arg-type]
            strategies={},
            channels={},
            metrics=Metrics(settings.services),
            leases=Leases(self.store, self.clock),
            graph=ServiceGraph(settings, None),  # type: ignore[arg-type]
            calibrator=Calibrator(self.store),
            clock=self.clock,
        )

    def clock(self) -> float:
        """Seconds since 1970."""
        return self.now

    def claim(self, incident_id: str) -> Incident:
        """Claim this incident, and nothing else that is due."""
        (incident,) = (each for each in self.context.leases.claim(10) if each.id == incident_id)
        return incident

    def announce(self, incident: Incident, **changes: Any) -> Refusal | None:
        """Announce a restart of the one target: None when it may begin."""
        action = {
            "id": f"{incident.id}/{next(numbers)}",
            "service": incident.service,
            "platform": "http",
            "target": TARGET,
            "attempt": 1,
            "before": {},
            **changes,
        }
        answer = journal.announce(
            self.context, incident, action=action, strategy="restart", disruptive=True, entries=()
        )
        return answer if isinstance(answer, Refusal) else None


def settings_of(max_actions: int) -> Settings:
    """One service, and no other bound than this."""
    limits = {"max_actions": max_actions, "cooldown": 0, "fleet": {"at_once": 100}}
    return Settings(services={"cart": {}}, guardrails=limits)  # type: ignore[arg-type,dict-item]


@pytest.fixture
def replicas(postgresql_url: str) -> Iterator[tuple[Replica, Replica]]:
    """Two replicas with one configuration."""
    settings = settings_of(max_actions=100)
    made = Replica(postgresql_url, settings), Replica(postgresql_url, settings)
    yield made
    for replica in made:
        replica.store.close()


def open_incident(store: Store, incident_id: str) -> str:
    """Open an incident that is due."""
    values = {
        "id": incident_id,
        "subject": incident_id,
        "service": "cart",
        "known_service": True,
        "title": "t",
        "severity": "critical",
        "state": "recovering",
        "opened_at": START,
        "updated_at": START,
        "due_at": START,
        "plan": ["restart"],
    }
    store.write(lambda connection: statements.insert_incidents(connection, [values]))
    return incident_id


def actions(store: Store) -> list[tuple[str, str]]:
    """Incident and status of all actions."""
    query = text("SELECT incident_id, status FROM actions ORDER BY number")
    return [tuple(row) for row in store.read(lambda connection: connection.execute(query).all())]


def story(store: Store, incident_id: str) -> list[str]:
    """The messages of a timeline."""
    return [row.message for row in store.read(lambda c: statements.timeline_of(c, incident_id))]


def set_mode(replica: Replica, value: Mode) -> None:
    """A person sets the mode at this replica."""
    replica.store.write(lambda connection: mode.change(connection, value, by="ann", now=START))


def test_of_two_that_announce_at_the_same_time_one_is_refused(
    replicas: tuple[Replica, Replica], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two incidents with one target on two replicas: both look at the budget together, one may act."""
    first, second = replicas
    claimed = []
    for replica, name in ((first, "i1"), (second, "i2")):
        open_incident(first.store, name)
        claimed.append(replica.claim(name))
    checking = threading.Barrier(2)
    check = guardrails.check

    def slowly(*args: Any) -> Refusal | None:
        refusal = check(*args)
        with contextlib.suppress(threading.BrokenBarrierError):
            checking.wait(0.5)  # the other one is checking too: then both would find the target free
        return refusal

    monkeypatch.setattr(guardrails, "check", slowly)
    with ThreadPoolExecutor(2) as pool:
        refusals = list(pool.map(lambda pair: pair[0].announce(pair[1]), zip(replicas, claimed, strict=True)))
    assert sorted(each.guardrail if each else "" for each in refusals) == ["", "one_at_a_time"]
    assert len(actions(first.store)) == 1


def test_many_that_announce_together_stay_within_the_budget(postgresql_url: str) -> None:
    """Eight incidents on two replicas want the same target, again and again: never more than allowed."""
    settings = settings_of(max_actions=3)
    pair = Replica(postgresql_url, settings), Replica(postgresql_url, settings)
    for number in range(8):
        open_incident(pair[0].store, f"i{number}")
    incidents = pair[0].context.leases.claim(8)
    together = threading.Barrier(8)
    most: list[int] = []

    def work(number: int) -> int:
        replica, incident, announced = pair[number % 2], incidents[number], 0
        together.wait(10)
        while (refusal := replica.announce(incident)) is None or refusal.guardrail != "max_actions":
            replica.now += 1.0
            if refusal is None:
                announced += 1
                most.append(sum(status == "started" for _, status in actions(replica.store)))
                row = replica.store.read(
                    lambda c, incident=incident: statements.unfinished_action_of(c, incident.id)
                )
                assert row is not None
                replica.store.write(lambda c, row=row: statements.update_action(c, row.id, ENDED))
        return announced

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(work, range(8))) == 3
    assert set(most) == {1}
    for replica in pair:
        replica.store.close()


def test_an_announcement_of_one_that_was_overtaken_is_dropped(replicas: tuple[Replica, Replica]) -> None:
    """Another owner has taken over: LeaseLost, and neither action nor timeline says otherwise."""
    first, second = replicas
    incident = first.claim(open_incident(first.store, "i1"))
    second.now += LEASE + 1
    second.claim("i1")
    with pytest.raises(LeaseLost):
        first.announce(incident)
    with pytest.raises(LeaseLost):
        journal.commit(first.context, incident, Transition(State.VERIFYING, 1.0, (Entry(Kind.NOTE, "mine"),)))
    assert actions(first.store) == []
    assert story(first.store, "i1") == []


def test_an_announcement_prolongs_the_lease(
    replicas: tuple[Replica, Replica], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An effect begins with a whole lease in hand, in the store and in the process."""
    first, second = replicas
    steady = [100.0]
    monkeypatch.setattr(leases_module, "steady", lambda: steady[0])
    monkeypatch.setattr(journal, "steady", lambda: steady[0])
    incident = first.claim(open_incident(first.store, "i1"))
    first.now, steady[0] = START + 5.0, 105.0
    assert first.announce(incident, id="a1") is None
    second.now = START + LEASE + 1
    assert second.context.leases.claim(5) == []
    steady[0] = 105.0 + LEASE - 0.1
    assert first.context.leases.holds(incident)
    steady[0] = 105.0 + LEASE
    assert not first.context.leases.holds(incident)
    assert actions(first.store) == [("i1", "started")]


def test_one_that_froze_while_it_announced_may_not_act(
    replicas: tuple[Replica, Replica], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looked at one clock, froze for a minute, and looked at the other: the lease counts from before."""
    first, second = replicas
    steady = [100.0]

    def look() -> float:
        now = steady[0]
        freeze()
        return now

    def clock() -> float:
        now = first.now
        freeze()
        return now

    def freeze() -> None:
        if frozen.pop("next", False):
            steady[0] += 60.0
            first.now += 60.0

    frozen: dict[str, bool] = {}
    incident = first.claim(open_incident(first.store, "i1"))
    monkeypatch.setattr(journal, "steady", look)
    monkeypatch.setattr(leases_module, "steady", lambda: steady[0])
    object.__setattr__(first.context, "clock", clock)
    frozen["next"] = True
    begun = first.announce(incident) is None
    second.now = first.now
    taken_over = bool(second.context.leases.claim(5))
    assert not (begun and taken_over and first.context.leases.holds(incident))


@pytest.mark.parametrize("before", [None, Mode.AUTOMATIC], ids=["never set", "set before"])
def test_a_pause_and_an_announcement_do_not_overlap(
    replicas: tuple[Replica, Replica], monkeypatch: pytest.MonkeyPatch, before: Mode | None
) -> None:
    """Once the pause is acknowledged nothing begins: it waits for a beginning that was first."""
    first, second = replicas
    if before is not None:
        set_mode(second, before)
    incident = first.claim(open_incident(first.store, "i1"))
    order: list[str] = []
    pausing: list[Future[None]] = []
    update = statements.update_claimed

    def pause() -> None:
        set_mode(second, Mode.PAUSED)
        order.append("paused")

    def slowly(*args: Any) -> None:
        pausing.append(pool.submit(pause))  # it has just read that nothing is paused
        threading.Event().wait(0.3)
        update(*args)
        order.append("begins")

    monkeypatch.setattr(statements, "update_claimed", slowly)
    with ThreadPoolExecutor(1) as pool:
        assert first.announce(incident) is None
    pausing[0].result()
    assert order == ["begins", "paused"]


@pytest.mark.parametrize("before", [None, Mode.AUTOMATIC], ids=["never set", "set before"])
def test_nothing_begins_while_paused(replicas: tuple[Replica, Replica], before: Mode | None) -> None:
    """A pause at one replica stops the other, and its end lets it go on."""
    first, second = replicas
    if before is not None:
        set_mode(first, before)
    incident = first.claim(open_incident(first.store, "i1"))
    set_mode(second, Mode.PAUSED)
    refusal = first.announce(incident)
    assert refusal is not None
    assert refusal.guardrail == "mode"
    assert actions(first.store) == []
    set_mode(second, Mode.AUTOMATIC)
    assert first.announce(incident) is None


def test_a_commit_is_whole_or_nothing(replicas: tuple[Replica, Replica]) -> None:
    """Incident, action, verdict, timeline and the rest: one failure, and none of it is there."""
    first, _ = replicas
    incident = first.claim(open_incident(first.store, "i1"))
    assert first.announce(incident, id="a1") is None
    transition = Transition(State.VERIFYING, 1.0, (Entry(Kind.NOTE, "done"),))
    finished = ("a1", Outcome(Status.SUCCEEDED, "answered 200"))

    def fail(_: Any) -> None:
        raise LookupError("a defect")

    write: Callable[..., Incident] = journal.commit
    with pytest.raises(LookupError):
        write(first.context, incident, transition, finished=finished, also=(fail,))
    assert actions(first.store) == [("i1", "started")]
    assert len(story(first.store, "i1")) == 1
    after = write(first.context, incident, transition, finished=finished, verdict=("a1", "healed"))
    assert after.state is State.VERIFYING
    assert actions(first.store) == [("i1", "succeeded")]
    assert story(first.store, "i1")[1:] == ["done", "recovering -> verifying"]
    row = first.store.read(lambda connection: statements.incident(connection, "i1"))
    assert row is not None
    assert (row.state, row.lease_owner, row.due_at) == ("verifying", None, START + 1.0)


def test_a_held_commit_keeps_the_lease(replicas: tuple[Replica, Replica]) -> None:
    """The next step follows at once: nobody else can claim it in between."""
    first, second = replicas
    incident = first.claim(open_incident(first.store, "i1"))
    after = journal.commit(first.context, incident, Transition(State.RECOVERING, 0.0), hold=True)
    assert second.context.leases.claim(5) == []
    assert first.context.leases.holds(after)
    journal.commit(first.context, after, Transition(State.RECOVERING, 0.0))
    assert [each.id for each in second.context.leases.claim(5)] == ["i1"]
