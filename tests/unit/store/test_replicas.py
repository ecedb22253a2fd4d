"""Several replicas on one store: each piece of work has one owner at a time, whoever asks and whenever."""

import itertools
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Connection

from self_healing_fabric.errors import LeaseLost
from self_healing_fabric.store import Store, statements

CLAIMERS = 8
INCIDENTS = 120
TURNS = 20  # of each incident


@pytest.fixture
def replicas(store: Store, url: str) -> Iterator[list[Store]]:
    """The stores of two replicas; a SQLite file has only one, which many threads share."""
    if not store.shared:
        yield [store]
        return
    other = Store(url)
    yield [store, other]
    other.close()


def test_an_incident_has_one_worker_at_a_time(
    replicas: list[Store], open_incident: Callable[..., str]
) -> None:
    """Eight workers of two replicas claim and give back thousands of times: none is handed to two of them."""
    for number in range(INCIDENTS):
        open_incident(f"i{number}", due_at=float(number))
    lock = threading.Lock()
    at_work: dict[str, str] = {}
    epochs: dict[str, list[int]] = {}
    problems: list[str] = []

    def work(number: int) -> None:
        store, owner = replicas[number % len(replicas)], f"w{number}"
        limits = itertools.cycle((1, 7, 12, 3))
        while not problems:
            limit = next(limits)
            rows = store.write(
                lambda c, n=limit: statements.claim_due(c, owner=owner, now=1e6, lease=60.0, limit=n)
            )
            with lock:
                for row in rows:
                    if row.id in at_work:
                        problems.append(f"{owner} got {row.id} while {at_work[row.id]} had it")
                    if row.lease_owner != owner:
                        problems.append(f"{owner} got a row of {row.lease_owner}")
                    at_work[row.id] = owner
                    epochs.setdefault(row.id, []).append(row.epoch)
            if not rows:
                with lock:
                    if not at_work:
                        return
                continue
            with lock:  # before it is free in the store: whoever claims it then must find it free here
                for row in rows:
                    del at_work[row.id]
            store.write(lambda c, rows=rows: give_back(c, rows))

    def give_back(connection: Connection, rows: Sequence[statements.AnyRow]) -> None:
        for row in rows:
            due_at = 1.0 if row.epoch < TURNS else None
            changes = {"lease_owner": None, "lease_until": None, "due_at": due_at}
            statements.update_claimed(connection, row.id, row.epoch, changes)

    with ThreadPoolExecutor(CLAIMERS) as pool:
        for future in [pool.submit(work, number) for number in range(CLAIMERS)]:
            future.result(60)
    assert problems == []
    assert len(epochs) == INCIDENTS
    assert {tuple(seen) for seen in epochs.values()} == {tuple(range(1, TURNS + 1))}


def test_a_lease_has_one_winner(replicas: list[Store]) -> None:
    """Eight ask at the same moment, many times: exactly one gets it each time."""
    rounds = 40
    together = threading.Barrier(CLAIMERS)

    def ask(number: int) -> list[int]:
        store, won = replicas[number % len(replicas)], []
        for each in range(rounds):
            together.wait(30)
            if store.write(
                lambda c, each=each: statements.acquire_lease(
                    c, name=f"n{each}", owner=f"w{number}", now=100.0, lease=6.0
                )
            ):
                won.append(each)
        return won

    with ThreadPoolExecutor(CLAIMERS) as pool:
        winners = Counter(itertools.chain.from_iterable(pool.map(ask, range(CLAIMERS))))
    assert winners == Counter(range(rounds))


def test_a_lease_that_ran_out_has_one_new_winner(replicas: list[Store]) -> None:
    """All want to follow a dead one: one does."""
    for each in range(20):
        name = f"n{each}"
        first = replicas[0].write(
            lambda c, name=name: statements.acquire_lease(c, name=name, owner="dead", now=1.0, lease=6.0)
        )
        with ThreadPoolExecutor(CLAIMERS) as pool:
            answers = pool.map(
                lambda number, name=name: replicas[number % len(replicas)].write(
                    lambda c: statements.acquire_lease(c, name=name, owner=f"w{number}", now=100.0, lease=6.0)
                ),
                range(CLAIMERS),
            )
            assert (first, sum(answers)) == (True, 1)


def test_what_was_taken_over_cannot_be_written_by_the_first(
    replicas: list[Store], open_incident: Callable[..., str]
) -> None:
    """The lease ran out and the other replica claimed: the late writer raises and changes nothing."""
    open_incident("i1", due_at=1.0)
    first, second = replicas[0], replicas[-1]
    (before,) = first.write(lambda c: statements.claim_due(c, owner="a", now=10.0, lease=6.0, limit=1))
    (after,) = second.write(lambda c: statements.claim_due(c, owner="b", now=16.1, lease=6.0, limit=1))
    with pytest.raises(LeaseLost):
        first.write(lambda c: statements.update_claimed(c, "i1", before.epoch, {"state": "resolved"}))
    second.write(lambda c: statements.update_claimed(c, "i1", after.epoch, {"state": "diagnosing"}))
    row = first.read(lambda connection: statements.incident(connection, "i1"))
    assert row is not None
    assert (row.state, row.lease_owner) == ("diagnosing", "b")
