"""Guardians: programs that are called over HTTP with the whole incident, and may answer with a decision.

The call is signed as the Standard Webhooks specification says (standardwebhooks.com), so that a receiver in
any language can check it with a library: HMAC-SHA256 over id, timestamp and body. The id is the same for
every try and stands in `Idempotency-Key` too: a crash after the answer and before our commit sends it again.
No redirect is followed, for it would turn the POST into a GET somewhere else.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Mapping
from typing import Any

import httpx

from self_healing_fabric import outbound
from self_healing_fabric.errors import ShfError
from self_healing_fabric.escalation.channels.delivery import CallFailed, Receipt
from self_healing_fabric.escalation.messages import Message
from self_healing_fabric.quoting import quoted
from self_healing_fabric.settings import GuardianChannel as GuardianSettings
from self_healing_fabric.settings import Settings

MAX_ANSWER = 64 * 1024  # bytes
LEAST_SECRET = 16  # bytes
AGAIN = frozenset({408, 425, 429})  # of the 4xx: the others say that it will never be taken


class SecretUnusable(ShfError):
    """The file with the secret cannot be read, or holds too little: write a long random text into it."""


class GuardianChannel:
    """POSTs to one URL."""

    gathers = True
    alive_for = None

    def __init__(
        self, settings: GuardianSettings, _: Settings, clock: Callable[[], float] = time.time
    ) -> None:
        self._settings = settings
        self._clock = clock

    def send(self, message: Message, progress: Mapping[str, Any]) -> Receipt:
        """POST the document; 2xx means heard, and a JSON body may hold a decision. Raises CallFailed."""
        body = json.dumps(message.document).encode()
        try:
            secret = self._secret()
            headers = {
                **signature(secret, message.key, int(self._clock()), body),
                "Idempotency-Key": message.key,
            }
            with (
                outbound.client_for(self._settings, timeout=self._settings.timeout) as client,
                client.stream(
                    "POST",
                    self._settings.url,
                    content=body,
                    headers={**headers, "Content-Type": "application/json"},
                ) as answer,
            ):
                content = _read(answer)
        except SecretUnusable as error:
            raise CallFailed(str(error)) from error
        except httpx.HTTPError as error:
            raise CallFailed(f"{type(error).__name__}: {quoted(error)}") from error
        if answer.is_success:
            return Receipt(_decision(answer, content))
        final = answer.is_redirect or (answer.is_client_error and answer.status_code not in AGAIN)
        raise CallFailed(f"answered {answer.status_code}", final=final)

    def check(self) -> str:
        """Read the secret. The URL is not called: that would call a guardian."""
        return f"{len(self._secret())} bytes of secret; {self._settings.url} is not called"

    def _secret(self) -> bytes:
        path = self._settings.secret_file
        try:
            text = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise SecretUnusable(
                f"{path} cannot be read: {getattr(error, 'strerror', None) or 'not UTF-8'}"
            ) from None
        return secret_of(text, str(path))


def secret_of(text: str, where: str) -> bytes:
    """The bytes that sign: `whsec_` and base64, or the text itself. Raises SecretUnusable."""
    secret = text.encode()
    if text.startswith("whsec_"):
        try:
            secret = base64.b64decode(text.removeprefix("whsec_"), validate=True)
        except ValueError:
            raise SecretUnusable(f"{where}: what follows whsec_ is no base64") from None
    if len(secret) < LEAST_SECRET:
        raise SecretUnusable(f"{where} holds a secret of {len(secret)} bytes: give at least {LEAST_SECRET}")
    return secret


def signature(secret: bytes, key: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The headers that sign a body, as Standard Webhooks 1.0 says; `timestamp` in seconds since 1970."""
    digest = hmac.new(secret, f"{key}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    signed = base64.b64encode(digest).decode()
    return {"webhook-id": key, "webhook-timestamp": str(timestamp), "webhook-signature": f"v1,{signed}"}


def _read(answer: httpx.Response) -> bytes | None:
    """The body; None when it is too large or comes too slowly: the message itself was heard."""
    content = b""
    with contextlib.suppress(httpx.ReadTimeout):
        for part in answer.iter_bytes():
            content += part
            if len(content) > MAX_ANSWER:
                return None
        return content
    return None


def _decision(answer: httpx.Response, content: bytes | None) -> Mapping[str, Any] | None:
    """What the answer says, as it came; judged elsewhere. None: it says nothing."""
    if content is None:
        return {"unreadable": f"more than {MAX_ANSWER} bytes, or too slow"}
    if not content.strip() or "json" not in answer.headers.get("Content-Type", ""):
        return None
    try:
        said = json.loads(content)
    except (ValueError, RecursionError):
        return {"unreadable": quoted(content[:200].decode(errors="replace"))}
    return said if isinstance(said, dict) else {"unreadable": quoted(said)}
