"""One report of everything that is measured, as Markdown and as JSON with the raw figures.

    python bench/report.py --out FOLDER                  everything; about an hour and a half
    python bench/report.py --out FOLDER --only soak      one part; may be given several times
    python bench/report.py --out FOLDER --quick          less of everything: figures that only point the way

Parts that an earlier run has left in FOLDER/benchmarks.json stay, each with its own machine and day, so a
part can be measured again alone. What is left out is said by each part; all of them share one machine with
the load that they measure.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

# The tests' own servers and stubs serve here too.
sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "e2e"))

import httpx
import structlog

from postgresql_server import PostgresqlMissing, find_postgresql, temporary_postgresql
from shf_bench import burst, healing, loop, machine, soak
from shf_bench import report as store_report
from shf_bench.ingest import Lost
from shf_bench.servers import Workshop
from shf_demo.errors import DemoError

BENCH = Path(__file__).resolve().parent
STORES = ("sqlite", "postgresql")
_COUNTED = re.compile(r"crash matrix: (.+)")


class Failed(Exception):
    """A part could not be measured; the text says why."""


MISSED = (Failed, Lost, DemoError, OSError, subprocess.SubprocessError, httpx.HTTPError)
"""What a busy or small machine makes of a part: the others are measured all the same."""


class Measurement:
    """What every part needs: a folder, the stores, and how much is asked."""

    def __init__(self, folder: Path, workshop: Workshop, *, quick: bool) -> None:
        self.folder, self.workshop, self.quick = folder, workshop, quick

    def script(self, name: str, *arguments: str) -> Any:
        """The JSON that a script of this folder writes."""
        out = self.folder / f"{name}.json"
        command = [sys.executable, str(BENCH / f"{name}.py"), *arguments, "--json", str(out)]
        if subprocess.run(command, stdout=sys.stderr, check=False).returncode:  # noqa: S603 - our own script
            raise Failed(f"bench/{name}.py failed; it has said why")
        return json.loads(out.read_text())


def _store(run: Measurement) -> Any:
    return run.script("store", *(["--quick"] if run.quick else []))


def _store_table(found: Mapping[str, Any]) -> str:
    return store_report.table(found["figures"], STORES)


def _loop(run: Measurement) -> Any:
    sizes = (200,) if run.quick else (1000, 5000)
    return {store: loop.measure(run.workshop, store, sizes) for store in STORES}


def _healing(run: Measurement) -> Any:
    # Of one target no more than `guardrails.max_actions` within the hour: the next one is left to people.
    return healing.measure(run.folder / "healing", 1 if run.quick else 3, say)


def _recovery(run: Measurement) -> Any:
    return run.script("recovery", "--times", "3" if run.quick else "20")


def _recovery_table(found: Mapping[str, Any]) -> str:
    lines = ["| platform | restarts | from decision to effect, median | worst |", "|---|---|---|---|"]
    for platform, figures in found.items():
        if isinstance(figures, str):
            lines.append(f"| {platform} | not measured: {figures} | | |")
        else:
            ordered = sorted(1000 * each for each in figures)
            median = ordered[len(ordered) // 2]
            lines.append(f"| {platform} | {len(ordered)} | {median:.0f} ms | {ordered[-1]:.0f} ms |")
    return "\n".join(lines)


def _soak(run: Measurement) -> Any:
    seconds = 30.0 if run.quick else 600.0
    return {store: soak.measure(run.workshop, store, 100.0, seconds) for store in STORES}


def _burst(run: Measurement) -> Any:
    found: dict[str, Any] = {"Self-Healing Fabric": burst.of_fabric(run.folder, workers=20)}
    try:
        found[f"task queue of Robusta ({burst.ROBUSTA})"] = burst.of_robusta(run.folder)
    except burst.PeerMissing as error:
        found["task queue of Robusta"] = {"missing": str(error)}
    return found


def _crash(run: Measurement) -> Any:
    seeds = "1" if run.quick else "10"
    command = [sys.executable, "-m", "pytest", "-q", "tests/crash/test_matrix.py"]
    began = time.monotonic()
    done = subprocess.run(  # noqa: S603 - our own tests
        command,
        cwd=BENCH.parent,
        env={**os.environ, "CRASH_SEEDS": seeds},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    counted = _COUNTED.search(done.stdout)
    if done.returncode or counted is None:
        raise Failed(f"the crash matrix is not green:\n{done.stdout[-2000:]}")
    pairs = (each.rsplit(" ", 1) for each in counted[1].split(", "))
    return {
        "seeds": int(seeds),
        "seconds": time.monotonic() - began,
        "counts": {name: int(number) for name, number in pairs},
    }


def _crash_table(found: Mapping[str, Any]) -> str:
    rows = [f"| {name} | {number:,} |" for name, number in found["counts"].items()]
    return "\n".join([f"| with {found['seeds']} seeds, {found['seconds']:.0f} s | |", "|---|---|", *rows])


Part = tuple[str, str, Callable[[Measurement], Any], Callable[[Any], str]]
PARTS: Mapping[str, Part] = {
    "store": (
        "The store",
        "From the POST to the end of the incident. Ingest is a share of what the same application reaches"
        " that only parses, measured in turns; `bench/store.py` says how.",
        _store,
        _store_table,
    ),
    "loop": (
        "The comparison with the servers",
        "Every 10 s the open incidents are compared with what fires.",
        _loop,
        loop.table,
    ),
    "healing": (
        "From the fault to the proof",
        "Real services, Prometheus and Alertmanager, shortened durations, medians. The floor is what these"
        " rules and scrapes cost whoever heals: waiting for the scrape, for the rule, for the evaluation, and"
        " for the stability window.",
        _healing,
        healing.table,
    ),
    "recovery": (
        "From the decision to the effect",
        "Until the order has arrived at the target; `bench/recovery.py` says how.",
        _recovery,
        _recovery_table,
    ),
    "soak": (
        "Memory over time",
        "100 new alerts a second of 200 services, each incident with a restart. No alert ends, so that each"
        " of the 200 incidents holds 300 at the end: what grows steadily is the size of one step of theirs.",
        _soak,
        soak.table,
    ),
    "burst": (
        "A burst",
        "2,000 alerts at once on 200 connections, repairs of 2 s, 20 workers; counted at the targets. A peer"
        " stands here because it can be installed; only its queue is measured, with its own defaults.",
        _burst,
        burst.table,
    ),
    "crash": (
        "Killed on purpose",
        "SIGKILL at every named point of the state machine; an effect that happened twice or an incident that"
        " got lost ends the run.",
        _crash,
        _crash_table,
    ),
}


def say(text: str) -> None:
    """Progress, for who waits."""
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stderr.flush()


def page(parts: Mapping[str, Any]) -> str:
    """The report as Markdown."""
    lines = [
        "# Benchmarks",
        "",
        "Written by `make bench` (`bench/report.py`); the raw figures: [benchmarks.json](benchmarks.json).",
        "Absolute figures hold for the machine that each part names; compare ratios. What the alert rules",
        "cost Prometheus is in [signals](signals.md), how well causes are found in [the diagnosis",
        "benchmark](diagnosis-benchmark.md).",
    ]
    for name, (title, text, _, table) in PARTS.items():
        if name in parts:
            part = parts[name]
            lines += ["", f"## {title}", "", text, "", table(part["figures"]), ""]
            how = " Quick: figures that only point the way." if part["quick"] else ""
            lines.append(f"{part['day']}; {machine.sentence(part['machine'])}.{how}")
    return "\n".join([*lines, ""])


def main() -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(description="Measure everything and write one report.")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where the report goes")
    parser.add_argument("--only", choices=PARTS, action="append", help="only this part; may be given again")
    parser.add_argument("--quick", action="store_true", help="less of everything")
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    raw = arguments.out / "benchmarks.json"
    parts: dict[str, Any] = json.loads(raw.read_text()) if raw.exists() else {}
    status = 0
    try:
        with ExitStack() as stack:
            create = stack.enter_context(temporary_postgresql(None)).create_database
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="shf-bench-")))
            for name in arguments.only or PARTS:
                place = folder / name
                place.mkdir()
                on = machine.describe(place, find_postgresql())
                say(f"{name} ...")
                run = Measurement(place, Workshop(place, create), quick=arguments.quick)
                try:
                    figures = PARTS[name][2](run)
                except MISSED as error:
                    say(f"{name}: {error}")
                    status = 1
                    continue
                day = datetime.now(UTC).date().isoformat()
                parts[name] = {"day": day, "quick": arguments.quick, "machine": on, "figures": figures}
                raw.write_text(json.dumps(parts, indent=1, sort_keys=True) + "\n")
                (arguments.out / "benchmarks.md").write_text(page(parts))
    except PostgresqlMissing as error:
        sys.stderr.write(f"{error}\n")
        return 1
    if parts:
        say(f"written: {arguments.out / 'benchmarks.md'}")
    return status


if __name__ == "__main__":
    sys.exit(main())
