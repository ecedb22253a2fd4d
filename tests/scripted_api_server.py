"""An API server for faults on the wire: it holds one Deployment with its pods, and breaks off where told.

It is no model of Kubernetes, and proves nothing about Kubernetes: that is done on a real API server. It keeps
resourceVersion, uid and generation as far as an order is bound to them, and counts what was written.
"""

from __future__ import annotations

import copy
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

NAMESPACE, LONG_AGO = "shop", "2026-01-01T00:00:00Z"
DEPLOYMENT = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/cart"
REPLICA_SETS = f"/apis/apps/v1/namespaces/{NAMESPACE}/replicasets"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
EVENTS = f"/api/v1/namespaces/{NAMESPACE}/events"
BEFORE, AFTER = "before", "after"  # an order is carried out
RESET, HANG = "reset", "hang"


def labels() -> dict[str, str]:
    return {"app": "cart", "pod-template-hash": "1"}


def template() -> dict[str, Any]:
    """The pods' template."""
    return {
        "metadata": {"labels": {"app": "cart"}},
        "spec": {"containers": [{"name": "app", "image": "cart:1"}]},
    }


def deployment() -> dict[str, Any]:
    """Three replicas, rolled out."""
    conditions = [{"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable"}]
    counts = dict.fromkeys(("replicas", "updatedReplicas", "readyReplicas", "availableReplicas"), 3)
    return {
        "metadata": {
            "name": "cart",
            "namespace": NAMESPACE,
            "uid": "d",
            "generation": 1,
            "resourceVersion": "1",
        },
        "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "cart"}}, "template": template()},
        "status": {"observedGeneration": 1, "conditions": conditions, **counts},
    }


def replica_set() -> dict[str, Any]:
    """The Deployment's only one."""
    owner = {"kind": "Deployment", "name": "cart", "uid": "d", "controller": True}
    annotations = {"deployment.kubernetes.io/revision": "1"}
    metadata = {"name": "cart-1", "uid": "r", "ownerReferences": [owner], "annotations": annotations}
    return {"metadata": metadata, "spec": {"template": template()}}


def pod(name: str, *, ready: bool = True) -> dict[str, Any]:
    """One of its pods."""
    owner = {"kind": "ReplicaSet", "name": "cart-1", "uid": "r", "controller": True}
    metadata = {"name": name, "uid": f"uid-{name}", "resourceVersion": "1", "labels": labels()}
    condition = {"type": "Ready", "status": str(ready), "lastTransitionTime": LONG_AGO}
    return {
        "metadata": {**metadata, "ownerReferences": [owner]},
        "spec": {},
        "status": {"phase": "Running", "conditions": [condition]},
    }


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """Connections are broken off on purpose."""


class ScriptedApiServer:
    """`with ScriptedApiServer(path) as server:`; `fault` is for the next orders, until it is cleared."""

    def __init__(self, directory: Path) -> None:
        self.deployment = deployment()
        self.pods = {each["metadata"]["name"]: each for each in (pod("a"), pod("b"), pod("c", ready=False))}
        self.fault: tuple[str, int | str] | None = None
        self.retry_after: str | None = None  # in an answer with 429
        self.too_busy: int | None = None  # what every GET is answered with
        self.ready = 200  # that it is
        self.orders: list[str] = []  # that reached us
        self.done: list[str] = []  # that were carried out
        self.events: list[Any] = []
        self.denied: set[tuple[str, str]] = set()  # verbs on resources, for who asks for its rights
        self.on_order: Callable[[], None] = lambda: None
        self.on_done: Callable[[], None] = lambda: None
        self.over = threading.Event()
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self.kubeconfig = directory / "scripted.kubeconfig"
        self.kubeconfig.write_text(
            yaml.safe_dump(
                {
                    "clusters": [
                        {"name": "t", "cluster": {"server": f"http://127.0.0.1:{self._server.server_port}"}}
                    ],
                    "users": [{"name": "t", "user": {"token": "t"}}],
                    "contexts": [{"name": "t", "context": {"cluster": "t", "user": "t"}}],
                    "current-context": "t",
                }
            )
        )
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self) -> ScriptedApiServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.go_away()

    def go_away(self) -> None:
        """Refuse every further connection."""
        self.over.set()
        if self._thread.is_alive():
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()

    def touch(self) -> None:
        """Somebody writes to every object without changing what is wanted."""
        for each in (self.deployment, *self.pods.values()):
            each["metadata"]["resourceVersion"] += "0"

    def get(self, path: str) -> tuple[int, Any]:
        """What a GET is answered with."""
        if path == "/readyz":
            return self.ready, {}
        if self.too_busy is not None:
            return self.too_busy, {"message": f"scripted {self.too_busy}"}
        if path == DEPLOYMENT:
            return 200, self.deployment
        if path == REPLICA_SETS:
            return 200, {"items": [replica_set()]}
        if path == PODS:
            return 200, {"items": list(self.pods.values())}
        name = path.removeprefix(f"{PODS}/")
        if name in self.pods:
            return 200, self.pods[name]
        if path.rpartition("/")[2] in ("events", "horizontalpodautoscalers", "nodes"):
            return 200, {"items": []}
        return 404, {"message": f"{path} not found"}

    def order(self, path: str, body: Any) -> tuple[int, Any]:
        """Carry out a PATCH or an eviction, if what it is bound to still holds."""
        if path.endswith("/eviction"):
            found = self.pods.get(path.split("/")[-2])
            if found is None:
                return 404, {"message": "no such pod"}
            if body["deleteOptions"]["preconditions"]["uid"] != found["metadata"]["uid"]:
                return 409, {"message": "another uid"}
            del self.pods[found["metadata"]["name"]]
            return 201, {}
        metadata = self.deployment["metadata"]
        if body["metadata"]["uid"] != metadata["uid"]:
            return 422, {"message": "another uid"}
        if body["metadata"]["resourceVersion"] != metadata["resourceVersion"]:
            return 409, {"message": "the object has been modified"}
        if path.endswith("/scale"):
            self.deployment["spec"]["replicas"] = body["spec"]["replicas"]
        else:
            annotations = body["spec"]["template"]["metadata"]["annotations"]
            self.deployment["spec"]["template"]["metadata"].setdefault("annotations", {}).update(annotations)
        metadata["generation"] += 1
        # Its controller sees it at once, and its pods are there at once.
        status, wanted = self.deployment["status"], self.deployment["spec"]["replicas"]
        status["observedGeneration"] = metadata["generation"]
        status |= dict.fromkeys(("replicas", "updatedReplicas", "readyReplicas", "availableReplicas"), wanted)
        metadata["resourceVersion"] += "1"
        return 200, self.deployment


def _handler(server: ScriptedApiServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None: ...

        def do_GET(self) -> None:
            self._answer(*server.get(urlsplit(self.path).path))

        def do_PATCH(self) -> None:
            self._order()

        def do_POST(self) -> None:
            self._order()

        def _order(self) -> None:
            path, query = urlsplit(self.path).path, parse_qs(urlsplit(self.path).query)
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if path == EVENTS:
                server.events.append(body)
                return self._answer(201, body)
            if path.endswith("/selfsubjectaccessreviews"):
                asked = body["spec"]["resourceAttributes"]
                resource = "/".join(filter(None, (asked["resource"], asked.get("subresource"))))
                return self._answer(
                    201, {"status": {"allowed": (asked["verb"], resource) not in server.denied}}
                )
            if "dryRun" in query:
                return self._answer(201, {})
            server.orders.append(path)
            server.on_order()
            when, fault = server.fault or ("", 0)
            if when == BEFORE:
                return self._break_off(fault)
            status, answer = server.order(path, body)
            answer = copy.deepcopy(answer)
            if status < 300:
                server.done.append(path)
                server.on_done()
            if when == AFTER:
                return self._break_off(fault)
            return self._answer(status, answer)

        def _break_off(self, fault: int | str) -> None:
            if fault == HANG:
                server.over.wait(10.0)
            if isinstance(fault, int):
                return self._answer(fault, {"message": f"scripted {fault}"})
            self.close_connection = True
            # Off without a goodbye: the client sees a reset, not an end.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            self.connection.close()
            return None

        def _answer(self, status: int, document: Any) -> None:
            data = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            if status == 429 and server.retry_after is not None:
                self.send_header("Retry-After", server.retry_after)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def finish(self) -> None:
            # Its socket may be closed by a fault.
            try:
                super().finish()
            except (OSError, ValueError):
                self.rfile.close()

    return Handler


@contextmanager
def scripted(directory: Path) -> Iterator[ScriptedApiServer]:
    """A server that is ended."""
    with ScriptedApiServer(directory) as server:
        yield server
