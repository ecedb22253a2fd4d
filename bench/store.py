"""What the store costs: the way of a notification from the POST to the end of its incident, on real servers.

The question is what durability costs, and the absolute figures of one machine answer it badly. So ingest is
measured in turns with the same application that only parses, and given as a share of that; all else stands
next to its aim. What is counted is counted where it matters: alerts in the store's incidents, restarts at the
target; a benchmark of a fabric that loses something ends with an error.

    python bench/store.py                         everything, on SQLite and PostgreSQL
    python bench/store.py --quick --only ingest   a first look at one part

What is left out: a network between the parts, disks that are slower than this one, and a Prometheus that has
work to do. The load generator and the servers share the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# The tests' own PostgreSQL serves here too.
sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

from postgresql_server import PostgresqlMissing, find_postgresql, temporary_postgresql
from shf_bench import first_step, ingest, lives, machine, memory
from shf_bench.ingest import Lost
from shf_bench.report import STORES, table
from shf_bench.servers import Workshop

PARTS = ("ingest", "lives", "first-step", "memory")
HIGH_LOAD = 0.25  # processes of others that want to run, for each core


@dataclass(frozen=True)
class Amount:
    """How much is measured."""

    rounds: int  # turns of each variant
    scale: float  # of the requests in a turn
    lives: int
    life_runs: int  # the median one counts
    first_steps: int
    open_incidents: tuple[int, ...]


WHOLE = Amount(3, 1.0, 1000, 3, 1200, (1_000, 10_000))
QUICK = Amount(2, 0.25, 250, 1, 200, (1_000,))


def say(text: str) -> None:
    """Progress, for who waits."""
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stderr.flush()


def measure(
    workshop: Workshop, stores: Sequence[str], parts: Sequence[str], amount: Amount
) -> dict[str, Any]:
    """All figures that were asked for."""
    figures: dict[str, Any] = {}
    if "ingest" in parts:
        figures["ingest"] = ingest.measure(workshop, stores, amount.rounds, amount.scale, say)
    for store in stores:
        if "lives" in parts:
            runs = []
            for _ in range(amount.life_runs):
                runs.append(lives.measure(workshop, store, amount.lives))
                say(f"lives on {store}: {runs[-1]['incidents_per_second']:.0f} incidents/s")
            figures.setdefault("lives", {})[store] = lives.median(runs)
        if "first-step" in parts:
            say(f"from POST to first step on {store}")
            steps = first_step.measure(workshop, store, amount.first_steps)
            figures.setdefault("first_step", {})[store] = steps
        if "memory" in parts:
            say(f"memory on {store}")
            figures.setdefault("memory", {})[store] = memory.measure(workshop, store, amount.open_incidents)
    return figures


def run(stores: Sequence[str], parts: Sequence[str], amount: Amount, parent: str | None) -> dict[str, Any]:
    """Make the stores, measure, and say on what. Raises PostgresqlMissing, Lost."""
    with ExitStack() as stack:
        create: Callable[[str], str] | None = None
        if "postgresql" in stores:
            create = stack.enter_context(temporary_postgresql(parent)).create_database
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="shf-bench-", dir=parent)))
        found = machine.describe(folder, find_postgresql() if create else None)
        return {"machine": found, "figures": measure(Workshop(folder, create), stores, parts, amount)}


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure what the store costs, on real servers.")
    parser.add_argument(
        "--quick", action="store_true", help="less of everything: figures that only point the way"
    )
    parser.add_argument("--store", choices=STORES, action="append", help="only this one; may be given twice")
    parser.add_argument(
        "--only", choices=PARTS, action="append", help="only this part; may be given several times"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the raw figures there")
    parser.add_argument(
        "--dir", metavar="FOLDER", help="where the stores are made (default: where temporary files go)"
    )
    arguments = parser.parse_args()
    stores = list(dict.fromkeys(arguments.store or STORES))
    if (load := os.getloadavg()[0]) > HIGH_LOAD * len(os.sched_getaffinity(0)):
        say(f"the load is {load:.1f}: something else runs here, trust the ratios only")
    try:
        result = run(stores, arguments.only or PARTS, QUICK if arguments.quick else WHOLE, arguments.dir)
    except (PostgresqlMissing, Lost) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{table(result['figures'], stores)}\n\n{machine.sentence(result['machine'])}\n")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
