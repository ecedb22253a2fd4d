"""Notifications that wait together are kept in one transaction; each is told only what became of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Connection, text

from self_healing_fabric.errors import StoreUnavailable
from self_healing_fabric.store import Store, batching

NUMBER = 20


def kept(store: Store) -> list[bytes]:
    """The bodies, oldest first."""
    rows = store.read(lambda c: c.execute(text("SELECT body FROM inbox ORDER BY id")).scalars().all())
    return [bytes(row) for row in rows]


class Transactions:
    """The store's writes: counted, and held up at the first one until the test lets it go."""

    def __init__(self, store: Store) -> None:
        self._write = store.inbox._write
        self.count = 0
        self.first, self.go_on = threading.Event(), threading.Event()
        self.fails = False
        store.inbox._write = self

    def __call__(self, function: Callable[[Connection], Any]) -> Any:
        self.count += 1
        if self.count == 1:
            self.first.set()
            assert self.go_on.wait(30)
        elif self.fails:
            raise StoreUnavailable("cannot store: the disk is full")
        return self._write(function)


@pytest.fixture
def transactions(store: Store) -> Transactions:
    """Of the store."""
    return Transactions(store)


@contextmanager
def waiting(store: Store, transactions: Transactions) -> Iterator[list[Future[None]]]:
    """One notification is being kept, and others wait behind it; at the end it goes on."""
    queue = store.inbox._batcher._waiting
    with ThreadPoolExecutor(NUMBER + 1) as pool:
        puts = [pool.submit(store.inbox.put, b"0", 1.0)]
        assert transactions.first.wait(30)
        for number in range(1, NUMBER + 1):
            puts.append(pool.submit(store.inbox.put, b"%d" % number, 1.0))
            while queue.qsize() < number:
                pass  # so that their order is known
        try:
            yield puts
        finally:
            transactions.go_on.set()


def test_what_waits_together_is_one_transaction(store: Store, transactions: Transactions) -> None:
    """In the order in which they came, and none is answered before its commit."""
    with waiting(store, transactions) as puts:
        assert not any(put.done() for put in puts)
        assert kept(store) == []
    assert [put.result() for put in puts] == [None] * (NUMBER + 1)
    assert transactions.count == 2
    assert kept(store) == [b"%d" % number for number in range(NUMBER + 1)]


def test_who_comes_alone_waits_for_nobody(store: Store) -> None:
    """It is on disk when the call returns."""
    store.inbox.put(b"\x00 as it came \xff", 1.0)
    assert kept(store) == [b"\x00 as it came \xff"]


def test_when_it_fails_everyone_hears_it_and_nothing_is_kept(
    store: Store, transactions: Transactions
) -> None:
    """A 503 for each, which Alertmanager repeats; the one before was kept, and the next one is."""
    transactions.fails = True
    with waiting(store, transactions) as puts:
        pass
    assert puts[0].result() is None
    for put in puts[1:]:
        with pytest.raises(StoreUnavailable, match=r"^cannot store: the disk is full$"):
            put.result()
    assert kept(store) == [b"0"]
    transactions.fails = False
    store.inbox.put(b"next", 1.0)
    assert kept(store) == [b"0", b"next"]


def test_who_gave_up_is_not_kept_later(
    store: Store, transactions: Transactions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was told 503, so it comes again."""
    with waiting(store, transactions):
        monkeypatch.setattr(batching, "WRITE_TIMEOUT", 0.05)
        with pytest.raises(StoreUnavailable, match="not stored within"):
            store.inbox.put(b"late", 1.0)
        monkeypatch.undo()
    assert b"late" not in kept(store)


def test_what_waits_when_the_store_is_closed_is_kept(url: str) -> None:
    """Those who came before the end get their answers, who comes later is refused."""
    store = Store(url)
    transactions = Transactions(store)
    with waiting(store, transactions) as puts:
        closing = threading.Thread(target=store.close)
        closing.start()
        assert store.inbox._batcher._closed.wait(30)
        with pytest.raises(StoreUnavailable, match="shutting down"):
            store.inbox.put(b"later", 1.0)
    closing.join()
    assert [put.result() for put in puts] == [None] * (NUMBER + 1)
    again = Store(url)
    assert len(kept(again)) == NUMBER + 1
    again.close()
