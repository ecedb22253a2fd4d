"""A benchmark of a fabric that loses something fails, and its variants are what they are called."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shf_bench import lives
from shf_bench.ingest import Lost, Turn, _all_worked_in, _figures
from shf_bench.load import Result, run_load
from shf_bench.notifications import LAST, Notifications, service_name
from shf_bench.report import table
from shf_bench.servers import PARSE_ONLY, PRODUCT, STORE_ONLY, Workshop
from shf_bench.stub import Stub

SERVICES = {name: {} for name in (service_name(0), service_name(1), LAST)}


@pytest.fixture
def stub(tmp_path: Path) -> Iterator[Stub]:
    """The stubbed servers."""
    with Stub(tmp_path) as stub:
        yield stub


@pytest.mark.parametrize("variant", [PARSE_ONLY, STORE_ONLY])
def test_variants_store_nothing_or_everything(tmp_path: Path, stub: Stub, variant: str) -> None:
    """Both take notifications as the product does; a product on their store tells them apart."""
    workshop = Workshop(tmp_path, None)
    store = workshop.new_store("sqlite")
    settings: dict[str, Any] = {"services": SERVICES, "prometheus": {"url": stub.url}}
    with workshop.run(variant, store, **settings) as running:
        assert run_load(running.port, Notifications(2, 2), 20).statuses == {"202": 20}
        running.kill()
    with workshop.run(PRODUCT, store, **settings) as running:
        if variant == STORE_ONLY:
            _all_worked_in(running, 40)
        else:
            with pytest.raises(Lost, match="41 alerts were acknowledged and 1 are"):
                _all_worked_in(running, 40)


class Forgetful:
    """A fabric that lists fewer alerts than it took."""

    def __init__(self, alerts: int) -> None:
        self._alerts = alerts

    def post(self, body: bytes) -> None: ...

    def wait(self, what: str, condition: object) -> float:
        return 0.0

    def stories(self) -> list[dict[str, Any]]:
        numbers = range(self._alerts)
        return [{"alerts": [{"fingerprint": str(n), "starts_at": ""} for n in numbers]} for _ in range(2)]


def test_a_lost_alert_fails_the_benchmark() -> None:
    """One too few is one too few; and an alert that is listed twice counts once."""
    kept: Any = Forgetful(101)
    assert _all_worked_in(kept, 100) == 0.0
    lost: Any = Forgetful(100)
    with pytest.raises(Lost, match="101 alerts were acknowledged and 100 are"):
        _all_worked_in(lost, 100)


def test_lives_are_whole_and_counted_at_the_target(tmp_path: Path) -> None:
    """Real incidents on a real store, each healed by exactly one restart."""
    figures = lives.measure(Workshop(tmp_path, None), "sqlite", 50)
    assert figures["incidents"] == 50
    assert figures["incidents_per_second"] == pytest.approx(50 / figures["seconds"])
    assert 5_000 < figures["bytes_per_incident"] < 50_000
    assert figures["seconds"] > lives.LOOK  # nothing is proved earlier


@pytest.mark.parametrize("restarts", [{"s00000": 1}, {"s00000": 1, "s00001": 2}, {}])
def test_a_restart_too_many_or_too_few_fails_the_benchmark(restarts: dict[str, int]) -> None:
    """Healed is not enough: each target must have been restarted once."""
    lives.check_restarts({"restarts": {"s00000": 1, "s00001": 1}, "keys": 2}, 2)
    with pytest.raises(Lost, match="once each"):
        lives.check_restarts({"restarts": restarts, "keys": 2}, 2)


def turn(rate: float, after: float | None = None) -> Turn:
    """A turn of 100 requests at a rate, all as fast as each other."""
    return Turn(Result(seconds=100 / rate, latencies=[0.01] * 100), after)


def test_ratios_are_those_of_medians() -> None:
    """One bad turn of either variant does not count."""
    turns = {
        (PARSE_ONLY, ""): [turn(800), turn(1), turn(800)],
        (STORE_ONLY, "sqlite"): [turn(720)] * 3,
        (PRODUCT, "sqlite"): [turn(400, 1.0), turn(400, 3.0), turn(9999, 2.0)],
    }
    figures = _figures(turns, ["sqlite"])["sqlite"]
    assert figures[PRODUCT]["ratio"] == pytest.approx(0.5)
    assert figures[STORE_ONLY]["ratio"] == pytest.approx(0.9)
    assert figures[PRODUCT]["worked_in_after_seconds"] == 2.0


@pytest.mark.parametrize(("rate", "word"), [(300.0, ""), (299.0, "**missed**")])
def test_a_missed_aim_is_said(rate: float, word: str) -> None:
    """The table tells where an aim was missed, and has no rows for what was not measured."""
    run = {"incidents_per_second": rate, "cpu_ms_per_incident": 3.0, "bytes_per_incident": 17400.0}
    text = table({"lives": {"sqlite": run, "postgresql": run}}, ["sqlite", "postgresql"])
    (row,) = [line for line in text.splitlines() if "five steps" in line]
    _, _, sqlite, postgresql, aim, _ = (cell.strip() for cell in row.split("|"))
    assert sqlite.endswith(word)
    assert ("missed" in sqlite) is bool(word)
    assert postgresql == f"{rate:.0f}/s"  # the aim is one for SQLite
    assert aim == ">= 300/s on SQLite"
    assert "| 17.4 kB | 17.4 kB |" in text
    assert len(text.splitlines()) == 5
