"""Native histograms on a real Prometheus: promtool 2.42 cannot take them in its unit tests.

Prometheus takes them by the protobuf format only, so the exporter here speaks it, written by hand after
`io/prometheus/client/metrics.proto`. Without the feature there are none and the same rules find nothing:
that is what `test_rules_on_prometheus` runs.
"""

from __future__ import annotations

import itertools
import struct
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from rules_server import firing, prometheus_with_rules

from self_healing_fabric.rules import RuleParameters
from shf_demo.ports import reserved_ports

pytestmark = pytest.mark.e2e

FAST = RuleParameters(
    scrape_interval=1,
    evaluation_interval=1,
    heartbeat=6,
    error_window=8,
    latency_window=6,
    latency_for=2,
    resource_window=5,
    resource_for=3,
    state_for=3,
    restart_window=20,
    slow_interval=1,
    keep_firing=5,
    baseline_window=12,
    baseline_offset=2,
)
DEADLINE = 40.0  # seconds
PROTOBUF = "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
CLIENT, OPENTELEMETRY = "http_request_duration_seconds", "http_server_request_duration_seconds"
COUNTER, SUMMARY, HISTOGRAM = 0, 2, 4

Labels = dict[str, str]


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def signed(field: int, value: int) -> bytes:
    return number(field, 2 * value if value >= 0 else -2 * value - 1)


def real(field: int, value: float) -> bytes:
    return varint(field << 3 | 1) + struct.pack("<d", value)


def message(field: int, value: bytes | str) -> bytes:
    content = value.encode() if isinstance(value, str) else value
    return varint(field << 3 | 2) + varint(len(content)) + content


def family(name: str, kind: int, *metrics: bytes) -> bytes:
    content = message(1, name) + message(2, "Of the test.") + number(3, kind)
    content += b"".join(message(4, metric) for metric in metrics)
    return varint(len(content)) + content


def label_pairs(labels: Labels) -> bytes:
    return b"".join(message(1, message(1, name) + message(2, value)) for name, value in labels.items())


def counter(labels: Labels, value: float) -> bytes:
    return label_pairs(labels) + message(3, real(1, value))


def summary(labels: Labels, count: int) -> bytes:
    """With a quantile, whose series has the name of the family as a native histogram has."""
    quantile = real(1, 0.5) + real(2, count)
    return label_pairs(labels) + message(4, number(1, count) + real(2, count) + message(3, quantile))


def histogram(labels: Labels, count: int) -> bytes:
    """Nine of ten requests took 1/16 to 1/8 s, the tenth 1/2 to 1 s: the buckets -3 and 0 of schema 0."""
    late = count // 10
    fast = count - late
    spans = [signed(1, -3) + number(2, 1), signed(1, 2) + number(2, 1)]  # an offset counts from the last span
    content = (
        number(1, count) + real(2, 0.1 * fast + 0.8 * late) + signed(5, 0) + real(6, 1e-128) + number(7, 0)
    )
    content += b"".join(message(12, span) for span in spans)
    content += signed(13, fast) + signed(13, late - fast)
    return label_pairs(labels) + message(7, content)


def requests(name: str, ok: Labels, failed: Labels, t: float, failed_ratio: float) -> bytes:
    """20 requests a second."""
    failures = int(20 * t * failed_ratio)
    return family(name, HISTOGRAM, histogram(ok, int(20 * t) - failures), histogram(failed, failures))


def cart(t: float) -> bytes:
    """Both conventions: what the second one says is another source's tale."""
    status = "http_response_status_code"
    return requests(CLIENT, {"code": "200"}, {"code": "503"}, t, 0.2) + requests(
        OPENTELEMETRY, {status: "200"}, {status: "500"}, t, 0.6
    )


def both(t: float) -> bytes:
    """Classic as well, which is counted alone."""
    count = family(f"{CLIENT}_count", COUNTER, counter({"code": "200"}, 20 * t))
    return count + requests(CLIENT, {"code": "200"}, {"code": "500"}, t, 0.4)


PAGES: dict[str, Callable[[float], bytes]] = {
    "cart": cart,
    "pay": lambda t: requests(
        OPENTELEMETRY, {"http_response_status_code": "200"}, {"error_type": "timeout"}, t, 0.3
    ),
    "calm": lambda t: requests(CLIENT, {"status": "2xx"}, {"status": "4xx"}, t, 0.5),
    "both": both,
    "mixed-new": lambda t: requests(CLIENT, {"code": "200"}, {"code": "500"}, t, 0),
    "mixed-old": lambda t: family(CLIENT, SUMMARY, summary({"code": "200"}, 7)),  # idle
}


@pytest.fixture(scope="module")
def exporter() -> Iterator[str]:
    """One HTTP server; a page for each target."""
    started = time.monotonic()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = PAGES[self.path.strip("/")](time.monotonic() - started)
            self.send_response(200)
            self.send_header("Content-Type", PROTOBUF)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: a line a scrape would bury the failures."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def prometheus(exporter: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Prometheus with the feature and all rules, a second between scrapes."""
    workdir = tmp_path_factory.mktemp("native")
    jobs = [
        {
            "job_name": f"shop/{page}",
            "metrics_path": f"/{page}",
            "static_configs": [
                {"targets": [exporter], "labels": {"service": "mixed"} if "mixed" in page else {}}
            ],
        }
        for page in PAGES
    ]
    flag = "--enable-feature=native-histograms"
    with (
        reserved_ports(1) as (port,),
        prometheus_with_rules(workdir, port, FAST, jobs, flag) as client,
    ):
        yield client


def values(prometheus: httpx.Client, series: str, label: str | None = None) -> dict[str, Any]:
    """Service -> its value, or the label of its series."""
    answer = prometheus.get("/api/v1/query", params={"query": series}).raise_for_status().json()
    return {
        row["metric"]["service"]: row["metric"][label] if label else float(row["value"][1])
        for row in answer["data"]["result"]
    }


def unhealthy(prometheus: httpx.Client) -> dict[str, str]:
    groups = prometheus.get("/api/v1/rules").raise_for_status().json()["data"]["groups"]
    rules = itertools.chain.from_iterable(group["rules"] for group in groups)
    return {rule["name"]: rule.get("lastError") for rule in rules if rule["health"] != "ok"}


def test_native_histograms_are_measured_and_counted_once(prometheus: httpx.Client) -> None:
    """Requests, failures, P95 and mean, by the first source of each; the healthy are left alone."""
    expected = {("ShfWatchdog", None), *(("ShfErrorRateHigh", service) for service in ("cart", "pay"))}
    end = time.monotonic() + DEADLINE
    while not set(firing(prometheus)) >= expected and time.monotonic() < end:
        time.sleep(0.5)
    time.sleep(FAST.error_window)  # the first rates are of a few samples
    paged = {("ShfServiceFailing", service) for service in ("cart", "pay")}
    assert set(firing(prometheus)) == expected | paged
    assert unhealthy(prometheus) == {}

    native = {"cart": "native", "pay": "native_opentelemetry", "calm": "native", "mixed": "native"}
    sources = native | {"both": "prometheus_client"}
    assert values(prometheus, "service:shf_requests:source", "source") == sources
    failed_ratio = {"cart": 0.2, "pay": 0.3, "calm": 0, "both": 0, "mixed": 0}
    for suffix in ("", "_short"):
        rates = values(prometheus, f"service:shf_requests:rate{suffix}")
        assert rates == pytest.approx(dict.fromkeys(sources, 20), rel=0.1)
        assert values(prometheus, f"service:shf_errors:ratio{suffix}") == pytest.approx(
            failed_ratio, abs=0.04
        )
        # The middle of the late bucket: 0.75, and 0.71 since Prometheus 3, which takes that of the exponents.
        p95 = values(prometheus, f"service:shf_latency:p95_seconds{suffix}")
        assert p95 == pytest.approx(dict.fromkeys(native, 0.73), abs=0.1)
    means = values(prometheus, "service:shf_latency:mean_seconds")
    assert means == pytest.approx(dict.fromkeys(native, 0.17), abs=0.02)
