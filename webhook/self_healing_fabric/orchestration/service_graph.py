"""The dependencies as they are known now: the configured ones, and those that Prometheus has measured.

A service graph tells who really calls whom, without anybody keeping a list. When it cannot be asked, the last
answer goes on for a while, and after that only the configuration counts.
"""

from __future__ import annotations

import structlog

from self_healing_fabric.incidents.topology import Topology
from self_healing_fabric.settings import Settings
from shf_queries import PrometheusClient, QueryError
from shf_queries.catalogue import service_graph

log = structlog.get_logger()

MAX_AGE = 900.0  # seconds for which an old answer still counts


class ServiceGraph:
    """Holds the newest topology; replaced as a whole, so that readers need no lock."""

    def __init__(self, settings: Settings, prometheus: PrometheusClient) -> None:
        self._settings = settings.correlation.service_graph
        self._prometheus = prometheus
        edges = {name: service.depends_on for name, service in settings.services.items()}
        self._configured = Topology(edges, settings.services)
        self._answered_at = 0.0
        self.topology = self._configured

    def refresh(self, now: float) -> None:
        """Ask for the measured calls of the last minutes. `now` in seconds since 1970."""
        if self._settings is None:
            return
        query = service_graph(
            self._settings.metric, client=self._settings.client_label, server=self._settings.server_label
        )
        try:
            samples = self._prometheus.instant(query, at=now)
        except QueryError as error:
            log.warning("service_graph_unavailable", error=str(error))
            if now - self._answered_at > MAX_AGE:
                self.topology = self._configured
            return
        self._answered_at = now
        pairs = [(sample.labels.get("client", ""), sample.labels.get("server", "")) for sample in samples]
        self.topology = self._configured.with_edges(pairs)
