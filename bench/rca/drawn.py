"""How true the confidence is on systems that took no part in making it, with enough cases to tell.

The public sets have a dozen cases a system, too few to see an error of 0.1. Here twelve systems are drawn
anew (other numbers than `fitting` uses), with so many faults each that fifty can be verdicts and three
hundred judge: with a hundred, chance alone makes errors of 0.1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from bench.rca.methods import fabric
from bench.rca.scores import CONFIDENT, calibration_error, error_by_chance
from bench.rca.synthetic import draw_cases, draw_quiet, draw_system
from self_healing_fabric.diagnosis.calibration import Judged, refit

NUMBERS = range(1000, 1012)  # of the systems; fitting takes those from 0 on
VERDICTS, JUDGED, QUIET = 50, 300, 100  # faults before the verdicts are known and after, fault-free windows


@dataclass(frozen=True)
class Drawn:
    """One system: confidences in the judged faults and on fault-free windows, before and after verdicts.

    `disturbed`: of each fault-free window, whether the service that was told was disturbed in it.
    """

    name: str
    told: tuple[float, ...]
    right: tuple[bool, ...]
    corrected: tuple[float, ...]
    quiet: tuple[float, ...]
    quiet_corrected: tuple[float, ...]
    disturbed: tuple[bool, ...]


def measure(number: int) -> Drawn:
    """Diagnose the cases of one system; the first of them teach the calibration."""
    system = draw_system(number)
    found, right = [], []
    for labelled in draw_cases(system, VERDICTS + JUDGED):
        found.append(fabric(labelled.case))
        right.append(found[-1].services[:1] == (labelled.service,))
    verdicts = zip(found[:VERDICTS], right[:VERDICTS], strict=True)
    learned = refit([Judged(one.uncalibrated, hit) for one, hit in verdicts])
    windows = [(fabric(labelled.case), labelled.disturbed) for labelled in draw_quiet(system, QUIET)]
    return Drawn(
        system.name,
        tuple(one.root_confidence for one in found[VERDICTS:]),
        tuple(right[VERDICTS:]),
        tuple(one.corrected(learned) for one in found[VERDICTS:]),
        tuple(one.root_confidence for one, _ in windows),
        tuple(one.corrected(learned) for one, _ in windows),
        tuple(not disturbed.isdisjoint(one.services[:1]) for one, disturbed in windows),
    )


def write_section(systems: Sequence[Drawn]) -> Iterator[str]:
    """The section of the report."""
    yield from ("", "## Systems drawn at random", "")
    yield (
        f"{len(systems)} invented systems (`bench/rca/synthetic.py`) on which nothing was fitted: "
        f"{len(systems[0].told)} faults each after {VERDICTS} verdicts on others of the same system, and "
        f"{len(systems[0].quiet)} windows without a fault. They are harder than the public cases (weak "
        "faults, some without any trace, false alarms placed where the series happens to be high) and no "
        "more than invented; they show whether confidences are true, not how often the product is right. A "
        "window without a fault may hold a disturbance for which nobody was called: a job, a pause, a "
        "restart. `true` counts the windows whose told service had one just then: 4 (3) are four told with "
        "confidence, three of them because something did happen there."
    )
    yield ""
    yield (
        "| system | right | mean confidence | ECE | by chance (95 %) | ECE after verdicts | "
        f"by chance (95 %) | answered at >= {CONFIDENT} | right of those | "
        f"quiet windows at >= {CONFIDENT} (true) | "
        "after verdicts (true) |"
    )
    yield f"|{'---|' * 11}"
    for one in systems:
        yield _row(one)
    yield _row(
        Drawn(
            "all",
            *(
                tuple(value for one in systems for value in getattr(one, name))
                for name in ("told", "right", "corrected", "quiet", "quiet_corrected", "disturbed")
            ),
        )
    )


def _alarms(told: Sequence[float], disturbed: Sequence[bool]) -> str:
    alarmed = np.array(told) >= CONFIDENT
    return f"{np.mean(alarmed):.0%} ({np.mean(alarmed & np.array(disturbed)):.0%})"


def _row(one: Drawn) -> str:
    answered = [hit for sure, hit in zip(one.told, one.right, strict=True) if sure >= CONFIDENT]
    errors = []
    for told in (one.told, one.corrected):
        mean, most = error_by_chance(told)
        errors += [f"{calibration_error(told, one.right):.2f}", f"{mean:.2f} ({most:.2f})"]
    cells = (
        one.name,
        f"{np.mean(one.right):.2f}",
        f"{np.mean(one.told):.2f}",
        *errors,
        f"{len(answered) / len(one.told):.0%}",
        f"{np.mean(answered):.2f}" if answered else "-",
        *(_alarms(told, one.disturbed) for told in (one.quiet, one.quiet_corrected)),
    )
    return f"| {' | '.join(cells)} |"
