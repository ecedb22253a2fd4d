"""Retry: run the failing check once more, a few times, before anything is disturbed.

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

from self_healing_fabric.certificates import authorities
from self_healing_fabric.recovery.effects import Effect, NotApplicable
from self_healing_fabric.recovery.outcomes import Outcome, Permit, Status, forbidden
from self_healing_fabric.settings import RetrySettings, Settings


def full_jitter(attempt: int, settings: RetrySettings) -> float:
    """Seconds to wait after the given attempt (from 1)."""
    return random.uniform(0.0, min(settings.cap, settings.base * 2 ** (attempt - 1)))  # noqa: S311 - no secret


class Retry:
    """Ask the health endpoint again; it only reads, so it is safe to repeat."""

    name = "retry"
    disruptive = False

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def on(self, service: str) -> Effect:
        """A probe of the service's health endpoint."""
        health = self._settings.services[service].health
        if health is None:
            raise NotApplicable(f"{service} has no `health` endpoint")
        return Probe(health, self._settings.retry)


class Probe(Effect):
    """One GET of a health endpoint."""

    platform = "http"
    longest_effect = 0.0  # a probe leaves nothing behind to wait for

    def __init__(self, url: str, settings: RetrySettings) -> None:
        self.target = f"health:{url}"
        self._url = url
        self._settings = settings

    def snapshot(self) -> Mapping[str, Any]:
        """Nothing to remember: nothing is changed."""
        return {}

    def perform(self, *, key: str, attempt: int, before: Mapping[str, Any], permit: Permit) -> Outcome:
        """One probe; when it fails and attempts are left, ask for another after a random wait."""
        if not permit():
            return forbidden()
        problem = self._probe(self._url)
        if problem is None:
            return Outcome(Status.SUCCEEDED, f"{self._url} answered at attempt {attempt}")
        left = self._settings.attempts - attempt
        detail = f"attempt {attempt} of {self._settings.attempts}: {problem}"
        return Outcome(Status.FAILED, detail, full_jitter(attempt, self._settings) if left > 0 else None)

    def observe(self, before: Mapping[str, Any]) -> Outcome:
        """An interrupted probe changed nothing and may be repeated."""
        return Outcome(Status.FAILED, "the fabric was interrupted during the probe", 0.0)

    def check(self) -> str:
        """Probe once."""
        return self._probe(self._url) or "answers"

    def _probe(self, url: str) -> str | None:
        try:
            answer = httpx.get(
                url,
                timeout=self._settings.timeout,
                follow_redirects=False,
                trust_env=False,
                verify=authorities(),
            )
        except httpx.HTTPError as error:
            return f"{url} does not answer: {error or type(error).__name__}"
        return None if answer.is_success else f"{url} answered {answer.status_code}"
