"""The parts of the report fail when something was lost, and the report shows what was measured."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from shf_bench import healing, loop, soak
from shf_bench.ingest import Lost
from shf_bench.load import Result
from shf_bench.servers import Workshop
from shf_demo.timings import SHORTENED

sys.path.append(str(Path(__file__).resolve().parents[2] / "e2e"))  # where its stubs are

import report
from shf_bench import burst

MACHINE: dict[str, Any] = {
    "processor": "a processor", "cores": 2, "memory_gib": 24.0, "load_before": 0.1, "kernel": "Linux 6",
    "file_system": "ext4", "fsync_ms": 0.5, "python": "3.11", "sqlite": "3", "postgresql": None,
    "packages": {"flask": "3"}, "fabric": "0.1.0", "servers": ["Prometheus 2.42.0"],
}  # fmt: skip


def test_comparisons_are_measured_with_all_incidents_open(tmp_path: Path) -> None:
    """As many are open afterwards as before, and each comparison has a time of its own."""
    found = loop.measure(Workshop(tmp_path, None), "sqlite", (50,))
    assert len(found["50"]) == loop.RUNS
    assert "| sqlite | 50 |" in loop.table({"sqlite": found})


def test_a_comparison_that_ends_incidents_is_no_measurement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Incidents that are gone after the comparisons end the benchmark with an error."""
    answers = iter([50])
    monkeypatch.setattr(loop, "_open", lambda _: next(answers, 49))
    with pytest.raises(Lost, match="50 incidents were open, and 49"):
        loop.measure(Workshop(tmp_path, None), "sqlite", (50,))


def test_memory_is_read_while_alerts_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several readings, and all alerts taken."""
    monkeypatch.setattr(soak, "SAMPLE", 0.3)
    found = soak.measure(Workshop(tmp_path, None), "sqlite", rate=40, seconds=2)
    assert found["alerts"] == 80
    assert len(found["mib"]) > 2
    assert all(reading > 10 for _, reading in found["mib"])


def test_alerts_that_were_not_taken_end_the_soak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A 503 among the answers is an error and no figure."""
    monkeypatch.setattr(soak, "run_load", lambda *_, **__: Result(1.0, [0.1] * 4, {"202": 3, "503": 1}))
    with pytest.raises(Lost, match="503"):
        soak.measure(Workshop(tmp_path, None), "sqlite", rate=40, seconds=2)


def test_the_floor_is_that_of_the_rules() -> None:
    """Half a scrape and half an evaluation on average, what the rule waits for, and the stability window."""
    floors = {kind: healing.floor(kind, SHORTENED) for kind in healing.KINDS}
    assert floors["exit"] == {
        "fault to webhook": 11.0,
        "webhook to diagnosis": 0.0,
        "diagnosis to action": 0.0,
        "action to proof": 5.0,
    }
    assert floors["hang"]["fault to webhook"] == 12.0
    assert floors["errors"]["fault to webhook"] == 1.0


def test_what_was_acknowledged_and_not_repaired_is_told_as_lost() -> None:
    """A receiver that cannot be measured is told with its reason."""
    figures = {"alerts": 2000, "acknowledged": 2000, "repaired": 520, "repaired_twice": 0, "seconds": 50.0}
    table = burst.table({"a queue": figures, "another": {"missing": "it cannot be installed"}})
    assert "| a queue | 2,000 of 2,000 | 520 | 1,480 | 0 | 50 |" in table
    assert "not measured: it cannot be installed" in table


def test_the_way_from_fault_to_proof_is_told_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part lasts from one moment of the incident's timeline to the next; together they are the whole."""
    trial = SimpleNamespace(healed=True, detected_after=10.0, healed_after=20.0)

    def run(_: Any, __: Any, tell: Any, ___: Any) -> None:
        for kind, seconds in (("diagnosis", 10.25), ("action", 10.5), ("action", 11.0)):
            tell(SimpleNamespace(kind=kind, seconds=seconds))

    monkeypatch.setattr(healing, "run_trial", run)
    phases = healing._phases(trial, None)  # type: ignore[arg-type]
    assert list(phases.values()) == [10.0, 0.25, 0.25, 9.5]


def test_a_part_that_fails_takes_no_other_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The report holds what could be measured, and the exit status says that something is missing."""

    def fails(_: Any) -> Any:
        raise TimeoutError("no answer for 30 s")

    title, text, _, table = report.PARTS["store"]
    crash = {"seeds": 1, "seconds": 60.0, "counts": {"stories": 101}}
    parts = {
        "store": (title, text, fails, table),
        "crash": (*report.PARTS["crash"][:2], lambda _: crash, report.PARTS["crash"][3]),
    }
    monkeypatch.setattr(report, "PARTS", parts)
    monkeypatch.setattr(
        report, "temporary_postgresql", lambda _: nullcontext(SimpleNamespace(create_database=None))
    )
    monkeypatch.setattr(report.structlog, "configure", lambda **_: None)  # it would silence other tests' logs
    monkeypatch.setattr(sys, "argv", ["report.py", "--out", str(tmp_path), "--quick"])
    assert report.main() == 1
    assert "| stories | 101 |" in (tmp_path / "benchmarks.md").read_text()
    assert "## The store" not in (tmp_path / "benchmarks.md").read_text()


def test_the_report_has_the_parts_that_were_measured() -> None:
    """Each with its day, its machine and whether it was quick; none for what was not measured."""
    part = {"day": "2026-11-23", "quick": True, "machine": MACHINE}
    crash = {**part, "figures": {"seeds": 1, "seconds": 60.0, "counts": {"stories": 101, "kills": 118}}}
    text = report.page({"crash": crash})
    assert "## Killed on purpose" in text
    assert "| stories | 101 |" in text
    assert "2 cores (a processor), 24 GiB" in text
    assert "fabric 0.1.0; Python 3.11, SQLite 3, no PostgreSQL, Prometheus 2.42.0" in text
    assert "Quick: figures that only point the way." in text
    assert "## A burst" not in text
