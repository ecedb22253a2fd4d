"""A control plane under stress, a real one: too busy, starting anew, at work on what people take away."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from kubernetes_cluster import Cluster, require_cluster
from kubernetes_repairs import RepairedShop, do
from kubernetes_shop import Kubelet

from self_healing_fabric.recovery.effects import NotApplicable

pytestmark = pytest.mark.e2e


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
    shop = RepairedShop(cluster, f"stress-{next(numbers)}")
    with Kubelet(shop):
        yield shop


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
