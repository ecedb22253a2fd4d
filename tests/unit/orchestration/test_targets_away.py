"""Whoever runs the target does not answer for a while: a control plane that is updated is not given up."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pytest_httpserver import HTTPServer

from cuttable_proxy import CuttableProxy
from scripted_api_server import ScriptedApiServer
from self_healing_fabric.incidents.lifecycle import State
from shf_queries.catalogue import CONFIG_DRIFT


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


@pytest.mark.parametrize("status", [403, 429, 503])
def test_a_repair_waits_for_an_api_server_that_does_not_answer(
    make_shop: Callable[..., Any], server: ScriptedApiServer, status: int
) -> None:
    """The first strategy of the plan is done when it answers again, and nobody is called."""
    world = make_shop("evict", "rollback", "restart")
    server.too_busy, server.ready = status, 500
    world.run(seconds=40)
    assert (world.incident().state, server.orders) == (State.RECOVERING, [])
    assert "evict is not possible yet" in str(world.incident().waiting_for)
    server.too_busy, server.ready = None, 200
    world.run(seconds=60)
    assert [order.rpartition("/")[2] for order in server.done] == ["eviction"]
    assert (world.incident().outcome, world.incident().level) == ("healed", 0)


@pytest.mark.parametrize("status", [403, 503])
@pytest.mark.parametrize("live", ["configmap", "object"])
def test_a_sync_waits_for_an_api_server_that_does_not_answer(
    make_shop: Callable[..., Any], server: ScriptedApiServer, tmp_path: Path, live: str, status: int
) -> None:
    """What runs cannot be told just then: its only strategy is not given up."""
    world = make_shop("restart")
    world.close()
    wanted = tmp_path / "wanted.yaml"
    wanted.write_text("pool: 20\n")
    where = {"namespace": "shop", "name": "cart"}
    named = {"configmap": {**where, "key": "cart.yaml"}, "object": {**where, "kind": "ConfigMap"}}
    desired = {"configmap": {"file": wanted}, "object": {"manifest": wanted}}
    configuration = {"desired": desired[live], "live": {live: named[live]}}
    world.values["services"]["cart"]["recovery"]["configuration"] = configuration
    world.values["plans"] = {"cluster_drift": ["sync"]}
    world.open()
    world.healthy()
    world.set(CONFIG_DRIFT, 2.0)
    world.receive(world.alert(signal="config_drift"))
    server.too_busy, server.ready = status, 500
    world.run(seconds=40)
    assert (world.incident().state, world.calls) == (State.RECOVERING, [])
    assert "sync is not possible yet" in str(world.incident().waiting_for)


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


@pytest.fixture
def make_far(make_world: Callable[..., Any], httpserver: HTTPServer) -> Iterator[Callable[..., Any]]:
    """A silent `cart` that is repaired over HTTP, through a network that can be cut, and heals then."""
    with CuttableProxy(httpserver.port) as proxy:

        def make(strategy: str) -> tuple[Any, CuttableProxy]:
            world = make_world(plans={"service_failure": [strategy]})
            world.close()
            server, far = f":{httpserver.port}/", f":{proxy.port}/"
            urls = {"restart": world.target.restart_url, "started_at": world.target.started_at_url}
            if strategy == "scale":
                urls = {"scale": world.target.replicas_url}
            recovery = {"http": {name: url.replace(server, far) for name, url in urls.items()}}
            world.values["services"] = {"cart": {"recovery": {**recovery, "scale": {"max": 5}}}}
            world.open()
            world.silent()
            world.target.on_restart = world.target.on_scale = world.healthy
            world.receive(world.alert())
            return world, proxy

        yield make


@pytest.mark.parametrize("strategy", ["restart", "scale"])
def test_a_repair_over_http_waits_while_its_target_cannot_be_reached(
    make_far: Callable[..., Any], strategy: str
) -> None:
    """The network is cut when the target is looked at: it is repaired, once, when the network is back."""
    world, network = make_far(strategy)
    network.refuse()
    world.run(seconds=40)
    assert (world.incident().state, world.calls) == (State.RECOVERING, [])
    assert f"{strategy} is not possible yet" in str(world.incident().waiting_for)
    network.forward()
    world.run(seconds=60)
    assert len(world.target.restarts) + len(world.target.scalings) == 1
    assert (world.incident().outcome, world.calls) == ("healed", [])


def test_a_target_that_swallows_questions_keeps_workers_free(
    make_world: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look at it keeps a worker for a second here: it is looked at once in ten, or less often."""
    monkeypatch.setattr("self_healing_fabric.recovery.platforms.http.READ_TIMEOUT", 1.0)
    with socket.create_server(("127.0.0.1", 0), backlog=100) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        world = make_world()
        world.close()
        world.values["services"] = {"cart": {"recovery": {"http": {"restart": url, "started_at": url}}}}
        world.open()
        world.silent()
        world.receive(world.alert())
        world.run(seconds=40)
        assert "restart is not possible yet" in str(world.incident().waiting_for)
        silent.setblocking(False)
        looks = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                silent.accept()[0].close()
                looks += 1
    assert 2 <= looks <= 5
