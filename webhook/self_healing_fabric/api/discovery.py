"""GET /api/v1/targets: the registered services as Prometheus HTTP service discovery.

One list of services, kept in the fabric's configuration, instead of a second one in Prometheus that forgets
the newest. Scrapes and probes need different jobs in Prometheus, so there is a list for each: `?check=scrape`
(the metrics endpoints) and `?check=probe` (the health endpoints, for the blackbox exporter).
Format: https://prometheus.io/docs/prometheus/latest/http_sd/
"""

from __future__ import annotations

from typing import Any, Literal
from urllib.parse import parse_qsl, urlsplit

from flask import Blueprint, Response, current_app, jsonify, request
from pydantic import Field, ValidationError

from self_healing_fabric.api.answers import TargetGroup
from self_healing_fabric.api.auth import requires
from self_healing_fabric.api.contract import Contract, Query, contract
from self_healing_fabric.api.problems import query_problem
from self_healing_fabric.integration.lifecycle import Fabric
from self_healing_fabric.settings import Right, ServiceSettings

blueprint = Blueprint("discovery", __name__)


class TargetQuery(Query):
    """The query of GET /api/v1/targets."""

    check: Literal["scrape", "probe"] = Field("scrape", description="which endpoints of the services")


@blueprint.get("/api/v1/targets")
@requires(Right.READ)
@contract(Contract(answer=list[TargetGroup], query=TargetQuery, problems=(400,)))
def targets() -> Response:
    """The target groups, one for each service that has the endpoint."""
    fabric: Fabric = current_app.extensions["fabric"]
    try:
        query = TargetQuery.model_validate(request.args.to_dict())
    except ValidationError as error:
        return query_problem(error, TargetQuery)
    group = _scrape if query.check == "scrape" else _probe
    groups = (group(name, service) for name, service in fabric.settings.services.items())
    return jsonify([each for each in groups if each is not None])


def _scrape(name: str, service: ServiceSettings) -> dict[str, Any] | None:
    if service.metrics is None:
        return None
    parts = urlsplit(service.metrics)
    labels = {"service": name, "__scheme__": parts.scheme, "__metrics_path__": parts.path or "/metrics"}
    labels |= {f"__param_{key}": value for key, value in parse_qsl(parts.query)}
    return {"targets": [parts.netloc], "labels": labels}


def _probe(name: str, service: ServiceSettings) -> dict[str, Any] | None:
    if service.health is None:
        return None
    return {"targets": [service.health], "labels": {"service": name}}
