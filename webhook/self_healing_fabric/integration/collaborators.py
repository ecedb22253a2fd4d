"""What the fabric and the program that embeds it know of each other: small protocols, each with a default.

A program has its own registry, bus and lifecycle already, and will not give them up for a healer. So the
fabric asks for as little as it can use, one or two methods each, and anything may be left out.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from enum import StrEnum
from typing import Any, Protocol

import structlog

from self_healing_fabric.errors import ShfError
from self_healing_fabric.guardrails.outside import BoundaryEnforcer
from self_healing_fabric.orchestration.validation import ClaimedHealing, ValidationGate
from self_healing_fabric.settings import ServiceSettings

__all__ = [
    "BoundaryEnforcer",
    "ClaimedHealing",
    "Component",
    "EventBus",
    "IncidentReader",
    "Incidents",
    "LifecycleManager",
    "LocalBus",
    "LocalRegistry",
    "ModuleRegistry",
    "NotActive",
    "Phase",
    "SystemState",
    "ValidationGate",
]

log = structlog.get_logger()

Event = Mapping[str, Any]


class NotActive(ShfError):
    """The fabric is not active, so it cannot be asked: activate the integration first."""


class ModuleRegistry(Protocol):
    """What the program consists of."""

    def services(self) -> Mapping[str, ServiceSettings | Mapping[str, Any]]:
        """The services by name, each as in the section `services` of the configuration.

        Read once, when the integration is registered.
        """


class EventBus(Protocol):
    """Takes the events of incidents."""

    def publish(self, event: Event) -> Awaitable[None] | None:
        """Take one event, a CloudEvent as a JSON object. What raises gets the event again."""


class IncidentReader(Protocol):
    """The read side of the incident store."""

    def open_incidents(self) -> Sequence[Mapping[str, Any]]:
        """What a list shows of each incident that is neither resolved nor closed, newest first."""

    def story(self, incident_id: str) -> Mapping[str, Any]:
        """One incident with timeline, diagnosis, actions and alerts. Raises UnknownIncident."""


class SystemState(Protocol):
    """Where the program keeps what it knows of itself; it is given the fabric's part."""

    def connect(self, incidents: IncidentReader | None) -> None:
        """From now on incidents are read here; None: the fabric has stopped."""


class Phase(StrEnum):
    """What the program's lifecycle manager is told."""

    STARTING = "starting"
    ACTIVE = "active"
    DRAINING = "draining"
    STOPPED = "stopped"
    FAILED = "failed"


class Component(Protocol):
    """The fabric, as the lifecycle manager holds it. All of it may be called from any thread."""

    def start(self) -> None:
        """Begin to work; returns when it does."""

    def drain(self) -> None:
        """Take nothing new from now on."""

    def stop(self) -> None:
        """Finish what is in hand and stop; returns when it has."""


class LifecycleManager(Protocol):
    """What starts and stops the parts of the program."""

    def attach(self, component: Component) -> None:
        """The fabric has been registered, and may be started, drained and stopped."""

    def told(self, phase: Phase) -> None:
        """The fabric has come to another phase of its life."""


class LocalRegistry:
    """A registry for programs that have none."""

    def __init__(self) -> None:
        self._services: dict[str, ServiceSettings | Mapping[str, Any]] = {}

    def add(self, name: str, service: ServiceSettings | Mapping[str, Any]) -> None:
        """Name a service before the integration is registered."""
        self._services[name] = service

    def services(self) -> Mapping[str, ServiceSettings | Mapping[str, Any]]:
        """Those that were added."""
        return dict(self._services)


class LocalBus:
    """A bus within the process: each subscriber gets each event, in order, from a thread of the fabric's."""

    def __init__(self) -> None:
        self._subscribers: list[tuple[Callable[[Event], object], frozenset[str] | None]] = []
        self._lock = threading.Lock()

    def subscribe(
        self, callback: Callable[[Event], object], types: Collection[str] | None = None
    ) -> Callable[[], None]:
        """Call `callback` with every event, or with those of these types; returns what ends that.

        What it raises is logged: one subscriber must not keep the event from the others.
        """
        entry = (callback, None if types is None else frozenset(types))
        with self._lock:
            self._subscribers.append(entry)

        def unsubscribe() -> None:
            with self._lock:
                if entry in self._subscribers:
                    self._subscribers.remove(entry)

        return unsubscribe

    def publish(self, event: Event) -> None:
        """Tell all subscribers."""
        with self._lock:
            subscribers = tuple(self._subscribers)
        for callback, types in subscribers:
            if types is not None and event["type"] not in types:
                continue
            try:
                callback(event)
            except Exception:
                log.exception("subscriber_failed", event_type=event["type"])


class Incidents:
    """A system state for programs that have none: it just keeps the reader."""

    def __init__(self) -> None:
        self._reader: IncidentReader | None = None

    def connect(self, incidents: IncidentReader | None) -> None:
        """Called by the integration."""
        self._reader = incidents

    def open_incidents(self) -> Sequence[Mapping[str, Any]]:
        """What a list shows of each open incident, newest first. Raises NotActive."""
        return self._connected().open_incidents()

    def story(self, incident_id: str) -> Mapping[str, Any]:
        """One incident with everything. Raises NotActive, UnknownIncident."""
        return self._connected().story(incident_id)

    def _connected(self) -> IncidentReader:
        if self._reader is None:
            raise NotActive("the fabric is not active: call activate() first")
        return self._reader
