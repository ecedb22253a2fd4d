"""A real Prometheus that remembers both stories; see `story`."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pytest_httpserver import HTTPServer
from story import CALM, LENGTH, SCRAPE, START, calm, incidents, open_metrics, recorded
from viewer import Span, require

from past_prometheus import past_prometheus


@pytest.fixture(scope="session")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its URL."""
    require("prometheus", "promtool", "node")
    folder = tmp_path_factory.mktemp("stories")
    # A scrape ends the series that are gone; in what is imported only their age does.
    with past_prometheus(folder, open_metrics(_all_samples(folder)), lookback=3 * SCRAPE) as url:
        yield url


def _all_samples(folder: Path) -> list[object]:
    folders = {name: folder / name for name in ("calm", "incidents", "calm-rules", "incident-rules")}
    for each in folders.values():
        each.mkdir()
    with ThreadPoolExecutor() as pool, HTTPServer() as one, HTTPServer() as other:
        quiet = calm(folders["calm"], one)
        quiet_rules = pool.submit(recorded, folders["calm-rules"], CALM, quiet, faults=False)
        busy = incidents(folders["incidents"], other)
        busy_rules = pool.submit(recorded, folders["incident-rules"], START, busy, faults=True)
        return [*quiet, *quiet_rules.result(), *busy, *busy_rules.result()]


@pytest.fixture(scope="session")
def spans(prometheus: str) -> dict[str, Span]:
    """The times to look at: nothing ever happened; incidents; scraped once; the fabric and all else gone."""
    gone = START + LENGTH + 900
    return {
        "calm": Span(prometheus, CALM, CALM + LENGTH),
        "incidents": Span(prometheus, START, START + LENGTH),
        "newborn": Span(prometheus, CALM + SCRAPE - LENGTH, CALM + SCRAPE),
        "gone": Span(prometheus, gone, gone + LENGTH),
    }
