"""From the fault to the proof on real servers: how long each part of the way takes, next to its floor.

The demo's services, Prometheus and Alertmanager, with the demo's shortened durations. Times are those of the
incident's own timeline; that it was healed counts only when the target was restarted exactly once and
answers.

The floor is what no healer can go below with these rules: the mean wait for the next scrape, the scrape's
timeout where the target hangs, the seconds for which the rule waits, the mean wait for the next evaluation
(`group_wait` is 0), and for the proof the whole stability window.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from shf_bench.ingest import Lost
from shf_demo.stack import Stack
from shf_demo.timings import SHORTENED, Timings
from shf_demo.trials import Trial, all_trials, run_trial
from shf_demo.watching import Happening

KINDS = ("exit", "hang", "errors")  # those that need no baseline and leave the machine its processors
PHASES = ("fault to webhook", "webhook to diagnosis", "diagnosis to action", "action to proof")


def measure(folder: Path, repeats: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Seconds of each phase by kind of fault. Raises Lost when a fault was not healed by one restart."""
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    folder.mkdir()
    with Stack(folder) as stack:
        stack.wait_services_up()
        for number in range(repeats):
            for trial in (each for each in all_trials() if each.kind in KINDS):
                found[trial.kind].append(_phases(trial, stack))
                say(f"{trial.kind} {number + 1} of {repeats}: healed after {trial.healed_after:.1f} s")
    return {
        kind: {"floor": floor(kind, SHORTENED), "seconds": runs, "median": _median(runs)}
        for kind, runs in found.items()
    }


def floor(kind: str, timings: Timings) -> dict[str, float]:
    """Seconds of each phase below which these durations let nobody go, on average."""
    rules = timings.rules
    scrape, evaluation = rules.scrape_interval, rules.evaluation_interval or rules.scrape_interval
    waits = {"exit": rules.heartbeat, "hang": rules.heartbeat + scrape, "errors": 0.0}[kind]
    return {
        PHASES[0]: scrape / 2 + waits + evaluation / 2,
        PHASES[1]: 0.0,
        PHASES[2]: 0.0,
        PHASES[3]: timings.stability,
    }


def table(figures: Mapping[str, Any]) -> str:
    """The medians as Markdown."""
    lines = [
        f"| fault | {' | '.join(PHASES)} | whole |",
        "|---|" + "---|" * (len(PHASES) + 1),
    ]
    for kind, of in figures.items():
        cells = [f"{of['median'][phase]:.1f} s (floor {of['floor'][phase]:.1f})" for phase in PHASES]
        whole = sum(of["median"].values())
        lines.append(f"| {kind} | {' | '.join(cells)} | {whole:.1f} s |")
    return "\n".join(lines)


def _phases(trial: Trial, stack: Stack) -> dict[str, float]:
    told: list[Happening] = []
    run_trial(trial, stack, told.append, lambda: None)
    if not trial.healed or trial.healed_after is None or trial.detected_after is None:
        raise Lost(f"{trial.kind} in {trial.service}: {trial.verdict}")
    diagnosed, acted = (
        min(each.seconds for each in told if each.kind == kind) for kind in ("diagnosis", "action")
    )
    ends = (0.0, trial.detected_after, diagnosed, acted, trial.healed_after)
    return {phase: until - since for phase, (since, until) in zip(PHASES, pairwise(ends), strict=True)}


def _median(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {phase: statistics.median(run[phase] for run in runs) for phase in PHASES}
