"""The OpenAPI document: complete, what the committed copy says, and true in what it says of rights."""

import json
from pathlib import Path
from typing import Any

import pytest
from flask import Response

from self_healing_fabric.api.answers import Status
from self_healing_fabric.api.contract import contract_of
from self_healing_fabric.api.openapi import document

ROOT = Path(__file__).parents[3]


@pytest.fixture
def made(api: Any) -> dict[str, Any]:
    """The document."""
    return document(api.app)


def test_every_route_of_the_api_is_in_it(api: Any, made: dict[str, Any]) -> None:
    """What is under /api/, and the probes, declares a contract; each of those is an operation."""
    declared = 0
    for rule in api.app.url_map.iter_rules():
        if rule.rule.startswith("/api/") or rule.rule in ("/healthz", "/readyz", "/metrics"):
            view = api.app.view_functions[rule.endpoint]
            assert contract_of(view) is not None, f"{rule.rule} declares no contract: see api/contract.py"
            declared += 1
    operations = [each for path in made["paths"].values() for each in path.values()]
    assert len(operations) >= declared
    assert len({each["operationId"] for each in operations}) == len(operations)


def test_the_committed_copy_is_what_the_code_makes(made: dict[str, Any]) -> None:
    """docs/openapi.json, for readers and generators of clients; see docs/generate_reference.py."""
    committed = json.loads((ROOT / "docs/openapi.json").read_text(encoding="utf-8"))
    assert committed == json.loads(json.dumps(made))


def test_it_is_served(api: Any, made: dict[str, Any]) -> None:
    """GET /api/v1/openapi.json answers with it."""
    answer = api.client.get("/api/v1/openapi.json")
    assert (answer.status_code, answer.json) == (200, json.loads(json.dumps(made)))


def test_the_status_has_the_fields_that_are_described(api: Any) -> None:
    """What is added to the status without its description is noticed here, before the slow test."""
    assert set(api.client.get("/api/v1/status").json) == set(Status.__annotations__)


def test_references_lead_somewhere(made: dict[str, Any]) -> None:
    """Every `$ref` names a part of the document, and no part is unused."""
    text = json.dumps(made)
    referred = {part.split('"')[0] for part in text.split('"$ref": "#/components/')[1:]}
    present = {f"{kind}/{name}" for kind in ("schemas", "responses") for name in made["components"][kind]}
    assert referred == present


@pytest.mark.parametrize(
    ("method", "path", "right"),
    [
        ("post", "/api/v1/alerts", "send"),
        ("get", "/api/v1/incidents", "read"),
        ("post", "/api/v1/incidents/{incident_id}/approve", "control"),
        ("get", "/healthz", None),
    ],
)
def test_it_names_the_right(made: dict[str, Any], method: str, path: str, right: str | None) -> None:
    """The security of an operation is the right that the route asks for."""
    operation = made["paths"][path][method]
    assert operation.get("x-right") == right
    assert ("security" in operation) is (right is not None)
    assert ("403" in operation["responses"]) is (right is not None)


def test_a_method_that_is_not_allowed_names_those_that_are(api: Any) -> None:
    """405 carries `Allow`, as RFC 9110 demands."""
    answer: Response = api.client.delete("/api/v1/mode")
    assert answer.status_code == 405
    assert {"GET", "PUT"} <= set(answer.headers["Allow"].split(", "))


@pytest.mark.parametrize("value", [0, "0", "1700000000", None])
def test_a_number_is_no_time(api: Any, value: object) -> None:
    """A notification whose alert began at a number of seconds is none of Alertmanager's."""
    alert = {"status": "firing", "labels": {}, "fingerprint": "1", "startsAt": value}
    answer = api.client.post("/api/v1/alerts", json={"version": "4", "alerts": [alert]})
    assert answer.status_code == 422
    assert answer.json["errors"][0]["path"] == "alerts.0.startsAt"
