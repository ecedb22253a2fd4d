"""POST /api/v1/heartbeats/SERVICE: a job that cannot be scraped says that it is alive.

The time is stored before the answer, so a restart of the fabric neither loses a heartbeat nor makes a silent
job look fresh. Nor does it make a live one look silent: the time in which nobody could hear it does not
count. Only services that are configured for it may push: a typo in a cron job must not look like a heartbeat.
"""

from __future__ import annotations

from flask import Blueprint, Response, current_app

from self_healing_fabric.api.auth import requires
from self_healing_fabric.api.contract import Contract, contract
from self_healing_fabric.api.problems import problem
from self_healing_fabric.integration.lifecycle import Fabric
from self_healing_fabric.settings import Right
from self_healing_fabric.store import statements

blueprint = Blueprint("heartbeats", __name__)


@blueprint.post("/api/v1/heartbeats/<service>")
@requires(Right.SEND)
@contract(Contract(status=204, problems=(404,)))
def beat(service: str) -> Response:
    """Store a heartbeat of the service; the body is ignored."""
    fabric: Fabric = current_app.extensions["fabric"]
    now, expected = fabric.context.clock(), service in fabric.settings.pushing
    if not fabric.store.write(
        lambda connection: statements.beat(connection, service, now, expected=expected)
    ):
        detail = f"{service!r} is no service that pushes heartbeats: set `pushes_heartbeats: true` for it"
        return problem(404, detail)
    return Response(status=204)
