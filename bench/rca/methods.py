"""The methods that are compared: ours, as the product runs it, and the baselines, each with what it may read.

BARO and N-sigma get the case's series and the time of the alert, as in their papers; no graph and no alerting
service, which they have no use for.
"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.rca.cases import Case, CasePrometheus, FloatArray
from self_healing_fabric.diagnosis.calibration import Calibration, Support, confidence_of, raw_confidence
from self_healing_fabric.diagnosis.call_graph import CallGraph
from self_healing_fabric.diagnosis.localization import Localization, localize
from self_healing_fabric.diagnosis.patterns import Change, Pattern
from self_healing_fabric.diagnosis.scoring import Symptom
from self_healing_fabric.diagnosis.windows import collect_window


@dataclass(frozen=True)
class Prediction:
    """What a method says of one case; baselines say nothing but `services`. `support`: what ours computed the
    confidence from, None where nothing was measured."""

    id: str
    services: tuple[str, ...]
    primary_metric: str = ""
    root_confidence: float = 0.0
    patterns: tuple[tuple[str, float], ...] = ()
    abstained: bool = False
    elapsed_ms: float = 0.0
    support: Support | None = None

    @property
    def uncalibrated(self) -> float:
        """What verdicts judge and correct."""
        return raw_confidence(self.support) if self.support else 0.0

    def corrected(self, calibration: Calibration) -> float:
        """The confidence that is told after verdicts."""
        return confidence_of(self.support, calibration) if self.support else 0.0

    def as_dict(self) -> dict[str, Any]:
        """One line of the predictions file."""
        return {
            "id": self.id,
            "services": list(self.services),
            "primary_metric": self.primary_metric,
            "root_confidence": round(self.root_confidence, 4),
            "patterns": {name: round(share, 4) for name, share in self.patterns},
            "abstained": self.abstained,
            "elapsed_ms": round(self.elapsed_ms, 1),
        }


def diagnose(case: Case) -> Localization:
    """The product's own path: one range query, the grid, the localisation."""
    prometheus = CasePrometheus(case.table)
    times = case.table.times
    window = collect_window(
        prometheus, prometheus.services, start=float(times[0]), end=float(times[-1]), step=case.step
    )
    changes = [Change(change.service, change.at, "rollout") for change in case.changes]
    symptom = Symptom(case.alert_service, case.alert_kind, case.alerted_at)
    return localize(window, symptom, CallGraph(case.calls), changes, Calibration())


def fabric(case: Case) -> Prediction:
    """Ours, with the time of one core from the query to the answer: other work on the machine is not ours."""
    began = time.process_time()
    found = diagnose(case)
    elapsed = (time.process_time() - began) * 1000
    return Prediction(
        id=case.id,
        services=found.order,
        primary_metric=_primary(case, found),
        root_confidence=found.confidence,
        patterns=_patterns(found),
        abstained=found.abstained,
        elapsed_ms=elapsed,
        support=found.support,
    )


def _primary(case: Case, found: Localization) -> str:
    """The first of the suspect's series that the case has as a column: derived ones have no name there."""
    columns = {"|".join(column.split("|")[:2]) for column in case.table.columns}
    claims = found.suspects[0].claims if found.suspects else ()
    names = [f"{claim.service}|{claim.kind}" for claim in claims]
    return next((name for name in names if name in columns), "")


def _patterns(found: Localization) -> tuple[tuple[str, float], ...]:
    """The shares, likeliest first; `unknown` before all others where the diagnosis abstains."""
    ranked = sorted(found.shares.items(), key=lambda item: (-item[1], item[0].value))
    shares = tuple((pattern.value, share) for pattern, share in ranked)
    return ((Pattern.UNKNOWN.value, 1.0 - found.confidence), *shares) if found.abstained else shares


def peak_memory(case: Case) -> float:
    """Bytes that one diagnosis allocates at its peak; measured apart, because measuring slows it."""
    tracemalloc.start()
    try:
        diagnose(case)
        return float(tracemalloc.get_traced_memory()[1])
    finally:
        tracemalloc.stop()


def baro(case: Case) -> Prediction | None:
    """BARO's robust scorer (Pham et al., FSE 2024) from the package fse-baro; None where that is not
    installed."""
    try:
        import pandas
        from baro.root_cause_analysis import robust_scorer
    except ImportError:
        return None
    values = _filled(case.table.values)
    frame = pandas.DataFrame(values, columns=list(case.table.columns))
    frame.insert(0, "time", case.table.times)
    ranks = robust_scorer(frame, inject_time=case.alerted_at)["ranks"]
    return Prediction(case.id, _services(ranks))


def n_sigma(case: Case) -> Prediction:
    """max (x - mean) / standard deviation after the alert, as in RCAEval (Pham et al., WWW 2025)."""
    values = _filled(case.table.values)
    before = values[case.table.times < case.alerted_at]
    after = values[case.table.times >= case.alerted_at]
    if not len(before) or not len(after):
        return Prediction(case.id, ())
    spread = np.std(before, axis=0)
    tiny = 10 * np.finfo(float).eps * np.abs(np.mean(before, axis=0))  # scikit-learn calls such a spread none
    score = np.max(after - np.mean(before, axis=0), axis=0) / np.where(spread > tiny, spread, 1.0)
    changed = np.flatnonzero(np.ptp(before, axis=0) > 0)  # constant columns are dropped, as there
    order = changed[np.argsort(-score[changed], kind="stable")]
    return Prediction(case.id, _services([case.table.columns[index] for index in order]))


def always_first(case: Case) -> Prediction:
    """The alerting service, then the others by name."""
    others = sorted({column.split("|")[0] for column in case.table.columns} - {case.alert_service})
    return Prediction(case.id, (case.alert_service, *others) if case.alert_service else tuple(others))


def _services(columns: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(column.split("|")[0] for column in columns))


def _filled(values: FloatArray) -> FloatArray:
    """Gaps hold the last value, and 0 before the first, as RCAEval prepares its cases."""
    filled = values.copy()
    for row in range(1, len(filled)):
        gap = np.isnan(filled[row])
        filled[row, gap] = filled[row - 1, gap]
    return np.nan_to_num(filled)


BASELINES: dict[str, Callable[[Case], Prediction | None]] = {
    "BARO": baro,
    "N-sigma": n_sigma,
    "always first": always_first,
}
