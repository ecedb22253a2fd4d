"""The fabric's own API as the command line uses it: same contract, same token, errors as sentences."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from self_healing_fabric import outbound
from self_healing_fabric.errors import ShfError, UnknownIncident, UsageError
from self_healing_fabric.settings import SecretUnusable, basic_headers, bearer_headers

CONNECTS_WITHIN = 10.0  # seconds
WITHIN = 30.0  # seconds for an answer
LARGEST = 64 * 1024 * 1024  # bytes
PAGE = 500  # incidents in one answer, at most
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.InvalidURL, httpx.UnsupportedProtocol)


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
        self._url = url.rstrip("/")
        try:
            headers = bearer_headers(token_file)
            if username is not None and password_file is not None:
                headers = basic_headers(username, password_file)
            timeout = httpx.Timeout(WITHIN, connect=CONNECTS_WITHIN)
            self._http = outbound.client_to(self._url, timeout=timeout, headers=headers)
        except SecretUnusable as error:
            raise ApiError(str(error)) from error
        except (httpx.InvalidURL, ValueError) as error:
            raise ApiError(f"{url} is no URL: {error}") from error

    def incident(self, incident_id: str) -> Any:
        """The whole story of an incident. Raises ApiError, UnknownIncident, UsageError."""
        return self.call("GET", _incident_path(incident_id))

    def incidents(self, filters: Mapping[str, Any], limit: int) -> Any:
        """The newest incidents, out of as many answers as it takes. Raises ApiError, UsageError."""
        found: list[Any] = []
        asked = {**filters, "limit": min(limit, PAGE)}
        while True:
            page = self.call("GET", "/api/v1/incidents", params=asked)
            found += page["incidents"]
            cursor, left = page.get("next_cursor"), limit - len(found)
            if cursor is None or left <= 0:
                return {**page, "incidents": found}
            asked = {**filters, "limit": min(left, PAGE), "cursor": cursor}

    def decide(self, incident_id: str, decision: str, body: Mapping[str, Any]) -> Any:
        """Tell the fabric a person's decision. Raises ApiError, UnknownIncident, UsageError."""
        return self.call("POST", f"{_incident_path(incident_id)}/{decision}", json=body)

    def call(self, method: str, path: str, **arguments: Any) -> Any:
        """Call the API and return the JSON of its answer. Raises ApiError, UsageError."""
        try:
            answer = outbound.answer_to(self._http, method, path, largest=LARGEST, **arguments)
        except UnicodeEncodeError as error:  # bytes on the command line that are no text
            raise UsageError(f"only text in UTF-8 can be sent: {error}") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            remedy = outbound.certificate_remedy(
                str(error), authority="with --ca-file", own="with --cert-file and --key-file"
            )
            advice = remedy or "Does `shf serve` run?"
            if method != "GET" and not isinstance(error, _NOT_SENT):
                advice = "It may have been carried out all the same; asked again, it is not done twice."
            raise ApiError(f"the fabric at {self._url} does not answer ({error}). {advice}") from error
        try:
            body = answer.json()
            if not isinstance(body, dict):
                raise TypeError("not an object")
        except (ValueError, TypeError, RecursionError) as error:
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
