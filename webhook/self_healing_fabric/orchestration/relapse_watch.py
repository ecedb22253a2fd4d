"""Resolved incidents whose own alert has not ended yet: whether their services fail again.

An alert outlives its reason: rules keep it firing for a while so that it does not flap. What fails again in
that time sends no notification, for to Alertmanager it is the same alert, and would be found only when the
relapse window is over. So the samples are asked, for all such services in one query, and what is outside a
limit has its incident looked at now instead of then; whether it is a relapse, that look says.
"""

from __future__ import annotations

import structlog

from self_healing_fabric.orchestration.context import Context
from self_healing_fabric.recovery.verification import watched_signals
from self_healing_fabric.store import statements
from shf_queries import QueryError

log = structlog.get_logger()


def look_for_relapses(context: Context) -> None:
    """Have the resolved incidents of failing services looked at. Raises StoreUnavailable."""
    rows = [
        row
        for row in context.store.ask(statements.firing_alerts_of_resolved)
        if row.service in context.settings.services
    ]
    if not rows:
        return
    labels: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        labels.setdefault(row.service, []).append(row.labels)
    signals = {service: watched_signals(each) for service, each in labels.items()}
    now = context.clock()
    try:
        failing = context.verifier.failing(signals, now)
    except QueryError as error:
        log.info("relapses_not_seen", error=str(error))
        return
    found = {row.incident_id for row in rows if row.service in failing}
    if found:
        context.store.write(lambda connection: statements.look_now(connection, found, now))
