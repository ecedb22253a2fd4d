"""Links that approve or reject one proposal: signed, expiring with the deadline of the approval, used once.

A link is a credential that travels through mail and chat, so it can do as little as possible: it answers the
one proposal that it was made for, by the number of the action that would begin. When the fabric asks again,
for another strategy or target or the same one later, older links are void. It is used up because answering
moves the incident on, in one transaction with the note in the timeline of whose link it was.

The key is made when it is first needed and kept in the store: every replica makes and knows the same links,
also after a restart. Whoever can read the store could make links; whoever can write it needs none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from itsdangerous import BadSignature, URLSafeSerializer
from sqlalchemy import Connection

from self_healing_fabric.errors import DecisionRefused, UnknownIncident
from self_healing_fabric.incidents.lifecycle import State
from self_healing_fabric.incidents.models import incident_of
from self_healing_fabric.incidents.unfinished import FOLLOWED_BY
from self_healing_fabric.orchestration import questions
from self_healing_fabric.orchestration.context import Context
from self_healing_fabric.orchestration.decisions import DECISIONS, count, decide_within
from self_healing_fabric.orchestration.effects import next_effect
from self_healing_fabric.recovery.effects import DIFF, NotApplicable, TargetUnreadable
from self_healing_fabric.store import statements

PATH = "/approvals/"
ANSWERS = ("approve", "reject")
VOID = "this link is void: what it was made for is answered, over, or asked anew"


class InvalidLink(DecisionRefused):
    """The link was not made by this fabric, or not completely copied: take it from the message again."""


@dataclass(frozen=True)
class Link:
    """What a link allows. `to`: whom it was sent to. `expires`: seconds since 1970."""

    incident: str
    action: str
    answer: str
    to: str
    expires: float


@dataclass(frozen=True)
class Proposal:
    """What a link would answer, for the person who opened it."""

    link: Link
    title: str
    service: str
    strategy: str
    target: str
    followed_by: str | None
    diff: tuple[str, ...]


def approval_links(context: Context, incident_id: str, to: str) -> dict[str, str]:
    """The links `approve` and `reject` for what the incident asks now; none where it asks nothing.

    None either without `external_url`, since nobody could open them.

    Args:
        context: the fabric's parts.
        incident_id: of the incident.
        to: whom they are sent to, for the timeline.
    """
    settings = context.settings
    if settings.external_url is None:
        return {}

    def read(connection: Connection) -> tuple[str, float] | None:
        row = statements.incident(connection, incident_id)
        if row is None or row.state != State.AWAITING_APPROVAL.value or row.verification is None:
            return None
        asked = questions.asked(connection, incident_id)
        return None if asked is None else (asked.data["action"], row.verification["deadline"])

    found = context.store.read(read)
    if found is None:
        return {}
    signer, (action, expires) = _signer(context), found
    base = f"{settings.external_url}{PATH}"
    return {
        answer: base + str(signer.dumps([incident_id, action, answer, to, expires])) for answer in ANSWERS
    }


def proposal_of(context: Context, token: str) -> Proposal:
    """What the link would answer, after all checks; changes nothing.

    Raises:
        InvalidLink: it was not made by this fabric.
        DecisionRefused: it has expired, or what it was made for is answered, over, or asked anew.
    """
    link = _read(context, token)
    return context.store.read(lambda connection: _checked(connection, context, link))


def answer(context: Context, token: str, name: str | None = None) -> Proposal:
    """Answer the proposal that the link was made for, once. `name`: what the person says who they are.

    Raises as `proposal_of`.
    """
    link = _read(context, token)
    _check_target(context, context.store.read(lambda connection: _checked(connection, context, link)))
    by = f"{name} (by the link sent to {link.to})" if name else f"whoever has the link sent to {link.to}"

    def write(connection: Connection) -> tuple[Proposal, Any]:
        statements.incident(connection, link.incident, lock=True)
        proposal = _checked(connection, context, link)
        decision = DECISIONS[link.answer]
        return proposal, decide_within(connection, context, link.incident, decision, by=by)

    proposal, (incident, transition) = context.store.write(write)
    count(context, incident, transition)
    return proposal


def _signer(context: Context) -> URLSafeSerializer:
    return URLSafeSerializer(questions.key_of(context), salt="self-healing-fabric approval")


def _read(context: Context, token: str) -> Link:
    try:
        link = Link(*_signer(context).loads(token))
    except (BadSignature, TypeError) as error:
        raise InvalidLink("this is no link of this fabric: copy it whole from the message") from error
    if context.clock() >= link.expires:
        raise DecisionRefused(
            "this link has expired: what still asks is answered on the page of the incident"
        )
    return link


def _checked(connection: Connection, context: Context, link: Link) -> Proposal:
    row = statements.incident(connection, link.incident)
    if row is None:
        raise UnknownIncident(VOID)
    asked = questions.asked(connection, link.incident)
    if row.state != State.AWAITING_APPROVAL.value or asked is None or asked.data["action"] != link.action:
        raise DecisionRefused(VOID)
    data: Mapping[str, Any] = asked.data
    if not incident_of(row).plan or incident_of(row).plan[0] != data["strategy"]:
        raise DecisionRefused(VOID)
    return Proposal(
        link,
        row.title,
        str(data.get("service", row.service)),  # not told by the version before
        data["strategy"],
        data["target"],
        data.get(FOLLOWED_BY),
        tuple(data.get(DIFF, ())),
    )


def _check_target(context: Context, proposal: Proposal) -> None:
    """The target may be another one since a restart with another configuration."""
    identity = proposal.link.incident
    row = context.store.read(lambda connection: statements.incident(connection, identity))
    if row is None:
        raise UnknownIncident(VOID)
    actions = context.store.read(lambda connection: statements.actions_held_by(connection, identity))
    try:
        target = next_effect(context, incident_of(row), proposal.strategy, actions).effect.target
    except (NotApplicable, TargetUnreadable) as error:
        raise DecisionRefused(f"{proposal.strategy} is not possible any more: {error}") from error
    if target != proposal.target:
        raise DecisionRefused(f"this link is void: it is for {proposal.target}, and now that is {target}")
