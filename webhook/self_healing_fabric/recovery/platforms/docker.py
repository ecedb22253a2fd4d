"""Restart of a Docker container, and how to learn from the engine whether it happened.

`State.StartedAt` changes with every start, so comparing it with the value before the effect answers after a
crash what no log of ours could. It is compared with itself and never with our clock.

Traps avoided. The engine's own restart policy starts a crashing container anew as well; only a start on
demand does not raise `RestartCount`. Where no container has the name `db`, the engine takes it for the
beginning of an id and hands out whichever container's id begins with it. A restart starts what people have
stopped or paused, so that is left to them. And Swarm puts another container in the place of one that ends:
restarted, the old one would run beside it, with nobody to look after it.
"""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import requests

from self_healing_fabric.errors import ShfError
from self_healing_fabric.quoting import quoted
from self_healing_fabric.recovery.effects import (
    Effect,
    NotApplicable,
    Progress,
    Settling,
    TargetAway,
    TargetUnreadable,
    left_open,
    unordered,
    unread,
)
from self_healing_fabric.recovery.outcomes import BEGINS_WITHIN, Outcome, Permit, Status, Untold, forbidden
from self_healing_fabric.servers_asked import asking
from self_healing_fabric.settings import LONGEST_STOP, DockerRecovery

try:
    from docker.errors import APIError, DockerException, NotFound

    from self_healing_fabric.containers import Engine, command_of, was_stopped
except ModuleNotFoundError as error:
    raise TargetUnreadable("containers need an extra: pip install 'self-healing-fabric[docker]'") from error

ENGINE_TIMEOUT = 15.0  # seconds for one answer of the engine, beyond the container's own time to stop
SHORT_ID = 12  # characters of an id that `docker ps` shows and people copy
ENGINES_STOP_TIMEOUT = 10  # seconds; the engine's own for containers that name none
_SPEAKS_TLS = "HTTP request to an HTTPS server"  # stands in the answer to a call over tcp://
_REMOVED = ("removing", "dead")  # states from which nothing starts any more
SWARM_TASK, SWARM_SERVICE = "com.docker.swarm.task.id", "com.docker.swarm.service.name"


class DockerPlatform:
    """One container of one engine."""

    name = "docker"

    def __init__(self, settings: DockerRecovery) -> None:
        self._settings = settings
        self.target = f"docker:{settings.host}/{settings.container}"

    def effect(self, strategy: str) -> Effect:
        """Restart is all that can be done to a single container."""
        if strategy != "restart":
            raise NotApplicable(f"a single container can only be restarted, not {strategy}")
        return DockerRestart(self._settings, self.target)

    def check(self) -> str:
        """Ask the engine for the container."""
        return self.effect("restart").check()


class DockerRestart(Effect):
    """Restart the container that has the configured name now."""

    platform = "docker"
    renews_process = True

    def __init__(self, settings: DockerRecovery, target: str) -> None:
        self._settings = settings
        self.target = target
        self.server = ("docker", settings.host)
        longest_stop = LONGEST_STOP if settings.stop_timeout is None else settings.stop_timeout
        self.longest_effect = BEGINS_WITHIN + math.ceil(longest_stop) + ENGINE_TIMEOUT

    def snapshot(self) -> Mapping[str, Any]:
        """Read the container's identity and start time, where a restart is for it."""
        with self._asked() as engine:
            attributes = self._inspect(engine)
            self._refuse(engine, attributes)
        return {
            "id": attributes["Id"],
            "started_at": attributes["State"]["StartedAt"],
            "restart_count": _starts_by_policy(attributes),
        }

    def perform(self, *, key: str, attempt: int, before: Mapping[str, Any], permit: Permit) -> Outcome:
        """Restart the container that was read before, unless people had a hand in it since."""
        name = self._settings.container
        try:
            now = self._unchanged(before)
        except (TargetUnreadable, NotApplicable) as error:
            return unordered(error)
        try:
            engine = self._engine()
        except (DockerException, requests.RequestException) as error:
            # It did not even tell its version: the order was never sent.
            return unordered(self._unasked(error))
        try:
            if not permit():
                return forbidden()
            engine.api.restart(before["id"], timeout=self._stop_timeout(now))
        except NotFound:
            return Outcome(Status.FAILED, f"container {name} no longer exists")
        except APIError as error:
            if error.is_client_error():
                return Outcome(Status.FAILED, self._refused(error))
            said = f"the engine answered {error.status_code}: {quoted(error.explanation)}"
            return self._learn(before, said, answered=error.status_code == requests.codes.server_error)
        except (DockerException, requests.RequestException) as error:
            return self._learn(before, f"the engine failed: {error}")
        finally:
            engine.close()
        return Outcome(Status.SUCCEEDED, f"container {name} was restarted")

    def _unchanged(self, before: Mapping[str, Any]) -> Mapping[str, Any]:
        """The container, as it was decided on. Raises NotApplicable, TargetUnreadable when it is not."""
        name = self._settings.container
        with self._asked() as engine:
            now = self._inspect(engine)
            if now["Id"] != before["id"]:
                raise NotApplicable(f"another container is called {name} now")
            started_anew = now["State"]["StartedAt"] != before["started_at"]
            if started_anew and _starts_by_policy(now) <= before["restart_count"]:
                raise NotApplicable(f"somebody has started {name} since")
            self._refuse(engine, now)
        return now

    def observe(self, before: Mapping[str, Any]) -> Outcome:
        """Compare the start time with the one before."""
        return self._learn(before, left_open(before), unchanged=Status.FAILED)

    def settled(self, before: Mapping[str, Any]) -> Settling:
        """It must run, not for the so-many-th time, and pass its health check where it has one."""
        attributes, name = self._look(), self._settings.container
        state = attributes["State"]
        health = (state.get("Health") or {}).get("Status", "none")
        again = attributes["RestartCount"] if attributes["Id"] == before["id"] else 0
        if again > 0:
            # A start on demand sets the count to 0; it has ended by itself since.
            return Settling(Progress.FAILED, f"{name} has ended {again} times since and was started again")
        if not state["Running"] or state.get("Paused"):
            code = state.get("ExitCode")
            return Settling(Progress.FAILED, f"{name} does not run: {state['Status']}, exit code {code}")
        if health == "unhealthy":
            return Settling(Progress.FAILED, f"{name} runs and fails its health check")
        if health == "starting":
            return Settling(Progress.UNDER_WAY, f"{name} has not passed its health check yet")
        return Settling(Progress.DONE, f"{name} runs")

    def check(self) -> str:
        """Ask the engine for the container, and whether it is one that can be restarted at all."""
        attributes = self._look()
        try:
            self._refuse_kind(attributes)
        except NotApplicable as error:
            raise TargetUnreadable(str(error)) from error
        return f"container {self._settings.container} is {attributes['State']['Status']}"

    def _refuse(self, engine: Engine, attributes: Mapping[str, Any]) -> None:
        """Raises NotApplicable for what is people's or Swarm's, TargetUnreadable where it is not told."""
        self._refuse_kind(attributes)
        state, name = attributes["State"], self._settings.container
        if state.get("Paused"):
            raise NotApplicable(f"somebody has paused {name}: `{self._command('unpause')}` lets it go on")
        if state["Status"] == "created" and not state.get("Error"):
            raise NotApplicable(f"{name} was never started: `{self._command('start')}`")
        if state["Status"] != "exited":
            return
        try:
            events = engine.events_of(
                attributes["Id"], ("start", "stop"), at=time.time(), within=ENGINE_TIMEOUT
            )
        except (DockerException, requests.RequestException, ValueError, KeyError) as error:
            raise TargetUnreadable(
                f"{name} is down, and whether somebody has stopped it is not told: {quoted(error)}"
            ) from error
        if was_stopped(attributes, events):
            raise NotApplicable(
                f"somebody has stopped {name}, so it stays down: `{self._command('start')}` starts it"
            )

    def _refuse_kind(self, attributes: Mapping[str, Any]) -> None:
        labels = (attributes.get("Config") or {}).get("Labels") or {}
        if SWARM_TASK in labels:
            service = quoted(labels.get(SWARM_SERVICE) or "SERVICE")
            command = f"{command_of(self._settings.host)} service update --force {shlex.quote(service)}"
            raise NotApplicable(
                f"Swarm runs {self._settings.container} as a task of {service} and puts another one in its "
                f"place when it ends: `{command}` restarts all of them"
            )
        own = self._stop_timeout(attributes)
        if not 0 <= own <= LONGEST_STOP:
            raise NotApplicable(
                f"{self._settings.container} may take {own} s to end, and an action waits for "
                f"{LONGEST_STOP:.0f} s: set `recovery.docker.stop_timeout` to when it may be killed"
            )

    def _stop_timeout(self, attributes: Mapping[str, Any]) -> int:
        """Seconds between SIGTERM and SIGKILL: as configured, else the container's own."""
        if self._settings.stop_timeout is not None:
            # Never 0 for a fraction of a second: that means SIGKILL at once.
            return math.ceil(self._settings.stop_timeout)
        own = (attributes.get("Config") or {}).get("StopTimeout")
        return ENGINES_STOP_TIMEOUT if own is None else int(own)

    def _refused(self, error: APIError) -> str:
        said = f"the engine refused with {error.status_code}: {quoted(error.explanation)}"
        if error.status_code != requests.codes.forbidden:
            return said
        return f"{said}; what guards it must allow POST /containers/{self._settings.container}/restart"

    def _command(self, verb: str) -> str:
        return f"{command_of(self._settings.host)} {verb} {self._settings.container}"

    def _learn(
        self,
        before: Mapping[str, Any],
        why: str,
        *,
        unchanged: Status = Status.INDETERMINATE,
        answered: bool = False,
    ) -> Outcome:
        try:
            state = self._ordered(before)
        except TargetUnreadable as error:
            return unread(why, error)
        if state is None:
            gone = Status.FAILED if answered else Status.INDETERMINATE
            return Outcome(gone, f"{why}; that container has been removed since")
        if state["State"]["StartedAt"] != before["started_at"]:
            if _starts_by_policy(state) > before["restart_count"]:
                return Outcome(Status.INDETERMINATE, f"{why}; its restart policy has started it since")
            return Outcome(
                Status.SUCCEEDED, f"{why}; the engine says it was started at {state['State']['StartedAt']}"
            )
        problem = state["State"].get("Error")
        if answered and problem and not state["State"]["Running"]:
            told = f"it is down, for the engine cannot start it: {quoted(problem)}"
            return Outcome(Status.FAILED, f"{self._settings.container}: {told}")
        told = f"{why}; the engine still names the old start time"
        if unchanged is Status.INDETERMINATE and not answered:
            # Right after a lost answer this proves nothing: the engine may still be stopping the container.
            return Untold(unchanged, told, why=why)
        return Outcome(unchanged, told)

    def _ordered(self, before: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """The container that was ordered to restart, whatever its name is now; None when it is gone."""
        with self._asked() as engine:
            try:
                attributes: Mapping[str, Any] = engine.containers.get(before["id"]).attrs
            except NotFound:
                return None
        return None if attributes["State"]["Status"] in _REMOVED else attributes

    def _look(self) -> Mapping[str, Any]:
        with self._asked() as engine:
            return self._inspect(engine)

    @contextmanager
    def _asked(self) -> Iterator[Engine]:
        """The engine, for questions. Raises TargetUnreadable, TargetAway when it does not answer one."""
        wanted = self._settings.container
        try:
            with asking("docker", self._settings.host, answered=(NotFound, ShfError)):
                engine = self._engine()
                try:
                    yield engine
                finally:
                    engine.close()
        except NotFound as error:
            raise TargetUnreadable(f"no container is called {wanted}") from error
        except (DockerException, requests.RequestException) as error:
            raise self._unasked(error) from error

    def _unasked(self, error: Exception) -> TargetUnreadable:
        refused = isinstance(error, APIError) and error.is_client_error()
        told = f"the engine at {self._settings.host} cannot be asked: {error}"
        if _SPEAKS_TLS in str(error):
            told += "; it speaks TLS: let `recovery.docker.host` begin with https://"
        return TargetUnreadable(told) if refused else TargetAway(told)

    def _inspect(self, engine: Engine) -> Mapping[str, Any]:
        wanted = self._settings.container
        attributes: Mapping[str, Any] = engine.containers.get(wanted).attrs
        name, id_ = attributes["Name"].removeprefix("/"), attributes["Id"]
        if wanted != name and not (len(wanted) >= SHORT_ID and id_.startswith(wanted)):
            raise TargetUnreadable(f"no container is called {wanted}; {name} only has an id that begins so")
        return attributes

    def _engine(self) -> Engine:
        return Engine(self._settings.host, round(ENGINE_TIMEOUT))


def _starts_by_policy(attributes: Mapping[str, Any]) -> int:
    """How often its restart policy has started it by now: the engine counts before it waits and starts it."""
    return int(attributes["RestartCount"]) - bool(attributes["State"].get("Restarting"))
