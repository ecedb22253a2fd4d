"""From builders to the files that Grafana reads.

The SDK numbers neither panels nor queries, gives every row the id 0 and leaks settings of interval variables
into all variables; `finished` mends that. Nobody may edit a provisioned dashboard in the browser, so an id
that changes with the order of the panels breaks no link but that to a single panel.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder

from shf_dashboards import actions, healer, incidents, services, signals

FOLDER = Path(__file__).resolve().parent.parent / "dashboards"
SCHEMA_VERSION = 42
DASHBOARDS = {
    "incident-overview.json": incidents.overview,
    "service-healing.json": services.healing,
    "actions-and-guardrails.json": actions.actions_and_guardrails,
    "detection-signals.json": signals.detection,
    "healer.json": healer.healer,
}


def finished(built: dashboard.Dashboard) -> dict[str, Any]:
    """The dashboard as Grafana writes it: numbered panels and queries, no settings of other variables."""
    content: dict[str, Any] = json.loads(json.dumps(built.build(), cls=JSONEncoder))
    content["schemaVersion"] = SCHEMA_VERSION
    content["annotations"].setdefault("list", [])
    for number, panel in enumerate(_panels(content), start=1):
        panel["id"] = number
        # Grafana 13 has the footer at the fields; an empty one at the panel is what older versions had.
        if panel["type"] == "table":
            panel["options"].pop("footer", None)
        for letter, target in zip("ABCDEFGH", panel.get("targets", ()), strict=False):
            target["refId"] = letter
    for variable in content["templating"]["list"]:
        for leaked in ("auto", "auto_count", "auto_min"):
            variable.pop(leaked, None)
        # What is made from the other variables must not be carried to another dashboard by a link.
        variable["skipUrlSync"] = variable.get("hide") == 2
    return content


def _panels(content: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for panel in content["panels"]:
        yield panel
        yield from panel.get("panels", ())


def rendered() -> dict[str, str]:
    """The text of each file in dashboards/, by its name."""
    return {name: f"{json.dumps(finished(build()), indent=2)}\n" for name, build in DASHBOARDS.items()}
