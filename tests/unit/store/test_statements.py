"""The statements: what must not race is claimed once, fenced by its epoch, and stored once."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from sqlalchemy import Connection

from self_healing_fabric.errors import LeaseLost
from self_healing_fabric.store import Store, statements

Opens = Callable[..., str]


def claim(store: Store, now: float, **changes: Any) -> list[str]:
    """Claim what is due; return the ids."""
    options = {"owner": "w", "lease": 60.0, "limit": 10, **changes}
    rows = store.write(lambda connection: statements.claim_due(connection, now=now, **options))
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


def test_what_is_only_watched_is_claimed_last(store: Store, open_incident: Opens) -> None:
    """Thousands of escalated incidents that are looked at now and then do not keep a new one from healing."""
    for number, state in enumerate(("escalated", "resolved", "escalated", "detected", "recovering")):
        open_incident(f"{state}{number}", state=state, due_at=float(number))
    assert claim(store, 100.0, limit=1) == ["detected3"]
    assert claim(store, 100.0, limit=3) == ["escalated0", "recovering4", "resolved1"]
    assert claim(store, 100.0, limit=3) == ["escalated2"]


def test_what_is_only_watched_has_its_turn(store: Store, open_incident: Opens) -> None:
    """Hundreds of incidents that wait in healing do not keep an escalated one from calling the next level."""
    open_incident("watched", state="escalated", due_at=1.0)
    for number in range(4):
        open_incident(f"healing{number}", state="recovering", due_at=10.0 + number)
    assert claim(store, 100.0, limit=2, in_turn=1) == ["healing0", "watched"]
    assert claim(store, 100.0, limit=2, in_turn=1) == ["healing1", "healing2"]
    assert claim(store, 100.0, limit=2, in_turn=2) == ["healing3"]


def test_what_is_only_watched_may_be_left_to_another_claim(store: Store, open_incident: Opens) -> None:
    """Who takes in asks for what is new, and for nothing else."""
    open_incident("watched", state="escalated", due_at=1.0)
    open_incident("healing", state="recovering", due_at=10.0)
    assert claim(store, 100.0, limit=2, in_turn=None) == ["healing"]
    assert claim(store, 100.0, limit=2) == ["watched"]


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


def next_due(store: Store, now: float) -> float | None:
    """The earliest timer that somebody must look at."""
    return store.read(lambda connection: statements.next_due(connection, now))


def test_next_due_is_none_when_nothing_has_a_timer(store: Store, open_incident: Opens) -> None:
    """Nothing to wait for is no time."""
    assert next_due(store, 100.0) is None
    open_incident("never", due_at=None)
    assert next_due(store, 100.0) is None


@pytest.mark.parametrize(
    ("due_at", "lease_until", "expected"),
    [
        (100.0, None, 100.0),
        (100.0, 160.0, None),
        (200.0, 160.0, None),
        (100.0, 50.0, 100.0),
        (200.0, None, 200.0),
    ],
)
def test_next_due_is_the_earliest_timer_that_nobody_works_on(
    store: Store, open_incident: Opens, due_at: float, lease_until: float | None, expected: float | None
) -> None:
    """A leased incident wakes nobody until its lease has run out; then its timer counts."""
    open_incident("i1", due_at=due_at, lease_until=lease_until)
    assert next_due(store, 150.0) == expected
    assert next_due(store, 160.1) == due_at
    open_incident("i2", due_at=due_at + 1.0)
    assert next_due(store, 160.1) == due_at


def test_leases_of_a_dead_process_are_released_at_start(store: Store, open_incident: Opens) -> None:
    """After the release everything due can be claimed at once."""
    open_incident("i1", due_at=100.0)
    claim(store, 100.0, lease=1000.0)
    store.write(statements.release_all_leases)
    assert claim(store, 101.0) == ["i1"]


def alert(
    store: Store,
    status: str,
    *,
    fingerprint: str = "f",
    starts_at: str = "s",
    now: float = 1.0,
    **labels: str,
) -> None:
    """Store one alert."""
    values = {
        "fingerprint": fingerprint,
        "starts_at": starts_at,
        "status": status,
        "labels": {"service": "cart", **labels},
        "annotations": {},
        "received_at": now,
        "ended_at": None if status == "firing" else now,
    }
    store.write(lambda connection: statements.upsert_alerts(connection, [values]))


def assign(store: Store, alert_id: int, incident_id: str, service: str | None = "cart") -> None:
    """Make one alert part of an incident."""
    row = {"alert_id": alert_id, "to_incident": incident_id, "to_service": service}
    store.write(lambda connection: statements.assign_alerts(connection, [row]))


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
    assign(store, 1, "i1")
    alert(store, "resolved")
    store.write(lambda connection: statements.revive_alert(connection, "f", "s"))
    assert all_alerts(store) == [("f", "s", "firing", None, stays_with)]
    unassigned = store.read(lambda connection: statements.unassigned_alerts(connection, 10))
    assert len(unassigned) == (stays_with is None)


def disruptive(store: Store, since: float, target: str = "http:cart") -> Sequence[str]:
    """The ids of the actions that count, newest first."""
    rows = store.read(lambda c: statements.actions_on(c, target, since))
    return [row.id for row in rows if row.disturbed]


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


def held(store: Store, *incidents: str) -> list[list[tuple[str, str | None]]]:
    """The actions that each of them answers for, with their services."""
    return [
        [
            (row.id, row.service)
            for row in store.read(lambda c, each=each: statements.actions_held_by(c, each))
        ]
        for each in incidents
    ]


def test_actions_are_handed_over_whole_or_by_service(
    store: Store, announce: Opens, open_incident: Opens
) -> None:
    """Once and again; each stays in the story of the incident that announced it."""
    announce("a1", service="cart")
    announce("a2", service="db")
    open_incident("i2")
    open_incident("i3")
    hand_over = statements.hand_over_actions
    store.write(lambda c: hand_over(c, from_incident="i1", to_incident="i2"))
    assert held(store, "i1", "i2") == [[], [("a1", "cart"), ("a2", "db")]]
    store.write(lambda c: hand_over(c, from_incident="i2", to_incident="i3", service="cart"))
    assert held(store, "i1", "i2", "i3") == [[], [("a2", "db")], [("a1", "cart")]]
    assert [row.id for row in store.read(lambda c: statements.actions_of(c, "i1"))] == ["a1", "a2"]


def test_an_action_without_a_service_is_handed_over_with_that_of_its_incident(
    store: Store, announce: Opens, open_incident: Opens
) -> None:
    """The version before writes none: what it did to the service goes along all the same."""
    announce("a1")
    announce("a2", service="db")
    open_incident("i2", service="cart")
    hand_over = statements.hand_over_actions
    store.write(lambda c: hand_over(c, from_incident="i1", to_incident="i2", service="cart"))
    assert held(store, "i1", "i2") == [[("a2", "db")], [("a1", "cart")]]


def test_an_action_without_a_service_has_that_of_its_incident(store: Store, announce: Opens) -> None:
    """The version before writes none: what reads the rows does not have to know."""
    announce("a1")
    announce("a2", service="db")
    assert held(store, "i1") == [[("a1", "cart"), ("a2", "db")]]
    assert sorted(row.service for row in store.read(statements.running_actions)) == ["cart", "db"]


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


def test_who_waits_for_a_person_is_first_among_the_open_ones(store: Store, open_incident: Opens) -> None:
    """Then the most severe, and of these the oldest; what is over or merged is not among them."""
    open_incident("light", severity="info", opened_at=1.0)
    open_incident("odd", severity="page", opened_at=1.0)
    open_incident("younger", severity="critical", opened_at=3.0)
    open_incident("older", severity="critical", opened_at=2.0)
    open_incident("called", severity="info", state="escalated", opened_at=4.0)
    open_incident("taken", severity="info", state="escalated", acknowledged_by="ada", opened_at=5.0)
    open_incident("asks", severity="critical", state="awaiting_approval", opened_at=6.0)
    open_incident("resolved", state="resolved", resolved_at=7.0)
    open_incident("closed", state="closed", closed_at=7.0)
    open_incident("merged", state="awaiting_approval", merged_into="asks")
    order = ["asks", "called", "older", "younger", "light", "taken", "odd"]
    for limit in (2, 50):
        rows = store.read(
            lambda c, n=limit: statements.first_of_open_incidents(c, severities=("critical", "info"), limit=n)
        )
        assert [row.id for row in rows] == order[:limit]
    assert store.read(statements.count_open_incidents) == (2, 5)


def test_closed_incidents_are_not_counted(store: Store, open_incident: Opens) -> None:
    """The gauge of incidents tells of those that are not closed."""
    open_incident("i1", state="escalated", level=3)
    open_incident("i2", state="escalated", level=1)
    open_incident("i3", state="closed", closed_at=5.0)
    (row,) = store.read(statements.count_incidents)
    assert (row.service, row.state, row.number, row.level) == ("cart", "escalated", 2, 3)


def test_what_one_works_on_is_not_claimed_again(store: Store, open_incident: Opens) -> None:
    """Not even when its lease has run out while it is still in hand."""
    for name, due in (("in-hand", 1.0), ("free", 2.0)):
        open_incident(name, due_at=due)
    rows = store.write(
        lambda c: statements.claim_due(c, owner="w", now=9.0, lease=6.0, limit=9, not_these={"in-hand"})
    )
    assert [row.id for row in rows] == ["free"]
    assert next_due(store, 9.0) == 1.0


def test_a_claim_returns_the_incident_as_it_is_from_then_on(store: Store, open_incident: Opens) -> None:
    """All columns, with owner, end of the lease and the new epoch."""
    open_incident("i1", due_at=1.0, plan=["restart"], diagnosis={"cause": "cart"})
    (row,) = store.write(lambda c: statements.claim_due(c, owner="w", now=9.0, lease=6.0, limit=1))
    assert (row.lease_owner, row.lease_until, row.epoch) == ("w", 15.0, 1)
    stored = store.read(lambda connection: statements.incident(connection, "i1"))
    assert stored is not None
    assert tuple(row) == tuple(stored)
    assert (row.plan, row.diagnosis) == (["restart"], {"cause": "cart"})


def test_leases_are_renewed_only_for_their_owner(store: Store, open_incident: Opens) -> None:
    """What another one has taken over is not prolonged, and the answer says so."""
    for name in ("mine", "lost", "given-back"):
        open_incident(name, due_at=1.0)
    store.write(lambda c: statements.claim_due(c, owner="a", now=9.0, lease=6.0, limit=9))
    store.write(lambda c: statements.overtake(c, "given-back", {}))
    store.write(lambda c: statements.overtake(c, "lost", {}))
    store.write(
        lambda c: statements.claim_due(c, owner="b", now=9.0, lease=6.0, limit=9, not_these={"given-back"})
    )
    held = {"mine", "lost", "given-back", "nobody"}
    kept = store.write(lambda c: statements.renew_leases(c, owner="a", held=held, now=11.0, lease=6.0))
    assert kept == {"mine": 1}
    rows = {row.id: row for row in store.read(statements.list_incidents)}
    assert {name: rows[name].lease_until for name in rows} == {"mine": 17.0, "lost": 15.0, "given-back": None}
    store.write(lambda c: statements.release_leases(c, "a", held))
    assert store.write(lambda c: statements.renew_leases(c, owner="a", held=held, now=12.0, lease=6.0)) == {}
    row = store.read(lambda connection: statements.incident(connection, "lost"))
    assert row is not None
    assert (row.lease_owner, row.lease_until) == ("b", 15.0)


def test_a_thousand_leases_are_renewed_and_given_back(store: Store, open_incident: Opens) -> None:
    """More than one statement takes at once."""
    names = [f"i{number}" for number in range(1_001)]
    values = {"service": "cart", "known_service": True, "title": "t", "severity": "critical", "plan": []}
    times = {"opened_at": 1.0, "updated_at": 1.0, "due_at": 1.0}
    rows = [{"id": name, "subject": name, "state": "detected", **values, **times} for name in names]
    store.write(lambda connection: statements.insert_incidents(connection, rows))
    assert len(claim(store, 9.0, limit=2_000)) == 1_001
    kept = store.write(lambda c: statements.renew_leases(c, owner="w", held=names, now=9.0, lease=6.0))
    assert set(kept) == set(names)
    store.write(lambda connection: statements.release_leases(connection, "w", names))
    assert len(claim(store, 9.0, limit=2_000)) == 1_001


def test_a_lease_on_a_role_is_kept_given_back_and_taken_over(store: Store) -> None:
    """Its owner prolongs it; another one gets it when it was given back or has run out, not before."""

    def acquire(owner: str, now: float) -> bool:
        return store.write(lambda c: statements.acquire_lease(c, name="x", owner=owner, now=now, lease=6.0))

    assert [acquire("a", 1.0), acquire("b", 2.0), acquire("a", 5.0)] == [True, False, True]
    assert [acquire("b", 11.0), acquire("b", 11.1), acquire("a", 12.0)] == [False, True, False]
    store.write(lambda connection: statements.release_lease(connection, "x", "a"))
    assert acquire("a", 12.0) is False
    store.write(lambda connection: statements.release_lease(connection, "x", "b"))
    assert acquire("a", 12.0) is True


def test_at_start_no_lease_of_a_dead_process_is_left(store: Store, open_incident: Opens) -> None:
    """Neither on incidents nor on the role of the leader."""
    open_incident("i1", due_at=1.0)
    claim(store, 9.0, lease=1_000.0)
    store.write(lambda c: statements.acquire_lease(c, name="x", owner="dead", now=9.0, lease=1_000.0))
    store.write(statements.release_all_leases)
    assert claim(store, 9.0, owner="new") == ["i1"]
    assert store.write(lambda c: statements.acquire_lease(c, name="x", owner="new", now=9.0, lease=6.0))


def test_what_lies_out_of_reach_is_pulled_in(store: Store, open_incident: Opens) -> None:
    """Each timer and each lease by itself, of open incidents only; what may be so stays as it is."""
    open_incident("far", due_at=9_000.0, level_due_at=9_000.0, lease_until=9_000.0)
    open_incident("due", due_at=9_000.0, level_due_at=50.0, lease_until=15.0)
    open_incident("legal", due_at=100.0, level_due_at=100.0, lease_until=20.0)
    open_incident("idle", due_at=None)
    open_incident("closed", due_at=9_000.0, closed_at=5.0)
    assert store.write(lambda c: statements.pull_in(c, timers_to=100.0, levels_to=100.0, leases_to=20.0)) == 2
    rows = store.read(statements.list_incidents)
    assert {row.id: (row.due_at, row.level_due_at, row.lease_until) for row in rows} == {
        "far": (100.0, 100.0, 20.0),
        "due": (100.0, 50.0, 15.0),
        "legal": (100.0, 100.0, 20.0),
        "idle": (None, None, None),
        "closed": (9_000.0, None, None),
    }


def test_only_what_lost_its_timer_is_revived(store: Store, open_incident: Opens) -> None:
    """Open, without a timer and without a worker."""
    open_incident("stuck", due_at=None)
    open_incident("timer", due_at=500.0)
    open_incident("worker", due_at=None, lease_owner="w", lease_until=1_000.0)
    open_incident("closed", due_at=None, closed_at=5.0)
    assert store.write(lambda connection: statements.revive_stuck(connection, 100.0)) == 1
    due = {row.id: row.due_at for row in store.read(statements.list_incidents)}
    assert due == {"stuck": 100.0, "timer": 500.0, "worker": None, "closed": None}


def test_open_incidents_are_found_by_their_subjects(store: Store, open_incident: Opens) -> None:
    """Oldest first, no closed ones; with or without a lock, for more subjects than one statement takes."""
    open_incident("b", subject="s2", opened_at=2.0)
    open_incident("a", subject="s1", opened_at=3.0)
    open_incident("old", subject="s1-old", opened_at=1.0, closed_at=2.0)
    subjects = {"s1", "s2", "s1-old", *(f"x{number}" for number in range(1_200))}
    for lock in (False, True):
        rows = store.write(lambda c, lock=lock: statements.open_incidents_of(c, subjects, lock=lock))
        assert [row.id for row in rows] == ["b", "a"]
    assert store.read(lambda connection: statements.open_incidents_of(connection, ())) == []


def test_symptoms_are_found_by_the_incident_that_they_joined(store: Store, open_incident: Opens) -> None:
    """A service's own incident is no membership, nor is a closed one; the newest alert dates an incident."""
    open_incident("db", service="db", subject="service/db")
    open_incident("old", service="db", subject="service/old", closed_at=5.0)
    for number, (incident_id, service) in enumerate(
        [("db", "db"), ("db", "cart"), ("db", "cart"), ("old", "shop"), ("db", None)], start=1
    ):
        alert(store, "firing", fingerprint=f"f{number}", now=float(number))
        assign(store, number, incident_id, service)
    rows = store.read(lambda connection: statements.memberships(connection, {"db", "cart", "shop"}))
    assert [tuple(row) for row in rows] == [("cart", "db")]
    times = store.read(lambda connection: statements.last_alert_times(connection, {"db", "old", "none"}))
    assert times == {"db": 5.0, "old": 4.0}


def test_alerts_are_moved_whole_or_by_service(store: Store, open_incident: Opens) -> None:
    """A split takes the alerts of one service, a merge takes all."""
    for name in ("a", "b", "c"):
        open_incident(name)
    for number, service in enumerate(("cart", "db", None), start=1):
        alert(store, "firing", fingerprint=f"f{number}")
        assign(store, number, "a", service)
    move = statements.move_alerts
    assert store.write(lambda c: move(c, from_incident="a", to_incident="b", service="db")) == 1
    assert store.write(lambda c: move(c, from_incident="a", to_incident="c")) == 2
    assert store.write(lambda c: move(c, from_incident="a", to_incident="c")) == 0
    assert [row[-1] for row in all_alerts(store)] == ["c", "b", "c"]


def test_the_signals_of_an_incident_are_those_that_its_service_alerts_name(
    store: Store, open_incident: Opens
) -> None:
    """Each once, without those of its symptoms, and without alerts that name none."""
    open_incident("a")
    named = [("cart", "cpu"), ("cart", "cpu"), ("cart", "heartbeat"), ("cart", None), ("shop", "memory")]
    for number, (service, signal) in enumerate(named, start=1):
        alert(store, "firing", fingerprint=f"f{number}", **({"signal": signal} if signal else {}))
        assign(store, number, "a", service)
    signals = store.read(lambda connection: statements.signals_of(connection, "a", "cart"))
    assert signals == {"cpu", "heartbeat"}


def test_many_alerts_are_stored_and_ended_at_once(store: Store) -> None:
    """In any order, with the same alert twice in one list; an end in the list ends it."""
    rows = [
        {
            "fingerprint": f"f{number % 700}",
            "starts_at": "s",
            "status": "firing" if number < 1_000 else "resolved",
            "labels": {"n": str(number)},
            "annotations": {},
            "received_at": 1.0,
            "ended_at": None if number < 1_000 else 2.0,
        }
        for number in range(1_200)
    ]
    store.write(lambda connection: statements.upsert_alerts(connection, rows))
    store.write(lambda connection: statements.upsert_alerts(connection, []))
    stored = all_alerts(store)
    assert len(stored) == 700
    # 1,000 to 1,199 are the ends of f300 to f499.
    assert sorted(row[0] for row in stored if row[2] == "resolved") == [f"f{n}" for n in range(300, 500)]


def test_alerts_are_silenced_and_heard_again(store: Store) -> None:
    """Also more of them than a statement can name."""
    for number in (1, 2, 3):
        alert(store, "firing", fingerprint=f"f{number}")

    def suppressed() -> list[bool]:
        rows = sorted(store.read(statements.firing_alerts), key=lambda row: row.id)
        return [row.suppressed for row in rows]

    assert suppressed() == [False, False, False]
    store.write(lambda connection: statements.set_suppressed(connection, [1, 3, *range(10, 70_000)], True))
    assert suppressed() == [True, False, True]
    store.write(lambda connection: statements.set_suppressed(connection, [3], False))
    assert suppressed() == [True, False, False]
    store.write(lambda connection: statements.set_suppressed(connection, [], True))
    assert suppressed() == [True, False, False]


def inbox(store: Store) -> list[bytes]:
    """The bodies that wait, in their order."""
    rows = store.read(lambda c: c.exec_driver_sql("SELECT body FROM inbox ORDER BY id").all())
    return [bytes(row.body) for row in rows]


def take(store: Store, max_bytes: int = 1_000_000) -> list[Any]:
    """Take notifications out, as a round does."""
    return list(store.write(lambda connection: statements.take_from_inbox(connection, max_bytes)))


def put_first_back(connection: Connection, error: str) -> None:
    """The oldest notification could not be worked in."""
    (first,) = statements.take_from_inbox(connection, 1)
    statements.put_back_in_inbox(connection, first, error)


def test_a_notification_waits_as_it_came(store: Store) -> None:
    """Byte for byte, also what is no text; in the order of arrival, until it is taken out."""
    bodies = [b"{}", bytes(range(256)), b"\x00", "ü".encode()]
    assert store.read(statements.anything_new) is False
    for number, body in enumerate(bodies):
        store.write(lambda c, b=body, n=number: statements.put_in_inbox(c, [(b, float(n))]))
    assert inbox(store) == bodies
    assert store.read(statements.anything_new) is True
    assert store.read(statements.count_inbox) == (4, 0)
    rows = take(store)
    assert [(row.received_at, bytes(row.body)) for row in rows] == list(enumerate(bodies))
    assert inbox(store) == []
    assert store.read(statements.anything_new) is False


def test_a_round_takes_no_more_than_it_may_but_always_one(store: Store) -> None:
    """Memory is bounded, and a notification larger than the bound does not wait for ever."""
    for size in (50, 40, 20, 5):
        store.write(lambda c, size=size: statements.put_in_inbox(c, [(b"x" * size, 1.0)]))
    assert [len(row.body) for row in take(store, 60)] == [50]
    assert [len(row.body) for row in take(store, 60)] == [40, 20]
    assert [len(row.body) for row in take(store, 4)] == [5]
    assert take(store, 4) == []


def test_a_notification_that_fails_holds_up_the_others_only_for_a_while(store: Store) -> None:
    """After three errors it is left for people, with its error, and counted as failed."""
    for body in (b"bad", b"good"):
        store.write(lambda c, body=body: statements.put_in_inbox(c, [(body, 1.0)]))
    for fault in range(statements.MAX_INBOX_FAULTS):
        assert store.read(statements.count_inbox) == (2, 0)
        store.write(lambda c, f=fault: put_first_back(c, f"error {f}"))
    assert store.read(statements.count_inbox) == (1, 1)
    assert [bytes(row.body) for row in take(store)] == [b"good"]
    assert inbox(store) == [b"bad"]
    assert store.read(statements.anything_new) is False
    error = store.read(lambda c: c.exec_driver_sql("SELECT error FROM inbox").scalar())
    assert error == "error 2"


def test_an_alert_without_an_incident_is_something_new(store: Store, open_incident: Opens) -> None:
    """Firing only: what ended before it had an incident needs none."""
    open_incident("i1")
    alert(store, "firing")
    assert store.read(statements.anything_new) is True
    assign(store, 1, "i1")
    assert store.read(statements.anything_new) is False
    alert(store, "resolved", fingerprint="g")
    assert store.read(statements.anything_new) is False


def test_budgets_are_counted_for_all_targets_as_for_one(store: Store, announce: Opens) -> None:
    """What /metrics shows is what the guardrails count."""
    announce("old", intended_at=10.0, started_at=10.0, status="succeeded")
    announce("at-work", intended_at=10.0, status="started")
    announce("new", intended_at=60.0, started_at=60.0, status="failed")
    announce("never", intended_at=60.0, status="failed")
    announce("probe", intended_at=60.0, disruptive=False)
    announce("other", intended_at=60.0, target="http:db")
    rows = store.read(lambda connection: statements.disruptive_actions_since(connection, 50.0))
    counted = Counter(row.target for row in rows)
    assert counted == {"http:cart": 2, "http:db": 1}
    assert {target: len(disruptive(store, 50.0, target)) for target in counted} == counted


def test_merged_incidents_are_listed_on_demand(store: Store, open_incident: Opens) -> None:
    """They are a detail of the one that they were merged into."""
    open_incident("cause")
    open_incident("symptom", merged_into="cause", state="closed", closed_at=5.0)
    listed = [
        [row.id for row in store.read(lambda c, m=m: statements.list_incidents(c, merged=m))] for m in (0, 1)
    ]
    assert listed == [["cause"], ["symptom", "cause"]]


def test_heartbeats_are_expected_of_those_that_are_registered(store: Store) -> None:
    """Registration counts as the first one and forgets who is gone; a stranger's is refused."""

    def register(*services: str, now: float, forget_before: float) -> dict[str, float]:
        store.write(
            lambda connection: statements.register_heartbeats(
                connection, services, now, forget_before=forget_before
            )
        )
        return dict(store.read(statements.heartbeat_times))

    def beat(service: str, *, expected: bool) -> bool:
        return store.write(lambda connection: statements.beat(connection, service, 5.0, expected=expected))

    assert register("a", "b", now=1.0, forget_before=1.0) == {"a": 1.0, "b": 1.0}
    assert (beat("a", expected=False), beat("nobody", expected=False)) == (True, False)
    assert register("a", "c", now=9.0, forget_before=9.0) == {"a": 5.0, "c": 9.0}
    assert register("c", now=10.0, forget_before=5.0) == {"a": 5.0, "c": 9.0}
    assert register(now=10.0, forget_before=10.0) == {}
    assert beat("a", expected=True)
    assert store.read(statements.heartbeat_times) == {"a": 5.0}


def test_silence_that_nobody_could_hear_is_none(store: Store) -> None:
    """A pause of all replicas moves every heartbeat; a shorter one than they may be late by moves none."""

    def listen(now: float) -> None:
        store.write(lambda connection: statements.listen_for_heartbeats(connection, now, longest_pause=6.0))

    def beat(service: str, at: float) -> None:
        assert store.write(lambda connection: statements.beat(connection, service, at, expected=True))

    beat("silent", 10.0)
    listen(100.0)
    assert store.read(statements.heartbeat_times) == {"silent": 10.0}  # nobody knows of a pause
    beat("lively", 101.0)
    listen(106.0)
    assert store.read(statements.heartbeat_times) == {"silent": 10.0, "lively": 101.0}
    beat("last", 107.0)
    store.write(statements.release_all_leases)  # as a process does that begins
    listen(206.0)
    assert store.read(statements.heartbeat_times) == {"silent": 110.0, "lively": 201.0, "last": 206.0}


def test_a_control_keeps_its_last_value(store: Store) -> None:
    """With who set it and when; none before somebody did."""
    assert store.write(lambda c: statements.control(c, "mode", lock=True)) is None
    for value, by in (("paused", "ann"), ("automatic", "bob")):
        store.write(lambda c, v=value, b=by: statements.set_control(c, name="mode", value=v, by=b, now=2.0))
    for lock in (False, True):
        row = store.write(lambda c, lock=lock: statements.control(c, "mode", lock=lock))
        assert row is not None
        assert tuple(row) == ("mode", "automatic", 2.0, "bob")


@pytest.mark.parametrize("asked", ["a", "ab", "abcd", "bcde"])
def test_controls_are_read_by_their_names(store: Store, asked: str) -> None:
    """However many are asked for at once: those that are set, and no other."""
    for name in "acde":
        store.write(lambda c, name=name: statements.set_control(c, name=name, value="v", by="ann", now=1.0))
    found = store.read(lambda connection: statements.controls_named(connection, list(asked)))
    assert set(found) == set(asked) & set("acde")


@pytest.mark.parametrize("asked", ["", "abcde"])
def test_no_control_is_left_out_in_silence(store: Store, asked: str) -> None:
    """One of them may be the kill switch."""
    with pytest.raises(ValueError, match="one to 4 controls"):
        store.read(lambda connection: statements.controls_named(connection, list(asked)))


def test_failing_are_configured_services_with_an_incident_that_is_not_over(
    store: Store, open_incident: Callable[..., str]
) -> None:
    """Each counts once, whatever the state; what is resolved, closed or nobody's does not."""

    def failing() -> int:
        return store.read(statements.count_failing_services)

    assert failing() == 0
    for number, state in enumerate(("detected", "recovering", "verifying", "escalated")):
        open_incident(f"failing {number}", service=f"s{number}", state=state)
    open_incident("again", service="s0", subject="alert/1", state="diagnosing")
    open_incident("healed", service="healed", state="resolved")
    open_incident("over", service="over", state="closed", closed_at=1.0)
    open_incident("stranger", service="stranger", known_service=False)
    assert failing() == 4
    store.write(lambda c: statements.annotate(c, "failing 1", {"state": "resolved"}))
    assert failing() == 3
