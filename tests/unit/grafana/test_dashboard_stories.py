"""The dashboards show what happened in the two stories, and when all is gone, that nothing is known.

Every query, mark and variable is asked of a real Prometheus, and its answer goes through Grafana's own code;
see `story` and `node/show.mjs`. What people should see is written down in shown.yaml.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from viewer import Shown, Span, dashboards, panels, parts, request, show

pytestmark = pytest.mark.e2e

EXPECTED: dict[str, dict[str, dict[str, list[str]]]] = yaml.safe_load(
    Path(__file__).with_name("shown.yaml").read_text()
)
DASHBOARDS = dashboards()
NO_FABRIC = "unknown: no fabric is scraped"
PARTS = [
    pytest.param(dashboard, name, id=f"{dashboard}-{name}")
    for dashboard, content in DASHBOARDS.items()
    for _, name, _ in parts(content)
]
# The rows of these services are looked at; the other dashboards show all services.
CHOSEN = {"detection-signals.json": ["cart", "stock"]}


@pytest.fixture(scope="module")
def shown(spans: dict[str, Span]) -> Shown:
    """What every part of every dashboard shows of each story."""
    return show(
        [
            request(f"{dashboard} {name} {story}", kind, part, span, CHOSEN.get(dashboard, ".*"))
            for story, span in spans.items()
            for dashboard, content in DASHBOARDS.items()
            for kind, name, part in parts(content)
        ]
    )


def test_everything_that_is_shown_is_expected_and_nothing_else() -> None:
    """A new panel needs its expectation."""
    there = {name: [title for _, title, _ in parts(content)] for name, content in DASHBOARDS.items()}
    assert {name: sorted(titles) for name, titles in EXPECTED.items()} == {
        name: sorted(titles) for name, titles in there.items()
    }


@pytest.mark.parametrize(("dashboard", "name"), PARTS)
@pytest.mark.parametrize("story", ["calm", "incidents"])
def test_it_shows_what_happened(dashboard: str, name: str, story: str, shown: Shown) -> None:
    """Texts, colours, cells and links."""
    assert shown[f"{dashboard} {name} {story}"] == EXPECTED[dashboard][name][story]


@pytest.mark.parametrize(("dashboard", "name"), PARTS)
def test_when_all_is_gone_it_says_that_nothing_is_known(dashboard: str, name: str, shown: Shown) -> None:
    """And in no colour that judges."""
    lines = shown[f"{dashboard} {name} gone"]
    if name.startswith(("annotation", "variable")):
        assert lines == []
    elif name != "$service":
        assert lines
        for line in lines:
            assert line.startswith("NOTHING: unknown: ")
            assert line.endswith(" | text") or " | " not in line


def of_the_fabric() -> list[Any]:
    """The numbers that only a living fabric makes known."""
    return [
        pytest.param(dashboard, panel["title"], id=f"{dashboard}-{panel['title']}")
        for dashboard, content in DASHBOARDS.items()
        for panel in panels(content)
        if panel["type"] == "stat" and panel["fieldConfig"]["defaults"]["noValue"] == NO_FABRIC
    ]


@pytest.mark.parametrize(("dashboard", "name"), of_the_fabric())
def test_the_first_scrape_makes_all_known(dashboard: str, name: str, shown: Shown) -> None:
    """There is nothing to count an increase from yet, and it is no less zero."""
    assert shown[f"{dashboard} {name} newborn"] == EXPECTED[dashboard][name]["calm"]


def test_nothing_is_red_when_nothing_ever_happened() -> None:
    """Nor orange, nor unknown. It is asked of the expectations, with which the panels are compared."""
    for dashboard, titles in EXPECTED.items():
        for name, stories in titles.items():
            for line in stories["calm"]:
                assert "NOTHING" not in line, f"{dashboard} {name}"
                assert not line.endswith(("| red", "| orange", "| dark-red")), f"{dashboard} {name}: {line}"
                if "limit (red)" not in line and "in 0 bars" not in line:
                    assert "(red)" not in line, f"{dashboard} {name}: {line}"


def test_nothing_is_an_error_or_left_undone() -> None:
    """What `show.mjs` writes in capitals is a fault of the dashboard."""
    said = str(EXPECTED)
    for fault in (
        "ERROR",
        "NO FIELD",
        "NO VARIABLE",
        "NO WIDTH",
        "NOT WHOLE",
        "SORTED BY",
        "NaN",
        "Infinity",
    ):
        assert fault not in said
