"""Judge the diagnosis on the cases of a directory: predictions as JSON lines, and a report in Markdown.

python -m bench.rca --data DIR --predictions FILE --report FILE
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.rca.cases import Case, read_cases
from bench.rca.drawn import NUMBERS, measure
from bench.rca.report import OURS, Judged, judge, write_report

PARTS = {"first": "First half of each set", "second": "Second half of each set", "all": "All cases"}


def main() -> None:
    """Read the cases, run, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="directory with SET/CASE/metrics.csv")
    parser.add_argument("--predictions", type=Path, required=True, help="written: one JSON line a case")
    parser.add_argument(
        "--report", type=Path, help="written: the scores in Markdown; else to standard output"
    )
    parser.add_argument(
        "--part",
        choices=[*PARTS, "both"],
        default="all",
        help="of each set by name: develop on the first half only",
    )
    arguments = parser.parse_args()
    by_system: dict[str, list[Case]] = defaultdict(list)
    for case in read_cases(arguments.data):
        by_system[case.system].append(case)
    if not by_system:
        parser.error(f"no SET/CASE/metrics.csv below {arguments.data}")
    names = ("first", "second") if arguments.part == "both" else (arguments.part,)
    parts = [(PARTS[name], _judged(arguments.data, by_system, name)) for name in names]
    with arguments.predictions.open("w", encoding="utf-8") as file:
        for _, group in parts:
            for judged in group:
                file.writelines(json.dumps(one.as_dict()) + "\n" for one in judged.predictions[OURS])
    report = write_report(arguments.data, parts, [measure(number) for number in NUMBERS])
    if arguments.report:
        arguments.report.write_text(report, encoding="utf-8")
    else:
        print(report, end="")


def _judged(data: Path, by_system: Mapping[str, Sequence[Case]], part: str) -> list[Judged]:
    chosen = {
        system: {"first": cases[: len(cases) // 2], "second": cases[len(cases) // 2 :], "all": cases}[part]
        for system, cases in by_system.items()
    }
    return [judge(data, system, cases) for system, cases in chosen.items() if cases]


if __name__ == "__main__":
    main()
