"""The dashboards are what the code makes, and Grafana is told to take them from files."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml
from viewer import dashboards

from self_healing_fabric.deployment import deployment_files

FOLDER = deployment_files("grafana")
ADDRESSES = {
    "incident-overview.json": "shf-incident-overview",
    "service-healing.json": "shf-service-healing",
    "actions-and-guardrails.json": "shf-actions-guardrails",
    "detection-signals.json": "shf-detection-signals",
    "healer.json": "shf-healer",
}


@pytest.mark.filterwarnings(
    "ignore:Prefer using dashboardv2:DeprecationWarning"
)  # see shf_dashboards: refused
def test_the_committed_files_are_what_the_code_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither edited by hand nor forgotten to generate."""
    monkeypatch.syspath_prepend(FOLDER)
    from shf_dashboards.files import rendered

    try:
        assert {path.name: path.read_text() for path in FOLDER.glob("dashboards/*.json")} == rendered()
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "shf_dashboards"]:
            del sys.modules[name]


def test_the_dashboards_keep_their_addresses() -> None:
    """Links and bookmarks hold them."""
    assert {name: content["uid"] for name, content in dashboards().items()} == ADDRESSES


def test_the_provisioning_files_are_valid() -> None:
    """And refuse changes in the browser, which the next update would overwrite."""
    providers, sources = (
        yaml.safe_load((FOLDER / "provisioning" / kind / "self-healing-fabric.yaml").read_text())
        for kind in ("dashboards", "datasources")
    )
    (provider,), (source,) = providers["providers"], sources["datasources"]
    assert (provider["disableDeletion"], provider["allowUiUpdates"]) == (True, False)
    assert (source["type"], source["jsonData"]["timeInterval"]) == ("prometheus", "5s")


def test_nothing_of_node_reaches_a_wheel() -> None:
    """A wheel carries the folder grafana/ whole; packages of the tests must not lie in it."""
    assert not list(Path(FOLDER).rglob("package*.json"))
