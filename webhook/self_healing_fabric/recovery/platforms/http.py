"""Restart and scale through the HTTP API that the service, or whatever supervises it, offers.

An answer can get lost after the effect happened. So what the target says of itself is read before the effect
(`started_at`, the number of replicas), and when the answer does not tell, it is read again. A connection that
was refused never carried the request; everything else that is neither expected nor 4xx may have, or may do
so late, so a target that shows nothing of it is asked again and not told again (`outcomes.unmoved`). Of the
4xx two may answer the second copy of an order that a proxy has sent twice: see `outcomes.Conflict`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from self_healing_fabric import outbound
from self_healing_fabric.recovery.effects import (
    BUSY_PAUSE,
    DIFF,
    Effect,
    NotApplicable,
    Progress,
    Settling,
    TargetAway,
    TargetDown,
    TargetUnreadable,
    changed,
    insist,
    left_open,
    pause_named,
    unread,
    unreadable,
)
from self_healing_fabric.recovery.outcomes import (
    BEGINS_WITHIN,
    Conflict,
    Outcome,
    Permit,
    Status,
    Unserved,
    Untouched,
    forbidden,
    learnt,
    unmoved,
)
from self_healing_fabric.recovery.scaling import scaled_back, scaled_up
from self_healing_fabric.settings import HttpRecovery, ScaleSettings, SecretUnusable, Section, bearer_headers

READ_TIMEOUT = 5.0  # seconds to ask the target for what it says of itself


class HttpPlatform:
    """What one service offers over HTTP."""

    name = "http"

    def __init__(self, service: str, settings: HttpRecovery, scale: ScaleSettings | None = None) -> None:
        self._service = service
        self._settings = settings
        self._scale = scale
        self.target = f"http:{settings.restart or settings.scale}"

    def effect(self, strategy: str) -> Effect:
        """Restart and scale, where their URLs are configured."""
        calls = self._calls()
        if strategy == "restart" and self._settings.restart is not None:
            return HttpRestart(calls, self._settings.restart, self._settings, self.target)
        if strategy == "scale" and self._settings.scale is not None:
            if self._scale is None:
                raise NotApplicable(f"{self._service} has no `recovery.scale`, which says how far")
            return HttpScale(calls, self._settings.scale, self._settings, self.target, self._scale)
        if strategy in ("restart", "scale"):
            raise NotApplicable(f"{self._service} has no `recovery.http.{strategy}`")
        raise NotApplicable(f"nothing can {strategy} {self._service} over HTTP")

    def check(self) -> str:
        """Ask for `started_at` and the replicas; a restart URL cannot be tried without restarting."""
        calls, found = self._calls(), []
        if self._settings.started_at is not None:
            found.append(f"started_at is {calls.read(self._settings.started_at, 'started_at')}")
        elif self._settings.restart is not None:
            found.append("restart URL not tried; without `started_at` a lost answer goes to a human")
        if self._settings.scale is not None:
            found.append(f"replicas: {calls.replicas(self._settings.scale)}")
        return "; ".join(found)

    def _calls(self) -> Calls:
        settings = self._settings
        return Calls(settings, settings.timeout, settings.bearer_token_file, settings.expect)


class HttpRestart(Effect):
    """POST to the restart URL."""

    platform = "http"
    renews_process = True

    def __init__(self, calls: Calls, url: str, settings: HttpRecovery, target: str) -> None:
        self._calls, self._url, self._settings = calls, url, settings
        self.target = target
        self.longest_effect = BEGINS_WITHIN + settings.timeout

    def snapshot(self) -> Mapping[str, Any]:
        """Read `started_at` when a URL for it is configured."""
        return {} if self._settings.started_at is None else {"started_at": self._started_at()}

    def perform(self, *, key: str, attempt: int, before: Mapping[str, Any], permit: Permit) -> Outcome:
        """POST once; when the answer does not tell whether it happened, ask the target."""
        sent = self._calls.send("POST", self._url, key=key, permit=permit)
        return learnt(sent, lambda why: self._learn(before, why))

    def observe(self, before: Mapping[str, Any]) -> Outcome:
        """Compare `started_at` with the one before."""
        return self._learn(before, left_open(before), unchanged=Status.FAILED)

    def settled(self, before: Mapping[str, Any]) -> Settling:
        """The target must say that it was started anew, where it can: who answered has not restarted yet."""
        if "started_at" not in before:
            return super().settled(before)
        now = self._started_at()
        if now == before["started_at"]:
            return Settling(Progress.UNDER_WAY, f"the target still says it started at {now}")
        return Settling(Progress.DONE, f"the target says it was started anew at {now}")

    def check(self) -> str:
        """Ask for `started_at`."""
        return f"started_at is {self._started_at()}"

    def _learn(
        self, before: Mapping[str, Any], why: str, *, unchanged: Status = Status.INDETERMINATE
    ) -> Outcome:
        if "started_at" not in before:
            return Outcome(
                Status.INDETERMINATE, f"{why}; no `started_at` is configured to learn from the target"
            )
        try:
            now = insist(self._started_at, within=_patience(self._settings.timeout, unchanged))
        except TargetUnreadable as error:
            return unread(why, error)
        if now != before["started_at"]:
            return Outcome(Status.SUCCEEDED, f"{why}; the target says it was started anew at {now}")
        return unmoved(unchanged, why, f"the target still says it started at {now}")

    def _started_at(self) -> Any:
        return self._calls.read(str(self._settings.started_at), "started_at")


class HttpScale(Effect):
    """PUT another number of replicas to the scale URL, and back."""

    platform = "http"

    def __init__(
        self, calls: Calls, url: str, settings: HttpRecovery, target: str, bounds: ScaleSettings,
        *, back_from: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        self._calls, self._url, self._settings, self._bounds = calls, url, settings, bounds
        self._back_from = back_from
        self.target = target
        self.longest_effect = BEGINS_WITHIN + settings.timeout

    def snapshot(self) -> Mapping[str, Any]:
        """Read how many replicas there are, and decide how many there should be."""
        current = self._calls.replicas(self._url)
        if self._back_from is None:
            return _before(current, scaled_up(current, self._bounds))
        return _before(current, scaled_back(current, self._back_from))

    def perform(self, *, key: str, attempt: int, before: Mapping[str, Any], permit: Permit) -> Outcome:
        """PUT once; when the answer does not tell whether it happened, ask the target."""
        sent = self._calls.send("PUT", self._url, key=key, permit=permit, json={"replicas": before["wanted"]})
        return learnt(sent, lambda why: self._learn(before, why, Status.INDETERMINATE))

    def observe(self, before: Mapping[str, Any]) -> Outcome:
        """Compare the replicas with those before."""
        return self._learn(before, left_open(before), Status.FAILED)

    def settled(self, before: Mapping[str, Any]) -> Settling:
        """The target must still want as many as were asked for."""
        current = self._calls.replicas(self._url)
        if current == before["wanted"]:
            return Settling(Progress.DONE, f"{self._url} has {current} replicas")
        return Settling(Progress.FAILED, f"{self._url} has {current} replicas, not {before['wanted']}")

    def undo(self, before: Mapping[str, Any]) -> Effect | None:
        """As many replicas as there were, unless somebody has set another number since."""
        return HttpScale(self._calls, self._url, self._settings, self.target, self._bounds, back_from=before)

    def check(self) -> str:
        """Ask how many replicas there are."""
        return f"replicas: {self._calls.replicas(self._url)}"

    def _learn(self, before: Mapping[str, Any], why: str, unchanged: Status) -> Outcome:
        try:
            within = _patience(self._settings.timeout, unchanged)
            current = insist(lambda: self._calls.replicas(self._url), within=within)
        except TargetUnreadable as error:
            return unread(why, error)
        if current == before["wanted"]:
            return Outcome(Status.SUCCEEDED, f"{why}; the target says it has {current} replicas")
        if current == before["replicas"]:
            return unmoved(unchanged, why, f"the target still has {current} replicas")
        return Outcome(Status.INDETERMINATE, f"{why}; the target has {current} replicas, which nobody asked")


def _patience(timeout: float, unchanged: Status) -> float:
    """Seconds for which a worker waits for what the target says: right after an order only."""
    return timeout if unchanged is Status.INDETERMINATE else 0.0


def _before(current: int, wanted: int) -> dict[str, Any]:
    return {"replicas": current, "wanted": wanted, DIFF: changed("replicas", current, wanted)}


def unasked(url: str, error: httpx.HTTPError) -> TargetUnreadable:
    """The error for a question without an answer.

    A network that is cut may be back in a moment. Where nobody listens, the process is down: to wait for it
    before an order would only keep the next strategy, or people, waiting.
    """
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ConnectionRefusedError):
        cause = cause.__context__
    told = f"{url} cannot be asked: {error or type(error).__name__}"
    if cause is not None:
        return TargetDown(told)
    return TargetAway(told) if isinstance(error, httpx.TransportError) else TargetUnreadable(told)


class _Forbidden(Exception):
    """The permit was over when the request was about to be sent."""


def order(
    client_for: Callable[[], outbound.Client],
    method: str,
    url: str,
    *,
    key: str,
    permit: Permit,
    accepts: Callable[[httpx.Response], bool],
    json: Mapping[str, Any] | None = None,
    content: bytes | Iterator[bytes] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Outcome | str:
    """Send an order once. Returns how it ended, or, where that is open, why it is.

    `client_for` makes the client, and may raise TargetUnreadable; `accepts`: by which answer it was done.
    """

    def ask_permit(event: str, _: Mapping[str, Any]) -> None:
        # The connection may have taken seconds; from here on only the request itself is sent.
        if event == "http11.send_request_headers.started" and not permit():
            raise _Forbidden

    try:
        with client_for() as client:
            answer = outbound.answer_to(
                client,
                method,
                url,
                headers={"Idempotency-Key": key, **(headers or {})},
                json=json,
                content=content,
                extensions={"trace": ask_permit},
            )
    except _Forbidden:
        return forbidden()
    except TargetUnreadable as error:
        return Outcome(Status.FAILED, str(error))
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        return Outcome(Status.FAILED, f"{url} cannot be reached: {error}")
    except httpx.HTTPError as error:
        return f"no answer from {url}: {error or type(error).__name__}"
    if accepts(answer):
        return Outcome(Status.SUCCEEDED, f"{url} answered {answer.status_code}")
    if answer.status_code == httpx.codes.PRECONDITION_FAILED:
        return Conflict(Status.FAILED, f"somebody has changed {url} meanwhile (412)")
    if answer.status_code == httpx.codes.CONFLICT:
        return Conflict(Status.FAILED, f"{url} refused with 409")
    pause = pause_named(answer.headers.get("Retry-After"))
    if answer.status_code == httpx.codes.TOO_MANY_REQUESTS:
        return Untouched(Status.FAILED, f"{url} refused with 429", pause or BUSY_PAUSE)
    if answer.is_client_error:
        return Outcome(Status.FAILED, f"{url} refused with {answer.status_code}")
    if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE:
        return Unserved(Status.INDETERMINATE, f"{url} answered 503", pause)
    return f"{url} answered {answer.status_code}"


class Calls:
    """Calls of one service's API, with timeouts.

    Args:
        named: the section of the configuration whose URLs may be called.
        timeout: seconds for an order.
        bearer_token_file: holds the token to send, or None.
        expect: statuses that mean accepted; any 2xx when empty.
    """

    def __init__(
        self, named: Section, timeout: float, bearer_token_file: Path | None, expect: Sequence[int] = ()
    ) -> None:
        self._named, self._timeout = named, timeout
        self._bearer_token_file, self._expect = bearer_token_file, expect

    def send(
        self,
        method: str,
        url: str,
        *,
        key: str,
        permit: Permit,
        json: Mapping[str, Any] | None = None,
        content: Iterator[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Outcome | str:
        """Send an order once, as `order` does."""
        return order(
            lambda: self.client(self._timeout),
            method,
            url,
            key=key,
            permit=permit,
            accepts=self._accepts,
            json=json,
            content=content,
            headers=headers,
        )

    def read(self, url: str, key: str) -> Any:
        """The value of a key in a URL's JSON answer. Raises TargetUnreadable, TargetAway."""
        try:
            with self.client(READ_TIMEOUT) as client:
                answer = outbound.answer_to(client, "GET", url)
                return answer.raise_for_status().json()[key]
        except httpx.HTTPStatusError as error:
            status = error.response.status_code
            raise unreadable(status, f"{url} answered {status}") from error
        except httpx.HTTPError as error:
            raise unasked(url, error) from error
        except (ValueError, KeyError, TypeError) as error:
            raise TargetUnreadable(f"{url} does not answer with JSON that holds `{key}`") from error

    def replicas(self, url: str) -> int:
        """How many replicas the target wants. Raises TargetUnreadable."""
        number = self.read(url, "replicas")
        if not isinstance(number, int) or isinstance(number, bool) or number < 0:
            raise TargetUnreadable(f"{url} does not say how many `replicas` there are, but {number!r}")
        return number

    def _accepts(self, answer: httpx.Response) -> bool:
        return answer.status_code in self._expect if self._expect else answer.is_success

    def client(self, timeout: float) -> outbound.Client:
        """A client for one call, whose answer has `timeout` seconds. Raises TargetUnreadable."""
        try:
            headers = bearer_headers(self._bearer_token_file)
        except SecretUnusable as error:
            raise TargetUnreadable(str(error)) from error
        return outbound.client_for(self._named, timeout=timeout, headers=headers)
