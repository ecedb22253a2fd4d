"""From the inbox into alerts: in order, in bounded parts, and one bad notification harms no other."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy.exc import InternalError, OperationalError

from refused_alert import REFUSALS, refuse
from self_healing_fabric.errors import StoreUnavailable
from self_healing_fabric.incidents import notifications
from self_healing_fabric.incidents.notifications import MAX_BYTES, work_in
from self_healing_fabric.store import Store, statements
from self_healing_fabric.store.statements import MAX_INBOX_FAULTS

Put = Callable[..., None]
POISON = b'{"version": "5"}'  # as a newer replica may have accepted it


@pytest.fixture
def put(store: Store) -> Put:
    """Keep a notification in the inbox, as the request path does."""

    def put(body: bytes, now: float = 100.0) -> None:
        store.write(lambda connection: statements.put_in_inbox(connection, [(body, now)]))

    return put


def body(*fingerprints: str, status: str = "firing", padding: int = 0, **annotations: str) -> bytes:
    """A notification of these alerts."""
    alerts = [
        {
            "status": status,
            "labels": {"alertname": "ShfHeartbeatMissed", "service": "cart"},
            "annotations": {"summary": "x" * padding, **annotations},
            "startsAt": "2026-11-22T07:00:00Z",
            "endsAt": "0001-01-01T00:00:00Z",
            "fingerprint": fingerprint,
        }
        for fingerprint in fingerprints
    ]
    return json.dumps({"version": "4", "alerts": alerts}).encode()


def alerts(store: Store) -> list[tuple[str, str]]:
    """Fingerprint and status of the stored alerts."""
    query = "SELECT fingerprint, status FROM alerts ORDER BY id"
    return [tuple(row) for row in store.read(lambda c: c.exec_driver_sql(query).all())]


def inbox(store: Store) -> list[Any]:
    """What is left in the inbox: rows of body, faults and error."""
    query = "SELECT body, faults, error FROM inbox ORDER BY id"
    return list(store.read(lambda c: c.exec_driver_sql(query).all()))


def test_notifications_are_worked_in_and_leave_the_inbox(store: Store, put: Put) -> None:
    """All alerts of all notifications, once each."""
    put(body("f1", "f2"))
    put(body("f3"))
    assert store.read(statements.anything_new)
    store.write(work_in)
    assert alerts(store) == [("f1", "firing"), ("f2", "firing"), ("f3", "firing")]
    assert inbox(store) == []


def test_the_order_of_arrival_decides(store: Store, put: Put) -> None:
    """What came first is what the alert is known by, with the time at which it came; the rest ends it."""
    put(body("f1", runbook="first"), now=100.0)
    put(body("f1", runbook="second"), now=115.0)
    put(body("f1", status="resolved", runbook="third"), now=130.0)
    store.write(work_in)
    query = "SELECT received_at, status, ended_at, annotations FROM alerts"
    ((received_at, status, ended_at, annotations),) = store.read(lambda c: c.exec_driver_sql(query).all())
    assert (received_at, status, ended_at) == (100.0, "resolved", 130.0)
    assert json.loads(annotations)["runbook"] == "first"


def test_a_poisonous_notification_harms_no_other(store: Store, put: Put) -> None:
    """Those before and after it are worked in; it stays, with its error, for people to see."""
    put(body("f1"))
    put(POISON)
    put(body("f2"))
    store.write(work_in)
    assert alerts(store) == [("f1", "firing"), ("f2", "firing")]
    ((left, faults, error),) = inbox(store)
    assert (left, faults) == (POISON, 1)
    assert error.startswith("ValidationError: ")


def test_a_poisonous_notification_is_given_up_and_kept(store: Store, put: Put) -> None:
    """After a few tries it holds up nothing any more: not the loop, and not its turn of notifications."""
    put(POISON)
    for number in range(MAX_INBOX_FAULTS):
        assert store.read(statements.anything_new)
        assert store.read(statements.count_inbox) == (1, 0)
        store.write(work_in)
        assert inbox(store)[0].faults == number + 1
    assert not store.read(statements.anything_new)
    assert store.read(statements.count_inbox) == (0, 1)
    put(body("f1"))
    store.write(work_in)
    assert alerts(store) == [("f1", "firing")]
    assert [row.faults for row in inbox(store)] == [MAX_INBOX_FAULTS]


@pytest.mark.parametrize("error", REFUSALS)
def test_nothing_of_a_notification_that_fails_is_stored(
    store: Store, put: Put, monkeypatch: pytest.MonkeyPatch, error: Callable[[], Exception]
) -> None:
    """It fails as a whole, whether Python or a rule of the database refuses it."""
    put(body("f1", "f2"))
    put(body("f3"))
    refuse(monkeypatch, "f2", error)
    store.write(work_in)
    assert alerts(store) == [("f3", "firing")]
    assert [row.faults for row in inbox(store)] == [1]


def test_trouble_of_the_database_is_not_the_notifications_fault(store: Store, put: Put) -> None:
    """As often as it lasts, nothing is counted; when it is over the notification is worked in."""

    def rename(old: str, new: str) -> None:
        store.write(lambda c: c.exec_driver_sql(f"ALTER TABLE {old} RENAME TO {new}") and None)

    put(body("f1"))
    rename("alerts", "elsewhere")
    for _ in range(MAX_INBOX_FAULTS + 1):
        with pytest.raises(StoreUnavailable, match="no such table"):
            store.write(work_in)
    rename("elsewhere", "alerts")
    assert [(row.faults, row.error) for row in inbox(store)] == [(0, None)]
    store.write(work_in)
    assert alerts(store) == [("f1", "firing")]


@pytest.mark.parametrize("kind", [OperationalError, InternalError])
def test_a_lost_connection_is_not_the_notifications_fault(
    store: Store, put: Put, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    """Whatever the driver calls it; the others of the round wait with it and are not lost."""

    def lose(*_: Any) -> None:
        raise kind("INSERT", {}, Exception("server closed the connection"))  # type: ignore[call-arg, arg-type]

    put(body("f1"))
    put(body("f2"))
    with monkeypatch.context() as patch:
        patch.setattr(notifications, "store_received", lose)
        with pytest.raises(StoreUnavailable):
            store.write(work_in)
    assert [(row.faults, row.error) for row in inbox(store)] == [(0, None), (0, None)]
    store.write(work_in)
    assert len(alerts(store)) == 2


def test_many_megabytes_are_taken_in_parts(store: Store, put: Put) -> None:
    """A backlog of any size costs one transaction a bounded memory; each part makes progress."""
    for number in range(10):
        put(body(f"f{number}", padding=MAX_BYTES // 3))
    taken = []
    while inbox(store):
        before = len(inbox(store))
        store.write(work_in)
        taken.append(before - len(inbox(store)))
    assert taken == [2, 2, 2, 2, 2]
    assert alerts(store) == [(f"f{number}", "firing") for number in range(10)]


def test_one_notification_that_is_larger_than_a_part_is_taken_alone(store: Store, put: Put) -> None:
    """Alertmanager sends thousands of alerts of one group in one body."""
    put(body("f1"))
    put(body("f2", padding=3 * MAX_BYTES))
    put(body("f3"))
    for left in (2, 1, 0):
        store.write(work_in)
        assert len(inbox(store)) == left


def test_a_poisonous_notification_does_not_hold_up_large_ones(store: Store, put: Put) -> None:
    """Given up, it no longer counts among the bytes of a part."""
    put(POISON.ljust(MAX_BYTES))
    for _ in range(MAX_INBOX_FAULTS):
        store.write(work_in)
    put(body("f1", padding=MAX_BYTES // 2))
    put(body("f2"))
    store.write(work_in)
    assert len(alerts(store)) == 2
