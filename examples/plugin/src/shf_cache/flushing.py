"""Strategy `flush_cache`: empties a cache, once, and learns from the cache whether it happened."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx
from pydantic import BaseModel, ConfigDict, Field

from self_healing_fabric.recovery.effects import Effect, NotApplicable, TargetUnreadable
from self_healing_fabric.recovery.outcomes import BEGINS_WITHIN, Outcome, Permit, Status, forbidden
from self_healing_fabric.settings import HttpUrl, Settings


class Options(BaseModel):
    """The section `plugins.strategies.flush_cache`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    caches: Mapping[str, HttpUrl] = Field(description="base URL of the cache, by service")
    timeout: float = Field(5.0, gt=0, le=30, description="seconds for one call")


class FlushCache:
    """The strategy. It disturbs: an empty cache is slow."""

    Options = Options
    disruptive = True

    def __init__(self, settings: Settings, options: Options) -> None:
        self._options = options

    def on(self, service: str) -> Effect:
        """Empty the cache of this service."""
        if service not in self._options.caches:
            raise NotApplicable(f"{service} has no cache in `plugins.strategies.flush_cache.caches`")
        return Flush(self._options.caches[service], self._options.timeout)


class Flush(Effect):
    """POST once; the generation tells afterwards whether it happened."""

    platform = "cache"

    def __init__(self, url: str, timeout: float) -> None:
        self._url, self._timeout = url, timeout
        self.target = f"cache:{url}"
        self.longest_effect = BEGINS_WITHIN + timeout

    def snapshot(self) -> Mapping[str, Any]:
        """The generation before."""
        return {"generation": self._generation()}

    def perform(self, *, key: str, attempt: int, before: Mapping[str, Any], permit: Permit) -> Outcome:
        """Ask the permit when only the order is left to be sent, then send it once."""
        with httpx.Client(timeout=self._timeout, trust_env=False) as client:
            if not permit():
                return forbidden()
            try:
                answer = client.post(f"{self._url}/flush", headers={"Idempotency-Key": key})
            except httpx.ConnectError as error:
                return Outcome(Status.FAILED, f"{self._url} cannot be reached: {error}")
            except httpx.HTTPError as error:
                return self._learn(before, f"no answer: {type(error).__name__}", Status.INDETERMINATE)
        if answer.is_success:
            return Outcome(Status.SUCCEEDED, f"{self._url} answered {answer.status_code}")
        return self._learn(before, f"{self._url} answered {answer.status_code}", Status.INDETERMINATE)

    def observe(self, before: Mapping[str, Any]) -> Outcome:
        """After an interruption: another generation means that it happened."""
        return self._learn(before, "the fabric was interrupted", Status.FAILED)

    def check(self) -> str:
        """What `shf check` tells."""
        return f"generation {self._generation()}"

    def _learn(self, before: Mapping[str, Any], why: str, unchanged: Status) -> Outcome:
        try:
            now = self._generation()
        except TargetUnreadable as error:
            return Outcome(Status.INDETERMINATE, f"{why}; {error}")
        happened = now != before["generation"]
        return Outcome(Status.SUCCEEDED if happened else unchanged, f"{why}; its generation is {now}")

    def _generation(self) -> int:
        try:
            answer = httpx.get(self._url, timeout=self._timeout, trust_env=False)
            return int(answer.raise_for_status().json()["generation"])
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            raise TargetUnreadable(f"{self._url} does not tell its generation: {error}") from error
