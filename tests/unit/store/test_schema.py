"""The tables: what must never happen is refused by the database itself."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import text

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
    # REPLACE deletes the old row without asking the DELETE trigger.
    "REPLACE INTO timeline SELECT id, incident_id, at, kind, 'it did not', data FROM timeline",
]


@pytest.mark.parametrize("statement", CHANGES)
def test_the_timeline_refuses_to_be_changed_by_us(told: Store, statement: str) -> None:
    """An UPDATE or DELETE through our own connection fails and changes nothing."""
    with pytest.raises(StoreUnavailable, match="the timeline is append-only"):
        told.write(lambda connection: connection.execute(text(statement)) and None)
    (row,) = told.read(lambda connection: statements.timeline_of(connection, "i1"))
    assert row.message == "it happened"


@pytest.mark.parametrize("statement", CHANGES)
def test_the_timeline_refuses_to_be_changed_by_a_shell(told: Store, tmp_path: Path, statement: str) -> None:
    """The refusal is in the file, not in our code."""
    with closing(sqlite3.connect(tmp_path / "shf.db")) as shell:
        with pytest.raises(sqlite3.IntegrityError, match="the timeline is append-only"):
            shell.execute(statement)
        assert shell.execute("SELECT message FROM timeline").fetchall() == [("it happened",)]


def test_one_subject_has_one_open_incident(store: Store, open_incident: Callable[..., str]) -> None:
    """A second open incident of a subject is refused; after the first is closed it is allowed."""
    open_incident("i1", subject="service/cart")
    with pytest.raises(StoreUnavailable, match="UNIQUE"):
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
    with pytest.raises(StoreUnavailable, match="FOREIGN KEY"):
        store.write(lambda connection: statements.insert_action(connection, action))
