"""A namespace with the workload `cart` on the tests' own API server, and the hands of its kubelet."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from docker_engine import wait_until
from kubernetes_cluster import Cluster, moment

APPS = "/apis/apps/v1/namespaces"
PLURALS = {"Deployment": "deployments", "StatefulSet": "statefulsets", "DaemonSet": "daemonsets"}
CRASHING = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 5m0s restarting failed container"}}


class Shop:
    """One namespace with the workload `cart`, and the hands of a kubelet."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self.cluster, self.namespace = cluster, namespace
        cluster.create("/api/v1/namespaces", {"metadata": {"name": namespace}})

    def deploy(
        self,
        name: str = "cart",
        *,
        kind: str = "Deployment",
        replicas: int = 2,
        more: Mapping[str, Any] | None = None,
        **pod: Any,
    ) -> list[Any]:
        """Create a workload and wait until its controller has made its pods."""
        labels = {"app": "cart", "part": name}
        spec: dict[str, Any] = {
            "selector": {"matchLabels": {"app": "cart"}, "matchExpressions": _only(name)},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "app", "image": "cart:1"}], **pod},
            },
        }
        if kind != "DaemonSet":
            spec["replicas"] = replicas
        if kind == "StatefulSet":
            spec |= {"serviceName": name, "podManagementPolicy": "Parallel"}
        spec |= more or {}
        self.cluster.create(self.workloads(kind), {"metadata": {"name": name}, "spec": spec})
        return self.pods(replicas, part=name)

    def workloads(self, kind: str = "Deployment") -> str:
        return f"{APPS}/{self.namespace}/{PLURALS[kind]}"

    def change(self, spec: Mapping[str, Any], kind: str = "Deployment") -> None:
        """Change what is wanted of `cart`, as people do."""
        self.cluster.patch(f"{self.workloads(kind)}/cart", {"spec": spec})

    def roll_out(self, **template: Any) -> Any:
        """Change the template, wait for the new revision; returns its pod."""
        known = {pod["metadata"]["uid"] for pod in self.pods()}
        self.change({"template": template})
        wait_until("a pod of the new revision", lambda: bool(self._others(known)), 20.0)
        return self._others(known)[0]

    def _others(self, known: set[str]) -> list[Any]:
        return [pod for pod in self.pods() if pod["metadata"]["uid"] not in known]

    def pods(self, count: int = 0, *, part: str = "cart") -> list[Any]:
        """The pods of a workload, as soon as there are so many."""

        def found() -> list[Any]:
            path = f"/api/v1/namespaces/{self.namespace}/pods?labelSelector=part%3D{part}"
            return self.cluster.items(path)

        wait_until(f"{count} pods", lambda: len(found()) >= count, 20.0)
        return found()

    def status(self, pod: Any, **status: Any) -> None:
        """Write a pod's status, as its kubelet would."""
        name = pod["metadata"]["name"]
        self.cluster.patch(f"/api/v1/namespaces/{self.namespace}/pods/{name}/status", {"status": status})

    def container(self, pod: Any, state: Mapping[str, Any], ended: Mapping[str, Any] | None = None) -> None:
        """Write the status of the pod's only container."""
        last = {"terminated": {"startedAt": moment(60), "finishedAt": moment(30), **ended}} if ended else {}
        told = {"name": "app", "image": pod["spec"]["containers"][0]["image"], "imageID": "", "ready": False}
        restarts = 5 if ended else 0
        self.status(
            pod, containerStatuses=[{**told, "restartCount": restarts, "state": state, "lastState": last}]
        )

    def run(self, pod: Any) -> None:
        """Write that the pod runs and is ready, as its kubelet would."""
        image = pod["spec"]["containers"][0]["image"]
        told = {"name": "app", "image": image, "imageID": "", "restartCount": 0, "ready": True}
        ready = {"type": "Ready", "status": "True", "lastTransitionTime": moment()}
        running = {"running": {"startedAt": moment()}}
        self.status(
            pod,
            phase="Running",
            startTime=moment(),
            conditions=[ready],
            containerStatuses=[{**told, "state": running}],
        )

    def crash(self, pod: Any) -> None:
        """Write that the pod's container crashes again and again."""
        self.status(
            pod,
            phase="Running",
            conditions=[{"type": "Ready", "status": "False", "lastTransitionTime": moment()}],
        )
        self.container(pod, CRASHING, {"exitCode": 1, "reason": "Error"})

    def add_node(self, name: str | None = None) -> None:
        """A node for the pods of DaemonSets."""
        node = name or f"node-{self.namespace}"
        self.cluster.create("/api/v1/nodes", {"metadata": {"name": node}})
        resources = {"cpu": "4", "memory": "4Gi", "pods": "9"}
        ready = {"type": "Ready", "status": "True"}
        status = {"capacity": resources, "allocatable": resources, "conditions": [ready]}
        self.cluster.patch(f"/api/v1/nodes/{node}/status", {"status": status})
        self.cluster.patch(f"/api/v1/nodes/{node}", {"spec": {"taints": None}})

    def event(self, about: Any, reason: str, message: str, *, count: int = 1, ago: float = 60.0) -> None:
        """Record a warning, as the kubelet does."""
        metadata = about["metadata"]
        reference = {"kind": about.get("kind", "Pod"), "name": metadata["name"], "uid": metadata["uid"]}
        event = {
            "metadata": {"generateName": f"{metadata['name']}."},
            "involvedObject": {**reference, "namespace": self.namespace},
            **{"type": "Warning", "reason": reason, "message": message, "count": count},
            "lastTimestamp": moment(ago),
        }
        self.cluster.create(f"/api/v1/namespaces/{self.namespace}/events", event)


def _only(name: str) -> list[dict[str, Any]]:
    return [{"key": "part", "operator": "In", "values": [name]}]


class Kubelet:
    """`with Kubelet(shop):` makes the pods of a namespace run, but those whose image begins with `bad`.

    What a test has written into the status of a pod stays.
    """

    def __init__(self, shop: Shop) -> None:
        self._shop, self._stop = shop, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        path = f"/api/v1/namespaces/{self._shop.namespace}/pods"
        while not self._stop.wait(0.05):
            for pod in self._shop.cluster.items(path):
                # A pod may go between the list and the write.
                with contextlib.suppress(AssertionError):
                    self._tend(pod, f"{path}/{pod['metadata']['name']}")

    def _tend(self, pod: Any, path: str) -> None:
        if pod["metadata"].get("deletionTimestamp"):
            self._shop.cluster.api.delete(f"{path}?gracePeriodSeconds=0")
        elif not pod["status"].get("containerStatuses"):
            if pod["spec"]["containers"][0]["image"].partition(":")[2].startswith("bad"):
                self._shop.container(pod, CRASHING, {"exitCode": 1, "reason": "Error"})
            else:
                self._shop.run(pod)
