"""What the guardrails allow and what is left of it, read from the store at the moment of asking.

Left is how many further actions a guardrail would allow now: for a cooldown or a mode one or none. Those of
the whole fleet have the service `*`. Those that ask Prometheus (`deploying`, `min_healthy`) have no series:
what they would say is known only when they are asked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sqlalchemy import Connection

from self_healing_fabric.guardrails import fleet, mode
from self_healing_fabric.settings import UNDO, Limits, Mode, Settings
from self_healing_fabric.store import statements

FLEET = "*"


@dataclass(frozen=True)
class State:
    """One guardrail of one service, or of all."""

    service: str
    guardrail: str
    limit: float
    remaining: float


def states(
    connection: Connection,
    settings: Settings,
    unstored: mode.UnstoredPauses,
    targets: Mapping[str, str],
    limits: Mapping[str, Limits],
    now: float,
) -> Iterator[State]:
    """All of them. `targets` names what is acted on for each service that has one, `limits` its bounds."""
    paused = mode.current(connection, settings, unstored) is Mode.PAUSED
    yield State(FLEET, "mode", 1, 0 if paused else 1)
    yield from _fleet(connection, settings, now)
    longest = max((max(each.per, each.cooldown, each.heals_within) for each in limits.values()), default=0.0)
    rows = statements.disruptive_actions_since(connection, now - longest)
    running = {row.target for row in rows if row.status in statements.UNFINISHED}
    by_target: dict[str, list[statements.AnyRow]] = {}
    for row in rows:
        by_target.setdefault(row.target, []).append(row)
    for service, target in targets.items():
        own, limit = by_target.get(target, []), limits[service]
        used = sum(row.intended_at >= now - limit.per or row.target in running for row in own)
        healed = sum(
            row.verdict == "healed" and row.strategy != UNDO and row.intended_at >= now - limit.heals_within
            for row in own
        )
        cooling = any(row.intended_at > now - limit.cooldown for row in own) and limit.cooldown > 0
        yield State(service, "one_at_a_time", 1, 0 if target in running else 1)
        yield State(service, "max_actions", limit.max_actions, max(0, limit.max_actions - used))
        yield State(service, "max_heals", limit.max_heals, max(0, limit.max_heals - healed))
        yield State(service, "cooldown", 1, 0 if cooling else 1)
        yield State(service, "max_failures", limit.max_failures, _left_to_fail(own, limit.max_failures))


def _fleet(connection: Connection, settings: Settings, now: float) -> Iterator[State]:
    bounds = settings.guardrails.fleet
    at_once = fleet.at_once(settings)
    running = len(statements.running_actions(connection))
    yield State(FLEET, "fleet_at_once", at_once, max(0, at_once - running))
    most = fleet.limit_of(bounds.targets, settings)
    used, _ = statements.count_targets_acted_on(connection, now - bounds.within)
    yield State(FLEET, "fleet_targets", most, max(0, most - used))
    calm = fleet.limit_of(bounds.storm, settings)
    yield State(FLEET, "storm", calm, max(0, calm - statements.count_failing_services(connection)))


def _left_to_fail(own: list[statements.AnyRow], limit: int) -> int:
    """What is left to the strategy that has failed most often in a row."""
    failed: Counter[str] = Counter()
    ended: set[str] = set()
    for row in own:  # newest first
        if row.verdict == "healed":
            ended.add(row.strategy)
        elif row.verdict in ("not_healed", "relapsed") and row.strategy not in ended:
            failed[row.strategy] += 1
    return max(0, limit - max(failed.values(), default=0))
