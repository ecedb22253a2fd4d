"""A real store, on SQLite and on PostgreSQL in turn, and a way to open incidents and actions in it.

What holds for one database only stands in a module that says so by its own fixture `url`.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from self_healing_fabric.store import Store, statements


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a store that nobody has used yet."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'shf.db'}"
    return str(request.getfixturevalue("postgresql_url"))


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    """An open store."""
    store = Store(url)
    yield store
    store.close()


@pytest.fixture
def shell(store: Store, url: str) -> Iterator[Callable[[str], Any]]:
    """Run a statement as somebody with sqlite3 or psql does, and return its rows."""
    engine = create_engine(url)

    def run(statement: str) -> Any:
        with engine.begin() as connection:
            answer = connection.execute(text(statement))
            return [tuple(row) for row in answer] if answer.returns_rows else None

    yield run
    engine.dispose()


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
        store.write(lambda connection: statements.insert_incidents(connection, [values]))
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
