"""The whole set of rules on a real Prometheus, fed with every convention at once.

promtool evaluates rules one file at a time on samples that it is given. Here Prometheus scrapes them, adds
the labels of its targets, writes staleness markers and runs the groups side by side, which is where a join
breaks or a label is renamed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from rules_server import PAGED_AFTER, firing, paging, prometheus_with_rules

from self_healing_fabric.rules import RuleParameters
from shf_demo.ports import reserved_ports

pytestmark = pytest.mark.e2e

FAST = RuleParameters(
    scrape_interval=1,
    evaluation_interval=1,
    heartbeat=6,
    error_window=8,
    latency_window=4,
    latency_for=2,
    resource_window=5,
    resource_for=3,
    state_for=3,
    restart_window=20,
    slow_interval=1,
    keep_firing=5,
    baseline_window=12,
    baseline_offset=2,
    dashboard_base_url="https://grafana.example/d/shf",
)
GETS_SLOW = 14.0  # seconds after the start: by then there is a baseline
GOES_AWAY = 10.0  # seconds after the start
DEADLINE = 50.0  # seconds

FIRING = {
    ("ShfWatchdog", None),
    *(("ShfErrorRateHigh", service) for service in ("cart", "pay", "mail")),
    ("ShfLatencyHigh", "slow"),
    *(("ShfCpuExhausted", service) for service in ("hot", "busy-app", "node")),
    ("ShfMemoryExhausted", "busy-app"),
    *(("ShfHeartbeatMissed", service) for service in ("dead", "probed", "batch")),
    *(("ShfServiceAbsent", service) for service in ("never", "gone")),
    *(("ShfErrorBudgetBurnFast", service) for service in ("cart", "pay")),
    *(("ShfErrorBudgetBurnSlow", service) for service in ("cart", "pay")),
    ("ShfConfigDrift", "cart"),
    ("ShfStateDivergence", "ledger"),
    ("ShfRestartLoop", "loops"),
    ("ShfFabricDown", None),
    ("ShfFabricNotReconciling", None),
}


def histogram(name: str, t: float, labels: str, scale: float = 1, speed: float = 20) -> str:
    """20 requests a second; fast ones, until `scale` says otherwise."""
    count = speed * t
    edge = {0.1: 0 if scale > 1 else count, 0.5: count, "+Inf": count}
    lines = [f'{name}_bucket{{{labels},le="{le}"}} {value}' for le, value in edge.items()]
    return "\n".join(
        [*lines, f"{name}_count{{{labels}}} {count}", f"{name}_sum{{{labels}}} {count * 0.05 * scale}"]
    )


def cart(t: float) -> str:
    """Two conventions on one service: a tenth fails. A fifth would be another source's tale."""
    return f"""
http_request_duration_seconds_count{{code="200"}} {18 * t}
http_request_duration_seconds_count{{code="500"}} {2 * t}
http_server_request_duration_seconds_count{{http_response_status_code="200"}} {16 * t}
http_server_request_duration_seconds_count{{http_response_status_code="500",error_type="500"}} {4 * t}
"""


def slow(t: float) -> str:
    name, later = "http_request_duration_seconds", max(0.0, t - GETS_SLOW)
    fast, late = 20 * min(t, GETS_SLOW), 20 * later
    return f"""
{name}_bucket{{code="200",le="0.1"}} {fast}
{name}_bucket{{code="200",le="0.5"}} {fast + late}
{name}_bucket{{code="200",le="+Inf"}} {fast + late}
{name}_count{{code="200"}} {fast + late}
{name}_sum{{code="200"}} {0.05 * fast + 0.4 * late}
"""


def mesh(t: float) -> str:
    to = 'destination_service_name="{}",destination_service_namespace="shop"'
    mail, well = to.format("mail"), to.format("well")
    return f"""
istio_requests_total{{reporter="source",{mail},response_code="503"}} {20 * t}
istio_requests_total{{reporter="destination",{mail},response_code="200"}} 7
istio_requests_total{{reporter="destination",{well},response_code="200"}} {20 * t}
istio_requests_total{{reporter="source",{well},response_code="503"}} {20 * t}
"""


def cluster(t: float) -> str:
    pod = 'namespace="shop",pod="busy-1",container="app"'
    return f"""
container_cpu_usage_seconds_total{{{pod},cpu="total"}} {0.49 * t}
container_memory_working_set_bytes{{{pod}}} 990
kube_pod_container_resource_limits{{{pod},resource="cpu",unit="core"}} 0.5
kube_pod_container_resource_limits{{{pod},resource="memory",unit="byte"}} 1000
kube_pod_container_status_restarts_total{{{pod}}} 2
kube_pod_labels{{namespace="shop",pod="busy-1",label_app_kubernetes_io_name="busy-app"}} 1
"""


def registry(t: float) -> str:
    now = time.time()
    expected = ("cart", "noisy", "never", "gone", "batch", "dead", "calm")
    thresholds = [f'shf_signal_threshold{{service="{name}",signal="heartbeat"}} 6' for name in expected]
    return "\n".join(
        [
            *thresholds,
            'shf_signal_threshold{service="noisy",signal="error_ratio"} 0.9',
            f'shf_heartbeat_timestamp_seconds{{service="batch"}} {now - t}',
            f'shf_heartbeat_timestamp_seconds{{service="pushes"}} {now}',
            'shf_config_drift{service="cart"} 1',
            'shf_config_drift{service="pay"} 0',
            'shf_slo_ratio{service="cart"} 0.999',
            'shf_slo_ratio{service="pay"} 0.999',
            'shf_build_info{version="1"} 1',
            f"shf_last_reconcile_timestamp_seconds {now - 100}",
            f'shf_webhook_requests_total{{code="202"}} {t}',
        ]
    )


def errors(t: float, failed: float, count: str, status: str) -> str:
    return f'{count}{{{status}="200"}} {(20 - failed) * t}\n{count}{{{status}="500"}} {failed * t}'


PAGES: dict[str, Callable[[float], str]] = {
    "cart": cart,
    "pay": lambda t: errors(t, 2, "http_server_request_duration_seconds_count", "http_response_status_code"),
    "noisy": lambda t: errors(t, 10, "http_server_duration_milliseconds_count", "http_status_code"),
    "calm": lambda t: (
        histogram("http_server_request_duration_seconds", t, 'http_response_status_code="200"')
        + f"\nprocess_cpu_seconds_total {0.3 * t}\nprocess_start_time_seconds 5\npython_info 1"
    ),
    "slow": slow,
    "mesh": mesh,
    "hot": lambda t: f"process_cpu_seconds_total {0.97 * t}\npython_info 1",
    "cluster": cluster,
    "node": lambda t: (
        f'node_cpu_seconds_total{{cpu="0",mode="idle"}} {0.02 * t}\n'
        "node_memory_MemAvailable_bytes 500\nnode_memory_MemTotal_bytes 1000"
    ),
    "probe": lambda t: "probe_success 0",
    "gone": lambda t: "well 1",
    "ledger-a": lambda t: 'shf_state_digest_info{replica="a",digest="1f"} 1',
    "ledger-b": lambda t: 'shf_state_digest_info{replica="b",digest="2e"} 1',
    "loops": lambda t: f"process_start_time_seconds {int(t / 3)}",
    "shf": registry,
    "old-shf": lambda t: 'shf_build_info{version="0"} 1',
}


@pytest.fixture(scope="module")
def exporter() -> Iterator[str]:
    """One HTTP server; a page for each target. "old-shf" ends after a while, as a process does."""
    started = time.monotonic()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            t, name = time.monotonic() - started, self.path.strip("/")
            body = (PAGES[name](t) + "\n").encode()
            self.send_response(500 if name == "old-shf" and t > GOES_AWAY else 200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
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


def scrape_configs(address: str, workdir: Path, dead: int) -> list[dict[str, Any]]:
    """A job for each page. The fabric's target has a label `service`, so its own are renamed."""
    service = {"probe": "probed", "shf": "self-healing-fabric", "ledger-a": "ledger", "ledger-b": "ledger"}
    jobs = [
        {
            "job_name": f"x/{name}",
            "metrics_path": f"/{name}",
            "honor_labels": name == "cluster",
            "static_configs": [
                {"targets": [address], "labels": {"service": service[name]} if name in service else {}}
            ],
        }
        for name in PAGES
        if name != "gone"
    ]
    gone = {"job_name": "gone", "metrics_path": "/gone"}
    files = {"file_sd_configs": [{"files": [str(workdir / "gone.json")], "refresh_interval": "1s"}]}
    return [*jobs, gone | files, {"job_name": "dead", "static_configs": [{"targets": [f"127.0.0.1:{dead}"]}]}]


@pytest.fixture(scope="module")
def prometheus(exporter: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Prometheus with all rules, a second between scrapes; the target "gone" is taken away after a while."""
    workdir = tmp_path_factory.mktemp("rules")
    with reserved_ports(2) as (port, dead):
        (workdir / "gone.json").write_text(f'[{{"targets": ["{exporter}"]}}]')
        targets = scrape_configs(exporter, workdir, dead)
        with prometheus_with_rules(workdir, port, FAST, targets) as client:
            time.sleep(GOES_AWAY / 2)
            (workdir / "gone.json").write_text("[]")
            yield client


def test_exactly_what_is_wrong_fires_and_no_rule_fails(prometheus: httpx.Client) -> None:
    """Every convention is understood, none counts twice, the healthy services are left alone."""
    end = time.monotonic() + DEADLINE
    while not set(firing(prometheus)) >= FIRING and time.monotonic() < end:
        time.sleep(0.5)
    time.sleep(PAGED_AFTER)
    found = firing(prometheus)
    paged = paging(found)
    assert {("ShfServiceFailing", "cart"), ("ShfServiceFailing", "never")} <= paged
    assert set(found) == FIRING | paged

    groups = prometheus.get("/api/v1/rules").raise_for_status().json()["data"]["groups"]
    failed = {
        rule["name"]: rule.get("lastError")
        for group in groups
        for rule in group["rules"]
        if rule["health"] != "ok"
    }
    assert failed == {}
    assert len(groups) == 14

    # A template that fails writes its error into the annotation.
    for alert in found.values():
        texts = alert["annotations"].values()
        assert all(text and "<error" not in text and "no value" not in text for text in texts), alert
    assert found["ShfErrorRateHigh", "cart"]["annotations"]["threshold"] == "0.05"
    assert found["ShfErrorRateHigh", "cart"]["annotations"]["dashboard_url"].endswith("?var-service=cart")
    # 0.1 by the first source alone; the sum of both would be 0.15.
    assert float(found["ShfErrorRateHigh", "cart"]["annotations"]["value"]) == pytest.approx(0.1, abs=0.01)
