"""The store's state as gauges for /metrics, read from the store at the moment of asking.

Gauges that are counted up and down in memory drift and start wrong after a restart; these are a query, so
they say what the store says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import structlog
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from self_healing_fabric.guardrails import mode
from self_healing_fabric.incidents.lifecycle import OPEN, State
from self_healing_fabric.integration.guardrail_state import states
from self_healing_fabric.integration.lifecycle import Fabric
from self_healing_fabric.recovery.effects import TargetUnreadable
from self_healing_fabric.recovery.platforms import platform_of
from self_healing_fabric.settings import Mode, Settings
from self_healing_fabric.store import statements
from self_healing_fabric.store.queue_statements import due_incidents
from self_healing_fabric.telemetry import UNKNOWN_SERVICE

log = structlog.get_logger()

SERVICE_STATES = {"healthy": 0, "healing": 1, "escalated": 2}


class StateCollector(Collector):
    """Exports the store's state as gauges. Registered with the fabric's own registry."""

    def __init__(self, fabric: Fabric) -> None:
        self._fabric = fabric
        self._targets = dict(_targets(fabric.settings))
        self._limits = {name: fabric.settings.limits_of(name, "") for name in self._targets}

    def describe(self) -> list[Metric]:
        """Nothing: registering must not read the store."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Read the store once and yield the gauges."""
        yield from self._incidents()
        yield from self._open_incidents()
        yield from self._guardrails()
        yield from self._mode()
        yield from self._thresholds()
        yield from self._heartbeats()
        yield from self._drift()
        yield from self._replica()
        yield from self._queues()
        yield self._address()

    def _incidents(self) -> Iterator[Metric]:
        number = GaugeMetricFamily(
            "shf_incidents",
            "Incidents that are not closed.",
            labels=["service", "failure_class", "severity", "state"],
        )
        services = dict.fromkeys(self._fabric.settings.services, 0)
        levels = dict.fromkeys(self._fabric.settings.services, 0)
        counts: Counter[tuple[str, str, str, str]] = Counter()
        for row in self._fabric.store.read(statements.count_incidents):
            service = row.service if row.service in services else UNKNOWN_SERVICE
            counts[(service, row.failure_class or "unknown", row.severity, row.state)] += row.number
            if row.state == State.RESOLVED.value:
                continue
            levels[service] = max(levels.get(service, 0), row.level)
            state = "escalated" if row.state == State.ESCALATED.value else "healing"
            services[service] = max(services.get(service, 0), SERVICE_STATES[state])
        for labels, value in sorted(counts.items()):
            number.add_metric(labels, value)
        yield number
        state_of = GaugeMetricFamily(
            "shf_service_state", "0 healthy, 1 healing, 2 escalated.", labels=["service"]
        )
        level_of = GaugeMetricFamily(
            "shf_escalation_level", "Highest level of an open incident.", labels=["service"]
        )
        for service, value in services.items():
            state_of.add_metric([service], value)
            level_of.add_metric([service], levels.get(service, 0))
        yield state_of
        yield level_of

    def _open_incidents(self) -> Iterator[Metric]:
        start = GaugeMetricFamily(
            "shf_incident_start_timestamp_seconds",
            "When an open incident was opened; of the newest 100.",
            labels=["incident", "service", "severity", "signal"],
        )
        state = GaugeMetricFamily(
            "shf_incident_state",
            "1 for the state of an open incident; of the newest 100.",
            labels=["incident", "service", "state"],
        )
        rows = self._fabric.store.read(
            lambda connection: statements.list_incidents(connection, states=OPEN, limit=MAX_INCIDENT_SERIES)
        )
        services = self._fabric.settings.services
        for row in rows:
            # A service that the configuration does not name is a stranger's text: no label of ours.
            service = row.service if row.service in services else UNKNOWN_SERVICE
            signal = row.signal if row.known_service else None
            start.add_metric([row.id, service, row.severity, signal or "unknown"], row.opened_at)
            for each in OPEN:
                state.add_metric([row.id, service, each], float(row.state == each))
        yield start
        yield state

    def _guardrails(self) -> Iterator[Metric]:
        names = ["service", "guardrail"]
        limits = GaugeMetricFamily(
            "shf_guardrail_limit", "What a guardrail allows in its window.", labels=names
        )
        remaining = GaugeMetricFamily("shf_guardrail_remaining", "What is left of it.", labels=names)
        fabric, now = self._fabric, self._fabric.context.clock()
        found = fabric.store.read(
            lambda connection: list(
                states(
                    connection,
                    fabric.settings,
                    fabric.context.unstored_pauses,
                    self._targets,
                    self._limits,
                    now,
                )
            )
        )
        for each in found:
            limits.add_metric([each.service, each.guardrail], each.limit)
            remaining.add_metric([each.service, each.guardrail], each.remaining)
        yield limits
        yield remaining

    def _mode(self) -> Iterator[Metric]:
        fabric = self._fabric
        unstored = fabric.context.unstored_pauses
        current = fabric.store.read(lambda connection: mode.current(connection, fabric.settings, unstored))
        family = GaugeMetricFamily("shf_mode", "1 for the mode in force.", labels=["mode"])
        for each in Mode:
            family.add_metric([each.value], float(each is current))
        yield family

    def _thresholds(self) -> Iterator[Metric]:
        """What the rules hold a service against; its series for `heartbeat` says that it is expected."""
        family = GaugeMetricFamily(
            "shf_signal_threshold",
            "Limit of a signal of a service; the alert rules read it.",
            labels=["service", "signal"],
        )
        for service in self._fabric.settings.services:
            for signal, limit in self._fabric.settings.thresholds_of(service).by_signal.items():
                family.add_metric([service, signal], limit)
        yield family

    def _heartbeats(self) -> Iterator[Metric]:
        family = GaugeMetricFamily(
            "shf_heartbeat_timestamp_seconds",
            "When a service that pushes was heard last, or registered, moved by the fabric's own pauses.",
            labels=["service"],
        )
        pushing = self._fabric.settings.pushing
        for service, at in sorted(self._fabric.store.read(statements.heartbeat_times).items()):
            if service in pushing:
                family.add_metric([service], at)
        yield family

    def _drift(self) -> Iterator[Metric]:
        """NaN for what nobody knows now: the rules take neither drift nor its end from that."""
        family = GaugeMetricFamily(
            "shf_config_drift",
            "Places in which a configuration differs from the wanted one; NaN: unknown.",
            labels=["service"],
        )
        for service, places in self._fabric.drift.places().items():
            family.add_metric([service], places)
        yield family

    def _replica(self) -> Iterator[Metric]:
        leader = GaugeMetricFamily("shf_leader", "1 for the replica that compares with the servers.")
        leader.add_metric([], float(self._fabric.context.leases.leader))
        yield leader

    def _queues(self) -> Iterator[Metric]:
        """What waits: a fabric that does not keep up shows it here first."""
        waiting, failed = self._fabric.store.read(statements.count_inbox)
        family = GaugeMetricFamily(
            "shf_inbox_notifications",
            "Notifications that are stored: waiting, or failed (kept with the error).",
            labels=["state"],
        )
        family.add_metric(["waiting"], waiting)
        family.add_metric(["failed"], failed)
        yield family
        now = self._fabric.context.clock()
        number, delay = self._fabric.store.read(lambda connection: due_incidents(connection, now))
        yield GaugeMetricFamily(
            "shf_due_incidents",
            "Incidents whose next step is due and that no worker has taken.",
            value=number,
        )
        yield GaugeMetricFamily(
            "shf_step_delay_seconds", "How long the one of them that waits longest has been due.", value=delay
        )

    def _address(self) -> Metric:
        """Dashboards have no other way to learn where the pages of the incidents are."""
        settings = self._fabric.settings
        family = GaugeMetricFamily(
            "shf_external_url_info", "Always 1; where people reach the fabric.", labels=["url"]
        )
        url = settings.external_url or f"http://{settings.listen}"
        family.add_metric([url.rstrip("/")], 1)
        return family


def _targets(settings: Settings) -> Iterator[tuple[str, str]]:
    for name, service in settings.services.items():
        try:
            platform = platform_of(name, settings)
        except TargetUnreadable as error:
            if not service.recovery.platform:
                raise
            log.warning("platform_not_made", service=name, error=str(error))  # harms this service only
            continue
        if platform is not None:
            yield name, platform.target


MAX_INCIDENT_SERIES = 100  # open incidents with series of their own; a storm must not flood Prometheus
