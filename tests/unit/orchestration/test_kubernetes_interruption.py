"""Killed around an effect on Kubernetes: the next process asks the API server, and nothing is done twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from killed import killed_at
from scripted_api_server import AFTER, BEFORE, RESET, ScriptedApiServer
from self_healing_fabric.incidents.lifecycle import State
from self_healing_fabric.recovery.platforms.kubernetes.ordering import KubernetesEffect

STRATEGIES = ("restart", "scale", "evict")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ScriptedApiServer]:
    """One Deployment with a bad pod among good ones."""
    with ScriptedApiServer(tmp_path) as server:
        yield server


@pytest.fixture(params=STRATEGIES)
def world(request: Any, make_world: Callable[..., Any], server: ScriptedApiServer) -> Any:
    """A world whose silent `cart` is that Deployment, and heals when the effect has happened."""
    world = make_world()
    world.close()
    recovery = {"kubernetes": {"namespace": "shop", "name": "cart"}, "scale": {"max": 5}}
    world.values |= {
        "services": {"cart": {"recovery": recovery}},
        "kubernetes": {"kubeconfig": server.kubeconfig, "timeout": 2},
        "plans": {name: [request.param] for name in ("service_failure", "degradation", "transient")},
    }
    world.open()
    world.silent()
    server.on_done = world.healthy
    world.receive(world.alert())
    return world


def test_it_heals(world: Any, server: ScriptedApiServer) -> None:
    """Without a fault: one order, and proved."""
    world.run(seconds=60)
    assert (len(server.done), world.incident().outcome) == (1, "healed")


def test_killed_between_intent_and_effect(world: Any, server: ScriptedApiServer) -> None:
    """It did not happen: when the order can no longer be on its way it is done, once."""
    with killed_at(KubernetesEffect, done=False):
        world.run()
    world.crash()
    assert server.done == []
    world.run(seconds=60)
    assert server.done == []  # it may still be on its way
    world.run(seconds=120)
    assert len(server.done) == 1
    assert [row.status for row in world.actions()] == ["failed", "succeeded"]
    assert world.incident().outcome == "healed"


def test_killed_between_effect_and_record(world: Any, server: ScriptedApiServer) -> None:
    """It happened: the object says so, and it is only verified."""
    with killed_at(KubernetesEffect, done=True):
        world.run()
    world.crash()
    assert len(server.done) == 1
    world.run(seconds=180)
    assert len(server.done) == 1
    assert [row.status for row in world.actions()] == ["succeeded"]
    assert world.actions()[0].detail.startswith("the fabric was interrupted during the action; ")
    assert world.incident().outcome == "healed"


def test_an_autoscaler_acts_between_the_decision_and_the_order(
    world: Any, server: ScriptedApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is ordered for what was decided before; it is decided anew, done once, and nobody is called."""
    perform = KubernetesEffect.perform

    def scaled_first(*arguments: Any, **options: Any) -> Any:
        if server.deployment["spec"]["replicas"] == 3:
            server.deployment["spec"]["replicas"] = 4
            server.deployment["metadata"] |= {"generation": 2, "resourceVersion": "2"}
            counts = ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas")
            server.deployment["status"] |= {"observedGeneration": 2, **dict.fromkeys(counts, 4)}
        return perform(*arguments, **options)

    monkeypatch.setattr(KubernetesEffect, "perform", scaled_first)
    world.run(seconds=180)
    assert len(server.done) == 1
    assert (world.incident().outcome, world.incident().level) == ("healed", 0)


def test_an_api_server_that_goes_away_with_the_answer_tells_when_it_is_back(
    world: Any, server: ScriptedApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody is called for what it can tell a minute later, and nothing is sent again."""
    answers = server.get
    server.fault = (AFTER, RESET)
    server.on_done = lambda: (world.healthy(), setattr(server, "get", lambda _: (503, {"message": "away"})))
    world.run(seconds=60)
    assert [row.status for row in world.actions()] == ["started"]
    assert "is not known yet" in world.incident().waiting_for
    monkeypatch.setattr(server, "get", answers)
    world.run(seconds=180)
    assert len(server.orders) == 1
    assert [row.status for row in world.actions()] == ["succeeded"]
    assert (world.incident().outcome, world.incident().level) == ("healed", 0)


@pytest.mark.parametrize("status", [500, 503, 504])
def test_an_order_that_was_answered_with_an_error_and_not_done_is_given_again(
    world: Any, server: ScriptedApiServer, status: int
) -> None:
    """An etcd without a leader, a webhook that is away: when the order cannot be on its way any more."""
    server.fault = (BEFORE, status)
    world.run(seconds=60)
    assert ([row.status for row in world.actions()], len(server.orders)) == (["started"], 1)
    assert "is asked in" in world.incident().waiting_for
    server.fault = None
    world.run(seconds=120)
    assert [row.status for row in world.actions()] == ["failed", "succeeded"]
    assert (len(server.orders), len(server.done)) == (2, 1)
    assert (world.incident().outcome, world.incident().level) == ("healed", 0)


@pytest.mark.parametrize(("status", "orders"), [(409, 15), (429, 3)])
def test_an_order_that_is_never_taken_is_given_up(
    world: Any, server: ScriptedApiServer, status: int, orders: int
) -> None:
    """After three attempts, in what its answers ask for; no budget is used up by them, nor waited for."""
    server.fault, server.retry_after = (BEFORE, status), "1"
    world.run(seconds=40)
    assert (len(server.orders), server.done) == (orders, [])
    assert [(row.status, row.started_at) for row in world.actions()] == [("failed", None)] * 3
    (call,) = world.calls
    assert f"refused with {status}" in call.reason


@pytest.mark.parametrize("status", [403, 503], ids=["rights taken away", "away"])
def test_a_repair_that_nobody_can_tell_of_any_more_is_no_failure(
    world: Any, server: ScriptedApiServer, status: int
) -> None:
    """The service is well and whether the rollout is through cannot be learnt: that proves neither."""
    server.on_done = lambda: (world.healthy(), setattr(server, "too_busy", status))
    world.run(seconds=120)
    assert [(row.status, row.verdict) for row in world.actions()] == [("succeeded", "no_evidence")]
    assert any("whether it is through cannot be learnt" in told for told in world.story())
    assert len(server.orders) == 1


def test_nobody_can_be_asked_afterwards(world: Any, server: ScriptedApiServer) -> None:
    """The answer is lost, and the API server with it: people decide, and nothing is sent again."""
    server.fault = (AFTER, RESET)
    server.on_done = lambda: setattr(server, "get", lambda _: (503, {"message": "away"}))
    world.run(seconds=400)
    assert len(server.orders) == 1
    assert [row.status for row in world.actions()] == ["indeterminate"]
    assert world.incident().state is State.ESCALATED
