"""A fabric that is advanced step by step from the moment before an effect; Prometheus is not on trial."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

from self_healing_fabric.incidents.lifecycle import State
from self_healing_fabric.integration.lifecycle import Fabric
from self_healing_fabric.orchestration.context import Context
from self_healing_fabric.orchestration.healing_orchestrator import HealingOrchestrator
from self_healing_fabric.orchestration.leases import Leases
from self_healing_fabric.recovery.verification import Health, Look, Verifier
from self_healing_fabric.settings import Settings
from self_healing_fabric.store import statements

INCIDENT = "20260101-000000-abcdef"


class StillFailing:
    """Stands in for the verifier: the service fails, as far as known."""

    def health(self, *_: object) -> tuple[Health, tuple[()]]:
        """Outside its limits."""
        return Health.FAILING, ()

    def condition(self, *_: object) -> dict[str, float]:
        """Nothing to compare with."""
        return {}

    def start_time(self, *_: object) -> None:
        """Does not export its start time."""


class Watching(StillFailing):
    """After an action it goes on looking."""

    def look(self, *_: object, **__: object) -> Look:
        """No verdict yet."""
        return Look(None, "", ())


@contextmanager
def fabric_on(values: Mapping[str, Any], *, later: float = 0.0) -> Iterator[Context]:
    """A fabric with these settings, whose clock is `later` seconds ahead."""
    fabric = Fabric(Settings.model_validate(values))

    def clock() -> float:
        return time.time() + later

    try:
        verifier = cast(Verifier, StillFailing())
        yield replace(fabric.context, verifier=verifier, clock=clock, leases=Leases(fabric.store, clock))
    finally:
        fabric.stop()


def open_incident(context: Context, strategy: str, *, service: str, incident_id: str = INCIDENT) -> None:
    """One that is diagnosed and about to try the strategy."""
    now = time.time()
    values = {
        "id": incident_id, "subject": f"service/{service}", "service": service, "known_service": True,
        "title": "down", "severity": "critical", "state": State.RECOVERING.value, "plan": [strategy],
        "opened_at": now, "updated_at": now, "due_at": now,
    }  # fmt: skip
    context.store.write(lambda connection: statements.insert_incidents(connection, [values]))


def step(context: Context) -> None:
    """Claim the incident and advance it by one step, as the loop does."""
    orchestrator = HealingOrchestrator(context)
    try:
        (incident,) = orchestrator.claim(1)
        orchestrator.advance(incident)
    finally:
        orchestrator.stop()


def release(context: Context) -> None:
    """What a fabric does at its start: the process that held the leases is dead."""
    context.store.write(statements.release_all_leases)
