"""Why it fails: the seven patterns, each scored by what speaks for it, ranked, with what was ruled out.

Every rule looks at one fact and says which pattern it supports and how strongly. Weights of one pattern
combine by noisy-or, 1 - (1 - w1)(1 - w2)..., (Pearl, Probabilistic Reasoning in Intelligent Systems, 1988,
section 4.3.2), so two weak hints are worth more than one and no number of hints reaches certainty. A fault in
the code itself leaves no mark of its own; it is what remains, and counts only as much as the other
explanations were really ruled out. The weights are set by judgement: until verdicts have corrected them, read
the confidence as an order, not as a frequency.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from self_healing_fabric.diagnosis.calibration import Calibration
from self_healing_fabric.diagnosis.evidence import (
    Observations,
    config_drift,
    divergence,
    flapping,
    lost_calls_query,
    worst_resource_query,
)
from self_healing_fabric.diagnosis.localization import Localization
from self_healing_fabric.diagnosis.patterns import RECENT_CHANGE, Change, ChangeKind, Pattern
from self_healing_fabric.diagnosis.sources import LOOK_BACK
from self_healing_fabric.incidents.evidence import Evidence
from shf_queries import catalogue
from shf_queries.catalogue import (
    CPU,
    DRIFT,
    ERROR_RATIO,
    HEARTBEAT,
    LATENCY_P95,
    MEMORY,
    REQUEST_RATE,
    SIGNALS,
    Signal,
)

LOST_SHARE = 0.05  # of the calls to a dependency: fewer unanswered ones are no failure that users see
LEAST_CONFIDENCE = 0.3  # below it the cause is reported as unknown, with the strongest lead
NEARLY_EXHAUSTED = 0.85  # of the limit
ONE_SILENT = 0.25  # weight of each of several silent services
ALL_SILENT = 0.75  # of however many: less than that of a dependency among them, where people look first
OVERLOAD_FACTOR = 1.5  # times the usual request rate
RECENT_START = (
    600.0  # seconds; a process that started so shortly before it failed may have started with a bad setting
)


_SUPPORTED_BY_CHANGE: Mapping[ChangeKind, Mapping[Pattern, float]] = {
    ChangeKind.ROLLOUT: {Pattern.CODE_BUG: 0.35, Pattern.CONFIGURATION_ERROR: 0.35},
    ChangeKind.CONFIGURATION: {Pattern.CONFIGURATION_ERROR: 0.5, Pattern.CODE_BUG: 0.15},
    ChangeKind.SCALE: {Pattern.SERVICE_OVERLOAD: 0.2},
    ChangeKind.RESTART: {},  # the start of the process itself tells, also where nobody reports restarts
}


@dataclass(frozen=True)
class Finding:
    """One fact that supports a pattern in a service with a weight from 0 to 1."""

    pattern: Pattern
    service: str
    weight: float
    evidence: Evidence
    by_elimination: bool = False


@dataclass(frozen=True)
class Cause:
    """A pattern in a service with the combined confidence (0.0 to 1.0) and all that supports it.

    `by_elimination`: nothing supports it but that other explanations were ruled out.
    """

    pattern: Pattern
    service: str
    confidence: float
    evidence: tuple[Evidence, ...] = ()
    by_elimination: bool = False

    def as_dict(self) -> dict[str, Any]:
        """The cause as JSON."""
        return {
            "pattern": self.pattern.value,
            "service": self.service,
            "confidence": round(self.confidence, 3),
            "evidence": [evidence.as_dict() for evidence in self.evidence],
        }


def analyze(seen: Observations, opened_at: float) -> tuple[Cause, tuple[Cause, ...]]:
    """Return the most likely cause and the ranked alternatives; `opened_at` is when the incident opened."""
    findings = [finding for rule in _RULES for finding in rule(seen, opened_at)]
    findings += _what_remains(seen, findings)
    ranked = sorted(_combine(findings), key=lambda cause: (-cause.confidence, cause.pattern, cause.service))
    if not ranked or ranked[0].confidence < LEAST_CONFIDENCE:
        return Cause(Pattern.UNKNOWN, seen.service, 0.0), tuple(ranked)
    return ranked[0], tuple(ranked[1:])


def calibrated(
    ruled: tuple[Cause, tuple[Cause, ...]], calibration: Calibration, service: str
) -> tuple[Cause, tuple[Cause, ...]]:
    """Correct the confidence of all causes by what verdicts have taught; what is too low then is unknown, in
    the diagnosed `service`.

    The order stays, and what was unknown stays so: verdicts must not turn a lead into a finding.
    """
    causes = tuple(replace(each, confidence=calibration.apply(each.confidence)) for each in named(ruled))
    if ruled[0].pattern is Pattern.UNKNOWN or causes[0].confidence < LEAST_CONFIDENCE:
        return Cause(Pattern.UNKNOWN, service, 0.0), causes
    return causes[0], causes[1:]


def named(ruled: tuple[Cause, tuple[Cause, ...]]) -> tuple[Cause, ...]:
    """The cause and its alternatives in their order, without the cause that is unknown."""
    return tuple(each for each in (ruled[0], *ruled[1]) if each.pattern is not Pattern.UNKNOWN)


def with_localization(
    ruled: tuple[Cause, tuple[Cause, ...]], found: Localization
) -> tuple[Cause, tuple[Cause, ...]]:
    """Rank what the series over time say among what the rules of this module say, by confidence.

    Where both name the same pattern in the same service they are one cause, with the higher confidence of the
    two and the evidence of both: they look at the same series, so they do not confirm each other. An
    abstaining localisation changes nothing. What was concluded by elimination alone counts less by what the
    series say for other causes: c (1 - p), because those were not eliminated. Where all are too weak after
    that, the cause is unknown, in the service that the rules diagnosed.
    """
    if found.abstained:
        return ruled
    evidence = tuple(
        Evidence(claim.statement, claim.query, claim.value, claim.at, claim.baseline, round(claim.bits, 3))
        for claim in found.suspects[0].claims
    )
    seen = Cause(found.pattern, found.lead, found.shares[found.pattern], evidence)
    ranked = [_doubted(each, found) for each in named(ruled)]
    same = [each for each in ranked if (each.pattern, each.service) == (seen.pattern, seen.service)]
    if same:
        seen = replace(
            seen,
            confidence=max(seen.confidence, same[0].confidence),
            evidence=(*same[0].evidence, *seen.evidence),
        )
    ranked = [seen, *(each for each in ranked if each not in same)]
    ranked.sort(key=lambda each: (-each.confidence, each.pattern, each.service))
    if ranked[0].confidence < LEAST_CONFIDENCE:
        return Cause(Pattern.UNKNOWN, ruled[0].service, 0.0), tuple(ranked)
    return ranked[0], tuple(ranked[1:])


def _doubted(cause: Cause, found: Localization) -> Cause:
    """p is how sure the series are of another service, or in the same service of another pattern."""
    if not cause.by_elimination or (found.pattern, found.lead) == (cause.pattern, cause.service):
        return cause
    other = found.shares[found.pattern] if found.lead == cause.service else found.confidence
    return replace(cause, confidence=cause.confidence * (1.0 - other))


def _combine(findings: list[Finding]) -> Iterator[Cause]:
    """Noisy-or over the findings of each pattern and service."""
    for pattern, service in dict.fromkeys((finding.pattern, finding.service) for finding in findings):
        same = [finding for finding in findings if (finding.pattern, finding.service) == (pattern, service)]
        doubt = 1.0
        for finding in same:
            doubt *= 1.0 - finding.weight
        evidence = tuple(replace(finding.evidence, weight=finding.weight) for finding in same)
        eliminated = all(finding.by_elimination for finding in same)
        yield Cause(pattern, service, 1.0 - doubt, evidence, by_elimination=eliminated)


def _exhausted_resources(seen: Observations, _: float) -> Iterator[Finding]:
    for signal, weight in ((CPU, 0.8), (MEMORY, 0.9)):
        worst, limit = _worst(seen, signal), seen.limit(signal)
        if worst is None or limit is None:
            continue
        if worst.value > limit.value:
            yield Finding(Pattern.RESOURCE_EXHAUSTION, seen.service, weight, worst)
        elif worst.value > limit.value * NEARLY_EXHAUSTED:
            yield Finding(Pattern.RESOURCE_EXHAUSTION, seen.service, 0.3, worst)


def _failing_dependencies(seen: Observations, _: float) -> Iterator[Finding]:
    for dependency in seen.depends_on:
        for signal, weight in ((HEARTBEAT, 0.8), (ERROR_RATIO, 0.7), (LATENCY_P95, 0.6)):
            evidence = seen.failing(signal, dependency)
            if evidence:
                yield Finding(Pattern.DEPENDENCY_FAILURE, dependency, weight, evidence)


def _lost_calls(seen: Observations, _: float) -> Iterator[Finding]:
    """Calls that got no answer from a dependency which itself answers and did not start anew: what lies
    between. The worst of the last minutes, since it may be over before it is heard of."""
    for dependency in seen.depends_on:
        query = lost_calls_query(seen.service, dependency)
        lost, started = seen.value(query), seen.value(catalogue.start_time_of(dependency))
        if lost is None or lost <= LOST_SHARE or not seen.calm(HEARTBEAT, service=dependency):
            continue
        if started is not None and seen.at - started <= RECENT_START:
            continue  # its start may have lost them
        statement = f"{seen.service}: up to {lost:.0%} of its calls to {dependency} got no answer."
        yield Finding(Pattern.NETWORK_ISSUE, dependency, 0.6, Evidence(statement, query, lost, seen.at))


def _gone_for_callers(seen: Observations, _: float) -> Iterator[Finding]:
    """Its process is gone and its callers fail: what `_failing_dependencies` says from the callers' end.

    Only when nothing listens any more: what is cut off or hangs refuses nothing. A witness that says why the
    process ended knows more.
    """
    gone = [fact.evidence for fact in seen.report.facts if fact.is_gone]
    silent = seen.breach(HEARTBEAT) or seen.breach(HEARTBEAT, fresh=True)
    explained = any(fact.supports for fact in seen.report.facts if fact.service is None)
    if not gone or not silent or explained:
        return
    for caller in seen.called_by:
        failing = seen.breach(ERROR_RATIO, service=caller) or seen.breach(LATENCY_P95, service=caller)
        if failing:
            yield Finding(Pattern.DEPENDENCY_FAILURE, seen.service, 0.6, gone[0])
            yield Finding(Pattern.DEPENDENCY_FAILURE, seen.service, 0.5, failing)
            return


def _overload(seen: Observations, _: float) -> Iterator[Finding]:
    load = _load(seen)
    if load and load.value > OVERLOAD_FACTOR:
        yield Finding(Pattern.SERVICE_OVERLOAD, seen.service, min(0.8, 0.3 * load.value), load)


def _several_silent(seen: Observations, _: float) -> Iterator[Finding]:
    """Each counts by itself (noisy-or): that many fall silent at once by chance is less likely than that two
    do."""
    silent = seen.value(catalogue.silent_services())
    if silent is not None and silent > 1 and seen.breach(HEARTBEAT):
        evidence = Evidence(
            f"{silent:.0f} services fell silent.", catalogue.silent_services(), silent, seen.at
        )
        weight = min(1.0 - (1.0 - ONE_SILENT) ** silent, ALL_SILENT)
        yield Finding(Pattern.NETWORK_ISSUE, seen.service, weight, evidence)


def _recent_start(seen: Observations, opened_at: float) -> Iterator[Finding]:
    started = seen.value(catalogue.start_time_of(seen.service))
    if any(_SUPPORTED_BY_CHANGE[change.kind] for change in _recent(seen, opened_at)):
        return  # it started because of that change, which says more
    if started is None or not opened_at - RECENT_START <= started < opened_at:
        return
    statement = f"{seen.service} had started only {opened_at - started:.0f} s before it failed."
    evidence = Evidence(statement, catalogue.start_time_of(seen.service), started, seen.at)
    yield Finding(Pattern.CONFIGURATION_ERROR, seen.service, 0.35, evidence)


def recent_changes(seen: Observations, opened_at: float) -> tuple[Evidence, ...]:
    """What was changed shortly before the incident opened, the newest first."""
    return tuple(_told(change, opened_at) for change in _recent(seen, opened_at))


def _recent(seen: Observations, opened_at: float) -> Iterator[Change]:
    for change in sorted(seen.report.changes, key=lambda change: -change.at):
        if 0 <= opened_at - change.at <= RECENT_CHANGE:
            yield change


def _told(change: Change, opened_at: float) -> Evidence:
    sentence = f"{change.service}: {change.what}, {opened_at - change.at:.0f} s before the incident."
    return Evidence(sentence, change.query, change.at, change.at, source=change.source)


def _changed(seen: Observations, opened_at: float) -> Iterator[Finding]:
    told = set()
    for change in _recent(seen, opened_at):
        if change.kind in told:
            continue  # three rollouts in a row are no more likely to be the cause than the last of them
        told.add(change.kind)
        for pattern, weight in _SUPPORTED_BY_CHANGE[change.kind].items():
            yield Finding(pattern, change.service, weight, _told(change, opened_at))


def _reported(seen: Observations, _: float) -> Iterator[Finding]:
    """What the platform and the service itself say."""
    for fact in seen.report.facts:
        for pattern, weight in fact.supports.items():
            yield Finding(pattern, fact.service or seen.service, weight, fact.evidence)


def _drifted(seen: Observations, _: float) -> Iterator[Finding]:
    drift, digests = config_drift(seen), divergence(seen)
    if drift is not None:
        weight = 0.7 if drift.is_new else 0.3  # with what is always so, it has worked before
        yield Finding(Pattern.CONFIGURATION_ERROR, seen.service, weight, drift.evidence)
    if digests is not None:
        weight = 0.8 if digests.is_new else 0.6
        yield Finding(Pattern.DATA_CORRUPTION, seen.service, weight, digests.evidence)


def _flapping(seen: Observations, _: float) -> Iterator[Finding]:
    """Targets that go silent and come back without a new process: something between them and us."""
    evidence = flapping(seen)
    started = seen.value(catalogue.start_time_of(seen.service))
    restarted = started is not None and seen.at - started <= LOOK_BACK
    if evidence is not None and not restarted:
        # Without a start time a restart loop looks the same.
        yield Finding(Pattern.NETWORK_ISSUE, seen.service, 0.35 if started is None else 0.55, evidence)


_RULES: tuple[Callable[[Observations, float], Iterator[Finding]], ...] = (
    _exhausted_resources,
    _failing_dependencies,
    _lost_calls,
    _gone_for_callers,
    _overload,
    _several_silent,
    _recent_start,
    _changed,
    _reported,
    _drifted,
    _flapping,
)


def _what_remains(seen: Observations, findings: list[Finding]) -> Iterator[Finding]:
    """A fault of the service's own code: it fails, and the other explanations were ruled out.

    Code does not mend itself: of a failure that has ended there is nothing to conclude.
    """
    # Drift is a cause and no failure: it says nothing of the code.
    symptoms = [signal for signal in SIGNALS.values() if signal is not DRIFT]
    failing = [
        evidence
        for signal in symptoms
        if (evidence := seen.breach(signal)) and not seen.calm(signal, fresh=True)
    ]
    if not failing or any(finding.weight >= 0.5 for finding in findings):
        return
    ruled_out = list(_ruled_out(seen))
    yield Finding(Pattern.CODE_BUG, seen.service, 0.25, failing[0], by_elimination=True)
    for evidence in ruled_out:
        yield Finding(Pattern.CODE_BUG, seen.service, 0.15, evidence, by_elimination=True)


def _ruled_out(seen: Observations) -> Iterator[Evidence]:
    for signal in (CPU, MEMORY):
        worst, limit = _worst(seen, signal), seen.limit(signal)
        if worst and limit and worst.value <= limit.value * NEARLY_EXHAUSTED:
            yield worst
    load = _load(seen)
    if load and load.value <= OVERLOAD_FACTOR:
        yield load
    for dependency in seen.depends_on:
        answering = seen.calm(HEARTBEAT, service=dependency)
        if answering:
            yield answering


def _worst(seen: Observations, signal: Signal) -> Evidence | None:
    query = worst_resource_query(signal, seen.service)
    value = seen.value(query)
    if value is None:
        return None
    return Evidence(
        f"{seen.service}: {signal.name} was at most {value:.0%} ({signal.unit}).", query, value, seen.at
    )


def _load(seen: Observations) -> Evidence | None:
    """The request rate relative to the usual one; the evidence's query is that of the quotient."""
    usual_query = catalogue.usual_request_rate_of(seen.service)
    rate, usual = seen.signal(REQUEST_RATE), seen.value(usual_query)
    if rate is None or usual is None or usual <= 0:
        return None
    query = f"{catalogue.series_of(REQUEST_RATE, seen.service)} / {usual_query}"
    return Evidence(
        f"{seen.service} gets {rate / usual:.2f} x its usual requests.", query, rate / usual, seen.at
    )
