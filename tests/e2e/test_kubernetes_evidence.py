"""What a real API server testifies about workloads in trouble, and what the diagnosis makes of it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from docker_engine import wait_until
from kubernetes_cluster import VISITOR, VISITOR_NAME, Cluster, moment, require_cluster
from kubernetes_shop import CRASHING, Shop

from self_healing_fabric.diagnosis.evidence import Observations
from self_healing_fabric.diagnosis.failure_classifier import FailureClass, classify
from self_healing_fabric.diagnosis.patterns import ChangeKind, Pattern
from self_healing_fabric.diagnosis.root_cause_analyzer import Cause, analyze
from self_healing_fabric.diagnosis.sources import Report, sources_of
from self_healing_fabric.diagnosis.sources.inquiry import Inquiry
from self_healing_fabric.settings import KubernetesSettings, ServiceSettings, Thresholds

pytestmark = pytest.mark.e2e

RBAC = Path(__file__).parents[2] / "deploy/kubernetes/rbac.yaml"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A control plane of the tests' own."""
    require_cluster()
    with Cluster() as cluster:
        yield cluster


class AskedShop(Shop):
    """The same, and what the diagnosis hears of it."""

    def ask(self, *, kind: str = "Deployment", kubeconfig: Path | None = None, later: float = 1.0) -> Report:
        """What the diagnosis gets to hear of `cart`."""
        target = {"kind": kind, "namespace": self.namespace, "name": "cart"}
        service = ServiceSettings.model_validate({"recovery": {"kubernetes": target}})
        settings = KubernetesSettings(kubeconfig=kubeconfig or self.cluster.kubeconfig(), timeout=10.0)
        makers = sources_of("cart", service, settings, ())
        return Inquiry(makers, at=time.time() + later, within=20.0).report()


@pytest.fixture
def shop(cluster: Cluster, numbers: Iterator[int]) -> AskedShop:
    """A namespace of the test's own."""
    return AskedShop(cluster, f"shop-{next(numbers)}")


@pytest.fixture(scope="module")
def numbers() -> Iterator[int]:
    """1, 2, 3 and so on."""
    return itertools.count(1)


def told(report: Report) -> str:
    return " ".join(fact.evidence.statement for fact in report.facts)


def seen(report: Report) -> Observations:
    return Observations(
        service="cart", depends_on=(), values={}, at=time.time(), thresholds=Thresholds(), report=report
    )


def cause_of(report: Report) -> Cause:
    """What the rules make of the API server's word alone, for an incident that opens now."""
    return analyze(seen(report), time.time() + 1)[0]


def test_pods_killed_for_their_memory_are_an_exhausted_resource(shop: AskedShop) -> None:
    """OOMKilled with 137, told once for both pods; the like-named neighbour's trouble is not ours."""
    for pod in shop.deploy():
        shop.container(pod, CRASHING, {"exitCode": 137, "reason": "OOMKilled"})
    for pod in shop.deploy("cart-worker"):
        shop.container(pod, {"waiting": {"reason": "CreateContainerConfigError"}})
    report = shop.ask()
    assert (
        f"2 of 2 pods of Deployment {shop.namespace}/cart: container app is in CrashLoopBackOff and ended "
        "with code 137, SIGKILL, OOMKilled: started anew 5 times." in told(report)
    )
    assert "CreateContainerConfigError" not in told(report)
    assert report.missing == ()
    cause = cause_of(report)
    assert cause.pattern is Pattern.RESOURCE_EXHAUSTION
    assert cause.confidence >= 0.9
    assert cause.evidence[0].query.startswith(f"kubectl -n {shop.namespace} describe pod cart-")
    assert classify(seen(report), ()).failure_class is FailureClass.SERVICE_FAILURE


def test_the_pods_of_another_owner_are_not_blamed(shop: AskedShop) -> None:
    """They carry our labels, and our selector finds them; only their owner tells that they are not ours."""
    shop.deploy()
    ours = {pod["metadata"]["uid"] for pod in shop.pods(2)}
    labels = {"app": "cart", "part": "cart", "who": "impostor"}
    containers = [{"name": "app", "image": "cart:1"}]
    template = {"metadata": {"labels": labels}, "spec": {"containers": containers}}
    spec = {"replicas": 1, "selector": {"matchLabels": {"who": "impostor"}}, "template": template}
    shop.cluster.create(shop.workloads(), {"metadata": {"name": "impostor"}, "spec": spec})
    (stranger,) = [pod for pod in shop.pods(3) if pod["metadata"]["uid"] not in ours]
    shop.container(stranger, CRASHING, {"exitCode": 137, "reason": "OOMKilled"})
    shop.event(stranger, "FailedMount", "not ours")
    report = shop.ask()
    assert "OOMKilled" not in told(report)
    assert "not ours" not in told(report)
    assert len(report.changes) == 1


def test_an_image_that_cannot_be_pulled_is_the_rollouts_setting(shop: AskedShop) -> None:
    """The pod of the new revision waits; the change tells the images before and after."""
    shop.deploy()
    pod = shop.roll_out(spec={"containers": [{"name": "app", "image": "cart:2-typo"}]})
    waiting = {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "cart:2-typo"'}
    shop.container(pod, {"waiting": waiting})
    report = shop.ask()
    (change,) = report.changes
    assert change.what.endswith("was rolled out, revision 2 (app: cart:1 -> cart:2-typo)")
    assert (change.kind, change.service) == (ChangeKind.ROLLOUT, "cart")
    assert change.query == f"kubectl -n {shop.namespace} rollout history deployment/cart"
    cause = cause_of(report)
    assert cause.pattern is Pattern.CONFIGURATION_ERROR
    assert cause.confidence >= 0.85
    assert any("rolled out" in evidence.statement for evidence in cause.evidence)


def test_a_crash_after_a_rollout_is_its_code_or_its_settings(shop: AskedShop) -> None:
    """Exit code 1: both are named, with the rollout in the evidence of both."""
    shop.deploy()
    pod = shop.roll_out(spec={"containers": [{"name": "app", "image": "cart:2"}]})
    shop.container(pod, CRASHING, {"exitCode": 1, "reason": "Error"})
    cause, others = analyze(seen(shop.ask()), time.time() + 1)
    assert {cause.pattern, others[0].pattern} == {Pattern.CODE_BUG, Pattern.CONFIGURATION_ERROR}
    assert cause.confidence > 0.5
    assert all(
        any("rolled out" in evidence.statement for evidence in each.evidence) for each in (cause, others[0])
    )


def test_a_missing_secret_after_a_change_of_settings(shop: AskedShop) -> None:
    """The same image with another environment is a change of configuration, and no rollout of code."""
    shop.deploy()
    environment = [{"name": "TOKEN", "value": "x"}]
    pod = shop.roll_out(spec={"containers": [{"name": "app", "image": "cart:1", "env": environment}]})
    waiting = {"reason": "CreateContainerConfigError", "message": 'secret "shop-token" not found'}
    shop.container(pod, {"waiting": waiting})
    report = shop.ask()
    assert [change.kind for change in report.changes] == [ChangeKind.CONFIGURATION]
    assert 'CreateContainerConfigError: secret "shop-token" not found.' in told(report)
    assert cause_of(report).pattern is Pattern.CONFIGURATION_ERROR


def test_a_restart_is_no_rollout(shop: AskedShop) -> None:
    """`kubectl rollout restart` makes a revision that differs in its annotation only."""
    shop.deploy()
    shop.roll_out(metadata={"annotations": {"kubectl.kubernetes.io/restartedAt": moment()}})
    (change,) = shop.ask().changes
    assert (change.kind, change.what) == (
        ChangeKind.RESTART,
        f"Deployment {shop.namespace}/cart was restarted",
    )


def test_a_rollback_is_told_as_one(shop: AskedShop) -> None:
    """The old revision's object is taken up again, so its own age says nothing."""
    shop.deploy()
    time.sleep(1.1)  # times of the API are whole seconds
    shop.roll_out(spec={"containers": [{"name": "app", "image": "cart:2"}]})
    shop.change({"template": {"spec": {"containers": [{"name": "app", "image": "cart:1"}]}}})
    wait_until("the rollback", lambda: "rolled back" in _changes(shop.ask()), 20.0)
    assert "now revision 3 (app: cart:2 -> cart:1)" in _changes(shop.ask())


def _changes(report: Report) -> str:
    return " ".join(change.what for change in report.changes)


def test_warnings_are_counted_by_reason(shop: AskedShop) -> None:
    """Of the last hour, of our pods only, the newest message."""
    one, other = shop.deploy()
    (stranger, _) = shop.deploy("cart-worker")
    shop.event(one, "Unhealthy", "Liveness probe failed: HTTP 503", count=7)
    shop.event(other, "Unhealthy", "Readiness probe failed: timeout", count=2, ago=5)
    shop.event(one, "FailedMount", 'configmap "shop" not found')
    shop.event(one, "Unhealthy", "long ago", count=1000, ago=4000)
    shop.event(stranger, "FailedMount", "not ours", count=50)
    report = shop.ask()
    assert "had 9 warnings Unhealthy within the last hour: Readiness probe failed: timeout." in told(report)
    assert 'had 1 warnings FailedMount within the last hour: configmap "shop" not found.' in told(report)
    assert "ours" not in told(report)
    assert cause_of(report).pattern is Pattern.CONFIGURATION_ERROR
    commands = [fact.evidence.query for fact in report.facts]
    assert f"kubectl -n {shop.namespace} get events --field-selector reason=Unhealthy" in commands


def test_pods_that_no_node_takes_want_resources(shop: AskedShop) -> None:
    """The scheduler's own words decide; its event does not say it twice."""
    message = "0/3 nodes are available: 3 Insufficient memory."
    for pod in shop.deploy():
        shop.status(
            pod,
            conditions=[
                {
                    **{"type": "PodScheduled", "status": "False", "reason": "Unschedulable"},
                    **{"message": message, "lastTransitionTime": moment(40)},
                }
            ],
        )
        shop.event(pod, "FailedScheduling", message, count=20)
    report = shop.ask()
    assert "2 pods" in told(report)
    assert told(report).count("Insufficient memory") == 1
    cause = cause_of(report)
    assert (cause.pattern, round(cause.confidence, 2)) == (Pattern.RESOURCE_EXHAUSTION, 0.85)


def test_evicted_pods_want_resources(shop: AskedShop) -> None:
    """The node's own words."""
    pod, _ = shop.deploy()
    shop.status(pod, phase="Failed", reason="Evicted", message="The node was low on resource: memory.")
    report = shop.ask()
    assert "1 pods of" in told(report)
    assert "were evicted: The node was low on resource: memory." in told(report)
    assert cause_of(report).pattern is Pattern.RESOURCE_EXHAUSTION


def test_a_node_in_trouble_is_evidence(shop: AskedShop) -> None:
    """Of the nodes that run our pods, and of no others."""
    for name in ("ours", "theirs"):
        node = f"{name}-{shop.namespace}"
        shop.cluster.create("/api/v1/nodes", {"metadata": {"name": node}})
        condition = {"type": "MemoryPressure", "status": "True", "message": "kubelet has no memory"}
        shop.cluster.patch(f"/api/v1/nodes/{node}/status", {"status": {"conditions": [condition]}})
    shop.deploy(nodeName=f"ours-{shop.namespace}")
    report = shop.ask()
    assert f"Node ours-{shop.namespace}, which runs pods of Deployment" in told(report)
    assert "theirs" not in told(report)
    assert cause_of(report).pattern is Pattern.RESOURCE_EXHAUSTION
    assert f"kubectl describe node ours-{shop.namespace}" in [fact.evidence.query for fact in report.facts]


def test_scaling_is_a_change_and_a_full_autoscaler_an_overload(shop: AskedShop) -> None:
    """An autoscaler that scaled a moment ago and can go no further."""
    shop.deploy()
    autoscalers = f"/apis/autoscaling/v1/namespaces/{shop.namespace}/horizontalpodautoscalers"
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "cart"}
    spec = {"scaleTargetRef": target, "minReplicas": 1, "maxReplicas": 2}
    shop.cluster.create(autoscalers, {"metadata": {"name": "cart"}, "spec": spec})
    other = {**spec, "scaleTargetRef": {**target, "name": "cart-worker"}}
    shop.cluster.create(autoscalers, {"metadata": {"name": "worker"}, "spec": other})
    for name in ("cart", "worker"):
        status = {"currentReplicas": 2, "desiredReplicas": 2, "lastScaleTime": moment(120)}
        shop.cluster.patch(f"{autoscalers}/{name}/status", {"status": status})
    report = shop.ask()
    assert "runs at the maximum of its autoscaler cart: 2 replicas." in told(report)
    assert "autoscaler worker" not in told(report) + _changes(report)
    assert "was scaled by its autoscaler cart" in _changes(report)
    assert cause_of(report).pattern is Pattern.SERVICE_OVERLOAD


def test_scaling_to_nothing_is_told(shop: AskedShop) -> None:
    """By whom, and that it is wanted so."""
    shop.deploy()
    answer = shop.cluster.api.patch(
        f"{shop.workloads()}/cart?fieldManager=someone",
        json={"spec": {"replicas": 0}},
        headers={"Content-Type": "application/merge-patch+json"},
    )
    assert answer.is_success
    report = shop.ask()
    assert "is wanted with 0 replicas." in told(report)
    assert "was scaled to 0 replicas by someone" in _changes(report)
    assert classify(seen(report), ()).failure_class is FailureClass.SERVICE_FAILURE


@pytest.mark.parametrize("kind", ["StatefulSet", "DaemonSet"])
def test_other_workloads_are_read_as_well(shop: AskedShop, kind: str) -> None:
    """Their revisions are ControllerRevisions, and their pods are their own."""
    shop.add_node()  # nobody else finds it ready
    pods = shop.deploy(kind=kind, replicas=1)
    shop.container(pods[0], CRASHING, {"exitCode": 139, "reason": "Error"})
    assert cause_of(shop.ask(kind=kind)).pattern is Pattern.CODE_BUG
    shop.change({"template": {"spec": {"containers": [{"name": "app", "image": "cart:2"}]}}}, kind)
    wait_until(
        "the revision", lambda: "revision 2 (app: cart:1 -> cart:2)" in _changes(shop.ask(kind=kind)), 20.0
    )


def test_what_happened_long_ago_is_no_reason(shop: AskedShop) -> None:
    """Two hours later the creation is no change any more, and the warning no evidence."""
    pod, _ = shop.deploy()
    shop.event(pod, "FailedMount", "too old")
    report = shop.ask(later=7200)
    assert report.changes == ()
    assert "too old" not in told(report)


@pytest.fixture
def manifest(shop: AskedShop) -> Callable[..., None]:
    """Grant the visitor what the shipped manifest grants the fabric, or only some kinds of it."""

    def grant(*kinds: str) -> None:
        user = {"kind": "User", "name": VISITOR_NAME, "apiGroup": "rbac.authorization.k8s.io"}
        for document in yaml.safe_load_all(RBAC.read_text()):
            if document["kind"] not in kinds:
                continue
            if document["kind"].startswith("Cluster"):
                path = f"/apis/rbac.authorization.k8s.io/v1/{document['kind'].lower()}s"
            else:
                namespace = f"namespaces/{shop.namespace}"
                path = f"/apis/rbac.authorization.k8s.io/v1/{namespace}/{document['kind'].lower()}s"
            if "subjects" in document:
                document["subjects"] = [user]
            shop.cluster.create(path, document)

    return grant


def test_the_shipped_manifest_grants_all_that_is_asked(
    shop: AskedShop, manifest: Callable[..., None]
) -> None:
    """Without it nothing is seen, without its cluster part no nodes, with all of it nothing is missing."""
    node = f"node-{shop.namespace}"
    shop.cluster.create("/api/v1/nodes", {"metadata": {"name": node}})
    shop.deploy(nodeName=node)
    visitor = shop.cluster.kubeconfig(VISITOR)
    (missing,) = shop.ask(kubeconfig=visitor).missing
    assert missing == (
        f"kubernetes: Deployment {shop.namespace}/cart: not allowed (403): grant what `shf rbac` prints"
    )
    manifest("Role", "RoleBinding")
    wait_until("the role counts", lambda: bool(shop.ask(kubeconfig=visitor).facts), 10.0)
    (missing,) = shop.ask(kubeconfig=visitor).missing
    assert missing.startswith(f"kubernetes: node {node}: not allowed (403)")
    manifest("ClusterRole", "ClusterRoleBinding")
    wait_until("the cluster role counts", lambda: not shop.ask(kubeconfig=visitor).missing, 10.0)


def test_a_workload_that_is_not_there_is_missing(shop: AskedShop) -> None:
    """And what to correct is said."""
    assert shop.ask().missing == (
        f"kubernetes: Deployment {shop.namespace}/cart: there is none: "
        "correct services.NAME.recovery.kubernetes",
    )
