"""The writer: what was acknowledged is on disk, what failed harms nobody else, and closed is closed."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, event

from self_healing_fabric.errors import StoreUnavailable
from self_healing_fabric.store import Store, batching, statements


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A SQLite file that does not exist yet."""
    return f"sqlite:///{tmp_path / 'shf.db'}"


def put(name: str, value: str = "1") -> Callable[[Connection], str]:
    """A job that stores a control and returns its name."""

    def job(connection: Connection) -> str:
        statements.set_control(connection, name=name, value=value, by="test", now=1.0)
        return name

    return job


def fill_the_disk(connection: Connection) -> None:
    """A job that writes more than the database may hold from now on."""
    pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
    connection.exec_driver_sql(f"PRAGMA max_page_count={int(pages or 0) + 2}")
    put("big", "x" * 1_000_000)(connection)


def fail(_: Connection) -> None:
    """A job with a defect of its own."""
    raise LookupError("a defect of the caller")


def stored(store: Store, *names: str) -> list[str]:
    """Which of the controls are in the store."""
    return [name for name in names if store.read(lambda c, name=name: statements.control(c, name))]


class Held:
    """The writer is kept busy, so that everything written meanwhile lands in one batch."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._release = threading.Event()
        self._threads: list[threading.Thread] = []
        self.outcomes: dict[str, Any] = {}

    def write(self, name: str, job: Callable[[Connection], Any]) -> None:
        """Queue a write from a thread of its own; its value or error is kept under the name."""
        queue = self._store._backend._writer._batcher._waiting
        before = queue.qsize()

        def run() -> None:
            try:
                self.outcomes[name] = self._store.write(job)
            except Exception as error:  # noqa: BLE001 - the outcome is what the test looks at
                self.outcomes[name] = error

        thread = threading.Thread(target=run)
        thread.start()
        self._threads.append(thread)
        while name != "holder" and queue.qsize() == before and thread.is_alive():
            pass  # the order within the batch is the order of the calls

    @contextmanager
    def batch(self) -> Iterator["Held"]:
        """Hold the writer, let it go at the end of the block, and wait for all outcomes."""
        holding = threading.Event()

        def hold(_: Connection) -> None:
            holding.set()
            self._release.wait(5)

        self.write("holder", hold)
        holding.wait(5)
        yield self
        self._release.set()
        for thread in self._threads:
            thread.join()


def test_a_write_returns_its_value_after_the_commit(store: Store) -> None:
    """When `write` returns, another connection sees what was written."""
    assert store.write(put("a")) == "a"
    assert stored(store, "a") == ["a"]


def test_a_failing_job_is_rolled_back_and_harms_no_other_of_its_batch(store: Store) -> None:
    """The jobs before and after it are stored; its caller gets its own error."""

    def half(connection: Connection) -> None:
        put("half")(connection)
        raise LookupError("after half of the work")

    with Held(store).batch() as held:
        held.write("a", put("a"))
        held.write("half", half)
        held.write("b", put("b"))
    assert isinstance(held.outcomes["half"], LookupError)
    assert (held.outcomes["a"], held.outcomes["b"]) == ("a", "b")
    assert stored(store, "a", "half", "b") == ["a", "b"]


def counted(runs: list[str], name: str, job: Callable[[Connection], Any]) -> Callable[[Connection], Any]:
    """The job, and a note of each of its runs."""

    def run(connection: Connection) -> Any:
        runs.append(name)
        return job(connection)

    return run


@pytest.fixture
def savepoints(store: Store) -> list[str]:
    """The savepoints that are made from now on."""
    made: list[str] = []

    def note(_: Any, __: Any, statement: str, *___: Any) -> None:
        if statement.startswith("SAVEPOINT"):
            made.append(statement)

    event.listen(store._backend.engine, "before_cursor_execute", note)
    return made


def test_a_batch_without_a_failure_runs_once_and_plainly(store: Store, savepoints: list[str]) -> None:
    """Savepoints cost a third of the time, and hardly ever does one help."""
    runs: list[str] = []
    with Held(store).batch() as held:
        for name in "abc":
            held.write(name, counted(runs, name, put(name)))
    assert [held.outcomes[name] for name in "abc"] == ["a", "b", "c"]
    assert runs == ["a", "b", "c"]
    assert savepoints == []


def test_a_batch_with_a_failure_runs_again_with_savepoints(store: Store, savepoints: list[str]) -> None:
    """From the start and in the same order; what the first run wrote is undone before."""
    runs: list[str] = []

    def once(connection: Connection) -> str:
        assert statements.control(connection, "a") is None
        return put("a")(connection)

    with Held(store).batch() as held:
        held.write("a", counted(runs, "a", once))
        held.write("fails", counted(runs, "fails", fail))
        held.write("b", counted(runs, "b", put("b")))
    assert runs == ["a", "fails", "a", "fails", "b"]
    assert len(savepoints) == 3
    assert (held.outcomes["a"], held.outcomes["b"]) == ("a", "b")
    assert isinstance(held.outcomes["fails"], LookupError)
    assert stored(store, "a", "b") == ["a", "b"]


def test_what_fails_only_in_the_first_run_is_stored(store: Store) -> None:
    """The second run is the one that counts."""
    runs: list[str] = []

    def second_time_lucky(connection: Connection) -> str:
        if len(runs) == 1:
            raise LookupError("only now")
        return put("lucky")(connection)

    assert store.write(counted(runs, "lucky", second_time_lucky)) == "lucky"
    assert stored(store, "lucky") == ["lucky"]


@pytest.mark.parametrize("after", [None, fail, put("after")], ids=["last", "then-a-defect", "then-a-write"])
def test_a_full_disk_loses_nothing_that_was_acknowledged(
    store: Store, after: Callable[[Connection], Any] | None
) -> None:
    """SQLite drops the whole transaction when the disk is full: then no job of the batch is told success."""
    with Held(store).batch() as held:
        held.write("before", put("before"))
        held.write("full", fill_the_disk)
        if after:
            held.write("after", after)
    acknowledged = [name for name in ("before", "after") if held.outcomes.get(name) == name]
    assert isinstance(held.outcomes["full"], StoreUnavailable)
    assert stored(store, *acknowledged) == acknowledged


def test_a_disk_that_is_full_only_in_the_second_run_loses_nothing_either(store: Store) -> None:
    """With savepoints too: what the database has given up is told to nobody as stored."""
    with Held(store).batch() as held:
        held.write("before", put("before"))
        held.write("defect", fail)
        held.write("full", fill_the_disk)
        held.write("after", put("after"))
    acknowledged = [name for name in ("before", "after") if held.outcomes[name] == name]
    assert isinstance(held.outcomes["full"], StoreUnavailable)
    assert stored(store, *acknowledged) == acknowledged
    store.write(lambda connection: connection.exec_driver_sql("PRAGMA max_page_count=1000000") and None)
    assert store.write(put("next")) == "next"


def test_a_full_disk_is_named_as_the_reason(store: Store) -> None:
    """The text says what is full, not which savepoint is missing."""
    with pytest.raises(StoreUnavailable, match="disk is full"):
        store.write(fill_the_disk)


def test_the_store_takes_writes_again_after_a_failed_batch(store: Store) -> None:
    """A full disk that was emptied needs no restart."""
    with pytest.raises(StoreUnavailable):
        store.write(fill_the_disk)
    store.write(lambda connection: connection.exec_driver_sql("PRAGMA max_page_count=1000000") and None)
    assert store.write(put("a")) == "a"
    assert stored(store, "a", "big") == ["a"]


def test_a_commit_that_fails_fails_every_job_of_its_batch(store: Store) -> None:
    """Nobody is told that it worked when the commit did not happen."""

    def break_the_commit(connection: Connection) -> str:
        connection.exec_driver_sql("PRAGMA defer_foreign_keys=ON")
        row = {"incident_id": "nobody", "at": 1.0, "kind": "note", "message": "m", "data": {}}
        statements.append_timeline(connection, [row])
        return "breaks"

    with Held(store).batch() as held:
        held.write("a", put("a"))
        held.write("breaks", break_the_commit)
        held.write("b", put("b"))
    for name in ("a", "breaks", "b"):
        assert isinstance(held.outcomes[name], StoreUnavailable), name
    assert stored(store, "a", "b") == []


def test_a_write_after_close_is_unavailable(store: Store) -> None:
    """A closed store refuses at once."""
    store.close()
    with pytest.raises(StoreUnavailable, match="shutting down"):
        store.write(put("a"))


def test_close_writes_what_is_queued(url: str) -> None:
    """A write that was accepted before the close is on disk afterwards."""
    store = Store(url)
    with Held(store).batch() as held:
        for number in range(5):
            held.write(f"n{number}", put(f"n{number}"))
        closing = threading.Thread(target=store.close)
        closing.start()
    closing.join()
    assert [held.outcomes[f"n{number}"] for number in range(5)] == [f"n{number}" for number in range(5)]
    again = Store(url)
    assert len(stored(again, *(f"n{number}" for number in range(5)))) == 5
    again.close()


def test_a_write_that_waited_too_long_is_not_done_later(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller heard 503 before its job began: it must not appear in the store after all."""
    with Held(store).batch() as held:
        monkeypatch.setattr(batching, "WRITE_TIMEOUT", 0.05)
        with pytest.raises(StoreUnavailable, match="not stored within"):
            store.write(put("late"))
        monkeypatch.undo()
    assert store.write(put("next")) == "next"
    assert stored(store, "late", "next") == ["next"]
    assert held.outcomes["holder"] is None


def test_a_full_queue_is_unavailable(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """More waiting writes than the queue holds are refused instead of eating memory."""
    monkeypatch.setattr(batching, "MAX_QUEUE", 1)
    store = Store(url)
    with Held(store).batch() as held:
        held.write("waits", put("waits"))
        with pytest.raises(StoreUnavailable, match="1 writes are waiting"):
            store.write(put("refused"))
    assert stored(store, "waits", "refused") == ["waits"]
    store.close()


def test_many_threads_lose_no_write(store: Store) -> None:
    """Forty writers at once store forty rows."""
    threads = [threading.Thread(target=store.write, args=(put(f"t{number}"),)) for number in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(stored(store, *(f"t{number}" for number in range(40)))) == 40
