"""Runs everything over the cases and writes it down in Markdown, per system and never pooled alone."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bench.rca import scores
from bench.rca.cases import Case, Table
from bench.rca.drawn import Drawn, write_section
from bench.rca.methods import BASELINES, Prediction, diagnose, fabric, peak_memory
from bench.rca.scores import CONFIDENT, Label, accuracy_at, average_at_5, rank
from self_healing_fabric.diagnosis.localization import RULES_VERSION

DELAYS = (0.0, 60.0, 120.0)  # seconds by which the alert is late
QUIET_AT = (0.4, 0.5, 0.6, 0.7)  # of the history: where a quiet window's alert is placed
QUIET_SAMPLES = 8  # at most, after it
SYNTHETIC = (500, 720)  # series, samples
SYNTHETIC_RUNS = 40
OURS = "fabric"


@dataclass(frozen=True)
class Judged:
    """The cases of one system in one part, with their labels and what every method says of them."""

    system: str
    cases: tuple[Case, ...]
    labels: tuple[Label, ...]
    predictions: dict[str, tuple[Prediction, ...]]

    def ranks(self, method: str) -> list[float]:
        """The place of the true service in every case."""
        return [rank(one, label) for one, label in zip(self.predictions[method], self.labels, strict=True)]


def judge(data: Path, system: str, cases: Sequence[Case]) -> Judged:
    """Run all methods over the cases of a system."""
    labels = tuple(scores.read_label(data, case.id) for case in cases)
    predictions = {OURS: tuple(fabric(case) for case in cases)}
    for name, method in BASELINES.items():
        found = [one for case in cases if (one := method(case)) is not None]
        if len(found) == len(cases):
            predictions[name] = tuple(found)
    return Judged(system, tuple(cases), labels, predictions)


def late(case: Case, seconds: float) -> Case:
    """The same case with an alert that fires later."""
    return replace(case, alerted_at=case.alerted_at + seconds)


def quiet_cases(case: Case) -> Iterator[Case]:
    """Windows of the case's own history in which nothing was injected, with an alert that means nothing."""
    times = case.table.times
    history = int(np.searchsorted(times, case.alerted_at))
    length = min(len(times) - history, QUIET_SAMPLES)
    for part in QUIET_AT:
        at = int(history * part)
        if length > 0 and at > length:
            yield replace(case, table=_cut(case.table, at + length), alerted_at=float(times[at]))


def _cut(table: Table, stop: int) -> Table:
    return Table(table.times[:stop], table.columns, table.values[:stop])


def blinded_cases(case: Case) -> Iterator[Case]:
    """The case with its evidence removed, in three ways: no samples since the alert's look-back, as much of
    the history in their place, and no samples at all."""
    times, values = case.table.times, case.table.values
    first = int(np.searchsorted(times, case.alerted_at - 600.0))
    first = min(first, max(0, int(np.searchsorted(times, case.alerted_at)) - 3))
    length = len(times) - first
    empty, repeated = values.copy(), values.copy()
    empty[first:] = np.nan
    before = values[max(0, first - length) : first]
    if len(before):
        repeated[first:] = before[np.arange(length) % len(before)]
    for changed in (empty, repeated, np.full_like(values, np.nan)):
        yield replace(case, table=Table(times, case.table.columns, changed))


def synthetic_case() -> Case:
    """500 series of 720 samples with a fault in one of 50 services, for the time."""
    generator = np.random.default_rng(scores.SEED)
    series, samples = SYNTHETIC
    kinds = (
        "cpu",
        "mem",
        "latency_p95",
        "latency_p50",
        "error_ratio",
        "requests",
        "net_rx",
        "net_tx",
        "disk",
        "queue",
    )
    services = [f"service-{number}" for number in range(series // len(kinds))]
    columns = tuple(f"{service}|{kind}" for service in services for kind in kinds)
    values = 10.0 + generator.normal(size=(samples, series))
    values[-20:, 40:60] += 30.0
    calls = tuple((services[number // 2], services[number]) for number in range(1, len(services)))
    times = 1.7e9 + 15.0 * np.arange(samples)
    return Case(
        "synthetic/0",
        "synthetic",
        Table(times, columns, values),
        float(times[-18]),
        services[0],
        "",
        calls,
        (),
    )


def write_report(
    data: Path, parts: Sequence[tuple[str, Sequence[Judged]]], invented: Sequence[Drawn] = ()
) -> str:
    """The report: one section a part (the first half of each set, the second, or all), then the systems drawn
    at random."""
    lines = list(_head(data, parts))
    for title, judged in parts:
        lines += ["", f"## {title}", *_services(judged), *_late(data, judged), *_patterns(judged)]
        lines += [*_confidence(judged), *_nothing_to_find(judged)]
    lines += _cost([judged for _, group in parts for judged in group])
    lines += write_section(invented) if invented else []
    return "\n".join(lines) + "\n"


def _head(data: Path, parts: Sequence[tuple[str, Sequence[Judged]]]) -> Iterator[str]:
    methods = {name for _, group in parts for judged in group for name in judged.predictions}
    yield "# Diagnosis on labelled public cases"
    yield ""
    yield (
        f"Generated by `make bench-rca`; rules {RULES_VERSION}. Faults that were injected for a paper are "
        "not production: they are few kinds, large, one at a time, and on demonstration systems. Read each "
        "system by itself."
    )
    yield ""
    yield (
        "Inputs differ: the fabric also reads the call graph, the alerting service and its kind of series "
        "where the case names them, and deployments; BARO and N-sigma read the series and the time of the "
        "alert. Every method is asked at the end of the case, as in the papers. [a, b] is a 95 % bootstrap "
        "interval over cases."
    )
    yield ""
    yield (
        "Quiet minutes between injections are not proved to be free of trouble: nezha-ob's lie 8 min apart "
        "and hold restarts. ECE after verdicts: each tenth of the cases after verdicts on the other nine."
    )
    yield ""
    yield (
        "ECE by chance is what confidences that are exactly true would score with as many cases: the mean, "
        "and what 95 % stay below. Below the latter, an ECE does not show that the confidences are wrong; to "
        "show that they are right takes more cases."
    )
    yield ""
    yield (
        "The confidence is fitted to drawn systems and to the first halves of these sets; the second halves "
        "took no part in it."
    )
    if "BARO" not in methods:
        yield ""
        yield "BARO was not run: the package fse-baro is not installed (`pip install fse-baro`)."


def _services(judged: Sequence[Judged]) -> Iterator[str]:
    yield from (
        "",
        "### Service",
        "",
        "| system (cases) | method | AC@1 | AC@3 | Avg@5 |",
        "|---|---|---|---|---|",
    )
    methods = list(dict.fromkeys(name for one in judged for name in one.predictions))
    for one in judged:
        for method in methods:
            if method not in one.predictions:
                continue
            ranks = one.ranks(method)
            low, high = scores.interval(ranks, lambda some: accuracy_at(some, 1))
            yield _row(
                f"{one.system} ({len(ranks)})",
                method,
                f"{accuracy_at(ranks, 1):.2f} [{low:.2f}, {high:.2f}]",
                f"{accuracy_at(ranks, 3):.2f}",
                f"{average_at_5(ranks):.2f}",
            )
        luck = scores.shuffled(one.predictions[OURS], one.labels)
        yield _row(
            f"{one.system} ({len(one.cases)})", "fabric, labels shuffled", *(f"{value:.2f}" for value in luck)
        )
    for method in methods:
        known = [one.ranks(method) for one in judged if method in one.predictions]
        means = [float(np.mean([score(ranks) for ranks in known])) for score in _SCORES]
        yield _row("mean over systems", method, *(f"{value:.2f}" for value in means))


_SCORES = (lambda ranks: accuracy_at(ranks, 1), lambda ranks: accuracy_at(ranks, 3), average_at_5)


def _late(data: Path, judged: Sequence[Judged]) -> Iterator[str]:
    yield from ("", "### AC@1 (Avg@5) when the alert is late", "")
    methods = [name for name in (OURS, "BARO", "N-sigma") if all(name in one.predictions for one in judged)]
    yield _row("system", "method", *(f"{delay:.0f} s" for delay in DELAYS))
    yield _row(*["---"] * (2 + len(DELAYS)))
    for one in judged:
        delayed = [
            one,
            *(judge(data, one.system, [late(case, delay) for case in one.cases]) for delay in DELAYS[1:]),
        ]
        for method in methods:
            cells = [
                f"{accuracy_at(some.ranks(method), 1):.2f} ({average_at_5(some.ranks(method)):.2f})"
                for some in delayed
            ]
            yield _row(one.system, method, *cells)


def _patterns(judged: Sequence[Judged]) -> Iterator[str]:
    yield from ("", "### Pattern and series", "")
    yield "| system | strict | lenient | among the first two | series AC@1 |"
    yield "|---|---|---|---|---|"
    told = [(one, scores.pattern_scores(one.predictions[OURS], one.labels)) for one in judged]
    for one, found in told:
        series = scores.metric_accuracy(one.predictions[OURS], one.labels)
        yield _row(
            one.system,
            f"{found.strict:.2f}",
            f"{found.lenient:.2f}",
            f"{found.first_two:.2f}",
            "not labelled" if np.isnan(series) else f"{series:.2f}",
        )
    yield from ("", "| true pattern | named instead or rightly (cases) |", "|---|---|")
    truths = sorted({truth for _, found in told for truth, _ in found.confusion})
    for truth in truths:
        named: dict[str, int] = {}
        for _, found in told:
            for (true, name), count in found.confusion.items():
                if true == truth:
                    named[name] = named.get(name, 0) + count
        yield _row(
            truth,
            ", ".join(
                f"{name} {count}" for name, count in sorted(named.items(), key=lambda x: (-x[1], x[0]))
            ),
        )


def _confidence(judged: Sequence[Judged]) -> Iterator[str]:
    yield from ("", "### Confidence", "")
    answered_at = f"answered at >= {CONFIDENT}"
    yield _row(
        "system",
        "right",
        "mean confidence",
        "ECE",
        "ECE by chance (95 %)",
        "ECE after verdicts",
        answered_at,
        "right of those",
        "abstained",
    )
    yield _row(*["---"] * 9)
    for name, group in [(one.system, [one]) for one in judged] + [("all systems", list(judged))]:
        predictions = [one for some in group for one in some.predictions[OURS]]
        sure = [one.root_confidence for one in predictions]
        right = [place == 1 for some in group for place in some.ranks(OURS)]
        answered = [hit for confidence, hit in zip(sure, right, strict=True) if confidence >= CONFIDENT]
        abstained = np.mean([one.abstained for one in predictions])
        after = scores.error_after_verdicts(predictions, right) if len(group) == 1 else float("nan")
        chance = scores.error_by_chance(sure)
        yield _row(
            name,
            f"{np.mean(right):.2f}",
            f"{np.mean(sure):.2f}",
            f"{scores.calibration_error(sure, right):.2f}",
            f"{chance[0]:.2f} ({chance[1]:.2f})",
            "" if np.isnan(after) else f"{after:.2f}",
            f"{len(answered) / len(sure):.0%}",
            f"{np.mean(answered):.2f}" if answered else "-",
            f"{abstained:.0%}",
        )


def _nothing_to_find(judged: Sequence[Judged]) -> Iterator[str]:
    yield from ("", "### When there is nothing to find", "")
    yield _row(
        "system",
        f"quiet windows at >= {CONFIDENT}",
        "unknown, samples removed",
        "unknown, quiet samples instead",
        "unknown, no samples",
    )
    yield _row(*["---"] * 5)
    for one in judged:
        quiet = [
            fabric(window).root_confidence >= CONFIDENT for case in one.cases for window in quiet_cases(case)
        ]
        blind = np.array(
            [[diagnose(blinded).abstained for blinded in blinded_cases(case)] for case in one.cases]
        )
        yield _row(
            one.system,
            f"{np.mean(quiet):.0%} of {len(quiet)}" if quiet else "no history",
            *(f"{share:.0%}" for share in np.mean(blind, axis=0)),
        )


def _cost(judged: Sequence[Judged]) -> list[str]:
    lines = [
        "",
        "## Time and memory of one diagnosis",
        "",
        f"One core of {platform.machine()}, Python {platform.python_version()}.",
        "",
    ]
    lines += ["| cases | p50 ms | p95 ms | peak MB |", "|---|---|---|---|"]
    for one in judged:
        elapsed = [prediction.elapsed_ms for prediction in one.predictions[OURS]]
        peak = max(peak_memory(case) for case in one.cases) / 1e6
        lines.append(
            _row(
                f"{one.system} ({len(elapsed)})",
                *(f"{np.quantile(elapsed, q):.0f}" for q in (0.5, 0.95)),
                f"{peak:.1f}",
            )
        )
    synthetic = synthetic_case()
    elapsed = [fabric(synthetic).elapsed_ms for _ in range(SYNTHETIC_RUNS)]
    title = f"synthetic, {SYNTHETIC[0]} series x {SYNTHETIC[1]} samples"
    lines.append(
        _row(
            title,
            *(f"{np.quantile(elapsed, q):.0f}" for q in (0.5, 0.95)),
            f"{peak_memory(synthetic) / 1e6:.1f}",
        )
    )
    return lines


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
