"""A sample service with something to lose: it calls others, reads stored records, has settings and releases.

The faults of `sample_service` live in one process. Those that are hardest to tell apart do not: a damaged
file, a wrong setting, a setting that is not the wanted one, a release with a defect, a dependency that fails
look alike from outside, as errors of somebody. So this service really has those parts, each of them breaks
for its real reason, and it says of itself what well-kept services do: a health check in the form of the
IETF draft "Health Check Response Format for HTTP APIs" with the parts that fail, a digest of its state,
whether it runs with the settings that are wanted, its version, how long its callees let it wait and with
which kind of error they fail it.

A demo is minutes old, and to a diagnosis everything in it would have been deployed just now. So a service may
be given a start of its own (`set_start`): whoever only puts it back as it was does, a deployment does not.

Its health check answers 200 also when a part of it fails: it is there and restarts cure none of it.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import random
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from prometheus_client import PROCESS_COLLECTOR, REGISTRY, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from shf_demo.sample_service import SampleHandler, SampleServer, options_parser, serve, settle_in

SETTINGS = "settings.json"  # the wanted ones; read at the start
RECORDS = "records.txt"  # one a line: the digest of the rest of the line, then the rest
RELEASE = "release.txt"
START = "start.txt"  # seconds since 1970; without it the process tells when it really started
GOOD_RELEASE, FAULTY_RELEASE = "1.4.2", "1.5.0"
WANTED: Mapping[str, Any] = {"currency": "EUR", "callee_timeout": 1.5}
RECORD_COUNT = 40
RATES = {"EUR": 1.0, "USD": 1.08, "CHF": 0.95}
EMPTY_BASKETS = 0.35  # of the requests: what the faulty release did not think of
TRIES = 4  # of a call whose connection is refused or reset: a callee that is being replaced is back at once
PAUSE = 0.2  # seconds between them
_BUCKETS = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)  # seconds


class StorageError(Exception):
    """A record is not what was written."""


class CallFailed(Exception):
    """A callee did not answer, or answered with an error."""


def prepare(directory: Path) -> None:
    """Write the settings, records and release that a service is well with."""
    directory.mkdir(parents=True, exist_ok=True)
    write_settings(directory, WANTED)
    write_release(directory, GOOD_RELEASE)
    write_records(directory)


def write_settings(directory: Path, settings: Mapping[str, Any]) -> None:
    (directory / SETTINGS).write_text(json.dumps(settings))


def write_release(directory: Path, release: str) -> None:
    (directory / RELEASE).write_text(release)


def set_start(directory: Path, at: float | None) -> None:
    """Say when the service started; None: when its process did."""
    (directory / START).unlink(missing_ok=True)
    if at is not None:
        (directory / START).write_text(f"{at:.3f}")


def write_records(directory: Path) -> None:
    lines = [f"item {number}, price {1 + number % 9}" for number in range(RECORD_COUNT)]
    _write_lines(directory, [f"{_digest(line)} {line}" for line in lines])


def damage_records(directory: Path, share: float, dice: random.Random) -> None:
    """Flip one bit in this share of the records, as a failing disk or a torn write would."""
    lines = (directory / RECORDS).read_text().splitlines()
    for number in dice.sample(range(len(lines)), max(1, round(share * len(lines)))):
        line = lines[number]
        lines[number] = line[:-1] + chr(ord(line[-1]) ^ 1)
    _write_lines(directory, lines)


def _write_lines(directory: Path, lines: list[str]) -> None:
    new = directory / f"{RECORDS}.new"
    new.write_text("\n".join(lines))
    new.replace(directory / RECORDS)  # a reader sees the old file or the new one


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Callee:
    """Another service, over kept connections: one for each thread that calls.

    `durations` has the labels `server` and `error_type`, the latter as `error.type` of OpenTelemetry's
    semantic conventions for HTTP: empty, the status code of a failure, or the error's name for want of an
    answer.
    """

    def __init__(self, name: str, port: int, durations: Histogram) -> None:
        self.name = name
        self._port = port
        self._durations = durations
        self._durations.labels(name, "")
        self._mine = threading.local()

    def ask(self, timeout: float) -> None:
        """Raises CallFailed when it does not do its work within `timeout` seconds."""
        begin, error_type = time.perf_counter(), ""
        try:
            status = self._tried(timeout)
            if status != 200:
                error_type = str(status)
                raise CallFailed(f"{self.name} answered {status}")
        except (OSError, http.client.HTTPException) as error:
            error_type = type(error).__name__
            raise CallFailed(f"{self.name}: {error or error_type}") from error
        finally:
            self._durations.labels(self.name, error_type).observe(time.perf_counter() - begin)

    def _tried(self, timeout: float) -> int:
        """The status of its answer. Raises the error of the last try."""
        left = TRIES
        while True:
            left -= 1
            try:
                return self._status(timeout)
            except (ConnectionError, http.client.HTTPException):
                self._forget()
                if not left:
                    raise
                if left < TRIES - 1:  # a kept connection may have ended with the callee's last process
                    time.sleep(PAUSE)
            except OSError:
                self._forget()
                raise

    def _status(self, timeout: float) -> int:
        connection = getattr(self._mine, "connection", None)
        if connection is None:
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=timeout)
            self._mine.connection = connection
        connection.request("GET", "/work")
        answer = connection.getresponse()
        answer.read()
        return int(answer.status)

    def _forget(self) -> None:
        connection = getattr(self._mine, "connection", None)
        if connection is not None:
            connection.close()
            self._mine.connection = None


class Shop:
    """What one service knows and does, apart from HTTP."""

    def __init__(self, directory: Path, callees: Mapping[str, int], workers: int, work: float) -> None:
        self._directory = directory
        self._room = threading.Semaphore(workers)
        self._work = work
        self._queued = Gauge("http_server_queued_requests", "Requests that wait for a worker.")
        self.settings: dict[str, Any] = json.loads((directory / SETTINGS).read_text())
        self.release = (directory / RELEASE).read_text()
        durations = Histogram(
            "http_client_request_duration_seconds",
            "Duration of requests to other services in seconds.",
            ["server", "error_type"],
            buckets=_BUCKETS,
        )
        self._callees = [Callee(name, port, durations) for name, port in callees.items()]
        self._checksum_failures = Counter(
            "storage_checksum_failures", "Records that were not what had been written."
        )
        self._exceptions = Counter("unhandled_exceptions", "Requests that ended in an exception.", ["type"])
        for name in ("KeyError", "ZeroDivisionError", "StorageError"):
            self._exceptions.labels(name)

    def answer(self) -> tuple[int, dict[str, Any]]:
        """One request: 200; 502 when a callee failed, 500 when this service did."""
        with self._queued.track_inprogress():
            self._room.acquire()
        try:
            return self._served()
        finally:
            self._room.release()

    def _served(self) -> tuple[int, dict[str, Any]]:
        try:
            return 200, {"price": self._price()}
        except CallFailed as error:
            return 502, {"error": str(error)}
        except Exception as error:  # noqa: BLE001  # as a web framework would: a defect is a 500
            self._exceptions.labels(type(error).__name__).inc()
            return 500, {"error": repr(error)}

    def health(self) -> tuple[str, dict[str, Any]]:
        """`pass` or `warn`, and the checks."""
        currency = self.settings["currency"]
        checks = {
            "settings": _check(currency in RATES, f"unknown currency {currency!r}"),
            "storage": _check(not self.damaged(), f"checksum mismatch in {self.damaged()} records"),
        }
        failing = any(check["status"] == "fail" for check in checks.values())
        return "warn" if failing else "pass", checks

    def obey(self, settings: Mapping[str, Any]) -> None:
        """Change the running settings, and only those: the wanted ones stay as they are."""
        self.settings = {**self.settings, **settings}

    def drifted(self) -> bool:
        """Whether it runs with other settings than the wanted ones."""
        return bool(json.loads((self._directory / SETTINGS).read_text()) != self.settings)

    def start(self) -> float | None:
        """The start that it was given."""
        try:
            return float((self._directory / START).read_text())
        except (OSError, ValueError):  # there is none, or it is just being written
            return None

    def state_digest(self) -> str:
        return _digest((self._directory / RECORDS).read_text())

    def damaged(self) -> int:
        """How many records are not what was written."""
        return sum(not _intact(line) for line in self._lines())

    def _lines(self) -> list[str]:
        return (self._directory / RECORDS).read_text().splitlines()

    def _price(self) -> float:
        time.sleep(random.uniform(0.7, 1.3) * self._work)
        for callee in self._callees:
            callee.ask(float(self.settings["callee_timeout"]))
        line = random.choice(self._lines())
        if not _intact(line):
            self._checksum_failures.inc()
            raise StorageError(f"the digest of {line!r} is wrong")
        count = 0 if random.random() < EMPTY_BASKETS else random.randint(1, 5)
        price = float(line.rpartition(" ")[2]) * RATES[self.settings["currency"]]
        if self.release == FAULTY_RELEASE:
            return price * count / count  # the mean price of the basket; and of an empty one?
        return price


def _intact(line: str) -> bool:
    digest, _, text = line.partition(" ")
    return digest == _digest(text)


def _check(well: bool, output: str) -> dict[str, str]:
    return {"status": "pass"} if well else {"status": "fail", "output": output}


class _ShopMetrics(Collector):
    def __init__(self, name: str, shop: Shop) -> None:
        self._name = name
        self._shop = shop

    def collect(self) -> Iterator[GaugeMetricFamily | InfoMetricFamily]:
        yield GaugeMetricFamily(
            "shf_config_drift", "Whether other settings run than the wanted ones.", value=self._shop.drifted()
        )
        digest = GaugeMetricFamily(
            "shf_state_digest_info", "Digest of the stored state.", labels=["replica", "digest"]
        )
        digest.add_metric([f"{self._name}-0", self._shop.state_digest()], 1)
        yield digest
        yield InfoMetricFamily("build", "The release that runs.", {"version": self._shop.release})


class _ProcessMetrics(Collector):
    """Those of the client library, with the start that the service was given."""

    def __init__(self, shop: Shop) -> None:
        self._shop = shop

    def collect(self) -> Iterator[Metric]:
        start = self._shop.start()
        for metric in PROCESS_COLLECTOR.collect():
            if metric.name == "process_start_time_seconds" and start is not None:
                yield GaugeMetricFamily(metric.name, metric.documentation, value=start)
            else:
                yield metric


class ShopServer(SampleServer):
    allow_reuse_port = True  # its successor listens before it ends

    def __init__(self, name: str, port: int, health_path: str, shop: Shop) -> None:
        super().__init__(name, port, health_path, _ShopHandler)
        self.shop = shop
        self.durations.labels("GET", "/work", "502")


class _ShopHandler(SampleHandler):
    server: ShopServer

    def do_POST(self) -> None:  # noqa: N802  # http.server's name
        if self.path != "/settings":
            super().do_POST()
            return
        self.server.shop.obey(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self._answer_json(200, self.server.shop.settings)

    def health(self) -> dict[str, Any]:
        status, checks = self.server.shop.health()
        release = self.server.shop.release
        return {
            "status": status,
            "serviceId": self.server.name,
            "instanceId": os.getpid(),
            "version": release,
            "checks": checks,
        }

    def work(self) -> tuple[int, dict[str, Any]]:
        return self.server.shop.answer()


def main() -> None:
    parser = options_parser()
    parser.add_argument("--directory", type=Path, required=True, help="with its settings, records, release")
    parser.add_argument("--call", action="append", default=[], metavar="NAME=PORT", help="whom it calls")
    parser.add_argument("--workers", type=int, default=16, help="requests that it answers at once")
    parser.add_argument("--work", type=float, default=0.004, help="seconds of its own for each request")
    options = parser.parse_args()
    settle_in(options.parent)
    callees = {name: int(port) for name, _, port in (call.partition("=") for call in options.call)}
    shop = Shop(options.directory, callees, options.workers, options.work)
    REGISTRY.unregister(PROCESS_COLLECTOR)
    REGISTRY.register(_ProcessMetrics(shop))
    REGISTRY.register(_ShopMetrics(options.name, shop))
    serve(ShopServer(options.name, options.port, options.health_path, shop))


if __name__ == "__main__":
    main()
