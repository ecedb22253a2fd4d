"""The faults of the demo are real: each is observed over HTTP on a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import httpx
import pytest

from shf_demo.ports import free_ports
from shf_demo.sample_service import MEMORY_LIMIT

HEALTH = "/api/v1/health"


class Service:
    """A sample service in its own process, and a client that gives up after a second."""

    def __init__(self) -> None:
        (port,) = free_ports(1)
        command = [sys.executable, "-m", "shf_demo.sample_service", "--name", "guardian-one"]
        command += ["--port", str(port), "--health-path", HEALTH, "--parent", str(os.getpid())]
        self.process = subprocess.Popen(command)
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=1.0, trust_env=False)
        wait_for(self.is_healthy)

    def is_healthy(self) -> bool:
        try:
            return self.http.get(HEALTH).status_code == 200
        except httpx.HTTPError:
            return False

    def inject(self, kind: str, **details: float) -> None:
        assert self.http.post("/fault", json={"kind": kind, **details}).status_code == 202

    def metric(self, name: str) -> float:
        lines = self.http.get("/metrics").text.splitlines()
        return next(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


def wait_for(condition: object, deadline: float = 15.0) -> None:
    assert callable(condition)
    end = time.monotonic() + deadline
    while not condition():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.05)


@pytest.fixture
def service() -> Iterator[Service]:
    running = Service()
    yield running
    running.http.close()
    running.process.kill()
    running.process.wait()


def test_a_healthy_service_answers_works_and_measures_itself(service: Service) -> None:
    """Work is counted in the histogram, and the health check is not."""
    for _ in range(3):
        assert service.http.get("/work").status_code == 200
    assert service.http.get(HEALTH).json() == {"status": "ok", "service": "guardian-one"}
    count = 'http_request_duration_seconds_count{code="200",method="GET",path="/work"}'
    assert service.metric(count) == 3
    assert service.http.get("/nowhere").status_code == 404


def test_failed_requests_are_counted_from_zero(service: Service) -> None:
    """The series of code 500 exists before the first failure: a counter born at 500 has no increase."""
    assert service.metric('http_request_duration_seconds_count{code="500",method="GET",path="/work"}') == 0


def test_the_memory_limit_is_that_of_the_kernel_and_far_away(service: Service) -> None:
    """The limit is exported under its standard name; a busy healthy service stays below a third of it."""
    for _ in range(50):
        service.http.get("/work", headers={"Connection": "close"})
    assert service.metric("process_virtual_memory_max_bytes") == MEMORY_LIMIT
    assert service.metric("process_virtual_memory_bytes") < MEMORY_LIMIT / 3


@pytest.mark.parametrize("path", [HEALTH, "/metrics", "/work"])
def test_a_hung_service_accepts_and_never_answers(service: Service, path: str) -> None:
    """Neither an old connection nor a new one gets an answer, on any path, and none is refused."""
    service.inject("hang")
    with pytest.raises(httpx.ReadTimeout):
        service.http.get(path)
    with pytest.raises(httpx.ReadTimeout):
        httpx.get(str(service.http.base_url) + path, timeout=0.5, trust_env=False)
    assert service.process.poll() is None


def test_errors_are_a_share_of_the_work_only(service: Service) -> None:
    """About half of the requests fail and are counted as failed; the health check still answers."""
    service.inject("errors")
    codes = [service.http.get("/work").status_code for _ in range(60)]
    assert set(codes) == {200, 500}
    count = 'http_request_duration_seconds_count{code="500",method="GET",path="/work"}'
    assert service.metric(count) == codes.count(500)
    assert service.is_healthy()


def test_latency_is_added_to_the_work(service: Service) -> None:
    """Work takes the ordered delay longer, and the histogram says so."""
    service.inject("latency", delay=0.3)
    begin = time.monotonic()
    service.http.get("/work")
    assert time.monotonic() - begin >= 0.3
    assert service.metric('http_request_duration_seconds_sum{code="200",method="GET",path="/work"}') >= 0.3


def test_cpu_really_burns_while_the_service_answers(service: Service) -> None:
    """The process's own CPU counter rises fast, and requests are still served."""
    service.inject("cpu")
    before, begin = service.metric("process_cpu_seconds_total"), time.monotonic()
    time.sleep(1.5)
    burnt = service.metric("process_cpu_seconds_total") - before
    assert (
        burnt / (time.monotonic() - begin) > 0.2
    )  # a whole core where it is to be had; a healthy service takes 0.003
    assert service.http.get("/work").status_code == 200


def test_memory_grows_close_to_the_limit_and_the_service_lives(service: Service) -> None:
    """More than 96 % of the limit is used, and new connections still get threads and answers."""
    service.inject("memory")
    wait_for(lambda: service.metric("process_virtual_memory_bytes") > 0.96 * MEMORY_LIMIT)
    for _ in range(20):
        assert service.http.get("/work", headers={"Connection": "close"}).status_code == 200
    assert service.process.poll() is None


def test_exit_ends_the_process_at_once(service: Service) -> None:
    """The order is answered, then the process is gone with status 1."""
    service.inject("exit")
    assert service.process.wait(5) == 1


@pytest.mark.parametrize(
    "body", [b"", b"not JSON", b"[]", b"{}", b'{"kind": "sloth"}', b'{"kind": "errors", "share": "x"}']
)
def test_a_wrong_order_is_refused_and_breaks_nothing(service: Service, body: bytes) -> None:
    """400 with the reason, and the service goes on working."""
    answer = service.http.post("/fault", content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]
    assert service.http.get("/work").status_code == 200
