"""Where the weights of the confidence come from: `python -m bench.rca.fitting --data DIR` prints them.

A ridge regression (logistic) of whether the first service was the right one on the terms of
`calibration.Support`, over faults and fault-free windows. Half of the weight have systems drawn at random, as
many as wanted, but invented; the other half have the first halves of the public sets, which are real, but
few. One alert in five is taken to mean nothing; what the history shows to be noise is held back besides, and
need not lower all others. The weights also add up the evidence by which windows are compared, so put what it
prints into `calibration` and run it again until only the last digit changes. It also prints how such weights
do on drawn systems that took no part in fitting, which a dozen cases cannot tell.
Nothing depends on the time or the machine, so the same code prints the same weights.
"""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.rca.cases import Case, read_cases
from bench.rca.methods import diagnose
from bench.rca.report import quiet_cases
from bench.rca.scores import CONFIDENT, calibration_error, error_by_chance, read_label
from bench.rca.synthetic import System, draw_cases, draw_quiet, draw_system
from self_healing_fabric.diagnosis.calibration import WEIGHTS, Support, held

SYSTEMS, CASES = 120, 10  # drawn; faults, and as many windows without, of each
FOLDS = 10  # of systems
MEANINGLESS = 0.25  # alerts that mean nothing, for each that means something
RIDGE = 1.0
ROUNDS = 50  # of Newton's method


@dataclass(frozen=True)
class Sample:
    """One diagnosis: what its confidence is computed from, whether it was right, and of whom it is."""

    system: str
    public: bool
    support: Support
    right: bool
    faulty: bool


def drawn(system: System, cases: int) -> Iterator[Sample]:
    """As many faults and windows without of a system drawn at random."""
    for labelled in (*draw_cases(system, cases), *draw_quiet(system, cases)):
        yield from _sample(labelled.case, labelled.service, public=False)


def published(data: Path) -> Iterator[Sample]:
    """The first half of each public set, and quiet windows of the same cases."""
    by_system: dict[str, list[Case]] = defaultdict(list)
    for case in read_cases(data):
        by_system[case.system].append(case)
    for cases in by_system.values():
        for case in cases[: len(cases) // 2]:
            yield from _sample(case, read_label(data, case.id).service, public=True)
            for window in quiet_cases(case):
                yield from _sample(window, "", public=True)


def _sample(case: Case, truth: str, *, public: bool) -> Iterator[Sample]:
    """What measured nothing has no confidence, so it teaches none."""
    found = diagnose(case)
    if found.support is not None:
        yield Sample(case.system, public, found.support, found.lead == truth, bool(truth))


def fit(samples: Sequence[Sample]) -> np.ndarray:
    """Intercept and weights: the most likely ones with a normal prior around 0 (ridge) on the weights."""
    terms, right, counts = _terms(samples), _right(samples), _counts(samples)
    prior = RIDGE * np.diag([0.0, *[1.0] * (terms.shape[1] - 1)])
    found = np.zeros(terms.shape[1])
    for _ in range(ROUNDS):
        p = _sigmoid(terms @ found)
        gradient = terms.T @ (counts * (p - right)) + prior @ found
        found -= np.linalg.solve((terms * (counts * p * (1 - p))[:, None]).T @ terms + prior, gradient)
    return found


def _counts(samples: Sequence[Sample]) -> np.ndarray:
    """How much each counts: public faults together as much as drawn ones; quiet windows of a public system,
    and those of all drawn ones, a quarter as much as the faults of the same."""
    of = [one.system if one.public else "" for one in samples]
    sizes = Counter((group, one.faulty) for group, one in zip(of, samples, strict=True))
    faults = Counter(one.public for one in samples if one.faulty)
    worth = {False: 1.0, True: faults[False] / faults[True] if faults[True] and faults[False] else 1.0}
    return np.array(
        [
            worth[one.public]
            * (1.0 if one.faulty else MEANINGLESS * sizes[group, True] / sizes[group, False])
            for group, one in zip(of, samples, strict=True)
        ]
    )


def _terms(samples: Sequence[Sample]) -> np.ndarray:
    return np.array([[1.0, *(one.support.terms[name] for name in WEIGHTS)] for one in samples])


def _right(samples: Sequence[Sample]) -> np.ndarray:
    return np.array([float(one.right) for one in samples])


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return np.asarray(1.0 / (1.0 + np.exp(-logits)))


def left_out(samples: Sequence[Sample]) -> tuple[list[Sample], np.ndarray]:
    """The drawn samples, and the confidence in each by weights that know nothing of its system."""
    invented = [one for one in samples if not one.public]
    names = sorted({one.system for one in invented})
    sure = np.zeros(len(invented))
    for fold in range(FOLDS):
        out = {name for place, name in enumerate(names) if place % FOLDS == fold}
        weights = fit([one for one in samples if one.public or one.system not in out])
        out_now = np.array([one.system in out for one in invented])
        if out_now.any():
            sure[out_now] = _sigmoid(_terms(invented)[out_now] @ weights)
    pairs = zip(sure, invented, strict=True)
    return invented, np.array([held(float(confidence), one.support) for confidence, one in pairs])


def main() -> None:
    """Fit, print the weights, and how they do on systems that were left out."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="public cases: SET/CASE/metrics.csv")
    parser.add_argument("--systems", type=int, default=SYSTEMS, help="to draw")
    parser.add_argument("--cases", type=int, default=CASES, help="of each")
    chosen = parser.parse_args()
    samples = [one for number in range(chosen.systems) for one in drawn(draw_system(number), chosen.cases)]
    samples += published(chosen.data) if chosen.data else []
    for name, weight in zip(("intercept", *WEIGHTS), fit(samples), strict=True):
        print(f"{name:10s} {weight:6.2f}")
    invented, sure = left_out(samples)
    faulty, right = np.array([one.faulty for one in invented]), _right(invented) > 0
    told, hit = sure[faulty].tolist(), right[faulty].tolist()
    answered = faulty & (sure >= CONFIDENT)
    print(f"systems left out: {len(told)} faults, right {np.mean(hit):.2f}, said {np.mean(told):.2f}")
    print(f"  ECE {calibration_error(told, hit):.3f}, by chance {error_by_chance(told)[0]:.3f}")
    print(
        f"  at >= {CONFIDENT}: {np.sum(answered) / np.sum(faulty):.0%}, right {np.mean(right[answered]):.2f}"
    )
    print(f"  quiet windows at >= {CONFIDENT}: {np.mean(sure[~faulty] >= CONFIDENT):.1%}")


if __name__ == "__main__":
    main()
