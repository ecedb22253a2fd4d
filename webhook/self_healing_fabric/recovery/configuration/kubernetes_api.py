"""The few calls that configuration needs of an API server, by path, with the answers as plain JSON.

The client's models refuse answers of newer servers and cannot name an object that they have no class for, so
only its knowledge of kubeconfigs is used, and its pool of connections: one family of errors instead of three.
It repeats requests and waits for ever unless told otherwise, so every call here goes out once, with a
timeout, without following redirects.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlencode

from self_healing_fabric.cluster import ClusterUnusable
from self_healing_fabric.recovery.configuration.desired import LARGEST, too_large
from self_healing_fabric.recovery.effects import TargetAway, TargetUnreadable, pause_named, unreadable
from self_healing_fabric.settings import KubernetesSettings

try:
    from urllib3 import Timeout
    from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError

    from self_healing_fabric.cluster.connection import api_client, close, configuration, is_ready
except (ModuleNotFoundError, ClusterUnusable) as error:
    raise TargetUnreadable(str(error)) from error

LARGEST_ANSWER = 8 * LARGEST  # an object holds more than the one configuration
MERGE = "application/merge-patch+json"
APPLY = "application/apply-patch+yaml"  # JSON is YAML


class Lost(Exception):
    """A request may have arrived and its answer did not."""


@dataclass(frozen=True)
class Answer:
    """Of the API server: the status, and the document if it was one."""

    status: int
    document: Mapping[str, Any]
    again: float | None = None  # seconds after which a server that was too busy is sent the same again

    @property
    def ok(self) -> bool:
        """Whether it was done."""
        return 200 <= self.status < 300

    @property
    def message(self) -> str:
        """Why not. An API server's refusals quote names and fields; of a Secret not its values."""
        return f"the API server answered {self.status} {self.document.get('reason', '')}".rstrip()


class Api:
    """`with Api(settings, timeout) as api:`; leaving closes the connections."""

    def __init__(self, settings: KubernetesSettings, timeout: float) -> None:
        self._timeout = timeout
        try:
            self._api = api_client(configuration(settings))
        except ClusterUnusable as error:
            raise TargetUnreadable(str(error)) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        close(self._api)

    def get(self, path: str) -> Mapping[str, Any]:
        """One object. Raises TargetUnreadable, TargetAway."""
        try:
            answer = self._send("GET", path, None, {})
        except Lost as error:
            raise TargetAway(f"the API server cannot be asked: {error}") from error
        if answer.ok:
            return answer.document
        if answer.status == 404:
            raise TargetUnreadable(f"there is no {path}")
        if answer.status in (401, 403):
            if not is_ready(self._api, self._timeout):
                raise TargetAway(f"{path}: {answer.message}, and is not ready")
            raise TargetUnreadable(f"not allowed to read {path} ({answer.status})")
        raise unreadable(answer.status, f"{path}: {answer.message}")

    def patch(self, path: str, kind: str, body: Mapping[str, Any], **parameters: str) -> Answer:
        """Patch once. Raises Lost, and TargetAway when the request cannot have arrived."""
        return self._send("PATCH", f"{path}?{urlencode(parameters)}", body, {"Content-Type": kind})

    def _send(
        self, method: str, path: str, body: Mapping[str, Any] | None, headers: Mapping[str, str]
    ) -> Answer:
        known_as = self._api.configuration
        token = known_as.auth_settings().get("BearerToken", {}).get("value")
        known = {"Authorization": token} if token else {}
        try:
            answer = self._api.rest_client.pool_manager.request(
                method,
                f"{known_as.host}{path}",
                body=None if body is None else json.dumps(body).encode(),
                headers={"Accept": "application/json", **known, **headers},
                timeout=Timeout(total=self._timeout),
                retries=False,
                redirect=False,
                preload_content=False,
            )
            try:
                content = answer.read(LARGEST_ANSWER + 1)
            finally:
                answer.release_conn()
        except (NewConnectionError, ConnectTimeoutError) as error:
            raise TargetAway(f"the API server cannot be asked: {_words(error)}") from error
        except HTTPError as error:
            raise Lost(_words(error)) from error
        if len(content) > LARGEST_ANSWER:
            raise too_large(path)
        try:
            document = json.loads(content)
        except ValueError:
            document = {}
        busy = answer.status == HTTPStatus.TOO_MANY_REQUESTS
        again = pause_named(answer.headers.get("Retry-After")) if busy else None
        return Answer(answer.status, document if isinstance(document, dict) else {}, again)


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
