"""The load generator sends what it was told to, on time, and measures the server and not itself."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from shf_bench.ingest import percentile
from shf_bench.load import CONNECTIONS, run_load
from shf_bench.notifications import Notifications

PAUSE = 0.05  # seconds that a slow answer takes


class Receiver:
    """Keeps what it gets; `answer` decides the status, in the thread of the connection."""

    def __init__(self) -> None:
        receiver = self
        self.bodies: list[bytes] = []
        self.ports: set[int] = set()
        self.answer: Callable[[int], int] = lambda _: 202
        self.pause = 0.0  # between the head of an answer and its body

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.bodies.append(body)
                receiver.ports.add(self.client_address[1])
                status = receiver.answer(len(receiver.bodies))
                self.send_response(status)
                self.send_header("Content-Length", "2")
                self.end_headers()
                time.sleep(receiver.pause)
                self.wfile.write(b"{}")

            def log_message(self, format: str, *args: object) -> None:
                """Nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_port
        self._thread = threading.Thread(target=self.server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        """End all threads."""
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver of notifications."""
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.mark.parametrize("alerts", [1, 500])
def test_everything_is_sent_once_and_complete(receiver: Receiver, alerts: int) -> None:
    """As many requests as asked for, each another body, over sixteen connections that are kept."""
    result = run_load(receiver.port, Notifications(alerts, 50), 100)
    assert result.statuses == {"202": 100}
    assert len(result.latencies) == len(result.sent) == 100
    fingerprints = {alert["fingerprint"] for body in receiver.bodies for alert in json.loads(body)["alerts"]}
    assert len(fingerprints) == 100 * alerts
    assert len(receiver.ports) <= CONNECTIONS


def test_no_connection_rests(receiver: Receiver) -> None:
    """At a rate that one connection could keep, all are used in turn: a server closes one that rests."""
    run_load(receiver.port, Notifications(1, 50), CONNECTIONS, rate=50.0)
    assert len(receiver.ports) == CONNECTIONS


def test_a_slow_server_is_measured_as_slow(receiver: Receiver) -> None:
    """The latency holds the server's pause; sixteen of them pass at a time."""

    def slowly(_: int) -> int:
        time.sleep(PAUSE)
        return 202

    receiver.answer = slowly
    result = run_load(receiver.port, Notifications(1, 50), 160)
    assert percentile(result.latencies, 1) >= PAUSE
    assert result.seconds >= 160 / CONNECTIONS * PAUSE


def test_an_answer_is_measured_to_its_end(receiver: Receiver) -> None:
    """The head of an answer is not the answer."""
    receiver.pause = PAUSE
    result = run_load(receiver.port, Notifications(1, 50), 32)
    assert percentile(result.latencies, 1) >= PAUSE


def test_refusals_are_counted_as_what_they_are(receiver: Receiver) -> None:
    """A status other than 202 is no success."""
    receiver.answer = lambda number: 202 if number % 2 else 503
    assert run_load(receiver.port, Notifications(1, 50), 40).statuses == {"202": 20, "503": 20}


def test_a_rate_is_kept(receiver: Receiver) -> None:
    """Requests are sent on time, not as fast as they are answered, and the times of sending are told."""
    began = time.time()
    result = run_load(receiver.port, Notifications(1, 50), 50, rate=100.0)
    assert result.seconds >= 49 / 100
    assert all(later - earlier > 0 for earlier, later in zip(result.sent, result.sent[1:], strict=False))
    assert result.sent[-1] - result.sent[0] >= 49 / 100 - result.late
    assert began < result.sent[0] < result.sent[-1] < time.time()


def test_percentiles_are_values_that_occurred() -> None:
    """The nearest rank: no value is made up between two."""
    values = [float(number) for number in range(100, 0, -1)]
    assert (percentile(values, 50), percentile(values, 99)) == (50.0, 99.0)
    assert percentile([3.0], 99) == 3.0
