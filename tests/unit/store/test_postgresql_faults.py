"""A PostgreSQL that dies, is cut off or freezes: what was acknowledged is there, and nobody waits for ever.

The servers of these tests are real, and so are their deaths. Each test ends with the store at work again, and
nobody has restarted it.
"""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine, text

from cuttable_proxy import CuttableProxy
from deadline import within_deadline
from postgresql_server import PostgresqlServer, temporary_postgresql
from self_healing_fabric.errors import StoreUnavailable
from self_healing_fabric.store import Store, postgresql, statements

NOT_NEVER = 40.0  # seconds; on a busy machine, for what takes 12 s


@pytest.fixture(scope="module")
def server(postgresql: PostgresqlServer) -> Iterator[PostgresqlServer]:
    """A server that these tests may kill; the run's own says whether there can be one."""
    with temporary_postgresql() as server:
        yield server


@pytest.fixture
def url(server: PostgresqlServer) -> str:
    """An empty database on it."""
    return server.create_database("faults")


@pytest.fixture
def proxy(server: PostgresqlServer) -> Iterator[CuttableProxy]:
    """What stands between the store and the server."""
    with CuttableProxy(server.port) as proxy:
        yield proxy


@pytest.fixture
def far(proxy: CuttableProxy, url: str) -> Iterator[Store]:
    """A store behind the proxy, with a few connections in its pool."""
    store = Store(proxy.through(url))
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: store.write(put(f"before{number}")), range(8)))
    yield store
    proxy.forward()
    store.close()


def put(name: str) -> Callable[[Connection], str]:
    """A job that stores a control and returns its name."""

    def job(connection: Connection) -> str:
        statements.set_control(connection, name=name, value="1", by="test", now=1.0)
        return name

    return job


def names(store: Store) -> set[str]:
    """The controls that are stored."""
    return set(store.read(lambda c: c.execute(text("SELECT name FROM controls")).scalars().all()))


def refused(function: Callable[[], Any]) -> None:
    """The call raises StoreUnavailable and nothing else, while the server is as it is."""
    with pytest.raises(StoreUnavailable):
        within_deadline(function, NOT_NEVER)


def eventually(function: Callable[[], Any], within: float) -> Any:
    """The value, once the call no longer raises StoreUnavailable."""
    end = time.monotonic() + within
    while True:
        try:
            return function()
        except StoreUnavailable:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


def meanwhile(*functions: Callable[[], Any]) -> list["Future[Any]"]:
    """Call them all at once, each in a thread of its own; returns when all have ended."""
    with ThreadPoolExecutor(len(functions)) as pool:
        return [pool.submit(function) for function in functions]


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_restart_between_two_writes_is_not_noticed(server: PostgresqlServer, url: str, mode: Any) -> None:
    """All connections of the pool are dead, and nobody gets an error."""
    store, together = Store(url), threading.Barrier(6)  # so that each has a connection of its own

    def write(letter: str, number: int) -> Callable[[], str]:
        def job(connection: Connection) -> str:
            together.wait(10)
            return put(f"{letter}{number}")(connection)

        return lambda: store.write(job)

    meanwhile(*(write("a", number) for number in range(6)))
    server.restart(mode)
    futures = meanwhile(*(write("b", number) for number in range(6)))
    assert [future.result() for future in futures] == [f"b{number}" for number in range(6)]
    assert names(store) == {f"{letter}{number}" for letter in "ab" for number in range(6)}
    store.close()


def test_restarts_during_writes_lose_nothing_that_was_acknowledged(
    server: PostgresqlServer, url: str
) -> None:
    """Each write is either acknowledged and there, or was refused; afterwards all writers go on."""
    store = Store(url)
    acknowledged: list[str] = []
    others: list[BaseException] = []
    refusals = [0] * 4
    stopping = threading.Event()

    def write(writer: int) -> None:
        number = 0
        while not stopping.is_set():
            number += 1
            try:
                acknowledged.append(store.write(put(f"{writer}/{number}")))
            except StoreUnavailable:
                refusals[writer] += 1
                time.sleep(0.02)
            except BaseException as error:  # noqa: BLE001 - what the test is about
                others.append(error)
                return

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(4)]
    for thread in threads:
        thread.start()
    for mode in ("immediate", "fast"):
        time.sleep(0.3)
        server.restart(mode)
    marked = len(acknowledged)
    time.sleep(0.5)
    stopping.set()
    for thread in threads:
        thread.join()
    assert others == []
    assert all(refusals)
    assert {name.partition("/")[0] for name in acknowledged[marked:]} == {"0", "1", "2", "3"}
    assert set(acknowledged) <= names(store)
    store.close()


def test_sessions_on_a_server_that_only_reads_are_left(url: str) -> None:
    """As after a failover: those that were opened to it stay so, and new ones reach who takes writes."""
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    others = "FROM pg_stat_activity WHERE datname = 'faults' AND pid <> pg_backend_pid()"
    with closing(Store(url)) as store, engine.connect() as administrator:
        administrator.execute(text("ALTER DATABASE faults SET default_transaction_read_only = on"))
        administrator.execute(text(f"SELECT pg_terminate_backend(pid) {others}"))
        refused(lambda: store.write(put("a")))
        administrator.execute(text("ALTER DATABASE faults RESET default_transaction_read_only"))
        store.write(put("b"))
        assert names(store) == {"b"}
    engine.dispose()


def test_a_server_that_is_away_is_told_at_once(server: PostgresqlServer, url: str) -> None:
    """Stopped: writes and reads are refused within moments, and work when it is back."""
    store = Store(url)
    store.write(put("a"))
    server.stop()
    refused(lambda: store.write(put("b")))
    refused(lambda: names(store))
    refused(store.set_clock)
    before = store.clock()
    server.start()
    assert store.write(put("c")) == "c"
    assert names(store) == {"a", "c"}
    assert store.clock() >= before  # the clock went on without the server
    store.close()


def test_connections_that_are_reset_are_told_at_once(far: Store, proxy: CuttableProxy) -> None:
    """Old ones are cut and new ones refused; when the network is back, so is the store."""
    proxy.refuse()
    futures = meanwhile(
        *(lambda: refused(lambda: far.write(put("cut"))) for _ in range(4)),
        lambda: refused(lambda: names(far)),
    )
    for future in futures:
        future.result()
    proxy.forward()
    assert far.write(put("after")) == "after"
    assert {"before0", "after"} <= names(far)
    assert "cut" not in names(far)


def test_a_cut_in_the_middle_of_a_transaction_stores_nothing(far: Store, proxy: CuttableProxy) -> None:
    """The first statement was answered, the second never: all of it is undone."""

    def job(connection: Connection) -> None:
        put("first")(connection)
        proxy.refuse()
        put("second")(connection)

    refused(lambda: far.write(job))
    proxy.forward()
    assert eventually(lambda: far.write(put("after")), within=3) == "after"
    assert names(far).isdisjoint({"first", "second"})


def test_a_network_that_swallows_everything_keeps_nobody(far: Store, proxy: CuttableProxy) -> None:
    """With the deadlines of production: writers and readers hear it within 12 s, also when they are many.

    One of them is in the middle of its transaction. Afterwards the store is at work again.
    """
    in_the_middle = threading.Event()

    def interrupted(connection: Connection) -> None:
        put("first")(connection)
        in_the_middle.set()
        closed.wait(5)
        put("second")(connection)

    closed = threading.Event()

    def close() -> None:
        in_the_middle.wait(5)
        proxy.blackhole()
        closed.set()

    def after(function: Callable[[], Any]) -> Callable[[], None]:
        return lambda: refused(function) if closed.wait(5) else pytest.fail("it was never cut")

    writes = [after(lambda: far.write(put("swallowed"))) for _ in range(30)]
    reads = [after(lambda: names(far)) for _ in range(10)]
    futures = meanwhile(lambda: refused(lambda: far.write(interrupted)), close, *writes, *reads)
    for future in futures:
        future.result()
    proxy.forward()
    assert eventually(lambda: far.write(put("after")), within=5) == "after"
    assert names(far).isdisjoint({"first", "second"})
    assert meanwhile(*(lambda: far.write(put("again")) for _ in range(12)))[-1].result() == "again"


def test_a_server_that_freezes_keeps_nobody(
    server: PostgresqlServer, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It accepts connections and says nothing; when it goes on, so does the store."""
    monkeypatch.setattr(postgresql, "TRANSACTION_TIMEOUT", 1.0)
    store = Store(url)
    store.write(put("a"))
    server.pause()
    try:
        work = (lambda: store.write(put("frozen")), lambda: names(store), store.set_clock)
        futures = meanwhile(*(lambda each=each: refused(each) for each in work))
        for future in futures:
            future.result()
    finally:
        server.resume()
    assert eventually(lambda: store.write(put("b")), within=5) == "b"
    assert names(store) >= {"a", "b"}
    store.close()


def test_an_opening_into_nothing_is_given_up(proxy: CuttableProxy, url: str) -> None:
    """Whoever starts us hears within moments that nobody answers, and the next try works."""
    proxy.blackhole()
    refused(lambda: Store(proxy.through(url)))
    proxy.forward()
    Store(proxy.through(url)).close()


def test_a_store_can_be_closed_while_nothing_answers(
    proxy: CuttableProxy, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stop must not wait for a server that is gone."""
    store = Store(proxy.through(url))
    store.write(put("a"))
    proxy.blackhole()
    within_deadline(store.close)
