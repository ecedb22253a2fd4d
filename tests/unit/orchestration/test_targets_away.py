"""Whoever runs the target does not answer for a while: a control plane that is updated is not given up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from scripted_api_server import ScriptedApiServer
from self_healing_fabric.incidents.lifecycle import State


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ScriptedApiServer]:
    """One Deployment with a bad pod among good ones."""
    with ScriptedApiServer(tmp_path) as server:
        yield server


@pytest.fixture
def make_shop(make_world: Callable[..., Any], server: ScriptedApiServer) -> Callable[..., Any]:
    """A world whose silent `cart` is that Deployment, is repaired so, and heals when that has happened."""

    def make(*plan: str, max_wait: float = 300, **alert: Any) -> Any:
        world = make_world(escalation={"max_wait": max_wait})
        world.close()
        workload = {"namespace": "shop", "name": "cart"}
        recovery = {"kubernetes": workload, "scale": {"max": 5, "calm": 400}}
        world.values |= {
            "services": {"cart": {"recovery": recovery}},
            "kubernetes": {"kubeconfig": server.kubeconfig, "timeout": 2},
            "plans": {name: list(plan) for name in ("service_failure", "degradation", "transient")},
        }
        world.open()
        world.silent()
        server.on_done = world.healthy
        world.receive(world.alert(**alert))
        return world

    return make


@pytest.mark.parametrize("status", [429, 503])
def test_a_repair_waits_for_an_api_server_that_does_not_answer(
    make_shop: Callable[..., Any], server: ScriptedApiServer, status: int
) -> None:
    """The first strategy of the plan is done when it answers again, and nobody is called."""
    world = make_shop("evict", "rollback", "restart")
    server.too_busy = status
    world.run(seconds=40)
    assert (world.incident().state, server.orders) == (State.RECOVERING, [])
    assert "evict is not possible yet" in str(world.incident().waiting_for)
    server.too_busy = None
    world.run(seconds=60)
    assert [order.rpartition("/")[2] for order in server.done] == ["eviction"]
    assert (world.incident().outcome, world.incident().level) == ("healed", 0)


def test_what_is_lent_is_returned_when_the_api_server_answers_again(
    make_shop: Callable[..., Any], server: ScriptedApiServer
) -> None:
    """It is away just when a replica is to be taken back from a service that is well."""
    world = make_shop("scale", starts_at="2026-01-01T00:00:00Z")
    world.run(seconds=60)
    assert server.deployment["spec"]["replicas"] == 4
    world.receive(world.alert(starts_at="2026-01-01T00:00:00Z", status="resolved"))
    server.too_busy = 503
    world.run(seconds=500, tick=5)
    assert "cart cannot be looked at" in str(world.incident().waiting_for)
    server.too_busy = None
    world.run(seconds=60, tick=5)
    assert server.deployment["spec"]["replicas"] == 3
    assert (world.incident().outcome, world.incident().level) == ("healed", 0)


def test_people_hear_of_an_api_server_that_stays_away(
    make_shop: Callable[..., Any], server: ScriptedApiServer
) -> None:
    """After `escalation.max_wait`, once and with the reason; when it is back the repair is made."""
    world = make_shop("restart", max_wait=200)
    server.too_busy = 503
    world.run(seconds=400)
    assert world.calls[0].reason.startswith("has waited 200 s: restart is not possible yet")
    assert (len(world.calls), server.orders) == (1, [])
    server.too_busy = None
    world.run(seconds=60)
    assert (world.incident().outcome, len(server.done)) == ("healed", 1)
