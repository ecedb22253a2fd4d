"""The health of guardians and guards as Prometheus last saw it, for the status page.

One query for all of them at each turn of the reconciliation, on every replica; the page shows it with its age
and asks nothing. Incidents do not come from here: they come from the rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import structlog

from self_healing_fabric.settings import Settings
from shf_queries import PrometheusClient, QueryError, catalogue

log = structlog.get_logger()


@dataclass(frozen=True)
class Seen:
    """The share of each service's targets that answered, and when that was asked (seconds since 1970)."""

    at: float
    answering: Mapping[str, float]


class HealthWatch:
    """Holds the newest answer; replaced as a whole, so that readers need no lock."""

    def __init__(self, settings: Settings, prometheus: PrometheusClient) -> None:
        watched = {name: each.kind for name, each in settings.services.items() if each.kind != "service"}
        self.watched: Mapping[str, str] = watched
        self._prometheus = prometheus
        self.seen: Seen | None = None

    def refresh(self, now: float) -> None:
        """Ask once; an answer that does not come leaves the old one, which grows older."""
        if not self.watched:
            return
        try:
            samples = self._prometheus.instant(catalogue.answering_of(self.watched), at=now)
        except QueryError as error:
            log.info("health_not_seen", error=str(error))
            return
        self.seen = Seen(now, {each.labels.get("service", ""): each.value for each in samples})
