"""The figures as one Markdown table, a row for each question and a column for each store."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from shf_bench.servers import PARSE_ONLY, PRODUCT, STORE_ONLY

STORES = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}
AIM_INGEST = 0.8  # of parse-only
AIM_LIVES = 300.0  # incidents a second; on SQLite with synchronous=FULL
AIM_FIRST_STEP = 10.0  # ms, median

Row = tuple[str, list[str], str]
Figures = Mapping[str, Any]


def table(figures: Figures, stores: Sequence[str]) -> str:
    """The table; a part that was not measured has no rows."""
    heads = ["", *(STORES[store] for store in stores), "aim"]
    lines = [heads, ["---"] * len(heads)]
    for part, rows_of in (
        ("ingest", _ingest),
        ("lives", _lives),
        ("first_step", _first_step),
        ("memory", _memory),
    ):
        for title, cells, aim in rows_of(figures[part], stores) if part in figures else ():
            lines.append([title, *cells, aim])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _ingest(sizes: Figures, stores: Sequence[str]) -> Iterator[Row]:
    for alerts, of in sizes.items():
        title = f"ingest, {alerts} alert{'' if alerts == '1' else 's'} a request, share of parse-only"
        parsed = of[PARSE_ONLY]

        def share(summary: Figures) -> str:
            return f"{summary['ratio']:.2f} ({_speed(summary)})"

        yield (
            f"{title} ({_speed(parsed)})",
            [
                _aimed(share(of[store][PRODUCT]), of[store][PRODUCT]["ratio"] >= AIM_INGEST)
                for store in stores
            ],
            f">= {AIM_INGEST}",
        )
        yield "- the same without healing meanwhile", [share(of[store][STORE_ONLY]) for store in stores], ""
        waits = [of[store][PRODUCT]["worked_in_after_seconds"] for store in stores]
        yield "- from the last answer until all is in incidents", [f"{wait:.1f} s" for wait in waits], ""


def _lives(of: Figures, stores: Sequence[str]) -> Iterator[Row]:
    rates = [f"{of[store]['incidents_per_second']:.0f}/s" for store in stores]
    if "sqlite" in stores:
        at = stores.index("sqlite")
        rates[at] = _aimed(rates[at], of["sqlite"]["incidents_per_second"] >= AIM_LIVES)
    yield "incidents through five steps, with a restart", rates, f">= {AIM_LIVES:.0f}/s on SQLite"
    yield "- processor time of each", [f"{of[store]['cpu_ms_per_incident']:.1f} ms" for store in stores], ""
    yield "- store for each", [f"{of[store]['bytes_per_incident'] / 1000:.1f} kB" for store in stores], ""


def _first_step(of: Figures, stores: Sequence[str]) -> Iterator[Row]:
    def both(key: str) -> Callable[[str], str]:
        return lambda store: "{p50_ms:.1f} / {p99_ms:.1f} ms".format(**of[store][key])

    title = f"POST to first step at {of[stores[0]]['rate']:.0f}/s, p50 / p99"
    cells = [
        _aimed(both("first_step")(store), of[store]["first_step"]["p50_ms"] < AIM_FIRST_STEP)
        for store in stores
    ]
    yield title, cells, f"p50 < {AIM_FIRST_STEP:.0f} ms"
    yield "- to the first question at Prometheus", [*map(both("first_question"), stores)], ""
    yield "- to the answer", [*map(both("answer"), stores)], ""


def _memory(of: Figures, stores: Sequence[str]) -> Iterator[Row]:
    for size in of[stores[0]]:
        yield (
            f"memory with {int(size):,} open incidents",
            [f"{of[store][size]:.0f} MiB" for store in stores],
            "",
        )


def _aimed(text: str, met: bool) -> str:
    return text if met else f"{text}, **missed**"


def _speed(summary: Figures) -> str:
    return "{requests_per_second:.0f} requests/s, p50 {p50_ms:.1f}, p99 {p99_ms:.1f} ms".format(**summary)
