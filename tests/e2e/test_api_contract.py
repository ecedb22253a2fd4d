"""The OpenAPI document against the running service: Schemathesis asks, `shf serve` answers.

The document is made from the code, and so would repeat the code's mistakes. Here a process that has healed
services is sent what the document allows and what it forbids, and each answer is held against it: statuses,
content types, schemas, headers. The copy that is used is stricter than the published one: a field that it
does not name is an error, for a client could not know of it.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from served_fabric import ServedFabric, healing_settings, one_alert_each, served_fabric, stubbed_world

pytestmark = pytest.mark.e2e

SERVICES = 6
HEALING = "s0000"
DECISIONS = ("acknowledge", "approve", "close", "escalate", "reject")
WAITING = {decision: f"s{number:04}" for number, decision in enumerate(DECISIONS, start=1)}
EXAMPLES = 10  # at most, for each operation and phase
REACHED_WITHIN = 180.0  # seconds; for busy machines
VERDICT = {
    "right": False,
    "service": HEALING,
    "pattern": "code_bug",
    "by": "ada",
    "reason": "seen in the log",
}
PATIENCE = 480.0  # seconds for all questions; 15 on an idle machine
# A value of the right shape may name what is not there, or come at the wrong time.
CONFIGURATION = """
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "403", "404", "409", "422"]
[checks.negative_data_rejection]
expected-statuses = ["400", "403", "404", "405", "409", "413", "422", "431"]
"""
REQUESTS_ONLY = ("WebhookMessage", "WebhookAlert")  # newer versions of Alertmanager may add to them
ALLOWED = {"send": {"send"}, "read": {"read"}, "control": {"control", "read"}}
OUT_OF_REACH = "split"  # no incident here has a symptom; tests/unit/api covers it


@contextmanager
def told_fabric(folder: Path, **more: Any) -> Iterator[ServedFabric]:
    """A service with something to tell: a healed incident, one that awaits each decision, a verdict."""
    with stubbed_world(folder, services=SERVICES, incurable=0, repair_seconds=0.1, alerts=1) as world:
        # All of them fail at once, on purpose: no storm.
        fleet = {"at_once": "100%", "targets": "100%", "storm": "100%"}
        settings = {**healing_settings(world, SERVICES), "guardrails": {"fleet": fleet}, **more}
        settings["services"]["nightly"] = {"pushes_heartbeats": True, "health": "http://127.0.0.1:9/health"}
        with served_fabric(folder, **settings) as served:
            if more:
                served.http.headers["Authorization"] = "Bearer everything"
            for service in WAITING.values():
                mode = {"mode": "approval", "service": service}
                served.http.put("/api/v1/mode", json=mode).raise_for_status()
            for delivery in one_alert_each(SERVICES):
                served.http.post("/api/v1/alerts", content=delivery.body()).raise_for_status()
            reached = {(HEALING, "resolved"), *((each, "awaiting_approval") for each in WAITING.values())}
            served.wait("healed and waiting", lambda: _states(served) >= reached, REACHED_WITHIN)
            healed = _incident_of(served, HEALING)
            served.http.post(f"/api/v1/incidents/{healed}/verdict", json=VERDICT).raise_for_status()
            yield served


def _states(served: ServedFabric) -> set[tuple[str, str]]:
    return {(row["service"], row["state"]) for row in served.incidents()}


def _incident_of(served: ServedFabric, service: str) -> str:
    return next(str(row["id"]) for row in served.incidents() if row["service"] == service)


def test_the_running_service_keeps_to_its_document(tmp_path: Path) -> None:
    """No answer has a status, a type, a field or a value that the document does not name; none is a 500."""
    with told_fabric(tmp_path) as fabric:
        document, answers = ask(fabric, tmp_path)
        assert {name for name, right in rights(document).items() if right} - _well(answers) == {OUT_OF_REACH}
        assert fabric.http.get("/readyz").is_success


@pytest.mark.parametrize("right", ALLOWED)
def test_a_token_reaches_what_its_right_allows_and_nothing_else(tmp_path: Path, right: str) -> None:
    """With credentials, too: every call that the right allows is answered well at least once, every other one
    with 403 at best, and each needs its credentials."""
    callers = {}
    for name, allowed in {**{each: [each] for each in ALLOWED}, "everything": list(ALLOWED)}.items():
        (tmp_path / name).write_text(f"{name}\n")
        callers[name] = {"rights": allowed, "token_file": str(tmp_path / name)}
    with told_fabric(tmp_path, auth={"callers": callers}) as fabric:
        document, answers = ask(fabric, tmp_path, "--header", f"Authorization: Bearer {right}")
    needed = rights(document)
    guarded = {name for name, needs in needed.items() if needs}
    allowed = {name for name in guarded if needed[name] in ALLOWED[right]}
    assert allowed - _well(answers) - {OUT_OF_REACH} == set()
    assert _well(answers) & (guarded - allowed) == set()
    assert {(403, name) for name in guarded - allowed} <= answers


def ask(fabric: ServedFabric, folder: Path, *options: str) -> tuple[dict[str, Any], set[tuple[int, str]]]:
    """Let Schemathesis ask; what was described, and which operation was answered with which status."""
    document = fabric.http.get("/api/v1/openapi.json").raise_for_status().json()
    strict = folder / "openapi.json"
    strict.write_text(json.dumps(_strict(document, fabric, guarded=bool(options))))
    (folder / "schemathesis.toml").write_text(CONFIGURATION)
    asked = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", "schemathesis.toml"),
            *("run", str(strict), "--url", fabric.url, "--no-color", "--warnings", "off"),
            *("--phases", "examples,coverage,fuzzing", "--checks", "all", "--continue-on-failure"),
            *("--max-examples", str(EXAMPLES), "--seed", "1", "--generation-deterministic"),
            *("--suppress-health-check", "all", "--request-timeout", "20"),
            *("--report", "har", "--report-har-path", "answers.har", *options),
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert asked.returncode == 0, asked.stdout[-15000:] + asked.stderr[-2000:]
    return document, set(_answers(document, json.loads((folder / "answers.har").read_text())))


def rights(document: dict[str, Any]) -> dict[str, str | None]:
    """The right that each operation needs; None for those that are open."""
    operations = [each for path in document["paths"].values() for each in path.values()]
    return {each["operationId"]: each.get("x-right") for each in operations}


def _answers(document: dict[str, Any], archive: dict[str, Any]) -> Iterator[tuple[int, str]]:
    known = {
        (method, re.sub(r"\{\w+\}", "[^/]+", path)): operation["operationId"]
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    }
    for entry in archive["log"]["entries"]:
        asked = entry["request"]
        for (method, pattern), name in known.items():
            if asked["method"].lower() == method and re.fullmatch(pattern, urlsplit(asked["url"]).path):
                yield entry["response"]["status"], name


def _well(answers: set[tuple[int, str]]) -> set[str]:
    return {name for status, name in answers if 200 <= status < 300}


def _strict(document: dict[str, Any], fabric: ServedFabric, *, guarded: bool) -> dict[str, Any]:
    """A copy with closed answers, and with these values of parameters that few strings can be.

    A decision is asked for the incident that awaits it, so that it can be carried out. `guarded` says that no
    call with a right is open to those without credentials, as it is on loopback with none configured.
    """
    strict: dict[str, Any] = json.loads(json.dumps(document))
    for name, schema in strict["components"]["schemas"].items():
        if "properties" in schema and name not in REQUESTS_ONLY:
            schema["additionalProperties"] = False
    everyone = [row["id"] for row in fabric.incidents()]
    values = {
        "incident_id": [*everyone, "none"],
        "service": [HEALING, "nightly", "none"],
        "cursor": [fabric.http.get("/api/v1/incidents?limit=1").json()["next_cursor"]],
    }
    for path, operations in strict["paths"].items():
        decision = path.rpartition("/")[2]
        for operation in operations.values():
            if guarded and "security" in operation:
                operation["security"].remove({})
            for parameter in operation.get("parameters", []):
                if parameter["in"] == "path" or parameter["name"] == "cursor":
                    parameter["schema"] = {"enum": values[parameter["name"]]}
                if parameter["name"] == "incident_id" and decision in WAITING:
                    parameter["schema"] = {"enum": [_incident_of(fabric, WAITING[decision]), "none"]}
    return strict
