"""A real store with one incident, and past actions in it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from self_healing_fabric.store import Store, statements

TARGET = "docker:cart"


@pytest.fixture
def url(tmp_path: Path) -> str:
    """The URL of the store."""
    return f"sqlite:///{tmp_path / 'shf.db'}"


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    """An open store with the incident `i1`."""
    store = Store(url)
    incident = {
        "id": "i1",
        "subject": "service/cart",
        "service": "cart",
        "known_service": True,
        "title": "t",
        "severity": "critical",
        "state": "recovering",
        "opened_at": 1.0,
        "updated_at": 1.0,
        "plan": [],
    }
    store.write(lambda connection: statements.insert_incidents(connection, [incident]))
    yield store
    store.close()


@pytest.fixture
def acted(store: Store) -> Callable[..., None]:
    """An action that was announced at the given time."""

    def acted(at: float, **columns: Any) -> None:
        action = {
            "id": f"a{at}-{len(columns)}",
            "incident_id": "i1",
            "strategy": "restart",
            "platform": "docker",
            "target": TARGET,
            "disruptive": True,
            "attempt": 1,
            "status": "succeeded",
            "before": {},
            "intended_at": at,
            "started_at": at,
            **columns,
        }
        store.write(lambda connection: statements.insert_action(connection, action))

    return acted
