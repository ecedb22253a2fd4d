"""One configured workload: how it is called, read, and told of what was done to it.

Names come from the configuration alone. What the workload is told by is its uid, and whether it is still as
it was decided on by its generation: it counts every change of what is wanted, and no news of how it goes.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import structlog

from self_healing_fabric.cluster.objects import JSON, autoscalers_of, owned_by, pods_of, selector_of
from self_healing_fabric.recovery.effects import NotApplicable, TargetAway, TargetUnreadable
from self_healing_fabric.recovery.platforms.kubernetes.api import FIELD_MANAGER, Api
from self_healing_fabric.recovery.platforms.kubernetes.decisions import UNSEEN, is_unseen
from self_healing_fabric.settings import KubernetesRecovery, KubernetesSettings

log = structlog.get_logger(__name__)

_CALLS = {"Deployment": "deployment", "StatefulSet": "stateful_set", "DaemonSet": "daemon_set"}


@dataclass(frozen=True)
class Place:
    """The configured workload and how its API server is reached."""

    configured: KubernetesRecovery
    settings: KubernetesSettings

    @property
    def kind(self) -> str:
        """Deployment, StatefulSet or DaemonSet."""
        return self.configured.kind

    @property
    def target(self) -> str:
        """What guardrails count by."""
        cluster = self.settings.context or "in-cluster"
        return f"kubernetes:{cluster}/{self.configured.namespace}/{self.kind}/{self.configured.name}"

    @property
    def title(self) -> str:
        """How sentences name it: `Deployment shop/cart`."""
        return f"{self.kind} {self.configured.namespace}/{self.configured.name}"

    @property
    def path(self) -> tuple[str, str]:
        """Its name and namespace, as the client takes them."""
        return self.configured.name, self.configured.namespace

    def kubectl(self, *words: str) -> str:
        """A command for people."""
        context = ["--context", self.settings.context] if self.settings.context else []
        return shlex.join(["kubectl", *context, "-n", self.configured.namespace, *words])

    def call(self, api: Api, verb: str, subresource: str = "") -> Any:
        """The client's function for its kind: `read` or `patch`."""
        return getattr(api.apps, f"{verb}_namespaced_{_CALLS[self.kind]}{subresource}")

    def read(self, api: Api) -> JSON:
        """The workload itself. Raises TargetUnreadable."""
        try:
            whole = api.read(self.call(api, "read"), *self.path)
        except TargetUnreadable as error:
            raise type(error)(f"{self.title}: {error}") from error
        if not isinstance(whole.get("spec"), dict) or "template" not in whole["spec"]:
            raise TargetUnreadable(f"{self.title}: the API server does not answer with a workload")
        return whole

    def to_change(self, api: Api) -> JSON:
        """The workload, to decide on a change of it. Raises TargetUnreadable, NotApplicable when it is going.

        One that is being deleted takes every order, and its controller carries none out. While that is away
        orders would pile up, and all be carried out when it is back.
        """
        whole = self.read(api)
        if whole["metadata"].get("deletionTimestamp"):
            raise NotApplicable(f"{self.title} is being deleted: nothing would change its pods")
        if is_unseen(whole):
            raise TargetAway(f"{self.title}: {UNSEEN}")
        return whole

    def revisions(self, api: Api, whole: JSON) -> tuple[JSON, ...]:
        """Its own ReplicaSets or ControllerRevisions. Raises TargetUnreadable."""
        deployment = self.kind == "Deployment"
        listed = api.items(
            "revisions",
            api.apps.list_namespaced_replica_set
            if deployment
            else api.apps.list_namespaced_controller_revision,
            self.configured.namespace,
            label_selector=selector_of(whole["spec"]["selector"]),
        )
        return owned_by({whole["metadata"]["uid"]}, listed)

    def revision(self, api: Api, name: str) -> JSON:
        """One of them. Raises TargetUnreadable."""
        deployment = self.kind == "Deployment"
        read = (
            api.apps.read_namespaced_replica_set
            if deployment
            else api.apps.read_namespaced_controller_revision
        )
        return api.read(read, name, self.configured.namespace)

    def pods(self, api: Api, whole: JSON, revisions: tuple[JSON, ...]) -> tuple[JSON, ...]:
        """Its own pods, by the uids of their owners. Raises TargetUnreadable."""
        selector = selector_of(whole["spec"]["selector"])
        listed = api.items(
            "pods", api.core.list_namespaced_pod, self.configured.namespace, label_selector=selector
        )
        return pods_of(whole, self.kind, revisions, listed)

    def autoscaler(self, api: Api) -> JSON | None:
        """The autoscaler that targets it. Raises TargetUnreadable, NotApplicable when there are several."""
        listed = api.items(
            "autoscalers",
            api.autoscaling.list_namespaced_horizontal_pod_autoscaler,
            self.configured.namespace,
        )
        found = autoscalers_of(self.kind, self.configured.name, listed)
        if len(found) > 1:
            names = ", ".join(each["metadata"]["name"] for each in found)
            raise NotApplicable(f"several autoscalers target it and contradict each other: {names}")
        return found[0] if found else None

    def tell(self, api: Api, uid: str, reason: str, message: str) -> None:
        """Write an event to the workload, so that who looks there sees who did it. Nothing depends on it."""
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        name, namespace = self.path
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": f"{name}.", "namespace": namespace},
            "involvedObject": {
                "apiVersion": "apps/v1",
                "kind": self.kind,
                "name": name,
                "namespace": namespace,
                "uid": uid,
            },
            "type": "Normal",
            "reason": reason,
            "message": message[:1000],  # the API allows 1024 bytes
            "source": {"component": FIELD_MANAGER},
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        problem = api.try_to(api.core.create_namespaced_event, namespace, event)
        if problem is not None:
            log.warning("kubernetes_event_not_written", target=self.target, error=problem)
