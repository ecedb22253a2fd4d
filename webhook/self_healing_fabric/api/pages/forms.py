"""What a form must carry, so that only our own pages can send it, and what it may say.

Two locks, since one of them may be missing: the check of the request's origin (`api.auth`), which old
browsers do not always make possible, and a secret that stands both in a cookie and in the form (double
submit): another site can make a browser send the cookie, but cannot read it to fill in the form.

The cookies are `SameSite=Lax` and not `Strict`: people come here from a link in a message, and a browser
keeps a strict cookie back from such a visit, so they would be asked to sign in again and forms in other tabs
would go stale. A post from another site gets neither kind.
"""

from __future__ import annotations

import hmac
import secrets
from urllib.parse import urlsplit

from flask import Response, g, request

from self_healing_fabric.settings import Settings

COOKIE = "shf_form"
FIELD = "form"
MAX_NAME, MAX_REASON = 200, 1000  # characters, as in the API


def token() -> str:
    """The secret of this browser's forms; a new one when it has none."""
    given = request.cookies.get(COOKIE, "")
    if len(given) < 32:
        given = g.setdefault("new_form_token", secrets.token_urlsafe(32))
    return given


def keep_token(response: Response, settings: Settings) -> None:
    """Give the browser the secret if it was made for this answer."""
    made = g.get("new_form_token")
    if made is not None:
        response.set_cookie(
            COOKIE, made, httponly=True, samesite="Lax", secure=over_tls(settings), path=cookie_path()
        )


def is_ours() -> bool:
    """Whether the form that was sent carries the secret of the browser's cookie."""
    cookie, field = request.cookies.get(COOKIE, ""), request.form.get(FIELD, "")
    return bool(cookie) and hmac.compare_digest(cookie.encode(), field.encode())


def over_tls(settings: Settings) -> bool:
    """Whether browsers reach us by TLS, here or at a proxy before us: then cookies are for TLS only."""
    outside = urlsplit(settings.external_url or "")
    return request.is_secure or (outside.scheme == "https" and outside.netloc == request.host)


def cookie_path() -> str:
    """What our cookies are for: not for other programs on the same host, where ours lies below a path."""
    return request.script_root or "/"


def text(name: str, most: int) -> str | None:
    """What was written into a field; None for nothing."""
    return request.form.get(name, "").strip()[:most] or None
