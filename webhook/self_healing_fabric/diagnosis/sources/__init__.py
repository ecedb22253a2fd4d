"""What is asked besides Prometheus: the platform that a service runs on, and the service's health endpoint.

Metrics say that a process is gone; only the platform knows that it was killed for its memory, or that the
image of the rollout four minutes ago does not exist. Each source looks at one configured target and returns
facts with the command that shows them, so a person can look for themselves. A source never acts and never
raises beyond `SourceUnusable`: what could not be seen is said, because silence must not read like health.

To add a source, add a module with a class that has the protocol's methods, and name it in `sources_of`; other
packages add theirs by an entry point (`extensions`).
Everything that a target answers is a stranger's text: it is shown, shortened, and never followed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Protocol

from self_healing_fabric.diagnosis.patterns import Change, Pattern
from self_healing_fabric.errors import ShfError
from self_healing_fabric.incidents.evidence import Evidence
from self_healing_fabric.quoting import LONGEST_QUOTE as LONGEST_QUOTE
from self_healing_fabric.quoting import quoted as quoted
from self_healing_fabric.settings import KubernetesSettings, ServiceSettings

LOOK_BACK = 3600.0  # seconds; what happened longer ago is not why it fails now


class SourceUnusable(ShfError):
    """A source cannot be asked at all: install its extra, or correct what the configuration says of it."""


class Condition(StrEnum):
    """What a fact says of whether the target works: not at all, in part, or well."""

    DOWN = "down"
    PARTIAL = "partial"
    WELL = "well"


@dataclass(frozen=True)
class Fact:
    """One thing that a source saw.

    Attributes:
        evidence: the sentence, the command that shows it, its value and its time.
        supports: the patterns that it speaks for, each with a weight from 0 to 1.
        service: where the cause lies if it is one of those; None: in the service that was asked about.
        condition: whether the target works, if the fact says so.
        is_gone: whether it says that no process is there which could answer; one that hangs or cannot be
            reached is not gone.
    """

    evidence: Evidence
    supports: Mapping[Pattern, float] = field(default_factory=dict)
    service: str | None = None
    condition: Condition | None = None
    is_gone: bool = False


@dataclass(frozen=True)
class Report:
    """What a source, or all of them, saw of one service; `missing` is what could not be asked, and why."""

    facts: tuple[Fact, ...] = ()
    changes: tuple[Change, ...] = ()
    missing: tuple[str, ...] = ()

    def __add__(self, other: Report) -> Report:
        return Report(self.facts + other.facts, self.changes + other.changes, self.missing + other.missing)

    def seen_by(self, source: str) -> Report:
        """The same, signed by the source that saw it: its commands are no queries for Prometheus."""
        facts = tuple(replace(fact, evidence=replace(fact.evidence, source=source)) for fact in self.facts)
        return Report(facts, tuple(replace(change, source=source) for change in self.changes), self.missing)

    def in_condition(self, condition: Condition) -> tuple[Evidence, ...]:
        """The evidence of the facts that say so."""
        return tuple(fact.evidence for fact in self.facts if fact.condition is condition)


class Source(Protocol):
    """One target of one service, on one platform."""

    name: str  # as it begins the sentences in `missing`

    def look(self, at: float, within: float) -> Report:
        """Look at the target; `at` is now, in seconds since 1970, `within` the seconds that it may take.

        What happened more than `LOOK_BACK` before `at` is left out. Raises SourceUnusable when nothing can
        be asked; a part that cannot be is named in the report's `missing`.
        """


SourceMaker = Callable[[], Source]


SourcesOf = Callable[[str, ServiceSettings, KubernetesSettings, Collection[str]], Mapping[str, "SourceMaker"]]
"""As `sources_of`: for a service, its settings, the API server and what it depends on."""


def sources_of(
    name: str, service: ServiceSettings, kubernetes: KubernetesSettings, depends_on: Collection[str]
) -> Mapping[str, SourceMaker]:
    """How to make each source that is configured for a service, by name.

    They are made where they are asked: importing a platform's client takes longer than most answers, and one
    that is not installed must not keep the others from being asked. Making one may raise SourceUnusable.
    """
    makers: dict[str, SourceMaker] = {}
    recovery = service.recovery
    if recovery.docker is not None:
        docker = recovery.docker

        def of_docker() -> Source:
            from self_healing_fabric.diagnosis.sources.docker import DockerSource

            return DockerSource(name, docker)

        makers["docker"] = of_docker
    if recovery.kubernetes is not None:
        workload = recovery.kubernetes

        def of_kubernetes() -> Source:
            from self_healing_fabric.diagnosis.sources.kubernetes import KubernetesSource

            return KubernetesSource(name, workload, kubernetes)

        makers["kubernetes"] = of_kubernetes
    if service.health is not None:

        def of_health() -> Source:
            from self_healing_fabric.diagnosis.sources.health import HealthSource

            return HealthSource(name, service, depends_on)

        makers["health"] = of_health
    for plugin, options in service.evidence_sources.items():
        makers[plugin] = _of_plugin(plugin, name, options)
    return makers


def _of_plugin(plugin: str, service: str, options: Any) -> SourceMaker:
    def of_plugin() -> Source:
        from self_healing_fabric.diagnosis.sources.plugin import SourceOfPlugin

        return SourceOfPlugin(plugin, service, options)

    return of_plugin
