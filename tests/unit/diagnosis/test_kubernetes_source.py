"""Asking an API server that misbehaves: slow, broken, cut off or away. Real HTTP, scripted answers."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

import self_healing_fabric.cluster.connection  # noqa: F401 - loaded before the first test's time runs
from deadline import within_deadline
from self_healing_fabric.diagnosis.sources import Report, sources_of
from self_healing_fabric.diagnosis.sources.inquiry import Inquiry
from self_healing_fabric.settings import KubernetesSettings, ServiceSettings
from shf_demo.ports import free_ports

DEPLOYMENT = {
    "metadata": {"name": "cart", "namespace": "shop", "uid": "u1"},
    "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "cart"}}},
    "status": {"readyReplicas": 1, "updatedReplicas": 2},
}
NAMESPACED = "/namespaces/shop"
LISTS = {
    f"/apis/apps/v1{NAMESPACED}/replicasets": "revisions",
    f"/api/v1{NAMESPACED}/pods": "pods",
    f"/api/v1{NAMESPACED}/events": "events",
    f"/apis/autoscaling/v1{NAMESPACED}/horizontalpodautoscalers": "horizontalpodautoscalers",
}


class ApiServer:
    """Answers for one Deployment without pods; `answers` replaces the answer of a path."""

    def __init__(self, server: HTTPServer, directory: Path) -> None:
        self.answers: dict[str, Any] = {}
        self.asked: list[Request] = []
        self.kubeconfig = kubeconfig(directory, server.url_for("/"))
        server.expect_request(f"/apis/apps/v1{NAMESPACED}/deployments/cart").respond_with_json(DEPLOYMENT)
        for path in LISTS:
            server.expect_request(path).respond_with_handler(self._list)

    def _list(self, request: Request) -> Response:
        self.asked.append(request)
        answer = self.answers.get(request.path, {"items": []})
        if isinstance(answer, tuple):
            return Response(answer[1], status=answer[0])
        if callable(answer):
            answer = answer()
        return Response(json.dumps(answer), content_type="application/json")


def kubeconfig(directory: Path, url: str) -> Path:
    path = directory / "kubeconfig"
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": url.rstrip("/")}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "c",
    }
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ApiServer]:
    """An API server that answers, until the test says otherwise; one slow answer keeps no other."""
    with HTTPServer(threaded=True) as server:
        yield ApiServer(server, tmp_path)


def ask(path: Path | None, *, within: float = 30.0, **settings: Any) -> Report:
    target = {"kubernetes": {"namespace": "shop", "name": "cart"}}
    service = ServiceSettings.model_validate({"recovery": target})
    makers = sources_of("cart", service, KubernetesSettings(kubeconfig=path, **settings), ())
    return Inquiry(makers, at=time.time(), within=within).report()


def test_the_client_is_loaded_whole_before_anything_is_asked() -> None:
    """Its newer versions load an API when it is first named, and the first diagnosis had that less time."""
    code = "import sys, self_healing_fabric.cluster.connection; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert {"kubernetes.client.api.apps_v1_api", "kubernetes.client.api.core_v1_api"} <= set(loaded.split())


def test_every_list_is_asked_once_with_a_limit(server: ApiServer) -> None:
    """A large cluster must not be read whole, nor an answer be asked for again."""
    report = ask(server.kubeconfig)
    assert [fact.evidence.statement for fact in report.facts] == [
        "Deployment shop/cart has 1 of 2 replicas ready."
    ]
    assert report.missing == ()
    assert sorted(request.path for request in server.asked) == sorted(LISTS)
    assert all(int(request.args["limit"]) <= 500 for request in server.asked)


@pytest.mark.parametrize("path", LISTS)
@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ((403, "{}"), "not allowed (403): grant what `shf rbac` prints"),
        ((500, "oops"), "the API server answered 500"),
        ((200, "<html>"), "the API server does not answer with JSON"),
        (["no object"], "the API server does not answer with an object"),
    ],
)
def test_one_list_that_fails_costs_only_itself(server: ApiServer, path: str, answer: Any, why: str) -> None:
    """The rest of the evidence stays, and the gap is named. Nothing is asked twice."""
    server.answers[path] = answer
    report = ask(server.kubeconfig)
    (missing,) = report.missing
    assert missing.startswith(f"kubernetes: {LISTS[path]}: {why}")
    assert len(report.facts) == 1
    assert len(server.asked) == len(LISTS)


def test_a_list_that_was_cut_off_is_told(server: ApiServer) -> None:
    """What lies beyond the limit may be the very evidence."""
    server.answers[f"/api/v1{NAMESPACED}/events"] = {"metadata": {"continue": "more"}, "items": []}
    assert ask(server.kubeconfig).missing == ("kubernetes: only the first 500 events were read",)


def test_an_answer_that_does_not_come_is_not_waited_for(server: ApiServer) -> None:
    """One call has its own timeout; it is not repeated, and the rest is asked."""

    given_up = threading.Event()

    def hang() -> Any:
        given_up.wait(30.0)
        return {"items": []}

    server.answers[f"/api/v1{NAMESPACED}/pods"] = hang
    try:
        report = within_deadline(lambda: ask(server.kubeconfig, timeout=0.3), within=20.0)
    finally:
        given_up.set()
    (missing,) = report.missing
    assert missing.startswith("kubernetes: pods: the API server cannot be asked")
    assert len(server.asked) == len(LISTS)


def test_when_the_time_is_over_nothing_more_is_asked(server: ApiServer) -> None:
    """Half a report in time is worth more than a whole one too late."""

    def slow() -> Any:
        time.sleep(0.4)
        return {"items": []}

    server.answers = dict.fromkeys(LISTS, slow)
    report = ask(server.kubeconfig, within=1.0)
    assert len(report.facts) == 1
    assert report.missing[-1] == "kubernetes: horizontalpodautoscalers: the time for asking was over"


def test_an_api_server_that_is_away_is_missing(tmp_path: Path) -> None:
    """Said once, with the reason."""
    (port,) = free_ports(1)
    (missing,) = ask(kubeconfig(tmp_path, f"http://127.0.0.1:{port}")).missing
    assert missing.startswith("kubernetes: Deployment shop/cart: the API server cannot be asked")


def test_without_a_kubeconfig_outside_of_a_cluster_the_remedy_is_named(tmp_path: Path) -> None:
    """Both that there is none, and that it is not where it should be."""
    for path in (None, tmp_path / "nowhere"):
        (missing,) = ask(path).missing
        assert missing.endswith("outside of a cluster set kubernetes.kubeconfig to a file that can be read")
