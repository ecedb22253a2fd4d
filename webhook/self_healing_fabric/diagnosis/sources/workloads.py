"""What the objects of a workload on Kubernetes say: pure reading of JSON, without a network.

Twenty pods with the same trouble are one fact about twenty pods and not twenty facts: weights combine, and
a large workload must not look more certain than a small one. So everything is grouped by what it says before
it becomes evidence, and what the state of the pods has told already is not told again from events.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from self_healing_fabric.cluster.objects import (
    JSON,
    autoscalers_of,
    comparable,
    is_ready,
    moment,
    revision_of,
    template_of,
)
from self_healing_fabric.diagnosis.patterns import Change, ChangeKind, Pattern
from self_healing_fabric.diagnosis.sources import LOOK_BACK, Condition, Fact, quoted
from self_healing_fabric.diagnosis.sources.exits import OUT_OF_MEMORY, how_it_ended, supported_by
from self_healing_fabric.incidents.evidence import Evidence

Supports = Mapping[Pattern, float]

_CFG, _RES, _NET = Pattern.CONFIGURATION_ERROR, Pattern.RESOURCE_EXHAUSTION, Pattern.NETWORK_ISSUE
_CHANGE_CAUSE = "kubernetes.io/change-cause"
MOST_EVENT_KINDS = 8  # that become evidence, the most frequent first

_PULLING = {
    "ImagePullBackOff",
    "ErrImagePull",
    "InvalidImageName",
    "ErrImageNeverPull",
    "RegistryUnavailable",
}
_WAITING: Mapping[str, Supports] = {
    "CreateContainerConfigError": {_CFG: 0.9},
    "CreateContainerError": {_CFG: 0.7},
    "RunContainerError": {_CFG: 0.7},
    **{reason: {_CFG: 0.85} for reason in _PULLING},
}
_UNREACHABLE = re.compile(r"i/o timeout|no such host|connection refused|TLS handshake timeout", re.IGNORECASE)
_SHORTAGE = re.compile(r"insufficient|exceeded quota|too many pods|evict|pressure|low on resource", re.I)
_EVENTS: Mapping[str, Supports] = {
    "Unhealthy": {Pattern.CODE_BUG: 0.2},
    "FailedMount": {_CFG: 0.7},
    "FailedAttachVolume": {_CFG: 0.5, _RES: 0.3},
    "Evicted": {_RES: 0.8},
    "Preempted": {_RES: 0.6},
    "FailedScheduling": {_CFG: 0.5},
    "FailedCreate": {_CFG: 0.6},
    "FailedCreatePodSandBox": {_NET: 0.5},
    "NetworkNotReady": {_NET: 0.7},
    "NodeNotReady": {_NET: 0.4},
}
_TOLD_BY_PODS = {"BackOff", "Failed", "InspectFailed", "ErrImageNeverPull"}
_NODE_CONDITIONS: Mapping[str, Supports] = {
    "MemoryPressure": {_RES: 0.6},
    "DiskPressure": {_RES: 0.6},
    "PIDPressure": {_RES: 0.6},
    "NetworkUnavailable": {_NET: 0.7},
}


@dataclass(frozen=True)
class Workload:
    """All that was read of one workload, as the API server's own JSON.

    `kubectl` begins the commands that show it, `selector` finds its pods.
    """

    service: str
    kind: str
    whole: JSON
    owned: Sequence[JSON]
    pods: Sequence[JSON]
    events: Sequence[JSON]
    autoscalers: Sequence[JSON]
    nodes: Sequence[JSON]
    kubectl: str
    selector: str

    def on(self, nodes: Sequence[JSON]) -> Workload:
        """The same with the nodes that run its pods."""
        return replace(self, nodes=nodes)

    @property
    def title(self) -> str:
        """How sentences name it: `Deployment shop/cart`."""
        metadata = self.whole["metadata"]
        return f"{self.kind} {metadata['namespace']}/{metadata['name']}"

    @property
    def show(self) -> str:
        """The command that shows it."""
        return f"{self.kubectl} get {self.kind.lower()} {self.whole['metadata']['name']} -o yaml"

    @property
    def show_pods(self) -> str:
        """The command that shows its pods."""
        return f"{self.kubectl} get pods -l {shlex.quote(self.selector)} -o yaml"


def read(workload: Workload, at: float) -> tuple[tuple[Fact, ...], tuple[Change, ...]]:
    """The facts and the changes of the last hour; `at` is now, in seconds since 1970."""
    facts = [
        *_replicas(workload, at),
        *_containers(workload, at),
        *_pods(workload, at),
        *_conditions(workload, at),
        *_events(workload, at),
        *_nodes(workload, at),
        *_autoscaler(workload, at),
    ]
    changes = [change for change in _changes(workload) if at - LOOK_BACK <= change.at <= at]
    return tuple(facts), tuple(sorted(changes, key=lambda change: -change.at))


def bad_pods_first(pods: Sequence[JSON]) -> list[JSON]:
    """The pods, those that are not ready before the others."""
    return sorted(pods, key=is_ready)


def _replicas(workload: Workload, at: float) -> Iterator[Fact]:
    spec, status = workload.whole.get("spec") or {}, workload.whole.get("status") or {}
    if workload.kind == "DaemonSet":
        wanted, ready = status.get("desiredNumberScheduled", 0), status.get("numberReady", 0)
        updated = status.get("updatedNumberScheduled", 0)
    else:
        wanted, ready = spec.get("replicas", 1), status.get("readyReplicas", 0)
        updated = status.get("updatedReplicas", 0)
    supports: Supports = {}
    if not wanted:
        sentence, condition = f"{workload.title} is wanted with 0 replicas", Condition.DOWN
        supports = {_CFG: 0.6}
    else:
        sentence = f"{workload.title} has {ready} of {wanted} replicas ready"
        condition = Condition.WELL if ready >= wanted else Condition.PARTIAL if ready else Condition.DOWN
        if updated < wanted:
            sentence += f", {updated} of the newest revision"
    yield Fact(
        Evidence(f"{sentence}.", workload.show, float(ready), at, baseline=float(wanted)),
        supports,
        condition=condition,
    )


@dataclass(frozen=True)
class _Trouble:
    """What is wrong with a container of a pod: `said` groups the same trouble of several pods."""

    said: str
    words: str
    supports: Supports
    at: float


def _containers(workload: Workload, at: float) -> Iterator[Fact]:
    """Waiting and ended containers, grouped over the pods."""
    found: dict[str, list[tuple[str, _Trouble]]] = {}
    for pod in workload.pods:
        status = pod.get("status") or {}
        for each in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
            trouble = _trouble(each, at)
            if trouble is not None:
                found.setdefault(trouble.said, []).append((pod["metadata"]["name"], trouble))
    for said, pods in found.items():
        name, newest = max(pods, key=lambda entry: entry[1].at)
        words = f": {newest.words}" if newest.words else ""
        sentence = f"{len(pods)} of {len(workload.pods)} pods of {workload.title}: {said}{words}"
        query = f"{workload.kubectl} describe pod {name}"
        yield Fact(Evidence(f"{sentence.rstrip('.')}.", query, float(len(pods)), newest.at), newest.supports)


def _trouble(status: JSON, at: float) -> _Trouble | None:
    state, name = status.get("state") or {}, status.get("name", "?")
    waiting = state.get("waiting") or {}
    ended = state.get("terminated") or (status.get("lastState") or {}).get("terminated") or {}
    reason, words = waiting.get("reason", ""), quoted(waiting.get("message") or "")
    if reason in _WAITING:
        supports = _WAITING[reason]
        if reason in _PULLING and _UNREACHABLE.search(words):
            supports = {_NET: 0.7, _CFG: 0.4}
        image = f" of image {quoted(status.get('image', ''))}" if reason in _PULLING else ""
        return _Trouble(f"container {name} waits with {quoted(reason)}{image}", words, supports, at)
    finished = moment(ended.get("finishedAt"))
    looping = reason == "CrashLoopBackOff"
    if not ended or not (looping or finished is None or at - finished <= LOOK_BACK):
        return _Trouble(f"container {name} waits with CrashLoopBackOff", words, {}, at) if looping else None
    code = int(ended.get("exitCode") or 0)
    memory = ended.get("reason") == "OOMKilled"
    if code == 0 and not memory and not looping:
        return None  # an init container that is done, or a restart by hand
    loop = "is in CrashLoopBackOff and ended" if looping else "ended"
    said = f"container {name} {loop} with {how_it_ended(code)}" + (", OOMKilled" if memory else "")
    restarts = int(status.get("restartCount") or 0)
    told = [f"started anew {restarts} times"] if restarts else []
    if ended.get("message"):
        told.append(quoted(ended["message"]))
    supports = OUT_OF_MEMORY if memory else supported_by(code)
    if looping and code == 0:
        supports = {_CFG: 0.5}  # it has nothing to do: a wrong command, most likely
    return _Trouble(said, "; ".join(told), supports, finished or at)


def _pods(workload: Workload, at: float) -> Iterator[Fact]:
    """Pods that were evicted, and pods that no node takes."""
    evicted = [pod for pod in workload.pods if (pod.get("status") or {}).get("reason") == "Evicted"]
    if evicted:
        words = quoted(evicted[-1]["status"].get("message") or "")
        sentence = f"{len(evicted)} pods of {workload.title} were evicted: {words}"
        yield Fact(
            Evidence(f"{sentence.rstrip('.: ')}.", workload.show_pods, float(len(evicted)), at), {_RES: 0.8}
        )
    unscheduled = [
        condition
        for pod in workload.pods
        for condition in (pod.get("status") or {}).get("conditions") or ()
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False"
    ]
    if unscheduled:
        words = quoted(unscheduled[-1].get("message") or "")
        sentence = f"{len(unscheduled)} pods of {workload.title} find no node: {words}"
        supports = _of_shortage(words, {_CFG: 0.5, _RES: 0.3})
        since = moment(unscheduled[-1].get("lastTransitionTime")) or at
        yield Fact(
            Evidence(f"{sentence.rstrip('.: ')}.", workload.show_pods, float(len(unscheduled)), since),
            supports,
        )


def _conditions(workload: Workload, at: float) -> Iterator[Fact]:
    for condition in (workload.whole.get("status") or {}).get("conditions") or ():
        kind, reason = condition.get("type"), condition.get("reason")
        words = quoted(condition.get("message") or "").rstrip(".")
        since = moment(condition.get("lastTransitionTime")) or at
        if kind == "Progressing" and reason == "ProgressDeadlineExceeded":
            sentence = f"The rollout of {workload.title} does not get ahead: {words}."
            yield Fact(Evidence(sentence, workload.show, 0.0, since), {_CFG: 0.4, Pattern.CODE_BUG: 0.3})
        elif kind == "ReplicaFailure" and condition.get("status") == "True":
            sentence = f"{workload.title} cannot create its pods: {words}."
            yield Fact(Evidence(sentence, workload.show, 0.0, since), _of_shortage(words, {_CFG: 0.6}))


def _events(workload: Workload, at: float) -> Iterator[Fact]:
    """Warnings of the last hour about the workload, what it owns and its pods, grouped by reason."""
    known = {each["metadata"]["uid"] for each in (workload.whole, *workload.owned, *workload.pods)}
    told = set(_TOLD_BY_PODS)
    if any(_unscheduled(pod) for pod in workload.pods):
        told.add("FailedScheduling")
    if any((pod.get("status") or {}).get("reason") == "Evicted" for pod in workload.pods):
        told.add("Evicted")
    grouped: dict[str, list[JSON]] = {}
    for event in workload.events:
        about, last = event.get("involvedObject") or {}, _last_time(event)
        reason = event.get("reason") or ""
        fresh = last is not None and at - last <= LOOK_BACK
        if about.get("uid") in known and reason not in told and fresh:
            grouped.setdefault(reason, []).append(event)
    frequent = sorted(grouped, key=lambda reason: -sum(map(_count, grouped[reason])))
    for reason in frequent[:MOST_EVENT_KINDS]:
        events = grouped[reason]
        count, newest = sum(map(_count, events)), max(events, key=lambda event: _last_time(event) or 0.0)
        words = quoted(newest.get("message") or "").rstrip(".")
        sentence = f"{workload.title} had {count} warnings {quoted(reason)} within the last hour: {words}."
        query = f"{workload.kubectl} get events --field-selector {shlex.quote(f'reason={reason}')}"
        supports = _of_shortage(words, _EVENTS.get(reason, {})) if reason in _EVENTS else {}
        yield Fact(Evidence(sentence, query, float(count), _last_time(newest) or at), supports)


def _nodes(workload: Workload, at: float) -> Iterator[Fact]:
    for node in workload.nodes:
        name = node["metadata"]["name"]
        query = f"{workload.kubectl.partition(' -n ')[0]} describe node {name}"
        for condition in (node.get("status") or {}).get("conditions") or ():
            kind, status = condition.get("type", ""), condition.get("status")
            since = moment(condition.get("lastTransitionTime")) or at
            words = quoted(condition.get("message") or "").rstrip(".")
            if kind == "Ready" and status != "True":
                sentence = f"Node {name}, which runs pods of {workload.title}, is not ready: {words}."
                yield Fact(Evidence(sentence, query, 0.0, since), {_NET: 0.5, _RES: 0.3})
            elif status == "True" and kind in _NODE_CONDITIONS:
                sentence = f"Node {name}, which runs pods of {workload.title}, has {kind}: {words}."
                yield Fact(Evidence(sentence, query, 1.0, since), _NODE_CONDITIONS[kind])


def _autoscaler(workload: Workload, at: float) -> Iterator[Fact]:
    for each in autoscalers_of(workload.kind, workload.whole["metadata"]["name"], workload.autoscalers):
        spec, status = each.get("spec") or {}, each.get("status") or {}
        most, current = spec.get("maxReplicas"), status.get("currentReplicas")
        if most and current is not None and current >= most and (status.get("desiredReplicas") or 0) >= most:
            name = each["metadata"]["name"]
            sentence = f"{workload.title} runs at the maximum of its autoscaler {name}: {most} replicas."
            query = f"{workload.kubectl} get hpa {name}"
            yield Fact(
                Evidence(sentence, query, float(current), at, baseline=float(most)),
                {Pattern.SERVICE_OVERLOAD: 0.5},
            )


def _changes(workload: Workload) -> Iterator[Change]:
    rollout = _rollout(workload)
    if rollout is not None:
        yield rollout
    for each in autoscalers_of(workload.kind, workload.whole["metadata"]["name"], workload.autoscalers):
        scaled = moment((each.get("status") or {}).get("lastScaleTime"))
        if scaled is not None:
            name = each["metadata"]["name"]
            query = f"{workload.kubectl} get hpa {name} -o yaml"
            told = f"{workload.title} was scaled by its autoscaler {name}"
            yield Change(workload.service, scaled, told, ChangeKind.SCALE, query)
    for entry in workload.whole["metadata"].get("managedFields") or ():
        of_spec = (entry.get("fieldsV1") or {}).get("f:spec")
        scaled = moment(entry.get("time"))
        if of_spec == {"f:replicas": {}} and scaled is not None:
            told = f"{workload.title} was scaled to {workload.whole['spec'].get('replicas')} replicas by "
            told += quoted(entry.get("manager") or "someone")
            query = f"{workload.show} --show-managed-fields"
            yield Change(workload.service, scaled, told, ChangeKind.SCALE, query)


def _rollout(workload: Workload) -> Change | None:
    """The newest revision: since when, and in what it differs from the one before."""
    ranked = sorted(workload.owned, key=revision_of)
    if not ranked:
        return None
    newest, before = ranked[-1], ranked[-2] if len(ranked) > 1 else None
    since = moment(newest["metadata"].get("creationTimestamp"))
    told, kind = f"{workload.title} was rolled out, revision {revision_of(newest)}", ChangeKind.ROLLOUT
    if before is not None:
        previous = moment(before["metadata"].get("creationTimestamp"))
        if since is not None and previous is not None and since < previous:
            # A rollback takes the old object up again: only the workload's own condition knows when.
            since = _progressed(workload)
            told = f"{workload.title} was rolled back, now revision {revision_of(newest)}"
        difference = _difference(before, newest)
        told += f" ({difference})"
        if difference == _ONLY_RESTARTED:
            told, kind = f"{workload.title} was restarted", ChangeKind.RESTART
        elif difference == _SAME_IMAGES:
            kind = ChangeKind.CONFIGURATION
    cause = ((workload.whole["metadata"].get("annotations")) or {}).get(_CHANGE_CAUSE)
    if cause:
        told += f", cause given: {quoted(cause)}"
    if since is None:
        return None
    name = workload.whole["metadata"]["name"]
    query = f"{workload.kubectl} rollout history {workload.kind.lower()}/{name}"
    return Change(workload.service, since, told, kind, query)


_ONLY_RESTARTED = "the same template"
_SAME_IMAGES = "the same images, another template"


def _difference(before: JSON, newest: JSON) -> str:
    old, new = _images(before), _images(newest)
    changed = [
        f"{name}: {quoted(old.get(name, 'none'))} -> {quoted(image)}"
        for name, image in new.items()
        if old.get(name) != image
    ]
    if changed:
        return ", ".join(changed)
    if comparable(template_of(before)) == comparable(template_of(newest)):
        return _ONLY_RESTARTED
    return _SAME_IMAGES


def _images(revision: JSON) -> dict[str, str]:
    return {
        each["name"]: each.get("image", "")
        for each in (template_of(revision).get("spec") or {}).get("containers") or ()
    }


def _progressed(workload: Workload) -> float | None:
    for condition in (workload.whole.get("status") or {}).get("conditions") or ():
        if condition.get("type") == "Progressing":
            return moment(condition.get("lastUpdateTime"))
    return None


def _of_shortage(words: str, otherwise: Supports) -> Supports:
    return {_RES: 0.85} if _SHORTAGE.search(words) else otherwise


def _unscheduled(pod: JSON) -> bool:
    return any(
        condition.get("type") == "PodScheduled" and condition.get("status") == "False"
        for condition in (pod.get("status") or {}).get("conditions") or ()
    )


def _count(event: JSON) -> int:
    return int((event.get("series") or {}).get("count") or event.get("count") or 1)


def _last_time(event: JSON) -> float | None:
    series = event.get("series") or {}
    for text in (series.get("lastObservedTime"), event.get("lastTimestamp"), event.get("eventTime")):
        known = moment(text)
        if known is not None:
            return known
    return moment(event["metadata"].get("creationTimestamp"))
