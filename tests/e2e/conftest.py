"""One stack of real servers for the end-to-end tests: a few services, Prometheus, Alertmanager, the fabric.

The demo's own stack is used, so what the tests prove is what `make demo` shows. Without the servers the tests
are skipped, loudly; on CI that is a failure.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from shf_demo.errors import DemoError
from shf_demo.fleet import FLEET
from shf_demo.servers import Programs, find_programs
from shf_demo.stack import Stack

SERVICES = ("guardian-one", "guardian-two", "guardian-four", "tokenguard", "trustguard", "flowguard")
HEALED_WITHIN = 90.0  # seconds; a deadline for busy machines, not a measurement


class Fabric:
    """The running fabric as a user sees it: over HTTP."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.http = httpx.Client(base_url=stack.fabric_url, timeout=10, trust_env=False)

    def incidents(self, service: str) -> list[dict[str, Any]]:
        """All incidents of a service, newest first."""
        answer = self.http.get("/api/v1/incidents", params={"service": service})
        return list(answer.raise_for_status().json()["incidents"])

    def story(self, incident_id: str) -> dict[str, Any]:
        """One incident with everything."""
        return dict(self.http.get(f"/api/v1/incidents/{incident_id}").raise_for_status().json())

    def wait_resolved(self, service: str, number: int = 1) -> dict[str, Any]:
        """Wait until the service's `number` incidents are resolved; return the story of the newest."""

        def resolved() -> bool:
            try:
                rows = self.incidents(service)
            except httpx.HTTPError:
                return False  # the fabric may just be starting again
            return len(rows) >= number and all(row["state"] in ("resolved", "closed") for row in rows)

        self.stack.wait_for(f"{service} resolved", resolved, HEALED_WITHIN)
        return self.story(self.incidents(service)[0]["id"])


@pytest.fixture(scope="session")
def programs() -> Programs:
    """Where the servers are."""
    try:
        return find_programs()
    except DemoError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"NOT TESTED END TO END: {error}")


@pytest.fixture(scope="package")
def stack(programs: Programs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The servers, up, with every service answering."""
    workdir: Path = tmp_path_factory.mktemp("stack")
    services = [service for service in FLEET if service.name in SERVICES]
    with Stack(workdir, services=services) as running:
        running.wait_services_up()
        yield running


@pytest.fixture
def fabric(stack: Stack) -> Iterator[Fabric]:
    """The stack's fabric."""
    client = Fabric(stack)
    yield client
    client.http.close()
