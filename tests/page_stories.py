"""Incidents of every kind, made by the real state machine, and a server that shows them to a real browser.

The clock of the stories ends now, so that a page says "a minute ago" of what it shows.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from pytest_httpserver import HTTPServer
from werkzeug.serving import make_server

from self_healing_fabric.app import create_app
from self_healing_fabric.incidents import timeline
from self_healing_fabric.incidents.timeline import Entry, Kind
from self_healing_fabric.store import statements
from shf_queries import PrometheusClient
from shf_queries.catalogue import ERROR_RATIO, LATENCY_P95, REQUEST_RATE
from world import World

SERVICES = {
    "cart": (),
    "frontend": ("cart",),
    "payment": (),
    "search": (),
    "catalogue": (),
    "mail": (),
}
HOSTILE = '"><script>document.title="owned"</script><img src=x onerror="fetch(\'https://evil.example/\')">'


def a_night(directory: Path, server: HTTPServer, **changes: Any) -> World:
    """One that waits for approval, one that people must take, one in hand, one healed, one of a stranger."""
    world = World(directory, server, SERVICES, **changes)
    world.clock.now = float(int(time.time()) - 1500)
    for name in SERVICES:
        world.healthy(name)
        world.set(REQUEST_RATE, 20.0, name)
        world.measure(ERROR_RATIO, 0.004, name)
        world.measure(LATENCY_P95, 0.12, name)
    world.run(600, tick=20)
    _healed(world)
    _given_up(world)
    _of_a_stranger(world)
    _waiting_for_approval(world)
    _in_hand(world)
    return world


def _healed(world: World) -> None:
    world.silent("catalogue")
    world.measure(ERROR_RATIO, 0.9, "catalogue")
    world.run(10)
    world.receive(world.alert(service="catalogue", annotations={"summary": "catalogue does not answer"}))
    world.targets["catalogue"].on_restart = lambda: _well(world, "catalogue")
    world.run(60)


def _well(world: World, service: str) -> None:
    world.healthy(service)
    world.measure(ERROR_RATIO, 0.004, service)


def _given_up(world: World) -> None:
    world.silent("payment")
    world.run(10)
    world.receive(world.alert(service="payment", annotations={"summary": "payment does not answer"}))
    world.run(150)


def _of_a_stranger(world: World) -> None:
    labels = {"alertname": HOSTILE, "team": "<b>bold</b>", "instance": "{{ 7 * 7 }}"}
    annotations = {"summary": HOSTILE, "runbook_url": "javascript:document.title='owned'"}
    world.receive(world.alert(service=HOSTILE, labels=labels, annotations=annotations))
    world.run(1)


def _waiting_for_approval(world: World) -> None:
    world.context.store.write(
        lambda c: statements.set_control(
            c, name="mode of service cart", value="approval", by="ada", now=world.clock.now
        )
    )
    world.silent("cart")
    world.measure(ERROR_RATIO, 0.6, "frontend")
    world.run(10)
    world.receive(world.alert(service="cart", annotations={"summary": "cart does not answer"}))
    world.receive(
        world.alert(
            service="frontend",
            annotations={"summary": "60 % of the requests to frontend fail"},
            signal="error_ratio",
        )
    )
    world.run(30)
    (found,) = [each for each in world.incidents() if each.service == "cart"]
    entry = Entry(Kind.GUARDRAIL, "cooldown refuses: http:cart was acted on less than 60 s ago.",
                  {"guardrail": "cooldown", "reason": "http:cart was acted on less than 60 s ago",
                   "retry_at": world.clock.now + 60})  # fmt: skip
    world.context.store.write(
        lambda connection: timeline.append(connection, found.id, [entry], world.clock.now)
    )


def _in_hand(world: World) -> None:
    world.measure(LATENCY_P95, 1.9, "search")
    world.set(LATENCY_P95.baseline_series or "", 0.12, "search")
    world.run(10)
    world.receive(
        world.alert(service="search", annotations={"summary": "search is slow"}, signal="latency_p95")
    )
    world.run(5)


@contextmanager
def served(world: World, prometheus: PrometheusClient | None = None) -> Iterator[str]:
    """The application of the world's fabric on a free port, asking this Prometheus; yields its URL."""
    world.fabric.context = replace(world.context, prometheus=prometheus or world.context.prometheus)
    server = make_server("127.0.0.1", 0, create_app(world.fabric), threaded=True)
    thread = threading.Thread(target=server.serve_forever, name="pages")
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
