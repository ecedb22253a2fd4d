"""A replay against what really happened: the same rules live on a real Prometheus, and a live fabric.

The history is made once: services that go silent, fail and get slow while Prometheus evaluates the shipped
rules, Alertmanager delivers what fires and a fabric in dry_run decides what it would do. Then the same
stretch is replayed from what was scraped; what the live rules recorded is not read.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from rules_server import prometheus_with_rules
from served_fabric import served_fabric

from past_prometheus import past_prometheus
from self_healing_fabric.configuration import load_settings
from self_healing_fabric.replay import replay, rule_files_in
from self_healing_fabric.rules import RuleParameters, render_rules
from self_healing_fabric.settings import Mode, Settings
from shf_demo.ports import reserved_ports
from shf_demo.servers import Server, find_programs

pytestmark = pytest.mark.e2e

FAST = RuleParameters(
    scrape_interval=1, evaluation_interval=1, heartbeat=5, error_window=6, latency_window=4, latency_for=3,
    slow_interval=1, keep_firing=4, baseline_window=12, baseline_offset=2, state_for=3,
)  # fmt: skip
LASTS = 46.0  # seconds of history
SILENT, FAILS, SLOW = (20.0, 30.0), (18.0, 30.0), (22.0, 34.0)  # seconds after the start, from and to
# Evaluations, of 1 s: a live group reads another's recordings an evaluation late, may begin before a scrape
# that it was to see has ended, and is shifted by less than one.
TOLERANCE = 3
DELIVERED_WITHIN = 5.0  # seconds, on a busy machine
NAMES = ("cart", "pay", "mail", "calm")
ALERTS = {
    ("ShfHeartbeatMissed", "cart"),
    ("ShfErrorRateHigh", "pay"),
    ("ShfLatencyHigh", "mail"),
    ("ShfServiceAbsent", "never"),
}


class Shop:
    """Four services on one port, whose counters follow from the time."""

    def __init__(self, server: ThreadingHTTPServer) -> None:
        self.started = time.time()
        self.calls: list[str] = []  # anything but a scrape
        self.port = server.server_address[1]

    def body(self, name: str) -> str | None:
        """What a scrape gets; None: no answer."""
        t = time.time() - self.started
        if name == "cart" and SILENT[0] <= t < SILENT[1]:
            return None
        failed = 8 * _within(t, FAILS) if name == "pay" else 0.0
        late = 20 * _within(t, SLOW) if name == "mail" else 0.0
        count, metric = 20 * t, "http_request_duration_seconds"
        edges = {"0.1": count - late, "0.5": count, "+Inf": count}
        lines = [f'{metric}_bucket{{code="200",le="{le}"}} {value}' for le, value in edges.items()]
        return "\n".join([
            *lines,
            f'{metric}_count{{code="200"}} {count - failed}',
            f'{metric}_count{{code="500"}} {failed}',
            f'{metric}_sum{{code="200"}} {0.05 * count + 0.35 * late}',
            "",
        ])  # fmt: skip


def _within(t: float, span: tuple[float, float]) -> float:
    return max(0.0, min(t, span[1]) - span[0])


@pytest.fixture(scope="module")
def shop() -> Iterator[Shop]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.strip("/")
            body = world.body(name) if name in NAMES else None
            if name not in NAMES:
                world.calls.append(self.path)
            self.send_response(503 if body is None else 200)
            self.end_headers()
            self.wfile.write((body or "").encode())

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, format: str, *args: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        world = Shop(server)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield world
        server.shutdown()
        thread.join()


@dataclass(frozen=True)
class Past:
    """What happened, as the live servers tell it."""

    prometheus: httpx.Client
    config: Path
    start: float
    end: float
    live: list[dict[str, Any]]  # incidents
    shop: Shop


def _settings(shop: Shop, prometheus_port: int, alertmanager_port: int) -> dict[str, Any]:
    base = f"http://127.0.0.1:{shop.port}"
    services: dict[str, Any] = {
        name: {"health": f"{base}/{name}/health", "recovery": {"http": {"restart": f"{base}/{name}/restart"}}}
        for name in NAMES
    }
    services["never"] = {"tier": "low"}
    return {
        "mode": "dry_run",
        "prometheus": {
            "url": f"http://127.0.0.1:{prometheus_port}", "scrape_interval": 1, "evaluation_interval": 1,
        },
        "alertmanager": {"url": f"http://127.0.0.1:{alertmanager_port}"},
        "thresholds": {"heartbeat": 5},
        "verification": {"stability": 4, "deadline": 30, "interval": 1},
        "services": services,
    }  # fmt: skip


@pytest.fixture(scope="module")
def past(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Past]:
    """Live through it once."""
    workdir = tmp_path_factory.mktemp("past")
    programs = find_programs()
    with reserved_ports(2) as (prometheus_port, alertmanager_port):
        settings = _settings(shop, prometheus_port, alertmanager_port)
        with served_fabric(workdir, **settings) as fabric:
            receiver = {"url": f"{fabric.url}/api/v1/alerts", "send_resolved": True}
            signals = "heartbeat|error_ratio|latency_p95|cpu|memory"
            route = {
                "receiver": "people", "routes": [{
                    "receiver": "self-healing-fabric", "matchers": [f'signal=~"{signals}"'],
                    "group_by": ["alertname", "service"], "group_wait": "0s", "group_interval": "2s",
                }],
            }  # fmt: skip
            receivers = [{"name": "people"}, {"name": "self-healing-fabric", "webhook_configs": [receiver]}]
            (workdir / "am.yml").write_text(yaml.safe_dump({"route": route, "receivers": receivers}))
            command = [
                programs.alertmanager, f"--config.file={workdir / 'am.yml'}",
                f"--storage.path={workdir / 'am'}", "--cluster.listen-address=",
                f"--web.listen-address=127.0.0.1:{alertmanager_port}",
            ]  # fmt: skip
            url = f"http://127.0.0.1:{alertmanager_port}/-/ready"
            scrapes = [
                {"job_name": name, "metrics_path": f"/{name}",
                 "static_configs": [{"targets": [f"127.0.0.1:{shop.port}"]}]}
                for name in NAMES
            ]  # fmt: skip
            scrapes.append(
                {"job_name": "shf", "static_configs": [{"targets": [fabric.url.removeprefix("http://")]}]}
            )
            with (
                Server("alertmanager", command, url, workdir / "am.log", environment=os.environ) as server,
                prometheus_with_rules(
                    workdir, prometheus_port, FAST, scrapes, "--rules.alert.resend-delay=1s",
                    alertmanager=f"127.0.0.1:{alertmanager_port}",
                ) as prometheus,
            ):  # fmt: skip
                server.wait_ready()
                shop.started = start = time.time()
                time.sleep(LASTS)
                end = time.time()
                live = [
                    fabric.http.get(f"/api/v1/incidents/{each['id']}").json() for each in fabric.incidents()
                ]
                yield Past(prometheus, fabric.configuration_file, start, end, live, shop)


def _live_firing(past: Past) -> dict[tuple[str, str], list[tuple[float, float]]]:
    """From when to when each alert fired, as Prometheus stored it."""
    seconds = round(past.end - past.start)
    answer = past.prometheus.get(
        "/api/v1/query",
        params={"query": f'ALERTS{{alertstate="firing",signal!=""}}[{seconds}s]', "time": past.end},
    ).json()["data"]["result"]
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for series in answer:
        times = [float(at) for at, _ in series["values"]]
        key = (series["metric"]["alertname"], series["metric"]["service"])
        found.setdefault(key, []).append((times[0], times[-1]))
    return found


def _missed(past: Past) -> int:
    """How many evaluations of one group Prometheus left out at most, for want of time: it counts them."""
    missed = re.findall(
        r"^prometheus_rule_group_iterations_missed_total{.*} (\d+)$",
        past.prometheus.get("/metrics").text,
        re.MULTILINE,
    )
    return max(map(int, missed))


def _replay(
    past: Past,
    *options: str,
    seed: str = "0",
    config: Path | None = None,
    rules: Path | None = None,
    until: float | None = None,
) -> subprocess.CompletedProcess[str]:
    folder = past.config.parent / "rules"
    command = [
        sys.executable, "-c", "from self_healing_fabric.cli import main; main()", "replay",
        "--config", str(config or past.config), "--rules", str(rules or folder),
        "--since", _iso(past.start), "--until", _iso(until or past.end), *options,
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONHASHSEED": seed, "COLUMNS": "200"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def _iso(at: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at)) + f"{at % 1:.3f}"[1:] + "Z"


@pytest.fixture(scope="module")
def answer(past: Past) -> str:
    """What `shf replay --json` prints."""
    done = _replay(past, "--json")
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def report(answer: str) -> Mapping[str, Any]:
    return dict(json.loads(answer))


def test_the_same_alerts_fire_at_the_same_times(past: Past, report: Mapping[str, Any]) -> None:
    """Both their beginning and their end: `for` and `keep_firing_for` included."""
    live, tolerance = _live_firing(past), TOLERANCE + _missed(past)
    assert set(live) >= ALERTS
    replayed: dict[tuple[str, str], list[tuple[float, float | None]]] = {}
    for incident in report["incidents"]:
        for alert in incident["alerts"]:
            key = (alert["alert"], alert["service"])
            ended = None if alert["ended_at"] is None else _seconds(alert["ended_at"])
            replayed.setdefault(key, []).append((_seconds(alert["fired_at"]), ended))
    assert {key: len(spans) for key, spans in replayed.items()} == {
        key: len(spans) for key, spans in live.items()
    }
    for key, spans in live.items():
        for (began, ended), (fired_at, ended_at) in zip(spans, sorted(replayed[key]), strict=True):
            assert abs(fired_at - began) <= tolerance, (key, fired_at - began)
            if ended_at is not None:
                # The last sample of ALERTS is that of the evaluation before the end.
                assert abs(ended_at - (ended + 1.0)) <= tolerance, (key, ended_at - ended)


def test_the_same_incidents_open_and_the_same_would_be_done(past: Past, report: Mapping[str, Any]) -> None:
    """As in the live fabric, which was in dry_run as the replay is; to the seconds that delivery takes."""
    live = {each["service"]: each for each in past.live}
    replayed = {each["service"]: each for each in report["incidents"]}
    assert len(live) == len(past.live)
    assert replayed.keys() == live.keys()
    for service, incident in replayed.items():
        assert incident["signal"] == live[service]["signal"]
        assert incident["failure_class"] == live[service]["failure_class"], service
        assert abs(_seconds(incident["opened_at"]) - _seconds(live[service]["opened_at"])) < DELIVERED_WITHIN
        assert _would(incident["course"]) == _would_of_timeline(live[service]["timeline"]), service
    assert {service for service, each in replayed.items() if _would(each["course"])} == {
        "cart",
        "pay",
        "mail",
    }


def _would(course: list[Mapping[str, Any]]) -> list[tuple[str, str]]:
    return [(told["strategy"], told["target"]) for told in course if told["what"] == "would"]


def _would_of_timeline(timeline: list[Mapping[str, Any]]) -> list[tuple[str, str]]:
    notes = [each["data"] for each in timeline if each["message"].startswith("Dry run: would")]
    return [(data["strategy"], data["target"]) for data in notes]


def test_the_same_question_has_the_same_answer_to_the_byte(past: Past, answer: str) -> None:
    """In another process, with another order of hashes."""
    assert _replay(past, "--json", seed="1").stdout == answer


def test_only_prometheus_is_called(past: Past) -> None:
    """In automatic mode too: no health endpoint, no restart, no Alertmanager, no store of the fabric."""
    before = list(past.shop.calls)
    settings = load_settings(past.config).model_copy(update={"mode": Mode.AUTOMATIC})
    called: set[tuple[str, int]] = set()
    listening = [True]

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "socket.connect" and listening[0]:
            called.add(arguments[1])

    sys.addaudithook(hook)
    try:
        told = replay(settings, rule_files_in(past.config.parent / "rules"), since=past.start, until=past.end)
    finally:
        listening[0] = False
    assert told["summary"]["actions"] == {"restart": 3}
    assert called == {("127.0.0.1", int(settings.prometheus.url.rpartition(":")[2]))}
    assert past.shop.calls == before


def test_a_history_in_which_nothing_happened_says_so(past: Past) -> None:
    """Before the faults, of services that are all there."""
    content = yaml.safe_load(past.config.read_text())
    del content["services"]["never"]
    config = past.config.with_name("calm.yaml")
    config.write_text(yaml.safe_dump(content))
    until = past.start + min(SILENT[0], FAILS[0], SLOW[0]) - 1
    done = _replay(past, config=config, until=until)
    assert done.returncode == 0, done.stderr
    assert "Nothing would have happened: no incident would have opened." in done.stdout


def test_a_history_shorter_than_asked_for_says_from_when_it_is(past: Past) -> None:
    done = _replay(past, "--since", "7d")
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if "has no data from before" in line]
    first = past.prometheus.get("/api/v1/query", params={"query": "up[1h]", "time": past.end}).json()
    scraped = min(float(series["values"][0][0]) for series in first["data"]["result"])
    assert abs(_seconds(line.split()[-1].rstrip(".")) - scraped) <= 1.0
    for service in ("cart", "pay", "mail"):
        assert f"would restart http://127.0.0.1:{past.shop.port}/{service}/restart" in done.stdout


def test_a_stopped_prometheus_makes_no_alert(tmp_path: Path) -> None:
    """From its last scrape to its next one nobody evaluated a rule: no service was absent then."""
    start, every = 1_795_000_000.0, 15.0
    scraped = [start + number * every for number in range(240)]
    stopped = (scraped[91], scraped[143])
    lines = [f'up{{job="cart",instance="a"}} 1 {at}' for at in scraped if not stopped[0] < at < stopped[1]]
    with past_prometheus(tmp_path, ["# TYPE up unknown", *lines]) as url:
        settings = Settings(prometheus={"url": url}, services={"cart": {}})
        rules = render_rules(RuleParameters())
        report = replay(settings, rules, since=scraped[20], until=scraped[-1])
    assert report["incidents"] == []
    (pause,) = report["history"]["pauses"]
    assert (_seconds(pause["from"]), _seconds(pause["until"])) == stopped


def test_rules_that_cannot_be_replayed_are_named(past: Past, tmp_path: Path) -> None:
    """Never guessed at, and never left out silently."""
    rule = {"record": "service:shf_own:trend", "expr": "predict_linear(service:shf_up:ratio[5m], 60)"}
    text = (past.config.parent / "rules" / "heartbeat.rules.yml").read_text()
    (tmp_path / "heartbeat.rules.yml").write_text(text)
    (tmp_path / "own.yml").write_text(yaml.safe_dump({"groups": [{"name": "own", "rules": [rule]}]}))
    done = _replay(past, rules=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("shf: the rule service:shf_own:trend cannot be replayed: ")
    assert "predict_linear" in done.stderr


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
