"""Heartbeats of jobs that cannot be scraped: stored before the answer, kept across restarts."""

from __future__ import annotations

import re
from contextlib import closing
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, update

from self_healing_fabric.app import create_app
from self_healing_fabric.integration.lifecycle import Fabric
from self_healing_fabric.settings import Settings
from self_healing_fabric.store import Store
from self_healing_fabric.store.schema import heartbeats, leases


def timestamp(client: Any, service: str) -> float | None:
    """The exported time of the last heartbeat."""
    pattern = rf'^shf_heartbeat_timestamp_seconds{{service="{service}"}} (\S+)$'
    found = re.search(pattern, client.get("/metrics").text, re.M)
    return float(found[1]) if found else None


def settings(tmp_path: Path, *names: str) -> Settings:
    """Services that push, and one that does not."""
    services: dict[str, Any] = {name: {"pushes_heartbeats": True} for name in names}
    return Settings(store=f"sqlite:///{tmp_path}/shf.db", services={**services, "web": {}})


def test_heartbeat_is_kept_across_restarts(tmp_path: Path) -> None:
    """The time of the last heartbeat survives, so a restart does not make a silent job look fresh."""
    fabric = Fabric(settings(tmp_path, "nightly"))
    fabric.start()
    client = create_app(fabric).test_client()
    registered = timestamp(client, "nightly")
    assert registered is not None  # expected from the start, so never coming up is noticed
    assert client.post("/api/v1/heartbeats/nightly").status_code == 204
    pushed = timestamp(client, "nightly")
    assert pushed is not None
    assert pushed > registered
    fabric.stop()
    again = Fabric(settings(tmp_path, "nightly"))
    again.start()
    assert timestamp(create_app(again).test_client(), "nightly") == pushed
    again.stop()


def test_a_fabric_that_was_away_does_not_make_a_live_job_look_silent(tmp_path: Path) -> None:
    """A minute in which nobody could hear the job says nothing about it; what came before still counts."""
    fabric = Fabric(settings(tmp_path, "batch"))
    fabric.start()
    assert create_app(fabric).test_client().post("/api/v1/heartbeats/batch").status_code == 204
    before = fabric.context.clock() - 20  # as if it had been silent for 20 s when the fabric went away

    def a_minute_passes(connection: Connection) -> None:
        connection.execute(update(heartbeats).values(at=before - 60))
        connection.execute(update(leases).values(until=leases.c.until - 60))

    fabric.stop()
    with closing(Store(f"sqlite:///{tmp_path}/shf.db")) as store:
        store.write(a_minute_passes)
    again = Fabric(settings(tmp_path, "batch"))
    again.start()
    heard = timestamp(create_app(again).test_client(), "batch")
    again.stop()
    assert heard is not None
    assert before - 5 < heard < again.started_at - 15


def test_only_registered_services_push(tmp_path: Path) -> None:
    """A typo, or a service that is not configured for it, is refused and exports nothing."""
    fabric = Fabric(settings(tmp_path, "nightly"))
    fabric.start()
    client = create_app(fabric).test_client()
    assert client.post("/api/v1/heartbeats/nigthly").status_code == 404
    assert client.post("/api/v1/heartbeats/web").status_code == 404
    assert timestamp(client, "web") is None
    assert timestamp(client, "nigthly") is None
    fabric.stop()


def test_removed_service_is_no_longer_expected(tmp_path: Path) -> None:
    """A service that left the configuration must not alert for ever."""
    fabric = Fabric(settings(tmp_path, "nightly", "hourly"))
    fabric.start()
    fabric.stop()
    again = Fabric(settings(tmp_path, "hourly"))
    again.start()
    client = create_app(again).test_client()
    assert timestamp(client, "nightly") is None
    assert timestamp(client, "hourly") is not None
    again.stop()


def test_a_replica_that_does_not_expect_a_service_forgets_it_for_nobody(postgresql_url: str) -> None:
    """Two configurations beside each other, as while one is rolled out: a job that pushes stays heard."""
    nightly = {"nightly": {"pushes_heartbeats": True}}
    known, unknown = (Fabric(Settings(store=postgresql_url, services=each)) for each in (nightly, {}))
    of_known, of_unknown = (create_app(each).test_client() for each in (known, unknown))
    known.start()
    assert of_known.post("/api/v1/heartbeats/nightly").status_code == 204
    pushed = timestamp(of_known, "nightly")
    unknown.start()
    assert (timestamp(of_known, "nightly"), timestamp(of_unknown, "nightly")) == (pushed, None)
    for client in (of_known, of_unknown):  # whichever the job reaches
        assert client.post("/api/v1/heartbeats/nightly").status_code == 204
    known.stop()
    unknown.stop()
