"""Who keeps an object as a repository has it: Argo CD, Flux, nobody.

A controller that applies a repository puts back within minutes what anybody else has changed. Two healers of
one object make a loop, so such an object is left to its controller.
"""

from __future__ import annotations

from dataclasses import dataclass

from self_healing_fabric.cluster.objects import JSON
from self_healing_fabric.quoting import quoted

ARGO, FLUX, FLUX_HELM = "Argo CD", "Flux", "Flux's Helm controller"
_MARKS = (
    ("annotations", "argocd.argoproj.io/tracking-id", ARGO),
    ("labels", "argocd.argoproj.io/instance", ARGO),
    ("labels", "kustomize.toolkit.fluxcd.io/name", FLUX),
    ("labels", "helm.toolkit.fluxcd.io/name", FLUX_HELM),
)
WRITERS = {
    "argocd-controller": ARGO,
    "argocd-application-controller": ARGO,
    "kustomize-controller": FLUX,
    "helm-controller": FLUX_HELM,
}


@dataclass(frozen=True)
class Manager:
    """Who manages an object from a repository; `name` is what it calls the part that holds the object."""

    tool: str
    name: str

    def __str__(self) -> str:
        return f"{self.tool} ({self.name})" if self.name else self.tool


def manager_of(each: JSON) -> Manager | None:
    """Who manages an object from a repository: told by its marks, or by the writers of its fields."""
    for where, key, tool in _MARKS:
        value = (each["metadata"].get(where) or {}).get(key)
        if value:
            return Manager(tool, quoted(str(value).partition(":")[0]))
    for entry in each["metadata"].get("managedFields") or ():
        tool = WRITERS.get(entry.get("manager"), "")
        fields = entry.get("fieldsV1") or {}
        written = any(fields[key] for key in fields.keys() - {"f:metadata", "f:status"})
        if tool and written and entry.get("subresource", "") != "status":
            return Manager(tool, "")
    return None
