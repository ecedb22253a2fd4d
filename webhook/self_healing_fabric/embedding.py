"""The fabric inside another Python program: register, activate, ask, deactivate.

The program keeps its own event loop, signals, registry, bus and lifecycle. What the fabric needs of them are
the protocols of `integration.collaborators`, and whatever is left out has a default that works. Nothing here
blocks an event loop: the fabric works in threads of its own, and what may take time is awaited in one.

Calls to the program's objects are bounded in time and fail closed: a boundary enforcer that does not answer
has forbidden the effect, a validation gate that does not answer has not confirmed the healing.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import structlog
from pydantic import BaseModel

from self_healing_fabric import __version__
from self_healing_fabric.api.incidents import story
from self_healing_fabric.app import BackgroundServer, create_app
from self_healing_fabric.configuration import read_yaml, validated
from self_healing_fabric.errors import ConfigurationError, Problem
from self_healing_fabric.extensions import Misbehaved, call
from self_healing_fabric.guardrails.outside import boundary
from self_healing_fabric.incidents.lifecycle import OPEN
from self_healing_fabric.incidents.story import summary
from self_healing_fabric.integration.collaborators import (
    BoundaryEnforcer,
    Event,
    EventBus,
    Incidents,
    LifecycleManager,
    LocalBus,
    LocalRegistry,
    ModuleRegistry,
    NotActive,
    Phase,
    SystemState,
    ValidationGate,
)
from self_healing_fabric.integration.events import SinkOfPlugin
from self_healing_fabric.integration.lifecycle import Fabric
from self_healing_fabric.integration.report import status
from self_healing_fabric.settings import Settings, is_loopback
from self_healing_fabric.store import statements

log = structlog.get_logger()

HOST_ANSWERS_WITHIN = 10.0  # seconds for the registry, the lifecycle manager and the system state
MOST_INCIDENTS = 500  # that a list of the open ones holds

StartResponse = Callable[..., Any]


class HealingIntegration:
    """One fabric inside a program. All methods may be called from any thread.

    Args:
        module_registry: the program's services; merged with those of the configuration, whose values win.
        event_bus: gets every event of every incident, at least once, in order.
        system_state: is given the read side of the incident store while the fabric is active.
        lifecycle_manager: gets the fabric as a component, and is told its phases.
        boundary_enforcer: asked before every effect; only True allows it.
        validation_gate: asked before an incident may be called healed; only True confirms it.
        guardian_health_endpoints: health URLs by name, of services of the kind `guardian`.
        guard_health_endpoints: likewise of the kind `guard`.
        settings: the configuration as values or as `Settings`.
        configuration: the configuration as a file; give this or `settings`, or neither.
        serve: listen where the configuration says. Without, mount `wsgi_app` in a server of the program's.
    """

    name = "self-healing-fabric"

    def __init__(
        self,
        *,
        module_registry: ModuleRegistry | None = None,
        event_bus: EventBus | None = None,
        system_state: SystemState | None = None,
        lifecycle_manager: LifecycleManager | None = None,
        boundary_enforcer: BoundaryEnforcer | None = None,
        validation_gate: ValidationGate | None = None,
        guardian_health_endpoints: Mapping[str, str] | None = None,
        guard_health_endpoints: Mapping[str, str] | None = None,
        settings: Settings | Mapping[str, Any] | None = None,
        configuration: Path | str | None = None,
        serve: bool = True,
    ) -> None:
        if settings is not None and configuration is not None:
            raise ConfigurationError("HealingIntegration", [Problem("", "give settings or a file, not both")])
        self.module_registry = LocalRegistry() if module_registry is None else module_registry
        self.event_bus = LocalBus() if event_bus is None else event_bus
        self.system_state = Incidents() if system_state is None else system_state
        self._lifecycle = lifecycle_manager
        self._boundary, self._gate = boundary_enforcer, validation_gate
        self._endpoints = {
            "guardian": dict(guardian_health_endpoints or {}),
            "guard": dict(guard_health_endpoints or {}),
        }
        self._given, self._file, self._serve = settings, configuration, serve
        self._settings: Settings | None = None
        self._fabric: Fabric | None = None
        self._app: Any = None
        self._running = ExitStack()
        self._phase = Phase.STOPPED
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changing = threading.RLock()

    def register(self) -> None:
        """Put the configuration together, and tell the lifecycle manager; starts nothing. Idempotent.

        Raises:
            ConfigurationError: with every problem, of the file, the registry and the endpoints.
        """
        with self._changing:
            if self._settings is not None:
                return
            self._settings = self._merged()
            if self._lifecycle is not None:
                self._ask("the lifecycle manager", lambda manager: manager.attach(self), self._lifecycle)

    async def activate(self) -> None:
        """Start to heal; returns when the fabric works. Idempotent; registers when that was not done.

        Raises:
            ConfigurationError: see `register`.
            StoreInUse: another fabric uses the store, in this process or another one.
            ShfError: the store cannot be opened, or the address cannot be listened on.
        """
        self._loop = asyncio.get_running_loop()
        starting = asyncio.ensure_future(asyncio.to_thread(self.start))
        try:
            await asyncio.shield(starting)
        except asyncio.CancelledError:
            await asyncio.wait([starting])
            await asyncio.to_thread(self.stop)  # who cancels the start wants no healer left behind
            raise

    async def deactivate(self) -> None:
        """Finish what is in hand and stop. Idempotent; afterwards it may be activated again."""
        await asyncio.shield(asyncio.to_thread(self.stop))

    def start(self) -> None:
        """As `activate`, for a thread; blocks until the fabric works."""
        with self._changing:
            if self._fabric is not None:
                return
            self.register()
            self._tell(Phase.STARTING)
            try:
                self._begin()
            except BaseException:
                self._tell(Phase.FAILED)
                raise
        self._tell(Phase.ACTIVE)  # no longer holding the lock: whoever is told may stop us at once

    def drain(self) -> None:
        """Take nothing new from now on; what is in hand goes on until `stop`."""
        fabric = self._fabric
        if fabric is not None and not fabric.draining:
            fabric.drain()
            self._tell(Phase.DRAINING)

    def stop(self) -> None:
        """As `deactivate`, for a thread; blocks until everything has stopped."""
        with self._changing:
            if self._fabric is None:
                return
            self.drain()
            self._fabric = self._app = None
            self._running.close()
        self._tell(Phase.STOPPED)

    @property
    def settings(self) -> Settings:
        """The configuration that is used, after `register`. Raises NotActive before."""
        if self._settings is None:
            raise NotActive("the integration is not registered: call register() first")
        return self._settings

    def get_status(self) -> dict[str, Any]:
        """What GET /api/v1/status tells, and the phase; little more than that while it is not active.

        Reads the store once: of a PostgreSQL store ask in a thread, which may wait for the network.
        """
        fabric = self._fabric
        if fabric is None:
            return {"phase": self._phase.value, "version": __version__}
        return {"phase": self._phase.value, **status(fabric)}

    def open_incidents(self) -> Sequence[Mapping[str, Any]]:
        """What a list shows of each open incident, newest first. Raises NotActive."""
        rows = self._active().store.read(
            lambda connection: statements.list_incidents(connection, states=OPEN, limit=MOST_INCIDENTS)
        )
        return [summary(row) for row in rows]

    def story(self, incident_id: str) -> Mapping[str, Any]:
        """One incident with timeline, diagnosis, actions and alerts. Raises NotActive, UnknownIncident."""
        return story(self._active(), incident_id)

    def wsgi_app(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """The webhook, the API and /metrics, for a WSGI server of the program's own.

        While the fabric is not active it answers 503, so Alertmanager tries again. Without `auth` in the
        configuration it answers only this machine, and nobody for whom a proxy asks: who can send an alert
        can have a service restarted.
        """
        app, settings = self._app, self._settings
        if app is None or settings is None:
            return _refuse(start_response, "503 Service Unavailable", "the fabric is not active")
        if not settings.auth.credentials() and not _from_here(environ):
            told = "set `auth` in the fabric's configuration: without it only this machine may call"
            return _refuse(start_response, "403 Forbidden", told)
        answer: Iterable[bytes] = app(environ, start_response)
        return answer

    def _begin(self) -> None:
        bounds = []
        if self._boundary is not None:
            enforcer = self._boundary
            bounds.append(boundary(lambda proposal: self._resolved(enforcer.allows(proposal))))
        gate = None
        if self._gate is not None:
            validation = self._gate
            gate = lambda healing: self._resolved(validation.confirms(healing))  # noqa: E731
        fabric = Fabric(self.settings, bounds=bounds, gate=gate)
        with ExitStack() as starting:
            starting.callback(fabric.stop)
            app = create_app(fabric)
            durable = not isinstance(self.event_bus, LocalBus)
            fabric.tell("event bus", SinkOfPlugin("the event bus", self._publish), durable=durable)
            server = BackgroundServer(app, fabric) if self._serve else None
            if server is not None:
                starting.callback(server.stop)
            fabric.start()
            if server is not None:
                server.start()
            starting.callback(
                self._ask, "the system state", lambda state: state.connect(None), self.system_state
            )
            self._ask("the system state", lambda state: state.connect(self), self.system_state)
            self._fabric, self._app = fabric, app
            self._running = starting.pop_all()

    def _merged(self) -> Settings:
        raw, source = self._configured()
        given = call("the module registry", self.module_registry.services, within=HOST_ANSWERS_WITHIN)
        services: dict[str, dict[str, Any]] = {}
        both = sorted(set(self._endpoints["guardian"]) & set(self._endpoints["guard"]))
        if both:
            told = "is among the guardian and the guard endpoints: it is one or the other"
            raise ConfigurationError(source, [Problem(f"services.{name}", told) for name in both])
        for kind, endpoints in self._endpoints.items():
            for name, url in endpoints.items():
                services[name] = {"kind": kind, "health": url}
        for name, service in given.items():
            services[name] = {**services.get(name, {}), **_values(service)}
        configured = raw.get("services") or {}
        if not isinstance(configured, Mapping):
            return validated(raw, source)  # which says what is wrong with it
        for name, service in configured.items():
            own = service if isinstance(service, Mapping) else {}
            services[name] = {**services.get(name, {}), **own} if own or service is None else service
        return validated({**raw, "services": services}, source)

    def _configured(self) -> tuple[Mapping[str, Any], str]:
        if self._file is not None:
            return read_yaml(Path(self._file)), str(self._file)
        if self._given is None:
            return {}, "HealingIntegration"
        return _values(self._given), "HealingIntegration(settings=...)"

    def _active(self) -> Fabric:
        fabric = self._fabric
        if fabric is None:
            raise NotActive("the fabric is not active: call activate() first")
        return fabric

    def _publish(self, event: Event) -> None:
        self._resolved(self.event_bus.publish(event))

    def _tell(self, phase: Phase) -> None:
        self._phase = phase
        log.info("fabric_phase", phase=phase.value)
        if self._lifecycle is not None:
            self._ask("the lifecycle manager", lambda manager: manager.told(phase), self._lifecycle)

    def _ask(self, who: str, question: Callable[[Any], Any], whom: Any) -> None:
        """Tell the program something; what it makes of that is its own affair."""
        try:
            call(who, lambda: self._resolved(question(whom)), within=HOST_ANSWERS_WITHIN)
        except Misbehaved as error:
            log.error("not_told", error=str(error))

    def _resolved(self, answer: Any) -> Any:
        """The answer itself, where a program's method is a coroutine: on its own loop, if that runs."""
        if not inspect.isawaitable(answer):
            return answer
        loop = self._loop
        if loop is None or not loop.is_running():
            return asyncio.run(_awaited(answer))
        return asyncio.run_coroutine_threadsafe(_awaited(answer), loop).result(HOST_ANSWERS_WITHIN)


async def _awaited(answer: Awaitable[Any]) -> Any:
    return await answer


def _values(given: Any) -> dict[str, Any]:
    """What was said, without the defaults, which are for what nobody said."""
    return given.model_dump(exclude_unset=True) if isinstance(given, BaseModel) else dict(given)


def _from_here(environ: Mapping[str, Any]) -> bool:
    forwarded = any(name in environ for name in ("HTTP_FORWARDED", "HTTP_X_FORWARDED_FOR", "HTTP_X_REAL_IP"))
    return not forwarded and is_loopback(str(environ.get("REMOTE_ADDR", "")))


def _refuse(start_response: StartResponse, status_line: str, detail: str) -> Iterable[bytes]:
    body = f"{detail}\n".encode()
    headers = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))]
    if status_line.startswith("503"):
        headers.append(("Retry-After", "5"))
    start_response(status_line, headers)
    return [body]
