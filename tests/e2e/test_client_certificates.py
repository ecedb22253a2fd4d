"""Servers that ask for a client certificate: reached with the fabric's own, else refused, and it says why."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml
from pytest_httpserver import HTTPServer
from served_fabric import served_fabric
from tls_servers import wait_ready

from self_healing_fabric import outbound
from self_healing_fabric.recovery.outcomes import Outcome, Status
from self_healing_fabric.recovery.platforms.http import Calls
from self_healing_fabric.settings import HttpRecovery
from shf_demo.ports import reserved_ports
from shf_demo.servers import Programs, Server

pytestmark = pytest.mark.e2e

SHF = (sys.executable, "-m", "self_healing_fabric.cli")
SERVERS = {"prometheus", "alertmanager", "service"}


@dataclass(frozen=True)
class Strict:
    """A real Prometheus, a real Alertmanager and a service, all of which require a client certificate."""

    folder: Path
    clients: trustme.CA
    prometheus: str
    alertmanager: str
    service: HTTPServer

    def settings(self, folder: Path, **more: Any) -> dict[str, Any]:
        """A configuration that names all of them and their authority."""
        url = self.service.url_for("").rstrip("/")
        return {
            "prometheus": {"url": self.prometheus},
            "alertmanager": {"url": self.alertmanager},
            "services": {"cart": {"health": f"{url}/health"}},
            "store": f"sqlite:///{folder}/shf.db",
            "ca_file": str(self.folder / "servers-ca.crt"),
            **more,
        }


def write_leaf(leaf: trustme.LeafCert, folder: Path, name: str = "fabric") -> dict[str, str]:
    """Its files, as the configuration names them."""
    paths = {"cert_file": folder / f"{name}.crt", "key_file": folder / f"{name}.key"}
    paths["cert_file"].write_bytes(b"".join(each.bytes() for each in leaf.cert_chain_pems))
    paths["key_file"].write_bytes(leaf.private_key_pem.bytes())
    return {key: str(path) for key, path in paths.items()}


@pytest.fixture(scope="module")
def strict(programs: Programs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Strict]:
    """All of them, on loopback."""
    folder = tmp_path_factory.mktemp("strict")
    servers, clients = trustme.CA(), trustme.CA()
    servers.cert_pem.write_to_path(folder / "servers-ca.crt")
    clients.cert_pem.write_to_path(folder / "clients-ca.crt")
    leaf = servers.issue_cert("127.0.0.1")
    own = write_leaf(leaf, folder, "server")
    tls = {**own, "client_ca_file": "clients-ca.crt", "client_auth_type": "RequireAndVerifyClientCert"}
    (folder / "web.yml").write_text(yaml.safe_dump({"tls_server_config": tls}))
    (folder / "prometheus.yml").write_text("{}")
    receivers = {"route": {"receiver": "self-healing-fabric"}, "receivers": [{"name": "self-healing-fabric"}]}
    (folder / "alertmanager.yml").write_text(yaml.safe_dump(receivers))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=folder / "clients-ca.crt")
    context.verify_mode = ssl.CERT_REQUIRED
    leaf.configure_cert(context)
    trusted = ssl.create_default_context(cafile=folder / "servers-ca.crt")
    clients.issue_cert("waiting.example").configure_cert(trusted)
    with ExitStack() as stack:
        of_prometheus, of_alertmanager = stack.enter_context(reserved_ports(2))
        service = stack.enter_context(HTTPServer(host="127.0.0.1", ssl_context=context))
        service.expect_request("/health").respond_with_data("well")
        service.expect_request("/api/v1/incidents").respond_with_json({"incidents": [], "next": None})
        options = (
            ("prometheus", programs.prometheus, of_prometheus, f"--storage.tsdb.path={folder}/data"),
            ("alertmanager", programs.alertmanager, of_alertmanager, f"--storage.path={folder}/am"),
        )
        urls = []
        for name, binary, port, storage in options:
            url = f"https://127.0.0.1:{port}"
            command = [binary, f"--config.file={folder}/{name}.yml", storage]
            command += [f"--web.config.file={folder}/web.yml", f"--web.listen-address=127.0.0.1:{port}"]
            command += ["--cluster.listen-address="] if name == "alertmanager" else []
            server = Server(name, command, url, folder / f"{name}.log", environment=os.environ)
            stack.enter_context(server)
            wait_ready(server, f"{url}/-/ready", trusted)
            urls.append(url)
        yield Strict(folder, clients, *urls, service)


def check(settings: Mapping[str, Any], folder: Path) -> subprocess.CompletedProcess[str]:
    """What `shf check` says."""
    (folder / "shf.yaml").write_text(yaml.safe_dump(settings))
    command = [*SHF, "check", "--json", "--config", str(folder / "shf.yaml")]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def of_servers(result: subprocess.CompletedProcess[str]) -> Mapping[str, str]:
    """What is told of each server."""
    found: dict[str, str] = {}
    for finding in json.loads(result.stdout):
        kind = finding["subject"].split()[0]
        found[kind] = f"{found.get(kind, '')} {finding['message']}"
    return {kind: found[kind] for kind in SERVERS}


def test_they_are_reached_with_a_certificate(strict: Strict, tmp_path: Path) -> None:
    """Prometheus answers queries, Alertmanager tells its receivers, the service its health."""
    shown = write_leaf(strict.clients.issue_cert("fabric.example"), tmp_path)
    told = of_servers(check(strict.settings(tmp_path, **shown), tmp_path))
    assert "answers queries" in told["prometheus"]
    assert "has the receiver self-healing-fabric" in told["alertmanager"]
    assert "answers 200" in told["service"]


def test_without_one_each_says_that_it_asks_for_it(strict: Strict, tmp_path: Path) -> None:
    """And where to name it."""
    for kind, told in of_servers(check(strict.settings(tmp_path), tmp_path)).items():
        assert "It asks for a certificate: name yours as `cert_file` and `key_file`." in told, (kind, told)


def test_one_of_another_authority_is_refused(strict: Strict, tmp_path: Path) -> None:
    """Each says that it is our certificate which it does not take, and nothing of its authority."""
    shown = write_leaf(trustme.CA().issue_cert("fabric.example"), tmp_path)
    for kind, told in of_servers(check(strict.settings(tmp_path, **shown), tmp_path)).items():
        assert "It does not take the certificate that it is shown" in told, (kind, told)
        assert "Name its authority" not in told, (kind, told)


def missing(folder: Path, leaf: trustme.LeafCert) -> dict[str, str]:
    """Neither file is there."""
    return {"cert_file": "No such file", "key_file": "No such file"}


def empty(folder: Path, leaf: trustme.LeafCert) -> dict[str, str]:
    """Neither file holds anything."""
    for path in write_leaf(leaf, folder).values():
        Path(path).write_text("")
    return {"cert_file": "holds no certificate in PEM", "key_file": "holds no private key in PEM"}


def mismatched(folder: Path, leaf: trustme.LeafCert) -> dict[str, str]:
    """The key is of another certificate."""
    write_leaf(leaf, folder)
    (folder / "fabric.key").write_bytes(trustme.CA().issue_cert("other.example").private_key_pem.bytes())
    return {"key_file": "is not the key of the certificate"}


def locked(folder: Path, leaf: trustme.LeafCert) -> dict[str, str]:
    """Nobody is there to type a password."""
    paths = write_leaf(leaf, folder)
    command = ["openssl", "pkey", "-aes256", "-passout", "pass:secret", "-in", paths["key_file"]]
    encrypted = subprocess.run(command, capture_output=True, check=True).stdout
    Path(paths["key_file"]).write_bytes(encrypted)
    return {"key_file": "is encrypted"}


@pytest.mark.parametrize("broken", [missing, empty, mismatched, locked])
def test_what_cannot_be_used_is_told_by_its_path(
    strict: Strict, tmp_path: Path, broken: Callable[[Path, trustme.LeafCert], dict[str, str]]
) -> None:
    """With all that is wrong, `ca_file` too; nothing is asked, and nothing of a key is shown."""
    expected = broken(tmp_path, strict.clients.issue_cert("fabric.example"))
    names = {"cert_file": str(tmp_path / "fabric.crt"), "key_file": str(tmp_path / "fabric.key")}
    settings = strict.settings(tmp_path, **names, ca_file=str(tmp_path / "none.pem"))
    result = check(settings, tmp_path)
    assert result.returncode == 2, result.stdout
    told = dict(line.strip().split(": ", 1) for line in result.stderr.splitlines()[1:])
    assert told.keys() == {"ca_file", *expected}
    for name, reason in expected.items():
        assert told[name].startswith(f"{names[name]}: "), told
        assert reason in told[name]
    assert "PRIVATE" not in result.stderr


@pytest.mark.parametrize("kind", ["prometheus", "alertmanager"])
def test_a_certificate_that_is_replaced_is_shown_without_a_restart(
    strict: Strict, tmp_path: Path, kind: str
) -> None:
    """The running fabric is refused with the first one, and gets an answer with the one in its place."""
    settings = {
        **strict.settings(tmp_path, reconcile_interval=1),
        **write_leaf(trustme.CA().issue_cert("fabric.example"), tmp_path),
    }
    if kind == "prometheus":
        del settings["alertmanager"]  # while that answers, Prometheus is asked now and then only
    with served_fabric(tmp_path, **settings) as fabric:

        def answers() -> list[bool | None]:
            return [each["answers"] for each in fabric.status()["servers"] if each["kind"] == kind]

        fabric.wait("refused", lambda: answers() == [False], 60)
        write_leaf(strict.clients.issue_cert("fabric.example"), tmp_path)
        fabric.wait("reached", lambda: answers() == [True], 60)


def test_an_order_that_was_refused_for_want_of_a_certificate_has_failed(strict: Strict) -> None:
    """It went out before the refusal came, but nobody has read it: there is nothing to be uncertain of."""
    outbound.trust(strict.folder / "servers-ca.crt")
    url = strict.service.url_for("/restart")
    calls = Calls(HttpRecovery(restart=url), timeout=5, bearer_token_file=None)
    outcome = calls.send("POST", url, key="key", permit=lambda: True)
    assert isinstance(outcome, Outcome), outcome
    assert outcome.status is Status.FAILED
    assert not [request for request, _ in strict.service.log if request.path == "/restart"]


def test_the_command_line_shows_one_to_a_proxy_that_asks(strict: Strict, tmp_path: Path) -> None:
    """With --cert-file and --key-file; without, it says so, and one needs the other."""
    command = [*SHF, "incidents", "--url", strict.service.url_for("").rstrip("/")]
    command += ["--ca-file", str(strict.folder / "servers-ca.crt")]
    paths = write_leaf(strict.clients.issue_cert("person.example"), tmp_path)
    shown = ["--cert-file", paths["cert_file"], "--key-file", paths["key_file"]]

    def asked(*more: str) -> tuple[int, str]:
        done = subprocess.run([*command, *more], capture_output=True, text=True, timeout=60, check=False)
        return done.returncode, done.stderr

    code, told = asked()
    assert code == 1
    assert "It asks for a certificate: name yours with --cert-file and --key-file." in told
    code, told = asked(*shown[:2])
    assert (code, told) == (2, "shf: --cert-file and --key-file belong together\n")
    assert asked(*shown) == (0, "")
