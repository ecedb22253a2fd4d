"""Scale: more pods, through `/scale`, or through the bounds of the autoscaler that would undo it otherwise.

An autoscaler takes a number outside its bounds back within seconds, and 0 switches it off. So where one
targets the workload its bounds are moved, both: with a higher maximum alone it would stay where its metric
wants it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from self_healing_fabric.cluster.objects import JSON
from self_healing_fabric.recovery.effects import (
    DIFF,
    Effect,
    NotApplicable,
    Progress,
    Settling,
    changed,
)
from self_healing_fabric.recovery.platforms.kubernetes.api import FIELD_MANAGER, MERGE, Api, NotThere
from self_healing_fabric.recovery.platforms.kubernetes.decisions import rollout
from self_healing_fabric.recovery.platforms.kubernetes.management import propose_instead
from self_healing_fabric.recovery.platforms.kubernetes.ordering import (
    Happened,
    KubernetesEffect,
    Seen,
    preconditions,
    unlike,
)
from self_healing_fabric.recovery.platforms.kubernetes.workload import Place
from self_healing_fabric.recovery.scaling import scaled_back, scaled_up
from self_healing_fabric.settings import ScaleSettings


class KubernetesScale(KubernetesEffect):
    """Another number of pods, and back."""

    event = "SelfHealingScale"

    def __init__(
        self, place: Place, bounds: ScaleSettings, *, back_from: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(place)
        self._bounds, self._back_from = bounds, back_from

    def snapshot(self) -> Mapping[str, Any]:
        """Read how many pods there should be, and decide how many more; or how many there were."""
        with Api(self.place.settings) as api:
            whole = self.place.to_change(api)
            autoscaler = self.place.autoscaler(api)
        if self._back_from is not None:
            return self._back(self._back_from, whole, autoscaler)
        current = int(whole["spec"].get("replicas", 1))
        if current and autoscaler is not None:
            # It may not have caught up with its minimum, which a step from what there is would lower.
            current = max(current, _bounds_of(autoscaler)["min"])
        wanted = scaled_up(current, self._bounds)
        if autoscaler is None:
            propose_instead(whole, f"set spec.replicas of {self.place.title} from {current} to {wanted}")
        else:
            bounds = raised(autoscaler, wanted)
            name = autoscaler["metadata"]["name"]
            change = f"set minReplicas to {bounds['min']} and maxReplicas to {bounds['max']}"
            propose_instead(autoscaler, f"{change} of HorizontalPodAutoscaler {name}")
        before = _before(whole, current, wanted)
        if autoscaler is not None:
            before |= _before_of(autoscaler, raised(autoscaler, wanted))
        return before

    def _back(self, was: Mapping[str, Any], whole: JSON, autoscaler: JSON | None) -> Mapping[str, Any]:
        if whole["metadata"]["uid"] != was["uid"]:
            raise NotApplicable("another object has its name now: it is left as it is")
        current = int(whole["spec"].get("replicas", 1))
        before = _before(whole, current, was["replicas"])
        if "autoscaler" not in was:
            scaled_back(current, was)
            if autoscaler is not None:
                raise NotApplicable("an autoscaler has come since: the replicas are left to it")
            propose_instead(whole, f"set spec.replicas of {self.place.title} to {was['replicas']}")
            return before
        ours = was["autoscaler"]
        if autoscaler is None or autoscaler["metadata"]["uid"] != ours["uid"]:
            raise NotApplicable("its autoscaler is gone or another one: it is left as it is")
        now = _bounds_of(autoscaler)
        if {"min": now["min"], "max": now["max"]} != ours["wanted"]:
            raise NotApplicable(
                f"somebody has set the autoscaler to {now['min']} to {now['max']} since: it is left as it is"
            )
        propose_instead(autoscaler, f"set minReplicas to {ours['min']} and maxReplicas to {ours['max']}")
        return before | _before_of(autoscaler, {"min": ours["min"], "max": ours["max"]})

    def subject(self, api: Api, before: Mapping[str, Any]) -> JSON | None:
        """The autoscaler where there is one, else the workload."""
        if "autoscaler" not in before:
            return self.place.read(api)
        read = api.autoscaling.read_namespaced_horizontal_pod_autoscaler
        try:
            return api.read(read, before["autoscaler"]["name"], self.place.configured.namespace)
        except NotThere:
            return None

    def unfit(self, api: Api, now: JSON | None, before: Mapping[str, Any]) -> str | None:
        """Its uid, and its generation or its bounds: an autoscaler counts no generations everywhere."""
        if "autoscaler" not in before:
            come = "an autoscaler has come since" if self.place.autoscaler(api) is not None else None
            return super().unfit(api, now, before) or come
        if now is None:
            return "its autoscaler is gone"
        was, is_ = before["autoscaler"], _bounds_of(now)
        if is_["uid"] != was["uid"]:
            return "another autoscaler has its name now"
        if (is_["min"], is_["max"]) != (was["min"], was["max"]):
            return "somebody has changed its autoscaler since"
        return None

    def send(self, api: Api, now: JSON, before: Mapping[str, Any]) -> None:
        """Patch `/scale` or the autoscaler."""
        options = {"field_manager": FIELD_MANAGER, "_content_type": MERGE}
        if "autoscaler" not in before:
            body = {"metadata": preconditions(now), "spec": {"replicas": before["wanted"]}}
            api.order(self.place.call(api, "patch", "_scale"), *self.place.path, body, **options)
            return
        wanted = before["autoscaler"]["wanted"]
        spec = {"minReplicas": wanted["min"], "maxReplicas": wanted["max"]}
        api.order(
            api.autoscaling.patch_namespaced_horizontal_pod_autoscaler,
            before["autoscaler"]["name"],
            self.place.configured.namespace,
            {"metadata": preconditions(now), "spec": spec},
            **options,
        )

    def seen(self, now: JSON | None, before: Mapping[str, Any]) -> Seen:
        """Compare the number, or the bounds, with what was ordered."""
        return scale_seen(now, before)

    def done(self, before: Mapping[str, Any]) -> str:
        """From how many to how many."""
        if "autoscaler" not in before:
            return f"scaled from {before['replicas']} to {before['wanted']} replicas"
        was = before["autoscaler"]
        wanted = was["wanted"]
        return (
            f"autoscaler {was['name']} set from {was['min']} to {was['max']} replicas "
            f"to {wanted['min']} to {wanted['max']}"
        )

    def settled(self, before: Mapping[str, Any]) -> Settling:
        """What was ordered must still be wanted; then as many pods must be available."""
        with Api(self.place.settings) as api:
            whole = self.place.read(api)
            seen = scale_seen(self.subject(api, before), before)
        if seen.happened is not Happened.YES:
            return Settling(Progress.FAILED, seen.detail)
        current = int(whole["spec"].get("replicas", 1))
        if "autoscaler" in before and current < before["autoscaler"]["wanted"]["min"]:
            return Settling(Progress.UNDER_WAY, f"its autoscaler still wants {current} replicas")
        return rollout(self.place.kind, whole)

    def undo(self, before: Mapping[str, Any]) -> Effect | None:
        """As many as there were, or the old bounds, unless somebody has set others since."""
        return KubernetesScale(self.place, self._bounds, back_from=before)


def raised(autoscaler: JSON, wanted: int) -> dict[str, int]:
    """The bounds in which an autoscaler keeps at least so many."""
    return {"min": wanted, "max": max(wanted, int(autoscaler["spec"]["maxReplicas"]))}


def scale_seen(now: JSON | None, before: Mapping[str, Any]) -> Seen:
    """Whether a workload, or its autoscaler, shows the number that was ordered."""
    if "autoscaler" not in before:
        if now is None:
            return Seen(Happened.UNKNOWN, "the workload is gone")
        current = int(now["spec"].get("replicas", 1))
        if now["metadata"]["uid"] == before["uid"] and current == before["wanted"]:
            return Seen(Happened.YES, f"the API server says that it has {current} replicas")
        return unlike(now, before, f"the scaling from {before['replicas']} to {before['wanted']} replicas")
    was = before["autoscaler"]
    if now is None or now["metadata"]["uid"] != was["uid"]:
        return Seen(Happened.UNKNOWN, "its autoscaler is gone or another one")
    bounds = _bounds_of(now)
    found = {"min": bounds["min"], "max": bounds["max"]}
    told = f"its autoscaler keeps {found['min']} to {found['max']} replicas"
    if found == was["wanted"]:
        return Seen(Happened.YES, told)
    if found == {"min": was["min"], "max": was["max"]}:
        return Seen(Happened.NO, f"{told}, as before")
    return Seen(Happened.UNKNOWN, f"{told}, which nobody here ordered")


def _before(whole: JSON, current: int, wanted: int) -> dict[str, Any]:
    metadata = whole["metadata"]
    return {
        "uid": metadata["uid"],
        "generation": metadata["generation"],
        "replicas": current,
        "wanted": wanted,
        DIFF: changed("replicas", current, wanted),
    }


def _before_of(autoscaler: JSON, wanted: Mapping[str, int]) -> dict[str, Any]:
    was = _bounds_of(autoscaler)
    ranges = (f"{bounds['min']} to {bounds['max']} replicas" for bounds in (was, wanted))
    return {
        "autoscaler": was | {"wanted": dict(wanted)},
        DIFF: changed(f"autoscaler {was['name']}", *ranges),
    }


def _bounds_of(autoscaler: JSON) -> dict[str, Any]:
    metadata, spec = autoscaler["metadata"], autoscaler["spec"]
    return {
        "name": metadata["name"],
        "uid": metadata["uid"],
        "min": int(spec.get("minReplicas", 1)),
        "max": int(spec["maxReplicas"]),
    }
