"""`shf serve` as a process: it starts, takes notifications, and stops tidily while an effect is under way."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from self_healing_fabric.app import THREADS, serve
from self_healing_fabric.errors import UsageError
from self_healing_fabric.integration.lifecycle import Fabric
from self_healing_fabric.settings import Settings
from shf_demo.ports import free_ports

pytestmark = pytest.mark.e2e

DEADLINE = 60.0  # seconds, for busy machines
ALERT = {
    "version": "4",
    "alerts": [
        {
            "status": "firing",
            "labels": {"alertname": "Test", "service": "cart", "signal": "heartbeat", "severity": "critical"},
            "startsAt": "2026-01-01T00:00:00Z",
            "fingerprint": "00112233",
        }
    ],
}


class SlowTarget:
    """A Prometheus that says that `cart` is silent, and a restart that lasts until it may end."""

    def __init__(self, server: HTTPServer) -> None:
        self.restarting = threading.Event()
        self.may_end = threading.Event()
        self.restarts = 0
        server.expect_request("/api/v1/query").respond_with_handler(self._query)
        server.expect_request("/api/v1/alerts").respond_with_json(
            {"status": "success", "data": {"alerts": []}}
        )
        server.expect_request("/restart", method="POST").respond_with_handler(self._restart)
        self.url = server.url_for("").rstrip("/")

    def _query(self, request: Request) -> Response:
        query, now = request.args["query"], time.time()
        result: list[object] = []
        if query == "vector(time())":
            result = [{"metric": {}, "value": [now, str(now)]}]
        elif query.startswith("{__name__"):
            metric = {"__name__": "service:shf_heartbeat:answered", "service": "cart"}
            result = [{"metric": metric, "value": [now, "0"]}]
        elif "[" in query and query.startswith("service:shf_up:ratio"):
            silent = [[now - ago, "0"] for ago in range(60, -1, -1)]
            result = [{"metric": {"service": "cart"}, "values": silent}]
        return Response(
            json.dumps({"status": "success", "data": {"result": result}}), mimetype="application/json"
        )

    def _restart(self, _: Request) -> Response:
        self.restarts += 1
        self.restarting.set()
        self.may_end.wait(DEADLINE)
        return Response("done")


@pytest.fixture
def target(httpserver: HTTPServer) -> Iterator[SlowTarget]:
    """The slow target; allowed to end at the latest with the test."""
    slow = SlowTarget(httpserver)
    yield slow
    slow.may_end.set()


@pytest.fixture
def start(tmp_path: Path, target: SlowTarget) -> Iterator[Callable[..., tuple[subprocess.Popen[str], str]]]:
    """Start `shf serve` on a store that stays the same, and wait until it is ready."""
    started: list[subprocess.Popen[str]] = []
    config = tmp_path / "shf.yaml"

    def begin(**more: Any) -> tuple[subprocess.Popen[str], str]:
        (port,) = free_ports(1)
        settings = {
            "listen": f"127.0.0.1:{port}",
            "store": f"sqlite:///{tmp_path}/shf.db",
            "prometheus": {"url": target.url},
            "services": {"cart": {"recovery": {"http": {"restart": f"{target.url}/restart"}}}},
            **more,
        }
        config.write_text(yaml.safe_dump(settings))
        environment = {key: value for key, value in os.environ.items() if not key.startswith("SHF_")}
        environment["OPENBLAS_NUM_THREADS"] = "1"  # or NumPy adds threads that are none of Python's
        command = [sys.executable, "-m", "self_healing_fabric.cli", "serve", "--config", str(config)]
        with (tmp_path / "serve.log").open("a") as log:
            process = subprocess.Popen(command, stderr=log, text=True, env=environment)
        started.append(process)
        url = f"http://127.0.0.1:{port}"
        wait(lambda: answers(f"{url}/readyz"))
        return process, url

    yield begin
    for process in started:
        process.kill()  # harmless when it has ended
        process.wait()


def only_incident(url: str) -> dict[str, Any]:
    """The one incident of the fabric."""
    (incident,) = httpx.get(f"{url}/api/v1/incidents", trust_env=False).json()["incidents"]
    return dict(incident)


def answers(url: str) -> bool:
    """Whether the URL answers 2xx."""
    try:
        return httpx.get(url, trust_env=False).is_success
    except httpx.HTTPError:
        return False


def wait(condition: Callable[[], bool]) -> None:
    """Wait until the condition holds."""
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_end_finishes_the_effect_in_hand(
    start: Callable[[], tuple[subprocess.Popen[str], str]],
    target: SlowTarget,
    tmp_path: Path,
    number: signal.Signals,
) -> None:
    """During a restart: the process waits for its end, records it, exits 0; nothing is repeated."""
    process, url = start()
    assert httpx.post(f"{url}/api/v1/alerts", json=ALERT, trust_env=False).status_code == 202
    assert target.restarting.wait(DEADLINE)
    process.send_signal(number)
    time.sleep(0.5)
    assert process.poll() is None  # it waits for the effect
    target.may_end.set()
    assert process.wait(DEADLINE) == 0
    last = (tmp_path / "serve.log").read_text().splitlines()[-1]
    assert json.loads(last)["event"] == "stopped"
    _, url = start()
    incident = only_incident(url)
    assert incident["state"] == "verifying"
    assert target.restarts == 1


def test_it_outlives_its_terminal_where_that_was_asked_for(
    start: Callable[[], tuple[subprocess.Popen[str], str]],
) -> None:
    """As by `nohup`, which has the signal ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        process, url = start()
    finally:
        signal.signal(signal.SIGHUP, before)
    process.send_signal(signal.SIGHUP)
    assert httpx.get(f"{url}/readyz", trust_env=False).is_success
    process.send_signal(signal.SIGTERM)
    assert process.wait(DEADLINE) == 0


def test_sigkill_during_the_effect_repeats_nothing(
    start: Callable[[], tuple[subprocess.Popen[str], str]], target: SlowTarget
) -> None:
    """SIGKILL during a restart: the next process knows that it began, and does not begin it again."""
    process, url = start()
    httpx.post(f"{url}/api/v1/alerts", json=ALERT, trust_env=False)
    assert target.restarting.wait(DEADLINE)
    process.kill()
    process.wait()
    target.may_end.set()
    _, url = start()
    wait(
        lambda: bool(
            httpx.get(f"{url}/api/v1/incidents", trust_env=False).json()["incidents"][0]["waiting_for"]
        )
    )
    incident = only_incident(url)
    assert "was interrupted" in incident["waiting_for"]
    assert target.restarts == 1


def test_headers_that_are_too_large_are_refused(
    start: Callable[[], tuple[subprocess.Popen[str], str]],
) -> None:
    """431 for more than 16 KiB of them, and the next request is answered; half as much passes."""
    _, url = start()
    answers = [
        httpx.get(f"{url}/api/v1/mode", headers={"X-Much": "x" * size}, trust_env=False).status_code
        for size in (8_000, 20_000, 10)
    ]
    assert answers == [200, 431, 200]


@pytest.mark.parametrize("affinity", ["one", "all"])
def test_it_stays_on_one_cpu_unless_the_system_may_choose(
    start: Callable[..., tuple[subprocess.Popen[str], str]], affinity: str
) -> None:
    """Each of its threads, those of the store and of HTTP included."""
    ours = os.sched_getaffinity(0)
    if len(ours) == 1:
        pytest.skip("there is one CPU only")
    process, url = start(cpu_affinity=affinity)
    assert httpx.post(f"{url}/api/v1/alerts", json=ALERT, trust_env=False).status_code == 202
    found: Counter[frozenset[int]] = Counter()
    for task in Path(f"/proc/{process.pid}/task").iterdir():
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            found[frozenset(os.sched_getaffinity(int(task.name)))] += 1
    ((cpus, threads),) = found.items()
    assert threads > THREADS
    assert cpus == ours if affinity == "all" else (len(cpus) == 1 and cpus < ours)


def test_a_fabric_that_is_embedded_does_not_listen_beyond_loopback_without_credentials(
    tmp_path: Path,
) -> None:
    """Settings that were made without a file are not checked by its reader; serving refuses them."""
    fabric = Fabric(Settings(listen="0.0.0.0:9", store=f"sqlite:///{tmp_path}/shf.db"))
    try:
        with pytest.raises(UsageError, match="reachable from outside"):
            serve(fabric)
    finally:
        fabric.stop()


def test_second_process_on_one_store_is_refused(
    start: Callable[[], tuple[subprocess.Popen[str], str]], tmp_path: Path
) -> None:
    """Two fabrics on one SQLite file would both heal: the second ends with status 1 and says why."""
    start()
    command = [
        sys.executable,
        "-m",
        "self_healing_fabric.cli",
        "serve",
        "--config",
        str(tmp_path / "shf.yaml"),
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert result.returncode == 1
    assert "another fabric uses this store" in result.stderr
    assert "Traceback" not in result.stderr
