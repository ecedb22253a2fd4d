"""The fabric inside a program without an event loop, which decides itself when a service is healed.

    python examples/embedded/thread_program.py

starts the demo's servers, breaks a guard for real, and answers "not yet" to the first few questions whether
it may be called healed. Then it prints what happened as JSON. It takes about a minute.
"""

from __future__ import annotations

import json
import tempfile
import threading
from pathlib import Path
from typing import Any

from servers import Servers

from self_healing_fabric import HealingIntegration
from self_healing_fabric.integration.collaborators import Incidents, LocalBus, LocalRegistry
from self_healing_fabric.orchestration.validation import ClaimedHealing

PATIENCE = 180.0  # seconds
DOUBTS = 3  # times that the acceptance test says "not yet"


class AcceptanceTest:
    """The validation gate: samples inside their limits are not all that this program asks of a service."""

    def __init__(self, state: Incidents) -> None:
        self.asked = 0
        self.states: list[str] = []
        self._state = state

    def confirms(self, healing: ClaimedHealing) -> bool:
        """Called in a thread of the fabric's; only True lets the incident be called healed."""
        self.asked += 1
        self.states.append(self._state.story(healing.incident)["state"])
        return self.asked > DOUBTS


def program(servers: Servers) -> dict[str, Any]:
    """Embed, break, wait, report."""
    registry, bus, state = LocalRegistry(), LocalBus(), Incidents()
    gate, resolved = AcceptanceTest(state), threading.Event()
    bus.subscribe(lambda _: resolved.set(), types=["io.github.self-healing-fabric.incident.resolved"])
    for name, service in servers.modules.items():
        registry.add(name, service)
    integration = HealingIntegration(
        module_registry=registry,
        event_bus=bus,
        system_state=state,
        validation_gate=gate,
        settings=servers.configuration,
    )
    integration.start()
    try:
        servers.wait_services_up()
        servers.inject("tokenguard", "hang")
        if not resolved.wait(PATIENCE):
            raise SystemExit("tokenguard was not healed in time")
        return {
            "restarts": servers.restarts("tokenguard"),
            "healthy": servers.is_healthy("tokenguard"),
            "asked": gate.asked,
            "states when asked": sorted(set(gate.states)),
        }
    finally:
        integration.stop()


def main() -> None:
    """Start the servers; the program runs in a thread that is not the main one."""
    with tempfile.TemporaryDirectory() as folder, Servers(Path(folder)) as servers:
        told: list[dict[str, Any]] = []
        thread = threading.Thread(target=lambda: told.append(program(servers)))
        thread.start()
        thread.join()
        print(json.dumps(told[0], indent=2))


if __name__ == "__main__":
    main()
