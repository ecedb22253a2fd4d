"""From the series around an alert to a suspect: ranked services, what speaks for and against, and how sure.

The whole path is pure: the same window, symptom, graph, changes and calibration give the same bytes. Where
the evidence does not carry, it abstains: it names the strongest lead and the query to run next, and calls the
pattern unknown, because a guess that reads like a finding sends people to the wrong service.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from self_healing_fabric.diagnosis.calibration import (
    ENOUGH_WINDOWS,
    HELD,
    UNUSUAL,
    Calibration,
    Support,
    confidence_of,
    raw_confidence,
)
from self_healing_fabric.diagnosis.call_graph import CallGraph
from self_healing_fabric.diagnosis.kinds import Family
from self_healing_fabric.diagnosis.onsets import ALERTED
from self_healing_fabric.diagnosis.patterns import ABNORMAL, Change, Classified, Pattern, classify_pattern
from self_healing_fabric.diagnosis.scoring import Factor, Scored, Scorer, Symptom
from self_healing_fabric.diagnosis.shifts import CLEAR
from self_healing_fabric.diagnosis.windows import Window
from shf_queries import catalogue

RULES_VERSION = "2026-11-10"  # changes with every rule, weight or threshold of the diagnosis
QUIET_WINDOWS = 40  # of the same length, before the onset, at most
QUIET_BASELINES = 4  # for them
LEAST_BASELINE = 6  # samples that must remain beside a quiet window
QUIET_SAMPLES = 160  # of each of those baselines, about
LEAST_CONFIDENCE = 0.5  # below it another service is the likelier cause, so nothing is named
LEAST_SCORE = 1.5  # bits: one series of full weight that is clearly shifted is worth two
PRIMARY = 0.35  # of the best series of the service: from here on another may be named as its first trouble
MOSTLY_OWN = 0.5  # of a series: one that something else explains is not the first trouble
SHORT_HISTORY = 20  # samples before the onset; fewer are told
GAPS = 0.2  # of the samples of a series; more are told
SLIGHT = 0.9  # of a series' worth; what takes less from it is not told
TOLD = 5  # series of a suspect that are told, and services without series
RIVALS = 4  # suspects that are told besides the first
WANTED = (Family.CPU, Family.MEMORY, Family.LATENCY, Family.ERRORS, Family.LOAD)  # what every cause shows in


@dataclass(frozen=True)
class Claim:
    """One shifted series: the sentence, and all with which anyone can check it.

    `value` is the quartile of the failure's window, `baseline` the median before it, `at` the end of the
    window: what `query` and `baseline_query` give at that time. `series` is the series itself, to look at.
    `bits` is how much it counted after all `factors`.
    """

    service: str
    kind: str
    statement: str
    series: str
    query: str
    value: float
    baseline_query: str
    baseline: float
    at: float
    deviations: float
    bits: float
    factors: tuple[Factor, ...]

    def as_dict(self) -> dict[str, Any]:
        """The claim as JSON."""
        return {
            "statement": self.statement,
            "service": self.service,
            "kind": self.kind,
            "series": self.series,
            "query": self.query,
            "value": _rounded(self.value),
            "baseline_query": self.baseline_query,
            "baseline": _rounded(self.baseline),
            "at": self.at,
            "deviations": _rounded(self.deviations),
            "bits": _rounded(self.bits),
            "factors": [
                {"reason": factor.reason, "factor": _rounded(factor.factor)} for factor in self.factors
            ],
        }


@dataclass(frozen=True)
class Suspect:
    """A service, what its series add up to, its claims (the likeliest first trouble first), and its
    factors."""

    service: str
    score: float
    claims: tuple[Claim, ...]
    factors: tuple[Factor, ...]

    def as_dict(self) -> dict[str, Any]:
        """The suspect as JSON."""
        return {
            "service": self.service,
            "score": _rounded(self.score),
            "claims": [claim.as_dict() for claim in self.claims],
            "factors": [
                {"reason": factor.reason, "factor": _rounded(factor.factor)} for factor in self.factors
            ],
        }


@dataclass(frozen=True)
class Localization:
    """What the series around an alert say.

    Attributes:
        onset_at: when it began, seconds since 1970; `before_alert` seconds before the alert.
        order: all services that were measured, the likeliest first.
        suspects: the first few of them with their claims.
        confidence: that the first is the cause, from 0 to 1; 0 when nothing was measured.
        uncalibrated: the same before verdicts on earlier diagnoses corrected it, and before it was held below
            0.7 because it may be noise.
        support: what that was computed from; None when nothing was measured.
        pattern: the likeliest pattern, `unknown` when it abstains.
        shares: of every pattern.
        findings: what made the shares, as sentences.
        quiet: the evidence of each quiet window of the same history (`calibration.Support.evidence`).
        against: what speaks against the first suspect, the best rival among it.
        missing: what could not be seen.
        abstained: whether nothing is named; then `order[0]` is only the strongest lead.
        next_query: what to ask next: what tells the first from the second, or shows what is missing.
    """

    onset_at: float
    before_alert: float
    order: tuple[str, ...]
    suspects: tuple[Suspect, ...]
    confidence: float
    uncalibrated: float
    support: Support | None
    pattern: Pattern
    shares: Mapping[Pattern, float]
    findings: tuple[str, ...]
    quiet: tuple[float, ...]
    against: tuple[str, ...]
    missing: tuple[str, ...]
    abstained: bool
    next_query: str

    @property
    def lead(self) -> str:
        """The likeliest service, whether it is believed or not; empty when nothing was measured."""
        return self.order[0] if self.order else ""

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON, with the version of the rules."""
        return {
            "rules_version": RULES_VERSION,
            "onset_at": self.onset_at,
            "before_alert": _rounded(self.before_alert),
            "abstained": self.abstained,
            "lead": self.lead,
            "confidence": _rounded(self.confidence),
            "uncalibrated": _rounded(self.uncalibrated),
            "support": self.support.as_dict() if self.support else {},
            "pattern": self.pattern.value,
            "patterns": {pattern.value: _rounded(share) for pattern, share in self.shares.items()},
            "findings": list(self.findings),
            "suspects": [suspect.as_dict() for suspect in self.suspects],
            "quiet_evidence": [_rounded(evidence) for evidence in self.quiet],
            "against": list(self.against),
            "missing": list(self.missing),
            "next_query": self.next_query,
        }


def localize(
    window: Window,
    symptom: Symptom,
    graph: CallGraph,
    changes: Sequence[Change] = (),
    calibration: Calibration | None = None,
) -> Localization:
    """Rank what explains the symptom, say how sure, and abstain where the evidence does not carry.

    Whatever is missing (history, samples, series, the graph) lowers the confidence; nothing raises.
    """
    if not window.keys:
        return _nothing(symptom)
    # Sums of values near the limits of a float overflow to infinity, which the arithmetic bounds afterwards.
    with np.errstate(all="ignore"):
        return _localize(Scorer(window, symptom, graph), changes, calibration or Calibration())


def _localize(scorer: Scorer, changes: Sequence[Change], calibration: Calibration) -> Localization:
    scored = scorer.score(scorer.onset.index, len(scorer.window.times))
    order, (quiet, apart) = scored.order, _quiet_evidence(scorer)
    support = _support(scorer, scored, quiet, apart)
    confidence = confidence_of(support, calibration)
    abstained = scored.scores[order[0]] < LEAST_SCORE or confidence < LEAST_CONFIDENCE
    classified = classify_pattern(scorer, scored, order[0], confidence, changes)
    suspects = tuple(_suspect(scorer, scored, service) for service in order[: RIVALS + 1])
    return Localization(
        onset_at=scorer.onset_at,
        before_alert=scorer.onset.before_alert,
        order=order,
        suspects=suspects,
        confidence=confidence,
        uncalibrated=raw_confidence(support),
        support=support,
        pattern=Pattern.UNKNOWN if abstained else _likeliest(classified),
        shares=classified.shares,
        findings=tuple(trait.sentence for trait in classified.traits),
        quiet=quiet,
        against=tuple(_against(suspects, support)),
        missing=tuple(_missing(scorer, order[0], support)),
        abstained=abstained,
        next_query=_next_query(scorer, suspects),
    )


def _nothing(symptom: Symptom) -> Localization:
    query = catalogue.diagnosed([symptom.service]) if symptom.service else catalogue.watchdog()
    return Localization(
        onset_at=symptom.at,
        before_alert=0.0,
        order=(),
        suspects=(),
        confidence=0.0,
        uncalibrated=0.0,
        support=None,
        pattern=Pattern.UNKNOWN,
        shares={},
        findings=(),
        quiet=(),
        against=(),
        missing=("no series at all",),
        abstained=True,
        next_query=query,
    )


def _quiet_evidence(scorer: Scorer) -> tuple[tuple[float, ...], int]:
    """The evidence of windows of the failure's length, evenly spread over the history, and how many of them
    lie apart: neighbours may share half of their samples, where there is no room for more.

    Each is scored as the alert's is: against a baseline that does not hold it. Neighbours share a baseline
    that holds none of them (cross-conformal prediction, Vovk 2015), since a baseline is what costs time.
    """
    length, end = len(scorer.window.times) - scorer.onset.index, scorer.onset.index
    if not length or end < length + LEAST_BASELINE:
        return (), 0
    apart = min(QUIET_WINDOWS, end // length)
    starts = [int(start) for start in np.linspace(0, end - length, min(QUIET_WINDOWS, 2 * apart - 1))]
    found = []
    for group in (part for part in np.array_split(starts, QUIET_BASELINES) if len(part)):
        other = scorer.without(int(group[0]), int(group[-1]) + length, QUIET_SAMPLES)
        for start in group:
            scored = other.score(int(start), int(start) + length, by_onset=False)
            found.append(_support(other, scored).evidence)
    return tuple(found), apart


def _support(scorer: Scorer, scored: Scored, quiet: tuple[float, ...] = (), apart: int = 0) -> Support:
    """What the confidence in the best service is computed from."""
    first, *others = scored.order
    alerting = scorer.alerting
    rival = next((service for service in others if not scorer.suffers_from(scored, service, first)), None)
    return Support(
        score=scored.scores[first],
        second=(scored.scores[rival] if rival else 0.0) if others else None,
        agreeing=[*scorer.families(scored, first), 0.0, 0.0][1],
        quiet=quiet,
        apart=apart,
        explains=0.0 if first == scorer.symptom.service else scorer.explains(scored, first),
        alert_seen=any(abs(scored.shifts.deviations[row]) > ALERTED for row in alerting)
        if alerting
        else None,
        history=int(np.max(scorer.baseline.samples, initial=0)),
    )


def _likeliest(classified: Classified) -> Pattern:
    return max(classified.shares, key=lambda pattern: (classified.shares[pattern], pattern.value))


def _suspect(scorer: Scorer, scored: Scored, service: str) -> Suspect:
    rows = [row for row in scorer.rows_of(service) if abs(scored.shifts.deviations[row]) > CLEAR]
    rows.sort(key=lambda row: (-scored.bits[row], row))
    first = _first_trouble(scorer, scored, rows)
    if first is not None:
        rows.remove(first)
        rows.insert(0, first)
    claims = tuple(_claim(scorer, scored, row) for row in rows[:TOLD])
    return Suspect(service, scored.scores[service], claims, scored.service_factors[service])


def _first_trouble(scorer: Scorer, scored: Scored, rows: Sequence[int]) -> int | None:
    """Among the series that count, the one that comes first in the order of causes: memory before latency."""
    order = list(Family)
    strong = [
        row
        for row in rows
        if scored.bits[row] >= PRIMARY * scored.bits[rows[0]]
        and abs(scored.shifts.deviations[row]) > ABNORMAL
        and all(factor.factor >= MOSTLY_OWN for factor in scored.factors[row])
    ]
    return min(
        strong, key=lambda row: (order.index(scorer.kinds[row].family), -scored.bits[row], row), default=None
    )


def _claim(scorer: Scorer, scored: Scored, row: int) -> Claim:
    key, shifts = scorer.window.keys[row], scored.shifts
    value, baseline = float(shifts.now[row]), float(scorer.baseline.median[row])
    series, times, onset = scorer.window.queries[row], scorer.window.times, scorer.onset.index
    asked = partial(catalogue.quantile_of_window, series, at=times[-1], step=scorer.window.step)
    peer = f" ({key.peer})" if key.peer else ""
    statement = f"{key.service}: {key.kind}{peer} went from {baseline:.4g} to {value:.4g}"
    return Claim(
        service=key.service,
        kind=key.kind,
        statement=f"{statement}, {abs(shifts.deviations[row]):.3g} times its usual spread.",
        series=series.promql(),
        query=asked(float(shifts.quartile[row]), start=times[onset], end=times[-1]),
        value=value,
        baseline_query=asked(0.5, start=times[0], end=times[onset - 1]),
        baseline=baseline,
        at=float(times[-1]),
        deviations=float(shifts.deviations[row]),
        bits=float(scored.bits[row]),
        factors=scored.factors[row],
    )


def _against(suspects: Sequence[Suspect], support: Support) -> list[str]:
    """What speaks against the first suspect."""
    first, found = suspects[0], []
    if len(suspects) > 1:
        rival = suspects[1]
        found.append(
            f"it may be {rival.service} as well: {rival.score:.2f} bits speak for it, "
            f"{first.score:.2f} for {first.service}"
        )
    as_high = sum(evidence >= support.evidence for evidence in support.quiet)
    if as_high:
        windows = f"{as_high} of {len(support.quiet)} quiet windows"
        found.append(f"as much evidence in {windows} of the same history")
    if support.unusual > UNUSUAL:
        noise = f"one more quiet window would hold as much with a chance of {support.unusual:.0%}"
        noise = noise if support.apart > 1 else "the history is too short to tell it from noise"
        found.append(f"{noise}, so the series carry a confidence of at most {HELD}")
    found += [f"{first.service}: {factor.reason}" for factor in first.factors if factor.factor < 1]
    found += [
        f"{claim.service}: {claim.kind} has {factor.factor:.0%} of its full weight, because {factor.reason}"
        for claim in first.claims
        for factor in claim.factors
        if factor.factor < SLIGHT
    ]
    if not first.claims:
        found.append(f"no series of {first.service} is clearly off its baseline")
    return found


def _missing(scorer: Scorer, service: str, support: Support) -> list[str]:
    """What could not be seen and might have changed the answer."""
    found = []
    measured = {scorer.kinds[row].family for row in scorer.rows_of(service)}
    blind = [family.value for family in WANTED if family not in measured]
    if blind:
        found.append(f"{service}: {', '.join(blind)}")
    reachable = scorer.graph.reachable(scorer.symptom.service)
    unseen = sorted(reachable - set(scorer.services))
    if unseen:
        more = f" and {len(unseen) - TOLD} more" if len(unseen) > TOLD else ""
        found.append(f"series of {', '.join(unseen[:TOLD])}{more}")
    if len(scorer.services) == 1:
        found.append("series of any other service")
    if not scorer.graph.calls:
        found.append("who calls whom")
    history = int(np.max(scorer.baseline.samples, initial=0))
    if history < SHORT_HISTORY:
        found.append(f"history: {history} samples before the onset")
    if scorer.onset.index >= len(scorer.window.times):
        found.append("samples since the alert")
    rows = list(scorer.rows_of(service))
    gaps = float(np.mean(~np.isfinite(scorer.window.values[rows])))
    if gaps > GAPS:
        found.append(f"{service}: {gaps:.0%} of its samples")
    if support.apart < ENOUGH_WINDOWS and support.unusual > UNUSUAL:
        found.append(f"enough quiet windows to compare with: {support.apart} of {ENOUGH_WINDOWS}")
    alerting = scorer.alerting
    if scorer.symptom.kind and not alerting:
        found.append(f"the series that alerted: {scorer.symptom.kind} of {scorer.symptom.service}")
    return found


def _next_query(scorer: Scorer, suspects: Sequence[Suspect]) -> str:
    """What would tell the first from the second: the second's strongest series; else the first's own."""
    for suspect in (*suspects[1:2], *suspects[:1]):
        if suspect.claims:
            return suspect.claims[0].series
    alerting = scorer.alerting
    if alerting:
        return scorer.window.queries[alerting[0]].promql()
    return catalogue.diagnosed([suspects[0].service])


def _rounded(value: float) -> float | None:
    """Six significant digits, so that the last bit of a sum cannot change the output; NaN becomes null."""
    return float(f"{value:.6g}") if np.isfinite(value) else None
