"""A shop whose `cart` the fabric repairs, and how the orchestrator would order it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from docker_engine import wait_until
from kubernetes_shop import Shop

from self_healing_fabric.recovery.effects import Effect, Progress
from self_healing_fabric.recovery.outcomes import Outcome
from self_healing_fabric.recovery.platforms import platform_of
from self_healing_fabric.recovery.platforms.kubernetes import KubernetesPlatform
from self_healing_fabric.settings import Settings


class RepairedShop(Shop):
    """A shop whose `cart` the fabric repairs."""

    def platform(self, kind: str = "Deployment", token: str | None = None, **scale: int) -> Any:
        """The platform as the configuration names it."""
        platform = platform_of("cart", Settings.model_validate(self.values(kind, token, **scale)))
        assert isinstance(platform, KubernetesPlatform)
        return platform

    def values(self, kind: str = "Deployment", token: str | None = None, **scale: int) -> dict[str, Any]:
        """The configuration of `cart`."""
        kubeconfig = self.cluster.kubeconfig(token) if token else self.cluster.kubeconfig()
        target = {"kind": kind, "namespace": self.namespace, "name": "cart"}
        recovery: dict[str, Any] = {"kubernetes": target}
        if scale:
            recovery["scale"] = scale
        return {
            "kubernetes": {"kubeconfig": str(kubeconfig), "context": "test", "timeout": 5},
            "services": {"cart": {"recovery": recovery}},
        }

    def effect(self, strategy: str, kind: str = "Deployment", **scale: int) -> Effect:
        """One effect on `cart`."""
        effect: Effect = self.platform(kind, **scale).effect(strategy)
        return effect

    def whole(self, kind: str = "Deployment") -> Any:
        """The workload as it is now."""
        return self.cluster.api.get(f"{self.workloads(kind)}/cart").raise_for_status().json()

    def change(self, spec: Mapping[str, Any], kind: str = "Deployment") -> None:
        """As people do, and its controller has seen it: until then nothing is decided on."""
        super().change(spec, kind)
        self.seen(kind)

    def seen(self, kind: str = "Deployment") -> None:
        """Its controller has seen the newest change; it may make pods before it says so."""
        wait_until("the controller sees it", lambda: _is_seen(self.whole(kind)), 30.0)

    def settled(self, kind: str = "Deployment") -> Any:
        """The workload when all that was wanted of it is there."""

        def is_through() -> bool:
            whole = self.whole(kind)
            status, spec = whole["status"], whole["spec"]
            if not _is_seen(whole):
                return False
            if kind == "DaemonSet":
                return bool(
                    status["numberReady"] == status["desiredNumberScheduled"] > 0
                    and status.get("updatedNumberScheduled") == status["desiredNumberScheduled"]
                )
            if kind == "StatefulSet" and status["currentRevision"] != status["updateRevision"]:
                return False
            through = status.get("readyReplicas") == spec["replicas"] == status["replicas"]
            if kind == "Deployment":
                conditions = {each["type"]: each.get("reason") for each in status.get("conditions", ())}
                through = through and conditions.get("Progressing") == "NewReplicaSetAvailable"
            return bool(through)

        wait_until(f"{kind} settles", is_through, 30.0)
        return self.whole(kind)

    def events(self) -> list[Any]:
        """What was told of `cart`'s repairs, on the object itself."""
        found = self.cluster.items(f"/api/v1/namespaces/{self.namespace}/events")
        return [each for each in found if each["reason"].startswith("SelfHealing")]

    def autoscale(self, low: int = 1, high: int = 3, kind: str = "Deployment") -> str:
        """An autoscaler of `cart`; returns its path."""
        path = f"/apis/autoscaling/v1/namespaces/{self.namespace}/horizontalpodautoscalers"
        target = {"apiVersion": "apps/v1", "kind": kind, "name": "cart"}
        spec = {"scaleTargetRef": target, "minReplicas": low, "maxReplicas": high}
        self.cluster.create(path, {"metadata": {"name": "cart"}, "spec": spec})
        return f"{path}/cart"

    def budget(self, least: int) -> None:
        """A disruption budget for `cart`, when its controller has counted the pods."""
        path = f"/apis/policy/v1beta1/namespaces/{self.namespace}/poddisruptionbudgets"
        spec = {"minAvailable": least, "selector": {"matchLabels": {"part": "cart"}}}
        self.cluster.create(path, {"metadata": {"name": "keep-cart"}, "spec": spec})

        def counted() -> bool:
            status = self.cluster.api.get(f"{path}/keep-cart").json().get("status", {})
            return bool(status.get("expectedPods"))

        wait_until("the budget is counted", counted, 20.0)

    def deploy_on_two_nodes(self) -> None:
        """A DaemonSet with a pod on each of two nodes of its own."""
        names = [f"node-{self.namespace}-{each}" for each in "ab"]
        for name in names:
            self.add_node(name)
        terms = [
            {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]} for name in names
        ]
        required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
        self.deploy(kind="DaemonSet", replicas=2, affinity={"nodeAffinity": required})

    def images(self) -> set[str]:
        """That its pods run."""
        return {each["spec"]["containers"][0]["image"] for each in self.pods()}

    def uids(self) -> set[str]:
        """Of the pods that are not going."""
        return {
            each["metadata"]["uid"] for each in self.pods() if not each["metadata"].get("deletionTimestamp")
        }


def do(effect: Effect, before: Mapping[str, Any] | None = None, permit: bool = True) -> Outcome:
    """Perform an effect as the orchestrator does: what was there before went through JSON."""
    told = json.loads(json.dumps(dict(before or effect.snapshot())))
    return effect.perform(key="inc-1/x", attempt=1, before=told, permit=lambda: permit)


def settles(effect: Effect, before: Mapping[str, Any]) -> None:
    """Wait until the effect itself says that it has settled."""
    wait_until("it settles", lambda: effect.settled(before).progress is Progress.DONE, 30.0)


def stick(shop: RepairedShop, kind: str = "Deployment", image: str = "cart:bad") -> Any:
    """Roll out an image whose pods crash; returns the workload when one does."""
    shop.change({"template": {"spec": {"containers": [{"name": "app", "image": image}]}}}, kind)

    def crashes() -> bool:
        return any("CrashLoopBackOff" in json.dumps(each["status"]) for each in shop.pods())

    wait_until("a pod crashes", crashes, 20.0)
    return shop.whole(kind)


def _is_seen(whole: Any) -> bool:
    return bool(whole["status"].get("observedGeneration") == whole["metadata"]["generation"])
