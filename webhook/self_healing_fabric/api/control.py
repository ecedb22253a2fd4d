"""What people decide: the mode, and acknowledge, approve, reject, escalate or close an incident.

Decisions are idempotent: asking twice is the same as asking once, so a double click or a retry harms nothing.
Each is written into the timeline with who decided.
"""

from __future__ import annotations

from typing import Annotated, Literal

from flask import Blueprint, Response, current_app, jsonify, request
from pydantic import BaseModel, ConfigDict, Field, StrictBool, ValidationError, model_validator
from sqlalchemy import Connection

from self_healing_fabric.api.answers import Incident, ModeInForce, Status
from self_healing_fabric.api.auth import decided_by, requires
from self_healing_fabric.api.contract import Contract, contract
from self_healing_fabric.api.incidents import story
from self_healing_fabric.api.problems import problem
from self_healing_fabric.diagnosis import Pattern
from self_healing_fabric.errors import words_of
from self_healing_fabric.guardrails import mode
from self_healing_fabric.integration.lifecycle import Fabric
from self_healing_fabric.integration.report import status
from self_healing_fabric.orchestration import diagnosis_verdicts
from self_healing_fabric.orchestration.decisions import DECISIONS, decide, split_off
from self_healing_fabric.settings import Mode, Right, StrategyName

blueprint = Blueprint("control", __name__)

Person = Annotated[str, Field(min_length=1, max_length=200)]


class Said(BaseModel):
    """Who says it, and why."""

    model_config = ConfigDict(extra="forbid")
    by: Person | None = None
    reason: Annotated[str, Field(max_length=1000)] | None = None


class Decision(Said):
    """The body of a decision; may be left out."""

    asked_for: Annotated[
        str | None,
        Field(
            max_length=200,
            description="`asked_for` of the incident, as it was seen: 409 when it is another one by now",
        ),
    ] = None


class Split(Said):
    """The body of a split: which of the symptoms is none."""

    service: Annotated[str, Field(min_length=1, max_length=200)]


class Verdict(Said):
    """The body of a verdict on the diagnosis."""

    right: StrictBool
    service: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    pattern: Pattern | None = None


class ModeChange(BaseModel):
    """The body of PUT /api/v1/mode."""

    model_config = ConfigDict(extra="forbid")
    mode: Annotated[
        Literal["automatic", "approval", "dry_run", "paused", "configured"] | None,
        Field(description="`configured`, or null: what was set here before is taken back"),
    ]
    service: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    strategy: StrategyName | None = None
    by: Person | None = None

    @model_validator(mode="after")
    def _one(self) -> ModeChange:
        if self.service is not None and self.strategy is not None:
            raise ValueError("name a service or a strategy, not both")
        return self


@blueprint.post("/api/v1/incidents/<incident_id>/<any(acknowledge,approve,reject,escalate,close):decision>")
@requires(Right.CONTROL)
@contract(Contract(answer=Incident, body=Decision, problems=(404, 409)))
def decide_on(incident_id: str, decision: str) -> Response:
    """Carry out a person's decision and answer with the incident."""
    fabric: Fabric = current_app.extensions["fabric"]
    body = Decision.model_validate_json(request.get_data() or b"{}")
    decide(
        fabric.context,
        incident_id,
        DECISIONS[decision],
        by=decided_by(body.by),
        reason=body.reason,
        seen=body.asked_for,
    )
    fabric.orchestrator.wake()
    return jsonify(story(fabric, incident_id))


@blueprint.post("/api/v1/incidents/<incident_id>/split")
@requires(Right.CONTROL)
@contract(Contract(answer=Incident, body=Split, body_required=True, problems=(404, 409)))
def split(incident_id: str) -> Response:
    """Give a service that was wrongly taken for a symptom an incident of its own; answer with that."""
    fabric: Fabric = current_app.extensions["fabric"]
    body = Split.model_validate_json(request.get_data() or b"{}")
    split_id = split_off(
        fabric.context, incident_id, body.service, by=decided_by(body.by), reason=body.reason
    )
    fabric.orchestrator.wake()
    return jsonify(story(fabric, split_id))


@blueprint.post("/api/v1/incidents/<incident_id>/verdict")
@requires(Right.CONTROL)
@contract(Contract(answer=Incident, body=Verdict, body_required=True, problems=(404, 409)))
def judge(incident_id: str) -> Response:
    """Say whether the diagnosis was right, or what it was; answer with the incident."""
    fabric: Fabric = current_app.extensions["fabric"]
    body = Verdict.model_validate_json(request.get_data() or b"{}")
    verdict = diagnosis_verdicts.DiagnosisVerdict(body.right, body.service, body.pattern)
    diagnosis_verdicts.give(
        fabric.store,
        incident_id,
        verdict,
        by=decided_by(body.by),
        reason=body.reason,
        now=fabric.context.clock(),
    )
    fabric.context.calibrator.forget()
    return jsonify(story(fabric, incident_id))


@blueprint.get("/api/v1/mode")
@requires(Right.READ)
@contract(Contract(answer=ModeInForce))
def show_mode() -> Response:
    """The mode in force."""
    fabric: Fabric = current_app.extensions["fabric"]
    return jsonify(_mode(fabric))


@blueprint.put("/api/v1/mode")
@requires(Right.CONTROL)
@contract(Contract(answer=ModeInForce, body=ModeChange, body_required=True))
def set_mode() -> Response:
    """Set the mode of everything, a service or a strategy; `paused` is the kill switch."""
    fabric: Fabric = current_app.extensions["fabric"]
    body = ModeChange.model_validate_json(request.get_data() or b"{}")
    known = body.service is None or body.service in fabric.settings.services
    wanted = None if body.mode in (None, "configured") else Mode(body.mode)
    if not known and wanted is not None:  # what was set before the service went can be taken back
        return problem(422, f"service: none is called {body.service}")
    now, by = fabric.context.clock(), decided_by(body.by)
    mode.change_or_hold(
        fabric.store,
        fabric.context.unstored_pauses,
        wanted,
        by=by,
        now=now,
        service=body.service,
        strategy=body.strategy,
    )
    fabric.orchestrator.wake()
    return jsonify(_mode(fabric))


@blueprint.get("/api/v1/status")
@requires(Right.READ)
@contract(Contract(answer=Status))
def show_status() -> Response:
    """What the fabric is doing."""
    return jsonify(status(current_app.extensions["fabric"]))


def _mode(fabric: Fabric) -> ModeInForce:
    def read(connection: Connection) -> ModeInForce:
        unstored = fabric.context.unstored_pauses
        services, strategies = mode.stricter(connection, fabric.settings, unstored)
        overall = mode.current(connection, fabric.settings, unstored)
        answer: ModeInForce = {"mode": overall}
        if services:
            answer["services"] = dict(services)
        if strategies:
            answer["strategies"] = dict(strategies)
        return answer

    return fabric.store.read(read)


@blueprint.errorhandler(ValidationError)
def _invalid(error: ValidationError) -> Response:
    """A body of the wrong shape, of whichever call above."""
    detail = error.errors(include_url=False, include_input=False, include_context=False)[0]
    if detail["type"] == "json_invalid":
        return problem(400, "the body is not JSON")
    return problem(422, f"{'.'.join(map(str, detail['loc'])) or 'body'}: {words_of(detail['msg'])}")
