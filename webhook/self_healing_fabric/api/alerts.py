"""POST /api/v1/alerts: validate, commit, answer. All else happens later.

Alertmanager takes a 2xx as a promise and sends the alert no more for hours, so the answer waits for the
commit and for nothing else; the notification is kept as it came and taken apart later. What is not JSON or
not its shape will never be right and gets a 4xx; what cannot be stored now gets 503, which is repeated.
"""

from __future__ import annotations

import structlog
from flask import Blueprint, Response, current_app, jsonify, request
from pydantic import ValidationError

from self_healing_fabric.api.answers import ShapeProblem, Stored
from self_healing_fabric.api.auth import requires
from self_healing_fabric.api.contract import Contract, contract
from self_healing_fabric.api.problems import problem
from self_healing_fabric.errors import words_of
from self_healing_fabric.incidents.notifications import WebhookMessage
from self_healing_fabric.integration.lifecycle import Fabric
from self_healing_fabric.settings import Right

log = structlog.get_logger()
blueprint = Blueprint("alerts", __name__)

TOLD_AGAIN = 60.0  # seconds; whoever is refused tries on, and anybody can be refused as often as they like


@blueprint.post("/api/v1/alerts")
@requires(Right.SEND)
@contract(
    Contract(
        answer=Stored,
        status=202,
        body=WebhookMessage,
        body_required=True,
        problem_types={422: ShapeProblem},
    )
)
def receive() -> Response:
    """Take a notification in."""
    fabric: Fabric = current_app.extensions["fabric"]
    if fabric.draining:
        return problem(503, "the fabric is shutting down; send it again")
    with fabric.orchestrator.arrival():
        return _take(fabric)


def _take(fabric: Fabric) -> Response:
    body = request.get_data(cache=False)
    try:
        message = WebhookMessage.model_validate_json(body)
    except ValidationError as error:
        return _invalid(error)
    now = fabric.context.clock()
    fabric.store.inbox.put(body, now)
    fabric.orchestrator.brought()
    if message.truncatedAlerts:
        fabric.context.metrics.truncated.inc(message.truncatedAlerts)
        fabric.orchestrator.reconcile_soon()
    for item in message.alerts:
        fabric.context.metrics.alerts.labels(item.status).inc()
    response = jsonify({"stored": len(message.alerts), "truncated": message.truncatedAlerts})
    response.status_code = 202
    return response


@blueprint.after_request
def count(response: Response) -> Response:
    """Count the answer, also one that an error handler or the check of the token gave, and tell of a refusal:
    a missing token would else be seen in Alertmanager's log alone."""
    fabric: Fabric = current_app.extensions["fabric"]
    code, now = response.status_code, fabric.context.clock()
    fabric.context.metrics.requests.labels(str(code)).inc()
    if 400 <= code < 500:
        told: dict[int, float] = current_app.extensions.setdefault("refusals_told", {})
        if not 0 <= now - told.get(code, -TOLD_AGAIN) < TOLD_AGAIN:
            told[code] = now
            document = response.get_json() or {}  # a browser gets a page
            log.warning(
                "notification_refused",
                status=code,
                reason=document.get("detail"),
                sender=request.remote_addr,
            )
    return response


def _invalid(error: ValidationError) -> Response:
    details = error.errors(include_url=False, include_input=False, include_context=False)
    if any(detail["type"] == "json_invalid" for detail in details):
        return problem(400, "the body is not JSON")
    errors = [
        {"path": ".".join(map(str, detail["loc"])), "message": words_of(detail["msg"])}
        for detail in details[:20]
    ]
    return problem(422, "the body is not an Alertmanager webhook message of version 4", errors=errors)
