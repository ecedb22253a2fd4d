"""Which rights the effects need, asked of the API server: what is missing is found before it is needed."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from self_healing_fabric.recovery.effects import TargetUnreadable
from self_healing_fabric.recovery.platforms.kubernetes.api import Api
from self_healing_fabric.recovery.platforms.kubernetes.workload import PLURALS, Place


@dataclass(frozen=True)
class Right:
    """One verb on one resource of the namespace."""

    verb: str
    group: str
    resource: str
    subresource: str = ""

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}{f'/{self.subresource}' if self.subresource else ''}"


def rights_for(strategy: str, kind: str) -> Iterator[Right]:
    """What a strategy needs on a kind of workload, besides reading the workload itself."""
    plural = PLURALS[kind]
    revisions = "replicasets" if kind == "Deployment" else "controllerrevisions"
    yield Right("get", "apps", plural)
    if strategy in ("restart", "rollback"):
        yield Right("patch", "apps", plural)
    if strategy in ("evict", "rollback"):
        yield Right("list", "apps", revisions)
        yield Right("list", "", "pods")
        yield Right("get", "", "pods")
    if strategy == "rollback":
        yield Right("get", "apps", revisions)
    if strategy == "evict" or (strategy == "rollback" and kind == "StatefulSet"):
        yield Right("create", "", "pods", "eviction")
    if strategy == "scale":
        yield Right("patch", "apps", plural, "scale")
        for verb in ("get", "list", "patch"):
            yield Right(verb, "autoscaling", "horizontalpodautoscalers")


EVENTS = Right("create", "", "events")


def missing_rights(api: Api, place: Place, strategies: Collection[str]) -> dict[Right, list[str]]:
    """Each right that is missing, with the strategies that need it. Raises TargetUnreadable."""
    needed: dict[Right, list[str]] = {}
    for strategy in strategies:
        for right in rights_for(strategy, place.kind):
            needed.setdefault(right, []).append(strategy)
    needed.setdefault(EVENTS, ["telling people"])
    return {right: whom for right, whom in needed.items() if not _allowed(api, place, right)}


def _allowed(api: Api, place: Place, right: Right) -> bool:
    attributes = {
        "namespace": place.configured.namespace,
        "verb": right.verb,
        "group": right.group,
        "resource": right.resource,
    }
    if right.subresource:
        attributes["subresource"] = right.subresource
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes},
    }
    answer = api.ask(api.authorization.create_self_subject_access_review, review)
    allowed = (answer.get("status") or {}).get("allowed")
    if not isinstance(allowed, bool):
        raise TargetUnreadable(f"the API server does not say whether it allows: {right}")
    return allowed
