"""How a Docker engine is reached. Only this module makes the client.

Traps avoided. The client is a session of requests: where the engine is behind TCP it would follow redirects
to other hosts, and take proxies and .netrc from the environment. It asks for the engine's version while it is
being made, so none of that can be switched off afterwards.
"""

from __future__ import annotations

import docker
import requests


class _Bounded(docker.APIClient):
    """Calls the engine itself, whatever the environment or an answer says."""

    def prepare_request(self, request: requests.Request) -> requests.PreparedRequest:
        # Here, because the first call is made before the constructor ends.
        self.trust_env, self.max_redirects = False, 0
        return super().prepare_request(request)


class Engine(docker.DockerClient):
    """The engine at `host`, a URL such as unix:///var/run/docker.sock or tcp://127.0.0.1:2375.

    Making one asks for its version. Raises docker.errors.DockerException, requests.RequestException.

    Args:
        host: of the configuration.
        timeout: seconds for each wait of a call.
    """

    def __init__(self, host: str, timeout: int) -> None:
        self.api = _Bounded(base_url=host, timeout=timeout)
