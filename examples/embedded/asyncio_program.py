"""The fabric inside an asyncio program that lets it restart one service and forbids it to touch another.

    python examples/embedded/asyncio_program.py

starts the demo's servers, breaks two guards for real, waits until the fabric has dealt with both, and prints
what became of them as JSON. It takes about a minute.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from pathlib import Path
from typing import Any

from servers import Servers

from self_healing_fabric import HealingIntegration
from self_healing_fabric.guardrails import Proposal

MAY_BE_TOUCHED = {"tokenguard"}
PATIENCE = 180.0  # seconds


class Modules:
    """What this program consists of: the registry is asked once, when the integration is registered."""

    def __init__(self, servers: Servers) -> None:
        self._servers = servers

    def services(self) -> dict[str, dict[str, Any]]:
        """As in the section `services` of a configuration file."""
        return {name: each for name, each in self._servers.modules.items() if each["kind"] != "guardian"}


class Policy:
    """The boundary enforcer. It may be a coroutine: it runs on this program's own loop."""

    async def allows(self, proposal: Proposal) -> bool:
        """Nothing happens to a service without this being True."""
        return proposal.service in MAY_BE_TOUCHED


class Bus:
    """The event bus: remembers what happened, and wakes who waits for it."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []
        self.news = asyncio.Event()

    async def publish(self, event: Any) -> None:
        """A CloudEvent 1.0, as a JSON object."""
        self.seen.append((event["data"]["service"], event["type"].rpartition("-fabric.")[2]))
        self.news.set()

    async def wait_for(self, service: str, what: str) -> None:
        """Until that has happened to the service."""
        while (service, what) not in self.seen:
            self.news.clear()
            await self.news.wait()


async def program(servers: Servers) -> dict[str, Any]:
    """Embed, break, wait, report."""
    bus = Bus()
    guardians = {name: each["health"] for name, each in servers.modules.items() if each["kind"] == "guardian"}
    integration = HealingIntegration(
        module_registry=Modules(servers),
        event_bus=bus,
        boundary_enforcer=Policy(),
        guardian_health_endpoints=guardians,
        settings=servers.configuration,
    )
    integration.register()
    await integration.activate()
    try:
        await asyncio.to_thread(servers.wait_services_up)
        for service in ("tokenguard", "trustguard"):
            await asyncio.to_thread(servers.inject, service, "hang")
        async with asyncio.timeout(PATIENCE):
            await bus.wait_for("tokenguard", "incident.resolved")
            await bus.wait_for("trustguard", "incident.escalated")
        return {
            "restarts": {name: servers.restarts(name) for name in ("tokenguard", "trustguard")},
            "healthy": {name: servers.is_healthy(name) for name in ("tokenguard", "trustguard")},
            "events": {
                name: [what for service, what in bus.seen if service == name]
                for name in ("tokenguard", "trustguard")
            },
            "status": integration.get_status(),
        }
    finally:
        await integration.deactivate()


def main() -> None:
    """Start the servers, run the program on them."""
    with tempfile.TemporaryDirectory() as folder, Servers(Path(folder)) as servers:
        print(json.dumps(asyncio.run(program(servers)), indent=2))


if __name__ == "__main__":
    main()
