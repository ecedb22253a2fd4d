"""How long a repair takes to begin: from the decision in the state machine to the effect at the target.

The clock runs from the claim of an incident that is about to be restarted: its rows are read, the target is
looked at, the guardrails are asked, intent and beginning are committed (SQLite, synchronous=FULL), the mode
and the lease are looked at once more, and the order goes out. It stops at the target: when the request
arrives (HTTP), when the engine sends its signal (Docker), when the API server has stored the change
(Kubernetes, skipped where its programs are not on PATH). Prometheus is not asked: its time is its own.

    python bench/recovery.py                    all platforms, 20 restarts each
    python bench/recovery.py --times 5 --json FILE
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

# The tests' own Docker engine and API server serve here too.
sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "e2e"))

import pytest
import structlog
from docker_engine import DockerEngine, require_engine, wait_until
from kubernetes_cluster import Cluster, require_cluster
from kubernetes_shop import Kubelet, Shop

from one_step import fabric_on, open_incident
from self_healing_fabric.incidents.lifecycle import State
from self_healing_fabric.orchestration.context import Context
from self_healing_fabric.orchestration.healing_orchestrator import HealingOrchestrator
from self_healing_fabric.recovery.outcomes import Status
from self_healing_fabric.store import statements

AIM = 0.1  # seconds
Effected = Callable[[float], float]  # told when it began, says when the effect was there; seconds since 1970


def delays(recovery: dict[str, Any], effected: Effected, times: int, **more: Any) -> list[float]:
    """Seconds from the decision to the effect, for so many restarts. Raises RuntimeError if one fails."""
    found = []
    with tempfile.TemporaryDirectory(prefix="shf-bench-") as folder:
        values = {
            "store": f"sqlite:///{folder}/shf.db",
            "guardrails": {"cooldown": 0, "max_actions": 1000, "fleet": {"targets": 1000}},
            "services": {"cart": {"recovery": recovery}},
            **more,
        }
        with fabric_on(values) as context:
            orchestrator = HealingOrchestrator(context)
            for number in range(times):
                open_incident(context, "restart", service="cart", incident_id=f"i{number}")
                began = time.time()
                (incident,) = orchestrator.claim(1)
                orchestrator.advance(incident)
                found.append(effected(began) - began)
                _close(context, f"i{number}")
    return found


def _close(context: Context, incident_id: str) -> None:
    def write(connection: Any) -> None:
        (action,) = statements.actions_of(connection, incident_id)
        if action.status != Status.SUCCEEDED.value:
            raise RuntimeError(f"a restart ended as {action.status}: {action.detail}")
        ended = {"state": State.CLOSED.value, "closed_at": time.time(), "due_at": None}
        statements.overtake(connection, incident_id, ended)

    context.store.write(write)


@contextmanager
def over_http() -> Iterator[tuple[dict[str, Any], Effected]]:
    """A server that notes when an order arrives."""
    arrived: list[float] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            arrived.append(time.time())
            self._answer(b"{}")

        def do_GET(self) -> None:
            self._answer(json.dumps({"started_at": len(arrived)}).encode())

        def _answer(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield {"http": {"restart": f"{url}/restart", "started_at": url}}, lambda _: arrived[-1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def on_docker() -> Iterator[tuple[dict[str, Any], Effected]]:
    """A container that ends at SIGTERM; the engine tells when it sent that."""
    require_engine()
    with DockerEngine() as engine, engine.web("cart") as web:

        def signalled(_: float) -> float:
            return float(max(event["timeNano"] for event in engine.events("kill", web.id))) / 1e9

        yield {"docker": {"host": engine.host, "container": "cart"}}, signalled


@contextmanager
def on_kubernetes() -> Iterator[tuple[dict[str, Any], dict[str, Any], Effected]]:
    """A Deployment; its change is stored when the API server has answered."""
    require_cluster()
    with Cluster() as cluster:
        shop = Shop(cluster, "shop")
        shop.deploy()
        more = {"kubernetes": {"kubeconfig": str(cluster.kubeconfig()), "context": "test"}}

        def answered(_: float) -> float:
            at = time.time()
            wait_until("the rollout is through", lambda: _rolled_out(shop), 60.0)
            return at

        with Kubelet(shop):
            wait_until("the workload runs", lambda: _rolled_out(shop), 60.0)
            yield {"kubernetes": {"namespace": "shop", "name": "cart"}}, more, answered


def _rolled_out(shop: Shop) -> bool:
    """A further restart is refused before."""
    whole = shop.cluster.api.get(f"{shop.workloads()}/cart").json()
    told, wanted = whole["status"], whole["spec"]["replicas"]
    return bool(
        told.get("observedGeneration") == whole["metadata"]["generation"]
        and told.get("updatedReplicas") == told.get("availableReplicas") == told.get("replicas") == wanted
    )


def measure(times: int) -> dict[str, list[float] | str]:
    """The delays by platform, or why one was left out."""
    found: dict[str, list[float] | str] = {}
    with over_http() as (recovery, effected):
        found["http"] = delays(recovery, effected, times)
    try:
        with on_docker() as (recovery, effected):
            found["docker"] = delays(recovery, effected, times)
    except pytest.skip.Exception as reason:
        found["docker"] = str(reason)
    try:
        with ExitStack() as stack:
            recovery, more, effected = stack.enter_context(on_kubernetes())
            found["kubernetes"] = delays(recovery, effected, times, **more)
    except pytest.skip.Exception as reason:
        found["kubernetes"] = str(reason)
    return found


def main() -> int:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description="Measure how long a repair takes to begin.")
    parser.add_argument("--times", type=int, default=20, help="restarts on each platform (default: 20)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the raw figures there")
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    found = measure(arguments.times)
    lines = ["| platform | from decision to effect, median | worst | aim |", "|---|---|---|---|"]
    for platform, figures in found.items():
        if isinstance(figures, str):
            lines.append(f"| {platform} | not measured: {figures} | | |")
            continue
        median, worst = statistics.median(figures) * 1000, max(figures) * 1000
        lines.append(f"| {platform} | {median:.0f} ms | {worst:.0f} ms | {AIM * 1000:.0f} ms |")
    sys.stdout.write("\n".join([*lines, ""]))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
