"""The stack for one machine: Compose takes the file, and what it mounts works together on real servers.

No registry can be reached here, so the images themselves are not run: the same files, with the names of the
containers replaced by addresses, are given to the servers that this machine has.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from self_healing_fabric import __version__
from shf_demo.ports import reserved_ports
from shf_demo.servers import Programs, Server

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy/compose"
FABRIC = "import sys; from self_healing_fabric.cli import main; sys.exit(main())"
PORTS = {"prometheus": 9090, "alertmanager": 9093, "blackbox": 9115, "fabric": 9931}
HEALTH = {"prometheus": "/-/ready", "alertmanager": "/-/ready", "blackbox": "/-/healthy", "fabric": "/readyz"}
DEADLINE = 60.0  # seconds


def compose(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Docker Compose as this machine has it: the plugin, or the program of the version before."""
    plugin = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
    command = ["docker", "compose"] if plugin.returncode == 0 else ["docker-compose"]
    if plugin.returncode and shutil.which("docker-compose") is None:
        reason = "NOT TESTED: Docker Compose is not there (Debian: docker-compose)"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    clean = {key: value for key, value in os.environ.items() if key != "DOCKER_GID"}
    environment = {**clean, **environment}
    return subprocess.run(
        [*command, *words], cwd=FOLDER, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def resolved() -> dict[str, Any]:
    """The file as Compose understands it."""
    done = compose("-f", "compose.yaml", "config")
    assert done.returncode == 0, done.stderr
    return dict(yaml.safe_load(done.stdout))


def test_every_image_is_pinned_and_every_container_locked_down(resolved: dict[str, Any]) -> None:
    """A version in each tag; no capability, no new one, no write but to volumes; asked whether it is well."""
    assert set(resolved["services"]) == {*PORTS, "grafana"}
    for name, service in resolved["services"].items():
        assert re.search(r":v?\d+\.\d+\.\d+$", service["image"]), name
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["restart"] == "unless-stopped", name
        assert "healthcheck" in service or name == "fabric", name
        assert "privileged" not in service
        assert "docker.sock" not in str(service)
    text = (FOLDER / "compose.yaml").read_text()
    assert all(port.startswith("127.0.0.1:") for port in re.findall(r'ports: \["([^"]+)"\]', text))


def test_the_image_is_of_this_version(resolved: dict[str, Any]) -> None:
    """Of the fabric's own, the tag is the version that is in one place."""
    assert resolved["services"]["fabric"]["image"] == f"self-healing-fabric:{__version__}"
    manifest = ROOT / "deploy/kubernetes/base/deployment.yaml"
    assert f"image: self-healing-fabric:{__version__} " in manifest.read_text()


def test_the_socket_of_the_engine_is_asked_for(resolved: dict[str, Any]) -> None:
    """Only the second file mounts it, and not without its group."""
    files = ("-f", "compose.yaml", "-f", "compose.docker.yaml", "config")
    without = compose(*files)
    assert without.returncode != 0
    assert "the group of the socket" in without.stderr
    fabric = yaml.safe_load(compose(*files, DOCKER_GID="999").stdout)["services"]["fabric"]
    assert "/var/run/docker.sock" in str(fabric["volumes"])
    assert [str(group) for group in fabric["group_add"]] == ["999"]


def test_what_is_mounted_is_there(resolved: dict[str, Any]) -> None:
    """Every bind mount leads to a file or folder of the repository; secrets are the reader's own."""
    mounts = [
        Path(volume.split(":")[0] if isinstance(volume, str) else volume.get("source", ""))
        for service in resolved["services"].values()
        for volume in service.get("volumes", ())
    ]
    files = [mount for mount in mounts if mount.is_absolute()]
    assert len(files) == 7
    assert all(mount.exists() for mount in files)
    assert {Path(each["file"]).parent for each in resolved["secrets"].values()} == {FOLDER / "secrets"}


def test_the_route_is_the_shipped_one() -> None:
    """Nothing but the address and the credentials differs from alert_rules/alertmanager.yml."""
    shipped = yaml.safe_load((ROOT / "alert_rules/alertmanager.yml").read_text())
    ours = yaml.safe_load((FOLDER / "alertmanager.yml").read_text())
    webhook = ours["receivers"][0]["webhook_configs"][0]
    assert webhook["http_config"].pop("authorization")
    webhook["url"] = shipped["receivers"][0]["webhook_configs"][0]["url"]
    assert ours == shipped


class Running:
    """The servers of the stack on loopback ports, with the mounted files."""

    def __init__(self, folder: Path, programs: Programs, ports: dict[str, int]) -> None:
        self.folder, self.ports = folder, ports
        self.urls = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
        secrets = folder / "secrets"
        secrets.mkdir()
        for name in ("alertmanager-token", "prometheus-token", "ops-token"):
            (secrets / name).write_text(f"a-secret-for-{name}\n")
        shutil.copytree(ROOT / "alert_rules", folder / "shf")
        for name in ("prometheus.yml", "alertmanager.yml", "blackbox.yml", "shf.yaml"):
            (folder / name).write_text(self._here((FOLDER / name).read_text()))
        settings = yaml.safe_load((folder / "shf.yaml").read_text())
        settings["services"] = {"cart": {"health": f"{self.urls['blackbox']}/-/healthy"}}
        (folder / "shf.yaml").write_text(yaml.safe_dump(settings))
        self.commands = {
            "blackbox": [programs.blackbox, f"--config.file={folder}/blackbox.yml", self._listen("blackbox")],
            "alertmanager": [
                programs.alertmanager,
                f"--config.file={folder}/alertmanager.yml",
                f"--storage.path={folder}/alertmanager",
                "--cluster.listen-address=",
                self._listen("alertmanager"),
            ],
            "fabric": [sys.executable, "-c", FABRIC, "serve", "--config", f"{folder}/shf.yaml"],
            "prometheus": [
                programs.prometheus,
                f"--config.file={folder}/prometheus.yml",
                f"--storage.tsdb.path={folder}/tsdb",
                self._listen("prometheus"),
            ],
        }

    def _here(self, text: str) -> str:
        """With loopback addresses for the names of containers, and this folder for theirs."""
        text = text.replace("/run/secrets/", f"{self.folder}/secrets/")
        text = text.replace("127.0.0.1:9090", "prometheus:9090")
        for name, port in PORTS.items():
            text = text.replace(f"{name}:{port}", f"127.0.0.1:{self.ports[name]}")
        return text

    def _listen(self, name: str) -> str:
        return f"--web.listen-address=127.0.0.1:{self.ports[name]}"

    def ask(self, query: str) -> list[Any]:
        """What Prometheus answers."""
        url = f"{self.urls['prometheus']}/api/v1/query"
        answer = httpx.get(url, params={"query": query}, trust_env=False)
        return list(answer.raise_for_status().json()["data"]["result"])


@pytest.fixture
def running(programs: Programs, tmp_path: Path) -> Iterator[Running]:
    """Started in the order in which nobody waits for another."""
    with ExitStack() as stack:
        numbers = stack.enter_context(reserved_ports(len(PORTS)))
        running = Running(tmp_path, programs, dict(zip(PORTS, numbers, strict=True)))
        environment = {key: value for key, value in os.environ.items() if not key.startswith("SHF_")}
        environment |= {
            "SHF_LISTEN": running.urls["fabric"].removeprefix("http://"),
            "SHF_STORE": f"sqlite:///{tmp_path}/shf.db",
        }
        for name, command in running.commands.items():
            url = f"{running.urls[name]}{HEALTH[name]}"
            server = Server(name, command, url, tmp_path / f"{name}.log", environment=environment)
            stack.enter_context(server).wait_ready()
        yield running


def wait_for(what: str, condition: Callable[[], bool]) -> None:
    """Until it holds."""
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, f"{what}: not within {DEADLINE:g} s"
        time.sleep(0.2)


def test_the_mounted_files_work_together(running: Running) -> None:
    """Each tool accepts its file; services are discovered with a token, and an alert arrives with another."""
    for command in (
        ["promtool", "check", "config", running.folder / "prometheus.yml"],
        ["amtool", "check-config", running.folder / "alertmanager.yml"],
        [running.commands["blackbox"][0], f"--config.file={running.folder}/blackbox.yml", "--config.check"],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    wait_for("probed", lambda: bool(running.ask('probe_success{service="cart", job="health"} == 1')))
    jobs = ("self-healing-fabric", "prometheus", "alertmanager")
    wait_for("scraped", lambda: all(running.ask(f'up{{job="{job}"}} == 1') for job in jobs))
    rule = 'service:shf_heartbeat:answered{service="cart"}'
    wait_for("the rules are evaluated", lambda: bool(running.ask(rule)))

    fabric = running.urls["fabric"]
    assert httpx.get(f"{fabric}/api/v1/incidents", trust_env=False).status_code == 401
    labels = {"alertname": "ShfHeartbeatMissed", "service": "cart", "signal": "heartbeat"}
    alert = {"labels": labels | {"severity": "critical"}, "annotations": {"summary": "cart is silent"}}
    posted = httpx.post(f"{running.urls['alertmanager']}/api/v2/alerts", json=[alert], trust_env=False)
    posted.raise_for_status()
    token = (running.folder / "secrets/ops-token").read_text().strip()

    def incidents() -> list[Any]:
        headers = {"Authorization": f"Bearer {token}"}
        answer = httpx.get(f"{fabric}/api/v1/incidents", headers=headers, trust_env=False)
        return list(answer.raise_for_status().json()["incidents"])

    wait_for("the alert arrives", lambda: bool(incidents()))
    assert incidents()[0]["service"] == "cart"
