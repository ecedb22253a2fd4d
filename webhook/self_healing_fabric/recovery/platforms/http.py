"""Restart through the HTTP API that the service, or whatever supervises it, offers.

An answer can get lost after the restart happened. So the service's `started_at` is read before the effect,
and when the answer does not tell, it is read again: changed means restarted. A connection that was refused
never carried the request; everything else that is neither 2xx nor 4xx may have.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx

from self_healing_fabric.certificates import authorities
from self_healing_fabric.recovery.outcomes import BEGINS_WITHIN, Outcome, Permit, Status, forbidden
from self_healing_fabric.recovery.platforms import TargetUnreadable
from self_healing_fabric.settings import HttpRecovery, bearer_headers

READ_TIMEOUT = 5.0  # seconds to ask for `started_at`


class _Forbidden(Exception):
    """The permit was over when the request was about to be sent."""


class HttpPlatform:
    """One service's restart URL."""

    name = "http"

    def __init__(self, service: str, settings: HttpRecovery) -> None:
        self._service = service
        self._settings = settings
        self.target = f"http:{settings.restart}"
        self.longest_effect = BEGINS_WITHIN + settings.timeout

    def snapshot(self) -> Mapping[str, Any]:
        """Read `started_at` when a URL for it is configured."""
        return {} if self._settings.started_at is None else {"started_at": self._started_at()}

    def restart(self, key: str, before: Mapping[str, Any], permit: Permit) -> Outcome:
        """POST to the restart URL; when the answer does not tell whether it happened, ask the target."""

        def ask_permit(event: str, _: Mapping[str, Any]) -> None:
            # The connection may have taken seconds; from here on only the request itself is sent.
            if event == "http11.send_request_headers.started" and not permit():
                raise _Forbidden

        try:
            with self._client(self._settings.timeout) as client:
                answer = client.post(
                    self._settings.restart,
                    headers={"Idempotency-Key": key},
                    extensions={"trace": ask_permit},
                )
        except _Forbidden:
            return forbidden()
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            return Outcome(Status.FAILED, f"{self._settings.restart} cannot be reached: {error}")
        except httpx.HTTPError as error:
            return self._learn(
                before, f"no answer from {self._settings.restart}: {error or type(error).__name__}"
            )
        if answer.is_success:
            return Outcome(Status.SUCCEEDED, f"{self._settings.restart} answered {answer.status_code}")
        if answer.is_client_error:
            return Outcome(Status.FAILED, f"{self._settings.restart} refused with {answer.status_code}")
        return self._learn(before, f"{self._settings.restart} answered {answer.status_code}")

    def observe(self, before: Mapping[str, Any]) -> Outcome:
        """Compare `started_at` with the one before."""
        return self._learn(before, "the fabric was interrupted during the action", unchanged=Status.FAILED)

    def check(self) -> str:
        """Ask for `started_at`; a restart URL cannot be tried without restarting."""
        if self._settings.started_at is None:
            return "restart URL not tried; without `started_at` a lost answer goes to a human"
        return f"started_at is {self._started_at()}"

    def _learn(
        self, before: Mapping[str, Any], why: str, *, unchanged: Status = Status.INDETERMINATE
    ) -> Outcome:
        if "started_at" not in before:
            return Outcome(
                Status.INDETERMINATE, f"{why}; no `started_at` is configured to learn from the target"
            )
        try:
            now = self._started_at()
        except TargetUnreadable as error:
            return Outcome(Status.INDETERMINATE, f"{why}; {error}")
        if now != before["started_at"]:
            return Outcome(Status.SUCCEEDED, f"{why}; the target says it was started anew at {now}")
        # Right after a lost answer this proves nothing: the request may still be on its way to the target.
        return Outcome(unchanged, f"{why}; the target still says it started at {now}")

    def _started_at(self) -> Any:
        url = str(self._settings.started_at)
        try:
            with self._client(READ_TIMEOUT) as client:
                answer = client.get(url).raise_for_status().json()
            return answer["started_at"]
        except httpx.HTTPStatusError as error:
            raise TargetUnreadable(f"{url} answered {error.response.status_code}") from error
        except httpx.HTTPError as error:
            raise TargetUnreadable(f"{url} cannot be asked: {error or type(error).__name__}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise TargetUnreadable(f"{url} does not answer with JSON that holds `started_at`") from error

    def _client(self, timeout: float) -> httpx.Client:
        try:
            headers = bearer_headers(self._settings.bearer_token_file)
        except OSError as error:
            raise TargetUnreadable(
                f"{self._settings.bearer_token_file} cannot be read: {error.strerror}"
            ) from error
        # No redirects: they would send the call to a host that the configuration does not name.
        return httpx.Client(
            timeout=timeout, headers=headers, follow_redirects=False, trust_env=False, verify=authorities()
        )
