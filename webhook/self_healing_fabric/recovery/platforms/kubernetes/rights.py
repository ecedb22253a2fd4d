"""Which rights the effects lack, asked of the API server: what is missing is found before it is needed."""

from __future__ import annotations

from collections.abc import Collection

from self_healing_fabric.cluster.rights import EVENTS, Right, repair_rights
from self_healing_fabric.recovery.effects import TargetUnreadable
from self_healing_fabric.recovery.platforms.kubernetes.api import Api
from self_healing_fabric.recovery.platforms.kubernetes.workload import Place


def missing_rights(api: Api, place: Place, strategies: Collection[str]) -> dict[Right, list[str]]:
    """Each right that is missing, with the strategies that need it. Raises TargetUnreadable."""
    needed: dict[Right, list[str]] = {}
    for strategy in strategies:
        for right in repair_rights(strategy, place.configured):
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
    if right.name:
        attributes["name"] = right.name
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
