"""Which rights each call to the API server needs, in one place: checked and granted alike.

Two lists would part: then the one that grants would grant too little, or, worse, too much for ever. A right
names its object where the configuration knows the name. It cannot for pods and revisions, whose names
controllers make, nor for lists, which RBAC does not bound by name.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from self_healing_fabric.settings import (
    ConfigurationSettings,
    KubernetesObject,
    KubernetesRecovery,
    RestoreJob,
)

PLURALS = {"Deployment": "deployments", "StatefulSet": "statefulsets", "DaemonSet": "daemonsets"}
AUTOSCALERS = "horizontalpodautoscalers"


@dataclass(frozen=True, order=True)
class Right:
    """One verb on one resource: on the object of that name, or on all where it has none."""

    verb: str
    group: str
    resource: str
    subresource: str = ""
    name: str = ""

    def __str__(self) -> str:
        return f"{self.verb} {self.path}"

    @property
    def path(self) -> str:
        """As RBAC writes it: `pods/eviction`."""
        return f"{self.resource}/{self.subresource}" if self.subresource else self.resource


EVENTS = Right("create", "", "events")
"""Tells people on the workload what was done; repairs work without it."""

NODES = Right("get", "", "nodes")
"""Nodes belong to no namespace."""


def evidence_rights(target: KubernetesRecovery) -> Iterator[Right]:
    """What the diagnosis reads of a workload, besides `NODES`."""
    yield Right("get", "apps", PLURALS[target.kind], name=target.name)
    yield Right("list", "apps", _revisions(target))
    yield Right("list", "", "pods")
    yield Right("list", "", "events")
    yield Right("list", "autoscaling", AUTOSCALERS)


def repair_rights(strategy: str, target: KubernetesRecovery) -> Iterator[Right]:
    """What a strategy needs on a workload, besides `EVENTS`."""
    plural = PLURALS[target.kind]
    yield Right("get", "apps", plural, name=target.name)
    if strategy in ("restart", "rollback"):
        yield Right("patch", "apps", plural, name=target.name)
    if strategy in ("evict", "rollback"):
        yield Right("list", "apps", _revisions(target))
        yield Right("list", "", "pods")
    if strategy == "rollback":
        yield Right("get", "apps", _revisions(target))
    if strategy == "evict" or (strategy == "rollback" and target.kind == "StatefulSet"):
        yield Right("get", "", "pods")
        yield Right("create", "", "pods", "eviction")
    if strategy == "scale":
        yield Right("patch", "apps", plural, "scale", target.name)
        for verb in ("get", "list", "patch"):
            yield Right(verb, "autoscaling", AUTOSCALERS)


def restore_rights(job: RestoreJob) -> Iterator[Right]:
    """What it takes to make a Job from a CronJob; the Job's name is made for each action."""
    yield Right("get", "batch", "cronjobs", name=job.cronjob)
    yield Right("get", "batch", "jobs")
    yield Right("create", "batch", "jobs")


def configuration_rights(
    configuration: ConfigurationSettings, *, writes: bool
) -> Iterator[tuple[str, Right]]:
    """What a running configuration on Kubernetes needs, each with its namespace ("" for none).

    An object is patched to compare it too: that is a dry run, which RBAC does not tell from a write.
    """
    key, whole = configuration.live.configmap, configuration.live.object
    if key is not None:
        for verb in ("get", "patch") if writes else ("get",):
            yield key.namespace, Right(verb, "", "configmaps", name=key.name)
    if whole is not None:
        for verb in ("get", "patch"):
            yield whole.namespace or "", Right(verb, *group_and_plural(whole), name=whole.name)


def group_and_plural(whole: KubernetesObject) -> tuple[str, str]:
    """The plural as the client libraries guess it; a custom resource may have given itself another one."""
    group = whole.api_version.rpartition("/")[0]
    kind = whole.kind.lower()
    if kind.endswith("s"):
        return group, kind if kind == "endpoints" else f"{kind}es"
    return group, f"{kind[:-1]}ies" if kind.endswith("y") else f"{kind}s"


def _revisions(target: KubernetesRecovery) -> str:
    return "replicasets" if target.kind == "Deployment" else "controllerrevisions"
