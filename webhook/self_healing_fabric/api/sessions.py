"""Signing in with a browser: a token or a password once, then a cookie that is signed with it.

Browsers cannot send a bearer token by themselves, and the dialog for HTTP basic authentication can neither be
left nor filled in by everybody's password store. The cookie names the caller and when it ends; its signature
is made with a key derived from the caller's own secret. So nothing is stored, every replica knows it, a
restart changes nothing, and whoever rotates the secret ends all sessions that were opened with it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import time

from self_healing_fabric.settings import Credential

COOKIE = "shf_session"
LIFETIME = 12 * 3600.0  # seconds: a shift
_PURPOSE = b"self-healing-fabric session, version 1"


def value_of(credential: Credential, now: float | None = None) -> str:
    """The cookie for the holder of a secret. Raises OSError or UnicodeError where it cannot be read."""
    ends = int((time.time() if now is None else now) + LIFETIME)
    payload = f"{credential.scheme} {credential.caller or ''} {ends}"
    return f"{_text(payload.encode())}.{_signature(credential, payload)}"


def credential_of(
    value: str, credentials: tuple[Credential, ...], now: float | None = None
) -> Credential | None:
    """The credential that a cookie was made from; None: it is not ours, has ended, or its secret changed.

    Raises OSError or UnicodeError where the secret cannot be read.
    """
    encoded, _, given = value.partition(".")
    try:
        payload = base64.urlsafe_b64decode(encoded.encode()).decode()
        scheme, caller, ends = payload.split(" ")
        over = float(ends) <= (time.time() if now is None else now)
    except ValueError:
        return None
    for each in credentials:
        if (each.scheme, each.caller or "") == (scheme, caller) and each.secret():
            signature = _signature(each, payload)
            if hmac.compare_digest(signature.encode(), given.encode()) and not over:
                return each
    return None


def _signature(credential: Credential, payload: str) -> str:
    key = hmac.digest(credential.secret(), _PURPOSE, hashlib.sha256)
    return _text(hmac.digest(key, payload.encode(), hashlib.sha256))


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode()
