"""What the fabric is doing, for people: GET /api/v1/status and `shf status`.

One snapshot of the store, a try whether it stores something, and what the loops and the real calls have left
in memory; nothing is asked of anybody else here. Everything that was seen earlier carries its age, because an
old answer looks like a good one.
`healthy` says whether the fabric does its work, not whether the services do theirs.
"""

from __future__ import annotations

import platform
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from self_healing_fabric import __version__, servers_asked
from self_healing_fabric.errors import StoreUnavailable
from self_healing_fabric.guardrails import mode
from self_healing_fabric.integration.lifecycle import Fabric
from self_healing_fabric.orchestration.leases import LEADER
from self_healing_fabric.servers_asked import Asked
from self_healing_fabric.settings import Mode, Settings
from self_healing_fabric.store import report_statements, statements
from self_healing_fabric.store.schema import VERSION as SCHEMA_VERSION

MISSED_TURNS = 3  # reconciliations that may fail in a row before the fabric counts as not reconciling
LEAST_PATIENCE = 30.0  # seconds
_USERINFO = re.compile(r"://[^/@\s]+@")
LOOP_PATIENCE = 60.0  # seconds in which the loop must have got through; a busy store is slow


@dataclass(frozen=True)
class _Stored:
    """What the store says, from one snapshot."""

    incidents: Counter[str]
    waiting: int
    failed: int
    mode: Mode
    leases: tuple[statements.AnyRow, ...]
    working: dict[str, int]


def status(fabric: Fabric) -> dict[str, Any]:
    """The answer of GET /api/v1/status. Raises StoreUnavailable."""
    stored, now = fabric.store.read(lambda connection: _read(connection, fabric)), _now(fabric)
    problems, versions = list(_problems(fabric, stored, now)), fabric.orchestrator.reconciliation.versions
    return {
        "healthy": not problems,
        "problems": problems,
        "version": __version__,
        "versions": {"fabric": __version__, "schema": SCHEMA_VERSION, "python": platform.python_version()},
        "mode": stored.mode.value,
        "leader": fabric.context.leases.leader,
        "orchestrator": "running" if fabric.orchestrator.alive() else "stopped",
        "draining": fabric.draining,
        "incidents": dict(stored.incidents),
        "inbox": {"waiting": stored.waiting, "failed": stored.failed},
        "loop": _loop(fabric, now),
        "reconciled": _age(fabric.orchestrator.reconciliation.compared_at, now),
        "servers": [_server(each, now, versions.version(each.kind)) for each in _servers(fabric.settings)],
        "guardians": _health_of(fabric, "guardian", now),
        "guards": _health_of(fabric, "guard", now),
        "replicas": list(_replicas(fabric, stored, now)),
        "services": len(fabric.settings.services),
        "calibration": fabric.context.calibrator.calibration(now).as_dict(),
    }


def _now(fabric: Fabric) -> float:
    return fabric.context.clock()


def _read(connection: Connection, fabric: Fabric) -> _Stored:
    incidents: Counter[str] = Counter()
    for row in statements.count_incidents(connection):
        incidents[row.state] += row.number
    waiting, failed = statements.count_inbox(connection)
    return _Stored(
        incidents,
        waiting,
        failed,
        mode.current(connection, fabric.settings, fabric.context.unstored_pauses),
        tuple(report_statements.all_leases(connection)),
        dict(report_statements.incidents_by_owner(connection)),
    )


def _problems(fabric: Fabric, stored: _Stored, now: float) -> Iterator[str]:
    """Why the fabric does not do its work, each as a sentence."""
    if fabric.draining:
        yield "it is shutting down"
    try:
        fabric.store.write(statements.try_inbox)
    except StoreUnavailable as error:  # what only reads may go well all the while
        yield f"it takes no notifications: {error}"
    if not fabric.orchestrator.alive():
        yield "the orchestrator does not run: restart the fabric"
        return
    if fabric.context.unstored_pauses:
        yield "a pause could not be stored yet: a restart or another replica does not know of it"
    last = fabric.orchestrator.last_look
    if now - (last[0] if last else fabric.started_at) > LOOP_PATIENCE:
        yield f"the loop has not got through for more than {LOOP_PATIENCE:g} s"
    if fabric.context.leases.leader:
        patience = max(LEAST_PATIENCE, MISSED_TURNS * fabric.settings.reconcile_interval)
        compared = fabric.orchestrator.reconciliation.compared_at or fabric.started_at
        if now - compared > patience:
            yield f"it has not compared itself with the servers for more than {patience:g} s"
    elif not any(row.name == LEADER and row.until > now for row in stored.leases):
        yield "no replica compares itself with the servers"


def _loop(fabric: Fabric, now: float) -> dict[str, float | None]:
    last = fabric.orchestrator.last_look
    return (
        {"age_seconds": None, "seconds": None}
        if last is None
        else {
            "age_seconds": round(max(0.0, now - last[0]), 3),
            "seconds": round(last[1], 4),
        }
    )


def _age(at: float | None, now: float) -> dict[str, float | None]:
    return {"age_seconds": None if at is None else round(max(0.0, now - at), 3)}


def _servers(settings: Settings) -> Iterator[Asked]:
    """Those that the configuration names, asked or not; of Kubernetes those that were asked."""
    named = [("prometheus", settings.prometheus.url)]
    if settings.alertmanager is not None:
        named.append(("alertmanager", settings.alertmanager.url))
    services = settings.services.values()
    named += [("docker", each.recovery.docker.host) for each in services if each.recovery.docker]
    for kind, url in dict.fromkeys(named):
        yield from servers_asked.known(kind, url) or [Asked(kind, url)]
    if any(each.recovery.kubernetes for each in services):
        yield from servers_asked.known("kubernetes") or [Asked("kubernetes", "")]


def _server(asked: Asked, now: float, version: str | None = None) -> dict[str, Any]:
    return {
        "kind": asked.kind,
        "url": _public(asked.url),
        "version": version,
        "answers": asked.answers,
        "latency_seconds": None if asked.latency is None else round(asked.latency, 4),
        "answered": _age(asked.answered_at, now),
        "error": _public(asked.error or "") if asked.answers is False else None,
    }


def _public(text: str) -> str:
    """Without the user and the password that a URL may hold, also one that an error quotes."""
    return _USERINFO.sub("://", text)


def _health_of(fabric: Fabric, kind: str, now: float) -> dict[str, Any]:
    """The share of the targets that answer, by name; None for one that Prometheus does not know."""
    watch = fabric.orchestrator.reconciliation.health
    named, seen = [name for name, each in watch.watched.items() if each == kind], watch.seen
    return {
        **_age(None if seen is None else seen.at, now),
        "answering": {name: None if seen is None else seen.answering.get(name) for name in named},
    }


def _replicas(fabric: Fabric, stored: _Stored, now: float) -> Iterator[dict[str, Any]]:
    """Those that hold a lease on something now, and this one."""
    ours = fabric.context.leases.owner
    leader = next((row.owner for row in stored.leases if row.name == LEADER and row.until > now), None)
    if not fabric.store.shared:
        leader = ours
    for owner in sorted({ours, *stored.working, *([leader] if leader else [])}):
        yield {
            "name": owner,
            "this": owner == ours,
            "leader": owner == leader,
            "incidents": stored.working.get(owner, 0),
        }
