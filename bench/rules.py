"""What the rules cost: the whole set on a real Prometheus, for many services of five instances each.

A cost that is estimated from the number of rules is wrong by factors: it depends on samples read, and those
on windows, buckets and history. So a real Prometheus scrapes what such a fleet exports, has the hours of
history that the slow groups read (backfilled, since nobody waits six hours), and says itself how long each
group took.

    python bench/rules.py --services 250 --services 1000

What is left out: other people's rules and dashboards, remote write, and disks that are slower than this one.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import Process, Queue
from pathlib import Path

import httpx
import yaml

from self_healing_fabric.rules import RuleParameters, write_rules
from shf_demo.ports import reserved_ports
from shf_demo.servers import Server
from shf_demo.tether import die_with

INSTANCES = 5
BUCKETS = ("0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1", "2.5", "5", "10", "+Inf")
PAGES = 10  # targets that serve the fleet between them; a single page would be one giant scrape
HISTORY = 6 * 3600  # seconds; the longest window of the rules
WARM_UP = 125.0  # seconds; the longest window of the fast groups is 2 m
MEASURED = 45.0  # seconds
READY = 300.0  # seconds; it reads the backfilled blocks first


def instance_lines(service: str, number: int) -> Iterator[str]:
    """What one instance exports, @C and @E being counters. Half of the services are instrumented twice."""
    target = f'job="shop/{service}",instance="{service}-{number}:80",service="{service}",namespace="shop"'
    pod = f'namespace="shop",pod="{service}-{number}",container="{service}"'
    yield f"up{{{target}}} 1"
    names = {"http_request_duration_seconds": "code"}
    if int(service[1:]) % 2:
        names["http_server_request_duration_seconds"] = "http_response_status_code"
    for name, status in names.items():
        for code, value in (("200", "@C"), ("500", "@E")):
            for bucket in BUCKETS:
                yield f'{name}_bucket{{{target},{status}="{code}",le="{bucket}"}} {value}'
            yield f'{name}_count{{{target},{status}="{code}"}} {value}'
            yield f'{name}_sum{{{target},{status}="{code}"}} {value}'
    yield f"process_cpu_seconds_total{{{target}}} @E"
    yield f"python_info{{{target}}} 1"
    yield f"process_virtual_memory_bytes{{{target}}} 500"
    yield f"process_virtual_memory_max_bytes{{{target}}} 1000"
    yield f"process_start_time_seconds{{{target}}} 1700000000"
    yield f'container_cpu_usage_seconds_total{{{pod},cpu="total"}} @E'
    yield f"container_memory_working_set_bytes{{{pod}}} 500"
    yield f'kube_pod_container_resource_limits{{{pod},resource="cpu"}} 1'
    yield f'kube_pod_container_resource_limits{{{pod},resource="memory"}} 1000'
    yield f"kube_pod_container_status_restarts_total{{{pod}}} 1"
    name = f'namespace="shop",pod="{service}-{number}",label_app_kubernetes_io_name="{service}"'
    yield f"kube_pod_labels{{{name}}} 1"


def service_lines(service: str) -> Iterator[str]:
    """What is there once for a service: a probe, and what the fabric says of it."""
    target = f'service="{service}",namespace="shop"'
    yield f'probe_success{{job="probes",instance="http://{service}/",{target}}} 1'
    thresholds = {"heartbeat": 30, "error_ratio": 0.1, "latency_p95": 3, "cpu": 0.8, "memory": 0.9}
    for signal, value in thresholds.items():
        yield f'shf_signal_threshold{{job="shf",service="{service}",signal="{signal}"}} {value}'
    yield f'shf_config_drift{{job="shf",service="{service}"}} 0'
    yield f'shf_slo_ratio{{job="shf",service="{service}"}} 0.99'
    yield f'shf_state_digest_info{{job="shop/{service}",{target},replica="a",digest="1"}} 1'


def fleet(services: int) -> list[bytes]:
    """The pages, rendered once: a scrape only replaces the counters."""
    lines: list[list[str]] = [[] for _ in range(PAGES)]
    for number in range(services):
        page = lines[number % PAGES]
        page += service_lines(f"s{number}")
        for instance in range(INSTANCES):
            page += instance_lines(f"s{number}", instance)
    return [("\n".join(page) + "\n").encode() for page in lines]


def serve(services: int, ports: Queue[int]) -> None:
    die_with(os.getppid())
    pages, started = fleet(services), time.monotonic()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            t = time.monotonic() - started
            body = pages[int(self.path.strip("/"))]
            body = body.replace(b"@C", b"%.3f" % (20 * t)).replace(b"@E", b"%.3f" % (0.2 * t))
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    ports.put(server.server_port)
    server.serve_forever()


def backfill(services: int, workdir: Path) -> None:
    """Six hours, a point a minute, of what the slow groups read back."""
    labels = 'service="s{}",namespace="shop"'
    series = {
        **dict.fromkeys(("latency:p95_seconds_healthy", "latency:mean_seconds_healthy"), 0.1),
        **{"requests:rate_slo": 100, "errors:rate_slo": 0.5},
    }
    end = int(time.time()) - 120
    source = workdir / "history.txt"
    with source.open("w") as file:
        for name, value in series.items():
            for number in range(services):
                own = f"service:shf_{name}{{{labels.format(number)}}} {value} "
                file.writelines(f"{own}{at}\n" for at in range(end - HISTORY, end, 60))
        file.write("# EOF\n")
    command = ["promtool", "tsdb", "create-blocks-from", "openmetrics", str(source), str(workdir / "data")]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - all of it is ours
    source.unlink()


@contextmanager
def prometheus(services: int, workdir: Path) -> Iterator[httpx.Client]:
    """With the shipped rules, at their own interval, scraping the fleet."""
    write_rules(RuleParameters(), workdir / "rules")
    ports: Queue[int] = Queue()
    exporter = Process(target=serve, args=(services, ports), daemon=True)
    exporter.start()
    try:
        address = f"127.0.0.1:{ports.get()}"
        jobs = [
            {
                "job_name": f"page-{page}",
                "metrics_path": f"/{page}",
                "honor_labels": True,
                "static_configs": [{"targets": [address]}],
            }
            for page in range(PAGES)
        ]
        configuration = {
            "global": {"scrape_interval": "5s", "scrape_timeout": "4s", "evaluation_interval": "5s"},
            "rule_files": [str(workdir / "rules" / "*.rules.yml")],
            "scrape_configs": jobs,
        }
        (workdir / "prometheus.yml").write_text(yaml.safe_dump(configuration))
        backfill(services, workdir)
        with reserved_ports(1) as (port,):
            url = f"http://127.0.0.1:{port}"
            command = [
                "prometheus",
                f"--config.file={workdir / 'prometheus.yml'}",
                f"--storage.tsdb.path={workdir / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
                "--log.level=error",
            ]
            log = workdir / "prometheus.log"
            with Server("prometheus", command, f"{url}/-/ready", log, environment=os.environ) as server:
                server.wait_ready(READY)
                with httpx.Client(base_url=url, trust_env=False, timeout=30) as client:
                    yield client
    finally:
        exporter.terminate()
        exporter.join()


def metrics(client: httpx.Client) -> dict[str, float]:
    """Prometheus's own metrics."""
    text = client.get("/metrics").raise_for_status().text
    return {name: float(value) for name, value in re.findall(r"^([^#\s].*?) (\S+)$", text, re.MULTILINE)}


def measure(services: int) -> str:
    """One run, as a part of the page."""
    durations: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder, prometheus(services, Path(folder)) as client:
        time.sleep(WARM_UP)
        before, started = metrics(client), time.monotonic()
        while time.monotonic() < started + MEASURED:
            for name, value in metrics(client).items():
                if found := re.match(r'prometheus_rule_group_last_duration_seconds\{.*;([\w-]+)"}', name):
                    durations[found[1]].append(value)
            time.sleep(5)
        after, elapsed = metrics(client), time.monotonic() - started
    cores = (after["process_cpu_seconds_total"] - before["process_cpu_seconds_total"]) / elapsed
    return report(services, durations, after, cores)


def total(values: dict[str, float], name: str) -> float:
    return sum(value for key, value in values.items() if key.split("{")[0] == name)


def report(services: int, durations: dict[str, list[float]], after: dict[str, float], cores: float) -> str:
    rows = [
        f"| {group} | {statistics.median(values):.3f} | {max(values):.3f} |"
        for group, values in sorted(durations.items(), key=lambda item: -statistics.median(item[1]))
    ]
    facts = (
        f"{services} services x {INSTANCES} instances: "
        f"{total(after, 'prometheus_tsdb_head_series'):,.0f} series, "
        f"{total(after, 'process_resident_memory_bytes') / 2**20:,.0f} MiB resident, "
        f"{cores:.2f} cores for scrapes and rules together, "
        f"{total(after, 'prometheus_rule_evaluation_failures_total'):.0f} failed evaluations, "
        f"{total(after, 'prometheus_rule_group_iterations_missed_total'):.0f} missed rounds"
    )
    return "\n".join([facts, "", "| group | median, s | highest, s |", "|---|---|---|", *rows, ""])


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure what the rules cost on a real Prometheus.")
    parser.add_argument("--services", type=int, action="append", help="how many; may be given several times")
    missing = [name for name in ("prometheus", "promtool") if shutil.which(name) is None]
    arguments = parser.parse_args()
    if missing:
        sys.stderr.write(f"not on PATH: {', '.join(missing)}\n")
        return 1
    for services in arguments.services or [250, 1000]:
        sys.stdout.write(measure(services) + "\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
