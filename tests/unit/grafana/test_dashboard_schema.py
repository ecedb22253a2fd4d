"""The dashboards fit Grafana's own types: npm `@grafana/schema`, as JSON schemas in node/schemas.

A property that Grafana does not know is ignored silently, and what it should have done is missing.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from viewer import NODE, Content, dashboards, panels, require

DASHBOARDS = dashboards()
SCHEMAS = {
    path.stem: jsonschema_rs.Draft7Validator(json.loads(path.read_text()))
    for path in sorted((NODE / "schemas").glob("*.json"))
}
# Marks have keys of their data source, which the schema of the dashboard does not list. Those of Prometheus,
# from Grafana's packages/grafana-prometheus/src/annotations.ts:
OF_PROMETHEUS_MARKS = {"expr", "step", "titleFormat", "textFormat", "tagKeys", "useValueForTime"}


def problems(content: Content) -> Iterator[str]:
    """Whatever does not fit, with its place."""
    marks = [
        {key: value for key, value in mark.items() if key not in OF_PROMETHEUS_MARKS}
        for mark in content["annotations"]["list"]
    ]
    whole = {**content, "annotations": {**content["annotations"], "list": marks}}
    yield from _errors("dashboard", whole, content["title"])
    for panel in panels(content):
        if panel["type"] != "row":
            yield from panel_problems(panel)


def panel_problems(panel: dict[str, Any]) -> Iterator[str]:
    """The same for the options of one panel, which the schema of the dashboard leaves to its type."""
    checked = {"options": panel["options"]}
    if panel["type"] not in ("stat", "bargauge"):  # these draw one value, and have no options for fields
        checked["fieldConfig"] = panel["fieldConfig"]["defaults"].get("custom", {})
    yield from _errors(panel["type"], checked, panel["title"])


def _errors(kind: str, instance: Any, title: str) -> Iterator[str]:
    for error in SCHEMAS[kind].iter_errors(instance):
        yield f"{title}: {'/'.join(map(str, error.instance_path))}: {error.message}"


@pytest.mark.parametrize("name", DASHBOARDS)
def test_a_dashboard_fits_the_schema(name: str) -> None:
    """The whole, and the options of each panel."""
    assert list(problems(DASHBOARDS[name])) == []


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("panels", 0, "options", "graphMode"), "sparkline"),
        (("panels", 0, "options", "graphType"), "none"),
        (("panels", 0, "fieldConfig", "defaults", "thresholds", "mode"), "relative"),
        (("panels", 0, "gridPos", "w"), "4"),
        (("links", 0, "type"), "dashboard"),
        (("annotations", "list", 0, "colour"), "red"),
        (("templating", "list", 1, "multi"), "yes"),
    ],
)
def test_what_grafana_does_not_know_is_found(place: tuple[str | int, ...], value: Any) -> None:
    """A property or a value."""
    content = json.loads(json.dumps(DASHBOARDS["incident-overview.json"]))
    inner: Any = content
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    assert list(problems(content)) != []


def test_the_schemas_are_those_of_the_locked_version(tmp_path: Path) -> None:
    """Made anew from the types, they are what is committed."""
    require("node")
    subprocess.run(["node", "schemas.mjs", str(tmp_path)], cwd=NODE, check=True, timeout=180)
    made, committed = (
        {path.name: json.loads(path.read_text()) for path in folder.glob("*.json")}
        for folder in (tmp_path, NODE / "schemas")
    )
    assert made == committed
