"""Evict: the one bad pod among good ones, so that its controller makes another one, perhaps elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from self_healing_fabric.cluster.objects import JSON
from self_healing_fabric.recovery.effects import DIFF, Progress, Settling
from self_healing_fabric.recovery.platforms.kubernetes.api import Api, NotThere, Refused
from self_healing_fabric.recovery.platforms.kubernetes.decisions import pod_to_evict, rollout
from self_healing_fabric.recovery.platforms.kubernetes.eviction import (
    evict,
    is_gone,
    try_eviction,
    why_refused,
)
from self_healing_fabric.recovery.platforms.kubernetes.ordering import Happened, KubernetesEffect, Seen


class KubernetesEvict(KubernetesEffect):
    """Evict exactly one pod."""

    event = "SelfHealingEvict"
    # A pod's status is written all the time, by its kubelet and by the eviction itself.
    bound_to_version = False

    def snapshot(self) -> Mapping[str, Any]:
        """Find the one bad pod, and let the server say whether it may be evicted."""
        namespace = self.place.configured.namespace
        with Api(self.place.settings) as api:
            whole = self.place.to_change(api)
            pods = self.place.pods(api, whole, self.place.revisions(api, whole))
            pod, why = pod_to_evict(self.place.kind, whole, pods, time.time())
            name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
            version = try_eviction(api, namespace, name, uid)
        return {
            "uid": whole["metadata"]["uid"],
            "pod": {"name": name, "uid": uid},
            "why": why,
            "version": version,
            DIFF: [f"- pod {name}"],
        }

    def subject(self, api: Api, before: Mapping[str, Any]) -> JSON | None:
        """The pod."""
        try:
            return api.read(
                api.core.read_namespaced_pod, before["pod"]["name"], self.place.configured.namespace
            )
        except NotThere:
            return None

    def unfit(self, api: Api, now: JSON | None, before: Mapping[str, Any]) -> str | None:
        """Gone already: then its controller has made another one."""
        name, uid = before["pod"]["name"], before["pod"]["uid"]
        return f"pod {name} is gone already" if is_gone(now, uid) else None

    def send(self, api: Api, now: JSON, before: Mapping[str, Any]) -> None:
        """The eviction."""
        name, uid = before["pod"]["name"], before["pod"]["uid"]
        evict(api, self.place.configured.namespace, name, uid, version=before["version"])

    def refused(self, error: Refused) -> str:
        """With the budget that forbids it."""
        return why_refused(error)

    def seen(self, now: JSON | None, before: Mapping[str, Any]) -> Seen:
        """Whether the pod is gone."""
        name, uid = before["pod"]["name"], before["pod"]["uid"]
        if is_gone(now, uid):
            return Seen(Happened.YES, f"the API server says that pod {name} is gone or going")
        return Seen(Happened.NO, f"pod {name} is still there")

    def done(self, before: Mapping[str, Any]) -> str:
        """Which pod, and why."""
        return f"pod {before['pod']['name']} evicted: {before['why']}"

    def settled(self, before: Mapping[str, Any]) -> Settling:
        """The pod must be gone, and as many as wanted be available."""
        with Api(self.place.settings) as api:
            pod = self.subject(api, before)
            whole = self.place.read(api)
        if pod is not None and pod["metadata"]["uid"] == before["pod"]["uid"]:
            return Settling(Progress.UNDER_WAY, f"pod {before['pod']['name']} is still there")
        return rollout(self.place.kind, whole)
