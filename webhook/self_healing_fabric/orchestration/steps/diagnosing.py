"""Detected and diagnosing: what fails, why, and what may be tried."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection

from self_healing_fabric.diagnosis import Diagnosis, diagnose
from self_healing_fabric.diagnosis.calibration import Calibration
from self_healing_fabric.diagnosis.call_graph import CallGraph
from self_healing_fabric.diagnosis.evidence import Observations, collect
from self_healing_fabric.diagnosis.history import HISTORY, locate
from self_healing_fabric.diagnosis.localization import Localization
from self_healing_fabric.diagnosis.patterns import Change
from self_healing_fabric.diagnosis.scoring import Symptom
from self_healing_fabric.diagnosis.sources.inquiry import Inquiry
from self_healing_fabric.errors import LeaseLost
from self_healing_fabric.incidents import correlation
from self_healing_fabric.incidents.lifecycle import Rise, State, Transition
from self_healing_fabric.incidents.models import Incident
from self_healing_fabric.incidents.timeline import Entry, Kind
from self_healing_fabric.incidents.topology import Topology
from self_healing_fabric.orchestration import journal
from self_healing_fabric.orchestration.context import Context
from self_healing_fabric.orchestration.steps.common import (
    CAUSE,
    Alerts,
    Step,
    alerts_of,
    evidence_entry,
    facts_of,
    merged_into,
    merged_into_cause,
    to_people,
    until_silence_ends,
    waited,
    with_changes,
)
from self_healing_fabric.orchestration.steps.verifying import healed_meanwhile
from self_healing_fabric.recovery.effectiveness import Attempt, Record, records_of
from self_healing_fabric.recovery.effects import TargetUnreadable
from self_healing_fabric.recovery.planning import TRUSTED_CAUSE, Plan, make_plan
from self_healing_fabric.recovery.platforms import owner_of
from self_healing_fabric.store import statements
from shf_queries import catalogue
from shf_queries.catalogue import ERROR_RATIO, HEARTBEAT, LATENCY_P95

MOST_ATTEMPTS = 200  # verified attempts on one target that are looked at
CAUSE_POLL = 2.0  # seconds between two looks for the alert of a suspected cause


def detected(_: Incident, __: Context) -> Step:
    """It is looked into at once."""
    return Step(Transition(State.DIAGNOSING, 0.0))


def diagnosing(incident: Incident, context: Context) -> Step:
    """Ask Prometheus, diagnose, plan."""
    merged = merged_into_cause(incident, context)
    if merged is not None:
        return merged
    now, alerts = context.clock(), alerts_of(incident, context)
    if alerts.silenced:
        facts = facts_of(incident, context)
        return healed_meanwhile(incident, context, facts) or until_silence_ends(incident)
    service = str(incident.service)
    configured = context.settings.services[service]
    topology = context.graph.topology
    calibration = context.calibrator.calibration(now)
    dependencies, dependants = sorted(topology.direct_dependencies(service)), topology.dependants(service)
    acquitted = _acquitted(incident, context)
    with context.metrics.diagnosis_seconds.time():
        sources = context.sources(service, configured, context.settings.kubernetes, dependencies)
        inquiry = Inquiry(sources, at=now, within=context.settings.diagnosis.timeout)
        seen = collect(
            context.prometheus,
            service=service,
            depends_on=[each for each in dependencies if each != acquitted],
            thresholds=context.settings.thresholds_of(service),
            at=now,
            called_by=[name for name, hops in dependants.items() if hops == 1],
        ).with_report(inquiry.report())
        diagnosis = diagnose(
            seen,
            localization=_localization(incident, context, alerts, seen, calibration, acquitted, now),
            calibration=calibration,
            alert_signals=alerts.signals,
            opened_at=incident.opened_at,
            severity=incident.severity,
            tier=configured.tier,
            dependants=dependants,
            tiers={name: context.settings.services[name].tier for name in dependants},
        )
    suspected = _suspected_dependency(incident, context, diagnosis, alerts, seen)
    if suspected is not None:
        return suspected
    plan = make_plan(
        failure_class=diagnosis.failure_class.value,
        cause_service=diagnosis.cause.service,
        confidence=diagnosis.service_confidence,
        service=service,
        settings=context.settings,
        known=context.strategies,
        records=_records(context, service, diagnosis),
    )
    return _diagnosed(incident, context, diagnosis, plan, alerts)


def _acquitted(incident: Incident, context: Context) -> str | None:
    """The service of which this was taken for a symptom, and is none: it has healed, or a person says so.

    Its windows, and its series around the alert, go on telling of a failure that is over, and the repair
    would be left out for it.
    """
    if incident.split_from is None:
        return None
    origin = str(incident.split_from)
    row = context.store.read(lambda connection: statements.incident(connection, origin))
    return None if row is None else row.service


def _records(context: Context, service: str, diagnosis: Diagnosis) -> Mapping[str, Record]:
    """What is known to have worked on the service's target for such a failure."""
    try:
        target = owner_of(service, context.settings)
    except TargetUnreadable:
        return {}  # the plan says why
    failure_class = diagnosis.failure_class.value
    rows = context.store.ask(
        lambda connection: statements.verified_actions_on(connection, target, failure_class, MOST_ATTEMPTS)
    )
    return records_of(
        [Attempt(row.strategy, row.pattern, row.verdict) for row in rows], diagnosis.cause.pattern.value
    )


def _localization(
    incident: Incident,
    context: Context,
    alerts: Alerts,
    seen: Observations,
    calibration: Calibration,
    acquitted: str | None,
    now: float,
) -> Localization:
    """What the series around the beginning of what fails now say."""
    service, began = str(incident.service), _began(incident, alerts)
    signals = [signal for signal in (incident.signal, *alerts.signals) if signal]
    settings = context.settings
    return locate(
        context.prometheus,
        symptom=Symptom(service, catalogue.kind_of_signal(signals[0]) if signals else "", min(began, now)),
        graph=_calls(context.graph.topology),
        at=now,
        interval=max(settings.prometheus.scrape_interval, settings.prometheus.evaluation_interval),
        changes=_changes(seen),
        calibration=calibration,
        without=acquitted,
    )


@lru_cache(maxsize=1)  # the same for all incidents until the service graph is asked again
def _calls(topology: Topology) -> CallGraph:
    return CallGraph.of_dependencies({name: topology.direct_dependencies(name) for name in topology.services})


def _began(incident: Incident, alerts: Alerts) -> float:
    """When what fails now began: the first alert of those that fire, or of all where none does any more.

    An incident may relapse, or begin anew for another signal days later: alerts that have ended, or came more
    than an hour before the newest, are of what it was about before.
    """
    firing = [row for row in alerts.alerts if row.status == "firing"]
    told = (correlation.started_at(row.starts_at) for row in firing or alerts.alerts)
    starts = [incident.opened_at if each is None else each for each in told]
    newest = max(starts, default=incident.opened_at)
    return min((at for at in starts if newest - at <= HISTORY), default=newest)


def _changes(seen: Observations) -> tuple[Change, ...]:
    """What changed in the service itself: what its platform says, and its newest process."""
    query = catalogue.start_time_of(seen.service)
    started = seen.value(query)
    if started is None:
        return seen.report.changes
    return (*seen.report.changes, Change(seen.service, started, "it started", query=query))


def _suspected_dependency(
    incident: Incident, context: Context, diagnosis: Diagnosis, alerts: Alerts, seen: Observations
) -> Step | None:
    """A cause that does not alert (yet): suspect it, and wait for its own alert before anything is done.

    Only time for which it waited for that counts: after a Prometheus that was away for long, its alerts need
    theirs too.
    """
    cause = diagnosis.cause
    waited_enough = waited(incident, context, CAUSE) >= context.settings.correlation.wait_for_cause
    if not alerts.own_alerts:
        reason = f"an alert of {incident.service}, the likely cause"
        if not waited_enough:
            return Step(Transition(State.DIAGNOSING, CAUSE_POLL, waiting_for=f"{CAUSE}: {reason}"))
        # No alert names a signal by which its health could be told before an action: it is only watched
        # whether that ends for which it is suspected.
        suspected_for = incident.suspected_for.union(_breaches(seen, seen.service))
        why = _why_no_alert_came(seen.service, context)
        told, vain = _diagnosis_entries(diagnosis), f"waited in vain for {reason}, {why}"
        step = to_people(incident, context, vain, *told, suspected_for=suspected_for)
        transition = with_changes(step.transition, **_diagnosis_columns(diagnosis))
        return Step(transition, also=(_unless_more_came(incident, alerts),))
    if waited_enough:
        return None
    known = cause.service in context.settings.services and cause.service != incident.service
    if not known or cause.confidence < TRUSTED_CAUSE or incident.split_from is not None:
        return None
    breaches = _breaches(seen, cause.service)
    if not breaches:
        return None  # it has changed, but is inside its limits: an alert of its own is not to be expected
    subject = correlation.subject_of(cause.service)
    rows = context.store.read(lambda connection: statements.open_incidents_of(connection, {subject}))
    if rows and rows[0].resolved_at is None:
        return merged_into(incident, context, rows[0])
    if rows:
        reason = (
            f"{CAUSE}: {cause.service}, the likely cause, was resolved a moment ago: this may end by itself"
        )
        return Step(Transition(State.DIAGNOSING, CAUSE_POLL, waiting_for=reason))
    message = f"{incident.service} depends on {cause.service}, which fails too and is suspected from now on."
    changes = correlation.moved_to(cause.service, context.clock())
    title = f"{cause.service} fails, on which {incident.service} depends"  # it has no alert to be named after
    changes |= {"verification": {"signals": breaches}, "title": title}
    return Step(
        Transition(
            State.DIAGNOSING, 0.0, (*_diagnosis_entries(diagnosis), Entry(Kind.STATE, message)), changes
        )
    )


def _why_no_alert_came(service: str, context: Context) -> str:
    """Of what people silence Alertmanager notifies nobody: then somebody may be working on it."""
    firing = context.prometheus.instant(catalogue.firing_alerts_of(service))
    names = sorted({sample.labels["alertname"] for sample in firing})
    if not names:
        return "which does not alert itself"
    told = f"{', '.join(names)} fires in Prometheus"
    return f"which is not notified: {told}, and is silenced, inhibited or not routed here"


def _breaches(seen: Observations, service: str) -> list[str]:
    """The signals for which a service without alerts is suspected."""
    signals = (HEARTBEAT, ERROR_RATIO, LATENCY_P95)
    return [each.name for each in signals if seen.failing(each, service)]


def _diagnosed(
    incident: Incident, context: Context, diagnosis: Diagnosis, plan: Plan, alerts: Alerts
) -> Step:
    entries = (
        *_diagnosis_entries(diagnosis),
        Entry(Kind.PLAN, str(plan), plan.as_dict()),
    )
    changes = {**_diagnosis_columns(diagnosis), "plan": list(plan.strategies)}
    if plan.strategies:
        return Step(
            Transition(
                State.RECOVERING, 0.0, entries, changes, rise=_call_at_once(incident, context, diagnosis)
            )
        )
    reason = f"nothing may be tried for {diagnosis.failure_class.value}: {plan.why_nothing}"
    step = to_people(incident, context, reason, *entries)
    return Step(with_changes(step.transition, **changes), also=(_unless_more_came(incident, alerts),))


def _unless_more_came(incident: Incident, alerts: Alerts) -> journal.Also:
    """Nobody is called for less than has come: a signal that joined meanwhile is diagnosed first."""

    def also(connection: Connection) -> None:
        signals = Alerts(incident.service, statements.alerts_of(connection, incident.id)).signals
        if not set(signals) <= set(alerts.signals):
            raise LeaseLost(f"a new signal joined {incident.id} while it was diagnosed")

    return also


def _call_at_once(incident: Incident, context: Context, diagnosis: Diagnosis) -> Rise | None:
    """What much depends on is told to people beside the healing."""
    tiers = {diagnosis.impact.tier, diagnosis.impact.business_tier}
    if not context.settings.escalation_policy(incident.service, tiers).call_at_once:
        return None
    return Rise(f"{diagnosis.impact.business_tier} services depend on it: it is told at once", first=True)


def _diagnosis_columns(diagnosis: Diagnosis) -> dict[str, Any]:
    return {
        "diagnosis": diagnosis.as_dict(),
        "failure_class": diagnosis.failure_class.value,
        "pattern": diagnosis.cause.pattern.value,
        "confidence": diagnosis.cause.confidence,
    }


def _diagnosis_entries(diagnosis: Diagnosis) -> list[Entry]:
    facts = dict.fromkeys((*diagnosis.classification.evidence, *diagnosis.cause.evidence))
    known = {(fact.statement, fact.query) for fact in facts}
    facts |= dict.fromkeys(fact for fact in diagnosis.evidence if (fact.statement, fact.query) not in known)
    cause = diagnosis.cause
    message = f"{diagnosis.failure_class.value}: {diagnosis.classification.reason}. "
    if not diagnosis.abstained:
        message += f"Cause: {cause.pattern.value} in {cause.service}, confidence {cause.confidence:.2f}. "
        message += str(diagnosis.impact)
    else:
        lead, query = diagnosis.localization.lead, diagnosis.localization.next_query
        message += "No cause is named, because the evidence carries none. "
        message += f"Strongest lead: {lead}. " if lead else ""
        message += str(diagnosis.impact) + (f" Ask next: {query}" if lead else "")
    told = Entry(Kind.DIAGNOSIS, message, diagnosis.as_dict())
    return [*(evidence_entry(fact) for fact in facts), told]
