"""Evictions: the one way to take a pod that respects disruption budgets. A plain DELETE would go past them.

The API tries an eviction without doing it, so a budget that forbids it is known before anything is
announced. Every eviction names the pod's uid: a StatefulSet's next pod has the same name, and must not be
taken for it.
"""

from __future__ import annotations

import re

from self_healing_fabric.cluster.objects import JSON
from self_healing_fabric.quoting import quoted
from self_healing_fabric.recovery.effects import NotApplicable, TargetAway, TargetUnreadable
from self_healing_fabric.recovery.platforms.kubernetes.api import Api, Refused, Unanswered

NEWEST, OLD = "policy/v1", "policy/v1beta1"  # the old one for servers before 1.22
_BUDGET = re.compile(r"disruption budget (\S+)")


def try_eviction(api: Api, namespace: str, name: str, uid: str) -> str:
    """Let the server say whether it would evict a pod; returns the version of the API that it speaks.

    Raises NotApplicable when it would not, TargetUnreadable when it does not say, TargetAway for now.
    """
    for version in (NEWEST, OLD):
        try:
            evict(api, namespace, name, uid, version=version, dry_run=True)
        except Refused as error:
            if error.status in (400, 404) and version == NEWEST:
                continue  # it does not know this version; or the pod is gone, which the other one tells
            if error.again is not None:
                raise TargetAway(f"pod {name}: {error}") from error
            if error.status in (429, 404, 409):
                raise NotApplicable(f"pod {name} may not be evicted: {why_refused(error)}") from error
            raise TargetUnreadable(f"pod {name}: {error}") from error
        except Unanswered as error:
            raise TargetAway(f"pod {name}: {error}") from error
        return version
    raise AssertionError("the last version either returns or raises")


def evict(api: Api, namespace: str, name: str, uid: str, *, version: str, dry_run: bool = False) -> None:
    """Ask for a pod's eviction. Raises Refused, Unanswered."""
    body = {
        "apiVersion": version,
        "kind": "Eviction",
        "metadata": {"name": name, "namespace": namespace},
        "deleteOptions": {"preconditions": {"uid": uid}},
    }
    options = {"dry_run": "All"} if dry_run else {}
    api.order(api.core.create_namespaced_pod_eviction, name, namespace, body, **options)


def why_refused(error: Refused) -> str:
    """The refusal, with the budget that it comes from."""
    causes = [each for each in error.details.get("causes") or () if isinstance(each, dict)]
    said = " ".join(quoted(each.get("message") or "") for each in causes)
    budget = _BUDGET.search(said)
    return f"disruption budget {budget[1]} forbids it: {said}" if budget else str(error)


def is_gone(pod: JSON | None, uid: str) -> bool:
    """Whether a pod is gone or going; another one of its name does not count for it."""
    return pod is None or pod["metadata"]["uid"] != uid or bool(pod["metadata"].get("deletionTimestamp"))
