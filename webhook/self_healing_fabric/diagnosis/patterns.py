"""Which of the seven patterns a service's own series speak of: yes-or-no findings with weights.

Each finding is a sentence that a person can check, with a log weight for every pattern that it speaks for or
against; the weights of what was found are added to a prior and turned into shares (a softmax, which is naive
Bayes with expert weights). Weights learned from public cases were no better there and failed on patterns that
those cases lack, so these were written down by judgement; the shares are then blended with the prior by how
sure the service is, because the pattern of the wrong service is worth nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from self_healing_fabric.diagnosis.kinds import Family
from self_healing_fabric.diagnosis.scoring import BYTES, MATERIAL_MEMORY, Scored, Scorer
from self_healing_fabric.diagnosis.shifts import CLEAR
from self_healing_fabric.incidents.evidence import PROMETHEUS

ABNORMAL = 6.0  # deviations: what a cause shows
ON_THE_WAY = 4.0  # deviations of what callers wait beyond the service; a difference of two is noisy already
QUIET = 5.0  # deviations: below it a service shows nothing
GROWN = 1.5  # times: memory and load that did not grow as much explain nothing
SATURATED = 3.0  # times the growth of the load: more growth of the CPU is its own trouble
COLLAPSED = -0.5  # of the load
GAP = 0.5  # of what callers wait longer: if the service itself spends less of it, the rest is lost on the way
RECENT_CHANGE = 1800.0  # seconds before the onset


class Pattern(StrEnum):
    """The seven root-cause patterns, and that the evidence does not carry any."""

    NETWORK_ISSUE = "network_issue"
    RESOURCE_EXHAUSTION = "resource_exhaustion"
    SERVICE_OVERLOAD = "service_overload"
    CONFIGURATION_ERROR = "configuration_error"
    DATA_CORRUPTION = "data_corruption"
    DEPENDENCY_FAILURE = "dependency_failure"
    CODE_BUG = "code_bug"
    UNKNOWN = "unknown"


_NET, _RES, _OVL, _CFG, _DATA, _DEP, _BUG = [pattern for pattern in Pattern if pattern is not Pattern.UNKNOWN]

PRIOR: Mapping[Pattern, float] = {
    _NET: 0.12,
    _RES: 0.22,
    _OVL: 0.10,
    _CFG: 0.18,
    _DATA: 0.05,
    _DEP: 0.13,
    _BUG: 0.20,
}


class ChangeKind(StrEnum):
    """What was changed: what runs, that it runs, how it is set, or how often it runs."""

    ROLLOUT = "rollout"
    RESTART = "restart"
    CONFIGURATION = "configuration"
    SCALE = "scale"


@dataclass(frozen=True)
class Change:
    """Something that people or machines changed: a rollout, a restart, a setting, a number of replicas.

    `what` is a sentence's beginning, `at` in seconds since 1970, `query` what shows it, for `source`.
    """

    service: str
    at: float
    what: str
    kind: ChangeKind = ChangeKind.RESTART
    query: str = ""
    source: str = PROMETHEUS


@dataclass(frozen=True)
class Trait:
    """One finding about a service: its name, the sentence, and the log weights by pattern."""

    name: str
    sentence: str
    weights: Mapping[Pattern, float]


_WEIGHTS: Mapping[str, Mapping[Pattern, float]] = {
    "cpu_up_without_load": {_RES: 2.5, _OVL: -1.0},
    "memory_up": {_RES: 2.5},
    "disk_up": {_RES: 2.5},
    "resources_calm": {_RES: -1.5},
    "load_up_and_saturated": {_OVL: 3.5, _RES: -0.5},
    "load_up": {_OVL: 1.5},
    "load_calm": {_OVL: -1.5},
    "client_server_gap_up": {_NET: 3.0},
    "calls_lost": {_NET: 3.0},
    "silent_for_its_callers": {_DEP: 1.5, _NET: 1.0},
    "latency_up_alone": {_NET: 1.2, _BUG: 0.8, _DEP: 0.3},
    "latency_up_and_gap_ruled_out": {_BUG: 1.0, _NET: -0.5},
    "errors_up_alone": {_BUG: 1.5, _CFG: 1.0, _DEP: 0.4, _NET: -0.5},
    "exceptions_up": {_DEP: -1.0, _NET: -1.0},
    "no_exceptions": {_BUG: -1.5, _DEP: 0.5},
    "latency_and_errors_up": {_DEP: 0.8, _BUG: 0.6, _CFG: 0.4},
    "throughput_collapsed": {_DEP: 1.2, _NET: 0.4},
    "network_traffic_dropped": {_NET: 0.7},
    "restarted_or_not_ready": {_CFG: 0.8, _BUG: 0.8, _RES: 0.4},
    "dependency_down": {_DEP: 2.5},
    "quiet_root": {_BUG: 1.0, _CFG: 0.4},
    "data_named": {_DATA: 3.0},
    "outside_named": {_DEP: 2.0},
    "name_or_certificate_named": {_NET: 1.0, _CFG: 1.2},
    "pool_or_quota_named": {_CFG: 1.2, _RES: 0.8},
    "more_work_per_request": {_BUG: 1.5},
    "configuration_drifted": {_CFG: 3.0},
    "replicas_diverged": {_DATA: 2.5},
    "changed_shortly_before": {_BUG: 0.5, _CFG: 0.5},
}

_NAMED: tuple[tuple[str, str, re.Pattern[str]], ...] = tuple(
    (name, sentence, re.compile(rf"(^|_)({words})"))
    for name, sentence, words in (
        (
            "data_named",
            "a shifted series speaks of data that cannot be read",
            "validation|deser|schema|checksum|parse|corrupt|decode|malformed|poison|integrity",
        ),
        (
            "outside_named",
            "a shifted series speaks of a system outside",
            "upstream|external|s3|gcs|sqs|partner|provider|third_party|vendor",
        ),
        (
            "name_or_certificate_named",
            "a shifted series speaks of names or certificates",
            "dns|resol|nxdomain|cert|tls|x509|handshake",
        ),
        (
            "pool_or_quota_named",
            "a shifted series speaks of a pool or a quota",
            "pool|quota|throttl|capacity|max_conn|exhaust|rate_limit",
        ),
        ("more_work_per_request", "it does more work for each request", r"\w*per_(request|call|query|op)"),
    )
)
_EXHAUSTIBLE = (Family.CPU, Family.MEMORY, Family.DISK, Family.SATURATION)
_EXCEPTIONS = re.compile(r"(^|_)(exceptions?|panics?|tracebacks?)(_|$)")


@dataclass(frozen=True)
class Classified:
    """The share of every pattern, from 0 to 1, and the findings that made it."""

    shares: Mapping[Pattern, float]
    traits: tuple[Trait, ...]


def classify_pattern(
    scorer: Scorer, scored: Scored, service: str, confidence: float, changes: Sequence[Change]
) -> Classified:
    """Shares of the patterns for a service that is the cause with `confidence`.

    share = c x softmax(log prior + sum of weights) + (1 - c) x prior.
    """
    facts = _Facts(scorer, scored, service, changes)
    traits = tuple(Trait(name, sentence, _WEIGHTS[name]) for rule in _RULES for name, sentence in rule(facts))
    logits = np.array(
        [
            np.log(prior) + sum(trait.weights.get(pattern, 0.0) for trait in traits)
            for pattern, prior in PRIOR.items()
        ]
    )
    shares = np.exp(logits - np.max(logits))
    shares = confidence * shares / np.sum(shares) + (1.0 - confidence) * np.array(list(PRIOR.values()))
    return Classified(dict(zip(PRIOR, shares.tolist(), strict=True)), traits)


class _Facts:
    """What the rules ask of one service: the farthest shift of each family."""

    def __init__(self, scorer: Scorer, scored: Scored, service: str, changes: Sequence[Change]) -> None:
        self.scorer = scorer
        self.scored = scored
        self.service = service
        self.rows = tuple(scorer.rows_of(service))
        self.onset_at = scorer.onset_at
        self.changes = [change for change in changes if change.service == service]

    def farthest(self, family: Family) -> int | None:
        """The series of a family that counts most; the farther one of equals."""
        rows = [row for row in self.rows if self.scorer.kinds[row].family is family]
        size = np.abs(self.scored.shifts.deviations)
        return max(rows, key=lambda row: (self.scored.bits[row], size[row], -row)) if rows else None

    def deviations(self, family: Family) -> float:
        """How far a family is from normal; 0 where it is not measured."""
        row = self.farthest(family)
        return 0.0 if row is None else float(self.scored.shifts.deviations[row])

    def up(self, family: Family, limit: float = ABNORMAL) -> bool:
        """Whether a family is on its bad side by more than the limit."""
        return abs(self.deviations(family)) > limit

    def growth(self, family: Family) -> float:
        """Relative growth; 0 where nothing is known."""
        row = self.farthest(family)
        if row is None:
            return 0.0
        median = self.scorer.baseline.median[row]
        return float(self.scored.shifts.delta[row] / median) if median > 0 else 0.0

    def deviations_of_named(self, words: re.Pattern[str]) -> float | None:
        """The farthest of the series whose name holds one of the words; None where nothing is so named.

        None also where one of them is not known before and after the onset and no other moved: a counter that
        appears with its first event has not been calm.
        """
        rows = [row for row in self.rows if words.search(self.scorer.window.keys[row].kind.lower())]
        farthest = max((abs(float(self.scored.shifts.deviations[row])) for row in rows), default=0.0)
        return farthest if rows and (farthest > CLEAR or self._known(rows)) else None

    def measured(self, family: Family) -> bool:
        """Whether there are series of a family, each known before and after the onset: only such a family can
        have been calm."""
        rows = [row for row in self.rows if self.scorer.kinds[row].family is family]
        return bool(rows) and self._known(rows)

    def _known(self, rows: Sequence[int]) -> bool:
        known = np.isfinite(self.scorer.baseline.median[rows]) & np.isfinite(self.scored.shifts.now[rows])
        return bool(np.all(known))

    @property
    def load_growth(self) -> float:
        """Relative growth of the load where it is clear."""
        return self.growth(Family.LOAD) if self.up(Family.LOAD, CLEAR) else 0.0

    def shifted_kinds(self) -> list[str]:
        """The names of the series that shifted abnormally."""
        size = np.abs(self.scored.shifts.deviations)
        return [self.scorer.window.keys[row].kind.lower() for row in self.rows if size[row] > CLEAR]


_Found = Iterator[tuple[str, str]]


def _resources(facts: _Facts) -> _Found:
    if _cpu_rose_alone(facts):
        yield "cpu_up_without_load", "its CPU rose and its load did not"
    row = facts.farthest(Family.MEMORY)
    if row is not None and facts.up(Family.MEMORY) and facts.growth(Family.MEMORY) > GROWN - 1.0:
        in_bytes = facts.scorer.baseline.median[row] > BYTES
        if not in_bytes or facts.scored.shifts.delta[row] >= MATERIAL_MEMORY:
            yield "memory_up", "its memory grew by more than half"
    if facts.up(Family.DISK):
        yield "disk_up", "its disk filled"
    measured = all(facts.measured(family) for family in (Family.CPU, Family.MEMORY))
    if measured and not any(facts.up(family, CLEAR) for family in _EXHAUSTIBLE):
        yield "resources_calm", "its CPU and memory are as usual"


def _cpu_rose_alone(facts: _Facts) -> bool:
    return facts.up(Family.CPU) and facts.load_growth < GROWN - 1.0


def _load(facts: _Facts) -> _Found:
    load = facts.load_growth
    if load > GROWN - 1.0:
        full = any(facts.up(family, CLEAR) for family in (Family.CPU, Family.LATENCY, Family.SATURATION))
        if full and facts.growth(Family.CPU) <= SATURATED * load:
            yield "load_up_and_saturated", f"its load rose by {load:.0%} and it cannot follow"
        else:
            yield "load_up", f"its load rose by {load:.0%}"
    elif load < COLLAPSED:
        yield "throughput_collapsed", f"its load fell by {-load:.0%}"
    if load <= 0 and facts.measured(Family.LOAD):
        yield "load_calm", "its load did not rise"


def _symptoms(facts: _Facts) -> _Found:
    slow, fails = facts.up(Family.LATENCY, CLEAR), facts.up(Family.ERRORS, CLEAR)
    lost, waits = facts.up(Family.CLIENT_LOSS, CLEAR), _callers_wait(facts)
    if facts.up(Family.HEALTH):
        # Who is gone takes no time: how long callers wait for nobody says nothing of the way there.
        if lost or waits:
            yield "silent_for_its_callers", "it does not answer, and its callers wait for it in vain"
        waits = False
    elif lost and not slow and not facts.up(Family.SATURATION, CLEAR):
        yield "calls_lost", "calls to it get no answer, and it answers what reaches it as usual"
    # Without a free CPU requests wait before the service takes its own time.
    if waits and not _cpu_rose_alone(facts):
        yield "client_server_gap_up", "its callers wait longer and it does not take longer itself"
    elif slow and not fails:
        yield "latency_up_alone", "it is slower and does not fail"
        if facts.farthest(Family.CLIENT_GAP) is not None:
            yield "latency_up_and_gap_ruled_out", "and the time is spent in it, not on the way to it"
    if fails and not slow:
        yield "errors_up_alone", "it fails and is not slower"
    elif fails:
        yield "latency_and_errors_up", "it is slower and fails"
    exceptions = facts.deviations_of_named(_EXCEPTIONS)
    if fails and exceptions is not None:
        if exceptions > CLEAR:
            yield "exceptions_up", "it raises exceptions itself"
        else:
            yield "no_exceptions", "it fails and raises no more exceptions: somebody whom it calls fails"


def _callers_wait(facts: _Facts) -> bool:
    """Whether most of what callers wait longer is not spent in the service, measured on its edges or as a
    whole."""
    delta = facts.scored.shifts.delta
    outside = facts.farthest(Family.CLIENT_LATENCY)
    gap, inside = facts.farthest(Family.CLIENT_GAP), facts.farthest(Family.LATENCY)
    if outside is None:
        return False
    if gap is not None and facts.up(Family.CLIENT_GAP, ON_THE_WAY):
        return bool(delta[gap] >= GAP * delta[outside])
    return (
        inside is not None and facts.up(Family.CLIENT_LATENCY) and bool(delta[inside] < GAP * delta[outside])
    )


def _others(facts: _Facts) -> _Found:
    if facts.deviations(Family.NETWORK) < -ABNORMAL:
        yield "network_traffic_dropped", "its network traffic fell"
    if facts.up(Family.RESTARTS) or facts.up(Family.HEALTH):
        yield "restarted_or_not_ready", "it restarted or is not ready"
    if facts.up(Family.HEALTH) and facts.service != facts.scorer.symptom.service:
        yield "dependency_down", f"it does not answer, and {facts.scorer.symptom.service} is what alerts"
    if not any(facts.up(family, QUIET) for family in Family):
        yield "quiet_root", "none of its series shows a cause"


def _names(facts: _Facts) -> _Found:
    kinds = facts.shifted_kinds()
    for name, sentence, words in _NAMED:
        told = [kind for kind in kinds if words.search(kind)]
        if told:
            yield name, f"{sentence}: {told[0]}"
    if any("drift" in kind for kind in kinds):
        yield "configuration_drifted", "its configuration is not the one that is wanted"
    if any("digest" in kind for kind in kinds):
        yield "replicas_diverged", "its replicas do not hold the same state"


def _changes(facts: _Facts) -> _Found:
    for change in facts.changes:
        if 0 <= facts.onset_at - change.at <= RECENT_CHANGE:
            before = (facts.onset_at - change.at) / 60
            yield "changed_shortly_before", f"{change.what} {before:.0f} min before the onset"
            return


_RULES: tuple[Callable[[_Facts], _Found], ...] = (_resources, _load, _symptoms, _others, _names, _changes)
