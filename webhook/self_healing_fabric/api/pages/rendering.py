"""How pages are rendered, and the headers that keep a stranger's text from becoming anything else.

Labels, annotations and answers of Prometheus are written by whoever can write them. Jinja escapes all of it;
the policy below makes a browser refuse whatever would slip through: no script, style, picture, frame or form
but ours, no other host, and nothing kept in a cache that a later user of the machine could read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from flask import Flask, Response, g, make_response, render_template, request
from markupsafe import Markup

from self_healing_fabric import __version__
from self_healing_fabric.api.pages import forms
from self_healing_fabric.durations import duration_in_words
from self_healing_fabric.incidents.telling import Telling, lasted_in_words, needs_person, state_in_words
from self_healing_fabric.settings import Mode, Right, Settings

STATIC = Path(__file__).parent / "static"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
GRAPH_RANGE = "1h"

STATE_SIGNS: Mapping[str, str] = {  # colours are never alone
    "detected": "●",
    "diagnosing": "◔",
    "awaiting_approval": "▲",
    "recovering": "◑",
    "verifying": "◕",
    "escalated": "▲",
    "resolved": "✓",
    "closed": "✓",
}


def page(template: str, settings: Settings, status: int = 200, **values: Any) -> Response:
    """Render a page for people."""
    html = render_template(
        template,
        settings=settings,
        root=request.script_root,
        version=__version__,
        form_field=forms.FIELD,
        form_token=forms.token(),
        known=g.get("caller"),
        may_control=may_control(),
        may_sign_out=g.get("by_session", False),
        static_version=static_version(),
        **values,
    )
    response: Response = make_response(html, status)
    return response


def may_control() -> bool:
    """Whether the caller may decide: what is not allowed is not offered."""
    caller = g.get("caller")
    return caller is not None and Right.CONTROL in caller.rights


def protect(response: Response, settings: Settings) -> Response:
    """Add what every answer to a browser carries."""
    headers = response.headers
    headers.setdefault("Content-Security-Policy", POLICY)
    headers["X-Content-Type-Options"] = "nosniff"
    headers["X-Frame-Options"] = "DENY"  # what browsers before frame-ancestors understand
    headers["Referrer-Policy"] = "same-origin"  # `no-referrer` would make the origin of our own forms `null`
    headers["Cross-Origin-Opener-Policy"] = "same-origin"
    headers["Cross-Origin-Resource-Policy"] = "same-origin"
    headers.setdefault("Cache-Control", "no-store")
    forms.keep_token(response, settings)
    return response


@cache
def static_files() -> Mapping[str, bytes]:
    """What pages load, by name. They are few and small, and nothing else can be asked for."""
    return {path.name: path.read_bytes() for path in sorted(STATIC.iterdir())}


@cache
def static_version() -> str:
    """Changes with the files that pages load, so that browsers may keep them."""
    return hashlib.sha256(b"".join(static_files().values())).hexdigest()[:12]


def register(app: Flask) -> None:
    """Give the templates their words."""
    app.jinja_env.filters.update(
        moment=moment,
        duration=duration_in_words,
        lasted=lasted_in_words,
        state_words=state_in_words,
        state_sign=lambda state: STATE_SIGNS.get(state, "●"),
        words=lambda name: str(name or "unknown").replace("_", " "),
        seconds=seconds_of,
        percent=lambda share: f"{share * 100:.0f} %",
        graph_link=graph_link,
        dashboard_link=dashboard_link,
        web_link=web_link,
        needs_person=needs_person,
    )
    app.jinja_env.globals.update(modes=[each.value for each in Mode])


def moment(at: float | str | None, *, near: bool = False) -> Markup:
    """A time in UTC as an element that a script may show as local time.

    With `near` the script adds how long ago it was: what a reader wants to know of times close to now, and
    what would make the page another one with every second if it were written here.
    """
    if at is None:
        return Markup("")
    seconds = seconds_of(at) if isinstance(at, str) else at
    when = datetime.fromtimestamp(seconds, UTC)
    shown = when.strftime("%-d %b %H:%M:%S UTC")
    mark = Markup(" data-near") if near else ""
    return Markup('<time datetime="{}"{}>{}</time>').format(when.strftime("%Y-%m-%dT%H:%M:%SZ"), mark, shown)


def seconds_of(text: str) -> float:
    """Seconds since 1970 of a time as the API tells it."""
    return datetime.fromisoformat(text).timestamp()


def graph_link(query: str, at: float | None, settings: Settings) -> str:
    """Where Prometheus draws the query, around that time."""
    base = (settings.prometheus.external_url or settings.prometheus.url).rstrip("/")
    values = {"g0.expr": query, "g0.tab": "0", "g0.range_input": GRAPH_RANGE}
    if at is not None:
        end = datetime.fromtimestamp(at + 900, UTC).strftime("%Y-%m-%d %H:%M:%S")
        values |= {"g0.end_input": end, "g0.moment_input": end}
    return f"{base}/graph?{urlencode(values)}"


def dashboard_link(story: Telling, settings: Settings) -> str | None:
    """Where Grafana shows the service of an incident around its time; None without either."""
    if settings.grafana is None or not story.raw["known_service"]:
        return None
    margin = 900.0  # seconds before and after
    until = "now" if story.ended_at is None else f"{(story.ended_at + margin) * 1000:.0f}"
    since = f"{(story.opened_at - margin) * 1000:.0f}"
    values = {"var-service": story.raw["service"], "from": since, "to": until}
    return f"{settings.grafana.url.rstrip('/')}/d/shf-service-healing?{urlencode(values)}"


def web_link(text: Any) -> str | None:
    """The text if it is a link to a web page: a `javascript:` in an annotation must never be one."""
    try:
        parts = urlsplit(str(text))
    except ValueError:
        return None
    return str(text) if parts.scheme in ("http", "https") and parts.netloc else None
