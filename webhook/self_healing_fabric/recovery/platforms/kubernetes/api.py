"""Questions and orders to the API server, and what is known for certain after each.

Three families of errors come out of the client: its own, raw ones of urllib3, and ValueError (pydantic's
among them). Only two things prove that an order was not carried out: the connection was never made, or the
server answered with 4xx. After everything else the object is read again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from http import HTTPStatus
from types import TracebackType
from typing import Any, NoReturn, Self

from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError

from self_healing_fabric.cluster import ClusterUnusable
from self_healing_fabric.cluster.objects import JSON
from self_healing_fabric.quoting import quoted
from self_healing_fabric.recovery.effects import TargetAway, TargetUnreadable, pause_named, unreadable
from self_healing_fabric.settings import KubernetesSettings

try:
    from self_healing_fabric.cluster.connection import api_client, client, close, configuration, is_ready
except ClusterUnusable as error:
    raise TargetUnreadable(str(error)) from error

FIELD_MANAGER = "self-healing-fabric"
MOST_ITEMS = 500  # of a list; what goes on after that is not decided on
MERGE, JSON_PATCH = "application/merge-patch+json", "application/json-patch+json"
COURTESY_TIMEOUT = 2.0  # seconds for what nothing depends on


class NotThere(TargetUnreadable):
    """The object does not exist."""


class Refused(Exception):
    """The order was not carried out, for certain. `status` is 0 when it was never sent.

    `again`: seconds after which it may be sent anew, where only the moment was wrong.
    """

    def __init__(
        self, status: int, said: str, details: JSON | None = None, again: float | None = None
    ) -> None:
        super().__init__(said)
        self.status, self.details, self.again = status, details or {}, again


class Unanswered(Exception):
    """The order may have been carried out: the object must be asked."""


class Api:
    """One connection to the API server: `with Api(settings) as api`. Raises TargetUnreadable."""

    def __init__(self, settings: KubernetesSettings) -> None:
        try:
            self._client = api_client(configuration(settings))
        except ClusterUnusable as error:
            raise TargetUnreadable(str(error)) from error
        self._timeout = settings.timeout
        self.apps = client.AppsV1Api(self._client)
        self.core = client.CoreV1Api(self._client)
        self.autoscaling = client.AutoscalingV1Api(self._client)
        self.batch = client.BatchV1Api(self._client)
        self.custom = client.CustomObjectsApi(self._client)
        self.authorization = client.AuthorizationV1Api(self._client)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        close(self._client)

    def ask(self, call: Callable[..., Any], *arguments: Any, **options: Any) -> dict[str, Any]:
        """One answer as JSON. Raises TargetUnreadable, NotThere, TargetAway."""
        try:
            document = json.loads(self._call(call, arguments, options, self._timeout))
        except client.ApiException as error:
            status, said, _ = _answer_of(error)
            if status == 404:
                raise NotThere(f"there is none: {said}") from error
            if status in (401, 403):
                if not is_ready(self._client, self._timeout):
                    raise TargetAway(f"the API server is not ready, and answers {status}: {said}") from error
                said = f"not allowed ({status}): grant what `shf rbac` prints: {said}"
            raise unreadable(status, f"the API server does not answer: {said}") from error
        except HTTPError as error:
            raise TargetAway(f"the API server cannot be asked: {quoted(error)}") from error
        except ValueError as error:
            raise TargetUnreadable("the API server does not answer with JSON") from error
        if not isinstance(document, dict):
            raise TargetUnreadable("the API server does not answer with an object")
        return document

    def read(self, call: Callable[..., Any], *arguments: str) -> JSON:
        """One object of the cluster. Raises TargetUnreadable, NotThere."""
        found = self.ask(call, *arguments)
        metadata = found.get("metadata")
        if not isinstance(metadata, dict) or not {"name", "uid"} <= set(metadata):
            raise TargetUnreadable("the API server does not answer with the object that was asked for")
        return found

    def items(self, what: str, call: Callable[..., Any], *arguments: str, **options: Any) -> list[JSON]:
        """All items of a list. Raises TargetUnreadable when there are too many to decide on."""
        answer = self.ask(call, *arguments, limit=MOST_ITEMS, **options)
        if (answer.get("metadata") or {}).get("continue"):
            raise TargetUnreadable(f"there are more than {MOST_ITEMS} {what}")
        items = answer.get("items")
        return items if isinstance(items, list) else []

    def order(self, call: Callable[..., Any], *arguments: Any, **options: Any) -> None:
        """Send an order once; returning means that it was carried out. Raises Refused, Unanswered."""
        try:
            self._call(call, arguments, options, self._timeout)
        except client.ApiException as error:
            status, said, details = _answer_of(error)
            if 400 <= status < 500:
                told = f"the API server refused with {status}: {said}"
                raise Refused(status, told, details, _comes_again(error)) from error
            raise Unanswered(f"the API server answered {status or 'nothing'}: {said}") from error
        except HTTPError as error:
            _unsent_or_unanswered(error)
        except ValueError as error:
            raise Unanswered(f"the API server's answer is none: {quoted(error)}") from error

    def try_to(self, call: Callable[..., Any], *arguments: Any, **options: Any) -> str | None:
        """Do what nothing depends on; what went wrong, or None."""
        try:
            self._call(call, arguments, options, min(self._timeout, COURTESY_TIMEOUT))
        except client.ApiException as error:
            return _answer_of(error)[1]
        except (HTTPError, ValueError) as error:
            return quoted(error)
        return None

    def _call(
        self, call: Callable[..., Any], arguments: tuple[Any, ...], options: Mapping[str, Any], seconds: float
    ) -> Any:
        # A pair, to connect and to read: older clients take a fraction of a second for no timeout.
        timeouts = (seconds, seconds)
        answer = call(*arguments, **options, _request_timeout=timeouts, _preload_content=False)
        if not 200 <= answer.status < 300:
            raise client.ApiException(http_resp=answer)
        return answer.data


def _unsent_or_unanswered(error: HTTPError) -> NoReturn:
    cause = getattr(error, "reason", None) or error  # some versions wrap it in the retries that we forbade
    said = f"the API server cannot be reached: {quoted(cause)}"
    if isinstance(cause, NewConnectionError | ConnectTimeoutError):
        raise Refused(0, said, again=0.0) from error  # the next look waits until it is back
    raise Unanswered(f"no answer from the API server: {quoted(cause)}") from error


def _comes_again(error: client.ApiException) -> float | None:
    """Seconds after which a server that is too busy wants to be asked again; None: it does not say so.

    A disruption budget answers with 429 too, and names no time: it refuses until the pods have changed.
    """
    busy = error.status == HTTPStatus.TOO_MANY_REQUESTS
    return pause_named((error.headers or {}).get("Retry-After")) if busy else None


def _answer_of(error: client.ApiException) -> tuple[int, str, JSON]:
    """The status, the server's words, and the details of its answer."""
    try:
        body = json.loads(error.body or "")
    except (TypeError, ValueError):
        body = None
    body = body if isinstance(body, dict) else {}
    details = body.get("details")
    said = quoted(body.get("message") or error.reason or "no reason given")
    return int(error.status or 0), said, details if isinstance(details, dict) else {}
