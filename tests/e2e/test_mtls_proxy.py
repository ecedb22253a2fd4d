"""Client certificates, as docs/access.md says: nginx as that page configures it, before a real fabric.

The proxy decides who may connect, the fabric who may do what. A real Alertmanager, configured as the page
shows, gets its notification through.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme
import yaml
from served_fabric import ServedFabric, served_fabric

from documented import ROOT, blocks_of
from shf_demo.ports import reserved_ports
from shf_demo.servers import Programs, Server

pytestmark = pytest.mark.e2e

TOKEN, READER = "t" * 32, "r" * 32
ALERT = {
    "status": "firing",
    "labels": {"alertname": "ShfHeartbeatMissed", "service": "cart"},
    "startsAt": "2027-01-15T08:00:00Z",
    "fingerprint": "f1",
}
MESSAGE = {"version": "4", "alerts": [ALERT]}


@dataclass(frozen=True)
class Proxied:
    """A fabric behind the proxy, and the certificates that its clients may have."""

    url: str
    fabric: ServedFabric
    directory: Path

    def client(self, certificate: str | None) -> httpx.Client:
        """One that trusts the proxy and shows a certificate, or none."""
        context = ssl.create_default_context(cafile=str(self.directory / "servers-ca.crt"))
        if certificate is not None:
            folder = self.directory
            context.load_cert_chain(folder / f"{certificate}.crt", folder / f"{certificate}.key")
        return httpx.Client(base_url=self.url, verify=context, trust_env=False, timeout=10)


def shown(language: str, containing: str) -> str:
    """The block of docs/access.md that shows something."""
    (found,) = [
        block.text
        for block in blocks_of(ROOT / "docs" / "access.md")
        if block.language == language and containing in block.text
    ]
    return found


@pytest.fixture(scope="module")
def proxied(programs: Programs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxied]:
    """The fabric on loopback with two callers, and nginx as on the page, but for its paths and ports."""
    assert programs
    folder = tmp_path_factory.mktemp("mtls")
    certificates(folder)
    for name, secret in (("alertmanager", TOKEN), ("reader", READER)):
        (folder / f"{name}-token").write_text(secret)
    callers = {
        "alertmanager": {"rights": ["send"], "token_file": str(folder / "alertmanager-token")},
        "reader": {"rights": ["read"], "token_file": str(folder / "reader-token")},
    }
    with ExitStack() as stack:
        (port,) = stack.enter_context(reserved_ports(1))
        url = f"https://127.0.0.1:{port}"
        settings = {"external_url": url, "auth": {"callers": callers}, "services": {"cart": {}}}
        fabric = stack.enter_context(served_fabric(folder, **settings))
        server = shown("nginx", "ssl_verify_client")
        assert server.count("listen 9443 ssl") == server.count("http://127.0.0.1:9931") == 1
        server = server.replace("listen 9443", f"listen 127.0.0.1:{port}")
        server = server.replace("http://127.0.0.1:9931", fabric.url).replace("/etc/nginx", str(folder))
        kept = "".join(
            f"{name}_temp_path {folder}/{name};"
            for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (folder / "nginx.conf").write_text(
            f"daemon off; master_process off; pid {folder}/nginx.pid; error_log stderr;\n"
            f"events {{}}\nhttp {{ access_log off; {kept}\n{server}\n}}\n"
        )
        command = ["nginx", "-e", "stderr", "-p", str(folder), "-c", str(folder / "nginx.conf")]
        nginx = Server("nginx", command, url, folder / "nginx.log", environment=os.environ)
        stack.enter_context(nginx)
        proxied = Proxied(url, fabric, folder)
        fabric.wait("nginx listens", lambda: listens(port, nginx), 30)
        yield proxied


def listens(port: int, nginx: Server) -> bool:
    """Whether a connection is taken."""
    nginx.check_running()
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def certificates(folder: Path) -> None:
    """Those of the proxy, of a client that may call, and of one of an authority that nobody has named."""
    servers, clients, strangers = trustme.CA(), trustme.CA(), trustme.CA()
    servers.cert_pem.write_to_path(folder / "servers-ca.crt")
    clients.cert_pem.write_to_path(folder / "clients-ca.crt")
    for authority, name, host in (
        (servers, "shf", "127.0.0.1"),
        (clients, "alertmanager", "alertmanager.example"),
        (strangers, "stranger", "alertmanager.example"),
    ):
        leaf = authority.issue_cert(host)
        leaf.private_key_pem.write_to_path(folder / f"{name}.key")
        leaf.cert_chain_pems[0].write_to_path(folder / f"{name}.crt")


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.mark.parametrize("certificate", [None, "stranger"])
def test_without_a_certificate_nobody_reaches_the_fabric(proxied: Proxied, certificate: str | None) -> None:
    """Not even with the right token; the fabric hears nothing of it."""
    before = requests_counted(proxied.fabric)
    with proxied.client(certificate) as client:
        refused = client.post("/api/v1/alerts", json=MESSAGE, headers=bearer(TOKEN))
        assert refused.status_code == 400
        assert "nginx" in refused.headers["Server"]
        assert client.get("/healthz").status_code == 400
    assert requests_counted(proxied.fabric) == before


def test_a_certificate_opens_the_connection_and_gives_no_right(proxied: Proxied) -> None:
    """The token, which the proxy passes on, says who may do what; a header that names a client is nothing."""
    with proxied.client("alertmanager") as client:
        assert client.get("/healthz").status_code == 200
        assert client.post("/api/v1/alerts", json=MESSAGE).status_code == 401
        pretended = {"X-SSL-Client-Verify": "SUCCESS", "X-Remote-User": "alertmanager"}
        assert client.post("/api/v1/alerts", json=MESSAGE, headers=pretended).status_code == 401
        assert client.post("/api/v1/alerts", json=MESSAGE, headers=bearer(READER)).status_code == 403
        assert client.post("/api/v1/alerts", json=MESSAGE, headers=bearer(TOKEN)).status_code == 202
        assert client.get("/api/v1/incidents", headers=bearer(READER)).status_code == 200


def test_cookies_are_for_tls_only_behind_the_proxy(proxied: Proxied) -> None:
    """The fabric is told the name by which browsers call it, so it knows that they come by TLS."""
    with proxied.client("alertmanager") as client:
        answer = client.get("/login")
    assert answer.status_code == 200
    assert "; Secure" in answer.headers["Set-Cookie"]


def test_an_alertmanager_with_a_certificate_gets_through(
    proxied: Proxied, programs: Programs, tmp_path: Path
) -> None:
    """A real one, with the `http_config` that the page shows."""
    receivers: dict[str, Any] = yaml.safe_load(
        shown("yaml", "tls_config")
        .replace("https://fabric.example:9443", proxied.url)
        .replace("/etc/alertmanager/shf-token", str(proxied.directory / "alertmanager-token"))
        .replace("/etc/alertmanager/servers-ca.crt", str(proxied.directory / "servers-ca.crt"))
        .replace("/etc/alertmanager/client", str(proxied.directory / "alertmanager"))
    )
    (receiver,) = receivers["receivers"]
    route = {"receiver": receiver["name"], "group_wait": "0s", "group_by": ["..."]}
    configuration = tmp_path / "alertmanager.yml"
    configuration.write_text(yaml.safe_dump({**receivers, "route": route}))
    with reserved_ports(1) as (port,):
        url = f"http://127.0.0.1:{port}"
        command = [
            programs.alertmanager,
            f"--config.file={configuration}",
            f"--storage.path={tmp_path}/data",
            f"--web.listen-address=127.0.0.1:{port}",
            "--cluster.listen-address=",
        ]
        with Server(
            "alertmanager", command, f"{url}/-/ready", tmp_path / "am.log", environment=os.environ
        ) as server:
            server.wait_ready()
            alert = {"labels": {"alertname": "ThroughTheProxy", "service": "cart"}}
            httpx.post(f"{url}/api/v2/alerts", json=[alert], trust_env=False).raise_for_status()

            def arrived() -> bool:
                answer = proxied.fabric.http.get("/api/v1/incidents", headers=bearer(READER))
                stories = [
                    proxied.fabric.http.get(f"/api/v1/incidents/{each['id']}", headers=bearer(READER)).json()
                    for each in answer.raise_for_status().json()["incidents"]
                ]
                names = [alert["labels"]["alertname"] for story in stories for alert in story["alerts"]]
                return "ThroughTheProxy" in names

            proxied.fabric.wait("arrived", arrived, 60)


def requests_counted(fabric: ServedFabric) -> list[str]:
    """What the fabric counts of the calls to its webhook, whatever it answered."""
    metrics = fabric.http.get("/metrics").raise_for_status().text
    return [line for line in metrics.splitlines() if line.startswith("shf_webhook_requests_total")]
