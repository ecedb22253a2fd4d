"""What may be done to a workload, from its objects alone: every doubt is a reason not to."""

from __future__ import annotations

import copy
from datetime import UTC, datetime
from typing import Any

import pytest

from scripted_api_server import deployment, labels, pod, replica_set, template
from self_healing_fabric.cluster.gitops import Manager, manager_of
from self_healing_fabric.cluster.objects import RESTARTED
from self_healing_fabric.recovery.effects import NotApplicable, Progress
from self_healing_fabric.recovery.platforms.kubernetes.decisions import (
    broken,
    fingerprint,
    hung,
    in_rollout,
    pod_to_evict,
    refuse_to_restart,
    rollout,
    way_back,
)
from self_healing_fabric.recovery.platforms.kubernetes.management import (
    propose_instead,
    refuse_restart_put_back,
)
from self_healing_fabric.recovery.platforms.kubernetes.ordering import Happened
from self_healing_fabric.recovery.platforms.kubernetes.restart import restart_seen
from self_healing_fabric.recovery.platforms.kubernetes.scale import scale_seen

NOW = 1_800_000_000.0


def changed(each: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy with another value at a dotted path."""
    each = copy.deepcopy(each)
    *parts, last = path.split(".")
    inner = each
    for part in parts:
        inner = inner.setdefault(part, {})
    inner[last] = value
    return each


def stateful_set(**status: Any) -> dict[str, Any]:
    """Two replicas, rolled out."""
    through = {"observedGeneration": 1, "replicas": 2, "readyReplicas": 2}
    return {
        "metadata": {"name": "cart", "uid": "s", "generation": 1},
        "spec": {"replicas": 2, "template": template(), "updateStrategy": {"type": "RollingUpdate"}},
        "status": {**through, "currentRevision": "a", "updateRevision": "a", **status},
    }


def daemon_set(**status: Any) -> dict[str, Any]:
    """On two nodes, rolled out."""
    through = {"observedGeneration": 1, "desiredNumberScheduled": 2, "updatedNumberScheduled": 2}
    return {
        "metadata": {"name": "cart", "uid": "ds", "generation": 1},
        "spec": {"template": template(), "updateStrategy": {"type": "RollingUpdate"}},
        "status": {**through, "numberAvailable": 2, **status},
    }


# --- rollout status


@pytest.mark.parametrize(
    ("path", "value", "progress", "rolling"),
    [
        ("status.observedGeneration", 0, Progress.UNDER_WAY, True),
        ("status.replicas", 4, Progress.UNDER_WAY, True),
        ("status.updatedReplicas", 2, Progress.UNDER_WAY, True),
        ("status.availableReplicas", 0, Progress.UNDER_WAY, False),
        ("status.x", 0, Progress.DONE, False),
    ],
)
def test_a_deployments_rollout(path: str, value: int, progress: Progress, rolling: bool) -> None:
    """As `kubectl rollout status` tells it; pods that fail after it are no rollout in progress."""
    whole = changed(deployment(), path, value)
    assert rollout("Deployment", whole).progress is progress
    assert (in_rollout("Deployment", whole) is not None) is rolling


def conditioned(reason: str, status: str = "True") -> dict[str, Any]:
    """The Deployment with another condition `Progressing`."""
    condition = {"type": "Progressing", "status": status, "reason": reason, "message": "said."}
    return changed(deployment(), "status.conditions", [condition])


def test_a_rollout_past_its_deadline_has_failed() -> None:
    """Once all pods are of the newest revision it is over, and a restart may be tried."""
    whole = conditioned("ProgressDeadlineExceeded", "False")
    assert rollout("Deployment", whole).progress is Progress.FAILED
    assert in_rollout("Deployment", whole) is None
    stuck = changed(whole, "status.updatedReplicas", 1)
    assert "does not get ahead" in str(in_rollout("Deployment", stuck))


@pytest.mark.parametrize(("replicas", "updated"), [(2, 2), (4, 1)])
def test_a_quota_that_keeps_pods_from_being_made_is_named(replicas: int, updated: int) -> None:
    """Scaling beyond it, or a rollout under it, gets no further, and only that condition tells why."""
    condition = {"type": "ReplicaFailure", "status": "True", "message": "exceeded quota: shop"}
    whole = changed(deployment(), "status.conditions", [condition])
    whole = changed(changed(whole, "status.replicas", replicas), "status.updatedReplicas", updated)
    assert "and no more can be made: exceeded quota: shop" in rollout("Deployment", whole).detail
    assert "exceeded quota" in str(in_rollout("Deployment", whole))


def test_first_pods_that_start_are_a_rollout_in_progress() -> None:
    """All are of the newest revision, and none has been available yet."""
    assert in_rollout("Deployment", conditioned("ReplicaSetUpdated")) is not None


@pytest.mark.parametrize(
    ("kind", "whole", "progress", "rolling"),
    [
        ("StatefulSet", stateful_set(), Progress.DONE, False),
        ("StatefulSet", stateful_set(updateRevision="b", updatedReplicas=1), Progress.UNDER_WAY, True),
        ("StatefulSet", stateful_set(readyReplicas=1), Progress.UNDER_WAY, False),
        ("StatefulSet", stateful_set(observedGeneration=0), Progress.UNDER_WAY, True),
        ("DaemonSet", daemon_set(), Progress.DONE, False),
        ("DaemonSet", daemon_set(updatedNumberScheduled=1), Progress.UNDER_WAY, True),
        ("DaemonSet", daemon_set(numberAvailable=1), Progress.UNDER_WAY, False),
    ],
)
def test_other_rollouts(kind: str, whole: Any, progress: Progress, rolling: bool) -> None:
    """Each kind counts in its own fields."""
    assert rollout(kind, whole).progress is progress
    assert (in_rollout(kind, whole) is not None) is rolling


@pytest.mark.parametrize(
    ("kind", "whole", "reason"),
    [
        ("Deployment", changed(deployment(), "spec.paused", True), "paused"),
        ("Deployment", changed(deployment(), "spec.replicas", 0), "switch it off"),
        ("DaemonSet", daemon_set(desiredNumberScheduled=0), "switch it off"),
        ("StatefulSet", changed(stateful_set(), "spec.updateStrategy.type", "OnDelete"), "OnDelete"),
        (
            "StatefulSet",
            changed(stateful_set(), "spec.updateStrategy.rollingUpdate", {"partition": 1}),
            "hold back",
        ),
    ],
)
def test_what_a_restart_could_not_restart(kind: str, whole: Any, reason: str) -> None:
    """The annotation would change and no pod with it."""
    with pytest.raises(NotApplicable, match=reason):
        refuse_to_restart(kind, whole)
    refuse_to_restart("Deployment", deployment())


# --- which pod


def container(**status: Any) -> dict[str, Any]:
    """One container's status."""
    return {"name": "app", "ready": False, "restartCount": 0, "state": {}, **status}


def crashing(name: str, hash_: str = "1") -> dict[str, Any]:
    """A pod that is broken."""
    waits = container(state={"waiting": {"reason": "CrashLoopBackOff"}})
    made = changed(pod(name, ready=False), "status.containerStatuses", [waits])
    made["metadata"]["labels"] = {**labels(), "pod-template-hash": hash_}
    return made


def test_the_one_bad_pod_is_found() -> None:
    """Among good ones of its revision."""
    found, why = pod_to_evict("Deployment", deployment(), [pod("a"), crashing("b"), pod("c")], NOW)
    assert found["metadata"]["name"] == "b"
    assert "CrashLoopBackOff" in why


@pytest.mark.parametrize(
    ("pods", "reason"),
    [
        ([pod("a"), pod("b"), pod("c")], "0 of 3 pods are bad"),
        ([pod("a"), crashing("b"), crashing("c")], "2 of 3 pods are bad"),
        ([crashing("a")], "1 of 1 pods are bad"),
        ([pod("a"), crashing("b")], "only 2 of 3 pods exist"),
        ([pod("a"), pod("b"), crashing("c", "2")], "may be the revision"),
        (
            [pod("a"), crashing("b"), changed(pod("c"), "metadata.deletionTimestamp", "2027")],
            "being replaced already",
        ),
        (
            [pod("a"), pod("b"), changed(crashing("c"), "metadata.ownerReferences", [])],
            "has no controller",
        ),
        (
            [pod("a"), pod("b"), changed(pod("c", ready=False), "status.phase", "Pending")],
            "may still be starting or wait for a node",
        ),
    ],
)
def test_every_doubt_spares_the_pod(pods: list[Any], reason: str) -> None:
    """One bad among good ones of the same revision, all there, or none at all."""
    with pytest.raises(NotApplicable, match=reason):
        pod_to_evict("Deployment", deployment(), pods, NOW)


def test_no_pod_is_evicted_during_a_rollout() -> None:
    """The bad one is most likely the new one."""
    whole = changed(deployment(), "status.updatedReplicas", 1)
    with pytest.raises(NotApplicable, match="being replaced already"):
        pod_to_evict("Deployment", whole, [pod("a"), crashing("b"), pod("c")], NOW)


def test_leftovers_of_the_kubelet_are_not_counted() -> None:
    """A pod that was evicted for memory stays as `Failed`; its successor is what counts."""
    left = changed(crashing("x"), "status.phase", "Failed")
    found, _ = pod_to_evict("Deployment", deployment(), [left, pod("a"), crashing("b"), pod("c")], NOW)
    assert found["metadata"]["name"] == "b"


@pytest.mark.parametrize(
    ("status", "is_broken"),
    [
        ({"state": {"waiting": {"reason": "ImagePullBackOff"}}}, True),
        ({"state": {"waiting": {"reason": "ContainerCreating"}}}, False),
        ({"restartCount": 2, "lastState": {"terminated": {"exitCode": 1}}}, True),
        ({"restartCount": 1, "lastState": {"terminated": {"exitCode": 1}}}, False),
        ({"restartCount": 9, "lastState": {"terminated": {"exitCode": 0}}}, False),
        ({"restartCount": 9, "ready": True, "lastState": {"terminated": {"exitCode": 1}}}, False),
    ],
)
def test_when_a_pod_is_broken(status: dict[str, Any], is_broken: bool) -> None:
    """A loop of crashes between two of them looks like a start."""
    each = changed(pod("a"), "status.containerStatuses", [container(**status)])
    assert (broken(each) is not None) is is_broken


def test_when_a_pod_hangs() -> None:
    """It runs, and has not been ready for longer than a start takes."""
    each = changed(pod("a", ready=False), "status.conditions", [])
    assert hung(each, NOW) is None
    for ago, hangs in ((59, False), (61, True)):
        since = datetime.fromtimestamp(NOW - ago, UTC)
        condition = {"type": "Ready", "status": "False", "lastTransitionTime": since.isoformat()}
        assert (hung(changed(each, "status.conditions", [condition]), NOW) is not None) is hangs


# --- which revision


def revision(number: int, image: str, *, restarted: str | None = None) -> dict[str, Any]:
    """A ReplicaSet of the Deployment."""
    made = copy.deepcopy(replica_set())
    made["metadata"] |= {"name": f"cart-{number}", "uid": f"r{number}"}
    made["metadata"]["annotations"] = {"deployment.kubernetes.io/revision": str(number)}
    held = made["spec"]["template"]
    held["metadata"]["labels"] = {"app": "cart", "pod-template-hash": str(number)}
    held["spec"]["containers"][0]["image"] = image
    if restarted:
        held["metadata"]["annotations"] = {RESTARTED: restarted}
    return made


def whole_of(newest: dict[str, Any]) -> dict[str, Any]:
    """The Deployment that wants a revision's template."""
    held = copy.deepcopy(newest["spec"]["template"])
    del held["metadata"]["labels"]["pod-template-hash"]
    return changed(deployment(), "spec.template", held)


def of(number: int, each: dict[str, Any]) -> dict[str, Any]:
    """A pod of that revision."""
    owner = {"kind": "ReplicaSet", "name": f"cart-{number}", "uid": f"r{number}", "controller": True}
    return changed(each, "metadata.ownerReferences", [owner])


def test_back_to_the_newest_that_serves() -> None:
    """Beyond a restart of the bad one, and beyond another bad one."""
    revisions = [
        revision(1, "cart:1"),
        revision(2, "cart:2"),
        revision(3, "cart:bad"),
        revision(4, "cart:worse"),
        revision(5, "cart:worse", restarted="x"),
    ]
    pods = [of(1, pod("a")), of(2, pod("b")), of(4, crashing("c")), of(5, crashing("d"))]
    found = way_back("Deployment", whole_of(revisions[-1]), revisions, pods)
    assert (found.bad["metadata"]["name"], found.good["metadata"]["name"]) == ("cart-5", "cart-2")
    assert [each["metadata"]["name"] for each in found.broken] == ["d", "c"]


@pytest.mark.parametrize(
    ("pods", "reason"),
    [
        ([of(1, pod("a"))], "no pod of the newest revision"),
        ([of(1, pod("a")), of(2, crashing("b")), of(2, pod("c"))], "it can work"),
        ([of(1, pod("a")), of(2, crashing("b")), of(2, pod("c", ready=False))], "may still be starting"),
        ([of(2, crashing("b"))], "is seen to serve now; the newest that differs is revision 1"),
        ([of(1, crashing("a")), of(2, crashing("b"))], "is seen to serve now"),
        ([of(1, pod("a")), of(1, crashing("x")), of(2, crashing("b"))], "is seen to serve now"),
        (
            [changed(of(1, pod("a")), "metadata.deletionTimestamp", "2027"), of(2, crashing("b"))],
            "is seen to serve now",
        ),
    ],
)
def test_every_doubt_keeps_the_revision(pods: list[Any], reason: str) -> None:
    """All pods of the newest broken, all of the older one serving."""
    revisions = [revision(1, "cart:1"), revision(2, "cart:bad")]
    with pytest.raises(NotApplicable, match=reason):
        way_back("Deployment", whole_of(revisions[1]), revisions, pods)


def test_a_restart_alone_is_no_way_back() -> None:
    """The same pods but for the time of a restart: something else is wrong."""
    revisions = [revision(1, "cart:1"), revision(2, "cart:1", restarted="x")]
    pods = [of(1, pod("a")), of(2, crashing("b"))]
    with pytest.raises(NotApplicable, match="it can work"):
        way_back("Deployment", whole_of(revisions[1]), revisions, pods)
    with pytest.raises(NotApplicable, match=r"is seen to serve now$"):
        way_back("Deployment", whole_of(revisions[1]), revisions, pods[1:])


def test_a_revision_that_is_not_recorded_yet_is_waited_for() -> None:
    """Its controller has not made the ReplicaSet: nothing is known of its pods."""
    with pytest.raises(NotApplicable, match="has not recorded"):
        way_back("Deployment", whole_of(revision(2, "cart:2")), [revision(1, "cart:1")], [])


def test_a_rollout_past_its_deadline_counts_pods_that_never_got_ready() -> None:
    """They run, but the Deployment's own deadline says that they will not serve."""
    revisions = [revision(1, "cart:1"), revision(2, "cart:bad")]
    condition = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}
    whole = changed(whole_of(revisions[1]), "status.conditions", [condition])
    found = way_back("Deployment", whole, revisions, [of(1, pod("a")), of(2, pod("b", ready=False))])
    assert "deadline" in found.why


def test_templates_are_told_apart_to_the_byte() -> None:
    """But for what only a revision holds, or what an older server writes."""
    held = template()
    same = copy.deepcopy(held) | {"$patch": "replace"}
    same["metadata"] |= {"labels": {"app": "cart", "pod-template-hash": "9"}, "creationTimestamp": None}
    assert fingerprint(held) == fingerprint(same)
    assert fingerprint(held) != fingerprint(changed(held, "metadata.annotations", {RESTARTED: "x"}))


# --- what is found after an order


@pytest.mark.parametrize(
    ("generation", "annotation", "uid", "happened"),
    [
        (1, None, "d", Happened.NO),
        (2, "ours", "d", Happened.YES),
        (3, "ours", "d", Happened.YES),
        (2, "theirs", "d", Happened.NO),
        (3, "theirs", "d", Happened.UNKNOWN),
        (1, "ours", "e", Happened.UNKNOWN),
    ],
)
def test_what_a_workload_says_of_a_restart(
    generation: int, annotation: str | None, uid: str, happened: Happened
) -> None:
    """The first change after the decision would have been ours; after two, nobody knows."""
    whole = changed(deployment(), "metadata.generation", generation)
    whole["metadata"]["uid"] = uid
    if annotation:
        whole = changed(whole, "spec.template.metadata.annotations", {RESTARTED: annotation})
    before = {"uid": "d", "generation": 1, "restarted_at": "ours"}
    assert restart_seen(whole, before).happened is happened
    assert restart_seen(None, before).happened is Happened.UNKNOWN


@pytest.mark.parametrize(
    ("low", "high", "happened"),
    [(1, 2, Happened.NO), (3, 3, Happened.YES), (1, 3, Happened.UNKNOWN)],
)
def test_what_an_autoscaler_says_of_its_bounds(low: int, high: int, happened: Happened) -> None:
    """Both bounds as before, both as ordered, or somebody else's."""
    ours = {"name": "cart", "uid": "h", "min": 1, "max": 2, "wanted": {"min": 3, "max": 3}}
    before = {"uid": "d", "generation": 1, "replicas": 2, "wanted": 3, "autoscaler": ours}
    now = {"metadata": {"name": "cart", "uid": "h"}, "spec": {"minReplicas": low, "maxReplicas": high}}
    assert scale_seen(now, before).happened is happened
    assert scale_seen(None, before).happened is Happened.UNKNOWN


# --- who manages it


@pytest.mark.parametrize(
    ("path", "value", "manager"),
    [
        ("annotations", {"argocd.argoproj.io/tracking-id": "shop:apps/Deployment:a/b"}, ("Argo CD", "shop")),
        ("labels", {"argocd.argoproj.io/instance": "shop"}, ("Argo CD", "shop")),
        ("labels", {"kustomize.toolkit.fluxcd.io/name": "apps"}, ("Flux", "apps")),
        ("labels", {"helm.toolkit.fluxcd.io/name": "cart"}, ("Flux's Helm controller", "cart")),
        ("managedFields", [{"manager": "helm-controller", "fieldsV1": {"f:spec": {}}}], None),
        (
            "managedFields",
            [{"manager": "kustomize-controller", "fieldsV1": {"f:spec": {"f:x": {}}}}],
            ("Flux", ""),
        ),
        ("labels", {"app.kubernetes.io/managed-by": "Helm"}, None),
        ("managedFields", [{"manager": "kubectl", "fieldsV1": {"f:spec": {"f:x": {}}}}], None),
    ],
)
def test_who_would_put_it_back(path: str, value: Any, manager: tuple[str, str] | None) -> None:
    """By marks and by the writers of fields; Helm alone puts nothing back by itself."""
    whole = changed(deployment(), f"metadata.{path}", value)
    found = manager_of(whole)
    assert found == (Manager(*manager) if manager else None)
    if manager is None:
        propose_instead(whole, "do it")
    else:
        with pytest.raises(NotApplicable, match="Proposal: there, do it") as proposed:
            propose_instead(whole, "do it", "kubectl x")
        assert "`kubectl x`" in str(proposed.value)
        refuse_restart_put_back(whole)  # a restart adds what no repository holds


def test_what_an_operator_owns_is_left_to_it() -> None:
    """It makes the workload anew from its own template, restarts included."""
    owner = {"kind": "Rollout", "name": "cart", "uid": "o", "controller": True}
    whole = changed(deployment(), "metadata.ownerReferences", [owner])
    with pytest.raises(NotApplicable, match="Rollout cart controls it"):
        propose_instead(whole, "scale it")
    with pytest.raises(NotApplicable, match="Rollout cart controls it"):
        refuse_restart_put_back(whole)
