"""The tables: what must never happen is refused by the database itself."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from self_healing_fabric.errors import StoreUnavailable
from self_healing_fabric.incidents import timeline
from self_healing_fabric.incidents.timeline import Entry, Kind
from self_healing_fabric.store import Store, statements


@pytest.fixture
def told(store: Store, open_incident: Callable[..., str]) -> Store:
    """A store with one entry in one timeline."""
    open_incident("i1")
    store.write(lambda c: timeline.append(c, "i1", [Entry(Kind.NOTE, "it happened")], 1.0))
    return store


CHANGES = [
    "UPDATE timeline SET message = 'it did not'",
    "DELETE FROM timeline",
    "DELETE FROM timeline WHERE id = 1",
]
CHANGES_OF = {
    # REPLACE deletes the old row without asking the DELETE trigger.
    "sqlite": [
        "REPLACE INTO timeline SELECT id, incident_id, at, kind, 'it did not', data, hash FROM timeline"
    ],
    "postgresql": [
        "INSERT INTO timeline SELECT id, incident_id, at, kind, 'it did not', data, hash FROM timeline "
        "ON CONFLICT (id) DO UPDATE SET message = excluded.message",
        "TRUNCATE timeline",
        "TRUNCATE incidents CASCADE",
    ],
}


def changes(url: str) -> list[str]:
    """Every way to change a timeline that the database knows."""
    return [*CHANGES, *CHANGES_OF[url.partition(":")[0].partition("+")[0]]]


def test_the_timeline_refuses_to_be_changed_by_us(told: Store, url: str) -> None:
    """Each way fails through our own connection and changes nothing."""
    for statement in changes(url):
        with pytest.raises(StoreUnavailable, match="the timeline is append-only"):
            told.write(lambda connection, s=statement: connection.execute(text(s)) and None)
        (row,) = told.read(lambda connection: statements.timeline_of(connection, "i1"))
        assert row.message == "it happened"


def test_the_timeline_refuses_to_be_changed_by_a_shell(
    told: Store, url: str, shell: Callable[[str], Any]
) -> None:
    """The refusal is in the database, not in our code."""
    for statement in changes(url):
        with pytest.raises(DBAPIError, match="the timeline is append-only"):
            shell(statement)
        assert shell("SELECT message FROM timeline") == [("it happened",)]


def test_one_subject_has_one_open_incident(store: Store, open_incident: Callable[..., str]) -> None:
    """A second open incident of a subject is refused; after the first is closed it is allowed."""
    open_incident("i1", subject="service/cart")
    with pytest.raises(StoreUnavailable, match=r"(?i)unique"):
        open_incident("i2", subject="service/cart")
    store.write(lambda connection: statements.overtake(connection, "i1", {"closed_at": 5.0}))
    assert open_incident("i3", subject="service/cart") == "i3"


def test_an_action_belongs_to_an_incident(store: Store) -> None:
    """An action of an incident that does not exist is refused."""
    action = {
        "id": "a1",
        "incident_id": "nobody",
        "strategy": "restart",
        "platform": "http",
        "target": "t",
        "disruptive": True,
        "attempt": 1,
        "status": "intended",
        "before": {},
        "intended_at": 1.0,
    }
    with pytest.raises(StoreUnavailable, match=r"(?i)foreign key"):
        store.write(lambda connection: statements.insert_action(connection, action))
