"""A control plane under stress, a real one: too busy, starting anew, at work on what people take away."""

from __future__ import annotations

import itertools
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
import yaml
from docker_engine import wait_until
from kubernetes_cluster import VISITOR, VISITOR_NAME, Cluster, require_cluster
from kubernetes_repairs import RepairedShop, do
from kubernetes_shop import Kubelet

from self_healing_fabric.recovery.effects import (
    BUSY_PAUSE,
    Effect,
    NotApplicable,
    Progress,
    TargetAway,
    TargetUnreadable,
)
from self_healing_fabric.recovery.outcomes import Status, Untold
from self_healing_fabric.recovery.strategies import strategies
from self_healing_fabric.settings import Settings
from shf_demo.ports import free_ports

pytestmark = pytest.mark.e2e

FLOWS = "/apis/flowcontrol.apiserver.k8s.io/v1beta1"
NOBODY = "/apis/apps/v1/namespaces/default/deployments/nobody"
STARTS = 5  # of an API server until it was asked before it knew of its rights
NAMED, REJECT = {"name": "orders"}, {"type": "Reject"}
MERGE = "application/merge-patch+json"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A control plane of the tests' own, in which the visitor has rights, and few seats for orders."""
    require_cluster()
    with Cluster() as cluster:
        cluster.grant_all()
        level = {"type": "Limited", "limited": {"assuredConcurrencyShares": 1, "limitResponse": REJECT}}
        cluster.create(f"{FLOWS}/prioritylevelconfigurations", {"metadata": NAMED, "spec": level})
        rule = {
            "subjects": [{"kind": "User", "user": {"name": VISITOR_NAME}}],
            "resourceRules": [
                {
                    "verbs": ["create", "patch"],
                    "apiGroups": ["*"],
                    "resources": ["*"],
                    "namespaces": ["*"],
                    "clusterScope": True,
                }
            ],
        }
        flow = {"matchingPrecedence": 2, "priorityLevelConfiguration": NAMED, "rules": [rule]}
        cluster.create(f"{FLOWS}/flowschemas", {"metadata": NAMED, "spec": flow})
        yield cluster


@pytest.fixture(scope="module")
def numbers() -> Iterator[int]:
    """1, 2, 3 and so on."""
    return itertools.count(1)


@pytest.fixture
def shop(cluster: Cluster, numbers: Iterator[int]) -> Iterator[RepairedShop]:
    """A namespace of the test's own, with a kubelet."""
    shop = RepairedShop(cluster, f"stress-{next(numbers)}")
    with Kubelet(shop):
        yield shop


@contextmanager
def no_seat_left(cluster: Cluster) -> Iterator[None]:
    """Orders of the visitor whose bodies never end take all seats: his next one is answered with 429."""
    trusted = ssl.create_default_context(cafile=str(cluster.directory / "certs/apiserver.crt"))
    address = urlsplit(cluster.url)
    assert address.hostname is not None
    head = (
        f"PATCH {NOBODY} HTTP/1.1\r\nHost: {address.netloc}\r\nAuthorization: Bearer {VISITOR}\r\n"
        f"Content-Type: {MERGE}\r\nContent-Length: 99\r\n\r\n{{"
    )
    with ExitStack() as held, httpx.Client(verify=trusted, trust_env=False) as visitor:

        def is_full() -> bool:
            headers = {"Authorization": f"Bearer {VISITOR}", "Content-Type": MERGE}
            return visitor.patch(f"{cluster.url}{NOBODY}", content="{}", headers=headers).status_code == 429

        def is_full_with_one_more() -> bool:
            plain = socket.create_connection((address.hostname, address.port or 0))
            one = held.enter_context(trusted.wrap_socket(plain, server_hostname=address.hostname))
            one.sendall(head.encode())
            return is_full()

        wait_until("all seats are taken", is_full_with_one_more, 30.0)
        yield


@pytest.mark.parametrize("strategy", ["restart", "scale"])
def test_an_order_that_the_api_server_has_no_time_for_is_sent_again(
    shop: RepairedShop, strategy: str
) -> None:
    """429 with Retry-After: nothing was done, and the next attempt does it, once."""
    shop.deploy()
    generation = shop.settled()["metadata"]["generation"]
    effect = shop.platform(token=VISITOR, max=9).effect(strategy)
    before = effect.snapshot()
    with no_seat_left(shop.cluster):
        outcome = do(effect, before)
    assert (outcome.status, "429" in outcome.detail) == (Status.FAILED, True)
    assert outcome.retry_in is not None
    assert outcome.retry_in >= 1.0
    assert shop.whole()["metadata"]["generation"] == generation
    assert do(effect, effect.snapshot()).status is Status.SUCCEEDED
    assert shop.whole()["metadata"]["generation"] == generation + 1


def test_an_eviction_waits_for_a_busy_api_server_and_not_for_a_budget(shop: RepairedShop) -> None:
    """Both are answered with 429, to the dry run and to the order; a budget forbids, and says no time."""
    shop.deploy(replicas=3)
    shop.settled()
    shop.crash(shop.pods()[0])
    wait_until("it is noticed", lambda: shop.whole()["status"].get("readyReplicas") == 2, 20.0)
    uids = shop.uids()
    effect = shop.platform(token=VISITOR).effect("evict")
    before = effect.snapshot()
    with no_seat_left(shop.cluster):
        with pytest.raises(TargetAway, match="429"):
            effect.snapshot()
        assert do(effect, before).retry_in is not None
    shop.budget(3)
    with pytest.raises(NotApplicable, match="disruption budget"):
        effect.snapshot()
    outcome = do(effect, before)
    assert (outcome.status, outcome.retry_in) == (Status.FAILED, None)
    assert shop.uids() == uids


def test_an_api_server_that_does_not_know_its_rights_yet_is_waited_for(
    cluster: Cluster, numbers: Iterator[int]
) -> None:
    """For a moment after its start it refuses everybody with 403: nobody is told to grant rights."""
    shop = RepairedShop(cluster, f"stress-{next(numbers)}")
    with Kubelet(shop):
        shop.deploy()
        shop.settled()
    effect = shop.platform(token=VISITOR).effect("restart")
    before = effect.snapshot()
    told: list[str] = []

    def looks() -> bool:
        try:
            effect.snapshot()
        except TargetAway as error:
            told.append(str(error))
        except TargetUnreadable as error:
            pytest.fail(f"given up: {error}")
        else:
            return True
        assert effect.observe(before).status is not Status.SUCCEEDED
        return False

    for _ in range(STARTS):
        shop.cluster.stop_api_server()
        shop.cluster.launch_api_server()
        wait_until("it can be looked at", looks, 60.0)
        if any("403" in each for each in told):
            break
    assert any("is not ready, and answers 403" in each for each in told), told


def test_a_token_that_is_none_any_more_is_told_at_once(shop: RepairedShop) -> None:
    """An API server that is ready refuses it `/readyz`, too: to wait for that would hide the reason."""
    shop.deploy()
    wait_until("the API server is ready", lambda: shop.cluster.api.get("/readyz").is_success, 60.0)
    effect = shop.platform(token="token-of-nobody").effect("restart")
    with pytest.raises(TargetUnreadable, match=r"not allowed \(401\)") as told:
        effect.snapshot()
    assert not isinstance(told.value, TargetAway)


@pytest.mark.parametrize("strategy", ["restart", "scale", "evict", "rollback"])
def test_what_people_delete_is_not_repaired(shop: RepairedShop, strategy: str) -> None:
    """It takes orders until its pods are gone, and its controller carries none out."""
    shop.deploy(replicas=3)
    shop.settled()
    path = f"{shop.workloads()}/cart"
    shop.cluster.api.delete(f"{path}?propagationPolicy=Foreground").raise_for_status()
    generation = shop.whole()["metadata"]["generation"]
    with pytest.raises(NotApplicable, match="is being deleted"):
        shop.effect(strategy, max=9).snapshot()
    assert shop.whole()["metadata"]["generation"] == generation


def test_who_pauses_a_restart_under_way_is_named(shop: RepairedShop) -> None:
    """The pods that are left are not its controller's fault."""
    shop.deploy(replicas=3)
    shop.settled()
    effect = shop.effect("restart")
    before = effect.snapshot()
    do(effect, before)
    shop.change({"paused": True})
    shop.seen()
    assert "people have paused its rollouts" in effect.settled(before).detail


def test_an_autoscaler_that_goes_before_the_order_is_named_and_it_is_decided_anew(shop: RepairedShop) -> None:
    """The workload is there: nobody reads that it is gone, and it is scaled without an autoscaler."""
    shop.deploy()
    shop.settled()
    path = shop.autoscale()
    effect = shop.effect("scale", max=9)
    before = effect.snapshot()
    shop.cluster.api.delete(path).raise_for_status()
    outcome = do(effect, before)
    assert (outcome.status, outcome.retry_in) == (Status.FAILED, 0.0)
    assert "its autoscaler is gone; nothing was ordered" in outcome.detail
    assert do(effect).status is Status.SUCCEEDED
    assert shop.whole()["spec"]["replicas"] == 3


def test_an_autoscaler_that_comes_before_the_order_is_seen_and_it_is_decided_anew(shop: RepairedShop) -> None:
    """It would take the replicas back, or be thwarted by them: its bounds are moved instead."""
    shop.deploy()
    shop.settled()
    effect = shop.effect("scale", max=9)
    before = effect.snapshot()
    path = shop.autoscale(high=5)
    outcome = do(effect, before)
    assert (outcome.status, outcome.retry_in) == (Status.FAILED, 0.0)
    assert "an autoscaler has come since; nothing was ordered" in outcome.detail
    assert shop.whole()["spec"]["replicas"] == 2
    assert do(effect).status is Status.SUCCEEDED
    spec = shop.cluster.api.get(path).json()["spec"]
    assert (spec["minReplicas"], spec["maxReplicas"], shop.whole()["spec"]["replicas"]) == (3, 5, 2)


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet", "DaemonSet"])
def test_while_no_controller_carries_out_a_restart_nothing_follows_it(shop: RepairedShop, kind: str) -> None:
    """The next strategy waits for the controller manager: both would be done when it is back."""
    if kind == "DaemonSet":
        shop.deploy_on_two_nodes()
    else:
        shop.deploy(kind=kind)
    shop.settled(kind)
    restart, uids = shop.effect("restart", kind), shop.uids()
    before = restart.snapshot()
    shop.cluster.stop_controllers()
    try:
        assert do(restart, before).status is Status.SUCCEEDED
        for strategy in ("restart", "evict", "rollback", *(["scale"] if kind != "DaemonSet" else [])):
            with pytest.raises(TargetAway, match="its controller has not seen the newest change yet"):
                shop.effect(strategy, kind, max=9).snapshot()
    finally:
        shop.cluster.start_controllers()
    wait_until("the restart is carried out", lambda: restart.settled(before).progress is Progress.DONE, 60.0)
    assert shop.uids().isdisjoint(uids)
    if kind != "DaemonSet":
        assert do(shop.effect("scale", kind, max=9)).status is Status.SUCCEEDED
        assert shop.whole(kind)["spec"]["replicas"] == 3


@contextmanager
def admission_that_hangs_up(shop: RepairedShop, closed_port: int) -> Iterator[None]:
    """A webhook that must be asked before a workload is changed, and whose server is away."""
    kind, name = "admissionregistration.k8s.io/v1", f"away-{shop.namespace}"
    path = f"/apis/{kind}/validatingwebhookconfigurations"
    rule = {
        "operations": ["UPDATE"],
        "apiGroups": ["apps"],
        "apiVersions": ["v1"],
        "resources": ["deployments", "deployments/scale"],
    }
    hook = {
        "name": "away.example.org",
        "clientConfig": {"url": f"https://127.0.0.1:{closed_port}/"},
        "rules": [rule],
        "failurePolicy": "Fail",
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
        "timeoutSeconds": 1,
    }
    shop.cluster.create(path, {"metadata": {"name": name}, "webhooks": [hook]})
    patched = {"metadata": {"annotations": {"tried": "yes"}}}

    def is_asked() -> bool:
        headers = {"Content-Type": MERGE}
        answer = shop.cluster.api.patch(f"{shop.workloads()}/cart?dryRun=All", json=patched, headers=headers)
        return answer.status_code == 500

    wait_until("the webhook is asked", is_asked, 20.0)
    yield
    shop.cluster.api.delete(f"{path}/{name}").raise_for_status()
    wait_until("it is asked no more", lambda: not is_asked(), 20.0)


@pytest.mark.parametrize("strategy", ["restart", "scale"])
def test_an_order_that_admission_cannot_judge_is_asked_after_and_given_again(
    shop: RepairedShop, strategy: str
) -> None:
    """The API server answers 500 while a webhook is away, and nothing was changed: no reason to give up."""
    shop.deploy()
    generation = shop.settled()["metadata"]["generation"]
    effect = shop.effect(strategy, max=9)
    before = effect.snapshot()
    (closed_port,) = free_ports(1)
    with admission_that_hangs_up(shop, closed_port):
        outcome = do(effect, before)
    assert isinstance(outcome, Untold), outcome
    assert "the API server answered 500" in outcome.detail
    assert (outcome.unchanged, effect.observe(before).status) == (Status.FAILED, Status.FAILED)
    assert shop.whole()["metadata"]["generation"] == generation
    assert do(effect).status is Status.SUCCEEDED
    assert shop.whole()["metadata"]["generation"] == generation + 1


def sync_of(shop: RepairedShop, wanted: Path, live: str) -> Effect:
    """The sync of the ConfigMap `cart`, as one key of it or as a whole object, by the visitor."""
    where = {"namespace": shop.namespace, "name": "cart"}
    key, whole = {**where, "key": "cart.yaml"}, {**where, "kind": "ConfigMap"}
    metadata, data = {"name": "cart", "namespace": shop.namespace}, {"cart.yaml": "pool: 20\n"}
    manifest = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}
    wanted.write_text(data["cart.yaml"] if live == "configmap" else yaml.safe_dump(manifest))
    named = {"configmap": {"configmap": key}, "object": {"object": whole}}[live]
    desired = {"file" if live == "configmap" else "manifest": str(wanted)}
    values = shop.values(token=VISITOR)
    values["services"]["cart"]["recovery"]["configuration"] = {"desired": desired, "live": named}
    return strategies(Settings.model_validate(values))["sync"].on("cart")


@pytest.mark.parametrize("live", ["configmap", "object"])
def test_a_configuration_waits_for_the_api_server_with_its_write(
    cluster: Cluster, numbers: Iterator[int], tmp_path: Path, live: str
) -> None:
    """Too busy for it, away when it is looked at once more, or when only the write is left: written later."""
    shop = RepairedShop(cluster, f"stress-{next(numbers)}")
    maps = f"/api/v1/namespaces/{shop.namespace}/configmaps"
    named = f"{maps}?fieldManager=self-healing-fabric"
    shop.cluster.create(named, {"metadata": {"name": "cart"}, "data": {"cart.yaml": "pool: 5\n"}})
    effect = sync_of(shop, tmp_path / "wanted.yaml", live)
    before = effect.snapshot()
    with no_seat_left(shop.cluster):
        busy = do(effect, before)
    assert (busy.status, "429" in busy.detail, busy.retry_in) == (Status.FAILED, True, BUSY_PAUSE)

    def killed() -> bool:
        shop.cluster.stop_api_server()
        return True

    outcomes = [
        effect.perform(key="k", attempt=1, before=before, permit=permit) for permit in (killed, lambda: True)
    ]
    shop.cluster.start_api_server()
    for outcome in outcomes:
        assert (outcome.status, outcome.retry_in) == (Status.FAILED, 0.0), outcome
    assert shop.cluster.api.get(f"{maps}/cart").json()["data"] == {"cart.yaml": "pool: 5\n"}
    assert do(effect).status is Status.SUCCEEDED
    assert shop.cluster.api.get(f"{maps}/cart").json()["data"] == {"cart.yaml": "pool: 20\n"}
