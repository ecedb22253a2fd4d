"""Servers whose certificates an authority of one's own has signed: reached when it is named, else refused."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml
from pytest_httpserver import HTTPServer
from rules_server import program
from served_fabric import served_fabric
from tls_servers import wait_ready

from shf_demo.ports import reserved_ports
from shf_demo.servers import Server
from shf_queries import PrometheusClient
from shf_queries.catalogue import HEARTBEAT

pytestmark = pytest.mark.e2e

SHF = (sys.executable, "-m", "self_healing_fabric.cli")


@dataclass(frozen=True)
class Https:
    """A real Prometheus and a server of everything else, with certificates of `authority`."""

    authority: Path
    prometheus: str
    service: str


@pytest.fixture(scope="module")
def https(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Https]:
    """All of them, on loopback."""
    folder = tmp_path_factory.mktemp("authority")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "authority.pem")
    leaf = authority.issue_cert("127.0.0.1")
    leaf.private_key_pem.write_to_path(folder / "server.key")
    leaf.cert_chain_pems[0].write_to_path(folder / "server.crt")
    tls = {"tls_server_config": {"cert_file": "server.crt", "key_file": "server.key"}}
    (folder / "web.yml").write_text(yaml.safe_dump(tls))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    leaf.configure_cert(context)
    with ExitStack() as stack:
        (port,) = stack.enter_context(reserved_ports(1))
        service = stack.enter_context(HTTPServer(host="127.0.0.1", ssl_context=context))
        service.expect_request("/health").respond_with_data("well")
        service.expect_request("/api/v1/incidents").respond_with_json({"incidents": [], "next": None})
        service.expect_request("/api/v2/alerts").respond_with_json([])
        service.expect_request("/api/v2/status").respond_with_json({"versionInfo": {"version": "0.27.0"}})
        service.expect_request("/api/v2/receivers").respond_with_json([{"name": "self-healing-fabric"}])
        service.expect_request("/api/v2/silences").respond_with_json([])
        itself = {
            "job_name": "cart", "scheme": "https", "scrape_interval": "1s",
            "tls_config": {"ca_file": "authority.pem"},
            "static_configs": [{"targets": [f"127.0.0.1:{port}"]}],
        }  # fmt: skip
        (folder / "prometheus.yml").write_text(yaml.safe_dump({"scrape_configs": [itself]}))
        command = [program(), f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
        command += [f"--web.config.file={folder}/web.yml", f"--web.listen-address=127.0.0.1:{port}"]
        url = f"https://127.0.0.1:{port}"
        prometheus = Server("prometheus", command, f"{url}/-/ready", folder / "log", environment=os.environ)
        stack.enter_context(prometheus)
        trusted = ssl.create_default_context(cafile=folder / "authority.pem")
        wait_ready(prometheus, f"{url}/-/ready", trusted)
        yield Https(folder / "authority.pem", url, service.url_for("").rstrip("/"))


def checked(https: Https, folder: Path, **settings: Any) -> subprocess.CompletedProcess[str]:
    """What `shf check` says of them."""
    written = {
        "prometheus": {"url": https.prometheus},
        "alertmanager": {"url": https.service},
        "services": {"cart": {"health": f"{https.service}/health"}},
        "store": f"sqlite:///{folder}/shf.db",
        **settings,
    }
    (folder / "shf.yaml").write_text(yaml.safe_dump(written))
    command = [*SHF, "check", "--json", "--config", str(folder / "shf.yaml")]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def of_servers(result: subprocess.CompletedProcess[str]) -> Mapping[str, list[Mapping[str, Any]]]:
    """The findings by the first word of what they are about, of those that were asked over https."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for finding in json.loads(result.stdout):
        found.setdefault(finding["subject"].split()[0], []).append(finding)
    return {name: found[name] for name in ("prometheus", "alertmanager", "service")}


def test_they_are_reached_when_the_authority_is_named(https: Https, tmp_path: Path) -> None:
    """Prometheus answers queries, Alertmanager tells its receivers, the service its health."""
    found = of_servers(checked(https, tmp_path, ca_file=str(https.authority)))
    told = " ".join(finding["message"] for findings in found.values() for finding in findings)
    assert "has the receiver self-healing-fabric" in told
    assert "answers 200" in told
    assert "certificate" not in told.lower()
    assert "cannot be asked" not in told


def test_without_it_none_is(https: Https, tmp_path: Path) -> None:
    """Each says that it is the certificate."""
    found = of_servers(checked(https, tmp_path))
    for name, findings in found.items():
        assert any(
            not finding["ok"] and "Name its authority as `ca_file`" in finding["message"]
            for finding in findings
        ), (name, findings)


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_file_that_names_none_is_told(https: Https, tmp_path: Path, content: str | None) -> None:
    """By its path in the configuration; nothing is asked."""
    path = tmp_path / "authority.pem"
    if content is not None:
        path.write_text(content)
    result = checked(https, tmp_path, ca_file=str(path))
    assert result.returncode == 2
    assert f"ca_file: {path}: " in result.stderr
    assert ("No such file" if content is None else "holds no certificate") in result.stderr
    assert "Traceback" not in result.stderr


def test_the_command_line_reaches_a_fabric_behind_it(https: Https) -> None:
    """With --ca-file; without, it says what is wrong."""
    command = [*SHF, "incidents", "--url", https.service]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert refused.returncode != 0
    assert "Name its authority with --ca-file." in refused.stderr
    command += ["--ca-file", str(https.authority)]
    subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)


def test_a_replay_reaches_prometheus(https: Https, tmp_path: Path) -> None:
    """Its fabric too, which asks for itself: what would have fired is diagnosed."""
    with closing(PrometheusClient(https.prometheus, ca_file=https.authority)) as client:
        end = time.monotonic() + 60
        while not client.instant("count_over_time(up[1m]) >= 5"):
            assert time.monotonic() < end, "nothing is scraped"
            time.sleep(0.2)
    labels = {"service": "cart", "signal": "heartbeat"}
    rules = [
        {"record": HEARTBEAT.fresh_series, "expr": "up", "labels": {"service": "cart"}},
        {"alert": "Up", "expr": "up == 1", "labels": labels},
    ]
    (tmp_path / "rules").mkdir()
    groups = {"groups": [{"name": "up", "interval": "1s", "rules": rules}]}
    (tmp_path / "rules" / "up.yml").write_text(yaml.safe_dump(groups))
    written = {
        "prometheus": {"url": https.prometheus}, "ca_file": str(https.authority), "services": {"cart": {}},
    }  # fmt: skip
    (tmp_path / "shf.yaml").write_text(yaml.safe_dump(written))
    command = [*SHF, "replay", "--json", "--since", "1m", "--config", str(tmp_path / "shf.yaml")]
    command += ["--rules", str(tmp_path / "rules")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    (incident,) = json.loads(result.stdout)["incidents"]
    assert incident["failure_class"] is not None


def test_the_running_fabric_reaches_them(https: Https, tmp_path: Path) -> None:
    """Both tell it their versions."""
    servers = {"prometheus": {"url": https.prometheus}, "alertmanager": {"url": https.service}}
    with served_fabric(tmp_path, ca_file=str(https.authority), reconcile_interval=1, **servers) as fabric:

        def told() -> set[str]:
            return {each["kind"] for each in fabric.status()["servers"] if each["version"]}

        fabric.wait("both asked", lambda: told() == set(servers), 30)


@pytest.mark.parametrize("kind", ["prometheus", "alertmanager"])
def test_an_authority_that_is_replaced_is_trusted_without_a_restart(
    https: Https, tmp_path: Path, kind: str
) -> None:
    """The running fabric refuses the server at first, and then no more. It is replaced as Kubernetes replaces
    what it mounts, by one link from which all files hang."""

    def mount(version: str, content: bytes) -> None:
        (tmp_path / version).mkdir()
        (tmp_path / version / "ca.crt").write_bytes(content)
        (tmp_path / "..new").symlink_to(version)
        (tmp_path / "..new").replace(tmp_path / "..data")

    mount("..1", trustme.CA().cert_pem.bytes())
    (tmp_path / "ca.crt").symlink_to("..data/ca.crt")
    servers = {"prometheus": {"url": https.prometheus}, "alertmanager": {"url": https.service}}
    if kind == "prometheus":
        del servers["alertmanager"]  # while that answers, Prometheus is asked now and then only
    with served_fabric(tmp_path, ca_file=str(tmp_path / "ca.crt"), reconcile_interval=1, **servers) as fabric:

        def answers() -> list[bool | None]:
            return [each["answers"] for each in fabric.status()["servers"] if each["kind"] == kind]

        fabric.wait("refused", lambda: answers() == [False], 60)
        mount("..2", https.authority.read_bytes())
        fabric.wait("reached", lambda: answers() == [True], 60)


@pytest.mark.parametrize(
    ("certified", "days", "remedy"),
    [
        ("127.0.0.1", -1, "Its certificate has to be renewed."),
        ("shop.example", 1, "Call it by a name that stands in its certificate."),
    ],
    ids=["expired", "of another host"],
)
def test_whose_authority_is_known_is_told_what_else_is_wrong(
    tmp_path: Path, certified: str, days: int, remedy: str
) -> None:
    """To name the authority once more would not help; by `shf check`, and on the command line."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    now = datetime.now(UTC)
    leaf = authority.issue_cert(
        certified, not_before=now - timedelta(days=2), not_after=now + timedelta(days=days)
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    leaf.configure_cert(context)
    with HTTPServer(host="127.0.0.1", ssl_context=context) as server:
        url = server.url_for("").rstrip("/")
        written = {
            "store": f"sqlite:///{tmp_path}/shf.db",
            "ca_file": str(tmp_path / "authority.pem"),
            "services": {"cart": {"health": f"{url}/health"}},
        }
        (tmp_path / "shf.yaml").write_text(yaml.safe_dump(written))
        for command in (
            ["check", "--config", str(tmp_path / "shf.yaml")],
            ["incidents", "--url", url, "--ca-file", str(tmp_path / "authority.pem")],
        ):
            done = subprocess.run([*SHF, *command], capture_output=True, text=True, timeout=60, check=False)
            told = " ".join((done.stdout + done.stderr).split())
            assert remedy in told
            assert "Name its authority" not in told
