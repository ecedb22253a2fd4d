"""Asks the API server about one workload: a handful of lists, each with a limit and a timeout.

Traps avoided. The client has no timeout of its own and repeats requests, so both are set. It checks answers
against models that a newer or older server does not keep to, so answers are read as plain JSON. What belongs
to the workload is told by the uid of its owner, never by how a name begins: `cart` must not be blamed for the
pods of `cart-worker`. And a right that is missing costs one kind of evidence and not all of it.

What the answers mean is in `workloads`, which knows no network.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any

from urllib3.exceptions import HTTPError

from self_healing_fabric.cluster import ClusterUnusable
from self_healing_fabric.cluster.objects import owned_by, pods_of, selector_of
from self_healing_fabric.diagnosis.sources import Report, SourceUnusable, quoted
from self_healing_fabric.diagnosis.sources.workloads import Workload, bad_pods_first, read
from self_healing_fabric.settings import KubernetesRecovery, KubernetesSettings

try:
    from self_healing_fabric.cluster.connection import api_client, client, close, configuration
except ClusterUnusable as error:
    raise SourceUnusable(str(error)) from error

MOST_PODS = 200
MOST_OWNED = 100  # ReplicaSets or ControllerRevisions; a Deployment keeps 10 unless told otherwise
MOST_EVENTS = 500  # warnings of the namespace
MOST_NODES = 5  # those of pods in trouble first
LEAST_TIME = 0.05  # seconds; with less left nothing more is asked

_READERS = {
    "Deployment": "read_namespaced_deployment",
    "StatefulSet": "read_namespaced_stateful_set",
    "DaemonSet": "read_namespaced_daemon_set",
}


class _Unanswered(Exception):
    """One question was not answered; its text says why."""


class KubernetesSource:
    """One workload of one cluster."""

    name = "kubernetes"

    def __init__(self, service: str, target: KubernetesRecovery, settings: KubernetesSettings) -> None:
        self._service, self._target, self._settings = service, target, settings

    def look(self, at: float, within: float) -> Report:
        """Read the workload, its pods, revisions, warnings, autoscalers and nodes."""
        try:
            reached = configuration(self._settings)
        except ClusterUnusable as error:
            raise SourceUnusable(str(error)) from error
        asking = _Asking(reached, self._settings.timeout, time.monotonic() + within)
        try:
            return self._look(asking, at)
        finally:
            asking.close()

    def _look(self, asking: _Asking, at: float) -> Report:
        kind, namespace, name = self._target.kind, self._target.namespace, self._target.name
        apps, core = client.AppsV1Api(asking.api), client.CoreV1Api(asking.api)
        try:
            whole = asking.ask(getattr(apps, _READERS[kind]), name, namespace)
        except _Unanswered as error:
            raise SourceUnusable(f"{kind} {namespace}/{name}: {error}") from error
        selector = selector_of(whole["spec"]["selector"])
        revisions = (
            apps.list_namespaced_replica_set
            if kind == "Deployment"
            else apps.list_namespaced_controller_revision
        )
        owned = asking.items("revisions", revisions, namespace, limit=MOST_OWNED, label_selector=selector)
        pods = asking.items(
            "pods", core.list_namespaced_pod, namespace, limit=MOST_PODS, label_selector=selector
        )
        events = asking.items(
            "events", core.list_namespaced_event, namespace, limit=MOST_EVENTS, field_selector="type=Warning"
        )
        autoscalers = asking.items(
            "horizontalpodautoscalers",
            client.AutoscalingV1Api(asking.api).list_namespaced_horizontal_pod_autoscaler,
            namespace,
            limit=MOST_OWNED,
        )
        workload = Workload(
            service=self._service,
            kind=kind,
            whole=whole,
            owned=owned_by({whole["metadata"]["uid"]}, owned),
            pods=pods_of(whole, kind, owned, pods),
            events=events,
            autoscalers=autoscalers,
            nodes=(),
            kubectl=self._kubectl(),
            selector=selector,
        )
        nodes = [pod["spec"].get("nodeName") for pod in bad_pods_first(workload.pods)]
        named = [name for name in dict.fromkeys(nodes) if name][:MOST_NODES]
        workload = workload.on(
            [node for name in named if (node := asking.one(f"node {name}", core.read_node, name))]
        )
        facts, changes = read(workload, at)
        return Report(facts, changes, tuple(asking.missing))

    def _kubectl(self) -> str:
        context = f" --context {self._settings.context}" if self._settings.context else ""
        return f"kubectl{context} -n {self._target.namespace}"


class _Asking:
    """Questions to one API server, until the time is over; collects what was not answered."""

    def __init__(self, configuration: client.Configuration, timeout: float, ends: float) -> None:
        self.api = api_client(configuration)
        self.missing: list[str] = []
        self._timeout = timeout
        self._ends = ends

    def close(self) -> None:
        """Close the connections."""
        close(self.api)

    def ask(self, call: Callable[..., Any], *arguments: str, **options: Any) -> dict[str, Any]:
        """One answer as JSON. Raises _Unanswered."""
        left = min(self._timeout, self._ends - time.monotonic())
        if left < LEAST_TIME:
            raise _Unanswered("the time for asking was over")
        try:
            # A pair, to connect and to read: older clients take a fraction of a second for no timeout.
            timeouts = (left, left)
            answer = call(*arguments, **options, _request_timeout=timeouts, _preload_content=False)
            document = json.loads(answer.data)
        except client.ApiException as error:
            raise _Unanswered(_refusal(error)) from error
        except HTTPError as error:
            raise _Unanswered(f"the API server cannot be asked: {quoted(error)}") from error
        except ValueError as error:
            raise _Unanswered("the API server does not answer with JSON") from error
        if not isinstance(document, dict):
            raise _Unanswered("the API server does not answer with an object")
        return document

    def items(self, what: str, call: Callable[..., Any], *arguments: str, **options: Any) -> Sequence[Any]:
        """The items of a list; none when it is not answered. A list that was cut off is told."""
        answer = self.one(what, call, *arguments, **options)
        if (answer.get("metadata") or {}).get("continue"):
            self.missing.append(f"kubernetes: only the first {options['limit']} {what} were read")
        items = answer.get("items") or []
        return items if isinstance(items, list) else []

    def one(self, what: str, call: Callable[..., Any], *arguments: str, **options: Any) -> dict[str, Any]:
        """One answer; an empty one, and told as missing, when it is not answered."""
        try:
            return self.ask(call, *arguments, **options)
        except _Unanswered as error:
            self.missing.append(f"kubernetes: {what}: {error}")
            return {}


def _refusal(error: client.ApiException) -> str:
    if error.status == 404:
        return "there is none: correct services.NAME.recovery.kubernetes"
    if error.status in (401, 403):
        return f"not allowed ({error.status}): grant what `shf rbac` prints"
    return f"the API server answered {error.status} {quoted(error.reason or '')}".rstrip()
