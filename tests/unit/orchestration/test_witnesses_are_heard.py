"""What the service says of itself reaches the incident: its diagnosis, its timeline and its plan."""

import json
from collections.abc import Callable
from typing import Any

from shf_demo.ports import free_ports
from shf_queries import catalogue
from shf_queries.catalogue import CONFIG_DRIFT, HEARTBEAT, STATE_DIGESTS


def test_a_failing_health_check_is_in_the_incident(make_world: Callable[..., Any]) -> None:
    """It names the dependency that fails; so it is the cause, and the service itself is not restarted."""
    world = make_world({"cart": ["order-db"], "order-db": []})
    target = world.targets["cart"]
    target.health = 503
    target.health_body = json.dumps({"status": "DOWN", "components": {"orderDb": {"status": "DOWN"}}})
    world.silent()
    world.receive(world.alert())
    world.run(seconds=3)
    incident = world.incident_of("cart")
    told = incident.diagnosis
    assert (told["cause"]["pattern"], told["cause"]["service"]) == ("dependency_failure", "order-db")
    assert told["cause"]["confidence"] >= 0.75
    (evidence,) = [each for each in told["evidence"] if "orderDb" in each["statement"]]
    assert (evidence["source"], evidence["query"]) == ("health", f"curl -s -i {target.health_url}")
    assert any("cart: its health check orderDb fails." in line for line in world.story(incident))
    assert target.examinations == 1
    assert world.restarts() == {}


def test_a_service_that_contradicts_its_alert_is_told(make_world: Callable[..., Any]) -> None:
    """It is silent to Prometheus and answers us: that is against the diagnosis, and does not stop it."""
    world = make_world()
    world.silent()
    world.receive(world.alert())
    world.run()
    told = world.incident().diagnosis
    assert told["failure_class"] == "service_failure"
    assert any("its health endpoint answers 200" in sentence for sentence in told["against"])
    assert world.restarts() == {"cart": 1}


def test_state_that_became_wrong_is_the_class(make_world: Callable[..., Any]) -> None:
    """A configuration that drifted within the hour: no restart cures that, so people are called."""
    world = make_world()
    world.set(CONFIG_DRIFT, 2.0)
    world.prometheus.set(catalogue.least_of(CONFIG_DRIFT, "cart"), 0.0)
    world.receive(world.alert())
    world.run()
    told = world.incident().diagnosis
    assert (told["failure_class"], told["cause"]["pattern"]) == ("cluster_drift", "configuration_error")
    assert world.restarts() == {}


def test_replicas_that_diverged_are_the_class(make_world: Callable[..., Any]) -> None:
    """Which of them is right must be known before any is restarted."""
    world = make_world()
    world.set(STATE_DIGESTS, 2.0)
    world.prometheus.set(catalogue.least_of(STATE_DIGESTS, "cart"), 1.0)
    world.receive(world.alert())
    world.run()
    told = world.incident().diagnosis
    assert (told["failure_class"], told["cause"]["pattern"]) == ("data_corruption", "data_corruption")
    assert world.restarts() == {}


def test_a_service_that_flaps_is_probed_and_not_restarted(make_world: Callable[..., Any]) -> None:
    """It has come back every time so far."""
    world = make_world()
    world.set(HEARTBEAT.fresh_series, 0.5)
    world.prometheus.set(catalogue.missed_heartbeats_of("cart"), 4.0)
    world.receive(world.alert())
    world.run()
    assert world.incident().diagnosis["failure_class"] == "transient"
    assert any("missed its heartbeat 4 times" in line for line in world.story())
    assert world.restarts() == {}


def test_a_platform_that_cannot_be_asked_delays_no_healing(make_world: Callable[..., Any]) -> None:
    """An API server that is away is missing evidence; the restart over HTTP happens all the same."""
    (port,) = free_ports(1)
    world = make_world()
    kubeconfig = world.directory / "kubeconfig"
    cluster = {"name": "c", "cluster": {"server": f"http://127.0.0.1:{port}"}}
    context = {"name": "c", "context": {"cluster": "c", "user": "u"}}
    parts = {"clusters": [cluster], "contexts": [context], "users": [{"name": "u", "user": {}}]}
    kubeconfig.write_text(json.dumps({"apiVersion": "v1", "kind": "Config", "current-context": "c", **parts}))
    world.values["kubernetes"] = {"kubeconfig": kubeconfig}
    world.values["services"]["cart"]["recovery"]["kubernetes"] = {"namespace": "shop", "name": "cart"}
    world.crash()
    world.silent()
    world.receive(world.alert())
    world.run()
    (missing,) = [each for each in world.incident().diagnosis["missing"] if each.startswith("kubernetes")]
    assert missing.startswith("kubernetes: Deployment shop/cart: the API server cannot be asked")
    assert world.restarts() == {"cart": 1}
