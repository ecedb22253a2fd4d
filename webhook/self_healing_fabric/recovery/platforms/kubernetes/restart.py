"""Restart: another time of restart in the template, as `kubectl rollout restart` writes it.

The time is fixed when the action is decided on, so writing it twice is one restart, and a workload that has
it was restarted by this action and by nobody else.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from self_healing_fabric.cluster.objects import JSON, RESTARTED
from self_healing_fabric.recovery.effects import Progress, Settling
from self_healing_fabric.recovery.platforms.kubernetes.api import FIELD_MANAGER, MERGE, Api
from self_healing_fabric.recovery.platforms.kubernetes.decisions import refuse_to_restart, rollout
from self_healing_fabric.recovery.platforms.kubernetes.management import refuse_restart_put_back
from self_healing_fabric.recovery.platforms.kubernetes.ordering import (
    Happened,
    KubernetesEffect,
    Seen,
    preconditions,
    unlike,
)


class KubernetesRestart(KubernetesEffect):
    """Replace all pods of the workload, as its own strategy wants it."""

    event = "SelfHealingRestart"
    renews_process = True

    def snapshot(self) -> Mapping[str, Any]:
        """Read the workload, and fix the time that will be written."""
        with Api(self.place.settings) as api:
            whole = self.place.to_change(api)
        refuse_to_restart(self.place.kind, whole)
        refuse_restart_put_back(whole)
        return {
            "uid": whole["metadata"]["uid"],
            "generation": whole["metadata"]["generation"],
            "restarted_at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        }

    def send(self, api: Api, now: JSON, before: Mapping[str, Any]) -> None:
        """Patch the annotation of the template."""
        annotations = {RESTARTED: before["restarted_at"]}
        body = {
            "metadata": preconditions(now),
            "spec": {"template": {"metadata": {"annotations": annotations}}},
        }
        api.order(
            self.place.call(api, "patch"),
            *self.place.path,
            body,
            field_manager=FIELD_MANAGER,
            _content_type=MERGE,
        )

    def seen(self, now: JSON | None, before: Mapping[str, Any]) -> Seen:
        """Compare the annotation with the one that was ordered."""
        return restart_seen(now, before)

    def done(self, before: Mapping[str, Any]) -> str:
        """As `kubectl` says it."""
        return f"restart ordered, {RESTARTED} is {before['restarted_at']}"

    def settled(self, before: Mapping[str, Any]) -> Settling:
        """As `kubectl rollout status`, for this restart."""
        with Api(self.place.settings) as api:
            whole = self.place.read(api)
        seen = restart_seen(whole, before)
        if seen.happened is not Happened.YES:
            return Settling(Progress.FAILED, seen.detail)
        return rollout(self.place.kind, whole)


def restart_seen(now: JSON | None, before: Mapping[str, Any]) -> Seen:
    """Whether a workload shows the restart that was ordered."""
    if now is None:
        return Seen(Happened.UNKNOWN, "the workload is gone")
    annotations = (now["spec"]["template"].get("metadata") or {}).get("annotations") or {}
    if now["metadata"]["uid"] == before["uid"] and annotations.get(RESTARTED) == before["restarted_at"]:
        return Seen(Happened.YES, f"the API server says that it was restarted at {before['restarted_at']}")
    return unlike(now, before, "the restart")
