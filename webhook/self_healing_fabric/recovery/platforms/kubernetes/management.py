"""Who else writes to an object, and would put back what we change. Then we propose and leave it alone.

A healer that argues with Argo CD or Flux loses within minutes, after two needless rollouts, and leaves a
cluster that differs from its repository for as long. So what they manage is not scaled or rolled back:
people are told what to change, and where.

A restart is different. It adds one annotation to the template that no repository holds: Argo CD compares
only the fields that its manifest names, and Flux applies on the server's side, which takes away only what
its own field manager owns (and what it takes over from kubectl's: `self-healing-fabric` writes under a name
of its own). So a restart is done, unless the managed fields say that such a manager owns this very
annotation.

An operator that owns the workload makes it anew from its own template: nothing is changed there at all.
"""

from __future__ import annotations

from self_healing_fabric.cluster.gitops import ARGO, FLUX, FLUX_HELM, WRITERS, manager_of
from self_healing_fabric.cluster.objects import JSON, RESTARTED, controller_of
from self_healing_fabric.quoting import quoted
from self_healing_fabric.recovery.effects import NotApplicable

_RENEW = {
    ARGO: "argocd app sync {name}",
    FLUX: "flux reconcile kustomization {name} --with-source",
    FLUX_HELM: "flux reconcile helmrelease {name} --with-source",
}


def propose_instead(each: JSON, change: str, hint: str = "") -> None:
    """Raises NotApplicable with a proposal when somebody else would put the change back.

    `change` is what to write where its manager finds it, `hint` a command that shows or does it.
    """
    _refuse_owned(each, change)
    manager = manager_of(each)
    if manager is None:
        return
    renew = _RENEW[manager.tool].format(name=manager.name or "NAME")
    shown = f" (`{hint}`)" if hint else ""
    raise NotApplicable(
        f"{manager} manages it from a repository and would put it back. Proposal: there, {change}{shown}, "
        f"for example with `git revert` of the commit that changed it; then `{renew}`"
    )


def refuse_restart_put_back(each: JSON) -> None:
    """Raises NotApplicable when a restart's annotation would be put back: its manager owns that one."""
    _refuse_owned(each, "restart it")
    for entry in each["metadata"].get("managedFields") or ():
        tool = WRITERS.get(entry.get("manager"))
        fields = entry.get("fieldsV1") or {}
        for part in ("f:spec", "f:template", "f:metadata", "f:annotations"):
            fields = fields.get(part) or {}
        if tool is not None and f"f:{RESTARTED}" in fields:
            raise NotApplicable(
                f"{tool} holds {RESTARTED} in its repository and would put it back. "
                f"Proposal: set it to the present time there"
            )


def _refuse_owned(each: JSON, change: str) -> None:
    owner = controller_of(each)
    if owner is not None:
        called = f"{owner.get('kind')} {quoted(owner.get('name'))}"
        raise NotApplicable(
            f"{called} controls it and would put it back. Proposal: {change} through {called}"
        )
