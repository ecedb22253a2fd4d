"""Who may call what: every route declares the right that it needs, every caller has some.

An open webhook that restarts services is a weapon, so there is no way to listen beyond loopback without a
secret (the settings refuse it). A route that declares nothing is refused to everybody: whoever adds one must
say who may call it. /healthz, /readyz and /metrics say that they are open: they tell no secrets and change
nothing.

Loopback is no wall against a browser on the same machine: a foreign page can post to it, with the password
that the browser has kept, and a name of the attacker's can be made to point at 127.0.0.1. So what changes
something is refused when the browser says that another site asks for it, and without credentials the request
must be addressed to this machine.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import urlsplit

import structlog
from flask import Response, current_app, g, request

from self_healing_fabric.api import sessions
from self_healing_fabric.api.problems import problem
from self_healing_fabric.settings import ALL_RIGHTS, Credential, Right, Settings, is_loopback

log = structlog.get_logger()

View = TypeVar("View", bound=Callable[..., Response])

ANONYMOUS = "someone over the API"
PAGES = "pages"  # the blueprint
MAX_SECRET = 4096  # characters; more is no secret of ours, and would only be work
_RIGHT = "_right_needed"
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True)
class Caller:
    """Who sent the request that is being answered, as `flask.g.caller`; without a name, `name` is None."""

    name: str | None
    rights: frozenset[Right]


class Undecidable(Exception):
    """A file that could have let the caller in cannot be read."""


def requires(right: Right) -> Callable[[View], View]:
    """Declare the right that a route needs. Goes below the decorator that makes the route."""

    def declare(view: View) -> View:
        setattr(view, _RIGHT, right)
        return view

    return declare


def open_to_all(view: View) -> View:
    """Declare that a route needs no right and no credentials."""
    setattr(view, _RIGHT, None)
    return view


def right_of(view: Callable[..., Response]) -> Right | None:
    """The right that a route has declared; None: it is open, or declares nothing and is refused to all."""
    found: Right | None = getattr(view, _RIGHT, None)
    return found


def check(settings: Settings) -> Response | None:
    """Let the request pass, with `flask.g.caller` set, or answer 401, 403 or 503."""
    right = None
    if request.endpoint is not None:  # None: no such path, or no such method; that is told to callers only
        view = current_app.view_functions[request.endpoint]
        if not hasattr(view, _RIGHT):
            return problem(403, "nobody may call this: the route declares no right")
        right = getattr(view, _RIGHT)
        if right is None:
            g.caller = Caller(None, frozenset())
            return None
    if _from_another_site(settings):
        return problem(403, "a page of another site may not do this")
    credentials = settings.auth.credentials()
    if not credentials:
        if not _addressed_to_us(settings):
            detail = "without credentials only this machine may call: use 127.0.0.1, or set `auth`"
            return problem(403, detail)
        g.caller = Caller(None, ALL_RIGHTS)
        return None
    try:
        caller = _known(credentials)
    except Undecidable:
        return problem(503, "a token or password file cannot be read; see `shf check`")
    if caller is None:
        if "Authorization" in request.headers:
            note_unknown_secret()
        return _who_are_you(credentials)
    if right is not None and right not in caller.rights:
        return problem(403, f"{caller.name} may not do this: it needs the right `{right}`")
    g.caller = caller
    return None


def note_unknown_secret() -> None:
    """Tell the log and the metrics that somebody came with a secret that nobody has: who guesses, and whose
    token has not been renewed, is seen from outside. Behind a proxy the client is the proxy.
    """
    current_app.extensions["fabric"].context.metrics.unknown_secrets.inc()
    log.warning("unknown_secret", path=request.path, client=request.remote_addr)


def decided_by(given: str | None) -> str:
    """Who decides, for the timeline: what the request says, and as whom it was let in."""
    known = g.caller.name
    if given is None:
        return known or ANONYMOUS
    return given if known in (None, given) else f"{given} (as {known})"


def credential_for(settings: Settings, secret: str, username: str | None) -> Credential | None:
    """The credential that a person has typed the secret of; None: nobody's. Raises Undecidable."""
    presented = (secret if username is None else f"{username}:{secret}").encode()
    if not secret or len(presented) > MAX_SECRET:
        return None
    scheme = "bearer" if username is None else "basic"
    return _credential(settings.auth.credentials(), scheme, presented)


def _known(credentials: tuple[Credential, ...]) -> Caller | None:
    """The caller whose secret was presented, or who has signed in to the pages; None: nobody's."""
    header = request.headers.get("Authorization")
    if header is None:
        return _signed_in(credentials)
    scheme, _, given = header.partition(" ")
    scheme, given = scheme.lower(), given.strip()
    if len(given) > MAX_SECRET or scheme not in ("bearer", "basic"):
        return None
    presented = given.encode("latin-1", "replace")  # as it was on the wire
    if scheme == "basic":
        try:
            presented = base64.b64decode(presented, validate=True)
        except binascii.Error:
            return None
    found = _credential(credentials, scheme, presented)
    return None if found is None else Caller(found.caller, found.rights)


def _credential(credentials: tuple[Credential, ...], scheme: str, presented: bytes) -> Credential | None:
    found, unreadable = None, False
    for each in credentials:  # all of them: how long it takes says nothing about whose secret it was
        if each.scheme != scheme:
            continue
        try:
            secret = each.secret()
        except (OSError, UnicodeError):
            unreadable = True
            continue
        # An empty file must not let an empty secret in.
        if _same(presented, secret) and secret and found is None:
            found = each
    if found is None and unreadable:
        raise Undecidable
    return found


def _signed_in(credentials: tuple[Credential, ...]) -> Caller | None:
    """Who has signed in with this browser. Only for pages, and to be told that there is no such page: the API
    takes no cookie.
    """
    cookie = request.cookies.get(sessions.COOKIE)
    if cookie is None or (request.endpoint is not None and request.blueprint != PAGES):
        return None
    try:
        found = sessions.credential_of(cookie, credentials)
    except (OSError, UnicodeError) as error:
        raise Undecidable from error
    if found is None:
        return None
    g.by_session = True
    return Caller(found.caller, found.rights)


def _same(one: bytes, other: bytes) -> bool:
    """Compare in a time that depends on neither; of digests, since the length is a secret too."""
    return hmac.compare_digest(hashlib.sha256(one).digest(), hashlib.sha256(other).digest())


def _who_are_you(credentials: tuple[Credential, ...]) -> Response:
    schemes = sorted({each.scheme for each in credentials}, reverse=True)  # bearer first
    ways = {"bearer": "`Authorization: Bearer <token>`", "basic": "a user name and a password"}
    response = problem(401, f"send {' or '.join(ways[each] for each in schemes)} that the fabric knows")
    for each in schemes:
        response.headers.add("WWW-Authenticate", f'{each.capitalize()} realm="self-healing-fabric"')
    return response


def _from_another_site(settings: Settings) -> bool:
    """Whether a browser says that a page of another origin has sent what would change something."""
    if request.method in _SAFE_METHODS:
        return False
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site not in ("same-origin", "none")
    origin = request.headers.get("Origin")  # browsers before 2023
    if origin is None:
        return False
    ours = {request.host, urlsplit(settings.external_url or "").netloc}
    return urlsplit(origin).netloc not in ours - {""}  # the origin `null` has no host either


def _addressed_to_us(settings: Settings) -> bool:
    """Whether the request names this machine, and not a name that somebody has pointed at it."""
    try:
        host = urlsplit(f"//{request.host}").hostname or ""
    except ValueError:
        return False
    return is_loopback(host) or host == urlsplit(settings.external_url or "").hostname
