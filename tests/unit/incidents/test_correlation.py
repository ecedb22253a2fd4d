"""Correlation: one service, one problem; a stranger's label is shown and never chooses a target."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from self_healing_fabric.incidents import correlation, timeline
from self_healing_fabric.incidents.ingestion import store_alerts
from self_healing_fabric.incidents.models import Alert
from self_healing_fabric.store import Store, statements

TakeIn = Callable[..., None]
Correlate = Callable[..., list[str | None]]


def incidents(store: Store) -> list[Any]:
    """All incidents, oldest first."""
    return list(reversed(store.read(lambda connection: statements.list_incidents(connection, limit=500))))


def messages(store: Store, incident_id: str) -> list[str]:
    """The messages of an incident's timeline."""
    return [row.message for row in store.read(lambda c: statements.timeline_of(c, incident_id))]


def test_alerts_of_one_service_are_one_incident(store: Store, take_in: TakeIn, correlate: Correlate) -> None:
    """A hanging service misses heartbeats and fails requests: that is one problem."""
    take_in(fingerprint="f1", service="cart", signal="heartbeat")
    take_in(fingerprint="f2", service="cart", signal="error_ratio")
    take_in(fingerprint="f3", service="db", signal="heartbeat")
    assert correlate() == ["cart", "db"]
    cart, db = sorted(incidents(store), key=lambda row: row.service)
    assert (cart.subject, cart.known_service, cart.state, cart.due_at) == (
        "service/cart",
        True,
        "detected",
        101,
    )
    assert len(store.read(lambda connection: statements.alerts_of(connection, cart.id))) == 2
    assert len(store.read(lambda connection: statements.alerts_of(connection, db.id))) == 1


def test_a_later_alert_joins_the_open_incident(store: Store, take_in: TakeIn, correlate: Correlate) -> None:
    """The timeline tells of it, and no second incident opens."""
    take_in(fingerprint="f1", service="cart")
    correlate(101.0)
    take_in(fingerprint="f2", service="cart", alertname="ShfLatencyHigh")
    assert correlate(140.0) == []
    (incident,) = incidents(store)
    assert messages(store, incident.id)[-1] == "ShfLatencyHigh joined the incident."


def test_correlating_again_does_nothing(store: Store, take_in: TakeIn, correlate: Correlate) -> None:
    """An alert has its incident once."""
    take_in(service="cart")
    assert [correlate(), correlate()] == [["cart"], []]
    (incident,) = incidents(store)
    assert len(messages(store, incident.id)) == 1


@pytest.mark.parametrize(
    ("labels", "service"), [({"service": "stranger"}, "stranger"), ({}, None), ({"service": ""}, "")]
)
def test_an_unknown_service_is_an_incident_of_its_own_without_a_target(
    store: Store, take_in: TakeIn, correlate: Correlate, labels: dict[str, str], service: str | None
) -> None:
    """It is stored and shown, and its opening is not counted for any service."""
    take_in(**labels)
    assert correlate() == [None]
    (incident,) = incidents(store)
    assert (incident.service, incident.known_service, incident.subject) == (service, False, "alert/f1")


def test_two_strangers_of_one_name_are_two_incidents(
    store: Store, take_in: TakeIn, correlate: Correlate
) -> None:
    """Alerts that name no configured service are not joined by a text of strangers."""
    take_in(fingerprint="f1", service="stranger")
    take_in(fingerprint="f2", service="stranger")
    correlate()
    assert len(incidents(store)) == 2


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("warning", "critical", "critical"),
        ("critical", "warning", "critical"),
        ("none", "info", "info"),
        ("warning", "page-everyone", "warning"),
        ("page-everyone", "none", "warning"),
    ],
)
def test_severity_rises_and_never_falls(
    store: Store, take_in: TakeIn, correlate: Correlate, first: str, second: str, expected: str
) -> None:
    """The worst alert speaks for the incident; a severity that nobody knows is a warning."""
    for fingerprint, severity in (("f1", first), ("f2", second)):
        take_in(fingerprint=fingerprint, service="cart", severity=severity)
        correlate()
    assert incidents(store)[0].severity == expected


def test_an_alert_without_severity_is_a_warning(store: Store, correlate: Correlate) -> None:
    """A missing label has one meaning."""
    alert = Alert("f1", "2026-11-22T07:00:00.000Z", "firing", {}, {})
    store.write(lambda connection: store_alerts(connection, [alert], 100.0))
    correlate()
    (incident,) = incidents(store)
    assert (incident.severity, incident.title) == ("warning", "an alert without a name")


def test_the_title_is_the_summary_else_the_name(store: Store, take_in: TakeIn, correlate: Correlate) -> None:
    """A summary of any size is cut."""
    take_in(fingerprint="f1", summary="cart is silent")
    take_in(fingerprint="f2", alertname="ShfCpuExhausted")
    take_in(fingerprint="f3", summary="x" * 100_000)
    correlate()
    titles = {incident.subject: incident.title for incident in incidents(store)}
    assert titles["alert/f1"] == "cart is silent"
    assert titles["alert/f2"] == "ShfCpuExhausted"
    assert len(titles["alert/f3"]) == timeline.MAX_MESSAGE


def test_an_alert_after_resolution_reopens_the_incident(
    store: Store, take_in: TakeIn, correlate: Correlate
) -> None:
    """It starts over as a relapse, named after what fails now: what was approved or proved before does not
    count any more."""
    take_in(fingerprint="f1", service="cart", severity="warning")
    correlate(101.0)
    (before,) = incidents(store)
    proved = {
        "state": "resolved",
        "outcome": "healed",
        "resolved_at": 150.0,
        "verification": {"since": 120.0},
        "approved_by": "ada",
        "due_at": 450.0,
        "lease_owner": "w",
        "lease_until": 1000.0,
    }
    store.write(lambda connection: statements.annotate(connection, before.id, proved))
    take_in(fingerprint="f2", service="cart", severity="critical", summary="cart fails")
    assert correlate(200.0) == []
    (after,) = incidents(store)
    assert after.title == "cart fails"
    assert (after.id, after.state, after.relapses, after.severity) == (before.id, "diagnosing", 1, "critical")
    assert (after.outcome, after.resolved_at, after.verification, after.approved_by) == (None,) * 4
    assert (after.due_at, after.lease_until) == (200.0, None)
    assert after.epoch > before.epoch
    assert "Re-opened: an alert came back after the incident was resolved." in messages(store, after.id)


def test_joining_does_not_take_the_lease_of_the_step_in_hand(
    store: Store, take_in: TakeIn, correlate: Correlate
) -> None:
    """An alert that joins during an action must not make the action's end unwritable."""
    take_in(fingerprint="f1", service="cart")
    correlate(101.0)
    (claimed,) = store.write(lambda c: statements.claim_due(c, owner="w", now=101.0, lease=60.0, limit=1))
    take_in(fingerprint="f2", service="cart")
    correlate(102.0)
    store.write(lambda c: statements.update_claimed(c, claimed.id, claimed.epoch, {"state": "verifying"}))
    assert incidents(store)[0].state == "verifying"


def test_an_alert_after_closing_opens_a_new_incident(
    store: Store, take_in: TakeIn, correlate: Correlate
) -> None:
    """A closed incident never changes again."""
    take_in(fingerprint="f1", service="cart")
    correlate(101.0)
    closed = {"state": "closed", "closed_at": 150.0, "due_at": None}
    store.write(lambda c: statements.overtake(c, incidents(store)[0].id, closed))
    take_in(fingerprint="f2", service="cart")
    assert correlate(200.0) == ["cart"]
    assert sorted(incident.state for incident in incidents(store)) == ["closed", "detected"]


def test_a_storm_is_taken_in_batches(store: Store, correlate: Correlate, take_in: TakeIn) -> None:
    """More alerts than one batch takes wait for the next one, and none is lost."""
    for number in range(correlation.BATCH + 5):
        take_in(fingerprint=f"f{number}")
    assert [len(correlate()), len(correlate()), len(correlate())] == [correlation.BATCH, 5, 0]


HOSTILE = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.sampled_from(
    [
        "cart\n",
        "cart ",
        "CART",
        "cart'; DROP TABLE incidents; --",
        "service/cart",
        "../cart",
        "\x00",
        "cart\x00",
    ]
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(service=HOSTILE, name=HOSTILE, severity=HOSTILE, summary=HOSTILE, fingerprint=HOSTILE)
def test_hostile_labels_neither_break_nor_choose_a_target(
    store: Store,
    take_in: TakeIn,
    correlate: Correlate,
    service: str,
    name: str,
    severity: str,
    summary: str,
    fingerprint: str,
) -> None:
    """Only the exact name of a configured service is that service."""
    take_in(fingerprint=fingerprint, service=service, alertname=name, severity=severity, summary=summary)
    correlate()
    for incident in incidents(store):
        assert incident.known_service is (incident.service in {"cart", "db"})
        assert (incident.subject == "service/cart") is (incident.service == "cart")


def test_ids_sort_by_time_and_follow_from_what_they_name() -> None:
    """The id begins with the second in UTC; the rest tells apart what opened within it."""
    first = correlation.new_id(1_700_000_000.0, "service/cart")
    assert first.startswith("20231114-221320-")
    assert first < correlation.new_id(1_700_000_001.0, "service/cart")
    assert first == correlation.new_id(1_700_000_000.0, "service/cart")
    assert first != correlation.new_id(1_700_000_000.0, "service/pay")
    assert first != correlation.new_id(1_700_000_000.5, "service/cart")
