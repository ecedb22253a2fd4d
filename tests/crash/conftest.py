"""The crew that tells the stories, and what they come by when nobody dies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from crew import Crew, Report, running_crew
from plans import Reached
from stories import STORIES

import counted


@pytest.fixture(scope="session")
def crew() -> Iterator[Crew]:
    """The launchers."""
    with running_crew() as running:
        yield running
    numbers = ", ".join(f"{name} {number}" for name, number in sorted(running.counts.items()))
    counted.LINES.append(f"crash matrix: {numbers}")


@pytest.fixture(scope="session")
def undisturbed(crew: Crew) -> Mapping[str, Report]:
    """Every story, told without a death."""
    told = {name: crew.begin({"story": name, "seed": "undisturbed", "lives": []}) for name in STORIES}
    return {name: report.result() for name, report in told.items()}


@pytest.fixture(scope="session")
def reached(undisturbed: Mapping[str, Report]) -> Reached:
    """How often each story comes by each point."""
    return {name: report["reached"] for name, report in undisturbed.items()}


QUICK = ("test_matrix.py", "test_every_strategy.py", "test_every_plugin.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All but these takes minutes: `make crash` runs it."""
    for item in items:
        if Path(__file__).parent in item.path.parents and item.path.name not in QUICK:
            item.add_marker(pytest.mark.slow)
