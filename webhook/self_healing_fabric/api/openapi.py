"""The API's description as OpenAPI 3.1, made from the routes themselves.

GET /api/v1/openapi.json serves it, and docs/openapi.json is a copy of what the code makes. What a route
answers is in `answers`, what it takes in its models, its right in the decorator that enforces it. Pages for
people are left out.
"""

from __future__ import annotations

import inspect
import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from typing import Any

from flask import Blueprint, Flask, Response, current_app, jsonify
from pydantic import TypeAdapter
from werkzeug.routing import AnyConverter, Rule

from self_healing_fabric import __version__
from self_healing_fabric.api.answers import Problem
from self_healing_fabric.api.auth import requires, right_of
from self_healing_fabric.api.contract import Contract, contract, contract_of
from self_healing_fabric.settings import Right

blueprint = Blueprint("openapi", __name__)

PATH = "/api/v1/openapi.json"
DESCRIPTION = """\
Takes Alertmanager's notifications, shows incidents, and takes the decisions of people. Errors are problem
documents (RFC 9457). A fabric that listens on loopback and has no credentials configured asks for none."""
REASONS = {
    400: "what was sent cannot be read",
    401: "the caller is not known",
    403: "the caller lacks the right, or a browser sent it for another site",
    404: "there is none of this name",
    409: "it does not fit the state of the incident, or an action is under way",
    413: "the body is too large",
    422: "the body, or a value in it, is not as it must be",
    503: "not now, nothing was changed; try again after `Retry-After`",
}
_METHODS = ("GET", "PUT", "POST", "DELETE", "PATCH")


@blueprint.get(PATH)
@requires(Right.READ)
@contract(Contract(answer=dict[str, Any]))
def show() -> Response:
    """This description."""
    return jsonify(document(current_app))


def document(app: Flask) -> dict[str, Any]:
    """The OpenAPI document of the application's routes that declare a contract."""
    routes = sorted(_routes(app), key=lambda route: (route[0].rule, sorted(route[0].methods or ())))
    schemas, components = _schemas([declared for _, _, declared in routes])
    paths: dict[str, dict[str, Any]] = {}
    for rule, view, declared in routes:
        for path, chosen, names in _expanded(rule):
            for method in sorted(set(_METHODS) & (rule.methods or set())):
                operation = _operation(view, declared, schemas, names)
                if chosen:
                    summary = operation["summary"]
                    operation["summary"] = (
                        f"{' '.join(chosen).capitalize()}: {summary[0].lower()}{summary[1:]}"
                    )
                operation["operationId"] = "_".join([view.__name__, *chosen])
                paths.setdefault(path, {})[method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Self-Healing Fabric",
            "version": __version__,
            "description": DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": {name: _tidy(schema) for name, schema in components.items()},
            "responses": {str(status): _problem(status, schemas[id(Problem)]) for status in REASONS},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "basic": {"type": "http", "scheme": "basic"},
            },
        },
    }


def _routes(app: Flask) -> Iterator[tuple[Rule, Callable[..., Any], Contract]]:
    for rule in app.url_map.iter_rules():
        view = app.view_functions[rule.endpoint]
        if (declared := contract_of(view)) is not None:
            yield rule, view, declared


def _expanded(rule: Rule) -> Iterator[tuple[str, tuple[str, ...], list[str]]]:
    """Each path of a rule, with the words that were chosen for it and the names of its parameters.

    A parameter that can be one of a few words makes a path for each: `/{decision}` would stand for all words.
    """
    converters = rule._converters
    words = {name: sorted(each.items) for name, each in converters.items() if isinstance(each, AnyConverter)}
    pattern = re.sub(r"<(?:[^:<>]*:)?(\w+)>", r"{\1}", rule.rule)
    for chosen in itertools.product(*words.values()):
        path = pattern
        for name, word in zip(words, chosen, strict=True):
            path = path.replace(f"{{{name}}}", word)
        yield path, chosen, [name for name in sorted(rule.arguments) if name not in words]


def _schemas(contracts: list[Contract]) -> tuple[dict[Any, Any], dict[str, Any]]:
    """The schema of each type that a contract names, and the shared parts that they refer to."""
    validated = {id(each.body): each.body for each in contracts if each.body}
    validated |= {id(each.query): each.query for each in contracts if each.query}
    given: dict[int, Any] = {id(each.answer): each.answer for each in contracts if each.answer}
    given |= {id(kind): kind for each in contracts for kind in each.problem_types.values()}
    given[id(Problem)] = Problem
    inputs = [(key, "validation", TypeAdapter(kind)) for key, kind in validated.items()]
    outputs = [(key, "serialization", TypeAdapter(kind)) for key, kind in given.items()]
    found, components = TypeAdapter.json_schemas(
        [*inputs, *outputs],  # type: ignore[list-item]  # the modes are literals
        ref_template="#/components/schemas/{model}",
    )
    parts = components.get("$defs", {})
    for query in validated.values():
        if query not in {each.body for each in contracts}:
            parts.pop(query.__name__, None)  # parameters are written out
    return {key: _tidy(schema) for (key, _), schema in found.items()}, parts


def _tidy(schema: Any) -> Any:
    """Without the titles that pydantic derives from names, and defaults of null, which say nothing."""
    if isinstance(schema, list):
        return [_tidy(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: {name: _tidy(part) for name, part in value.items()} if key == "properties" else _tidy(value)
        for key, value in schema.items()
        if key != "title" and not (key == "default" and value is None)
    }


def _operation(
    view: Callable[..., Any], declared: Contract, schemas: Mapping[int, Any], path_names: list[str]
) -> dict[str, Any]:
    text = inspect.cleandoc(view.__doc__ or "")
    summary, _, more = text.partition("\n\n")
    operation: dict[str, Any] = {"summary": " ".join(summary.split()).rstrip(".")}
    if more:
        operation["description"] = more
    right = right_of(view)
    if right is not None:
        operation["security"] = [{"bearer": [right.value]}, {"basic": [right.value]}, {}]
        operation["x-right"] = right.value
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in path_names
    ]
    parameters += _query(declared)
    if parameters:
        operation["parameters"] = parameters
    if declared.body is not None:
        content = {"application/json": {"schema": schemas[id(declared.body)]}}
        operation["requestBody"] = {"required": declared.body_required, "content": content}
    operation["responses"] = _responses(declared, schemas, guarded=right is not None)
    return operation


def _query(declared: Contract) -> list[dict[str, Any]]:
    if declared.query is None:
        return []
    schema = declared.query.model_json_schema(ref_template="#/components/schemas/{model}")
    found = []
    for name, part in schema["properties"].items():
        part = dict(_tidy(part))
        description = part.pop("description", "")
        kinds = [kind for kind in part.pop("anyOf", []) if kind != {"type": "null"}]  # left out, not null
        if len(kinds) == 1:
            part |= kinds[0]
        found.append({"name": name, "in": "query", "description": description, "schema": part})
    return found


def _responses(declared: Contract, schemas: Mapping[int, Any], *, guarded: bool) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": HTTPStatus(declared.status).phrase}
    if declared.answer is not None:
        answer["content"] = {declared.media_type: {"schema": schemas[id(declared.answer)]}}
    elif declared.status != HTTPStatus.NO_CONTENT:
        answer["content"] = {declared.media_type: {"schema": {"type": "string"}}}
    problems = set(declared.problems)
    if guarded:
        problems |= {401, 403, 503}
    if declared.body is not None:
        problems |= {400, 413, 422}
    responses = {str(declared.status): answer}
    for status in sorted(problems):
        kind = declared.problem_types.get(status)
        shared = {"$ref": f"#/components/responses/{status}"}
        responses[str(status)] = shared if kind is None else _problem(status, schemas[id(kind)])
    return responses


def _problem(status: int, schema: Any) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "description": REASONS[status],
        "content": {"application/problem+json": {"schema": schema}},
    }
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        seconds = {"description": "seconds", "required": True, "schema": {"type": "string"}}
        answer["headers"] = {"Retry-After": seconds}
    return answer
