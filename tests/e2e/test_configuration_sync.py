"""Drift to healed, on real servers: exported, alerted on, notified, synced once, proved; or put back.

Both services drift. The one is well afterwards; the other does not bear what is wanted of it and stops
answering. What counts is what the services were sent, byte for byte.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import rules_server
import yaml
from served_fabric import ServedFabric, served_fabric

from self_healing_fabric.rules import RuleParameters, write_rules
from shf_demo.configuration import alertmanager
from shf_demo.errors import DemoError
from shf_demo.ports import reserved_ports
from shf_demo.servers import Server, find_programs

pytestmark = pytest.mark.e2e

FAST = RuleParameters(
    scrape_interval=1, evaluation_interval=1, heartbeat=6, error_window=8, latency_window=4, latency_for=2,
    resource_window=5, resource_for=3, state_for=3, restart_window=20, slow_interval=1, keep_firing=5,
    baseline_window=12, baseline_offset=2,
)  # fmt: skip
CANARY = "canary-of-the-running-system"
RUNNING = f"# by hand\r\npool: 5\r\npassword: {CANARY}-old\r\n".encode()
WANTED = f"pool: 20\npassword: {CANARY}-new\n".encode()
DEADLINE = 90.0  # seconds for all of it; 25 on an idle machine
SHF = (sys.executable, "-m", "self_healing_fabric.cli")


class Service:
    """A service that takes its configuration while it runs, and remembers what it was sent."""

    def __init__(self, *, bears_it: bool) -> None:
        self.content = WANTED
        self.puts: list[bytes] = []
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path == "/config":
                    self._answer(200, service.content, ETag=service.etag())
                else:
                    well = bears_it or service.content != WANTED or not service.puts
                    self._answer(200 if well else 500, b"python_info 1\n")

            def do_PUT(self) -> None:
                content = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers["If-Match"] != service.etag():
                    self._answer(412, b"")
                    return
                service.puts.append(content)
                service.content = content
                self._answer(204, b"")

            def _answer(self, status: int, body: bytes, **headers: str) -> None:
                self.send_response(status)
                for name, value in {"Content-Type": "text/plain; version=0.0.4", **headers}.items():
                    self.send_header(name, value)
                if status != 204:
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def etag(self) -> str:
        return f'"{hashlib.sha256(self.content).hexdigest()[:12]}"'

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Stack:
    """Two services, Prometheus, Alertmanager and the fabric."""

    def __init__(self, services: dict[str, Service], fabric: ServedFabric) -> None:
        self.services, self.fabric = services, fabric

    def story(self, service: str, state: str) -> Any:
        """The story of the service's incident, as soon as it is in the state."""

        def found() -> list[Any]:
            return [
                row
                for row in self.fabric.incidents()
                if (row["service"], row["state"]) == (service, state)
            ]  # fmt: skip

        self.fabric.wait(f"{service} {state}", lambda: bool(found()), DEADLINE)
        return self.fabric.http.get(f"/api/v1/incidents/{found()[0]['id']}").json()

    def shf(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [*SHF, *arguments, "--config", str(self.fabric.configuration_file)]
        environment = {**os.environ, "COLUMNS": "200"}
        return subprocess.run(
            command, capture_output=True, text=True, timeout=60, check=False, env=environment
        )  # fmt: skip


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """All of it, running, and nothing drifts yet."""
    rules_server.program()
    try:
        programs = find_programs()
    except DemoError as error:
        pytest.skip(f"NOT TESTED: {error}")
    workdir = tmp_path_factory.mktemp("sync")
    wanted = workdir / "wanted.yaml"
    wanted.write_bytes(WANTED)
    with ExitStack() as running:
        services = {"cart": Service(bears_it=True), "pay": Service(bears_it=False)}
        for service in services.values():
            running.callback(service.close)
        ports = running.enter_context(reserved_ports(3))
        prometheus, notifier, fabric = (f"127.0.0.1:{port}" for port in ports)
        _write(workdir, services, notifier, fabric)
        server = Server(
            "alertmanager",
            [
                *(programs.alertmanager, f"--config.file={workdir / 'alertmanager.yml'}"),
                *(f"--web.listen-address={notifier}", f"--storage.path={workdir / 'am'}"),
                "--cluster.listen-address=",
            ],
            f"http://{notifier}/-/ready",
            workdir / "alertmanager.log",
            environment=os.environ,
        )
        running.enter_context(server).wait_ready()
        server = Server(
            "prometheus",
            [
                *(programs.prometheus, f"--config.file={workdir / 'prometheus.yml'}"),
                *(f"--web.listen-address={prometheus}", f"--storage.tsdb.path={workdir / 'data'}"),
                *("--log.level=warn", "--rules.alert.resend-delay=5s"),
            ],
            f"http://{prometheus}/-/ready",
            workdir / "prometheus.log",
            environment=os.environ,
        )
        running.enter_context(server).wait_ready()
        served = running.enter_context(
            served_fabric(
                workdir,
                listen=fabric,
                prometheus={
                    "url": f"http://{prometheus}",
                    "scrape_interval": "1s",
                    "evaluation_interval": "1s",
                },
                alertmanager={"url": f"http://{notifier}"},
                verification={"stability": "4s", "deadline": "20s", "interval": "1s"},
                thresholds={"heartbeat": "6s"},
                services={
                    name: {
                        "metrics": f"http://{service.address}/metrics",
                        "recovery": {
                            "configuration": {
                                "desired": {"file": str(wanted)},
                                "live": {"http": f"http://{service.address}/config"},
                                "format": "yaml",
                                "interval": "2s",
                            }
                        },
                    }
                    for name, service in services.items()
                },
            )
        )
        yield Stack(services, served)


def _write(workdir: Path, services: dict[str, Service], notifier: str, fabric: str) -> None:
    write_rules(FAST, workdir / "rules")
    scrapes = [
        {"targets": [service.address], "labels": {"service": name}} for name, service in services.items()
    ]
    configuration = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "900ms", "evaluation_interval": "1s"},
        "rule_files": [str(workdir / "rules/*.rules.yml")],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [notifier]}]}]},
        "scrape_configs": [
            {"job_name": "services", "static_configs": scrapes},
            {"job_name": "shf", "static_configs": [{"targets": [fabric]}]},
        ],
    }
    (workdir / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    (workdir / "alertmanager.yml").write_text(yaml.safe_dump(alertmanager(f"http://{fabric}")))


def drifts(stack: Stack, service: str) -> str:
    """The exported value of the service."""
    lines = stack.fabric.http.get("/metrics").text.splitlines()
    name = f'shf_config_drift{{service="{service}"}} '
    return next(line.removeprefix(name) for line in lines if line.startswith(name))


def test_drift_is_healed_or_put_back(stack: Stack) -> None:
    """One PUT of the wanted bytes each; where they heal nothing, the very bytes before them come back."""
    cart, pay = stack.services["cart"], stack.services["pay"]
    for name in stack.services:
        stack.fabric.wait(f"{name} was read", lambda name=name: drifts(stack, name) == "0.0", 20)
    cart.content = pay.content = RUNNING
    shown = stack.shf("drift", "cart")
    assert shown.returncode == 1
    assert "- pool: 5" in shown.stdout
    assert "+ pool: 20" in shown.stdout
    assert "+ password: ****** (another value)" in shown.stdout

    healed = stack.story("cart", "resolved")
    assert cart.puts == [WANTED]
    assert (healed["outcome"], healed["failure_class"]) == ("healed", "cluster_drift")
    assert [(each["strategy"], each["verdict"]) for each in healed["actions"]] == [("sync", "healed")]
    assert any(alert["labels"]["alertname"] == "ShfConfigDrift" for alert in healed["alerts"])
    assert drifts(stack, "cart") == "0.0"

    put_back = stack.story("pay", "escalated")
    assert pay.puts == [WANTED, RUNNING]
    assert pay.content == RUNNING
    assert [each["strategy"] for each in put_back["actions"]] == ["sync", "undo"]
    assert put_back["actions"][0]["verdict"] == "not_healed"


def test_no_secret_is_told_by_any_of_it(stack: Stack) -> None:
    """After both stories: not in the log, no answer, no metric, no command."""
    told = stack.fabric.log.read_text()
    for row in stack.fabric.incidents():
        told += json.dumps(stack.fabric.http.get(f"/api/v1/incidents/{row['id']}").json())
        told += stack.shf("incidents", row["id"]).stdout
    told += stack.fabric.http.get("/metrics").text
    for arguments in (("drift",), ("drift", "--json"), ("check",)):
        done = stack.shf(*arguments)
        told += done.stdout + done.stderr
    assert "configuration_drifts" in told
    assert "configuration: configuration:http://" in told
    assert CANARY not in told
