"""A real store in a temporary folder, and a way to open incidents and actions in it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from self_healing_fabric.store import Store, statements


@pytest.fixture
def url(tmp_path: Path) -> str:
    """The URL of a database that does not exist yet."""
    return f"sqlite:///{tmp_path / 'shf.db'}"


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    """An open store."""
    store = Store(url)
    yield store
    store.close()


@pytest.fixture
def open_incident(store: Store) -> Callable[..., str]:
    """Open an incident with the given columns; returns its id."""

    def insert(incident_id: str = "i1", **columns: Any) -> str:
        values = {
            "id": incident_id,
            "subject": f"service/{incident_id}",
            "service": "cart",
            "known_service": True,
            "title": "t",
            "severity": "critical",
            "state": "detected",
            "opened_at": 100.0,
            "updated_at": 100.0,
            "due_at": 100.0,
            "plan": [],
            **columns,
        }
        store.write(lambda connection: statements.insert_incident(connection, values))
        return incident_id

    return insert


@pytest.fixture
def announce(store: Store, open_incident: Callable[..., str]) -> Callable[..., str]:
    """Announce an action of the incident `i1` with the given columns; returns its id."""
    open_incident("i1")

    def insert(action_id: str, **columns: Any) -> str:
        values = {
            "id": action_id,
            "incident_id": "i1",
            "strategy": "restart",
            "platform": "http",
            "target": "http:cart",
            "disruptive": True,
            "attempt": 1,
            "status": "intended",
            "before": {},
            "intended_at": 100.0,
            "started_at": None,
            **columns,
        }
        store.write(lambda connection: statements.insert_action(connection, values))
        return action_id

    return insert
