"""Start, run, drain, stop: the parts in the order in which they need each other.

Stopping is the half that matters. First nothing new is taken in, then the steps in hand finish, then the
store writes what is queued and gives its lock back; whatever a kill interrupts was announced in the store
before it began.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial

import structlog

from self_healing_fabric import outbound, servers_asked
from self_healing_fabric.escalation.channels import channels
from self_healing_fabric.guardrails import mode, outside
from self_healing_fabric.guardrails.outside import Outside
from self_healing_fabric.integration.events import EventSink, Telling, tellings
from self_healing_fabric.orchestration.caller import Caller
from self_healing_fabric.orchestration.context import Context
from self_healing_fabric.orchestration.diagnosis_verdicts import Calibrator
from self_healing_fabric.orchestration.drift_watch import DriftWatch
from self_healing_fabric.orchestration.healing_orchestrator import HealingOrchestrator
from self_healing_fabric.orchestration.leases import Leases
from self_healing_fabric.orchestration.page_hold import page_hold
from self_healing_fabric.orchestration.service_graph import ServiceGraph
from self_healing_fabric.orchestration.validation import Gate
from self_healing_fabric.recovery.clocks import Clocks
from self_healing_fabric.recovery.strategies import UNDO, strategies, usable
from self_healing_fabric.recovery.verification import Verifier
from self_healing_fabric.settings import Settings
from self_healing_fabric.store import Store, statements
from self_healing_fabric.telemetry import Metrics

log = structlog.get_logger()

# Seconds; what was heard within them, another replica may be waiting for that has another configuration.
OTHERS_HEARD_WITHIN = 86400.0


class Fabric:
    """One running fabric.

    Args:
        settings: the configuration.
        bounds: guardrails of the program that embeds it, asked before those of plugins.
        gate: asked before an incident may be called healed.

    Raises:
        ConfigurationError: a plugin, `ca_file`, `cert_file` or `key_file` cannot be used.
        StoreInUse, StoreUnavailable: its store cannot be opened.
    """

    def __init__(
        self, settings: Settings, *, bounds: Sequence[Outside] = (), gate: Gate | None = None
    ) -> None:
        self.settings = settings
        asked = partial(servers_asked.note, "prometheus", settings.prometheus.url)
        prometheus = outbound.prometheus_client(settings, on_call=asked)
        known, asked_outside = strategies(settings), (*bounds, *outside.plugins(settings))
        called = channels(settings)
        self.store = Store(settings.store, settings.store_password_file)
        self.context = Context(
            settings=settings,
            store=self.store,
            prometheus=prometheus,
            verifier=Verifier(prometheus, settings, Clocks(prometheus, self.store.clock).require_alike),
            strategies=known,
            channels=called,
            metrics=Metrics(
                settings.services,
                usable(settings, known),
                strategies=(*known, UNDO),
                guardrails=settings.plugins.guardrails,
                channels=called,
                alertmanager=settings.alertmanager is not None,
            ),
            leases=Leases(
                self.store,
                self.store.clock,
                services=settings.services,
                hears=lambda: bool(settings.pushing) and not self.draining,
            ),
            graph=ServiceGraph(settings, prometheus),
            calibrator=Calibrator(self.store),
            outside=asked_outside,
            gate=gate,
            clock=self.store.clock,
        )
        self.orchestrator = HealingOrchestrator(self.context)
        self.caller = Caller(self.context)
        self.page_hold = page_hold(self.context, self.orchestrator.reconciliation.silenced)
        self.drift = DriftWatch(settings, lambda: self.context.leases.leader)
        self._tellings = tellings(self.context)
        self._draining = threading.Event()
        self.started_at = self.context.clock()  # seconds since 1970

    @property
    def draining(self) -> bool:
        """Whether the fabric takes nothing new any more."""
        return self._draining.is_set()

    def tell(self, name: str, sink: EventSink, *, durable: bool = True) -> None:
        """Send events there too; see `events.Telling`. To be called before `start`."""
        self._tellings.append(Telling(self.context, name, sink, durable=durable))

    def start(self) -> None:
        """Begin to work."""
        pushing = sorted(self.settings.pushing)
        now = self.started_at = self.context.clock()
        forget_before = now - OTHERS_HEARD_WITHIN if self.store.shared else now
        self.context.leases.listen()
        self.store.write(
            lambda connection: statements.register_heartbeats(
                connection, pushing, now, forget_before=forget_before
            )
        )
        for telling in self._tellings:
            telling.start()
        self.orchestrator.start()
        self.caller.start()
        if self.page_hold is not None:
            self.page_hold.start()
        self.drift.start()
        overruled = self.store.read(lambda found: mode.less_strict_than_configured(found, self.settings))
        for name, (configured, in_force) in overruled.items():
            log.warning(
                "configured_mode_not_in_force",
                control=name,
                configured=configured,
                set_by_people=in_force,
                advice="`shf mode configured`, with --service or --strategy, takes back what people have set",
            )
        log.info("started", services=len(self.settings.services), prometheus=self.settings.prometheus.url)

    def drain(self) -> None:
        """Take nothing new from now on."""
        self._draining.set()

    def stop(self) -> None:
        """Finish the steps in hand and close everything."""
        self.drain()
        self.drift.stop()
        self.caller.stop()
        if self.page_hold is not None:
            self.page_hold.stop()
        self.orchestrator.stop()
        for telling in self._tellings:
            telling.stop()
        self.context.prometheus.close()
        self.store.close()
        log.info("stopped")
