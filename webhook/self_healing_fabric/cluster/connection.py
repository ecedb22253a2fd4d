"""How the API server is reached. Only this module and who asks through it import the client.

Traps avoided. The client repeats requests by itself, writes too, so that is switched off; it has no timeout
of its own, so every call gets one, and that is for the whole answer; and loading a kubeconfig may write to
it, which is people's file.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, cast

from self_healing_fabric.cluster import ClusterUnusable
from self_healing_fabric.quoting import quoted
from self_healing_fabric.servers_asked import asking
from self_healing_fabric.settings import KubernetesSettings
from shf_queries.answers import whole_answers

try:
    from kubernetes import client, config
    from urllib3.exceptions import HTTPError
except ModuleNotFoundError as error:
    raise ClusterUnusable("workloads need an extra: pip install 'self-healing-fabric[kubernetes]'") from error

# Newer clients load an API with its models when it is first named. At the start that takes from nobody's time
# to answer; in the first diagnosis and the first repair it would.
_LOADED = (client.AppsV1Api, client.CoreV1Api)

__all__ = ["api_client", "client", "close", "configuration", "is_ready"]


def configuration(settings: KubernetesSettings) -> client.Configuration:
    """Who we are and where the API server is: the pod's service account, or a kubeconfig.

    Raises ClusterUnusable.
    """
    made = client.Configuration()
    # The client takes proxies from the environment; a kubeconfig may name one (`proxy-url`), nobody else.
    made.proxy = made.no_proxy = None
    try:
        if settings.kubeconfig is None and settings.context is None:
            config.load_incluster_config(client_configuration=made)
        else:
            config.load_kube_config(
                config_file=str(settings.kubeconfig) if settings.kubeconfig else None,
                context=settings.context,
                client_configuration=made,
                persist_config=False,  # a kubeconfig is people's file
            )
    except (config.ConfigException, OSError) as error:
        remedy = "outside of a cluster set kubernetes.kubeconfig to a file that can be read"
        if isinstance(error, OSError) and error.filename is None:  # it is not about the kubeconfig
            remedy = (
                "certificates that a kubeconfig holds have to be written into a temporary folder: make room "
                "there, or name another one by TMPDIR"
            )
        raise ClusterUnusable(f"{quoted(error)}: {remedy}") from error
    made.retries = False
    return made


def api_client(configuration: client.Configuration) -> client.ApiClient:
    """A connection whose calls are noted in `servers_asked`."""
    made = client.ApiClient(configuration)
    whole_answers(made.rest_client.pool_manager)
    made.rest_client = cast(Any, _Noted(made.rest_client, str(configuration.host)))
    return made


class _Noted:
    """The client's REST layer, with a note of each call. Everything else is the layer's own."""

    def __init__(self, rest: Any, host: str) -> None:
        self._rest, self._host = rest, host

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rest, name)

    def request(self, *arguments: Any, **options: Any) -> Any:
        with asking("kubernetes", self._host, answered=(client.ApiException,)):
            answer = self._rest.request(*arguments, **options)
            answer.read()  # and kept: one that never ends is none
            return answer


def is_ready(api: client.ApiClient, seconds: float) -> bool:
    """Whether a refusal (401, 403) of the API server counts: until it has started it knows of no rights, and
    refuses all, what it says of its start among it.

    It refuses that too for a token that is none, so then it is asked without: also who may ask nothing else
    may ask for this, unless nobody may ask without a name.
    """
    known_as = api.configuration
    token = known_as.auth_settings().get("BearerToken", {}).get("value")
    for headers in ({"Authorization": token} if token else {}, {}):
        try:
            answer = api.rest_client.pool_manager.request(
                "GET",
                f"{known_as.host}/readyz",
                headers=headers,
                timeout=seconds,
                retries=False,
                redirect=False,
            )
        except HTTPError:
            return False
        if answer.status != HTTPStatus.UNAUTHORIZED:
            # Others, such as a proxy before it, may not know the path.
            return answer.status < HTTPStatus.INTERNAL_SERVER_ERROR and answer.status != HTTPStatus.FORBIDDEN
    return True


def close(api: client.ApiClient) -> None:
    """Close the connections."""
    api.rest_client.pool_manager.clear()
    api.close()
