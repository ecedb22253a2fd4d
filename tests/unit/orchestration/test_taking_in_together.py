"""Two replicas that take in notifications at the same moment: each alert once, and no deadlock.

Both peers of an Alertmanager pair tell of the same alert, and each may reach another replica.
"""

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from self_healing_fabric.integration.lifecycle import Fabric
from self_healing_fabric.orchestration import healing_orchestrator
from self_healing_fabric.settings import Settings
from self_healing_fabric.store import postgresql, statements

BODY = json.loads((Path(__file__).parents[2] / "data" / "webhook" / "firing_single.json").read_text())


@pytest.fixture
def fabrics(postgresql_url: str) -> Iterator[tuple[Fabric, Fabric]]:
    """Two replicas; their loops do not run, so that the test holds the moments."""
    settings = Settings(store=postgresql_url, services={"cart": {}, "db": {}})
    made = Fabric(settings), Fabric(settings)
    yield made
    for fabric in made:
        fabric.stop()


def deliver(fabric: Fabric, *fingerprints: str) -> None:
    """A notification of alerts of one service each, as it came."""
    alerts = [
        {**BODY["alerts"][0], "fingerprint": name, "labels": {"alertname": name, "service": name}}
        for name in fingerprints
    ]
    body = json.dumps({**BODY, "alerts": alerts}).encode()
    now = fabric.context.clock()
    fabric.store.write(lambda connection: statements.put_in_inbox(connection, [(body, now)]))


def counted(fabric: Fabric, table: str) -> int:
    """How many rows a table has."""
    return int(fabric.store.read(lambda c: c.execute(text(f"SELECT count(*) FROM {table}")).scalar()) or 0)  # noqa: S608


def waits_for_a_lock(fabric: Fabric) -> bool:
    """Whether any session on the database does."""
    query = text(
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    return bool(fabric.store.read(lambda connection: connection.execute(query).scalar()))


def test_many_rounds_on_two_replicas_open_each_incident_once(fabrics: tuple[Fabric, Fabric]) -> None:
    """The same alerts in different orders and sizes, taken in by both at once: one incident each."""
    for fabric, step in zip(fabrics, (1, -1), strict=True):
        names = [f"s{number}" for number in range(60)][::step]
        for start in range(0, 60, 7):
            deliver(fabric, *names[start : start + 7])
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: fabrics[number % 2].orchestrator.take_in(), range(8)))
    assert counted(fabrics[0], "inbox") == 0
    assert counted(fabrics[0], "alerts") == 60
    assert counted(fabrics[0], "incidents") == 60
    opened = sum(
        sample.value
        for fabric in fabrics
        for family in fabric.context.metrics.registry.collect()
        for sample in family.samples
        if sample.name == "shf_incidents_opened_total"
    )
    assert opened == 60


def test_a_repetition_does_not_lock_out_the_one_that_correlates(
    fabrics: tuple[Fabric, Fabric], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One gives an alert its incident while the other works its repetition in: nothing is done again."""
    first, second = fabrics
    deliver(first, "cart", "db")
    rounds: list[str] = []
    work_in, assign = healing_orchestrator.work_in, statements.assign_alerts
    with ThreadPoolExecutor(1) as pool:

        def only_stored(connection: Any) -> None:
            """Stored and not yet correlated, as after a batch that was too large for one round."""
            work_in(connection)

        first.store.write(only_stored)

        def count(connection: Any) -> None:
            rounds.append("")
            work_in(connection)

        def assign_late(*args: Any) -> None:
            if not others:
                deliver(second, "db", "cart")
                others.append(pool.submit(second.orchestrator.take_in))
                end = time.monotonic() + 5
                while not waits_for_a_lock(first) and time.monotonic() < end:
                    time.sleep(0.01)
            assign(*args)

        others: list[Any] = []
        monkeypatch.setattr(healing_orchestrator, "work_in", count)
        monkeypatch.setattr(statements, "assign_alerts", assign_late)
        first.orchestrator.take_in()
        others[0].result(10)
    assert len(rounds) == 2
    assert (counted(first, "inbox"), counted(first, "alerts"), counted(first, "incidents")) == (0, 2, 2)


def test_a_deaf_replica_does_not_stop_the_other(
    fabrics: tuple[Fabric, Fabric], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One froze in the middle of taking in: the server ends its transaction, and the other takes all in."""
    first, second = fabrics
    deliver(first, "cart")
    work_in: Callable[[Any], None] = healing_orchestrator.work_in
    taken: list[int] = []

    def freeze(connection: Any) -> None:
        monkeypatch.setattr(healing_orchestrator, "work_in", work_in)
        work_in(connection)
        connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 200"))
        second.orchestrator.take_in()
        taken.append(counted(second, "incidents"))

    monkeypatch.setattr(healing_orchestrator, "work_in", freeze)
    monkeypatch.setattr(postgresql, "FRESH_CONNECTION", 0.0)  # who is frozen is so for longer
    with pytest.raises(healing_orchestrator.StoreUnavailable):
        first.orchestrator.take_in()
    assert taken == [1]
    assert (counted(first, "inbox"), counted(first, "alerts"), counted(first, "incidents")) == (0, 1, 1)
