"""The OpenAPI document against the running service: Schemathesis asks, `shf serve` answers.

The document is made from the code, and so would repeat the code's mistakes. Here a process that has healed
services is sent what the document allows and what it forbids, and each answer is held against it: statuses,
content types, schemas, headers. The copy that is used is stricter than the published one: a field that it
does not name is an error, for a client could not know of it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from served_fabric import ServedFabric, healing_settings, one_alert_each, served_fabric, stubbed_world

pytestmark = pytest.mark.e2e

SERVICES = 4
HEALING, WAITING = "s0000", "s0003"  # one is healed, one awaits approval
EXAMPLES = 10  # at most, for each operation and phase
REACHED_WITHIN = 60.0  # seconds; for busy machines
VERDICT = {
    "right": False,
    "service": HEALING,
    "pattern": "code_bug",
    "by": "ada",
    "reason": "seen in the log",
}
PATIENCE = 240.0  # seconds for all questions; 15 on an idle machine
# A value of the right shape may name what is not there, or come at the wrong time.
CONFIGURATION = """
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "404", "409", "422"]
[checks.negative_data_rejection]
expected-statuses = ["400", "404", "405", "409", "413", "422", "431"]
"""
REQUESTS_ONLY = ("WebhookMessage", "WebhookAlert")  # newer versions of Alertmanager may add to them


@pytest.fixture
def fabric(tmp_path: Path) -> Iterator[ServedFabric]:
    """A service with something to tell: a healed incident, one that awaits approval, a verdict."""
    with stubbed_world(tmp_path, services=SERVICES, incurable=0, repair_seconds=0.1, alerts=1) as world:
        settings = healing_settings(world, SERVICES)
        settings["services"]["nightly"] = {"pushes_heartbeats": True, "health": "http://127.0.0.1:9/health"}
        with served_fabric(tmp_path, **settings) as served:
            served.http.put("/api/v1/mode", json={"mode": "approval", "service": WAITING}).raise_for_status()
            for delivery in one_alert_each(SERVICES):
                served.http.post("/api/v1/alerts", content=delivery.body()).raise_for_status()
            served.wait("healed and waiting", lambda: _states(served) >= REACHED, REACHED_WITHIN)
            healed = next(row["id"] for row in served.incidents() if row["service"] == HEALING)
            served.http.post(f"/api/v1/incidents/{healed}/verdict", json=VERDICT).raise_for_status()
            yield served


REACHED = {(HEALING, "resolved"), (WAITING, "awaiting_approval")}


def _states(served: ServedFabric) -> set[tuple[str, str]]:
    return {(row["service"], row["state"]) for row in served.incidents()}


def test_the_running_service_keeps_to_its_document(fabric: ServedFabric, tmp_path: Path) -> None:
    """No answer has a status, a type, a field or a value that the document does not name; none is a 500."""
    document = fabric.http.get("/api/v1/openapi.json").raise_for_status().json()
    values = {
        "incident_id": [*{row["state"]: row["id"] for row in fabric.incidents()}.values(), "none"],
        "service": [HEALING, "nightly", "none"],
        "cursor": [fabric.http.get("/api/v1/incidents?limit=1").json()["next_cursor"]],
    }
    strict = tmp_path / "openapi.json"
    strict.write_text(json.dumps(_strict(document, values)))
    (tmp_path / "schemathesis.toml").write_text(CONFIGURATION)
    asked = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", "schemathesis.toml"),
            *("run", str(strict), "--url", fabric.url, "--no-color", "--warnings", "off"),
            *("--phases", "examples,coverage,fuzzing", "--checks", "all", "--continue-on-failure"),
            *("--max-examples", str(EXAMPLES), "--seed", "1", "--generation-deterministic"),
            *("--suppress-health-check", "all", "--request-timeout", "20"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert asked.returncode == 0, asked.stdout[-15000:] + asked.stderr[-2000:]
    assert fabric.http.get("/readyz").is_success


def _strict(document: dict[str, Any], values: Mapping[str, list[str]]) -> dict[str, Any]:
    """The document with closed answers, and with these values of parameters that few strings can be."""
    for name, schema in document["components"]["schemas"].items():
        if "properties" in schema and name not in REQUESTS_ONLY:
            schema["additionalProperties"] = False
    for path in document["paths"].values():
        for operation in path.values():
            for parameter in operation.get("parameters", []):
                if parameter["in"] == "path" or parameter["name"] == "cursor":
                    parameter["schema"] = {"enum": values[parameter["name"]]}
    return document
