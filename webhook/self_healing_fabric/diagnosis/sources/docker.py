"""What a Docker engine knows of one container: how it ended, whether memory did it, what its probe says.

Traps avoided. `OOMKilled` stays true when the restart policy has started the container anew, so while it runs
only the engine's events count. The exit code of a container that somebody stopped is that of the signal, or
whatever its program makes of it, and says nothing. And where no container has the name `db`, the engine hands
out whichever container's id begins with it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import requests

from self_healing_fabric.diagnosis.patterns import Change, ChangeKind, Pattern
from self_healing_fabric.diagnosis.sources import (
    LOOK_BACK,
    Condition,
    Fact,
    Report,
    SourceUnusable,
    quoted,
)
from self_healing_fabric.diagnosis.sources.exits import OUT_OF_MEMORY, how_it_ended, supported_by
from self_healing_fabric.incidents.evidence import Evidence
from self_healing_fabric.servers_asked import asking
from self_healing_fabric.settings import DockerRecovery

try:
    from docker.errors import DockerException, NotFound

    from self_healing_fabric.containers import Engine, command_of, moment, was_stopped
except ModuleNotFoundError as error:
    raise SourceUnusable("containers need an extra: pip install 'self-healing-fabric[docker]'") from error

SHORT_ID = 12  # characters of an id that `docker ps` shows and people copy
RESTART_LOOP = 3  # starts within the hour that nobody ordered
_KINDS = ("oom", "die", "start", "stop", "restart")


class DockerSource:
    """One container of one engine."""

    name = "docker"

    def __init__(self, service: str, settings: DockerRecovery) -> None:
        self._service = service
        self._settings = settings
        self._docker = command_of(settings.host)
        self._inspect = f"{self._docker} inspect {settings.container}"

    def look(self, at: float, within: float) -> Report:
        """Inspect the container and read its events of the last hour."""
        wanted, ends = self._settings.container, time.monotonic() + within
        try:
            with asking("docker", self._settings.host):  # the client asks for the engine's version
                engine = Engine(self._settings.host, max(1, math.ceil(within)))
        except (DockerException, requests.RequestException) as error:
            raise SourceUnusable(
                f"the engine at {self._settings.host} cannot be asked: {quoted(error)}"
            ) from error
        try:
            attributes: Mapping[str, Any] = engine.containers.get(wanted).attrs
            name, id_ = attributes["Name"].removeprefix("/"), attributes["Id"]
            if wanted != name and not (len(wanted) >= SHORT_ID and id_.startswith(wanted)):
                raise SourceUnusable(f"no container is called {wanted}; {name} only has an id that begins so")
            missing: tuple[str, ...] = ()
            try:
                left = max(0.1, ends - time.monotonic())
                events = engine.events_of(id_, _KINDS, at=at, within=left, back=LOOK_BACK)
            except (DockerException, requests.RequestException, ValueError, KeyError) as error:
                events, missing = (), (f"docker: the events of {wanted}: {quoted(error)}",)
            seen = Report(*self._of_container(attributes, events, at), missing)
            return seen + Report(tuple(self._of_events(events, attributes, at)), self._restarts(events))
        except NotFound as error:
            raise SourceUnusable(f"no container is called {wanted}") from error
        except (DockerException, requests.RequestException) as error:
            raise SourceUnusable(
                f"the engine at {self._settings.host} cannot be asked: {quoted(error)}"
            ) from error
        finally:
            engine.close()

    def _of_container(
        self, attributes: Mapping[str, Any], events: Sequence[Mapping[str, Any]], at: float
    ) -> tuple[tuple[Fact, ...], tuple[Change, ...]]:
        facts = (*self._state(attributes, events, at), *self._health(attributes["State"], at))
        created = moment(attributes["Created"])
        if created is None or at - created > LOOK_BACK:
            return facts, ()
        image = quoted(attributes["Config"].get("Image", "its image"))
        told = f"container {self._settings.container} was created from {image}"
        change = Change(self._service, created, told, ChangeKind.ROLLOUT, self._inspect)
        return facts, (change,)

    def _state(
        self, attributes: Mapping[str, Any], events: Sequence[Mapping[str, Any]], at: float
    ) -> Iterator[Fact]:
        state, restarts = attributes["State"], int(attributes.get("RestartCount") or 0)
        container, code = self._settings.container, int(state.get("ExitCode") or 0)
        finished = moment(state.get("FinishedAt", ""))
        if state.get("Status") == "created":
            words = quoted(state.get("Error") or "it was never started")
            yield self._fact(
                f"Container {container} has not been started: {words}.",
                float(code),
                at,
                {Pattern.CONFIGURATION_ERROR: 0.8} if state.get("Error") else {},
                Condition.DOWN,
            )
        elif was_stopped(attributes, events):
            yield self._fact(
                f"Somebody has stopped container {container}: it did not end by itself.",
                float(code),
                finished or at,
                {Pattern.CONFIGURATION_ERROR: 0.6},
                Condition.DOWN,
            )
        elif not state.get("Running") or state.get("Restarting"):
            oom = bool(state.get("OOMKilled"))
            memory = f": it was out of memory{_limit(attributes)}" if oom else ""
            again = f"; its restart policy has started it {restarts} times" if restarts else ""
            yield self._fact(
                f"Container {container} ended with {how_it_ended(code)}{memory}{again}.",
                float(code),
                finished or at,
                OUT_OF_MEMORY if oom else supported_by(code),
                Condition.DOWN,
            )
        elif state.get("Paused"):
            yield self._fact(f"Container {container} is paused.", 1.0, at, {}, Condition.DOWN)
        else:
            started = moment(state.get("StartedAt", "")) or at
            yield self._fact(
                f"Container {container} has been running for {max(0.0, at - started):.0f} s.", started, at
            )

    def _health(self, state: Mapping[str, Any], at: float) -> Iterator[Fact]:
        health = state.get("Health")
        if not isinstance(health, Mapping) or not state.get("Running"):
            return
        container, status = self._settings.container, health.get("Status")
        if status == "healthy":
            sentence = f"The health probe of container {container} passes."
            yield self._fact(sentence, 1.0, at, {}, Condition.WELL)
        elif status == "unhealthy":
            failed = [entry for entry in health.get("Log") or [] if entry.get("ExitCode")]
            last = failed[-1] if failed else {}
            words = quoted(last.get("Output") or "")
            sentence = (
                f"Container {container} is unhealthy after {health.get('FailingStreak', 0)} failed probes"
            )
            yield self._fact(
                f"{sentence}, the last one: {words}." if words else f"{sentence}.",
                float(health.get("FailingStreak") or 0),
                moment(last.get("End", "")) or at,
                {Pattern.CODE_BUG: 0.3},
                Condition.PARTIAL,
            )

    def _of_events(
        self, events: Sequence[Mapping[str, Any]], attributes: Mapping[str, Any], at: float
    ) -> Iterator[Fact]:
        container, state = self._settings.container, attributes["State"]
        since = f"{self._docker} events --since 1h --until 0s --filter container={container}"
        ends = [_attributes(event).get("exitCode", "") for event in events if event.get("Action") == "die"]
        killed = [event for event in events if event.get("Action") == "oom"]
        # That of a container that has ended was told already, by the engine's own flag.
        if killed and not (state.get("OOMKilled") and not state.get("Running")):
            died = "137" in ends
            sentence = f"Container {container} ran out of memory {_times(len(killed))} within the last hour"
            sentence += f"{_limit(attributes)}, and was killed for it." if died else f"{_limit(attributes)}."
            # Memory may have ended a child only, and the container went on.
            weight = OUT_OF_MEMORY if died else {Pattern.RESOURCE_EXHAUSTION: 0.7}
            yield Fact(Evidence(sentence, since, float(len(killed)), _time_of(killed[-1])), weight)
        starts = sum(event.get("Action") == "start" for event in events)
        ordered = sum(event.get("Action") == "restart" for event in events)
        by_itself = starts - ordered
        if ends and by_itself >= RESTART_LOOP:
            codes = ", ".join(
                how_it_ended(int(code)) for code in dict.fromkeys(ends) if code.lstrip("-").isdigit()
            )
            sentence = f"Container {container} ended {_times(len(ends))} within the last hour, with {codes}."
            running = state.get("Running") and not state.get("Restarting")
            last = int(ends[-1]) if ends[-1].lstrip("-").isdigit() else 0
            supports = supported_by(last) if running and not killed else {}
            yield Fact(Evidence(sentence, since, float(len(ends)), _time_of(events[-1])), supports)

    def _restarts(self, events: Sequence[Mapping[str, Any]]) -> tuple[Change, ...]:
        ordered = [event for event in events if event.get("Action") == "restart"]
        if not ordered:
            return ()
        told = f"container {self._settings.container} was restarted on demand"
        return (Change(self._service, _time_of(ordered[-1]), told, ChangeKind.RESTART, self._inspect),)

    def _fact(
        self,
        sentence: str,
        value: float,
        at: float,
        supports: Mapping[Pattern, float] | None = None,
        condition: Condition | None = None,
    ) -> Fact:
        return Fact(Evidence(sentence, self._inspect, value, at), supports or {}, None, condition)


def _time_of(event: Mapping[str, Any]) -> float:
    return float(event.get("timeNano", 0)) / 1e9 or float(event.get("time", 0))


def _attributes(event: Mapping[str, Any]) -> Mapping[str, str]:
    actor = event.get("Actor")
    return actor.get("Attributes") or {} if isinstance(actor, Mapping) else {}


def _limit(attributes: Mapping[str, Any]) -> str:
    limit = int((attributes.get("HostConfig") or {}).get("Memory") or 0)
    return f" (limit {limit / 2**20:.0f} MiB)" if limit else ""


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
