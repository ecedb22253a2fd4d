"""What kind of failure it is, which decides what may be tried: the first rule that its evidence carries.

The rules are ordered from the worst to the mildest, because a service that does not answer at all also has a
strange latency. `unknown` is an answer: an alert that none of the known signals explains must not be given a
cause.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

from self_healing_fabric.diagnosis.evidence import Observations, config_drift, divergence, flapping
from self_healing_fabric.diagnosis.patterns import Pattern
from self_healing_fabric.diagnosis.sources import Condition
from self_healing_fabric.incidents.evidence import Evidence
from shf_queries import catalogue
from shf_queries.catalogue import CPU, DRIFT, ERROR_RATIO, HEARTBEAT, LATENCY_P95, MEMORY, SIGNALS

MOSTLY_FAILING = 0.5  # of the requests: from here on the service does not do its job
MASS_FAILURE_SHARE = 0.5  # of the services silent at once: suspect the way of watching, heal none one by one
SAID_PLAINLY = 0.6  # weight of a health check that names damaged data
MASS_FAILURE_MINIMUM = 5  # services; with fewer, "more than half" is one or two failures


class FailureClass(StrEnum):
    """The six classes, and that the evidence does not carry any."""

    TRANSIENT = "transient"
    DEGRADATION = "degradation"
    SERVICE_FAILURE = "service_failure"
    DATA_CORRUPTION = "data_corruption"
    CLUSTER_DRIFT = "cluster_drift"
    CRITICAL = "critical"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Classification:
    """The class and the evidence that carries it."""

    failure_class: FailureClass
    evidence: tuple[Evidence, ...]
    reason: str


def classify(seen: Observations, alert_signals: Collection[str]) -> Classification:
    """Classify by what is measured now; `alert_signals` are the signals whose alerts opened the incident."""
    mass = _mass_failure(seen)
    if mass:
        return Classification(FailureClass.CRITICAL, (mass,), "too many services are silent at once")
    silent = seen.breach(HEARTBEAT) or seen.breach(HEARTBEAT, fresh=True)
    if silent:
        return _silent(seen, silent)
    errors = seen.breach(ERROR_RATIO)
    if errors:
        return _errors(seen, errors)
    diverged = _diverged(seen) or _drifted(seen, alert_signals)
    if diverged and diverged.failure_class is FailureClass.DATA_CORRUPTION:
        return diverged
    degraded = tuple(evidence for signal in (LATENCY_P95, CPU, MEMORY) if (evidence := seen.breach(signal)))
    if degraded:
        return Classification(
            FailureClass.DEGRADATION, degraded, "the service answers, but outside its limits"
        )
    if diverged:
        return diverged
    calm = tuple(
        evidence
        for name in sorted(alert_signals)
        if name in SIGNALS and (evidence := seen.calm(SIGNALS[name]))
    )
    if calm and len(calm) == len(alert_signals):
        return Classification(FailureClass.TRANSIENT, calm, "what was alerted on is inside its limits again")
    return _by_report(seen) or Classification(
        FailureClass.UNKNOWN, calm, "nothing that is measured explains the alert"
    )


def _mass_failure(seen: Observations) -> Evidence | None:
    silent, known = seen.value(catalogue.silent_services()), seen.value(catalogue.known_services())
    if (
        silent is None
        or known is None
        or known < MASS_FAILURE_MINIMUM
        or silent <= known * MASS_FAILURE_SHARE
    ):
        return None
    statement = f"{silent:.0f} of {known:.0f} services are silent at once: suspect the monitoring path."
    return Evidence(statement, catalogue.silent_services(), silent, seen.at)


def _silent(seen: Observations, silent: Evidence) -> Classification:
    often, answered = flapping(seen), seen.calm(HEARTBEAT)
    if often and answered:
        reason = "it has gone silent for moments again and again, and always came back"
        return Classification(FailureClass.TRANSIENT, (silent, often, answered), reason)
    return Classification(FailureClass.SERVICE_FAILURE, (silent,), "the service does not answer")


def _diverged(seen: Observations) -> Classification | None:
    """State or configuration that is wrong by the service's own words, or became wrong within the hour: what
    was so before explains no new alert."""
    damaged = tuple(
        fact.evidence
        for fact in seen.report.facts
        if fact.supports.get(Pattern.DATA_CORRUPTION, 0.0) >= SAID_PLAINLY and fact.service is None
    )
    if damaged:
        return Classification(
            FailureClass.DATA_CORRUPTION,
            damaged,
            "it says itself that its data is damaged: no restart mends that",
        )
    digests, drift = divergence(seen), config_drift(seen)
    if digests and digests.is_new:
        reason = (
            "its replicas hold different states: which one is right must be known before any is restarted"
        )
        return Classification(FailureClass.DATA_CORRUPTION, (digests.evidence,), reason)
    if drift and drift.is_new:
        reason = "its configuration is not the wanted one any more"
        return Classification(FailureClass.CLUSTER_DRIFT, (drift.evidence,), reason)
    return None


def _drifted(seen: Observations, alert_signals: Collection[str]) -> Classification | None:
    """Drift that the alert itself speaks of is what is wrong, however long it has been so."""
    drift = config_drift(seen) if DRIFT.name in alert_signals else None
    if drift is None:
        return None
    reason = "its configuration is not the wanted one"
    return Classification(FailureClass.CLUSTER_DRIFT, (drift.evidence,), reason)


def _by_report(seen: Observations) -> Classification | None:
    """What the platform says, where Prometheus measures nothing that explains the alert."""
    down, partial = seen.report.in_condition(Condition.DOWN), seen.report.in_condition(Condition.PARTIAL)
    if down:
        return Classification(FailureClass.SERVICE_FAILURE, down, "its platform says that it does not run")
    if partial:
        return Classification(FailureClass.DEGRADATION, partial, "its platform says that a part of it fails")
    return None


def _errors(seen: Observations, errors: Evidence) -> Classification:
    over = seen.calm(ERROR_RATIO, fresh=True)
    if over:
        return Classification(FailureClass.TRANSIENT, (errors, over), "the errors have stopped")
    diverged = _diverged(seen)
    if diverged:
        return Classification(diverged.failure_class, (*diverged.evidence, errors), diverged.reason)
    if errors.value >= MOSTLY_FAILING:
        return Classification(FailureClass.SERVICE_FAILURE, (errors,), "most requests fail")
    return Classification(FailureClass.DEGRADATION, (errors,), "a part of the requests fails")
