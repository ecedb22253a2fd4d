"""Leases: who may begin an effect, by a clock that no freeze stops, and who follows the dead."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from self_healing_fabric.errors import StoreUnavailable
from self_healing_fabric.incidents.models import Incident
from self_healing_fabric.orchestration import leases as module
from self_healing_fabric.orchestration.leases import LEADER, LEASE, LONGEST_STEP, Leases
from self_healing_fabric.store import Store, statements

START = 1_800_000_000.0


class Time:
    """The store's clock and the steady one. A frozen process sees both jump; `between` runs after a look."""

    def __init__(self) -> None:
        self.passed = 0.0
        self.between: Callable[[], None] = lambda: None

    def clock(self) -> float:
        """The store's."""
        now = START + self.passed
        self.between()
        return now

    def steady(self) -> float:
        """The one that nobody sets."""
        now = 500.0 + self.passed
        self.between()
        return now


@pytest.fixture
def passing(monkeypatch: pytest.MonkeyPatch) -> Time:
    """Time that only a test moves."""
    passing = Time()
    monkeypatch.setattr(module, "steady", passing.steady)
    return passing


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A store with two incidents that are due."""
    on_sqlite = request.param == "sqlite"
    store = Store(
        f"sqlite:///{tmp_path / 'shf.db'}" if on_sqlite else request.getfixturevalue("postgresql_url")
    )
    for name in ("i1", "i2"):
        open_incident(store, name)
    yield store
    store.close()


@pytest.fixture
def shared(postgresql_url: str) -> Iterator[Store]:
    """A store that replicas share, with two incidents that are due."""
    store = Store(postgresql_url)
    for name in ("i1", "i2"):
        open_incident(store, name)
    yield store
    store.close()


def open_incident(store: Store, name: str) -> None:
    """Open an incident that is due."""
    values = {
        "id": name,
        "subject": name,
        "service": "cart",
        "known_service": True,
        "title": "t",
        "severity": "critical",
        "state": "detected",
        "opened_at": START,
        "updated_at": START,
        "due_at": START,
        "plan": [],
    }
    store.write(lambda connection: statements.insert_incidents(connection, [values]))


class Away:
    """A store in front of another that can be away, or at which something happens around a write."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.shared = store.shared
        self.away = False
        self.before: Callable[[], None] = lambda: None  # the next write, once
        self.after: Callable[[], None] = lambda: None

    def write(self, function: Callable[[Any], Any]) -> Any:
        """As the store's, while it is not away."""
        if self.away:
            raise StoreUnavailable("away")
        before, after = self.before, self.after
        self.before = self.after = lambda: None
        before()
        value = self._store.write(function)
        after()
        return value

    def set_clock(self) -> None:
        """As the store's."""
        self._store.set_clock()


def row(store: Store, name: str = "i1") -> Any:
    """The incident as the store has it."""
    return store.read(lambda connection: statements.incident(connection, name))


def claim_one(leases: Leases) -> Incident:
    """Claim only the first incident."""
    (incident,) = leases.claim(1)
    return incident


def test_what_is_claimed_is_held(store: Store, passing: Time) -> None:
    """With the owner and the end in the store; what is not claimed is not held."""
    leases = Leases(store, passing.clock)
    incident = claim_one(leases)
    assert (len(leases), set(leases.held())) == (1, {incident.id})
    assert leases.holds(incident)
    stored = row(store, incident.id)
    assert (stored.lease_owner, stored.lease_until, stored.epoch) == (leases.owner, START + LEASE, 1)
    other = "i2" if incident.id == "i1" else "i1"
    (second,) = leases.claim(5)
    assert second.id == other
    assert leases.claim(5) == []


def test_two_processes_never_have_one_name(store: Store, passing: Time) -> None:
    """Not even two that follow each other with the same number on the same machine."""
    owners = {Leases(store, passing.clock).owner for _ in range(20)}
    assert len(owners) == 20


def test_a_lease_ends_although_nobody_took_over(store: Store, passing: Time) -> None:
    """The epoch in the store is still ours, and that proves nothing: the time is over."""
    leases = Leases(store, passing.clock)
    incident = claim_one(leases)
    passing.passed = LEASE - 0.001
    assert leases.holds(incident)
    passing.passed = LEASE
    assert not leases.holds(incident)
    assert row(store, incident.id).epoch == incident.epoch


def test_a_lease_is_over_before_another_process_can_claim(store: Store, passing: Time) -> None:
    """At every moment of a lease: either we hold it or another one can have it, never both."""
    ours, theirs = Leases(store, passing.clock), Leases(store, passing.clock)
    incident = claim_one(ours)
    claim_one(theirs)  # the second incident
    theirs.stop()
    while not (taken := [each for each in theirs.claim(5) if each.id == incident.id]):
        passing.passed += 0.1
        assert passing.passed < LEASE + 0.3
    assert not ours.holds(incident)
    assert theirs.holds(taken[0])
    assert taken[0].epoch > incident.epoch


@pytest.mark.parametrize("what", ["claim", "renew"])
def test_a_process_that_froze_while_it_asked_holds_no_longer_than_the_store_says(
    store: Store, passing: Time, what: str
) -> None:
    """Between its looks at the two clocks a minute passed: the lease is counted from before."""
    leases = Leases(store, passing.clock)

    def freeze() -> None:
        passing.between = lambda: None
        passing.passed += 60.0

    if what == "claim":
        passing.between = freeze
        incident = claim_one(leases)
    else:
        incident = claim_one(leases)
        passing.between = freeze
        leases.renew()
    until = row(store, incident.id).lease_until
    free = START + passing.passed > until  # for others, by the store's clock
    assert not (free and leases.holds(incident))


def test_a_leader_that_froze_while_it_asked_leads_no_longer_than_the_store_says(
    shared: Store, passing: Time
) -> None:
    """The same for the role."""
    leases = Leases(shared, passing.clock)

    def freeze() -> None:
        passing.between = lambda: None
        passing.passed += 60.0

    passing.between = freeze
    leases.lead()
    other = Leases(shared, passing.clock)
    assert not (other.lead() and leases.leader)


def test_renewal_prolongs_what_is_held(store: Store, passing: Time) -> None:
    """For as long as it goes on, nobody else can claim."""
    leases, other = Leases(store, passing.clock), Leases(store, passing.clock)
    incidents = leases.claim(2)
    for _ in range(10):
        passing.passed += 4.0
        leases.renew()
        assert all(leases.holds(incident) for incident in incidents)
        assert other.claim(5) == []
    assert row(store).lease_until == START + 40.0 + LEASE


def test_what_another_one_took_over_is_lost_at_the_next_renewal(store: Store, passing: Time) -> None:
    """And is not prolonged for the new owner, nor for the old one."""
    ours, theirs = Leases(store, passing.clock), Leases(store, passing.clock)
    first, second = ours.claim(2)
    passing.passed += LEASE + 1
    taken = claim_one(theirs)
    kept = second if taken.id == first.id else first
    ours.renew()
    assert set(ours.held()) == {kept.id}
    assert ours.holds(kept)
    assert not any(ours.holds(each) for each in (first, second) if each.id == taken.id)
    assert theirs.holds(taken)
    stored = row(store, taken.id)
    assert (stored.lease_owner, stored.epoch) == (theirs.owner, taken.epoch)


def test_what_a_person_decided_on_is_lost_at_the_next_renewal(store: Store, passing: Time) -> None:
    """A decision takes the lease away: the step in hand must not begin an effect any more."""
    leases = Leases(store, passing.clock)
    incident = claim_one(leases)
    store.write(lambda connection: statements.overtake(connection, incident.id, {"state": "escalated"}))
    leases.renew()
    assert not leases.holds(incident)
    assert len(leases) == 0


@pytest.mark.parametrize("moment", ["before", "after"])
def test_what_is_claimed_again_during_a_renewal_stays_ours(store: Store, passing: Time, moment: str) -> None:
    """The renewal knew only the claim before; its answer says nothing about the new one."""
    away = Away(store)
    leases = Leases(away, passing.clock)  # type: ignore[arg-type]
    incident = claim_one(leases)
    again: list[Incident] = []

    def give_back_and_claim() -> None:
        store.write(lambda c: statements.release_leases(c, leases.owner, [incident.id]))
        leases.drop(incident)
        again.extend(leases.claim(5))

    setattr(away, moment, give_back_and_claim)
    leases.renew()
    assert [each.epoch for each in again if each.id == incident.id] == [2]
    assert all(leases.holds(each) for each in again)
    assert not leases.holds(incident)


def test_a_step_that_hangs_is_let_go(store: Store, passing: Time) -> None:
    """Its lease is no longer prolonged, so somebody else takes over; the hung step may begin nothing."""
    leases, other = Leases(store, passing.clock), Leases(store, passing.clock)
    incident = claim_one(leases)
    while passing.passed <= LONGEST_STEP:
        assert leases.holds(incident)
        passing.passed += 2.0
        leases.renew()
    assert not leases.holds(incident)
    assert len(leases) == 0
    passing.passed += LEASE
    assert incident.id in {each.id for each in other.claim(5)}


def test_without_the_store_a_lease_ends_by_itself_and_can_come_back(store: Store, passing: Time) -> None:
    """Cut off, nothing is begun after the lease; when nobody took over meanwhile, it goes on."""
    away = Away(store)
    leases = Leases(away, passing.clock)  # type: ignore[arg-type]
    incident = claim_one(leases)
    away.away = True
    passing.passed += 2.0
    with pytest.raises(StoreUnavailable):
        leases.renew()
    assert leases.holds(incident)
    passing.passed += LEASE
    assert not leases.holds(incident)
    away.away = False
    leases.renew()
    assert leases.holds(incident)


def test_what_is_dropped_is_not_held(store: Store, passing: Time) -> None:
    """Only that claim of it: a later one is not touched."""
    leases = Leases(store, passing.clock)
    incident = claim_one(leases)
    leases.drop(incident)
    assert not leases.holds(incident)
    passing.passed += LEASE + 1
    again = next(each for each in leases.claim(5) if each.id == incident.id)
    leases.drop(incident)
    assert leases.holds(again)


def test_a_write_that_prolongs_counts_for_its_own_claim_only(store: Store, passing: Time) -> None:
    """From the moment before the write began."""
    leases = Leases(store, passing.clock)
    incident = claim_one(leases)
    passing.passed = 5.0
    leases.prolonged(incident, module.steady())
    passing.passed = 5.0 + LEASE - 0.1
    assert leases.holds(incident)
    leases.drop(incident)
    passing.passed = 100.0
    again = next(each for each in leases.claim(5) if each.id == incident.id)
    leases.prolonged(incident, module.steady() + 1000.0)
    passing.passed += LEASE
    assert not leases.holds(again)


def test_a_stop_gives_everything_back(store: Store, passing: Time) -> None:
    """Others need not wait for the end of the leases."""
    ours, theirs = Leases(store, passing.clock), Leases(store, passing.clock)
    claimed = ours.claim(2)
    assert theirs.claim(2) == []
    ours.stop()
    assert not any(ours.holds(incident) for incident in claimed)
    assert len(theirs.claim(2)) == 2


def test_a_stop_does_not_give_back_what_is_not_ours(store: Store, passing: Time) -> None:
    """Taken over meanwhile: the new owner keeps it."""
    ours, theirs = Leases(store, passing.clock), Leases(store, passing.clock)
    ours.claim(2)
    passing.passed += LEASE + 1
    theirs.claim(2)
    ours.stop()
    assert row(store).lease_owner == theirs.owner


def test_a_stop_without_the_store_is_a_stop(store: Store, passing: Time) -> None:
    """What cannot be given back runs out by itself; nothing is held any more."""
    away = Away(store)
    leases = Leases(away, passing.clock)  # type: ignore[arg-type]
    incident = claim_one(leases)
    away.away = True
    leases.stop()
    assert not leases.holds(incident)


def test_at_a_start_the_leases_of_the_dead_end_only_where_nobody_else_can_be(
    store: Store, passing: Time
) -> None:
    """A SQLite file has one process, so whoever held them is dead; a shared store may have living owners."""
    dead = Leases(store, passing.clock)
    dead.claim(2)
    leases = Leases(store, passing.clock)
    leases.start()
    try:
        assert len(leases.claim(2)) == (0 if store.shared else 2)
    finally:
        leases.stop()


def wait(what: str, condition: Callable[[], bool]) -> None:
    """Until it is so."""
    end = time.monotonic() + 10.0
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.01)


def test_leases_are_prolonged_in_the_background(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """From start to stop, also after the store was away and after an unexpected error."""
    monkeypatch.setattr(module, "RENEWAL", 0.02)
    away = Away(store)
    leases = Leases(away, lambda: START)  # type: ignore[arg-type]
    leases.start()
    incident = claim_one(leases)
    first = leases._held[incident.id].until

    def prolonged() -> bool:
        return leases._held[incident.id].until > before

    before = first
    wait("prolonged", prolonged)
    away.away = True
    time.sleep(0.1)
    before = leases._held[incident.id].until
    assert not prolonged()
    away.away = False
    wait("prolonged when the store is back", prolonged)
    with monkeypatch.context() as broken:
        broken.setattr(statements, "renew_leases", lambda *_, **__: 1 / 0)
        time.sleep(0.1)
    before = leases._held[incident.id].until
    wait("prolonged after an error", prolonged)
    leases.stop()
    before = first = module.steady()
    time.sleep(0.1)
    assert len(leases) == 0
    assert row(store, incident.id).lease_owner is None


def test_the_clock_is_compared_now_and_then(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The database's clock may be set, and ours may run fast."""
    monkeypatch.setattr(module, "RENEWAL", 0.01)
    monkeypatch.setattr(module, "CLOCK_CHECK", 0.02)
    compared: list[int] = []
    away = Away(store)
    monkeypatch.setattr(away, "set_clock", lambda: compared.append(1))
    leases = Leases(away, lambda: START)  # type: ignore[arg-type]
    leases.start()
    wait("compared twice", lambda: len(compared) >= 2)
    leases.stop()


def test_one_replica_leads(shared: Store, passing: Time) -> None:
    """Whoever asks first, for as long as it goes on asking."""
    first, second = Leases(shared, passing.clock), Leases(shared, passing.clock)
    assert not first.leader
    assert first.lead()
    assert not second.lead()
    for _ in range(5):
        passing.passed += 4.0
        assert first.lead()
        assert not second.lead()
    assert (first.leader, second.leader) == (True, False)


def test_the_lead_is_handed_over_at_a_stop(shared: Store, passing: Time) -> None:
    """At once."""
    first, second = Leases(shared, passing.clock), Leases(shared, passing.clock)
    assert first.lead()
    first.stop()
    assert not first.leader
    assert second.lead()


def test_a_frozen_leader_is_followed_and_knows_it(shared: Store, passing: Time) -> None:
    """After the lease another one leads; the first says no before it has asked, and afterwards too."""
    first, second = Leases(shared, passing.clock), Leases(shared, passing.clock)
    assert first.lead()
    passing.passed += LEASE
    assert not first.leader
    assert not second.lead()  # the very end of a lease belongs to nobody
    passing.passed += 0.1
    assert second.lead()
    assert not first.lead()
    assert (first.leader, second.leader) == (False, True)


def test_a_leader_without_the_store_leads_until_its_lease_ends(shared: Store, passing: Time) -> None:
    """Asking is refused; what is known from before counts for its time."""
    away = Away(shared)
    leases = Leases(away, passing.clock)  # type: ignore[arg-type]
    assert leases.lead()
    away.away = True
    with pytest.raises(StoreUnavailable):
        leases.lead()
    assert leases.leader
    passing.passed += LEASE
    assert not leases.leader


def test_alone_on_a_file_one_always_leads(tmp_path: Path, passing: Time) -> None:
    """SQLite: nobody else can be there, and nothing is written for it."""
    store = Store(f"sqlite:///{tmp_path / 'shf.db'}")
    leases = Leases(store, passing.clock)
    assert leases.leader
    assert leases.lead()
    passing.passed += 1000.0
    assert leases.leader
    assert store.write(lambda c: statements.acquire_lease(c, name=LEADER, owner="x", now=START, lease=LEASE))
    store.close()


@pytest.mark.parametrize("first", [None, lambda _: None], ids=["alone", "taking in"])
@pytest.mark.parametrize("limit", [1, 2, 8])
def test_what_is_only_watched_is_claimed_in_the_end(
    store: Store, limit: int, first: Callable[[Any], None] | None
) -> None:
    """However few are claimed at a time, and however many wait in healing: the watched have their turn."""
    for number in range(40):
        open_incident(store, f"healing{number}")
    watched = {"state": "escalated", "due_at": 1.0}
    store.write(lambda connection: statements.annotate(connection, "i1", watched))
    leases, claimed = Leases(store, lambda: START), set[str]()
    for _ in range(4):
        claimed |= {incident.id for incident in leases.claim(limit, first=first)}
    assert "i1" in claimed


def test_who_stops_to_hear_heartbeats_notes_no_more_that_it_hears_them(store: Store, passing: Time) -> None:
    """While it drains, and while it is away, jobs are refused: that silence is not theirs."""
    hears = True
    leases = Leases(store, passing.clock, hears=lambda: hears)
    leases.listen()
    store.write(lambda c: statements.beat(c, "batch", START, expected=True))
    hears = False
    passing.passed = 100.0
    leases.listen()
    passing.passed = 200.0
    assert store.read(statements.heartbeat_times) == {"batch": START}
    hears = True
    leases.listen()
    assert store.read(statements.heartbeat_times) == {"batch": START + 200.0}
