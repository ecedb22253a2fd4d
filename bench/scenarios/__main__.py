"""Run labelled scenarios on real servers and judge what the running fabric diagnosed.

    python -m bench.scenarios --repeats 10 --results scenarios.jsonl --report FILE

Results are written as they come. `--resume` goes on after those that the file holds for this seed; it is
asked for, because results of other rules would else be taken for those of the present ones. `--repeats 0`
only judges.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

from bench.scenarios.faults import SCENARIOS, Scenario
from bench.scenarios.plan import Planned, plan
from bench.scenarios.report import write_report
from bench.scenarios.results import ResultFile
from bench.scenarios.run import run
from shf_demo.errors import DemoError
from shf_demo.signals import signals_interrupt

LANES = 4  # scenarios at once


def main() -> int:
    """Run what is missing, write the report; returns the exit status."""
    arguments, scenarios = _arguments()
    file = ResultFile(arguments.results)
    status = 0
    if arguments.repeats > 0:
        status = _run(file, plan(scenarios, arguments.repeats, arguments.seed), arguments)
    report = write_report([result for result in file.read() if result.seed == arguments.seed])
    if arguments.report:
        arguments.report.write_text(report, encoding="utf-8")
    else:
        print(report, end="")
    return status


def _arguments() -> tuple[argparse.Namespace, list[Scenario]]:
    """What was asked for, and the scenarios that it names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known = {scenario.name: scenario for scenario in SCENARIOS}
    parser.add_argument("--repeats", type=int, default=10, help="of each scenario; 0 only judges")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help=f"names, separated by commas: {', '.join(known)}")
    parser.add_argument("--lanes", type=int, default=LANES, choices=range(3, 9), help="scenarios at once")
    parser.add_argument(
        "--results", type=Path, default=Path("scenarios.jsonl"), help="one JSON line a repeat"
    )
    parser.add_argument(
        "--report", type=Path, help="written: the scores in Markdown; else to standard output"
    )
    parser.add_argument("--resume", action="store_true", help="go on after what the results hold")
    arguments = parser.parse_args()
    if arguments.repeats > 0 and arguments.results.exists() and not arguments.resume:
        parser.error(f"{arguments.results} exists: go on after it with --resume (RESUME=1), or move it away")
    names = [name for name in arguments.only.split(",") if name]
    if unknown := sorted(set(names) - set(known)):
        parser.error(f"no scenario {', '.join(unknown)}: there are {', '.join(known)}")
    return arguments, [scenario for scenario in SCENARIOS if not names or scenario.name in names]


def _run(file: ResultFile, whole: list[list[Planned]], arguments: argparse.Namespace) -> int:
    workdir = Path(tempfile.mkdtemp(prefix="shf-scenarios-"))
    begin = time.monotonic()
    try:
        with signals_interrupt():
            run(workdir, whole, file, lanes=arguments.lanes, seed=arguments.seed)
    except DemoError as error:
        print(f"{error}\nThe logs are in {workdir}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted. What is done is kept; --resume (RESUME=1) goes on after it.", file=sys.stderr)
        status = 130  # the shell's 128 + SIGINT
    else:
        status = 0
    print(
        f"{time.monotonic() - begin:.0f} s. Every process that was started has been stopped.", file=sys.stderr
    )
    shutil.rmtree(workdir, ignore_errors=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
