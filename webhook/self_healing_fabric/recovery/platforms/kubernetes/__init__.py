"""Repairs of a workload on Kubernetes: restart, scale, roll back, and evict one bad pod.

Every effect names the object by its uid and is bound to what was decided on: a cluster changes all the
time, and an order that was right a second ago can be wrong now. What is not certain is not applicable; what
people or their tools would put back is proposed and not done. What each may do, and when, is in `decisions`
and `management`, which know no network.
"""

from __future__ import annotations

from collections.abc import Collection

from self_healing_fabric.cluster.rights import EVENTS
from self_healing_fabric.recovery.effects import Effect, NotApplicable, TargetUnreadable
from self_healing_fabric.recovery.platforms.kubernetes.api import Api
from self_healing_fabric.recovery.platforms.kubernetes.evict import KubernetesEvict
from self_healing_fabric.recovery.platforms.kubernetes.restart import KubernetesRestart
from self_healing_fabric.recovery.platforms.kubernetes.rights import missing_rights
from self_healing_fabric.recovery.platforms.kubernetes.rollback import KubernetesRollback
from self_healing_fabric.recovery.platforms.kubernetes.scale import KubernetesScale
from self_healing_fabric.recovery.platforms.kubernetes.workload import Place
from self_healing_fabric.settings import KubernetesRecovery, KubernetesSettings, ScaleSettings

STRATEGIES = ("restart", "scale", "evict", "rollback")


class KubernetesPlatform:
    """One workload of one cluster. `planned`: the strategies of any plan, whose rights `check` asks for."""

    name = "kubernetes"

    def __init__(
        self,
        service: str,
        configured: KubernetesRecovery,
        settings: KubernetesSettings,
        scale: ScaleSettings | None = None,
        planned: Collection[str] = STRATEGIES,
    ) -> None:
        self._service, self._scale, self._planned = service, scale, planned
        self._place = Place(configured, settings)
        self.target = self._place.target

    def effect(self, strategy: str) -> Effect:
        """What the platform can do to a workload of this kind."""
        if strategy == "restart":
            return KubernetesRestart(self._place)
        if strategy == "evict":
            return KubernetesEvict(self._place)
        if strategy == "rollback":
            return KubernetesRollback(self._place)
        if strategy != "scale":
            raise NotApplicable(f"nothing can {strategy} a workload on Kubernetes")
        if self._place.kind == "DaemonSet":
            raise NotApplicable("a DaemonSet has one pod for each node, and no number to scale")
        if self._scale is None:
            raise NotApplicable(f"{self._service} has no `recovery.scale`, which says how far")
        return KubernetesScale(self._place, self._scale)

    def check(self) -> str:
        """Read the workload, and ask which rights are missing. Raises TargetUnreadable when one is needed."""
        able = [each for each in STRATEGIES if each in self._planned and self._applies(each)]
        with Api(self._place.settings) as api:
            self._place.read(api)
            missing = missing_rights(api, self._place, able)
        silent = missing.pop(EVENTS, None)
        if missing:
            told = ", ".join(f"{right} ({', '.join(whom)})" for right, whom in missing.items())
            raise TargetUnreadable(f"{self._place.title}: may not {told}: grant what `shf rbac` prints")
        note = "; may not write events, which tell people on the workload what was done" if silent else ""
        return f"{self._place.title} can be repaired by {', '.join(able)}{note}"

    def _applies(self, strategy: str) -> bool:
        try:
            self.effect(strategy)
        except NotApplicable:
            return False
        return True
