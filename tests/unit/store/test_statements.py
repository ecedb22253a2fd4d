"""The statements: what must not race is claimed once, fenced by its epoch, and stored once."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from self_healing_fabric.errors import LeaseLost
from self_healing_fabric.store import Store, statements

Opens = Callable[..., str]


def claim(store: Store, now: float, *, owner: str = "w", lease: float = 60.0, limit: int = 10) -> list[str]:
    """Claim what is due; return the ids."""
    rows = store.write(
        lambda connection: statements.claim_due(connection, owner=owner, now=now, lease=lease, limit=limit)
    )
    return sorted(row.id for row in rows)


def test_what_is_due_is_claimed_once(store: Store, open_incident: Opens) -> None:
    """A second claim under a running lease gets nothing."""
    open_incident("i1", due_at=100.0)
    assert claim(store, 100.0) == ["i1"]
    assert claim(store, 100.0, owner="other") == []


def test_what_is_not_due_is_not_claimed(store: Store, open_incident: Opens) -> None:
    """A timer in the future and an incident without a timer are left alone."""
    open_incident("later", due_at=100.5)
    open_incident("never", due_at=None)
    assert claim(store, 100.0) == []


def test_an_expired_lease_is_claimed_again_with_a_higher_epoch(store: Store, open_incident: Opens) -> None:
    """A worker that vanished loses its incident when the lease runs out, not before."""
    open_incident("i1", due_at=100.0)
    (first,) = store.write(lambda c: statements.claim_due(c, owner="a", now=100.0, lease=10.0, limit=1))
    assert claim(store, 110.0) == []
    (second,) = store.write(lambda c: statements.claim_due(c, owner="b", now=110.1, lease=10.0, limit=1))
    assert (second.epoch, second.lease_owner) == (first.epoch + 1, "b")


def test_the_longest_due_are_claimed_first_up_to_the_limit(store: Store, open_incident: Opens) -> None:
    """A limit leaves the youngest waiting."""
    for name, due in (("young", 99.0), ("old", 1.0), ("middle", 50.0)):
        open_incident(name, due_at=due)
    assert claim(store, 100.0, limit=2) == ["middle", "old"]


def test_an_overtaken_worker_cannot_write(store: Store, open_incident: Opens) -> None:
    """A write with the epoch of an earlier claim raises LeaseLost and changes nothing."""
    open_incident("i1", due_at=100.0)
    claim(store, 100.0)
    store.write(lambda connection: statements.overtake(connection, "i1", {"state": "escalated"}))
    with pytest.raises(LeaseLost):
        store.write(lambda c: statements.update_claimed(c, "i1", 1, {"state": "resolved"}))
    row = store.read(lambda connection: statements.incident(connection, "i1"))
    assert row is not None
    assert (row.state, row.epoch, row.lease_owner, row.lease_until) == ("escalated", 2, None, None)


def test_an_annotation_does_not_disturb_the_step_in_hand(store: Store, open_incident: Opens) -> None:
    """Severity can rise while a worker holds the incident, and the worker may still write."""
    open_incident("i1", due_at=100.0, severity="warning")
    claim(store, 100.0)
    store.write(lambda connection: statements.annotate(connection, "i1", {"severity": "critical"}))
    store.write(lambda connection: statements.update_claimed(connection, "i1", 1, {"state": "diagnosing"}))
    row = store.read(lambda connection: statements.incident(connection, "i1"))
    assert row is not None
    assert (row.state, row.severity) == ("diagnosing", "critical")


def test_next_due_is_none_when_nothing_has_a_timer(store: Store, open_incident: Opens) -> None:
    """Nothing to wait for is no time."""
    assert store.read(statements.next_due) is None
    open_incident("never", due_at=None)
    assert store.read(statements.next_due) is None


@pytest.mark.parametrize(
    ("due_at", "lease_until", "expected"),
    [(100.0, None, 100.0), (100.0, 160.0, 160.0), (200.0, 160.0, 200.0), (100.0, 50.0, 100.0)],
)
def test_next_due_waits_for_the_timer_and_for_the_lease(
    store: Store, open_incident: Opens, due_at: float, lease_until: float | None, expected: float
) -> None:
    """A leased incident wakes the loop when its lease ends, a free one when its timer is due."""
    open_incident("i1", due_at=due_at, lease_until=lease_until)
    assert store.read(statements.next_due) == expected


def test_leases_of_a_dead_process_are_released_at_start(store: Store, open_incident: Opens) -> None:
    """After the release everything due can be claimed at once."""
    open_incident("i1", due_at=100.0)
    claim(store, 100.0, lease=1000.0)
    store.write(statements.release_all_leases)
    assert claim(store, 101.0) == ["i1"]


def alert(
    store: Store, status: str, *, fingerprint: str = "f", starts_at: str = "s", now: float = 1.0
) -> None:
    """Store one alert."""
    values = {
        "fingerprint": fingerprint,
        "starts_at": starts_at,
        "status": status,
        "labels": {"service": "cart"},
        "annotations": {},
        "received_at": now,
        "ended_at": None if status == "firing" else now,
    }
    store.write(lambda connection: statements.upsert_alert(connection, values))


def all_alerts(store: Store) -> list[tuple[Any, ...]]:
    """Identity, status and end of every alert."""
    columns = "fingerprint, starts_at, status, ended_at, incident_id"
    rows = store.read(lambda c: c.exec_driver_sql(f"SELECT {columns} FROM alerts ORDER BY id").all())  # noqa: S608
    return [tuple(row) for row in rows]


def test_an_alert_is_stored_once_by_its_identity(store: Store) -> None:
    """The same fingerprint with another start is another alert; the same pair is not."""
    for starts_at in ("s1", "s1", "s2"):
        alert(store, "firing", starts_at=starts_at)
    assert [row[1] for row in all_alerts(store)] == ["s1", "s2"]


def test_an_end_is_kept_when_it_is_told_twice(store: Store) -> None:
    """The first `resolved` dates the end."""
    alert(store, "firing", now=1.0)
    alert(store, "resolved", now=5.0)
    alert(store, "resolved", now=9.0)
    assert all_alerts(store) == [("f", "s", "resolved", 5.0, None)]


def test_end_alert_ends_only_what_fires(store: Store) -> None:
    """An alert that has ended keeps the time of its end."""
    alert(store, "firing")
    store.write(lambda connection: statements.end_alert(connection, 1, 5.0))
    store.write(lambda connection: statements.end_alert(connection, 1, 9.0))
    assert all_alerts(store) == [("f", "s", "resolved", 5.0, None)]


@pytest.mark.parametrize(("closed_at", "stays_with"), [(None, "i1"), (50.0, None)])
def test_a_revived_alert_leaves_a_closed_incident(
    store: Store, open_incident: Opens, closed_at: float | None, stays_with: str | None
) -> None:
    """An alert that fires after all stays in its open incident, and needs a new one when that is closed."""
    open_incident("i1", closed_at=closed_at)
    alert(store, "firing")
    store.write(lambda connection: statements.assign_alert(connection, 1, "i1"))
    alert(store, "resolved")
    store.write(lambda connection: statements.revive_alert(connection, "f", "s"))
    assert all_alerts(store) == [("f", "s", "firing", None, stays_with)]
    unassigned = store.read(lambda connection: statements.unassigned_alerts(connection, 10))
    assert len(unassigned) == (stays_with is None)


def disruptive(store: Store, since: float, target: str = "http:cart") -> Sequence[str]:
    """The ids of the actions that count, newest first."""
    rows = store.read(lambda c: statements.disruptive_actions_on(c, target, since))
    return [row.id for row in rows]


def test_actions_count_by_target_and_window_newest_first(store: Store, announce: Opens) -> None:
    """Another target, an undisturbing strategy and an old action do not count."""
    announce("old", intended_at=10.0, started_at=10.0, status="succeeded")
    announce("edge", intended_at=50.0, started_at=50.0, status="succeeded")
    announce("new", intended_at=60.0, started_at=60.0, status="indeterminate")
    announce("other", intended_at=60.0, target="http:other")
    announce("probe", intended_at=60.0, disruptive=False)
    assert disruptive(store, 50.0) == ["new", "edge"]


@pytest.mark.parametrize(
    ("status", "started_at", "counts"),
    [
        ("intended", None, True),
        ("started", 60.0, True),
        ("succeeded", 60.0, True),
        ("failed", 60.0, True),
        ("indeterminate", 60.0, True),
        ("failed", None, False),
    ],
)
def test_only_an_action_that_failed_before_it_began_does_not_count(
    store: Store, announce: Opens, status: str, started_at: float | None, counts: bool
) -> None:
    """Announced is counted, for it may have disturbed the target; what never began has not."""
    announce("a", intended_at=60.0, status=status, started_at=started_at)
    assert disruptive(store, 50.0) == (["a"] if counts else [])


@pytest.mark.parametrize("status", statements.UNFINISHED)
def test_an_unfinished_action_counts_however_old_it_is(store: Store, announce: Opens, status: str) -> None:
    """What may still be at work does not fall out of the window."""
    announce("a", intended_at=1.0, status=status)
    assert disruptive(store, 1000.0) == ["a"]


def test_an_unfinished_action_is_found_by_its_incident(store: Store, announce: Opens) -> None:
    """After a crash the one open action is found, and none when all have ended."""
    announce("a", status="succeeded")
    assert store.read(lambda connection: statements.unfinished_action_of(connection, "i1")) is None
    announce("b", status="started")
    row = store.read(lambda connection: statements.unfinished_action_of(connection, "i1"))
    assert row is not None
    assert row.id == "b"


def test_pages_of_incidents_neither_repeat_nor_skip(store: Store, open_incident: Opens) -> None:
    """Newest first, and equal times are told apart by the id."""
    for number, opened in enumerate((1.0, 2.0, 2.0, 2.0, 3.0)):
        open_incident(f"i{number}", opened_at=opened)
    seen: list[str] = []
    before: tuple[float, str] | None = None
    while rows := store.read(lambda c, b=before: statements.list_incidents(c, before=b, limit=2)):
        seen += [row.id for row in rows]
        before = (rows[-1].opened_at, rows[-1].id)
    assert seen == ["i4", "i3", "i2", "i1", "i0"]


def test_closed_incidents_are_not_counted(store: Store, open_incident: Opens) -> None:
    """The gauge of incidents tells of those that are not closed."""
    open_incident("i1", state="escalated", level=3)
    open_incident("i2", state="escalated", level=1)
    open_incident("i3", state="closed", closed_at=5.0)
    (row,) = store.read(statements.count_incidents)
    assert (row.service, row.state, row.number, row.level) == ("cart", "escalated", 2, 3)
