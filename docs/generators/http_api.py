"""The page of the HTTP API, from the OpenAPI document that the routes make."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from generators.throwaway import fabric
from self_healing_fabric.api.openapi import document

HEAD = """\
# HTTP API

JSON over HTTP; the same as OpenAPI 3.1: [openapi.json](openapi.json), and `/api/v1/openapi.json` of a running fabric. Which caller has
which right: [access](access.md). Errors are problem documents (RFC 9457) with `title`, `status` and `detail`. 503 means "not
now, nothing was changed" and carries `Retry-After`. 429 is never answered: Alertmanager would not send the alert again. Decisions
are idempotent; one that does not fit the state of the incident, or comes while an action is under way, gets 409.

Every call below is checked against the running service: what the description allows and forbids is sent to it, and each answer held
against it. People have [pages](incident-page.md) besides, and `/approvals/TOKEN` for the [links](guardrails.md#modes) that approve or
reject one plan. This page is generated from the code (`docs/generate_reference.py`).
"""


def openapi() -> dict[str, Any]:
    """The OpenAPI document."""
    with fabric() as (_, app):
        return document(app)


def page() -> str:
    """The whole page."""
    made = openapi()
    parts = [HEAD, "\n| call | right | does |\n|---|---|---|\n"]
    calls = [
        (method.upper(), path, operation)
        for path, operations in made["paths"].items()
        for method, operation in operations.items()
    ]
    parts += [
        f"| [{method} {path}](#{operation['operationId']}) | {operation.get('x-right', 'none')} | {operation['summary']} |\n"
        for method, path, operation in calls
    ]
    parts += [_call(*call) for call in calls]
    parts.append("\n## Schemas\n")
    parts += [_schema(name, schema) for name, schema in sorted(made["components"]["schemas"].items())]
    return "".join(parts)


def _call(method: str, path: str, operation: dict[str, Any]) -> str:
    lines = [f'\n## {method} {path} <a id="{operation["operationId"]}"></a>\n', f"{operation['summary']}."]
    if "description" in operation:
        lines.append("\n" + operation["description"])
    parameters = operation.get("parameters", [])
    if parameters:
        lines += ["", "| parameter | in | type | meaning |", "|---|---|---|---|"]
        lines += [
            f"| `{each['name']}` | {each['in']} | {_type(each['schema'])} | {each.get('description', '')} |"
            for each in parameters
        ]
    if "requestBody" in operation:
        body = operation["requestBody"]
        needed = "" if body["required"] else ", may be left out"
        lines.append(f"\nBody: {_type(body['content']['application/json']['schema'])}{needed}.")
    lines.append(f"\nAnswers: {', '.join(_answers(operation['responses']))}.")
    return "\n".join(lines) + "\n"


def _answers(responses: dict[str, Any]) -> Iterator[str]:
    for status, answer in responses.items():
        content = next(iter(answer.get("content", {}).items()), None)
        if "$ref" in answer or content is None:
            yield f"`{status}`"
        elif content[0] == "text/plain":
            yield f"`{status}` text"
        else:
            yield f"`{status}` {_type(content[1]['schema'])}"


def _schema(name: str, schema: dict[str, Any]) -> str:
    text = " ".join(schema.get("description", "").split())
    if "enum" in schema:
        return f"\n### {name}\n\n{text} One of {', '.join(f'`{each}`' for each in schema['enum'])}.\n"
    required = schema.get("required", [])
    lines = [f"\n### {name}\n", text, "", "| field | type | meaning |", "|---|---|---|"]
    for field, part in schema.get("properties", {}).items():
        shown = f"`{field}`" + ("" if field in required else " (optional)")
        lines.append(f"| {shown} | {_type(part)} | {_meaning(part)} |")
    return "\n".join(lines) + "\n"


def _meaning(part: dict[str, Any]) -> str:
    bounds = [f"at least {part['minimum']}"] if "minimum" in part else []
    bounds += [f"at most {part['maximum']}"] if "maximum" in part else []
    text = part.get("description", "")
    return ", ".join([text, *bounds] if text else bounds).replace("|", r"\|")


def _type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(_type(each) for each in schema["anyOf"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return " or ".join(f"`{each}`" for each in schema["enum"])
    kind = schema.get("type", "any")
    if kind == "array":
        return f"list of {_type(schema.get('items', {}))}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of {_type(schema['additionalProperties'])}"
    return str(schema.get("format") or kind)
