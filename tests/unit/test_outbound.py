"""Calls go to what the configuration names and nowhere else: a listener beside it sees every connection."""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, get_args

import docker
import httpx
import pytest
import requests
from kubernetes import client as kubernetes
from pydantic import BaseModel
from pytest_httpserver import HTTPServer

from deadline import within_deadline
from self_healing_fabric.cluster.connection import api_client, configuration
from self_healing_fabric.containers import Engine
from self_healing_fabric.outbound import NotConfigured, answer_to, client_for, client_to
from self_healing_fabric.recovery.outcomes import Status
from self_healing_fabric.recovery.platforms.http import Calls
from self_healing_fabric.recovery.strategies.retry import SafeCall
from self_healing_fabric.settings import (
    CalledUrl,
    EventSettings,
    HttpRecovery,
    HttpUrl,
    KubernetesSettings,
    RetryCall,
    RetrySettings,
    ServiceSettings,
    Settings,
    called_urls,
)
from shf_queries import PrometheusClient, PrometheusUnavailable

ROOT = Path(__file__).parents[2]
# Where clients are made, and nowhere else: what they reach is decided there.
MAKERS = {
    "queries/shf_queries/answers.py",  # whose connections the clients of others are given
    "queries/shf_queries/client.py",
    "webhook/self_healing_fabric/cluster/connection.py",
    "webhook/self_healing_fabric/containers.py",
    "webhook/self_healing_fabric/outbound.py",
}
# URLs of the configuration that are only shown, or that Prometheus calls.
ONLY_SHOWN = {"Settings.external_url", "PrometheusSettings.external_url", "GrafanaSettings.url"} | {
    "ServiceSettings.metrics"
}


VERSION = [
    "major", "minor", "gitVersion", "gitCommit", "gitTreeState", "buildDate", "goVersion", "compiler",
    "platform",
]  # fmt: skip


class Elsewhere:
    """A place that no configuration names."""

    def __init__(self, listening: socket.socket) -> None:
        self._listening = listening
        self.port = listening.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def was_called(self) -> bool:
        """Whether anybody has connected to it."""
        try:
            self._listening.accept()[0].close()
        except TimeoutError:
            return False
        return True


@pytest.fixture
def elsewhere() -> Iterator[Elsewhere]:
    """It listens, so a connection would be seen."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        listening.settimeout(0.1)
        yield Elsewhere(listening)


def test_the_listener_sees_a_connection(elsewhere: Elsewhere) -> None:
    """Otherwise none of these tests could fail."""
    socket.create_connection(("127.0.0.1", elsewhere.port)).close()
    assert elsewhere.was_called()


def test_what_a_section_names_is_reached(httpserver: HTTPServer) -> None:
    """Also under another path: the origin counts."""
    httpserver.expect_request("/other").respond_with_data("here")
    with client_for(EventSettings(url=httpserver.url_for("/events"))) as client:
        assert client.get(httpserver.url_for("/other")).text == "here"


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:{port}/",
        "http://localhost:{port}/",
        "https://127.0.0.1:{port}/",
        "http://127.0.0.1:{ours}@127.0.0.1:{port}/",
        "http://127.0.0.1:{port}#@127.0.0.1:{ours}/",
        "//127.0.0.1:{port}/",
    ],
)
def test_nothing_else_is_connected_to(httpserver: HTTPServer, elsewhere: Elsewhere, url: str) -> None:
    """Another host, port or scheme, however it is written, is refused before a connection is opened."""
    with (
        client_for(EventSettings(url=httpserver.url_for("/"))) as client,
        pytest.raises((NotConfigured, httpx.UnsupportedProtocol)),
    ):
        client.post(url.format(port=elsewhere.port, ours=httpserver.port))
    assert not elsewhere.was_called()
    assert httpserver.log == []


def test_a_client_for_nothing_reaches_nothing(elsewhere: Elsewhere) -> None:
    """Closed by default."""
    with client_for(None) as client, pytest.raises(NotConfigured, match="not what the configuration names"):
        client.get(elsewhere.url)
    assert not elsewhere.was_called()


def test_a_redirect_leads_nowhere(httpserver: HTTPServer, elsewhere: Elsewhere) -> None:
    """Not followed; and a call that asked for it would be refused at the other place."""
    httpserver.expect_request("/").respond_with_data(status=307, headers={"Location": elsewhere.url})
    with client_for(EventSettings(url=httpserver.url_for("/"))) as client:
        assert client.get(httpserver.url_for("/")).status_code == 307
        with pytest.raises(NotConfigured):
            client.get(httpserver.url_for("/"), follow_redirects=True)
    assert not elsewhere.was_called()


def test_the_command_line_calls_the_fabric_only(httpserver: HTTPServer, elsewhere: Elsewhere) -> None:
    """A fabric's answer cannot send the operator's token to somebody else."""
    with client_to(httpserver.url_for(""), timeout=httpx.Timeout(1)) as client, pytest.raises(NotConfigured):
        client.get(elsewhere.url)
    assert not elsewhere.was_called()


def test_an_answer_is_not_unpacked(httpserver: HTTPServer) -> None:
    """Packed twice, what is small becomes larger than the memory; and nobody asked for it."""
    packed = gzip.compress(gzip.compress(bytes(1_000_000)))
    httpserver.expect_request("/", headers={"Accept-Encoding": "identity"}).respond_with_data(
        packed, headers={"Content-Encoding": "gzip, gzip"}
    )
    with client_for(EventSettings(url=httpserver.url_for("/"))) as client:
        assert answer_to(client, "GET", httpserver.url_for("/")).content == packed


def test_an_order_to_a_wrong_place_is_not_sent(httpserver: HTTPServer, elsewhere: Elsewhere) -> None:
    """As if a URL had been put together wrongly: the action fails, and it is known that nothing was sent."""
    named = HttpRecovery(restart=httpserver.url_for("/restart"))
    sent = Calls(named, 1.0, None).send("POST", elsewhere.url, key="k", permit=lambda: True)
    assert not isinstance(sent, str)
    assert sent.status is Status.FAILED
    assert "not what the configuration names" in sent.detail
    service = ServiceSettings(health=httpserver.url_for("/health"))
    forged = SafeCall(RetryCall(url=elsewhere.url), RetrySettings(), service)
    outcome = forged.perform(key="k", attempt=1, before={}, permit=lambda: True)
    assert outcome.status is Status.FAILED
    assert not elsewhere.was_called()


def test_prometheus_s_session_reaches_its_prometheus_only(
    httpserver: HTTPServer, elsewhere: Elsewhere
) -> None:
    """It is of another library, and has no way to any other place."""
    client = PrometheusClient(httpserver.url_for("/prom"))
    with closing(client):
        with pytest.raises(requests.exceptions.InvalidSchema):
            client._session.get(elsewhere.url, timeout=1)
        with pytest.raises(requests.exceptions.InvalidSchema):
            client._session.get(
                f"http://127.0.0.1:{httpserver.port}@127.0.0.1:{elsewhere.port}/prom/", timeout=1
            )
        httpserver.expect_request("/prom/api/v1/query").respond_with_data(
            status=302, headers={"Location": elsewhere.url}
        )
        with pytest.raises(PrometheusUnavailable):
            client.instant("up")
    assert not elsewhere.was_called()


def kubeconfig(directory: Path, server: str) -> Path:
    """One for an API server that asks for nothing."""
    parts = {
        "clusters": [{"name": "c", "cluster": {"server": server.rstrip("/")}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "users": [{"name": "u", "user": {}}],
    }
    path = directory / "kubeconfig"
    path.write_text(json.dumps({"apiVersion": "v1", "kind": "Config", "current-context": "c", **parts}))
    return path


@pytest.fixture
def proxy(elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch) -> Elsewhere:
    """A proxy in the environment, for everything."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, elsewhere.url)
        monkeypatch.setenv(name.lower(), elsewhere.url)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "")
    return elsewhere


def test_a_proxy_of_the_environment_is_not_used(
    httpserver: HTTPServer, proxy: Elsewhere, tmp_path: Path
) -> None:
    """Neither by our own clients nor by those of Prometheus, Docker and Kubernetes."""
    httpserver.expect_request("/").respond_with_data("here")
    httpserver.expect_request("/version").respond_with_json({"ApiVersion": "1.44"})
    httpserver.expect_request("/version/").respond_with_json(dict.fromkeys(VERSION, "1"))
    httpserver.expect_request("/api/v1/query").respond_with_json(
        {"status": "success", "data": {"resultType": "vector", "result": []}}
    )
    with client_for(EventSettings(url=httpserver.url_for("/"))) as client:
        assert client.get(httpserver.url_for("/")).text == "here"
    with closing(PrometheusClient(httpserver.url_for(""))) as prometheus:
        assert prometheus.instant("up") == ()
    with closing(Engine(f"tcp://127.0.0.1:{httpserver.port}", 1)) as engine:
        assert engine.api.api_version == "1.44"
    settings = KubernetesSettings(kubeconfig=kubeconfig(tmp_path, httpserver.url_for("/")))
    with api_client(configuration(settings)) as api:
        assert kubernetes.VersionApi(api).get_code(_request_timeout=1).major == "1"
    assert not proxy.was_called()


def test_an_engine_cannot_send_us_elsewhere(httpserver: HTTPServer, elsewhere: Elsewhere) -> None:
    """The client of the engine follows redirects by itself."""
    httpserver.expect_request("/version").respond_with_data(status=302, headers={"Location": elsewhere.url})
    with pytest.raises(docker.errors.DockerException):
        Engine(f"tcp://127.0.0.1:{httpserver.port}", 1)
    assert not elsewhere.was_called()


def test_an_api_server_cannot_send_us_elsewhere(
    httpserver: HTTPServer, elsewhere: Elsewhere, tmp_path: Path
) -> None:
    """Nor may that of the cluster, to which the token of the service account goes."""
    httpserver.expect_request("/version/").respond_with_data(status=302, headers={"Location": elsewhere.url})
    settings = KubernetesSettings(kubeconfig=kubeconfig(tmp_path, httpserver.url_for("/")))
    with api_client(configuration(settings)) as api, pytest.raises(kubernetes.ApiException):
        kubernetes.VersionApi(api).get_code(_request_timeout=1)
    assert not elsewhere.was_called()


def test_clients_are_made_in_one_place(tmp_path: Path) -> None:
    """The linter walks all code: without its exceptions it names the places that make clients."""
    settings = tmp_path / "ruff.toml"
    settings.write_text(f'extend = "{ROOT}/pyproject.toml"\n[lint.per-file-ignores]\n')
    assert banned(["--config", str(settings), "webhook", "queries"]) == MAKERS


@pytest.mark.parametrize(
    "code",
    [
        "import httpx\nhttpx.get('http://a')",
        "import httpx\nhttpx.Client()",
        "from httpx import AsyncClient",
        "import requests\nrequests.Session()",
        "from requests import post",
        "import urllib.request",
        "from urllib.request import urlopen",
        "import http.client",
        "import smtplib",
        "from socket import create_connection",
        "import docker\ndocker.from_env()",
        "from kubernetes.client import ApiClient",
    ],
)
def test_a_client_made_elsewhere_fails_the_linter(code: str) -> None:
    """However it is written."""
    name = "webhook/self_healing_fabric/recovery/planted.py"
    assert banned(["--stdin-filename", name, "-"], code + "\n") == {name}


def banned(arguments: list[str], code: str = "") -> set[str]:
    """The files in which the linter finds what is banned."""
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "--select", "TID251"]
    done = subprocess.run(
        [*command, "--output-format", "json", *arguments],
        cwd=ROOT,
        input=code,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr
    return {Path(each["filename"]).relative_to(ROOT).as_posix() for each in json.loads(done.stdout)}


def test_every_url_of_the_configuration_is_called_or_known_to_be_shown_only() -> None:
    """A new one must say which it is: what is not marked as called can be called by nobody."""
    assert {each for each, called in urls() if not called} == ONLY_SHOWN
    assert len({each for each, called in urls() if called}) > 10


def urls() -> Iterator[tuple[str, bool]]:
    """The fields of all sections that hold URLs, and whether these are called."""
    for section in sections(Settings, set()):
        for name, field in section.model_fields.items():
            for metadata in (tuple(field.metadata), *metadata_in(field.annotation)):
                if get_args(HttpUrl)[1] in metadata:
                    yield f"{section.__name__}.{name}", get_args(CalledUrl)[-1] in metadata


def metadata_in(annotation: Any) -> Iterator[tuple[Any, ...]]:
    """Of all `Annotated` within an annotation."""
    if hasattr(annotation, "__metadata__"):
        yield annotation.__metadata__
    for each in get_args(annotation):
        yield from metadata_in(each)


def sections(section: type[BaseModel], seen: set[type[BaseModel]]) -> set[type[BaseModel]]:
    """A section and all within it."""
    if section not in seen:
        seen.add(section)
        for field in section.model_fields.values():
            for each in types_in(field.annotation):
                sections(each, seen)
    return seen


def types_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The sections that an annotation names."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for each in get_args(annotation):
        yield from types_in(each)


def test_urls_are_found_wherever_they_stand() -> None:
    """Alone, optional, in lists, in mappings and in sections within sections; those called only."""
    settings = Settings(
        external_url="http://shown",
        prometheus={"url": "http://prometheus", "external_url": "http://shown"},
        grafana={"url": "http://shown"},
        escalation={
            "channels": {"a": {"alertmanager": {"urls": ["http://am-1", "http://am-2"]}}},
            "hold_page": {"urls": ["http://am-3"]},
        },
        services={
            "cart": {
                "health": "http://cart",
                "metrics": "http://shown",
                "recovery": {"http": {"restart": "http://host/restart"}, "retry": {"url": "http://retry"}},
            }
        },
    )
    expected = {"prometheus", "am-1", "am-2", "am-3", "cart", "host", "retry"}
    assert {httpx.URL(url).host for url in called_urls(settings)} == expected


@pytest.mark.parametrize(
    "beginning",
    [b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n"],
    ids=["headers", "body"],
)
def test_an_answer_that_comes_byte_by_byte_is_given_up(beginning: bytes) -> None:
    """In its headers or after them, on a connection that has carried one before; by whichever client."""
    ended = threading.Event()

    def serve(listening: socket.socket) -> None:
        with listening.accept()[0] as connection, contextlib.suppress(OSError):
            connection.recv(4096)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            connection.recv(4096)
            connection.sendall(beginning)
            while not ended.wait(0.1):
                connection.sendall(b"x")

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=serve, args=(listening,), daemon=True).start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        with client_for(EventSettings(url=url), timeout=0.5) as client:
            try:
                assert client.get(url).text == "ok"
                with pytest.raises(httpx.ReadTimeout, match=r"its answer takes longer than 0\.5 s"):
                    within_deadline(lambda: client.get(url))
            finally:
                ended.set()
