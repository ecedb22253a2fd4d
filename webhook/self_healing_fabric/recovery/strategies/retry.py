"""Retry: run the failing check, or a call that is safe to repeat, once more, before anything is disturbed.

Waiting times grow exponentially with full jitter, so that many fabrics, or one with many incidents, do not
knock at the same moment at a service that is just getting up (Marc Brooker, "Exponential Backoff And Jitter",
AWS Architecture Blog, 2015): uniform between 0 and min(cap, base * 2 ** (attempt - 1)) seconds. The waits are
timers in the store.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import httpx

from self_healing_fabric import outbound
from self_healing_fabric.recovery.effects import Effect, NotApplicable
from self_healing_fabric.recovery.outcomes import Outcome, Permit, Status, forbidden
from self_healing_fabric.settings import (
    RetryCall,
    RetrySettings,
    SecretUnusable,
    ServiceSettings,
    Settings,
    bearer_headers,
)


def full_jitter(attempt: int, settings: RetrySettings) -> float:
    """Seconds to wait after the given attempt (from 1)."""
    return random.uniform(0.0, min(settings.cap, settings.base * 2 ** (attempt - 1)))  # noqa: S311 - no secret


class Retry:
    """Ask the health endpoint again, or make the configured call; both are safe to repeat."""

    name = "retry"
    disruptive = False

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def on(self, service: str) -> Effect:
        """The configured call, else a probe of the service's health endpoint."""
        configured = self._settings.services[service]
        call = configured.recovery.retry
        if call is None:
            if configured.health is None:
                raise NotApplicable(f"{service} has no `health` endpoint and no `recovery.retry`")
            call = RetryCall(url=configured.health)
        return SafeCall(call, self._settings.retry, configured)


class SafeCall(Effect):
    """One call that changes nothing when it is repeated."""

    platform = "http"
    longest_effect = 0.0  # it may be repeated at once, so there is nothing to wait for

    def __init__(self, call: RetryCall, settings: RetrySettings, service: ServiceSettings) -> None:
        self.target = f"{call.method} {call.url}"
        self._call = call
        self._settings = settings
        self._service = service

    def snapshot(self) -> Mapping[str, Any]:
        """Nothing to remember: nothing is changed."""
        return {}

    def perform(self, *, key: str, attempt: int, before: Mapping[str, Any], permit: Permit) -> Outcome:
        """One call; when it fails and attempts are left, ask for another after a random wait."""
        if not permit():
            return forbidden()
        problem = self._try(key)
        if problem is None:
            return Outcome(Status.SUCCEEDED, f"{self._call.url} answered at attempt {attempt}")
        left = self._settings.attempts - attempt
        detail = f"attempt {attempt} of {self._settings.attempts}: {problem}"
        return Outcome(Status.FAILED, detail, full_jitter(attempt, self._settings) if left > 0 else None)

    def observe(self, before: Mapping[str, Any]) -> Outcome:
        """What was interrupted may be repeated."""
        return Outcome(Status.FAILED, "the fabric was interrupted during the call", 0.0)

    def check(self) -> str:
        """Not tried: only a person or an incident makes the call."""
        return f"{self._call.method} {self._call.url}, not tried"

    def _try(self, key: str) -> str | None:
        """Why it failed, or None."""
        call = self._call
        try:
            headers = {"Idempotency-Key": key, **bearer_headers(call.bearer_token_file)}
            with outbound.client_for(self._service, timeout=self._settings.timeout) as client:
                answer = outbound.answer_to(client, call.method, call.url, headers=headers)
        except httpx.HTTPError as error:
            return f"{call.url} does not answer: {error or type(error).__name__}"
        except SecretUnusable as error:
            return str(error)
        good = answer.status_code in call.expect if call.expect else answer.is_success
        return None if good else f"{call.url} answered {answer.status_code}"
