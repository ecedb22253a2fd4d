"""A real store in a temporary folder, and alerts as a notification brings them."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from self_healing_fabric.incidents import correlation
from self_healing_fabric.incidents.ingestion import store_alerts
from self_healing_fabric.incidents.models import Alert
from self_healing_fabric.incidents.topology import Topology
from self_healing_fabric.store import Store

STARTED = "2026-11-22T07:00:00.000Z"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An open store."""
    store = Store(f"sqlite:///{tmp_path / 'shf.db'}")
    yield store
    store.close()


@pytest.fixture
def take_in(store: Store) -> Callable[..., None]:
    """Take one alert in as a notification would."""

    def take_in(
        status: str = "firing",
        *,
        fingerprint: str = "f1",
        starts_at: str = STARTED,
        now: float = 100.0,
        summary: str | None = None,
        **labels: str,
    ) -> None:
        named = {"alertname": "ShfHeartbeatMissed", "severity": "critical", **labels}
        annotations = {} if summary is None else {"summary": summary}
        alert = Alert(fingerprint, starts_at, status, named, annotations)
        store.write(lambda connection: store_alerts(connection, [alert], now))

    return take_in


@pytest.fixture
def correlate(store: Store) -> Callable[..., list[str | None]]:
    """Give every new firing alert its incident; return the services of those that were opened.

    Configured are `cart` and `db`, which have nothing to do with each other.
    """
    unrelated = Topology({}, {"cart", "db"})

    def correlate(now: float = 101.0) -> list[str | None]:
        return list(store.write(lambda c: correlation.open_incidents(c, unrelated, 300.0, now)).services)

    return correlate
