"""The status tells what the fabric does: from one look at the store, without asking any server."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from deadline import wait_until
from one_step import open_incident
from self_healing_fabric import __version__, servers_asked
from self_healing_fabric.app import BackgroundServer, create_app
from self_healing_fabric.cli import main
from self_healing_fabric.integration import report
from self_healing_fabric.integration.lifecycle import Fabric
from self_healing_fabric.settings import Settings
from shf_demo.ports import reserved_ports


class Servers:
    """A Prometheus and an Alertmanager that say that all is well, and count what they are asked."""

    def __init__(self, server: HTTPServer) -> None:
        self.calls: list[str] = []
        self.away = False
        self.versions: dict[str, Any] = {
            "prometheus": {"status": "success", "data": {"version": "2.42.0"}},
            "alertmanager": {"versionInfo": {"version": "0.25.0"}},
        }
        self.url = server.url_for("")
        server.expect_request("/prometheus/api/v1/query").respond_with_handler(self._query)
        server.expect_request("/alertmanager/api/v2/alerts").respond_with_handler(self._alerts)
        receivers = [{"name": "self-healing-fabric"}]
        server.expect_request("/alertmanager/api/v2/receivers").respond_with_json(receivers)
        server.expect_request("/alertmanager/api/v2/silences").respond_with_json([])
        server.expect_request("/prometheus/api/v1/status/buildinfo").respond_with_handler(self._version)
        server.expect_request("/alertmanager/api/v2/status").respond_with_handler(self._version)

    def _version(self, request: Request) -> Response:
        kind = request.path.split("/")[1]
        self.calls.append(f"version of {kind}")
        known = self.versions.get(kind)
        body = "not here" if known is None else json.dumps(known)
        return Response(body, status=503 if self.away else 404 if known is None else 200)

    def _query(self, request: Request) -> Response:
        self.calls.append(request.args["query"])
        names = ("guardian-one", "guardian-two")
        found = [
            {"metric": {"service": name}, "value": [time.time(), value]}
            for name, value in zip(names, ("1", "0.5"), strict=True)
        ]
        answer = {"status": "success", "data": {"resultType": "vector", "result": found}}
        return Response(json.dumps(answer), status=503 if self.away else 200, mimetype="application/json")

    def _alerts(self, _: Request) -> Response:
        self.calls.append("alerts")
        return Response("[]", status=503 if self.away else 200, mimetype="application/json")


@pytest.fixture
def servers(httpserver: HTTPServer) -> Iterator[Servers]:
    """Nothing is known of them from another test."""
    servers_asked._servers.clear()
    yield Servers(httpserver)
    servers_asked._servers.clear()


@pytest.fixture
def fabric(servers: Servers, tmp_path: Path) -> Iterator[Fabric]:
    """Running, with three watched services."""
    with running(servers, tmp_path) as made:
        yield made


@contextmanager
def running(servers: Servers, tmp_path: Path) -> Iterator[Fabric]:
    """A fabric beside these servers."""
    kinds = {"guardian-one": "guardian", "guardian-two": "guardian", "tokenguard": "guard", "cart": "service"}
    with reserved_ports(1) as (port,):
        made = Fabric(
            Settings(
                listen=f"127.0.0.1:{port}",
                store=f"sqlite:///{tmp_path}/shf.db",
                reconcile_interval=1,
                prometheus={"url": f"{servers.url}prometheus"},
                alertmanager={"url": f"{servers.url}alertmanager"},
                services={name: {"kind": kind} for name, kind in kinds.items()},
            )
        )
        made.start()
        yield made
        made.stop()


def reconciled(fabric: Fabric) -> bool:
    watch = fabric.orchestrator.reconciliation
    return watch.compared_at is not None and fabric.orchestrator.last_look is not None


def test_a_fabric_that_works(fabric: Fabric, servers: Servers) -> None:
    """Mode, leader, incidents, queue, loop, servers with their latency, versions, guardians and guards."""
    open_incident(fabric.context, "restart", service="cart")
    wait_until(lambda: reconciled(fabric))
    told = report.status(fabric)
    json.dumps(told)
    assert told["healthy"] is True, told["problems"]
    assert told["mode"] == "automatic"
    assert told["leader"] is True
    assert sum(told["incidents"].values()) == 1
    assert told["inbox"] == {"waiting": 0, "failed": 0}
    assert told["versions"]["fabric"] == __version__
    assert told["loop"]["age_seconds"] >= 0
    assert told["reconciled"]["age_seconds"] >= 0
    prometheus, alertmanager = told["servers"]
    assert (prometheus["kind"], alertmanager["kind"]) == ("prometheus", "alertmanager")
    for server in told["servers"]:
        assert server["answers"] is True
        assert server["latency_seconds"] > 0
    assert (prometheus["version"], alertmanager["version"]) == ("2.42.0", "0.25.0")
    assert told["guardians"]["answering"] == {"guardian-one": 1.0, "guardian-two": 0.5}
    assert told["guards"]["answering"] == {"tokenguard": None}
    (replica,) = told["replicas"]
    assert replica["this"]
    assert replica["leader"]


def test_it_asks_nobody_and_reads_once(
    fabric: Fabric, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten people who reload the page are no load on Prometheus."""
    wait_until(lambda: reconciled(fabric))
    report.status(fabric)  # the calibration is in memory from then on
    fabric.orchestrator.stop()
    before, reads, read = len(servers.calls), [], fabric.store.read
    monkeypatch.setattr(fabric.store, "read", lambda function: reads.append(1) or read(function))
    report.status(fabric)
    assert len(servers.calls) == before
    assert len(reads) == 1


def test_versions_are_asked_for_once_and_again_when_a_server_was_away(
    fabric: Fabric, servers: Servers
) -> None:
    """Not at every turn; but who was away may have come back as another version."""

    def told() -> list[str | None]:
        return [each["version"] for each in report.status(fabric)["servers"]]

    def asked(kind: str) -> int:
        return servers.calls.count(f"version of {kind}")

    wait_until(lambda: servers.calls.count("alerts") > 3)
    assert told() == ["2.42.0", "0.25.0"]
    assert (asked("prometheus"), asked("alertmanager")) == (1, 1)
    servers.away = True
    wait_until(lambda: all(each["answers"] is False for each in report.status(fabric)["servers"]))
    servers.versions["prometheus"]["data"]["version"] = "3.5.0"
    servers.versions["alertmanager"] = {"versionInfo": {"version": "0.28.1"}}
    servers.away = False
    wait_until(lambda: told() == ["3.5.0", "0.28.1"])


@pytest.mark.parametrize(
    "answer",
    [None, [], {"status": "success"}, {"data": {"version": 7}, "versionInfo": {"version": 7}}, "<html>"],
)
def test_a_server_that_tells_no_version_is_well(servers: Servers, tmp_path: Path, answer: Any) -> None:
    """What stands in for Prometheus may not know the path: that is no fault, and asked again only later."""
    servers.versions = dict.fromkeys(servers.versions, answer)
    with running(servers, tmp_path) as fabric:
        wait_until(lambda: reconciled(fabric) and servers.calls.count("alerts") > 1)
        told = report.status(fabric)
    assert told["healthy"] is True
    assert [(each["answers"], each["version"]) for each in told["servers"]] == 2 * [(True, None)]
    assert servers.calls.count("version of prometheus") == 1


def test_the_watched_are_asked_for_in_one_query(fabric: Fabric, servers: Servers) -> None:
    """However many guardians there are; other services are not among them."""
    wait_until(lambda: fabric.orchestrator.reconciliation.health.seen)
    queries = {call for call in servers.calls if call.startswith("service:shf_up:ratio")}
    assert queries == {'service:shf_up:ratio{service=~"guardian-one|guardian-two|tokenguard"}'}


def test_servers_that_are_away_are_named_and_then_it_is_not_healthy(
    fabric: Fabric, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last answer stays with its age; who compares with nobody does not do its work."""
    wait_until(lambda: reconciled(fabric))
    servers.away = True

    def failed() -> bool:
        return all(each["answers"] is False for each in report.status(fabric)["servers"])

    wait_until(failed)
    told = report.status(fabric)
    assert all("Status" in server["error"] or "503" in server["error"] for server in told["servers"])
    assert all(server["answered"]["age_seconds"] is not None for server in told["servers"])
    assert told["healthy"] is True  # for as long as a restart of Prometheus takes
    monkeypatch.setattr(report, "LEAST_PATIENCE", 0.0)
    wait_until(lambda: not report.status(fabric)["healthy"])
    assert "has not compared itself with the servers" in report.status(fabric)["problems"][0]


def test_a_loop_that_has_ended_is_told(fabric: Fabric) -> None:
    """An API that answers says nothing of the loop behind it."""
    wait_until(lambda: reconciled(fabric))
    fabric.orchestrator.stop()
    assert report.status(fabric)["problems"] == ["the orchestrator does not run: restart the fabric"]


def test_a_loop_that_hangs_is_told(fabric: Fabric, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alive is not enough."""
    wait_until(lambda: reconciled(fabric))
    monkeypatch.setattr(report, "LOOP_PATIENCE", -1.0)
    assert "the loop has not got through" in report.status(fabric)["problems"][0]


def test_replicas_with_their_leases(postgresql_url: str, servers: Servers) -> None:
    """On PostgreSQL both are told, one of them as the leader."""
    values = {
        "store": postgresql_url,
        "reconcile_interval": 1,
        "prometheus": {"url": f"{servers.url}prometheus"},
    }
    one, two = Fabric(Settings(**values)), Fabric(Settings(**values))
    try:
        one.start()
        wait_until(lambda: one.context.leases.leader)
        two.start()
        wait_until(lambda: reconciled(two) or two.orchestrator.last_look)
        told = report.status(two)
        assert told["healthy"] is True, told["problems"]
        assert told["leader"] is False
        by_name = {replica["name"]: replica for replica in told["replicas"]}
        assert by_name[one.context.leases.owner]["leader"] is True
        assert by_name[two.context.leases.owner] == {
            "name": two.context.leases.owner,
            "this": True,
            "leader": False,
            "incidents": 0,
        }
    finally:
        one.stop()
        two.stop()


def test_the_command_tells_the_same(fabric: Fabric, tmp_path: Path) -> None:
    """For people and for machines; 0 while it works, 1 when it does not, or does not answer."""
    wait_until(lambda: reconciled(fabric))
    server = BackgroundServer(create_app(fabric), fabric)
    server.start()
    url = f"http://{fabric.settings.listen}"
    try:
        shown = CliRunner().invoke(main, ["status", "--url", url])
        machine = CliRunner().invoke(main, ["status", "--url", url, "--json"])
        fabric.orchestrator.stop()
        stopped = CliRunner().invoke(main, ["status", "--url", url])
    finally:
        server.stop()
    gone = CliRunner().invoke(main, ["status", "--url", url])
    assert shown.exit_code == 0, shown.output
    for text in ("The fabric works", "mode automatic", "leader", "guardian-two 50%", "tokenguard unknown"):
        assert text in shown.output
    assert machine.exit_code == 0
    assert json.loads(machine.output)["healthy"] is True
    assert stopped.exit_code == 1
    assert "the orchestrator does not run" in stopped.output
    assert gone.exit_code == 1
    assert "does not answer" in gone.output


def test_errors_that_are_answers_are_told_apart() -> None:
    """`not found` is an answer."""
    servers_asked._servers.clear()
    with pytest.raises(KeyError), servers_asked.asking("docker", "a", answered=(KeyError,)):
        raise KeyError
    with pytest.raises(OSError, match="away"), servers_asked.asking("docker", "b"):
        raise OSError("away")
    assert [each.answers for each in servers_asked.known("docker")] == [True, False]
    servers_asked._servers.clear()


def test_of_too_many_servers_the_one_asked_longest_ago_is_forgotten() -> None:
    """A server that is asked now is known, however many addresses the process asked before."""
    servers_asked._servers.clear()
    for number in range(2 * servers_asked.MOST_SERVERS):
        servers_asked.note("docker", "kept", 0.1)
        servers_asked.note("docker", str(number), 0.1)
    known = {each.url for each in servers_asked.known("docker")}
    assert len(known) == servers_asked.MOST_SERVERS
    assert {"kept", str(2 * servers_asked.MOST_SERVERS - 1)} <= known
    assert "0" not in known
    servers_asked._servers.clear()


def test_what_a_url_holds_before_the_host_is_not_shown() -> None:
    """A Docker host may name a user and a password, and errors quote it."""
    url = "tcp://me:secret@engine:2375"
    asked = servers_asked.Asked("docker", url, failed_at=1.0, error=f"{url} is away")
    shown = report._server(asked, 2.0)
    assert (shown["url"], shown["error"]) == ("tcp://engine:2375", "tcp://engine:2375 is away")
