"""How many seeded faults the checks of the dashboards find: lint, schema, and what is shown of the stories.

A check is worth what it finds. The survivors change nothing of what these stories show, or only what the eye
would see; docs/dashboards.md names their kinds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from lint import problems as lint_problems
from mutants import KINDS, Mutant, mutants
from test_dashboard_schema import problems as schema_problems
from test_dashboard_stories import CHOSEN, EXPECTED, of_the_fabric
from viewer import Span, dashboards, request, show

pytestmark = pytest.mark.e2e

DASHBOARDS = dashboards()
EVERY = 6  # of the mutants, one is tried in `make test`
LEAST = 0.94  # of them found; 94.3 % of 1,927 when they were counted
NOTHING_KNOWN = "gone"
OF_FABRIC = {tuple(each.values) for each in of_the_fabric()}


def all_mutants() -> list[Mutant]:
    """In an order that spreads each kind over the sample."""
    return list(mutants(DASHBOARDS))


def survivors(tried: Sequence[Mutant], spans: dict[str, Span]) -> list[Mutant]:
    """Those that no check finds."""
    left = [
        mutant
        for mutant in tried
        if not lint_problems(mutant.content) and not list(schema_problems(mutant.content))
    ]
    shown = show(
        [
            request(
                f"{number} {story}", mutant.asked, mutant.changed, span, CHOSEN.get(mutant.dashboard, ".*")
            )
            for number, mutant in enumerate(left)
            for story, span in spans.items()
        ]
    )
    return [
        mutant
        for number, mutant in enumerate(left)
        if all(
            lines_are_expected(mutant, story, shown[f"{number} {story}"]) for story in spans
        )
    ]  # fmt: skip


def lines_are_expected(mutant: Mutant, story: str, lines: list[str]) -> bool:
    """What the tests of the stories accept."""
    if story == "newborn":
        of_fabric = (mutant.dashboard, mutant.part) in OF_FABRIC
        return not of_fabric or lines == EXPECTED[mutant.dashboard][mutant.part]["calm"]
    if story != NOTHING_KNOWN:
        return lines == EXPECTED[mutant.dashboard][mutant.part][story]
    if mutant.asked != "panel":
        return lines == []
    return mutant.part == "$service" or all(line.startswith("NOTHING: unknown: ") for line in lines)


def found(tried: Sequence[Mutant], spans: dict[str, Span], report: Any) -> float:
    """The share that was found; the survivors are printed."""
    alive = survivors(tried, spans)
    kinds = Counter(mutant.kind for mutant in tried)
    for mutant in alive:
        report(f"survived: {mutant.name}")
    report(f"{len(tried) - len(alive)} of {len(tried)} faults of {len(kinds)} kinds were found")
    return 1 - len(alive) / len(tried)


def test_there_are_many_faults_of_many_kinds() -> None:
    """And each kind has some."""
    number = Counter(mutant.kind for mutant in all_mutants())
    assert set(number) == set(KINDS)
    assert len(number) >= 15
    assert number.total() >= 500


def test_most_of_a_sample_of_seeded_faults_are_found(spans: dict[str, Span]) -> None:
    """Without a fault nothing is found; with one, nearly always something is."""
    sample = all_mutants()[::EVERY]
    assert len(sample) >= 100
    assert found(sample, spans, print) >= LEAST - 0.02


@pytest.mark.slow
def test_most_of_all_seeded_faults_are_found(spans: dict[str, Span]) -> None:
    """Each kind at each place."""
    assert found(all_mutants(), spans, print) >= LEAST
