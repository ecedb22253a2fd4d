"""What every step needs, in one immutable value, so that a test can replace any part of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from self_healing_fabric.diagnosis.sources import SourcesOf, sources_of
from self_healing_fabric.escalation.channels import Channel
from self_healing_fabric.guardrails.mode import UnstoredPauses
from self_healing_fabric.guardrails.outside import Outside
from self_healing_fabric.orchestration.diagnosis_verdicts import Calibrator
from self_healing_fabric.orchestration.leases import Leases
from self_healing_fabric.orchestration.looks import Looks
from self_healing_fabric.orchestration.service_graph import ServiceGraph
from self_healing_fabric.orchestration.validation import Gate
from self_healing_fabric.recovery.strategies import Strategy
from self_healing_fabric.recovery.verification import Verifier
from self_healing_fabric.settings import Settings
from self_healing_fabric.store import Store
from self_healing_fabric.telemetry import Metrics
from shf_queries import PrometheusClient


@dataclass(frozen=True)
class Context:
    """The fabric's parts. `clock` returns seconds since 1970 (UTC); `sources` tells who is asked besides
    Prometheus."""

    settings: Settings
    store: Store
    prometheus: PrometheusClient
    verifier: Verifier
    strategies: Mapping[str, Strategy]
    channels: Mapping[str, Channel]
    metrics: Metrics
    leases: Leases
    graph: ServiceGraph
    calibrator: Calibrator
    outside: tuple[Outside, ...] = ()  # guardrails that others bring
    gate: Gate | None = None  # asked before an incident may be called healed
    clock: Callable[[], float] = time.time
    unstored_pauses: UnstoredPauses = field(default_factory=UnstoredPauses)
    looks: Looks = field(default_factory=Looks)
    sources: SourcesOf = sources_of
