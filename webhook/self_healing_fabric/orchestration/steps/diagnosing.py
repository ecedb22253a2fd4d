"""Detected and diagnosing: is it ours, what fails, why, and what may be tried.

An alert that names no configured service ends here: people are told once, and nothing acts on a stranger's
label.
"""

from __future__ import annotations

from datetime import datetime

from self_healing_fabric.diagnosis import Diagnosis, diagnose
from self_healing_fabric.diagnosis.evidence import Observations, collect
from self_healing_fabric.diagnosis.history import locate
from self_healing_fabric.diagnosis.localization import Localization
from self_healing_fabric.diagnosis.patterns import Change
from self_healing_fabric.diagnosis.scoring import Symptom
from self_healing_fabric.diagnosis.topology import CallGraph
from self_healing_fabric.incidents.lifecycle import State, Transition
from self_healing_fabric.incidents.models import Incident
from self_healing_fabric.incidents.timeline import Entry, Kind
from self_healing_fabric.orchestration.context import Context
from self_healing_fabric.orchestration.steps.common import (
    Step,
    evidence_entry,
    signals_of,
    to_people,
    with_changes,
)
from self_healing_fabric.recovery.planning import Plan, make_plan
from self_healing_fabric.store import statements
from shf_queries import catalogue


def detected(incident: Incident, context: Context) -> Step:
    """Ours, or a stranger's that only people see."""
    if incident.known_service:
        return Step(Transition(State.DIAGNOSING, 0.0))
    name = repr(incident.service) if incident.service else "no service"
    reason = f"the alert names {name}, which the configuration does not: nothing will be done about it"
    step = to_people(incident, context, reason)
    # People are told once; an alert that is not ours to heal must not climb to level 4.
    return Step(with_changes(step.transition, level_due_at=None))


def diagnosing(incident: Incident, context: Context) -> Step:
    """Ask Prometheus, diagnose, plan."""
    now = context.clock()
    service = str(incident.service)
    configured = context.settings.services[service]
    with context.metrics.diagnosis_seconds.time():
        seen = collect(
            context.prometheus,
            service=service,
            depends_on=configured.depends_on,
            thresholds=context.settings.thresholds_of(service),
            at=now,
        )
        dependants = [
            name for name, other in context.settings.services.items() if service in other.depends_on
        ]
        diagnosis = diagnose(
            seen,
            localization=_localization(incident, context, seen, now),
            alert_signals=signals_of(incident, context),
            opened_at=incident.opened_at,
            severity=incident.severity,
            tier=configured.tier,
            dependants=dependants,
        )
    plan = make_plan(
        failure_class=diagnosis.failure_class.value,
        cause_service=diagnosis.cause.service,
        confidence=diagnosis.service_confidence,
        service=service,
        settings=context.settings,
        known=context.strategies,
    )
    return _diagnosed(incident, context, diagnosis, plan)


def _localization(incident: Incident, context: Context, seen: Observations, now: float) -> Localization:
    """What the series of the last hour say, around the first of the incident's alerts."""
    service = str(incident.service)
    rows = context.store.read(lambda connection: statements.alerts_of(connection, incident.id))
    began = min((_started(row.starts_at, incident.opened_at) for row in rows), default=incident.opened_at)
    signals = [signal for signal in (incident.signal, *signals_of(incident, context)) if signal]
    settings = context.settings
    return locate(
        context.prometheus,
        symptom=Symptom(service, catalogue.kind_of_signal(signals[0]) if signals else "", min(began, now)),
        graph=CallGraph.of_dependencies({name: one.depends_on for name, one in settings.services.items()}),
        at=now,
        interval=max(settings.prometheus.scrape_interval, settings.prometheus.evaluation_interval),
        changes=_changes(seen),
    )


def _started(starts_at: str, otherwise: float) -> float:
    """When an alert says that it started: a notification may be minutes late, its own time is not."""
    try:
        return datetime.fromisoformat(starts_at).timestamp()
    except ValueError:
        return otherwise


def _changes(seen: Observations) -> tuple[Change, ...]:
    """What changed in the service itself: its newest process."""
    started = seen.value(catalogue.start_time_of(seen.service))
    return () if started is None else (Change(seen.service, started, "it started"),)


def _diagnosed(incident: Incident, context: Context, diagnosis: Diagnosis, plan: Plan) -> Step:
    entries = (
        *_diagnosis_entries(diagnosis),
        Entry(Kind.PLAN, str(plan), {"strategies": list(plan.strategies)}),
    )
    changes = {
        "diagnosis": diagnosis.as_dict(),
        "failure_class": diagnosis.failure_class.value,
        "pattern": diagnosis.cause.pattern.value,
        "confidence": diagnosis.cause.confidence,
        "plan": list(plan.strategies),
    }
    if plan.strategies:
        return Step(Transition(State.RECOVERING, 0.0, entries, changes))
    step = to_people(incident, context, f"nothing may be tried for {diagnosis.failure_class.value}", *entries)
    return Step(with_changes(step.transition, **changes))


def _diagnosis_entries(diagnosis: Diagnosis) -> list[Entry]:
    facts = dict.fromkeys((*diagnosis.classification.evidence, *diagnosis.cause.evidence))
    cause = diagnosis.cause
    message = (
        f"{diagnosis.failure_class.value}: {diagnosis.classification.reason}. "
        f"Cause: {cause.pattern.value} in {cause.service}, confidence {cause.confidence:.2f}."
    )
    if diagnosis.abstained and diagnosis.localization.lead:
        message += (
            f" Strongest lead: {diagnosis.localization.lead}. Ask next: {diagnosis.localization.next_query}"
        )
    told = Entry(Kind.DIAGNOSIS, message, diagnosis.as_dict())
    return [*(evidence_entry(fact) for fact in facts), told]
