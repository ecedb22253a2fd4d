"""Prometheus and Alertmanager with `basic_auth_users`, the only credentials that they ask for themselves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from served_fabric import served_fabric

from shf_demo.ports import reserved_ports
from shf_demo.servers import Programs, Server

pytestmark = pytest.mark.e2e

SHF = (sys.executable, "-m", "self_healing_fabric.cli")
# bcrypt of "first-secret", of the least cost: it is computed anew for every call.
USERS = {"fabric": "$2b$04$tc2Z/j5MTRPbz4tefIDzx..q96/w6XLciq6ZnC.ZpIo7Wvxus2TJO"}
SECRET = "first-secret"


@dataclass(frozen=True)
class Locked:
    """A real Prometheus and a real Alertmanager, below paths of their own."""

    prometheus: str
    alertmanager: str

    def settings(self, folder: Path, *, secret: str | None = SECRET, **more: Any) -> dict[str, Any]:
        """A configuration that names both, with the secret in a file."""
        shown = {}
        if secret is not None:
            (folder / "password").write_text(f"{secret}\n")
            shown = {"username": "fabric", "password_file": str(folder / "password")}
        return {
            "prometheus": {"url": self.prometheus, **shown},
            "alertmanager": {"url": self.alertmanager, **shown},
            "store": f"sqlite:///{folder}/shf.db",
            "escalation": {
                "channels": {"on-call": {"alertmanager": {}}},
                "contacts": {"human": ["on-call"]},
                "hold_page": {},
            },
            **more,
        }


@pytest.fixture(scope="module")
def locked(programs: Programs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Locked]:
    """Both, on loopback; Prometheus scrapes itself, and a service that never answers."""
    folder = tmp_path_factory.mktemp("locked")
    (folder / "web.yml").write_text(yaml.safe_dump({"basic_auth_users": USERS}))
    receivers = {"route": {"receiver": "self-healing-fabric"}, "receivers": [{"name": "self-healing-fabric"}]}
    (folder / "alertmanager.yml").write_text(yaml.safe_dump(receivers))
    with ExitStack() as stack:
        of_prometheus, of_alertmanager = stack.enter_context(reserved_ports(2))
        itself = {
            "job_name": "cart", "scrape_interval": "1s", "metrics_path": "/prom/metrics",
            "basic_auth": {"username": "fabric", "password": SECRET},
            "static_configs": [{"targets": [f"127.0.0.1:{of_prometheus}"]}],
        }  # fmt: skip
        lost = {
            "job_name": "lost", "scrape_interval": "1s", "static_configs": [{"targets": ["127.0.0.1:9"]}],
        }  # fmt: skip
        (folder / "prometheus.yml").write_text(yaml.safe_dump({"scrape_configs": [itself, lost]}))
        options = (
            ("prometheus", programs.prometheus, of_prometheus, "prom", f"--storage.tsdb.path={folder}/data"),
            ("alertmanager", programs.alertmanager, of_alertmanager, "am", f"--storage.path={folder}/am"),
        )
        urls = []
        for name, binary, port, path, storage in options:
            url = f"http://127.0.0.1:{port}/{path}"
            command = [binary, f"--config.file={folder}/{name}.yml", storage]
            command += [f"--web.config.file={folder}/web.yml", f"--web.listen-address=127.0.0.1:{port}"]
            command += [f"--web.external-url={url}"]
            command += ["--cluster.listen-address="] if name == "alertmanager" else []
            server = Server(name, command, url, folder / f"{name}.log", environment=os.environ)
            stack.enter_context(server)
            wait_ready(server, f"{url}/-/ready")
            urls.append(url)
        yield Locked(*urls)


def wait_ready(server: Server, url: str) -> None:
    """As `Server` does, which knows no password."""
    end = time.monotonic() + 60
    while True:
        server.check_running()
        try:
            if httpx.get(url, auth=("fabric", SECRET), trust_env=False).is_success:
                return
        except httpx.TransportError:
            pass
        assert time.monotonic() < end, f"{server.name} is not ready"
        time.sleep(0.1)


def run(folder: Path, settings: dict[str, Any], *command: str) -> subprocess.CompletedProcess[str]:
    """The command, with this configuration."""
    (folder / "shf.yaml").write_text(yaml.safe_dump(settings))
    called = [*SHF, *command, "--config", str(folder / "shf.yaml")]
    return subprocess.run(called, capture_output=True, text=True, timeout=120, check=False)


def of_servers(result: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """What `shf check` tells of each server."""
    told: dict[str, str] = {"prometheus": "", "alertmanager": "", "page": ""}
    for finding in json.loads(result.stdout):
        kind = finding["subject"].split()[0]
        told[kind] = f"{told.get(kind, '')} {finding['message']}"
    return told


def test_both_are_asked_with_a_username(locked: Locked, tmp_path: Path) -> None:
    """Prometheus answers queries, Alertmanager tells its receivers."""
    told = of_servers(run(tmp_path, locked.settings(tmp_path), "check", "--json"))
    assert "answers queries" in told["prometheus"]
    assert "has the receiver self-healing-fabric" in told["alertmanager"]
    assert "401" not in str(told)


@pytest.mark.parametrize("secret", [None, "another-secret"])
def test_who_is_refused_is_told_what_to_name(locked: Locked, tmp_path: Path, secret: str | None) -> None:
    """Without a password, and with a wrong one, which nobody is shown."""
    result = run(tmp_path, locked.settings(tmp_path, secret=secret), "check", "--json")
    told = of_servers(result)
    for kind in ("prometheus", "alertmanager"):
        assert f"`{kind}.username` and `{kind}.password_file`" in told[kind], told
    assert "another-secret" not in result.stdout


def test_the_past_is_read_with_a_username(locked: Locked, tmp_path: Path) -> None:
    """Also by what a replayed incident asks."""
    settings = locked.settings(tmp_path, services={"cart": {}, "lost": {}}, thresholds={"heartbeat": "4s"})
    settings["prometheus"] |= {"scrape_interval": "1s", "evaluation_interval": "1s"}
    end = time.monotonic() + 90
    while True:
        result = run(tmp_path, settings, "replay", "--since", "1m", "--json")
        assert "401" not in result.stderr
        if result.returncode == 0 and "ShfHeartbeatMissed" in result.stdout:
            return
        assert time.monotonic() < end, result.stdout + result.stderr
        time.sleep(1)


def test_a_call_reaches_alertmanager_with_a_username(locked: Locked, tmp_path: Path) -> None:
    """It has the alert."""
    result = run(tmp_path, locked.settings(tmp_path), "escalation", "test", "4")
    assert result.returncode == 0, result.stdout + result.stderr
    listed = httpx.get(
        f"{locked.alertmanager}/api/v2/alerts", auth=("fabric", SECRET), trust_env=False
    ).json()
    assert "ShfEscalation" in str(listed)


@pytest.mark.parametrize("kind", ["prometheus", "alertmanager"])
def test_a_password_that_is_replaced_is_sent_without_a_restart(
    locked: Locked, tmp_path: Path, kind: str
) -> None:
    """The running fabric is refused with the first one, gets an answer with the one in its place, and says so
    when there is none any more."""
    settings = locked.settings(tmp_path, secret="another-secret", reconcile_interval=1)
    if kind == "prometheus":  # while Alertmanager answers, that is asked now and then only
        del settings["alertmanager"], settings["escalation"]
    with served_fabric(tmp_path, **settings) as fabric:

        def answers() -> list[bool | None]:
            return [each["answers"] for each in fabric.status()["servers"] if each["kind"] == kind]

        fabric.wait("refused", lambda: answers() == [False], 60)
        (tmp_path / "password").write_text(SECRET)
        fabric.wait("reached", lambda: answers() == [True], 60)
        (tmp_path / "password").unlink()
        fabric.wait("cannot be asked", lambda: answers() == [False], 60)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"username": "fabric"}, "`username` and `password_file` belong together"),
        (
            {"username": "fabric", "password_file": "password", "bearer_token_file": "token"},
            "give either `bearer_token_file`, or `username` and `password_file`",
        ),
    ],
)
def test_there_is_one_way_to_be_known(tmp_path: Path, given: dict[str, str], said: str) -> None:
    """Both servers."""
    for kind in ("prometheus", "alertmanager"):
        result = run(tmp_path, {kind: {"url": "http://127.0.0.1:9", **given}}, "check")
        assert result.returncode == 2
        assert f"{kind}: {said}" in result.stderr
