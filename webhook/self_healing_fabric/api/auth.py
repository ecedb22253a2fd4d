"""Who may call: everyone on loopback without a token, else holders of the bearer token.

An open webhook that restarts services is a weapon, so there is no way to listen beyond loopback without a
token (the settings refuse it). /healthz, /readyz and /metrics stay open: they tell no secrets and change
nothing.
"""

from __future__ import annotations

import hmac

from flask import Response, request

from self_healing_fabric.api.problems import problem
from self_healing_fabric.settings import Settings

OPEN_PATHS = frozenset({"/healthz", "/readyz", "/metrics"})


def check(settings: Settings) -> Response | None:
    """Return None when the request may pass, else 401 (no token) or 403 (a wrong one)."""
    if request.path in OPEN_PATHS or settings.auth.token_file is None:
        return None
    try:
        expected = settings.auth_token()
    except OSError as error:
        return problem(503, f"the token file cannot be read: {error.strerror}")
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not given:
        response = problem(401, "send the header `Authorization: Bearer <token>`")
        response.headers["WWW-Authenticate"] = 'Bearer realm="self-healing-fabric"'
        return response
    # An empty file must not let an empty token in.
    if not expected or not hmac.compare_digest(given.strip().encode(), expected.encode()):
        return problem(403, "the token is not the configured one")
    return None
