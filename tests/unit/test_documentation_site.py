"""The documentation as a site: it builds without a warning, works offline, and is what the code says."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from documented import ROOT
from self_healing_fabric.incidents.lifecycle import TRANSITIONS, State
from self_healing_fabric.telemetry import ACTION_OUTCOMES, CALL_OUTCOMES, RESOLVED_OUTCOMES

LOADED = re.compile(r"<(?:script|img|iframe|source)\b[^>]*\bsrc=[\"']?(https?:)?//[^\s\"'>]+", re.I)
LINKED = re.compile(r"<link\b[^>]*>", re.I)
REFERENCE = runpy.run_path(str(ROOT / "docs/generate_reference.py"))["FILES"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built; a link, an anchor or a page of the navigation that is missing ends it."""
    folder = tmp_path_factory.mktemp("site")
    # Not --quiet: what is not told is not counted, and nothing would be strict.
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    """Scripts, styles, fonts and images are its own: it works offline and tells nobody who reads it."""
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert not LOADED.search(text), f"{page.name}: {LOADED.search(text)}"
        for link in LINKED.findall(text):
            if re.search(r"rel=[\"']?(stylesheet|preload|preconnect|icon)", link):
                assert "://" not in link, f"{page.name}: {link}"


def test_runbooks_and_changes_are_pages_of_it(site: Path) -> None:
    """What pages link to outside docs/ is in the site where people read on, else in the repository."""
    alerts = (site / "alerts.html").read_text(encoding="utf-8")
    assert 'href="runbooks/ShfHeartbeatMissed.html"' in alerts
    assert "/blob/main/alert_rules/alertmanager.yml" in alerts
    assert (site / "changelog.html").exists()


@pytest.mark.parametrize("name", sorted(REFERENCE))
def test_reference_is_what_the_code_says(name: str) -> None:
    """Each page of the reference is what its generator makes."""
    committed = (ROOT / "docs" / name).read_text(encoding="utf-8")
    assert REFERENCE[name]() == committed, f"docs/{name} is old: run `python docs/generate_reference.py`"


def test_every_metric_names_its_labels() -> None:
    """Also those that have no series yet, and with the values of what its labels distinguish."""
    page = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
    assert "| `shf_events_total` | counter | `outcome`, `receiver` |" in page
    for outcome in (*ACTION_OUTCOMES, *RESOLVED_OUTCOMES, *CALL_OUTCOMES):
        assert re.search(rf"outcome: .*\b{outcome}\b", page), outcome


def test_every_page_is_in_the_site(site: Path) -> None:
    """A page that the navigation does not name yet is at its end, and not lost."""
    start = (site / "index.html").read_text(encoding="utf-8")
    for page in ROOT.glob("docs/**/*.md"):
        assert page.relative_to(ROOT / "docs").with_suffix(".html").as_posix() in start, page.name


def test_the_drawing_has_every_way() -> None:
    """One arc for each way of the state machine, one box for each state."""
    drawing = (ROOT / "docs/state-machine.svg").read_text(encoding="utf-8")
    assert drawing.count("marker-end") == sum(map(len, TRANSITIONS.values()))
    assert re.findall(r">(\w+)</text>", drawing) == [state.value for state in State]
