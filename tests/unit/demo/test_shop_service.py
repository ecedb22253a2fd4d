"""The shop's faults are real, and the service says of itself what is wrong with it."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from shf_demo import shop_service
from shf_demo.ports import free_ports

ENOUGH = 40  # requests: one without a failure among them is impossible in practice


class ShopUnderTest:
    """A shop in its own process."""

    def __init__(self, directory: Path, *more: str) -> None:
        self.directory = directory
        (self.port,) = free_ports(1)
        command = [sys.executable, "-m", "shf_demo.shop_service", "--name", "cart", "--port", str(self.port)]
        command += ["--directory", str(directory), "--parent", str(os.getpid()), *more]
        self.process = subprocess.Popen(command)
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=10.0, trust_env=False)
        end = time.monotonic() + 15
        while not self.answers():
            assert time.monotonic() < end, "not in time"
            time.sleep(0.05)

    def answers(self) -> bool:
        try:
            return self.http.get("/health").status_code == 200
        except httpx.HTTPError:
            return False

    def work(self) -> set[int]:
        """The status codes of many requests."""
        return {self.http.get("/work").status_code for _ in range(ENOUGH)}

    def failing_checks(self) -> dict[str, Any]:
        body = self.http.get("/health").json()
        failing = {
            name: check["output"] for name, check in body["checks"].items() if check["status"] == "fail"
        }
        assert body["status"] == ("warn" if failing else "pass")
        return failing

    def metric(self, start: str) -> float:
        lines = self.http.get("/metrics").text.splitlines()
        return next(float(line.rpartition(" ")[2]) for line in lines if line.startswith(start))

    def digest(self) -> str:
        lines = self.http.get("/metrics").text.splitlines()
        return next(line for line in lines if line.startswith("shf_state_digest_info{"))

    def stop(self) -> None:
        self.http.close()
        self.process.kill()
        self.process.wait()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    shop_service.prepare(tmp_path)
    return tmp_path


@pytest.fixture
def shop(directory: Path) -> Iterator[ShopUnderTest]:
    running = ShopUnderTest(directory)
    yield running
    running.stop()


def test_a_shop_that_is_well_says_so(shop: ShopUnderTest) -> None:
    """No request fails, no check does, nothing drifts, and it tells when it started."""
    assert shop.work() == {200}
    assert shop.failing_checks() == {}
    assert shop.metric("shf_config_drift") == 0
    assert abs(shop.metric("process_start_time_seconds") - time.time()) < 60


def test_a_given_start_is_told_until_a_deployment(shop: ShopUnderTest) -> None:
    """A service that was only put back seems to have run all the time, and its CPU is still measured."""
    shop_service.set_start(shop.directory, 1000.0)
    assert shop.metric("process_start_time_seconds") == 1000.0
    assert shop.metric("process_cpu_seconds_total") > 0
    shop_service.set_start(shop.directory, None)
    assert shop.metric("process_start_time_seconds") > time.time() - 60


def test_damaged_records_are_told(shop: ShopUnderTest) -> None:
    """Reads of damaged records fail, are counted, named by the health check, and change the digest."""
    before = shop.digest()
    shop_service.damage_records(shop.directory, 0.5, random.Random(1))  # noqa: S311  # which ones is no secret
    assert shop.work() == {200, 500}
    assert shop.failing_checks() == {"storage": "checksum mismatch in 20 records"}
    assert shop.metric("storage_checksum_failures_total") > 0
    assert shop.digest() != before
    shop_service.write_records(shop.directory)
    assert shop.work() == {200}
    assert shop.digest() == before


def test_changed_settings_of_the_process_are_drift(shop: ShopUnderTest) -> None:
    """Settings that run and are not the wanted ones fail every request and are told as drift."""
    shop.http.post("/settings", json={"currency": "EURO"}).raise_for_status()
    assert shop.work() == {500}
    assert shop.metric("shf_config_drift") == 1
    assert shop.failing_checks() == {"settings": "unknown currency 'EURO'"}


def test_wrong_settings_that_are_wanted_are_no_drift(directory: Path) -> None:
    """A service that starts with a wrong setting fails, and runs with exactly what it was given."""
    shop_service.write_settings(directory, {**shop_service.WANTED, "currency": "EURO"})
    shop = ShopUnderTest(directory)
    assert shop.work() == {500}
    assert shop.metric("shf_config_drift") == 0
    shop.stop()


def test_the_faulty_release_raises_for_a_part_of_the_requests(directory: Path) -> None:
    """The new release divides by what may be nothing; its version is told."""
    shop_service.write_release(directory, shop_service.FAULTY_RELEASE)
    shop = ShopUnderTest(directory)
    assert shop.work() == {200, 500}
    assert shop.metric('unhandled_exceptions_total{type="ZeroDivisionError"}') > 0
    assert shop.metric(f'build_info{{version="{shop_service.FAULTY_RELEASE}"}}') == 1
    shop.stop()


def calls_of_cart(error_type: str) -> str:
    return f'http_client_request_duration_seconds_count{{error_type="{error_type}",server="cart"}}'


def test_a_failing_callee_is_a_bad_gateway(shop: ShopUnderTest, tmp_path: Path) -> None:
    """The caller answers 502 when its callee fails and 200 when it works, and measures the wait and the kind
    of error: a status when there was an answer, the name of the error when there was none."""
    caller_directory = tmp_path / "web"
    shop_service.prepare(caller_directory)
    caller = ShopUnderTest(caller_directory, "--call", f"cart={shop.port}")
    assert caller.work() == {200}
    assert caller.metric(calls_of_cart("")) == ENOUGH
    shop.http.post("/settings", json={"currency": "EURO"}).raise_for_status()
    assert caller.work() == {502}
    assert caller.metric(calls_of_cart("500")) == ENOUGH
    shop.stop()
    assert caller.http.get("/work").status_code == 502
    assert caller.metric(calls_of_cart("ConnectionRefusedError")) == 1
    assert caller.metric(calls_of_cart("")) == ENOUGH
    caller.stop()
