"""Errors as RFC 9457 problem details, and the rule which code means what.

To Alertmanager a 5xx means "not stored, send it again" and a 4xx "this will never be right"; 429 is not
repeated and so loses alerts. Hence exactly one code for "try again", 503, and never an unexplained 500.
"""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus

import structlog
from flask import Flask, Response, jsonify
from pydantic import BaseModel, ValidationError
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from self_healing_fabric.errors import DecisionRefused, StoreUnavailable, UnknownIncident, words_of
from self_healing_fabric.quoting import quoted

log = structlog.get_logger()

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER = 5  # seconds


def document(status: int, detail: str) -> dict[str, object]:
    """What a problem document holds."""
    return {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}


def problem(status: int, detail: str, **extra: object) -> Response:
    """Build a problem document."""
    response = jsonify(document(status, detail) | extra)
    response.status_code = status
    response.content_type = MEDIA_TYPE
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        response.headers["Retry-After"] = str(RETRY_AFTER)
    return response


def query_problem(error: ValidationError, query: type[BaseModel]) -> Response:
    """Say what is wrong with the parameters of a query; of one that nobody knows, which are known."""
    detail = error.errors(include_url=False, include_input=False, include_context=False)[0]
    name = detail["loc"][0]
    if detail["type"] == "extra_forbidden":
        known = ", ".join(query.model_fields)
        return problem(400, f"{quoted(name)}: no parameter is called so; known here: {known}")
    return problem(400, f"{name}: {words_of(detail['msg'])}")


def register(app: Flask, shown: Callable[[Response], Response]) -> None:
    """Turn every error into a problem document; `shown` may make a page of it, for a browser."""

    @app.errorhandler(StoreUnavailable)
    def store_unavailable(error: StoreUnavailable) -> Response:
        return shown(problem(503, str(error)))

    @app.errorhandler(UnknownIncident)
    def unknown_incident(error: UnknownIncident) -> Response:
        return shown(problem(404, str(error)))

    @app.errorhandler(DecisionRefused)
    def decision_refused(error: DecisionRefused) -> Response:
        return shown(problem(409, str(error)))

    @app.errorhandler(HTTPException)
    def http_error(error: HTTPException) -> Response:
        response = shown(problem(error.code or 500, error.description or ""))
        if isinstance(error, MethodNotAllowed) and error.valid_methods:
            response.headers["Allow"] = ", ".join(sorted(error.valid_methods))  # RFC 9110, section 15.5.6
        return response

    @app.errorhandler(Exception)
    def unexpected(error: Exception) -> Response:
        log.error("request_failed", error=repr(error), exc_info=error)
        return shown(problem(503, "the request failed unexpectedly and changed nothing; see the log"))
