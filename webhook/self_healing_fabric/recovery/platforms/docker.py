"""Restart of a Docker container, and how to learn from the engine whether it happened.

`State.StartedAt` changes with every start, so comparing it with the value before the effect answers after a
crash what no log of ours could. It is compared with itself and never with our clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import docker
import requests
from docker.errors import DockerException, NotFound

from self_healing_fabric.recovery.outcomes import Outcome, Status
from self_healing_fabric.recovery.platforms import TargetUnreadable
from self_healing_fabric.settings import DockerRecovery

ENGINE_TIMEOUT = 20.0  # seconds for the engine itself, beyond the container's own time to stop


class DockerPlatform:
    """One container of one engine."""

    name = "docker"

    def __init__(self, settings: DockerRecovery) -> None:
        self._settings = settings
        self.target = f"docker:{settings.host}/{settings.container}"
        self.longest_effect = settings.stop_timeout + ENGINE_TIMEOUT

    def snapshot(self) -> Mapping[str, Any]:
        """Read the container's identity and start time."""
        state = self._inspect()
        return {"id": state["Id"], "started_at": state["State"]["StartedAt"]}

    def restart(self, key: str, before: Mapping[str, Any]) -> Outcome:
        """Restart the container whose id was read before, not one that took over its name since."""
        try:
            engine = self._engine()
            try:
                engine.containers.get(before["id"]).restart(timeout=round(self._settings.stop_timeout))
            finally:
                engine.close()
        except NotFound:
            return Outcome(Status.FAILED, f"container {self._settings.container} no longer exists")
        except (DockerException, requests.RequestException) as error:
            return self._learn(before, f"the engine failed: {error}")
        return Outcome(Status.SUCCEEDED, f"container {self._settings.container} was restarted")

    def observe(self, before: Mapping[str, Any]) -> Outcome:
        """Compare the start time with the one before."""
        return self._learn(before, "the fabric was interrupted during the action", unchanged=Status.FAILED)

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
            return Outcome(
                Status.SUCCEEDED, f"{why}; the engine says it was started at {state['State']['StartedAt']}"
            )
        # Right after a lost answer this proves nothing: the engine may still be stopping the container.
        return Outcome(unchanged, f"{why}; the engine still names the old start time")

    def _inspect(self) -> Mapping[str, Any]:
        try:
            engine = self._engine()
            try:
                attributes: Mapping[str, Any] = engine.containers.get(self._settings.container).attrs
                return attributes
            finally:
                engine.close()
        except NotFound as error:
            raise TargetUnreadable(f"no container is called {self._settings.container}") from error
        except (DockerException, requests.RequestException) as error:
            raise TargetUnreadable(f"the engine at {self._settings.host} cannot be asked: {error}") from error

    def _engine(self) -> docker.DockerClient:
        return docker.DockerClient(base_url=self._settings.host, timeout=round(self.longest_effect))
