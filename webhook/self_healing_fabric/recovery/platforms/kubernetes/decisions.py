"""What may be done to a workload, decided from its objects alone: no network, so every doubt can be tested.

The trap that most of this avoids: after a bad image and a restart, the newest older revision holds the bad
image too, and rolling back to it changes nothing. So a revision is a way back only if it differs in more
than the time of a restart, and if its pods are seen to serve now. What is not certain is not applicable.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from self_healing_fabric.cluster.objects import (
    JSON,
    REVISION_HASH,
    TEMPLATE_HASH,
    comparable,
    condition_of,
    controller_of,
    is_ready,
    moment,
    revision_of,
    template_of,
)
from self_healing_fabric.quoting import quoted
from self_healing_fabric.recovery.effects import NotApplicable, Progress, Settling

UNREADY_FOR = 60.0  # seconds; a pod that is not ready for less may just be starting
UNSEEN = "its controller has not seen the newest change yet"
STARTED_OFTEN = 2  # restarts of a container that make it a loop

_HOPELESS = {
    "CrashLoopBackOff",
    "CreateContainerConfigError",
    "CreateContainerError",
    "ErrImageNeverPull",
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "RunContainerError",
}


def wanted_pods(kind: str, whole: JSON) -> int:
    """How many pods the workload should have."""
    if kind == "DaemonSet":
        return int((whole.get("status") or {}).get("desiredNumberScheduled") or 0)
    return int(whole["spec"].get("replicas", 1))


def is_unseen(whole: JSON) -> bool:
    """Whether what is wanted of the workload has changed since its controller looked at it."""
    seen = (whole.get("status") or {}).get("observedGeneration", 0)
    return bool(whole["metadata"].get("generation", 0) > seen)


def rollout(kind: str, whole: JSON) -> Settling:
    """How far the newest change has got, as `kubectl rollout status` tells it."""
    status = whole.get("status") or {}
    wanted = wanted_pods(kind, whole)
    if is_unseen(whole):
        return Settling(Progress.UNDER_WAY, UNSEEN)
    if kind == "Deployment":
        progressing = condition_of(whole, "Progressing")
        if progressing.get("reason") == "ProgressDeadlineExceeded":
            words = quoted(progressing.get("message") or "").rstrip(".")
            return Settling(Progress.FAILED, f"its rollout does not get ahead: {words}")
        updated, existing = status.get("updatedReplicas", 0), status.get("replicas", 0)
        available = status.get("availableReplicas", 0)
        if existing > updated:
            detail = f"{existing - updated} old pods still run{_held_up(whole)}"
            return Settling(Progress.UNDER_WAY, detail)
    elif kind == "StatefulSet":
        updated, available = status.get("updatedReplicas", 0), status.get("readyReplicas", 0)
        if status.get("currentRevision") != status.get("updateRevision"):
            return Settling(Progress.UNDER_WAY, f"{updated} of {wanted} pods are updated")
        updated = wanted  # its controller stops counting when it is through
    else:
        updated, available = status.get("updatedNumberScheduled", 0), status.get("numberAvailable", 0)
    if updated < wanted:
        return Settling(Progress.UNDER_WAY, f"{updated} of {wanted} pods are updated{_held_up(whole)}")
    if available < wanted:
        return Settling(Progress.UNDER_WAY, f"{available} of {wanted} pods are available")
    return Settling(Progress.DONE, f"all {wanted} pods are updated and available")


def _held_up(whole: JSON) -> str:
    """Why its controller makes no pods: people have paused it, or a quota or whoever admits them refuses."""
    if whole["spec"].get("paused"):
        return ", and people have paused its rollouts"
    failing = condition_of(whole, "ReplicaFailure")
    if failing.get("status") != "True":
        return ""
    return f", and no more can be made: {quoted(failing.get('message') or '').rstrip('.')}"


def in_rollout(kind: str, whole: JSON) -> str | None:
    """Why its pods are being replaced just now; None when they are not, however badly they do."""
    told = rollout(kind, whole)
    status = whole.get("status") or {}
    if is_unseen(whole):
        return told.detail
    if kind == "Deployment":
        progressing = condition_of(whole, "Progressing")
        updated, existing = status.get("updatedReplicas", 0), status.get("replicas", 0)
        if existing > updated or updated < wanted_pods(kind, whole):
            stuck = ", and does not get ahead" if told.progress is Progress.FAILED else _held_up(whole)
            return f"a rollout is in progress: {updated} of {existing} pods are of the newest revision{stuck}"
        # Without this a Deployment whose first pods are just starting would be taken for a failed one.
        if progressing.get("status") == "True" and progressing.get("reason") != "NewReplicaSetAvailable":
            return "a rollout is in progress: its new pods have not become available yet"
    elif kind == "StatefulSet":
        if status.get("currentRevision") != status.get("updateRevision"):
            return f"a rollout is in progress: {told.detail}"
    elif status.get("updatedNumberScheduled", 0) < wanted_pods(kind, whole):
        return f"a rollout is in progress: {told.detail}"
    return None


def refuse_to_restart(kind: str, whole: JSON) -> None:
    """Raises NotApplicable where a new time of restart would replace no pods, or the wrong ones."""
    _refuse_held_back(kind, whole, "replace")
    if wanted_pods(kind, whole) == 0:
        raise NotApplicable("no pods of it are wanted, which is how people switch it off")
    rolling = in_rollout(kind, whole)
    if rolling is not None:
        raise NotApplicable(f"{rolling}: a restart would only begin it again")


def _refuse_held_back(kind: str, whole: JSON, verb: str) -> None:
    if whole["spec"].get("paused"):
        raise NotApplicable(f"people have paused its rollouts: nothing would {verb} its pods")
    strategy = whole["spec"].get("updateStrategy") or {}
    if strategy.get("type") == "OnDelete":
        raise NotApplicable(f"its strategy is OnDelete: nothing would {verb} its pods")
    partition = (strategy.get("rollingUpdate") or {}).get("partition") or 0
    if kind == "StatefulSet" and partition:
        raise NotApplicable(f"its partition is {partition}: people hold back the pods below")


def broken(pod: JSON) -> str | None:
    """What is wrong with a pod that will not get well by waiting; None when it may."""
    status = pod.get("status") or {}
    for each in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        waiting = ((each.get("state") or {}).get("waiting") or {}).get("reason", "")
        if waiting in _HOPELESS:
            return f"container {each.get('name')} waits with {waiting}"
        ended = (each.get("lastState") or {}).get("terminated") or {}
        restarts = int(each.get("restartCount") or 0)
        if not each.get("ready") and restarts >= STARTED_OFTEN and ended.get("exitCode"):
            return f"container {each.get('name')} ended {restarts} times, last with {ended['exitCode']}"
    return None


def hung(pod: JSON, at: float) -> str | None:
    """For how long a pod runs without being ready, if that is too long for one that starts."""
    if (pod.get("status") or {}).get("phase") != "Running":
        return None  # it waits for a node or a volume: another one would wait as well
    since = moment(condition_of(pod, "Ready").get("lastTransitionTime"))
    if since is None or is_ready(pod) or at - since < UNREADY_FOR:
        return None
    return f"it runs and has not been ready for {at - since:.0f} s"


def pod_to_evict(kind: str, whole: JSON, pods: Sequence[JSON], at: float) -> tuple[JSON, str]:
    """The one bad pod among good ones of the same revision, and what is wrong with it.

    `pods` are the workload's own, by uid of their owner. Raises NotApplicable in every other case.
    """
    rolling = in_rollout(kind, whole)
    if rolling is not None:
        raise NotApplicable(f"{rolling}: its pods are being replaced already")
    living = _living(pods)
    leaving = [each for each in pods if each["metadata"].get("deletionTimestamp")]
    if leaving:
        raise NotApplicable(f"pod {leaving[0]['metadata']['name']} is being replaced already")
    bad = [each for each in living if not is_ready(each)]
    if len(bad) != 1 or len(living) < 2:
        raise NotApplicable(f"{len(bad)} of {len(living)} pods are bad: only one among good ones is evicted")
    if len(living) < wanted_pods(kind, whole):
        raise NotApplicable(f"only {len(living)} of {wanted_pods(kind, whole)} pods exist yet")
    (pod,) = bad
    name = pod["metadata"]["name"]
    if controller_of(pod) is None:
        raise NotApplicable(f"pod {name} has no controller that would make it anew")
    if not any(_hash_of(each) == _hash_of(pod) for each in living if each is not pod):
        raise NotApplicable(f"no other pod has the revision of pod {name}, so it may be the revision")
    why = broken(pod) or hung(pod, at)
    if why is None:
        raise NotApplicable(f"pod {name} is not ready, and may still be starting or wait for a node")
    return pod, why


@dataclass(frozen=True)
class WayBack:
    """From a revision whose pods are all broken to one whose pods serve."""

    bad: JSON
    good: JSON
    broken: Sequence[JSON]  # the bad revision's pods
    why: str


def way_back(kind: str, whole: JSON, revisions: Sequence[JSON], pods: Sequence[JSON]) -> WayBack:
    """The newest revision that serves, when exactly the newest one's pods are the bad ones.

    `revisions` and `pods` are the workload's own, by uid of their owner. Raises NotApplicable on any doubt.
    """
    _refuse_held_back(kind, whole, "put back")
    ranked = sorted(revisions, key=revision_of, reverse=True)
    wanted = fingerprint(whole["spec"]["template"])
    newest = next((each for each in ranked if fingerprint(template_of(each)) == wanted), None)
    if newest is None:
        raise NotApplicable("its controller has not recorded the newest revision yet")
    content = comparable_of(newest)
    bad = [pod for each in ranked if comparable_of(each) == content for pod in _pods_of(each, pods)]
    if not bad:
        raise NotApplicable("no pod of the newest revision exists, so nothing speaks against it")
    ready = [each for each in bad if is_ready(each)]
    if ready:
        raise NotApplicable(f"{len(ready)} of {len(bad)} pods of the newest revision are ready: it can work")
    late = rollout(kind, whole).progress is Progress.FAILED
    reasons = [broken(each) or ("not ready within the rollout's deadline" if late else None) for each in bad]
    if None in reasons:
        raise NotApplicable("pods of the newest revision may still be starting")
    older = [each for each in ranked if comparable_of(each) != content]
    for each in older:
        serving = _pods_of(each, pods)
        if serving and all(is_ready(pod) for pod in serving):
            why = f"all {len(bad)} pods of revision {revision_of(newest)} are broken: {reasons[0]}"
            return WayBack(newest, each, bad, why)
    hint = f"; the newest that differs is revision {revision_of(older[0])}" if older else ""
    raise NotApplicable(f"no older revision that differs is seen to serve now{hint}")


def fingerprint(template: JSON) -> str:
    """Tells templates apart to the byte, but for what only their holders add."""
    text = json.dumps(restorable(template), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def restorable(template: JSON) -> JSON:
    """A revision's template as the workload held it."""
    metadata = {**(template.get("metadata") or {})}
    if metadata.get("creationTimestamp") is None:
        metadata.pop("creationTimestamp", None)  # older servers write the null, newer ones do not
    if "labels" in metadata:
        metadata["labels"] = {k: v for k, v in metadata["labels"].items() if k != TEMPLATE_HASH}
    return {**{key: value for key, value in template.items() if key != "$patch"}, "metadata": metadata}


def comparable_of(revision: JSON) -> JSON:
    """What a revision's pods are, without the time of a restart."""
    return comparable(restorable(template_of(revision)))


def _pods_of(revision: JSON, pods: Sequence[JSON]) -> list[JSON]:
    """The living pods of a ReplicaSet (by owner) or of a ControllerRevision (by its hash)."""
    metadata = revision["metadata"]
    if "data" not in revision:
        return [each for each in _living(pods) if (controller_of(each) or {}).get("uid") == metadata["uid"]]
    # A StatefulSet labels its pods with the revision's name, a DaemonSet with a label of the revision.
    hashes = {metadata["name"], (metadata.get("labels") or {}).get(REVISION_HASH)} - {None}
    return [
        each for each in _living(pods) if (each["metadata"].get("labels") or {}).get(REVISION_HASH) in hashes
    ]


def _living(pods: Sequence[JSON]) -> list[JSON]:
    """Pods that are to stay: controllers have replaced the others, or are about to."""
    return [
        each
        for each in pods
        if not each["metadata"].get("deletionTimestamp")
        and (each.get("status") or {}).get("phase") not in ("Succeeded", "Failed")
    ]


def _hash_of(pod: JSON) -> str | None:
    labels = pod["metadata"].get("labels") or {}
    return labels.get(TEMPLATE_HASH) or labels.get(REVISION_HASH)
