"""`shf rbac` grants what is asked for and nothing else: compared with an API server's audit log, both ways.

Each case applies the generated roles alone and works as the service account that they name. A right that is
missing is a 403 at the server; a right that no call needs is one too many.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from docker_engine import wait_until
from kubernetes_cluster import FABRIC, FABRIC_NAME, Cluster, require_cluster
from kubernetes_repairs import RepairedShop, do, settles, stick
from kubernetes_shop import Kubelet

from self_healing_fabric.cli import main
from self_healing_fabric.configuration import load_settings
from self_healing_fabric.diagnosis.sources import sources_of
from self_healing_fabric.diagnosis.sources.inquiry import Inquiry
from self_healing_fabric.recovery.effects import Effect
from self_healing_fabric.recovery.outcomes import Status
from self_healing_fabric.recovery.strategies import strategies
from self_healing_fabric.settings import DEFAULT_PLANS, Settings
from state_replica import StateReplica

pytestmark = pytest.mark.e2e

RBAC = "/apis/rbac.authorization.k8s.io/v1"
Verb = tuple[str, str, str]
"""A verb, its API group, its resource with the subresource."""

NOTHING_PLANNED: dict[str, list[str]] = {failure: [] for failure in DEFAULT_PLANS}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A control plane that writes down who asks what."""
    require_cluster()
    with Cluster(audited=True) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def numbers() -> Iterator[int]:
    """1, 2, 3 and so on."""
    return itertools.count(1)


class Granted:
    """A shop, a configuration, and the roles that `shf rbac` makes of it, applied."""

    def __init__(self, shop: RepairedShop, file: Path, **values: Any) -> None:
        self.shop = shop
        kubeconfig = {"kubeconfig": str(shop.cluster.kubeconfig(FABRIC)), "context": "test"}
        file.write_text(yaml.safe_dump({"kubernetes": kubeconfig, **values}))
        self.settings: Settings = load_settings(file)
        printed = CliRunner().invoke(main, ["rbac", "--config", str(file), "--json"])
        assert printed.exit_code == 0, printed.output
        self.documents = json.loads(printed.stdout)["items"]
        for document in self.documents:
            self._apply(document)
        self._before = len(shop.cluster.asked(FABRIC_NAME))

    def _apply(self, document: Mapping[str, Any]) -> None:
        namespace = document["metadata"].get("namespace")
        kind = f"{document['kind'].lower()}s"
        path = f"{RBAC}/namespaces/{namespace}/{kind}" if namespace else f"{RBAC}/{kind}"
        self.shop.cluster.api.delete(f"{path}/{document['metadata']['name']}")  # of the case before
        self.shop.cluster.create(path, document)

    def granted(self, *roles: str) -> set[Verb]:
        """The verbs of the roles whose names end so; of all without."""
        found = set()
        for document in self.documents:
            if "rules" in document and document["metadata"]["name"].endswith(roles or ("",)):
                for rule in document["rules"]:
                    found |= set(itertools.product(rule["verbs"], rule["apiGroups"], rule["resources"]))
        return found

    def used(self) -> set[Verb]:
        """What the API server was asked for since; nothing of it was refused."""
        found = set()
        for event in self.shop.cluster.asked(FABRIC_NAME)[self._before :]:
            what = event.get("objectRef", {})
            # Everybody may ask for his own rights and for what the server offers.
            if what.get("resource", "selfsubjectaccessreviews") == "selfsubjectaccessreviews":
                continue
            assert event["responseStatus"]["code"] != 403, event
            path = "/".join(filter(None, (what["resource"], what.get("subresource"))))
            found.add((event["verb"], what.get("apiGroup", ""), path))
        return found

    def effect(self, strategy: str) -> Effect:
        """On `cart`, as the service account."""
        return strategies(self.settings)[strategy].on("cart")


@pytest.fixture
def shop(cluster: Cluster, numbers: Iterator[int]) -> Iterator[RepairedShop]:
    """A namespace of the test's own, with a kubelet."""
    shop = RepairedShop(cluster, f"rights-{next(numbers)}")
    with Kubelet(shop):
        yield shop


def planned(shop: RepairedShop, kind: str, *names: str) -> dict[str, Any]:
    """A configuration whose only plan has these strategies."""
    recovery: dict[str, Any] = {"kubernetes": {"kind": kind, "namespace": shop.namespace, "name": "cart"}}
    if "scale" in names:
        recovery["scale"] = {"max": 5}
    plans = {**NOTHING_PLANNED, "service_failure": list(names)}
    return {"plans": plans, "services": {"cart": {"recovery": recovery}}}


def healed(effect: Effect) -> Mapping[str, Any]:
    """Performed, observed, settled; returns what was there before."""
    before = json.loads(json.dumps(dict(effect.snapshot())))
    outcome = do(effect, before)
    assert outcome.status is Status.SUCCEEDED, outcome.detail
    assert effect.observe(before).status is Status.SUCCEEDED
    return dict(before)


def undone(effect: Effect, before: Mapping[str, Any]) -> None:
    """Taken back."""
    undo = effect.undo(before)
    assert undo is not None
    assert do(undo).status is Status.SUCCEEDED


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet", "DaemonSet"])
def test_the_diagnosis_reads_what_is_granted_and_all_of_it(
    shop: RepairedShop, tmp_path: Path, kind: str
) -> None:
    """Where nothing is planned, there is no right to change anything, and each right to read is used."""
    granted = Granted(shop, tmp_path / "shf.yaml", **planned(shop, kind))
    shop.add_node()
    shop.deploy(kind=kind, replicas=1, nodeName=f"node-{shop.namespace}")
    shop.settled(kind)
    shop.crash(shop.pods()[0])
    service = granted.settings.services["cart"]
    makers = sources_of("cart", service, granted.settings.kubernetes, ())
    report = Inquiry({"kubernetes": makers["kubernetes"]}, at=0.0, within=20.0).report()
    assert report.missing == ()
    assert granted.used() == granted.granted()
    assert {verb for verb, _, _ in granted.granted()} == {"get", "list"}


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet", "DaemonSet"])
def test_a_restart(shop: RepairedShop, tmp_path: Path, kind: str) -> None:
    """It patches one workload and tells of it."""
    granted = Granted(shop, tmp_path / "shf.yaml", **planned(shop, kind, "restart"))
    shop.add_node()
    shop.deploy(kind=kind, replicas=1)
    shop.settled(kind)
    effect = granted.effect("restart")
    effect.check()
    settles(effect, healed(effect))
    assert granted.granted("recovery") <= granted.used() <= granted.granted()


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet"])
def test_a_scale(shop: RepairedShop, tmp_path: Path, kind: str) -> None:
    """By its number, and by the bounds of its autoscaler; both are taken back."""
    granted = Granted(shop, tmp_path / "shf.yaml", **planned(shop, kind, "scale"))
    shop.deploy(kind=kind)
    shop.settled(kind)
    effect = granted.effect("scale")
    effect.check()
    undone(effect, healed(effect))
    shop.settled(kind)
    shop.autoscale(1, 2, kind)
    undone(effect, healed(effect))
    assert granted.granted("recovery") <= granted.used() <= granted.granted()


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet", "DaemonSet"])
def test_an_eviction(shop: RepairedShop, tmp_path: Path, kind: str) -> None:
    """Of the one bad pod."""
    granted = Granted(shop, tmp_path / "shf.yaml", **planned(shop, kind, "evict"))
    if kind == "DaemonSet":
        shop.deploy_on_two_nodes()
    else:
        shop.deploy(kind=kind, replicas=2)
    shop.settled(kind)
    shop.crash(shop.pods()[0])
    ready = "numberReady" if kind == "DaemonSet" else "readyReplicas"
    wait_until("it is noticed", lambda: shop.whole(kind)["status"].get(ready) == 1, 20.0)
    effect = granted.effect("evict")
    effect.check()
    before = healed(effect)
    settles(effect, before)
    assert granted.granted("recovery") <= granted.used() <= granted.granted()


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet", "DaemonSet"])
def test_a_rollback(shop: RepairedShop, tmp_path: Path, kind: str) -> None:
    """To the revision that serves, and taken back; the broken pod of a StatefulSet is evicted."""
    granted = Granted(shop, tmp_path / "shf.yaml", **planned(shop, kind, "rollback"))
    ordered = {"podManagementPolicy": "OrderedReady"} if kind == "StatefulSet" else {}
    if kind == "DaemonSet":
        shop.deploy_on_two_nodes()
    else:
        shop.deploy(kind=kind, replicas=3, more=ordered)
    shop.settled(kind)
    stick(shop, kind)
    effect = granted.effect("rollback")
    effect.check()
    before = healed(effect)
    settles(effect, before)
    undone(effect, before)
    assert granted.granted("recovery") <= granted.used() <= granted.granted()


def test_a_configuration(shop: RepairedShop, tmp_path: Path) -> None:
    """A key of one ConfigMap, and one Deployment: read, compared, written; and no other of either."""
    wanted = tmp_path / "wanted.yaml"
    wanted.write_text("pool: 20\n")
    data = {"cart.yaml": "pool: 5\n"}
    for name in ("cart", "other"):
        path = f"/api/v1/namespaces/{shop.namespace}/configmaps"
        shop.cluster.create(path, {"metadata": {"name": name}, "data": data})
    shop.deploy()
    manifest = tmp_path / "manifest.yaml"
    place = {"name": "cart", "namespace": shop.namespace}
    replicas = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": place, "spec": {"replicas": 1}}
    manifest.write_text(yaml.safe_dump(replicas))
    key = {"configmap": {"namespace": shop.namespace, "name": "cart", "key": "cart.yaml"}}
    whole = {"object": {"api_version": "apps/v1", "kind": "Deployment", **place}}
    desired = {"file": str(wanted)}
    services = {
        "cart": {"recovery": {"configuration": {"desired": desired, "live": key, "format": "yaml"}}},
        "web": {
            "recovery": {
                "configuration": {"desired": {"manifest": str(manifest)}, "live": whole, "force": True}
            }
        },
    }
    granted = Granted(shop, tmp_path / "shf.yaml", services=services)
    for service in services:
        effect = strategies(granted.settings)["sync"].on(service)
        effect.check()
        healed(effect)
    assert granted.used() == granted.granted()
    named = {name for rule in granted.documents[0]["rules"] for name in rule["resourceNames"]}
    assert named == {"cart"}


def test_a_configuration_that_is_only_watched(shop: RepairedShop, tmp_path: Path) -> None:
    """Without `sync` in a plan, a ConfigMap is read and never written."""
    wanted = tmp_path / "wanted.yaml"
    wanted.write_text("pool: 20\n")
    key = {"configmap": {"namespace": shop.namespace, "name": "cart", "key": "cart.yaml"}}
    configuration = {"desired": {"file": str(wanted)}, "live": key, "format": "yaml"}
    services = {"cart": {"recovery": {"configuration": configuration}}}
    granted = Granted(shop, tmp_path / "shf.yaml", plans=NOTHING_PLANNED, services=services)
    assert granted.granted() == {("get", "", "configmaps")}


def test_a_restoring_job(shop: RepairedShop, tmp_path: Path) -> None:
    """Made from the one CronJob, and watched."""
    container = {"name": "restore", "image": "restore:1"}
    template = {"spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [container]}}}}
    spec = {"schedule": "0 0 1 1 *", "suspend": True, "jobTemplate": template}
    path = f"/apis/batch/v1beta1/namespaces/{shop.namespace}/cronjobs"
    shop.cluster.create(path, {"metadata": {"name": "restore"}, "spec": spec})
    with ExitStack() as running:
        states = {"a": b"right", "b": b"right", "c": b"wrong"}
        replicas = [
            {
                "name": name,
                "url": running.enter_context(StateReplica(name, state)).url,
                "failure_domain": name,
            }
            for name, state in states.items()
        ]
        job = {"namespace": shop.namespace, "cronjob": "restore"}
        state = {
            "replicas": replicas,
            "keep_aside": str(tmp_path / "aside"),
            "pause": 0,
            "restore_job": job,
        }
        services = {"cart": {"recovery": {"state": state}}}
        granted = Granted(shop, tmp_path / "shf.yaml", services=services)
        effect = granted.effect("repair")
        before = json.loads(json.dumps(dict(effect.snapshot())))
        outcome = effect.perform(key="i1/repair-ab", attempt=1, before=before, permit=lambda: True)
        assert outcome.status is Status.SUCCEEDED, outcome.detail
        effect.observe(before)
        effect.settled(before)
    assert granted.used() == granted.granted()
