"""Restart of a Docker container, and how to learn from the engine whether it happened.

`State.StartedAt` changes with every start, so comparing it with the value before the effect answers after a
crash what no log of ours could. It is compared with itself and never with our clock.

Two traps avoided. The engine's own restart policy starts a crashing container anew as well; only a start on
demand does not raise `RestartCount`. And where no container has the name `db`, the engine takes it for the
beginning of an id and hands out whichever container's id begins with it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import requests

from self_healing_fabric.recovery.effects import (
    Effect,
    NotApplicable,
    Progress,
    Settling,
    TargetUnreadable,
)
from self_healing_fabric.recovery.outcomes import BEGINS_WITHIN, Outcome, Permit, Status, forbidden
from self_healing_fabric.servers_asked import asking
from self_healing_fabric.settings import DockerRecovery

try:
    from docker.errors import DockerException, NotFound

    from self_healing_fabric.containers import Engine
except ModuleNotFoundError as error:
    raise TargetUnreadable("containers need an extra: pip install 'self-healing-fabric[docker]'") from error

ENGINE_TIMEOUT = 15.0  # seconds for one answer of the engine, beyond the container's own time to stop
SHORT_ID = 12  # characters of an id that `docker ps` shows and people copy


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
        self.longest_effect = BEGINS_WITHIN + math.ceil(settings.stop_timeout) + ENGINE_TIMEOUT

    def snapshot(self) -> Mapping[str, Any]:
        """Read the container's identity and start time."""
        state = self._inspect()
        return {
            "id": state["Id"],
            "started_at": state["State"]["StartedAt"],
            "restart_count": state["RestartCount"],
        }

    def perform(self, *, key: str, attempt: int, before: Mapping[str, Any], permit: Permit) -> Outcome:
        """Restart the container whose id was read before, not one that took over its name since."""
        try:
            engine = self._engine()
        except (DockerException, requests.RequestException) as error:
            # It did not even tell its version: the order was never sent.
            return Outcome(Status.FAILED, f"the engine at {self._settings.host} cannot be asked: {error}")
        try:
            if not permit():
                return forbidden()
            # Never 0 for a fraction of a second: that means SIGKILL at once.
            engine.api.restart(before["id"], timeout=math.ceil(self._settings.stop_timeout))
        except NotFound:
            return Outcome(Status.FAILED, f"container {self._settings.container} no longer exists")
        except (DockerException, requests.RequestException) as error:
            return self._learn(before, f"the engine failed: {error}")
        finally:
            engine.close()
        return Outcome(Status.SUCCEEDED, f"container {self._settings.container} was restarted")

    def observe(self, before: Mapping[str, Any]) -> Outcome:
        """Compare the start time with the one before."""
        return self._learn(before, "the fabric was interrupted during the action", unchanged=Status.FAILED)

    def settled(self, before: Mapping[str, Any]) -> Settling:
        """It must run, not for the so-many-th time, and pass its health check where it has one."""
        attributes = self._inspect()
        state, name = attributes["State"], self._settings.container
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
        """Ask the engine for the container."""
        return f"container {self._settings.container} is {self._inspect()['State']['Status']}"

    def _learn(
        self, before: Mapping[str, Any], why: str, *, unchanged: Status = Status.INDETERMINATE
    ) -> Outcome:
        try:
            state = self._inspect()
        except TargetUnreadable as error:
            return Outcome(Status.INDETERMINATE, f"{why}; {error}")
        if state["Id"] != before["id"]:
            return Outcome(Status.INDETERMINATE, f"{why}; another container has the name now")
        if state["State"]["StartedAt"] != before["started_at"]:
            if state["RestartCount"] > before["restart_count"]:
                return Outcome(Status.INDETERMINATE, f"{why}; its restart policy has started it since")
            return Outcome(
                Status.SUCCEEDED, f"{why}; the engine says it was started at {state['State']['StartedAt']}"
            )
        # Right after a lost answer this proves nothing: the engine may still be stopping the container.
        return Outcome(unchanged, f"{why}; the engine still names the old start time")

    def _inspect(self) -> Mapping[str, Any]:
        wanted = self._settings.container
        try:
            with asking("docker", self._settings.host, answered=(NotFound,)):
                engine = self._engine()
                try:
                    attributes: Mapping[str, Any] = engine.containers.get(wanted).attrs
                finally:
                    engine.close()
        except NotFound as error:
            raise TargetUnreadable(f"no container is called {wanted}") from error
        except (DockerException, requests.RequestException) as error:
            raise TargetUnreadable(f"the engine at {self._settings.host} cannot be asked: {error}") from error
        name, id_ = attributes["Name"].removeprefix("/"), attributes["Id"]
        if wanted != name and not (len(wanted) >= SHORT_ID and id_.startswith(wanted)):
            raise TargetUnreadable(f"no container is called {wanted}; {name} only has an id that begins so")
        return attributes

    def _engine(self) -> Engine:
        return Engine(self._settings.host, round(ENGINE_TIMEOUT))
