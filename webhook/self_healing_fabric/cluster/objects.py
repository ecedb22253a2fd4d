"""What objects of the API server say: pure reading of their JSON, without a network.

What belongs to a workload is told by the uid of its owner, never by how a name begins: `cart` must not be
taken for the owner of the pods of `cart-worker`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

JSON = Mapping[str, Any]

REVISION = "deployment.kubernetes.io/revision"
RESTARTED = "kubectl.kubernetes.io/restartedAt"
TEMPLATE_HASH = "pod-template-hash"  # what a Deployment adds to the labels of its ReplicaSets
REVISION_HASH = "controller-revision-hash"  # of the pods of StatefulSets and DaemonSets


def selector_of(selector: JSON) -> str:
    """A workload's selector as the API's query language has it."""
    parts = [f"{key}={value}" for key, value in (selector.get("matchLabels") or {}).items()]
    for rule in selector.get("matchExpressions") or ():
        key, operator, values = rule["key"], rule["operator"], ",".join(rule.get("values") or ())
        parts.append(
            {
                "In": f"{key} in ({values})",
                "NotIn": f"{key} notin ({values})",
                "Exists": key,
                "DoesNotExist": f"!{key}",
            }[operator]
        )
    return ",".join(parts)


def controller_of(each: JSON) -> JSON | None:
    """The owner that controls an object: who makes it anew when it is gone, and puts it back when changed."""
    owners = each["metadata"].get("ownerReferences") or ()
    return next((owner for owner in owners if owner.get("controller")), None)


def owned_by(uids: set[str], objects: Sequence[Any]) -> tuple[JSON, ...]:
    """Those that one of these controls."""
    return tuple(
        each for each in objects if (owner := controller_of(each)) is not None and owner["uid"] in uids
    )


def pods_of(whole: JSON, kind: str, owned: Sequence[Any], pods: Sequence[Any]) -> tuple[JSON, ...]:
    """The workload's own pods: those of its ReplicaSets, or those that it controls itself."""
    uid = whole["metadata"]["uid"]
    owners = {each["metadata"]["uid"] for each in owned_by({uid}, owned)} if kind == "Deployment" else {uid}
    return owned_by(owners, pods)


def template_of(revision: JSON) -> JSON:
    """The template of the pods that a ReplicaSet or a ControllerRevision holds."""
    held: JSON = revision.get("spec") or (revision.get("data") or {}).get("spec") or {}
    template: JSON = held.get("template") or {}
    return template


def comparable(template: JSON) -> JSON:
    """A template without what a restart changes and what controllers add: equal ones make the same pods."""
    metadata = template.get("metadata") or {}
    labels = {k: v for k, v in (metadata.get("labels") or {}).items() if k != TEMPLATE_HASH}
    annotations = {k: v for k, v in (metadata.get("annotations") or {}).items() if k != RESTARTED}
    return {"labels": labels, "annotations": annotations, "spec": template.get("spec")}


def revision_of(each: JSON) -> int:
    """The number of a ReplicaSet or a ControllerRevision; 0 without one."""
    number = each.get("revision") or ((each["metadata"].get("annotations")) or {}).get(REVISION)
    return int(str(number)) if str(number).isdigit() else 0


def autoscalers_of(kind: str, name: str, autoscalers: Sequence[JSON]) -> list[JSON]:
    """The autoscalers that target a workload."""
    return [
        each
        for each in autoscalers
        if (ref := (each.get("spec") or {}).get("scaleTargetRef") or {})
        and (ref.get("kind"), ref.get("name")) == (kind, name)
    ]


def condition_of(each: JSON, kind: str) -> JSON:
    """One condition of an object's status; empty without it."""
    conditions = (each.get("status") or {}).get("conditions") or ()
    return next((condition for condition in conditions if condition.get("type") == kind), {})


def is_ready(pod: JSON) -> bool:
    """Whether the pod says that it can serve."""
    return condition_of(pod, "Ready").get("status") == "True"


def moment(text: Any) -> float | None:
    """Seconds since 1970 of a time of the API; None without one."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except (TypeError, ValueError):
        return None
