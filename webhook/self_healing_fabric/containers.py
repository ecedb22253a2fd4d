"""How a Docker engine is reached, and what it says of who ended a container: to diagnosis and repair alike.

Only this module makes the client. Traps avoided. The client is a session of requests: where the engine is
behind TCP it would follow redirects to other hosts, and take proxies and .netrc from the environment. It asks
for the engine's version while it is being made, so none of that can be switched off afterwards. And events
are asked for until a moment of the engine's own clock: one that is still to come there, because our clock is
ahead, would keep the answer open until it has come. Over TLS it would know the public authorities only, and
show no certificate, which is all that guards an engine there.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

import docker
import requests
from requests.adapters import BaseAdapter, HTTPAdapter

from self_healing_fabric import outbound
from shf_queries.answers import whole_answers

DEFAULT_HOST = "unix:///var/run/docker.sock"
MOST_EVENTS = 500  # an engine keeps 256
_KEEPS_RUNNING = ("always", "unless-stopped")  # policies that start whatever ends by itself


class _Tls(HTTPAdapter):
    """Trusts and shows what the fabric's own clients do."""

    def build_connection_pool_key_attributes(self, *arguments: Any, **options: Any) -> Any:
        host, pool = super().build_connection_pool_key_attributes(*arguments, **options)
        return host, {**pool, "ssl_context": outbound.tls_context()}

    def cert_verify(self, *_: Any, **__: Any) -> None:
        """The context holds all of it; requests would load the public authorities once more."""


class _Bounded(docker.APIClient):
    """Calls the engine itself, whatever the environment or an answer says."""

    def prepare_request(self, request: requests.Request) -> requests.PreparedRequest:
        # Here, because the first call is made before the constructor ends.
        self.trust_env, self.max_redirects = False, 0
        return super().prepare_request(request)

    def mount(self, prefix: str | bytes, adapter: BaseAdapter) -> None:
        # Here for the same reason.
        if prefix == "https://":
            adapter = _Tls()
        # A network gets slow in the middle of an answer, a local socket does not.
        if isinstance(adapter, HTTPAdapter):
            whole_answers(adapter.poolmanager)
        super().mount(prefix, adapter)


class Engine(docker.DockerClient):
    """The engine at `host`, a URL such as unix:///var/run/docker.sock, tcp://127.0.0.1:2375, or over TLS
    https://10.0.0.5:2376.

    Making one asks for its version. Raises docker.errors.DockerException, requests.RequestException.

    Args:
        host: of the configuration.
        timeout: seconds to connect, and again for the whole answer of a call.
    """

    def __init__(self, host: str, timeout: int) -> None:
        self.api = _Bounded(base_url=host, timeout=timeout)

    def events_of(
        self, id_: str, kinds: Collection[str], *, at: float, within: float, back: float = 0.0
    ) -> Sequence[Mapping[str, Any]]:
        """A container's events of the last `back` seconds, or all that the engine still has; oldest first.

        `at` is now, should the engine not tell the time. Raises docker.errors.DockerException,
        requests.RequestException, ValueError.
        """
        now = moment(self.info().get("SystemTime", "")) or at
        # The client's own `events` waits without a timeout for an engine that hangs.
        answer = self.api.get(
            f"{self.api.base_url}/v{self.api.api_version}/events",
            params={
                "since": f"{now - back:.6f}" if back else "0",
                "until": f"{now:.6f}",
                "filters": json.dumps({"container": [id_], "event": list(kinds)}),
            },
            timeout=within,
        )
        answer.raise_for_status()
        return [json.loads(line) for line in answer.text.splitlines()[-MOST_EVENTS:] if line.strip()]


def command_of(host: str) -> str:
    """How people call that engine, up to the verb."""
    if host == DEFAULT_HOST:
        return "docker"
    if host.startswith("https://"):
        host = host.replace("https", "tcp", 1)
        return f"docker --tlsverify --host {shlex.quote(host)}"
    return f"docker --host {shlex.quote(host)}"


def was_stopped(attributes: Mapping[str, Any], events: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a container is down because somebody ordered it, and not because it ended.

    Told by the last of its events `start` and `stop`, which an engine forgets soon; and by a restart policy
    that would have started it again otherwise. A start that failed (`Error`) shows that it is wanted.
    """
    state, host = attributes["State"], attributes.get("HostConfig") or {}
    if state.get("Status") != "exited" or state.get("Error"):
        return False
    if (host.get("RestartPolicy") or {}).get("Name") in _KEEPS_RUNNING:
        return True
    last = [event.get("Action") for event in events if event.get("Action") in ("start", "stop")][-1:]
    return last == ["stop"]


def moment(text: str) -> float | None:
    """Seconds since 1970 of the engine's times; None for one that never was (`0001-01-01`) or is no time."""
    try:
        seconds = datetime.fromisoformat(_microseconds(text)).timestamp()
    except (ValueError, OverflowError):
        return None
    return seconds if seconds > 0 else None


def _microseconds(text: str) -> str:
    # The engine writes nanoseconds and leaves zeros at the end out; Python reads up to six digits.
    head, point, rest = text.partition(".")
    digits = len(rest) - len(rest.lstrip("0123456789"))
    return f"{head}.{rest[:digits][:6].ljust(6, '0')}{rest[digits:]}" if point else text
