"""Pages for people: what is happening now, and one incident with its story and the buttons to decide on it.

They are what somebody opens on a phone at three in the morning, perhaps while half of everything is down. So
they are rendered here from the store alone, ask nothing of other servers before they answer, need neither a
script nor another host, and say in words what a colour says. What a person decides goes through the same
functions as over the API.
"""

from __future__ import annotations

import mimetypes
import re
from collections.abc import Mapping
from typing import Any

from flask import (
    Blueprint,
    Flask,
    Response,
    current_app,
    make_response,
    redirect,
    request,
)
from sqlalchemy import Connection
from werkzeug.exceptions import NotFound

from self_healing_fabric.api import auth, sessions
from self_healing_fabric.api.auth import decided_by, open_to_all, requires
from self_healing_fabric.api.incidents import story as read_story
from self_healing_fabric.api.pages import drawing, forms, rendering
from self_healing_fabric.api.pages.signals import SignalHistory
from self_healing_fabric.diagnosis import Pattern
from self_healing_fabric.errors import (
    DecisionRefused,
    PauseNotStored,
    StoreUnavailable,
    UnknownIncident,
)
from self_healing_fabric.guardrails import mode
from self_healing_fabric.incidents.lifecycle import ENDED
from self_healing_fabric.incidents.story import summary
from self_healing_fabric.incidents.telling import SEVERITIES, Telling, by_urgency, needs_person, tell
from self_healing_fabric.integration.lifecycle import Fabric
from self_healing_fabric.integration.report import status
from self_healing_fabric.orchestration import diagnosis_verdicts
from self_healing_fabric.orchestration.decisions import DECISIONS, decide, split_off
from self_healing_fabric.settings import Mode, Right
from self_healing_fabric.store import statements

blueprint = Blueprint(auth.PAGES, __name__, template_folder="templates")

MOST_OPEN, MOST_ENDED = 200, 10  # incidents on the first page
MOST_TOLD = 2000  # incidents on the page of a message
MOST_MOMENTS = 400  # of a timeline on one page; the API tells all of it
_HISTORY = "signal_history"
_LOCAL = re.compile(r"/(?:(?:incidents|messages/[\w.-]+)/[\w.-]+)?", re.ASCII)

DONE = {  # what a page says after a form was carried out
    "acknowledge": "Acknowledged: no further level is called.",
    "approve": "Approved: the plan is being carried out.",
    "reject": "Rejected: people are called, and nothing more is done by itself.",
    "escalate": "Handed to people: the next level is called, and nothing more is done by itself.",
    "close": "Closed.",
    "before": "That had been decided before, and nothing was changed. How it stands now is shown here.",
    "split": "Split off: this is the new incident of that service.",
    "verdict": "Thank you. The confidence of later diagnoses learns from it.",
    "mode": "The mode is changed.",
}


def register(app: Flask, fabric: Fabric) -> None:
    """Add the pages to the application."""
    app.extensions[_HISTORY] = SignalHistory(fabric.context.prometheus, fabric.settings)
    rendering.register(app)
    app.register_blueprint(blueprint)


@blueprint.get("/static/<filename>")
@open_to_all
def static(filename: str) -> Response:
    """Styles, scripts and the icon: they tell nothing, and the page to sign in needs them."""
    content = rendering.static_files().get(filename)
    if content is None:
        raise NotFound
    return Response(content, mimetype=mimetypes.guess_type(filename)[0])


@blueprint.get("/")
@requires(Right.READ)
def home() -> Response:
    """What is happening now."""
    fabric = _fabric()
    done = DONE.get(request.args.get("done", ""))
    return rendering.page("home.html", fabric.settings, done=done, **_overview(fabric))


@blueprint.get("/live")
@requires(Right.READ)
def home_now() -> Response:
    """The part of the first page that changes, for a script that asks again and again."""
    fabric = _fabric()
    return _fragment("_home.html", **_overview(fabric))


@blueprint.get("/messages/<path:message>")
@requires(Right.READ)
def told_of(message: str) -> Response:
    """What a message of many told of, which can name but some of them: who still waits for a person first."""
    fabric = _fabric()
    most = MOST_TOLD + 1  # to know whether there are more
    rows = fabric.store.read(lambda found: statements.list_incidents(found, message=message, limit=most))
    if not rows:
        return error_page(
            404, "No message told of this, or what it told of is deleted: its retention is over."
        )
    shown = (summary(row) for row in rows[:MOST_TOLD])
    incidents = sorted(shown, key=lambda each: (_is_over(each), *by_urgency(each)))
    return rendering.page(
        "message.html",
        fabric.settings,
        incidents=incidents,
        more=len(rows) > MOST_TOLD,
        waiting=sum(needs_person(each) for each in incidents),
        over=sum(_is_over(each) for each in incidents),
    )


@blueprint.get("/incidents/<incident_id>")
@requires(Right.READ)
def incident(incident_id: str) -> Response:
    """One incident."""
    return _incident_page(_story(incident_id), done=DONE.get(request.args.get("done", "")))


@blueprint.get("/incidents/<incident_id>/live")
@requires(Right.READ)
def incident_now(incident_id: str) -> Response:
    """The part of an incident's page that changes."""
    return _fragment("_incident.html", **_of_incident(_story(incident_id)))


@blueprint.get("/incidents/<incident_id>/signals.svg")
@requires(Right.READ)
def signals_picture(incident_id: str) -> Response:
    """The signals around an incident, as a picture."""
    fabric = _fabric()
    plot = current_app.extensions[_HISTORY].plot(_story(incident_id), fabric.context.clock())
    width = drawing.NARROW if "narrow" in request.args else drawing.WIDE
    response = make_response(drawing.draw(plot, width=width))
    response.content_type = "image/svg+xml; charset=utf-8"
    response.headers["Content-Security-Policy"] = drawing.POLICY
    return response


@blueprint.get("/incidents/<incident_id>/signals")
@requires(Right.READ)
def signals_page(incident_id: str) -> Response:
    """The same as a page of its own, with tables."""
    fabric, told = _fabric(), _story(incident_id)
    plot = current_app.extensions[_HISTORY].plot(told, fabric.context.clock())
    return rendering.page("signals.html", fabric.settings, story=told, plot=plot, drawing=drawing)


@blueprint.post("/incidents/<incident_id>/<any(acknowledge,approve,reject,escalate,close):decision>")
@requires(Right.CONTROL)
def decide_on(incident_id: str, decision: str) -> Response:
    """Carry out a decision, then show the incident."""
    fabric = _fabric()
    # What the page showed: something else may be asked for by now.
    seen = request.form.get("asked_for", "") if decision == "approve" else None
    decided = decide(
        fabric.context, incident_id, DECISIONS[decision], by=_person(), reason=_reason(), seen=seen
    )
    fabric.orchestrator.wake()
    return _see(f"/incidents/{incident_id}", decision if decided else "before")


@blueprint.post("/incidents/<incident_id>/split")
@requires(Right.CONTROL)
def split(incident_id: str) -> Response:
    """Give a service that is no symptom an incident of its own, then show that."""
    fabric, service = _fabric(), forms.text("service", forms.MAX_NAME)
    if service is None:
        raise DecisionRefused("say which service is no symptom of this incident")
    split_id = split_off(fabric.context, incident_id, service, by=_person(), reason=_reason())
    fabric.orchestrator.wake()
    return _see(f"/incidents/{split_id}", "split")


@blueprint.post("/incidents/<incident_id>/verdict")
@requires(Right.CONTROL)
def judge(incident_id: str) -> Response:
    """Say whether the diagnosis was right."""
    fabric, answer = _fabric(), request.form.get("answer")
    if answer not in ("right", "wrong"):
        raise DecisionRefused("say whether the diagnosis was right or wrong")
    pattern = forms.text("pattern", forms.MAX_NAME)
    if pattern is not None and pattern not in {each.value for each in Pattern}:
        raise DecisionRefused(f"no pattern is called {pattern}")
    given = diagnosis_verdicts.DiagnosisVerdict(
        answer == "right", forms.text("service", forms.MAX_NAME), Pattern(pattern) if pattern else None
    )
    now = fabric.context.clock()
    diagnosis_verdicts.give(fabric.store, incident_id, given, by=_person(), reason=_reason(), now=now)
    fabric.context.calibrator.forget()
    return _see(f"/incidents/{incident_id}", "verdict")


@blueprint.post("/mode")
@requires(Right.CONTROL)
def set_mode() -> Response:
    """Pause, or let it act again: for everything, for a service, or where a person has set a mode before."""
    fabric, wanted, service, strategy = _fabric(), request.form.get("mode", ""), None, None
    if "pause" in request.form:  # on an incident: its service, or nothing for everything
        wanted, service = Mode.PAUSED.value, forms.text("pause", forms.MAX_NAME)
    if "take_back" in request.form:
        kind, _, name = request.form["take_back"].partition(" ")
        wanted = "configured" if kind in ("service", "strategy") else ""
        service, strategy = (name, None) if kind == "service" else (None, name)
    elif service is not None and service not in fabric.settings.services:
        raise DecisionRefused(f"no service is called {service}")
    if wanted not in (*Mode, "configured"):
        raise DecisionRefused("say which mode")
    new = None if wanted == "configured" else Mode(wanted)
    by, now = _person(), fabric.context.clock()
    unstored = fabric.context.unstored_pauses
    mode.change_or_hold(fabric.store, unstored, new, by=by, now=now, service=service, strategy=strategy)
    fabric.orchestrator.wake()
    return _see(request.form.get("back", "/"), "mode")


@blueprint.get("/login")
@open_to_all
def login() -> Response:
    """Where somebody signs in."""
    return _login_page(request.args.get("next", "/"))


@blueprint.post("/login")
@open_to_all
def sign_in() -> Response:
    """Take a token, or a user name and a password, for a cookie."""
    settings, back = _fabric().settings, request.form.get("next", "/")
    secret, username = request.form.get("secret", ""), request.form.get("username", "")
    try:
        found = auth.credential_for(settings, secret.strip(), username.strip() or None)
        value = None if found is None else sessions.value_of(found)
    except (auth.Undecidable, OSError, UnicodeError):
        return _login_page(back, 503, "A token or password file cannot be read; see `shf check`.")
    if value is None:
        auth.note_unknown_secret()
        return _login_page(back, 403, "That is no token or password that the fabric knows.")
    response = _see(back)
    response.set_cookie(
        sessions.COOKIE,
        value,
        max_age=int(sessions.LIFETIME),
        httponly=True,
        samesite="Lax",
        secure=forms.over_tls(settings),
        path=forms.cookie_path(),
    )
    return response


@blueprint.post("/logout")
@open_to_all
def sign_out() -> Response:
    """Forget who this browser is."""
    response = _see("/login")
    response.delete_cookie(sessions.COOKIE, path=forms.cookie_path())
    return response


@blueprint.before_request
def only_our_forms() -> Response | None:
    """A form that another site sends changes nothing."""
    if request.method == "POST" and not forms.is_ours():
        return error_page(
            403,
            "This form was not sent from a page of the fabric, or the page was too old. Nothing was changed. "
            "Go back, load the page again, and repeat it.",
        )
    return None


@blueprint.after_request
def protect(response: Response) -> Response:
    """Every answer carries what protects the reader."""
    if request.endpoint == "pages.static" and response.status_code == 200:
        response.headers["Cache-Control"] = "public, max-age=31536000, immutable"
    return rendering.protect(response, _fabric().settings)


@blueprint.errorhandler(UnknownIncident)
def unknown(_: UnknownIncident) -> Response:
    """No such incident, or none any more."""
    return error_page(404, "No incident has this id. Closed ones are deleted when their retention is over.")


@blueprint.errorhandler(DecisionRefused)
def refused(error: DecisionRefused) -> Response:
    """The incident as it is, why nothing was changed, and what the person had written."""
    told = f"Nothing was changed: {error}."
    incident_id = (request.view_args or {}).get("incident_id")
    if incident_id is None:
        return error_page(409, told)
    form = "verdict" if request.endpoint == "pages.judge" else "decide"
    typed = {"form": form, "by": forms.text("by", forms.MAX_NAME), "reason": _reason()}
    return _incident_page(_story(incident_id), status=409, refused=told, typed=typed)


@blueprint.errorhandler(PauseNotStored)
def paused_here(error: PauseNotStored) -> Response:
    """Whoever pressed the kill switch has to know how far it reaches."""
    return error_page(503, f"Paused, but not everywhere: {error}")


@blueprint.errorhandler(StoreUnavailable)
def away(error: StoreUnavailable) -> Response:
    """The store does not answer."""
    return error_page(
        503,
        f"{error}. The incident store does not answer now, so nothing can be shown and nothing was changed. "
        "What was acknowledged is kept; load this page again in a moment.",
    )


def is_for_people() -> bool:
    """Whether a browser asks, for something that is not the API."""
    if request.path.startswith("/api/") or request.path in ("/healthz", "/readyz", "/metrics"):
        return False
    offered = ["application/json", "text/html"]
    return request.accept_mimetypes.best_match(offered, "application/json") == "text/html"


def problem_shown(problem: Response) -> Response:
    """A problem document as a page where a browser asks; else as it is."""
    if not is_for_people():
        return problem
    told = {404: "There is no such page."}.get(problem.status_code, _sentence(problem.get_json()["detail"]))
    return error_page(problem.status_code, told)


def refusal_shown(refusal: Response | None) -> Response | None:
    """The way in for a browser that is not signed in; other refusals as a page."""
    if refusal is None or not is_for_people():
        return refusal
    if refusal.status_code != 401:
        return problem_shown(refusal)
    back, told = request.path, ""
    if request.method not in ("GET", "HEAD"):  # a form: its page is one above
        back = request.path.rpartition("/")[0] or "/"
        told = "You are not signed in any more, and nothing was changed. Sign in, then decide again."
    return rendering.protect(_login_page(back, 401, told), _fabric().settings)


def error_page(code: int, told: str) -> Response:
    """A page that says what is wrong and what to do."""
    settings = _fabric().settings
    response = rendering.page("error.html", settings, code, code=code, told=told)
    if code == 503:
        response.headers["Retry-After"] = "5"
    return rendering.protect(response, settings)


def _sentence(detail: str) -> str:
    return f"{detail[:1].upper()}{detail[1:]}{'' if detail.endswith('.') else '.'}"


def _fabric() -> Fabric:
    fabric: Fabric = current_app.extensions["fabric"]
    return fabric


def _story(incident_id: str) -> Telling:
    return tell(read_story(_fabric(), incident_id))


def _overview(fabric: Fabric) -> dict[str, Any]:
    def read(connection: Connection) -> tuple[Any, ...]:
        rows = statements.first_of_open_incidents(connection, severities=SEVERITIES, limit=MOST_OPEN)
        ended = statements.list_incidents(connection, states=ENDED, limit=MOST_ENDED)
        return (
            rows,
            ended,
            statements.count_open_incidents(connection),
            mode.current(connection, fabric.settings, fabric.context.unstored_pauses),
            mode.stricter(connection, fabric.settings, fabric.context.unstored_pauses),
            mode.set_by_people(connection),
        )

    rows, ended, (waiting, working), overall, (services, strategies), set_by_people = fabric.store.read(read)
    found = sorted((summary(row) for row in rows), key=by_urgency)
    return {
        "waiting": [each for each in found if needs_person(each)],
        "working": [each for each in found if not needs_person(each)],
        "ended": [summary(row) for row in ended],
        "number_waiting": waiting,
        "number_working": working,
        "mode": overall.value,
        "stricter": [
            *((f"service {name}", name, value) for name, value in sorted(services.items())),
            *((f"strategy {name}", name, value) for name, value in sorted(strategies.items())),
        ],
        "set_by_people": set_by_people,
        "healer": status(fabric),
    }


def _is_over(incident: Mapping[str, Any]) -> bool:
    return incident["state"] in ENDED


def _of_incident(told: Telling) -> dict[str, Any]:
    return {
        "story": told,
        "raw": told.raw,
        "moments": told.timeline[-MOST_MOMENTS:],
        "left_out": max(0, len(told.timeline) - MOST_MOMENTS),
        "patterns": [each.value for each in Pattern if each is not Pattern.UNKNOWN],
        "known_services": sorted(_fabric().settings.services),
    }


def _incident_page(told: Telling, status: int = 200, **values: Any) -> Response:
    return rendering.page("incident.html", _fabric().settings, status, **_of_incident(told), **values)


def _fragment(template: str, **values: Any) -> Response:
    response = rendering.page(template, _fabric().settings, **values)
    response.add_etag()
    response.make_conditional(request)
    return response


def _login_page(back: str, code: int = 200, told: str = "") -> Response:
    settings = _fabric().settings
    by_name = any(each.scheme == "basic" for each in settings.auth.credentials())
    return rendering.page("login.html", settings, code, back=_local(back), told=told, by_name=by_name)


def _local(path: str) -> str:
    """The path if it is a page of ours: nobody is sent elsewhere by a link to us."""
    return path if _LOCAL.fullmatch(path) else "/"


def _see(path: str, done: str = "") -> Response:
    path = request.script_root + (path if path == "/login" else _local(path))
    response: Response = make_response(redirect(f"{path}?done={done}" if done else path, 303))
    return response


def _person() -> str:
    return decided_by(forms.text("by", forms.MAX_NAME))


def _reason() -> str | None:
    return forms.text("reason", forms.MAX_REASON)
