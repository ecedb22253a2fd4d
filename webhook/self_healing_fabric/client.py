"""The fabric's own API as the command line uses it: same contract, same token, errors as sentences."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from self_healing_fabric import outbound
from self_healing_fabric.errors import ShfError, UnknownIncident, UsageError
from self_healing_fabric.settings import read_secret

TIMEOUT = 10.0  # seconds


class ApiError(ShfError):
    """The fabric does not answer, or refused: its text says which."""


class FabricClient:
    """Calls one running fabric."""

    def __init__(
        self,
        url: str,
        token_file: Path | None = None,
        *,
        username: str | None = None,
        password_file: Path | None = None,
    ) -> None:
        """Call the fabric at `url` with a bearer token, or with a user name and password, or with neither.

        Raises:
            ApiError: a file holds no secret, or `url` is none.
        """
        headers, auth = {}, None
        if token_file is not None:
            token = _secret(token_file)
            if not token.isascii():
                raise ApiError(f"{token_file} holds no token: an HTTP header takes ASCII only")
            headers["Authorization"] = f"Bearer {token}"
        elif username is not None and password_file is not None:
            auth = (username, _secret(password_file))
        self._url = url.rstrip("/")
        try:
            self._http = outbound.client_to(self._url, timeout=TIMEOUT, headers=headers, auth=auth)
        except (httpx.InvalidURL, ValueError) as error:
            raise ApiError(f"{url} is no URL: {error}") from error

    def incident(self, incident_id: str) -> Any:
        """The whole story of an incident. Raises ApiError, UnknownIncident, UsageError."""
        return self.call("GET", _incident_path(incident_id))

    def decide(self, incident_id: str, decision: str, body: Mapping[str, Any]) -> Any:
        """Tell the fabric a person's decision. Raises ApiError, UnknownIncident, UsageError."""
        return self.call("POST", f"{_incident_path(incident_id)}/{decision}", json=body)

    def call(self, method: str, path: str, **arguments: Any) -> Any:
        """Call the API and return the JSON of its answer. Raises ApiError, UsageError."""
        try:
            answer = self._http.request(method, path, **arguments)
        except UnicodeEncodeError as error:  # bytes on the command line that are no text
            raise UsageError(f"only text in UTF-8 can be sent: {error}") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            untrusted = outbound.UNTRUSTED in str(error)
            advice = "Name its authority with --ca-file." if untrusted else "Does `shf serve` run?"
            raise ApiError(f"the fabric at {self._url} does not answer ({error}). {advice}") from error
        try:
            body = answer.json()
            if not isinstance(body, dict):
                raise TypeError("not an object")
        except (ValueError, TypeError) as error:
            raise ApiError(
                f"{self._url} answered {answer.status_code}, but not as the fabric does"
            ) from error
        if not answer.is_success:
            raise ApiError(f"{body.get('title', answer.status_code)}: {body.get('detail', '')}")
        return body


def _incident_path(incident_id: str) -> str:
    """Where the API has an incident; what a person typed never leads to another call."""
    if not incident_id:
        raise UsageError("the ID is empty: `shf incidents` lists them")
    if "/" in incident_id or incident_id in (".", ".."):  # no part of a path can be these
        raise UnknownIncident(f"no incident has the id {incident_id!r}")
    return f"/api/v1/incidents/{quote(incident_id, safe='', errors='surrogateescape')}"


def _secret(path: Path) -> str:
    try:
        return read_secret(path)
    except ValueError as error:
        raise ApiError(str(error)) from error
