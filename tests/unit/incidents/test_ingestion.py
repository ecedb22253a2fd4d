"""Ingestion: whatever Alertmanager repeats, reorders or doubles, an alert is stored once and ends once."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import AwareDatetime, TypeAdapter

from self_healing_fabric.incidents.ingestion import identity_time
from self_healing_fabric.store import Store

TakeIn = Callable[..., None]
TIME = TypeAdapter(AwareDatetime)


def stored(store: Store) -> list[tuple[Any, ...]]:
    """Fingerprint, status, reception and end of every stored alert."""
    query = "SELECT fingerprint, status, received_at, ended_at FROM alerts ORDER BY id"
    return [tuple(row) for row in store.read(lambda c: c.exec_driver_sql(query).all())]


def test_a_repeated_notification_changes_nothing(store: Store, take_in: TakeIn) -> None:
    """Retries, repeats and the other peer of a pair leave the first reception as it was."""
    for now in (100.0, 115.0, 14500.0):
        take_in(now=now)
    assert stored(store) == [("f1", "firing", 100.0, None)]


def test_an_end_is_stored_with_its_time(store: Store, take_in: TakeIn) -> None:
    """`resolved` ends the alert; hearing it again does not move the end."""
    take_in(now=100.0)
    take_in("resolved", now=160.0)
    take_in("resolved", now=175.0)
    assert stored(store) == [("f1", "resolved", 100.0, 160.0)]


def test_a_stale_firing_does_not_revive_an_ended_alert(store: Store, take_in: TakeIn) -> None:
    """The slower peer of a pair sends `firing` 15 s after the faster one sent `resolved`."""
    take_in(now=100.0)
    take_in("resolved", now=160.0)
    take_in(now=175.0)
    assert stored(store) == [("f1", "resolved", 100.0, 160.0)]


def test_an_end_that_arrives_before_its_beginning_stays_an_end(
    store: Store, take_in: TakeIn, correlate: Callable[..., list[str | None]]
) -> None:
    """An alert that is over when we first hear of it opens no incident, also when `firing` follows."""
    take_in("resolved", service="cart", now=100.0)
    take_in(service="cart", now=115.0)
    assert stored(store) == [("f1", "resolved", 100.0, 100.0)]
    assert correlate() == []


def test_a_new_start_is_a_new_alert(store: Store, take_in: TakeIn) -> None:
    """The same labels that fire again later are another instance."""
    take_in("resolved", now=100.0)
    take_in(starts_at="2026-11-22T08:00:00.000Z", now=3700.0)
    assert [row[1] for row in stored(store)] == ["resolved", "firing"]


@pytest.mark.parametrize(
    ("webhook", "listed"),
    [
        ("2026-11-22T07:31:33.778033912Z", "2026-11-22T07:31:33.778Z"),
        ("2026-11-22T07:31:33.778999999Z", "2026-11-22T07:31:33.778Z"),
        ("2026-11-22T07:31:33.999999999Z", "2026-11-22T07:31:33.999Z"),
        ("2026-11-22T07:31:33.18Z", "2026-11-22T07:31:33.180Z"),
        ("2026-11-22T07:31:33Z", "2026-11-22T07:31:33.000Z"),
        ("2026-11-22T08:31:33.778033+01:00", "2026-11-22T07:31:33.778Z"),
    ],
)
def test_both_of_alertmanagers_times_are_one_identity(webhook: str, listed: str) -> None:
    """The webhook's nanoseconds are cut, not rounded, to the milliseconds of its API v2."""
    assert identity_time(TIME.validate_python(webhook)) == listed
    assert identity_time(TIME.validate_python(listed)) == listed


@given(st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1)), st.integers(-720, 720))  # noqa: DTZ001
def test_the_identity_does_not_depend_on_the_zone(moment: datetime, minutes: int) -> None:
    """One moment has one identity, wherever its text was written."""
    utc = moment.replace(tzinfo=UTC)
    assert identity_time(utc) == identity_time(utc.astimezone(timezone(timedelta(minutes=minutes))))
