"""POST /api/v1/alerts: validate, commit, answer. All else happens later.

Alertmanager takes a 2xx as a promise and sends the alert no more for hours, so the answer waits for the
commit and for nothing else. What is not JSON or not its shape will never be right and gets a 4xx; what cannot
be stored now gets 503, which is repeated.
"""

from __future__ import annotations

from typing import Annotated, Literal

from flask import Blueprint, Response, current_app, jsonify, request
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from self_healing_fabric.api.problems import problem
from self_healing_fabric.incidents.ingestion import Moment, identity_time, store_alerts
from self_healing_fabric.incidents.models import Alert
from self_healing_fabric.integration.lifecycle import Fabric

blueprint = Blueprint("alerts", __name__)

Fingerprint = Annotated[str, Field(min_length=1, max_length=64)]


class WebhookAlert(BaseModel):
    """One alert of the notification. Keys that newer versions add are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    status: Literal["firing", "resolved"]
    labels: dict[str, str]
    annotations: dict[str, str] = {}
    startsAt: Moment  # noqa: N815 - Alertmanager's name
    fingerprint: Fingerprint

    def alert(self) -> Alert:
        """The alert as the fabric stores it."""
        starts_at = identity_time(self.startsAt)
        return Alert(self.fingerprint, starts_at, self.status, self.labels, self.annotations)


class WebhookMessage(BaseModel):
    """Alertmanager's webhook body, version 4 (https://prometheus.io/docs/alerting/latest/configuration/#webhook_config)."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    version: Literal["4"]
    alerts: tuple[WebhookAlert, ...]
    truncatedAlerts: int = Field(0, ge=0)  # noqa: N815 - Alertmanager's name


@blueprint.post("/api/v1/alerts")
def receive() -> Response:
    """Take a notification in."""
    fabric: Fabric = current_app.extensions["fabric"]
    if fabric.draining:
        return problem(503, "the fabric is shutting down; send it again")
    try:
        message = WebhookMessage.model_validate_json(request.get_data(cache=False))
    except ValidationError as error:
        return _invalid(error)
    alerts = [item.alert() for item in message.alerts]
    now = fabric.context.clock()
    fabric.store.write(lambda connection: store_alerts(connection, alerts, now))
    fabric.orchestrator.wake()
    for item in alerts:
        fabric.context.metrics.alerts.labels(item.status).inc()
    response = jsonify({"stored": len(alerts), "truncated": message.truncatedAlerts})
    response.status_code = 202
    return response


@blueprint.after_request
def count(response: Response) -> Response:
    """Count the answer, also one that an error handler or the check of the token gave."""
    current_app.extensions["fabric"].context.metrics.requests.labels(str(response.status_code)).inc()
    return response


def _invalid(error: ValidationError) -> Response:
    details = error.errors(include_url=False, include_input=False, include_context=False)
    if any(detail["type"] == "json_invalid" for detail in details):
        return problem(400, "the body is not JSON")
    errors = [
        {"path": ".".join(map(str, detail["loc"])), "message": detail["msg"]} for detail in details[:20]
    ]
    return problem(422, "the body is not an Alertmanager webhook message of version 4", errors=errors)
