"""Drift and sync on a real API server: what counts is what the server holds afterwards, and who owns it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes_cluster import VISITOR, Cluster, require_cluster

from self_healing_fabric.recovery.configuration import Configuration, configuration_of
from self_healing_fabric.recovery.effects import Effect, NotApplicable, Progress, TargetUnreadable
from self_healing_fabric.recovery.outcomes import Outcome, Status
from self_healing_fabric.recovery.strategies import strategies
from self_healing_fabric.settings import Settings

pytestmark = pytest.mark.e2e

CANARY = "canary-of-the-cluster"


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


class Shop:
    """One namespace, the wanted configuration in a file, and the fabric's view of both."""

    def __init__(self, cluster: Cluster, namespace: str, wanted: Path) -> None:
        self.cluster, self.namespace, self.wanted = cluster, namespace, wanted
        cluster.create("/api/v1/namespaces", {"metadata": {"name": namespace}})

    @property
    def maps(self) -> str:
        return f"/api/v1/namespaces/{self.namespace}/configmaps"

    @property
    def deployments(self) -> str:
        return f"/apis/apps/v1/namespaces/{self.namespace}/deployments"

    def get(self, path: str) -> Any:
        return self.cluster.api.get(path).raise_for_status().json()

    def settings(self, *, token: str | None = None, **configuration: Any) -> Settings:
        kubeconfig = self.cluster.kubeconfig(token) if token else self.cluster.kubeconfig()
        return Settings.model_validate(
            {
                "kubernetes": {"kubeconfig": str(kubeconfig)},
                "services": {"cart": {"recovery": {"configuration": configuration}}},
            }
        )

    def of_map(self, **more: Any) -> Settings:
        """The key `cart.yaml` of the ConfigMap `cart`."""
        live = {"configmap": {"namespace": self.namespace, "name": "cart", "key": "cart.yaml"}}
        return self.settings(desired={"file": str(self.wanted)}, live=live, format="yaml", **more)

    def of_object(self, api_version: str, kind: str, **more: Any) -> Settings:
        """The object `cart` of a kind."""
        where = {"api_version": api_version, "kind": kind, "namespace": self.namespace, "name": "cart"}
        return self.settings(desired={"manifest": str(self.wanted)}, live={"object": where}, **more)

    def write(self, manifest: Mapping[str, Any]) -> None:
        self.wanted.write_text(yaml.safe_dump(manifest))

    def apply(self, path: str, manifest: Mapping[str, Any], manager: str) -> Any:
        """Server-side apply by somebody."""
        answer = self.cluster.api.patch(
            f"{path}/{manifest['metadata']['name']}?fieldManager={manager}&force=true",
            content=json.dumps(manifest),
            headers={"Content-Type": "application/apply-patch+yaml"},
        )
        assert answer.is_success, answer.text
        return answer.json()


@pytest.fixture
def shop(cluster: Cluster, numbers: Iterator[int], tmp_path: Path) -> Shop:
    """A namespace of the test's own."""
    return Shop(cluster, f"shop-{next(numbers)}", tmp_path / "wanted.yaml")


def sync(settings: Settings) -> Effect:
    """The effect on the configured service."""
    return strategies(settings)["sync"].on("cart")


def perform(effect: Effect, before: Mapping[str, Any], permit: Any = lambda: True) -> Outcome:
    """Perform with what came back from the store."""
    return effect.perform(
        key="i1/sync-ab", attempt=1, before=json.loads(json.dumps(before)), permit=permit
    )  # fmt: skip


def configuration(settings: Settings) -> Configuration:
    found = configuration_of("cart", settings)
    assert found is not None
    return found


def cart_map(**more: Any) -> dict[str, Any]:
    """A ConfigMap with two keys, one of them the configuration."""
    data = {"cart.yaml": f"# by hand\npool: 5\npassword: {CANARY}\n", "other": "untouched"}
    return {"metadata": {"name": "cart"}, "data": data, **more}


def deployment(**container: Any) -> dict[str, Any]:
    """A manifest as people write it: without the defaults."""
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "cart"},
        "spec": {
            "selector": {"matchLabels": {"app": "cart"}},
            "template": {
                "metadata": {"labels": {"app": "cart"}},
                "spec": {"containers": [{"name": "app", "image": "cart:1", **container}]},
            },
        },
    }


def test_the_one_key_is_written_and_restored_exactly(shop: Shop) -> None:
    """Nothing else of the ConfigMap changes, and the previous text comes back to the last byte."""
    made = shop.cluster.create(shop.maps, cart_map())
    shop.wanted.write_text(f"pool: 20\npassword: {CANARY}\n")
    effect = sync(shop.of_map())
    before = effect.snapshot()
    assert before["diff"] == ["- pool: 5", "+ pool: 20"]
    outcome = perform(effect, before)
    assert outcome.status is Status.SUCCEEDED, outcome
    now = shop.get(f"{shop.maps}/cart")
    assert now["data"] == {"cart.yaml": shop.wanted.read_text(), "other": "untouched"}
    assert now["metadata"]["managedFields"][-1]["manager"] == "self-healing-fabric"
    assert effect.settled(before).progress is Progress.DONE
    back = effect.undo(before)
    assert back is not None
    assert perform(back, back.snapshot()).status is Status.SUCCEEDED
    assert shop.get(f"{shop.maps}/cart")["data"] == made["data"]


def test_a_key_that_is_missing_is_added_and_removed_again(shop: Shop) -> None:
    """Also one whose bytes are no text."""
    shop.cluster.create(shop.maps, {"metadata": {"name": "cart"}, "data": {"other": "untouched"}})
    shop.wanted.write_bytes(b"\xff\x00binary")
    settings = shop.of_map()
    recovery = settings.services["cart"].recovery
    assert recovery.configuration is not None
    live = recovery.configuration.live
    effect = sync(shop.settings(desired={"file": str(shop.wanted)}, live=live.model_dump(exclude_none=True)))
    before = effect.snapshot()
    assert perform(effect, before).status is Status.SUCCEEDED
    assert shop.get(f"{shop.maps}/cart")["binaryData"] == {"cart.yaml": "/wBiaW5hcnk="}
    back = effect.undo(before)
    assert back is not None
    assert perform(back, back.snapshot()).status is Status.SUCCEEDED
    now = shop.get(f"{shop.maps}/cart")
    assert (now["data"], now.get("binaryData")) == ({"other": "untouched"}, None)


def test_another_key_may_change_meanwhile_and_the_same_may_not(shop: Shop) -> None:
    """What somebody else writes into the key wins; what he writes beside it is no obstacle, and stays."""
    shop.cluster.create(shop.maps, cart_map())
    shop.wanted.write_text("pool: 20\n")
    effect = sync(shop.of_map())
    before = effect.snapshot()
    shop.cluster.patch(f"{shop.maps}/cart", {"data": {"cart.yaml": "pool: 7\n"}})
    assert perform(effect, before).status is Status.FAILED
    assert shop.get(f"{shop.maps}/cart")["data"]["cart.yaml"] == "pool: 7\n"
    before = effect.snapshot()
    shop.cluster.patch(f"{shop.maps}/cart", {"data": {"other": "new"}})
    assert perform(effect, before).status is Status.SUCCEEDED
    assert shop.get(f"{shop.maps}/cart")["data"] == {"cart.yaml": "pool: 20\n", "other": "new"}


def test_a_change_in_the_last_moment_is_refused_by_the_server(shop: Shop) -> None:
    """Between our last look and our patch: the resourceVersion in the patch makes the server say 409."""
    shop.cluster.create(shop.maps, cart_map())
    shop.wanted.write_text("pool: 20\n")
    effect = sync(shop.of_map())
    before = effect.snapshot()

    def change() -> bool:
        shop.cluster.patch(f"{shop.maps}/cart", {"data": {"cart.yaml": "pool: 7\n"}})
        return True

    outcome = perform(effect, before, permit=change)
    assert outcome.status is Status.FAILED
    assert "409" in outcome.detail
    assert shop.get(f"{shop.maps}/cart")["data"]["cart.yaml"] == "pool: 7\n"


def test_another_one_of_the_same_name_is_not_written(shop: Shop) -> None:
    """It was deleted and made anew: its uid tells."""
    shop.cluster.create(shop.maps, cart_map())
    shop.wanted.write_text("pool: 20\n")
    effect = sync(shop.of_map())
    before = effect.snapshot()
    shop.cluster.api.delete(f"{shop.maps}/cart").raise_for_status()
    shop.cluster.create(shop.maps, cart_map())
    outcome = perform(effect, before)
    assert (outcome.status, "replaced" in outcome.detail) == (Status.FAILED, True)


def test_after_a_crash_the_server_is_compared_with_both_sides(shop: Shop) -> None:
    """As before: failed. As wanted: succeeded. Neither: people."""
    shop.cluster.create(shop.maps, cart_map())
    shop.wanted.write_text("pool: 20\n")
    effect = sync(shop.of_map())
    before = json.loads(json.dumps(effect.snapshot()))
    assert effect.observe(before).status is Status.FAILED
    shop.cluster.patch(f"{shop.maps}/cart", {"data": {"cart.yaml": "pool: 20\n"}})
    assert effect.observe(before).status is Status.SUCCEEDED
    shop.cluster.patch(f"{shop.maps}/cart", {"data": {"cart.yaml": "pool: 1\n"}})
    assert effect.observe(before).status is Status.INDETERMINATE


def test_without_a_permit_nothing_is_written(shop: Shop) -> None:
    """Asked when the connection stands."""
    made = shop.cluster.create(shop.maps, cart_map())
    shop.wanted.write_text("pool: 20\n")
    effect = sync(shop.of_map())
    assert perform(effect, effect.snapshot(), permit=lambda: False).retry_in == 0.0
    now = shop.get(f"{shop.maps}/cart")
    assert now["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]


@pytest.mark.parametrize(
    ("mark", "told"),
    [
        ({"immutable": True}, "is immutable: create another one"),
        (
            {"metadata": {"name": "cart", "annotations": {"argocd.argoproj.io/tracking-id": "shop"}}},
            r"Argo CD \(shop\) manages ConfigMap cart .*Proposed: let Argo CD sync it",
        ),
        (
            {"metadata": {"name": "cart", "labels": {"kustomize.toolkit.fluxcd.io/name": "apps"}}},
            r"Flux \(apps\) manages",
        ),
    ],
)
def test_what_must_not_be_written_is_proposed(shop: Shop, mark: dict[str, Any], told: str) -> None:
    """An immutable one, and one that a GitOps controller would put back. Its drift is seen all the same."""
    shop.cluster.create(shop.maps, cart_map(**mark))
    shop.wanted.write_text("pool: 20\n")
    with pytest.raises(NotApplicable, match=told):
        sync(shop.of_map()).snapshot()
    assert configuration(shop.of_map()).compare().drift.places


def test_what_is_not_there_or_not_allowed_is_said(shop: Shop) -> None:
    """In a sentence; nothing is created."""
    shop.wanted.write_text("pool: 20\n")
    with pytest.raises(TargetUnreadable, match=r"there is no .*/configmaps/cart"):
        sync(shop.of_map()).snapshot()
    with pytest.raises(TargetUnreadable, match=r"not allowed to read .* \(403\)"):
        sync(shop.of_map(token=VISITOR)).snapshot()


def test_defaults_of_the_server_are_no_drift(shop: Shop) -> None:
    """A manifest names ten fields, the object has fifty, and nothing differs."""
    shop.write(deployment())
    shop.cluster.create(shop.deployments, deployment())
    settings = shop.of_object("apps/v1", "Deployment")
    assert configuration(settings).check().endswith("wants it")
    with pytest.raises(NotApplicable, match="there is no drift"):
        sync(settings).snapshot()


def test_an_object_is_applied_by_path_and_only_those_fields_come_back(shop: Shop) -> None:
    """What others own is told and stays, through the sync and through its undo."""
    old = deployment(env=[{"name": "POOL", "value": "5"}, {"name": "DB_PASSWORD", "value": CANARY}])
    shop.apply(shop.deployments, old, "self-healing-fabric")
    shop.cluster.patch(
        f"{shop.deployments}/cart?fieldManager=scaler",
        {"spec": {"replicas": 7}, "metadata": {"annotations": {"team": "shop"}}},
    )
    new = deployment(env=[{"name": "POOL", "value": "20"}, {"name": "DB_PASSWORD", "value": f"{CANARY}2"}])
    shop.write(new)
    settings = shop.of_object("apps/v1", "Deployment")
    found = configuration(settings).compare().drift
    path = "spec.template.spec.containers[name=app].env"
    assert found.lines == (
        f'- {path}[name=POOL].value: "5"',
        f'+ {path}[name=POOL].value: "20"',
        f"- {path}[name=DB_PASSWORD].value: ******",
        f"+ {path}[name=DB_PASSWORD].value: ****** (another value)",
    )
    (note,) = [note for note in found.notes if note.startswith("scaler manages")]
    assert "spec.replicas" in note
    assert "metadata.annotations.team" in note

    effect, made = sync(settings), shop.get(f"{shop.deployments}/cart")
    before = effect.snapshot()
    outcome = perform(effect, before)
    assert outcome.status is Status.SUCCEEDED, outcome
    now = shop.get(f"{shop.deployments}/cart")
    assert now["spec"]["template"]["spec"]["containers"][0]["env"][0]["value"] == "20"
    assert (now["spec"]["replicas"], now["metadata"]["annotations"]["team"]) == (7, "shop")
    assert {entry["manager"] for entry in now["metadata"]["managedFields"]} >= {
        "self-healing-fabric",
        "scaler",
    }
    assert effect.settled(before).progress is Progress.DONE

    shop.cluster.patch(f"{shop.deployments}/cart?fieldManager=scaler", {"spec": {"replicas": 9}})
    back = effect.undo(json.loads(json.dumps(before)))
    assert back is not None
    assert perform(back, back.snapshot()).status is Status.SUCCEEDED
    restored = shop.get(f"{shop.deployments}/cart")
    assert restored["spec"] == {**made["spec"], "replicas": 9}

    # What was taken back is ours under another operation: that must not be a conflict with ourselves.
    again = sync(settings)
    assert perform(again, again.snapshot()).status is Status.SUCCEEDED


def test_another_manager_is_named_and_not_overruled(shop: Shop) -> None:
    """Whoever changed the field by hand owns it; it is taken over only where that is configured."""
    shop.apply(shop.deployments, deployment(), "self-healing-fabric")
    image = {"spec": {"template": {"spec": {"containers": [{"name": "app", "image": "cart:hotfix"}]}}}}
    shop.cluster.patch(f"{shop.deployments}/cart?fieldManager=kubectl-edit", image)
    shop.write(deployment())
    with pytest.raises(NotApplicable, match=r"kubectl-edit \(.*image\) manages .* configuration\.force"):
        sync(shop.of_object("apps/v1", "Deployment")).snapshot()
    forced = sync(shop.of_object("apps/v1", "Deployment", force=True))
    assert perform(forced, forced.snapshot()).status is Status.SUCCEEDED
    containers = shop.get(f"{shop.deployments}/cart")["spec"]["template"]["spec"]["containers"]
    assert containers[0]["image"] == "cart:1"


@pytest.mark.parametrize("force", [False, True])
def test_a_manager_that_comes_in_between_wins(shop: Shop, force: bool) -> None:
    """After the look and before the apply: failed, and the other's value stays; also where we may force."""
    shop.apply(shop.deployments, deployment(), "self-healing-fabric")
    shop.write(deployment(imagePullPolicy="Always"))
    effect = sync(shop.of_object("apps/v1", "Deployment", force=force))
    before = {**effect.snapshot()}
    before["change"] = {**before["change"], "force": force}
    policy = {"imagePullPolicy": "Never", "name": "app", "image": "cart:1"}
    body = {"spec": {"template": {"spec": {"containers": [policy]}}}}

    def change() -> bool:
        shop.cluster.patch(f"{shop.deployments}/cart?fieldManager=kubectl-edit", body)
        return True

    outcome = perform(effect, before, permit=change)
    assert outcome.status is Status.FAILED
    assert ("somebody has changed" if force else "kubectl-edit") in outcome.detail
    containers = shop.get(f"{shop.deployments}/cart")["spec"]["template"]["spec"]["containers"]
    assert containers[0]["imagePullPolicy"] == "Never"


def test_a_status_that_changes_is_no_obstacle(shop: Shop) -> None:
    """A controller writes the status of a failing workload all the time, each time a new resourceVersion."""
    shop.apply(shop.deployments, deployment(), "self-healing-fabric")
    shop.write(deployment(imagePullPolicy="Always"))
    effect = sync(shop.of_object("apps/v1", "Deployment"))
    before = effect.snapshot()
    counts = itertools.count(3)

    def churn() -> bool:
        count = next(counts)
        if count < 5:  # twice right before the apply
            shop.cluster.patch(f"{shop.deployments}/cart/status", {"status": {"collisionCount": count}})
        return True

    assert perform(effect, before, permit=churn).status is Status.SUCCEEDED


def test_the_data_of_a_secret_is_never_told(shop: Shop) -> None:
    """Whatever its keys are called."""
    manifest = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "cart"},
        "data": {"a": "Y2FuYXJ5MQ=="},
    }
    path = f"/api/v1/namespaces/{shop.namespace}/secrets"
    shop.apply(path, manifest, "self-healing-fabric")
    shop.write({**manifest, "data": {"a": "Y2FuYXJ5Mg==", "b": "Y2FuYXJ5Mw=="}})
    found = configuration(shop.of_object("v1", "Secret")).compare().drift
    assert found.places == 1  # not even how many of its values differ
    assert "Y2Fu" not in "".join((*found.lines, *found.notes))


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"metadata": {"name": "pay"}}, "not that of deployment:shop-"),
        ({"kind": "StatefulSet"}, "not that of"),
        ({"spec": {"replicas": "many"}}, "would not take the manifest: the API server answered"),
        ({"metadata": {"name": "cart", "namespace": "kube-system"}}, "not that of"),
    ],
)
def test_a_manifest_of_something_else_has_no_effect(shop: Shop, changed: dict[str, Any], told: str) -> None:
    """Names come from the configuration; a manifest that names another object is a mistake or an attack."""
    shop.apply(shop.deployments, deployment(), "self-healing-fabric")
    shop.write({**deployment(), **changed})
    with pytest.raises(TargetUnreadable, match=told):
        sync(shop.of_object("apps/v1", "Deployment")).snapshot()


def test_an_api_server_that_is_away_changes_nothing(shop: Shop, tmp_path: Path) -> None:
    """Unreadable before; failed at the write, which never arrived; not known after it."""
    shop.cluster.create(shop.maps, cart_map())
    shop.wanted.write_text("pool: 20\n")
    before = sync(shop.of_map()).snapshot()
    away = shop.of_map()
    document = yaml.safe_load(shop.cluster.kubeconfig().read_text())
    document["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:9"
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(document))
    away = away.model_copy(
        update={"kubernetes": away.kubernetes.model_copy(update={"kubeconfig": kubeconfig})}
    )
    with pytest.raises(TargetUnreadable, match="cannot be asked"):
        sync(away).snapshot()
    outcome = perform(sync(away), before)
    assert (outcome.status, outcome.retry_in) == (Status.FAILED, 0.0)
    assert sync(away).observe(before).status is Status.INDETERMINATE
