"""Repairs on a real API server, each counted at the target: generations, replicas, uids of pods, events."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from docker_engine import wait_until
from kubernetes_cluster import VISITOR, VISITOR_NAME, Cluster, moment, require_cluster
from kubernetes_repairs import RepairedShop, do, settles, stick
from kubernetes_shop import Kubelet

from self_healing_fabric.cluster.objects import RESTARTED
from self_healing_fabric.recovery.effects import (
    NotApplicable,
    Progress,
    TargetUnreadable,
)
from self_healing_fabric.recovery.outcomes import Status, Untold

pytestmark = pytest.mark.e2e

RBAC = Path(__file__).parents[2] / "deploy/kubernetes/rbac.yaml"
KINDS = ("Deployment", "StatefulSet", "DaemonSet")
ARGO = {"metadata": {"annotations": {"argocd.argoproj.io/tracking-id": "shop:apps/Deployment:shop/cart"}}}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A control plane of the tests' own."""
    require_cluster()
    with Cluster() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def numbers() -> Iterator[int]:
    """1, 2, 3 and so on."""
    return itertools.count(1)


@pytest.fixture
def shop(cluster: Cluster, numbers: Iterator[int]) -> Iterator[RepairedShop]:
    """A namespace of the test's own, with a kubelet."""
    shop = RepairedShop(cluster, f"repair-{next(numbers)}")
    with Kubelet(shop):
        yield shop


# --- restart


@pytest.mark.parametrize("kind", KINDS)
def test_a_restart_replaces_every_pod_once(shop: RepairedShop, kind: str) -> None:
    """One new generation, all pods new, told on the object; the same action again changes nothing."""
    replicas = 1 if kind == "DaemonSet" else 2
    if kind == "DaemonSet":
        shop.add_node()
    shop.deploy(kind=kind, replicas=replicas)
    generation = shop.settled(kind)["metadata"]["generation"]
    old = shop.uids()
    effect = shop.effect("restart", kind)
    before = effect.snapshot()
    assert effect.observe(before).status is Status.FAILED
    assert do(effect, before).status is Status.SUCCEEDED
    assert effect.observe(before).status is Status.SUCCEEDED
    settles(effect, before)
    whole = shop.settled(kind)
    assert whole["metadata"]["generation"] == generation + 1
    assert whole["spec"]["template"]["metadata"]["annotations"] == {RESTARTED: before["restarted_at"]}
    wait_until("old pods go", lambda: not old & shop.uids(), 20.0)
    assert len(shop.uids()) == replicas
    (event,) = shop.events()
    assert event["reason"] == "SelfHealingRestart"
    assert event["involvedObject"]["uid"] == whole["metadata"]["uid"]
    assert "inc-1/x" in event["message"]
    assert do(effect, before).status is Status.FAILED  # decided on another generation
    assert shop.whole(kind)["metadata"]["generation"] == generation + 1


def test_a_paused_deployment_is_not_restarted(shop: RepairedShop) -> None:
    """Its annotation would change and no pod with it, until people resume it."""
    shop.deploy()
    shop.settled()
    shop.change({"paused": True})
    with pytest.raises(NotApplicable, match="paused"):
        shop.effect("restart").snapshot()


def test_a_rollout_in_progress_is_not_restarted(shop: RepairedShop) -> None:
    """Its pods are being replaced already; and a stuck one would only be stuck again."""
    shop.deploy()
    shop.settled()
    shop.roll_out(spec={"containers": [{"name": "app", "image": "cart:bad"}]})
    shop.seen()
    with pytest.raises(NotApplicable, match="a rollout is in progress"):
        shop.effect("restart").snapshot()


def test_a_workload_that_is_switched_off_stays_off(shop: RepairedShop) -> None:
    """With 0 replicas it is neither restarted nor scaled."""
    shop.deploy()
    shop.settled()
    shop.change({"replicas": 0})
    for effect in (shop.effect("restart"), shop.effect("scale", max=5)):
        with pytest.raises(NotApplicable, match="switch it off"):
            effect.snapshot()


def test_crashing_pods_of_a_finished_rollout_are_restarted(shop: RepairedShop) -> None:
    """All pods bad, but no rollout under way: that is what a restart is for."""
    shop.deploy()
    shop.settled()
    for pod in shop.pods():
        shop.crash(pod)
    wait_until("it is noticed", lambda: not shop.whole()["status"].get("readyReplicas"), 20.0)
    effect = shop.effect("restart")
    before = effect.snapshot()
    assert do(effect, before).status is Status.SUCCEEDED
    settles(effect, before)


# --- preconditions


def test_what_was_changed_since_the_decision_is_left_alone(shop: RepairedShop) -> None:
    """Somebody rolls out between the decision and the order: nothing is ordered."""
    shop.deploy()
    shop.settled()
    effect = shop.effect("restart")
    before = effect.snapshot()
    shop.change({"replicas": 3})
    outcome = do(effect, before)
    assert (outcome.status, shop.events()) == (Status.FAILED, [])
    assert "somebody has changed it since" in outcome.detail
    assert RESTARTED not in json.dumps(shop.whole()["spec"])
    assert effect.observe(before).status is Status.FAILED  # one change, and it was not ours


@pytest.mark.parametrize("case", ["restart", "scale", "autoscaler", "rollback"])
def test_a_stale_resource_version_and_a_wrong_uid_are_refused_by_the_server(
    shop: RepairedShop, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    """The order itself carries both: what slips in after our last look is refused, for certain."""
    shop.deploy(replicas=3)
    shop.settled()
    path = shop.autoscale(1, 3) if case == "autoscaler" else f"{shop.workloads()}/cart"
    if case == "rollback":
        stick(shop)
    effect: Any = shop.effect("scale" if case == "autoscaler" else case, max=9)
    before = dict(effect.snapshot())
    stale = shop.cluster.api.get(path).json()
    shop.cluster.patch(path, {"metadata": {"labels": {"note": "1"}}})
    monkeypatch.setattr(effect, "subject", lambda *_: stale)
    monkeypatch.setattr(effect, "unfit", lambda *_: None)
    outcome = do(effect, before)
    assert (outcome.status, outcome.retry_in) == (Status.FAILED, 2.0)
    assert "409" in outcome.detail
    now = shop.cluster.api.get(path).json()
    wrong = {**now, "metadata": {**now["metadata"], "uid": "00000000-0000-0000-0000-000000000000"}}
    monkeypatch.setattr(effect, "subject", lambda *_: wrong)
    outcome = do(effect, before)
    assert outcome.status is Status.FAILED
    assert "422" in outcome.detail or "409" in outcome.detail
    assert shop.cluster.api.get(path).json()["spec"] == stale["spec"]


def test_the_next_pod_of_the_same_name_is_not_evicted(
    shop: RepairedShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A StatefulSet has made another `cart-1` after our last look: the eviction names the old one's uid."""
    shop.deploy(kind="StatefulSet", replicas=3)
    shop.settled("StatefulSet")
    bad = shop.pods()[1]
    shop.crash(bad)
    wait_until("noticed", lambda: shop.whole("StatefulSet")["status"].get("readyReplicas") == 2, 20.0)
    effect: Any = shop.effect("evict", "StatefulSet")
    before = dict(effect.snapshot())
    shop.cluster.api.delete(f"/api/v1/namespaces/{shop.namespace}/pods/{bad['metadata']['name']}")
    shop.settled("StatefulSet")
    uids = shop.uids()
    assert bad["metadata"]["uid"] not in uids
    monkeypatch.setattr(effect, "subject", lambda *_: bad)
    outcome = do(effect, before)
    assert outcome.status is Status.FAILED
    assert "409" in outcome.detail
    assert shop.uids() == uids


def test_a_writer_in_between_is_stepped_around(shop: RepairedShop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A status that changes right before the order costs a 409 and a second try, not the restart."""
    shop.deploy()
    generation = shop.settled()["metadata"]["generation"]
    effect: Any = shop.effect("restart")
    look, looks = effect.subject, []

    def look_too_early(*arguments: Any) -> Any:
        looks.append(look(*arguments))
        if len(looks) == 1:
            shop.cluster.patch(f"{shop.workloads()}/cart", {"metadata": {"labels": {"note": "1"}}})
        return looks[-1]

    monkeypatch.setattr(effect, "subject", look_too_early)
    assert do(effect).status is Status.SUCCEEDED
    assert len(looks) == 2
    assert shop.whole()["metadata"]["generation"] == generation + 1


def test_a_recreated_workload_is_another_one(shop: RepairedShop) -> None:
    """The same name, another uid: nothing is ordered, and nothing is claimed."""
    shop.deploy()
    shop.settled()
    effect = shop.effect("restart")
    before = effect.snapshot()
    shop.cluster.api.delete(f"{shop.workloads()}/cart").raise_for_status()
    wait_until("it is gone", lambda: not shop.cluster.items(shop.workloads()), 20.0)
    shop.deploy()
    outcome = do(effect, before)
    assert outcome.status is Status.FAILED
    assert "another object has its name" in outcome.detail
    assert effect.observe(before).status is Status.INDETERMINATE
    assert RESTARTED not in json.dumps(shop.whole()["spec"])


def test_without_a_permit_nothing_is_ordered(shop: RepairedShop) -> None:
    """The permit is asked when all is read, and its no is heard by every effect."""
    shop.deploy(replicas=3)
    generation = shop.settled()["metadata"]["generation"]
    shop.crash(shop.pods()[0])
    wait_until("it is noticed", lambda: shop.whole()["status"].get("readyReplicas") == 2, 20.0)
    uids = shop.uids()
    for effect in (shop.effect("restart"), shop.effect("scale", max=5), shop.effect("evict")):
        assert do(effect, permit=False).retry_in == 0.0
    assert shop.whole()["metadata"]["generation"] == generation
    assert (shop.uids(), shop.events()) == (uids, [])


# --- scale


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet"])
def test_scaled_up_and_back(shop: RepairedShop, kind: str) -> None:
    """One step, and undone to the number that was there."""
    shop.deploy(kind=kind)
    shop.settled(kind)
    effect = shop.effect("scale", kind, max=5, step=2)
    before = effect.snapshot()
    assert do(effect, before).status is Status.SUCCEEDED
    assert shop.whole(kind)["spec"]["replicas"] == 4
    assert effect.observe(before).status is Status.SUCCEEDED
    settles(effect, before)
    assert len(shop.uids()) == 4
    undo = effect.undo(before)
    assert undo is not None
    back = undo.snapshot()
    assert do(undo, back).status is Status.SUCCEEDED
    assert shop.whole(kind)["spec"]["replicas"] == 2
    assert undo.observe(back).status is Status.SUCCEEDED
    assert [each["reason"] for each in shop.events()] == ["SelfHealingScale"] * 2


def test_a_number_that_people_set_since_is_not_undone(shop: RepairedShop) -> None:
    """Whoever set it knew why."""
    shop.deploy()
    shop.settled()
    effect = shop.effect("scale", max=5)
    before = effect.snapshot()
    do(effect, before)
    shop.change({"replicas": 4})
    undo = effect.undo(before)
    assert undo is not None
    with pytest.raises(NotApplicable, match="somebody has set 4 replicas since"):
        undo.snapshot()
    assert effect.settled(before).progress is Progress.FAILED


def test_an_autoscaler_is_moved_and_put_back(shop: RepairedShop) -> None:
    """Its bounds change and not the replicas, which it would take back; both bounds are restored."""
    shop.deploy()
    shop.settled()
    path = shop.autoscale(1, 2)
    effect = shop.effect("scale", max=3)
    before = effect.snapshot()
    assert effect.observe(before).status is Status.FAILED
    assert do(effect, before).status is Status.SUCCEEDED
    spec = shop.cluster.api.get(path).json()["spec"]
    assert (spec["minReplicas"], spec["maxReplicas"]) == (3, 3)
    assert shop.whole()["spec"]["replicas"] == 2  # its own controller does the rest
    assert effect.observe(before).status is Status.SUCCEEDED
    assert effect.settled(before).progress is Progress.UNDER_WAY
    shop.change({"replicas": 3})  # as its controller does
    settles(effect, before)
    undo = effect.undo(before)
    assert undo is not None
    assert do(undo).status is Status.SUCCEEDED
    spec = shop.cluster.api.get(path).json()["spec"]
    assert (spec["minReplicas"], spec["maxReplicas"]) == (1, 2)


def test_an_autoscaler_keeps_its_minimum(shop: RepairedShop) -> None:
    """It was just made, and there are fewer pods than it wants: a step goes from its minimum."""
    shop.deploy()
    shop.settled()
    path = shop.autoscale(4, 6)
    effect = shop.effect("scale", max=8)
    assert do(effect).status is Status.SUCCEEDED
    spec = shop.cluster.api.get(path).json()["spec"]
    assert (spec["minReplicas"], spec["maxReplicas"]) == (5, 6)
    shop.change({"replicas": 0})
    with pytest.raises(NotApplicable, match="switch it off"):
        effect.snapshot()


def test_an_autoscaler_that_people_changed_since_is_left_alone(shop: RepairedShop) -> None:
    """Before the order, and before the undo."""
    shop.deploy()
    shop.settled()
    path = shop.autoscale(1, 2)
    effect = shop.effect("scale", max=3)
    before = effect.snapshot()
    shop.cluster.patch(path, {"spec": {"maxReplicas": 9}})
    assert do(effect, before).status is Status.FAILED
    assert effect.observe(before).status is Status.INDETERMINATE
    before = effect.snapshot()
    assert do(effect, before).status is Status.SUCCEEDED
    shop.cluster.patch(path, {"spec": {"minReplicas": 2}})
    undo = effect.undo(before)
    assert undo is not None
    with pytest.raises(NotApplicable, match="somebody has set the autoscaler to 2 to 9 since"):
        undo.snapshot()


def test_a_daemonset_and_a_service_without_bounds_are_not_scaled(shop: RepairedShop) -> None:
    """Neither has a number that could be raised."""
    with pytest.raises(NotApplicable, match="DaemonSet"):
        shop.effect("scale", "DaemonSet", max=3)
    with pytest.raises(NotApplicable, match=r"recovery\.scale"):
        shop.effect("scale")


# --- rollback


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet"])
def test_a_bad_image_is_rolled_back_and_the_rollback_undone(shop: RepairedShop, kind: str) -> None:
    """The old template is back and all pods serve; undone, the bad one is there again to the byte."""
    ordered = {"podManagementPolicy": "OrderedReady"} if kind == "StatefulSet" else {}
    shop.deploy(kind=kind, replicas=3, more=ordered)
    good = shop.settled(kind)["spec"]["template"]
    bad = stick(shop, kind)["spec"]["template"]
    effect = shop.effect("rollback", kind)
    before = effect.snapshot()
    assert "cart:" not in json.dumps(before)  # templates hold values of environment variables
    assert effect.observe(before).status is Status.FAILED
    outcome = do(effect, before)
    assert outcome.status is Status.SUCCEEDED, outcome.detail
    settles(effect, before)
    whole = shop.settled(kind)
    assert json.dumps(whole["spec"]["template"]) == json.dumps(good)
    wait_until("only good pods are left", lambda: shop.images() == {"cart:1"}, 20.0)
    assert effect.observe(before).status is Status.SUCCEEDED
    undo = effect.undo(before)
    assert undo is not None
    assert do(undo).status is Status.SUCCEEDED
    assert json.dumps(shop.whole(kind)["spec"]["template"]) == json.dumps(bad)
    assert [each["reason"] for each in shop.events()] == ["SelfHealingRollback"] * 2


def test_after_a_bad_image_and_a_restart_it_goes_back_beyond_the_bad_one(shop: RepairedShop) -> None:
    """The newest older revision differs in the time of a restart only: that is no way back."""
    shop.deploy(replicas=3)
    shop.settled()
    stick(shop)
    shop.roll_out(metadata={"annotations": {RESTARTED: moment()}})
    stick(shop)
    effect = shop.effect("rollback")
    before = effect.snapshot()
    assert (before["from"]["revision"], before["to"]["revision"]) == (3, 1)
    assert do(effect, before).status is Status.SUCCEEDED
    settles(effect, before)
    assert shop.whole()["spec"]["template"]["spec"]["containers"][0]["image"] == "cart:1"


def test_a_bad_image_after_another_bad_one_goes_back_to_the_one_that_serves(shop: RepairedShop) -> None:
    """Newest, and available: both must hold."""
    shop.deploy(replicas=3)
    shop.settled()
    stick(shop)
    stick(shop, image="cart:bad-too")
    wait_until(
        "the second rollout crashes",
        lambda: any("bad-too" in json.dumps(each["status"]) for each in shop.pods()),
        20.0,
    )
    assert shop.effect("rollback").snapshot()["to"]["revision"] == 1


def test_nothing_serves_so_nothing_is_rolled_back(shop: RepairedShop) -> None:
    """A rollout that went through before it failed leaves no proof of an older revision: people decide."""
    shop.deploy(replicas=2)
    shop.settled()
    shop.change({"template": {"spec": {"containers": [{"name": "app", "image": "cart:2"}]}}})
    wait_until("rolled out", lambda: shop.settled()["metadata"]["generation"] == 2, 30.0)
    wait_until("old pods go", lambda: len(shop.uids()) == 2, 20.0)
    for pod in shop.pods():
        shop.crash(pod)
    with pytest.raises(NotApplicable, match=r"no older revision .* serve now; .* revision 1"):
        shop.effect("rollback").snapshot()


def test_pods_that_may_be_starting_are_not_rolled_back(shop: RepairedShop) -> None:
    """Not ready is not broken."""
    shop.deploy(replicas=2)
    shop.settled()
    pod = shop.roll_out(spec={"containers": [{"name": "app", "image": "cart:bad"}]})
    told = lambda: all(each["status"].get("containerStatuses") for each in shop.pods())  # noqa: E731
    wait_until("its kubelet has told of it", told)  # or that would come after what is written next
    shop.status(
        pod,
        containerStatuses=[{"name": "app", "image": "", "imageID": "", "ready": False, "restartCount": 0}],
    )
    with pytest.raises(NotApplicable, match="may still be starting"):
        shop.effect("rollback").snapshot()


def test_a_changed_template_is_not_put_back(shop: RepairedShop) -> None:
    """People fix it while the fabric decides, or after it rolled back."""
    shop.deploy(replicas=3)
    shop.settled()
    stick(shop)
    effect = shop.effect("rollback")
    before = effect.snapshot()
    shop.change({"template": {"spec": {"containers": [{"name": "app", "image": "cart:3"}]}}})
    assert do(effect, before).status is Status.FAILED
    assert shop.whole()["spec"]["template"]["spec"]["containers"][0]["image"] == "cart:3"
    undo = effect.undo(before)
    assert undo is not None
    with pytest.raises(NotApplicable, match="somebody has changed its template since"):
        undo.snapshot()


def test_a_daemonset_is_rolled_back(shop: RepairedShop) -> None:
    """On two nodes: one pod broken, the other serves what was there before."""
    shop.deploy_on_two_nodes()
    shop.settled("DaemonSet")
    stick(shop, "DaemonSet")
    effect = shop.effect("rollback", "DaemonSet")
    before = effect.snapshot()
    assert do(effect, before).status is Status.SUCCEEDED
    settles(effect, before)
    wait_until("only good pods are left", lambda: shop.images() == {"cart:1"}, 20.0)


def test_a_budget_that_keeps_the_broken_pod_stops_the_rollback_of_a_statefulset(shop: RepairedShop) -> None:
    """It would wait for that pod for ever, so nothing is begun."""
    shop.deploy(kind="StatefulSet", replicas=2, more={"podManagementPolicy": "OrderedReady"})
    shop.settled("StatefulSet")
    stick(shop, "StatefulSet")
    shop.status(shop.pods()[-1], phase="Running")
    shop.budget(2)
    with pytest.raises(NotApplicable, match="disruption budget keep-cart forbids it"):
        shop.effect("rollback", "StatefulSet").snapshot()


def test_a_statefulset_whose_broken_pod_stays_is_left_to_people(shop: RepairedShop) -> None:
    """A budget that came in between forbids the eviction: neither done nor failed, and what is left."""
    shop.deploy(kind="StatefulSet", replicas=2, more={"podManagementPolicy": "OrderedReady"})
    shop.settled("StatefulSet")
    stick(shop, "StatefulSet")
    shop.status(shop.pods()[-1], phase="Running")
    effect = shop.effect("rollback", "StatefulSet")
    before = effect.snapshot()
    shop.budget(2)
    outcome = do(effect, before)
    assert outcome.status is Status.INDETERMINATE
    assert "disruption budget keep-cart forbids it" in outcome.detail
    assert f"`kubectl --context test -n {shop.namespace} delete pod cart-1`" in outcome.detail
    assert effect.observe(before).status is Status.INDETERMINATE
    shop.cluster.api.delete(f"/api/v1/namespaces/{shop.namespace}/pods/cart-1").raise_for_status()
    shop.settled("StatefulSet")
    assert effect.observe(before).status is Status.SUCCEEDED


# --- evict


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet"])
def test_one_bad_pod_is_evicted_and_no_other(shop: RepairedShop, kind: str) -> None:
    """It goes, its siblings stay, and its controller makes another one."""
    shop.deploy(kind=kind, replicas=3)
    shop.settled(kind)
    bad = shop.pods()[1]
    shop.crash(bad)
    wait_until("it is noticed", lambda: shop.whole(kind)["status"].get("readyReplicas") == 2, 20.0)
    others = shop.uids() - {bad["metadata"]["uid"]}
    effect = shop.effect("evict", kind)
    before = effect.snapshot()
    assert effect.observe(before).status is Status.FAILED
    outcome = do(effect, before)
    assert outcome.status is Status.SUCCEEDED
    assert "CrashLoopBackOff" in outcome.detail
    assert effect.observe(before).status is Status.SUCCEEDED
    settles(effect, before)
    assert others < shop.uids()
    assert bad["metadata"]["uid"] not in shop.uids()
    assert do(effect, before).status is Status.FAILED  # gone already; a new one may have its name
    assert len(shop.uids()) == 3
    assert [each["reason"] for each in shop.events()] == ["SelfHealingEvict"]


def test_the_bad_pod_of_a_daemonset_is_evicted(shop: RepairedShop) -> None:
    """Its node gets another one, the other node keeps its own."""
    shop.deploy_on_two_nodes()
    shop.settled("DaemonSet")
    bad, good = shop.pods()
    shop.crash(bad)
    wait_until("noticed", lambda: shop.whole("DaemonSet")["status"]["numberReady"] == 1, 20.0)
    effect = shop.effect("evict", "DaemonSet")
    before = effect.snapshot()
    assert do(effect, before).status is Status.SUCCEEDED
    settles(effect, before)
    assert len(shop.uids()) == 2
    assert good["metadata"]["uid"] in shop.uids()
    assert bad["metadata"]["uid"] not in shop.uids()


def test_a_budget_forbids_the_eviction(shop: RepairedShop) -> None:
    """Before it is announced by a dry run; between the two, as a failure that names the budget."""
    shop.deploy(replicas=3)
    shop.settled()
    shop.crash(shop.pods()[0])
    wait_until("it is noticed", lambda: shop.whole()["status"].get("readyReplicas") == 2, 20.0)
    effect = shop.effect("evict")
    before = effect.snapshot()
    shop.budget(3)
    uids = shop.uids()
    outcome = do(effect, before)
    assert outcome.status is Status.FAILED
    assert "disruption budget keep-cart forbids it" in outcome.detail
    with pytest.raises(NotApplicable, match="disruption budget keep-cart forbids it"):
        effect.snapshot()
    assert (shop.uids(), shop.events()) == (uids, [])


def test_the_dry_run_evicts_nothing(shop: RepairedShop) -> None:
    """Deciding must not act."""
    shop.deploy(replicas=3)
    shop.settled()
    shop.crash(shop.pods()[0])
    wait_until("it is noticed", lambda: shop.whole()["status"].get("readyReplicas") == 2, 20.0)
    uids = shop.uids()
    shop.effect("evict").snapshot()
    assert shop.uids() == uids


def test_two_bad_pods_are_not_evicted(shop: RepairedShop) -> None:
    """That is no longer one pod's trouble."""
    shop.deploy(replicas=3)
    shop.settled()
    for pod in shop.pods()[:2]:
        shop.crash(pod)
    wait_until("it is noticed", lambda: shop.whole()["status"].get("readyReplicas") == 1, 20.0)
    with pytest.raises(NotApplicable, match="2 of 3 pods are bad"):
        shop.effect("evict").snapshot()


def test_a_pod_that_only_carries_our_labels_is_not_ours(shop: RepairedShop) -> None:
    """A bare pod in trouble, found by the selector, owned by nobody: never evicted, never counted."""
    shop.deploy(replicas=2)
    shop.settled()
    labels = {"app": "cart", "part": "cart"}
    spec = {"containers": [{"name": "app", "image": "cart:bad"}]}
    # Made without our labels first: a ReplicaSet adopts what has no owner and fits.
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "other", "uid": "1", "controller": True}
    metadata = {"name": "cart-zzz", "labels": labels, "ownerReferences": [owner]}
    pods = f"/api/v1/namespaces/{shop.namespace}/pods"
    stranger = shop.cluster.create(pods, {"metadata": metadata, "spec": spec})
    shop.crash(stranger)
    with pytest.raises(NotApplicable, match="0 of 2 pods are bad"):
        shop.effect("evict").snapshot()


# --- killed around the effect


PERFORM_AND_DIE = """
import json, os, signal, sys
from self_healing_fabric.recovery.platforms import platform_of
from self_healing_fabric.recovery.platforms.kubernetes.workload import Place
from self_healing_fabric.settings import Settings

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

values, strategy, before, point = json.loads(sys.argv[1])
effect = platform_of("cart", Settings.model_validate(values)).effect(strategy)
if point == "after the effect":
    Place.tell = die
permit = die if point == "before the effect" else lambda: True
effect.perform(key="k", attempt=1, before=before, permit=permit)
"""


@pytest.mark.parametrize("strategy", ["restart", "scale", "evict"])
@pytest.mark.parametrize("point", ["before the effect", "after the effect"])
def test_killed_around_the_effect_there_is_exactly_one(shop: RepairedShop, strategy: str, point: str) -> None:
    """SIGKILL in another process; the next one asks the API server, and repeats only what did not happen."""
    shop.deploy(replicas=3)
    generation = shop.settled()["metadata"]["generation"]
    if strategy == "evict":
        shop.crash(shop.pods()[0])
        wait_until("it is noticed", lambda: shop.whole()["status"].get("readyReplicas") == 2, 20.0)
    uids = shop.uids()
    effect = shop.effect(strategy, max=9)
    before = dict(effect.snapshot())
    values = shop.values(max=9)
    arguments = json.dumps([values, strategy, before, point])
    killed = subprocess.run([sys.executable, "-c", PERFORM_AND_DIE, arguments], timeout=60, check=False)
    assert killed.returncode == -signal.SIGKILL
    found = effect.observe(before)
    if point == "before the effect":
        assert found.status is Status.FAILED
        assert shop.uids() == uids
        assert do(effect, before).status is Status.SUCCEEDED
    else:
        assert found.status is Status.SUCCEEDED
    settles(effect, before)
    whole = shop.settled()
    assert whole["metadata"]["generation"] == generation + (0 if strategy == "evict" else 1)
    assert whole["spec"]["replicas"] == (4 if strategy == "scale" else 3)
    wait_until("old pods go", lambda: len(shop.uids()) == whole["spec"]["replicas"], 20.0)
    assert len(uids - shop.uids()) == {"restart": 3, "scale": 0, "evict": 1}[strategy]


@pytest.mark.parametrize("point", ["before the effect", "after the effect"])
def test_killed_around_a_rollback_there_is_exactly_one(shop: RepairedShop, point: str) -> None:
    """One change of the template, to the one that served; never a second one, never half of it."""
    shop.deploy(replicas=3)
    good = shop.settled()["spec"]["template"]
    stick(shop)
    generation = shop.whole()["metadata"]["generation"]
    effect = shop.effect("rollback")
    before = dict(effect.snapshot())
    arguments = json.dumps([shop.values(), "rollback", before, point])
    killed = subprocess.run([sys.executable, "-c", PERFORM_AND_DIE, arguments], timeout=60, check=False)
    assert killed.returncode == -signal.SIGKILL
    found = effect.observe(before)
    if point == "before the effect":
        assert (found.status, shop.whole()["metadata"]["generation"]) == (Status.FAILED, generation)
        assert do(effect, before).status is Status.SUCCEEDED
    else:
        assert found.status is Status.SUCCEEDED
    settles(effect, before)
    whole = shop.settled()
    assert whole["metadata"]["generation"] == generation + 1
    assert json.dumps(whole["spec"]["template"]) == json.dumps(good)


# --- an API server that goes away amid it


@pytest.fixture(scope="module")
def fragile() -> Iterator[Cluster]:
    """A control plane for the tests that stop or kill it."""
    require_cluster()
    with Cluster() as cluster:
        yield cluster


@pytest.mark.parametrize("strategy", ["restart", "scale"])
@pytest.mark.parametrize("dies", [True, False], ids=["killed", "hangs"])
def test_an_api_server_that_goes_away_amid_an_order_tells_when_it_is_back(
    fragile: Cluster, numbers: Iterator[int], strategy: str, dies: bool
) -> None:
    """It has the order and does not answer: killed, it never carries it out; going on, it may, and once."""
    shop = RepairedShop(fragile, f"repair-{next(numbers)}")
    with Kubelet(shop):
        shop.deploy(replicas=2)
        generation = shop.settled()["metadata"]["generation"]
    effect = shop.effect(strategy, max=9)
    before = dict(effect.snapshot())

    def hang() -> bool:
        shop.cluster.signal_api_server(signal.SIGSTOP)
        return True

    outcome = effect.perform(key="k", attempt=1, before=before, permit=hang)
    try:
        assert isinstance(outcome, Untold), outcome
        assert isinstance(effect.observe(before), Untold)
    finally:
        if dies:
            shop.cluster.stop_api_server()
            shop.cluster.start_api_server()
        else:
            shop.cluster.signal_api_server(signal.SIGCONT)
    if effect.observe(before).status is Status.FAILED:
        do(effect, before)
    assert effect.observe(before).status is Status.SUCCEEDED
    assert shop.whole()["metadata"]["generation"] == generation + 1


# --- who else manages it


def test_what_argo_manages_is_proposed_and_not_done(shop: RepairedShop) -> None:
    """Scale and rollback become proposals with commands; a restart is done."""
    shop.deploy(replicas=3)
    shop.settled()
    shop.cluster.patch(f"{shop.workloads()}/cart", ARGO)
    with pytest.raises(NotApplicable) as scaled:
        shop.effect("scale", max=5).snapshot()
    assert "Argo CD (shop) manages it" in str(scaled.value)
    assert f"set spec.replicas of Deployment {shop.namespace}/cart from 3 to 4" in str(scaled.value)
    assert "`argocd app sync shop`" in str(scaled.value)
    restart = shop.effect("restart")
    before = restart.snapshot()
    assert do(restart, before).status is Status.SUCCEEDED
    settles(restart, before)
    generation = stick(shop)["metadata"]["generation"]
    with pytest.raises(NotApplicable) as rolled:
        shop.effect("rollback").snapshot()
    command = f"kubectl --context test -n {shop.namespace} rollout history deployment/cart --revision=2"
    assert command in str(rolled.value)
    assert shop.whole()["metadata"]["generation"] == generation


def test_an_annotation_that_git_holds_is_not_written(shop: RepairedShop) -> None:
    """Applied by Argo CD's own field manager: it would be put back, with a rollout each way."""
    shop.deploy()
    shop.settled()
    template = {"metadata": {"annotations": {RESTARTED: "2026-01-01T00:00:00Z"}}}
    answer = shop.cluster.api.patch(
        f"{shop.workloads()}/cart?fieldManager=argocd-controller",
        json={"spec": {"template": template}},
        headers={"Content-Type": "application/merge-patch+json"},
    )
    assert answer.is_success
    wait_until("rolled out", lambda: shop.settled()["metadata"]["generation"] == 2, 30.0)
    with pytest.raises(NotApplicable, match=r"Argo CD holds kubectl\.kubernetes\.io/restartedAt"):
        shop.effect("restart").snapshot()


# --- rights


@pytest.fixture
def grant(shop: RepairedShop) -> Callable[..., None]:
    """Give the visitor the shipped roles whose names end so."""

    def grant(*endings: str) -> None:
        user = {"kind": "User", "name": VISITOR_NAME, "apiGroup": "rbac.authorization.k8s.io"}
        for document in yaml.safe_load_all(RBAC.read_text()):
            if document["kind"].startswith("Cluster") or not document["metadata"]["name"].endswith(endings):
                continue
            if "subjects" in document:
                document["subjects"] = [user]
            kind = f"{document['kind'].lower()}s"
            namespace = f"namespaces/{shop.namespace}"
            shop.cluster.create(f"/apis/rbac.authorization.k8s.io/v1/{namespace}/{kind}", document)

    return grant


def test_the_shipped_role_allows_every_repair(shop: RepairedShop, grant: Callable[..., None]) -> None:
    """Without any, nothing is read; with the one for evidence, 403 and nothing done; with both, all of it."""
    shop.deploy(replicas=3)
    generation = shop.settled()["metadata"]["generation"]
    visitor = shop.platform(token=VISITOR, max=5)
    with pytest.raises(TargetUnreadable, match=r"not allowed \(403\)"):
        visitor.effect("restart").snapshot()
    with pytest.raises(TargetUnreadable, match=r"not allowed \(403\)"):
        visitor.check()
    grant("evidence")
    with pytest.raises(TargetUnreadable) as missing:
        visitor.check()
    for told in ("patch deployments (", "patch deployments/scale (scale)", "create pods/eviction (evict)"):
        assert told in str(missing.value)
    assert do(visitor.effect("restart")).detail.count("403") == 1
    assert do(visitor.effect("scale")).status is Status.FAILED
    shop.crash(shop.pods()[0])
    wait_until("it is noticed", lambda: shop.whole()["status"].get("readyReplicas") == 2, 20.0)
    with pytest.raises(TargetUnreadable, match="403"):
        visitor.effect("evict").snapshot()
    assert shop.whole()["metadata"]["generation"] == generation
    grant("recovery")
    assert visitor.check() == (
        f"Deployment {shop.namespace}/cart can be repaired by restart, scale, evict, rollback"
    )
    evict = visitor.effect("evict")
    before = evict.snapshot()
    assert do(evict, before).status is Status.SUCCEEDED
    settles(evict, before)
    path = shop.autoscale()
    assert do(visitor.effect("scale")).status is Status.SUCCEEDED
    assert shop.cluster.api.get(path).json()["spec"]["minReplicas"] == 4
    stick(shop)
    rollback = visitor.effect("rollback")
    before = rollback.snapshot()
    assert do(rollback, before).status is Status.SUCCEEDED
    settles(rollback, before)
    assert do(visitor.effect("restart")).status is Status.SUCCEEDED
    wait_until("events", lambda: len(shop.events()) == 4, 10.0)


@pytest.mark.parametrize("kind", ["StatefulSet", "DaemonSet"])
def test_the_shipped_role_allows_the_repair_of_other_workloads(
    shop: RepairedShop, grant: Callable[..., None], kind: str
) -> None:
    """Every right that an effect needs is in the manifest, for each kind."""
    grant("evidence", "recovery")
    if kind == "DaemonSet":
        shop.add_node()
    shop.deploy(kind=kind, replicas=1)
    shop.settled(kind)
    assert "can be repaired by" in shop.platform(kind, VISITOR, max=3).check()


def test_an_event_that_cannot_be_written_costs_nothing(
    shop: RepairedShop, grant: Callable[..., None]
) -> None:
    """It is a courtesy: the restart is a success all the same, and the check says it."""
    grant("evidence")
    rules = [{"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["patch"]}]
    roles = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{shop.namespace}"
    shop.cluster.create(f"{roles}/roles", {"metadata": {"name": "patch"}, "rules": rules})
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "patch"}
    subjects = [{"kind": "User", "name": VISITOR_NAME, "apiGroup": "rbac.authorization.k8s.io"}]
    binding = {"metadata": {"name": "patch"}, "roleRef": reference, "subjects": subjects}
    shop.cluster.create(f"{roles}/rolebindings", binding)
    shop.deploy()
    shop.settled()
    visitor = shop.platform(token=VISITOR)
    assert do(visitor.effect("restart")).status is Status.SUCCEEDED
    assert shop.events() == []


def test_a_missing_workload_is_named(shop: RepairedShop) -> None:
    """Nothing is done to anything that is only called alike."""
    shop.deploy("cart-worker")
    for strategy in ("restart", "rollback", "evict"):
        with pytest.raises(TargetUnreadable, match="there is none"):
            shop.effect(strategy).snapshot()
