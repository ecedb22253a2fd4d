"""The page behind a link that approves or rejects one proposal.

Mail scanners and chat previews open every link, so opening one only shows what would happen; a person has to
press the button. The link itself is the credential (`orchestration.approval_links`), which is why nobody
else needs a right here, and why the page tells no other page where it was.
"""

from __future__ import annotations

import structlog
from flask import Blueprint, Response, current_app, make_response, render_template_string, request

from self_healing_fabric.api.auth import open_to_all
from self_healing_fabric.errors import DecisionRefused, UnknownIncident
from self_healing_fabric.incidents.telling import target_in_words
from self_healing_fabric.integration.lifecycle import Fabric
from self_healing_fabric.orchestration import approval_links
from self_healing_fabric.orchestration.approval_links import InvalidLink
from self_healing_fabric.quoting import quoted

blueprint = Blueprint("approvals", __name__)
log = structlog.get_logger()

MAX_NAME = 100  # characters

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{{ heading }}</title>
<style>body{font:1rem/1.5 system-ui,sans-serif;max-width:36rem;margin:3rem auto;padding:0 1rem}
pre{overflow-x:auto}dt{color:#555}dd{margin:0 0 .6rem}button,input{font:inherit;padding:.4rem 1rem}</style>
</head><body><h1>{{ heading }}</h1>
{% if proposal %}<dl><dt>Incident</dt><dd>{{ proposal.link.incident }}: {{ proposal.title }}</dd>
<dt>What would be done</dt>
<dd>{{ proposal.strategy }} of {{ words(proposal.target) }}, for {{ proposal.service }}
{%- if proposal.followed_by %}, then {{ proposal.followed_by }}{% endif %}
{%- if proposal.diff %}<pre>{{ proposal.diff | join("\n") }}</pre>{% endif %}</dd>
<dt>The link was sent to</dt><dd>{{ proposal.link.to }}</dd></dl>{% endif %}
{% if ask %}<form method="post"><p><label>Your name, for the timeline (may be left out)<br>
<input name="name" maxlength="{{ longest }}" autocomplete="name"></label></p>
<button>{{ proposal.link.answer | capitalize }}</button></form>
{% else %}<p>{{ text }}</p>{% endif %}</body></html>
"""
_HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Robots-Tag": "noindex",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'",
}


@blueprint.get("/approvals/<token>")
@open_to_all
def ask(token: str) -> Response:
    """Show what the link would do; do nothing."""
    fabric: Fabric = current_app.extensions["fabric"]
    proposal = approval_links.proposal_of(fabric.context, token)
    return _page(200, f"{proposal.link.answer.capitalize()}?", proposal=proposal, ask=True)


@blueprint.post("/approvals/<token>")
@open_to_all
def answer(token: str) -> Response:
    """Do it, once."""
    fabric: Fabric = current_app.extensions["fabric"]
    name = quoted(request.form.get("name", ""))[:MAX_NAME] or None
    proposal = approval_links.answer(fabric.context, token, name)
    fabric.orchestrator.wake()
    log.info("answered_by_link", incident=proposal.link.incident, answer=proposal.link.answer)
    done = {"approve": "Approved.", "reject": "Rejected: people are called."}[proposal.link.answer]
    return _page(200, done, proposal=proposal, text="You can close this page.")


@blueprint.errorhandler(InvalidLink)
def _invalid(error: InvalidLink) -> Response:
    return _page(404, "No such link", text=str(error))


@blueprint.errorhandler(DecisionRefused)
@blueprint.errorhandler(UnknownIncident)
def _void(error: DecisionRefused | UnknownIncident) -> Response:
    return _page(410, "Not any more", text=str(error))


def _page(status: int, heading: str, **what: object) -> Response:
    page = render_template_string(_PAGE, heading=heading, longest=MAX_NAME, words=target_in_words, **what)
    response = make_response(page, status)
    response.headers.update(_HEADERS)
    return response
