"""What each strategy has achieved, for people who want to know why a plan is in the order in which it is."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, current_app, jsonify

from self_healing_fabric.api.answers import StrategyRecords
from self_healing_fabric.api.auth import requires
from self_healing_fabric.api.contract import Contract, contract
from self_healing_fabric.integration.lifecycle import Fabric
from self_healing_fabric.recovery.effectiveness import Attempt, records_of
from self_healing_fabric.settings import Right
from self_healing_fabric.store import statements

blueprint = Blueprint("strategies", __name__)

MOST_ATTEMPTS = 5000  # the newest of all targets


@blueprint.get("/api/v1/strategies")
@requires(Right.READ)
@contract(Contract(answer=StrategyRecords))
def list_strategies() -> Response:
    """The record of each strategy by target, failure class and pattern, from its newest verified attempts."""
    fabric: Fabric = current_app.extensions["fabric"]
    rows = fabric.store.read(lambda connection: statements.verified_actions(connection, MOST_ATTEMPTS))
    groups: dict[tuple[str, str, str], list[Attempt]] = {}
    for row in rows:
        key = (row.target, row.failure_class, row.pattern or "unknown")
        groups.setdefault(key, []).append(Attempt(row.strategy, row.pattern, row.verdict))
    found: list[dict[str, Any]] = []
    for (target, failure_class, pattern), attempts in sorted(groups.items()):
        for strategy, record in sorted(records_of(attempts, attempts[0].pattern).items()):
            found.append(
                {
                    "target": target,
                    "failure_class": failure_class,
                    "pattern": pattern,
                    "strategy": strategy,
                    "tried": record.tried,
                    "healed": record.healed,
                    "rate_at_least": round(record.lower, 4),
                    "rate_at_most": round(record.upper, 4),
                }
            )
    return jsonify({"strategies": found})
