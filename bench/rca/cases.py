"""Labelled cases of public fault injections, served as Prometheus would serve them.

A case's columns become series that are recorded for the diagnosis (`service:shf_custom:KIND`), behind the
same method that production calls, so that from the query to the verdict nothing but production code runs.
What only the scorer may know (label.json) is read by another module.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from shf_queries import Series, catalogue

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Table:
    """Columns `service|kind[|detail]` by time in seconds since 1970."""

    times: FloatArray
    columns: tuple[str, ...]
    values: FloatArray  # (time, column), NaN: no sample


@dataclass(frozen=True)
class Change:
    """A deployment that the case tells of."""

    service: str
    at: float


@dataclass(frozen=True)
class Case:
    """One case, without its label."""

    id: str
    system: str
    table: Table
    alerted_at: float
    alert_service: str
    alert_kind: str
    calls: tuple[tuple[str, str], ...]
    changes: tuple[Change, ...]
    step: float = 60.0


def read_cases(data: Path) -> Iterator[Case]:
    """All cases below `data` that have series, by name."""
    for path in sorted(data.glob("*/*/metrics.csv")):
        yield read_case(path.parent)


def read_case(directory: Path) -> Case:
    """Read one case: what a method may read, and nothing else."""
    given = json.loads((directory / "input.json").read_text(encoding="utf-8"))
    table = _read_table(directory / "metrics.csv")
    alert = given.get("alert") or {}
    alerted_at = float(given.get("alert_time") or given.get("inject_time") or table.times[-1])
    if given.get("baseline", "").endswith(".csv"):
        table = _after(_read_table((directory / given["baseline"]).resolve()), table)
    service = alert.get("service") or given.get("entry_service") or ""
    kind = alert.get("metric") or _kind_of_target(given, service, table)
    return Case(
        id=f"{directory.parent.name}/{directory.name}",
        system=directory.parent.name,
        table=table,
        alerted_at=alerted_at,
        alert_service=service,
        alert_kind=kind,
        calls=_calls(directory),
        changes=_changes(directory),
        step=float(given.get("step_s") or 60.0),
    )


def _kind_of_target(given: dict[str, Any], service: str, table: Table) -> str:
    """PetShop names what was alerted on and how it was aggregated: `latency` and `average`."""
    if "target_metric" not in given:
        return ""
    kind = f"{given['target_metric']}_{given.get('target_agg', '')}".rstrip("_")
    return kind if f"{service}|{kind}" in table.columns else ""


@lru_cache(maxsize=8)
def _read_table(path: Path) -> Table:
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    columns = tuple(rows[0][1:])
    values = np.array([[float(cell) if cell else np.nan for cell in row] for row in rows[1:] if row])
    values = values.reshape(-1, len(columns) + 1)
    return Table(values[:, 0], columns, values[:, 1:])


def _after(baseline: Table, table: Table) -> Table:
    """The set's own baseline, moved to end where the case begins, and then the case."""
    step = float(np.median(np.diff(baseline.times)))
    columns = tuple(sorted({*baseline.columns, *table.columns}))
    times = baseline.times - baseline.times[-1] + table.times[0] - step
    joined = np.full((len(times) + len(table.times), len(columns)), np.nan)
    place = {column: index for index, column in enumerate(columns)}
    for part, first in ((baseline, 0), (table, len(times))):
        for index, column in enumerate(part.columns):
            joined[first : first + len(part.times), place[column]] = part.values[:, index]
    return Table(np.concatenate([times, table.times]), columns, joined)


def _calls(directory: Path) -> tuple[tuple[str, str], ...]:
    """The set's call graph; where it has none, the calls that the case's own traces show."""
    graph = directory.parent / "graph.csv"
    if graph.exists():
        with graph.open(newline="", encoding="utf-8") as file:
            return tuple((row["caller"], row["callee"]) for row in csv.DictReader(file))
    traces = directory / "traces.json"
    if not traces.exists():
        return ()
    spans = json.loads(traces.read_text(encoding="utf-8"))
    services = {span.get("span_id"): span.get("service") for span in spans}
    calls = {(services.get(span.get("parent_id")), span.get("service")) for span in spans}
    return tuple(sorted((a, b) for a, b in calls if a and b and a != b))


def _changes(directory: Path) -> tuple[Change, ...]:
    deploys = directory / "deploys.json"
    if not deploys.exists():
        return ()
    return tuple(
        Change(entry["service"], datetime.fromisoformat(entry["timestamp"]).timestamp())
        for entry in json.loads(deploys.read_text(encoding="utf-8"))
        if entry.get("service") and entry.get("timestamp")
    )


class CasePrometheus:
    """Answers the range query of a diagnosis from a table, with the labels that recorded series would
    have."""

    def __init__(self, table: Table) -> None:
        self._table = table

    @property
    def services(self) -> tuple[str, ...]:
        """The services that have series."""
        return tuple(sorted({column.split("|")[0] for column in self._table.columns}))

    def range(self, promql: str, *, start: float, end: float, step: float) -> tuple[Series, ...]:
        """The samples within the range, as stored: the cases have steps of their own."""
        if promql != catalogue.diagnosed(self.services):
            raise ValueError(f"a case answers the query of a diagnosis only, not {promql}")
        inside = (self._table.times >= start) & (self._table.times <= end)
        times = self._table.times[inside]
        return tuple(self._series(times, inside))

    def _series(self, times: FloatArray, inside: npt.NDArray[np.bool_]) -> Iterator[Series]:
        for index, column in enumerate(self._table.columns):
            values = self._table.values[inside, index]
            present = np.isfinite(values)
            if not present.any():
                continue
            service, kind, *detail = column.split("|")
            labels = {"__name__": f"{catalogue.CUSTOM}{kind}", "service": service}
            if detail:
                labels["peer"] = re.sub("^[a-z]+=", "", "|".join(detail))
            yield Series(labels, times if present.all() else times[present], values[present])
