"""How the API server is reached. Only this module and who asks through it import the client.

Traps avoided. The client repeats requests by itself, writes too, so that is switched off; it has no timeout
of its own, so every call gets one; and loading a kubeconfig may write to it, which is people's file.
"""

from __future__ import annotations

from self_healing_fabric.cluster import ClusterUnusable
from self_healing_fabric.quoting import quoted
from self_healing_fabric.settings import KubernetesSettings

try:
    from kubernetes import client, config
except ModuleNotFoundError as error:
    raise ClusterUnusable("workloads need an extra: pip install 'self-healing-fabric[kubernetes]'") from error


__all__ = ["client", "close", "configuration"]


def configuration(settings: KubernetesSettings) -> client.Configuration:
    """Who we are and where the API server is: the pod's service account, or a kubeconfig.

    Raises ClusterUnusable.
    """
    made = client.Configuration()
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
        raise ClusterUnusable(
            f"{quoted(error)}: outside of a cluster set kubernetes.kubeconfig to a file that can be read"
        ) from error
    made.retries = False
    return made


def close(api: client.ApiClient) -> None:
    """Close the connections."""
    api.rest_client.pool_manager.clear()
    api.close()
