"""Two stories that the dashboards have to tell: an hour with incidents, and an hour without any.

Both are lived by the product itself. The incidents go through the real API, store, state machine and
guardrails of a fabric whose clock the test holds; what Prometheus remembers of it is what its own registry
exported every 15 s. What the rules record comes from the shipped rules, evaluated by Prometheus's own engine
on the samples of sample services. So a series that is renamed anywhere is missing here.

The seconds that a machine takes for a step, and its memory, differ from run to run: they are fixed values.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import yaml
from flask.testing import FlaskClient
from prometheus_client import context_managers
from pytest_httpserver import HTTPServer

from self_healing_fabric.app import create_app
from self_healing_fabric.incidents.lifecycle import State
from self_healing_fabric.integration.status import StateCollector
from self_healing_fabric.recovery.strategies import usable
from self_healing_fabric.rules import RuleParameters, write_rules
from self_healing_fabric.store import statements
from self_healing_fabric.telemetry import Metrics
from world import START, World

SCRAPE = 15  # seconds
LENGTH = 60 * 60  # seconds of a story
CALM = START - 86_400.0  # when the story without incidents begins
FABRIC = {"job": "self-healing-fabric", "instance": "fabric-1:9931"}  # labels of the target
IN_CLUSTER = {
    "cluster": "eu"
}  # and this one where there are several; whoever has one cluster has no such label
SERVICES = ("cart", "mail", "pay", "search", "stock")
ADDRESS = "https://fabric.example"
MACHINE = {
    "process_resident_memory_bytes": 80e6,
    "process_open_fds": 51.2,
    "process_max_fds": 1024.0,
}  # and the CPU: a tenth of a core

Labels = Mapping[str, str]


@dataclass(frozen=True)
class Sample:
    """One sample of one series."""

    name: str
    labels: Labels
    value: float
    at: float

    def __str__(self) -> str:
        labels = ",".join(f"{name}={json.dumps(value)}" for name, value in sorted(self.labels.items()))
        return f"{self.name}{{{labels}}} {self.value} {self.at:.3f}"


class Recording:
    """A fabric that lives a story, and what its /metrics said all the time."""

    def __init__(
        self,
        directory: Path,
        server: HTTPServer,
        begin: float,
        target: Labels,
        *,
        standby: bool,
        **changes: Any,
    ) -> None:
        self.samples: list[Sample] = []
        self._target = target
        self._since: dict[str, str] = {}
        self.begin = begin
        self.world = World(
            directory,
            server,
            dict.fromkeys(SERVICES, ()),
            external_url=ADDRESS,
            guardrails={"cooldown": 540},
            thresholds={"heartbeat": 75},
            **changes,
        )
        self.world.clock.now = begin
        self.world.fabric.context = self.world.context
        self.world.fabric.drift.places = lambda: {"cart": 0.0}  # type: ignore[method-assign]
        self.client: FlaskClient = create_app(self.world.fabric).test_client()
        self._scraped = begin - SCRAPE
        # A second replica sees the same store and has counted nothing.
        self._standby: Metrics | None = None
        if standby:
            settings = self.world.context.settings
            self._standby = Metrics(settings.services, usable(settings, self.world.context.strategies))
            self._standby.registry.register(StateCollector(self.world.fabric))

    def until(self, minute: float, tick: float = SCRAPE) -> None:
        """Go on to this minute of the story."""
        end = self.begin + minute * 60
        while self.world.clock.now < end:
            self.world.run(seconds=tick, tick=tick)
            if self.world.clock.now - self._scraped >= SCRAPE:
                self._scrape()

    def stalls(self, minute: float) -> None:
        """Until this minute the loop does nothing, although all open incidents are due."""
        now = self.world.clock.now
        for each in self.world.incidents():
            if each.state not in (State.RESOLVED, State.CLOSED):
                due = partial(statements.annotate, incident_id=each.id, changes={"due_at": now})
                self.world.context.store.write(due)
        while self.world.clock.now < self.begin + minute * 60:
            self.world.clock.now += SCRAPE
            self._scrape()

    def breaks_a_notification(self) -> None:
        """One that cannot be worked in, whatever it was when it was taken in."""
        now = self.world.clock.now
        self.world.context.store.write(lambda connection: statements.put_in_inbox(connection, [(b"{}", now)]))

    def standby_works(self) -> None:
        """What the other replica has counted: on SQLite there is no second one to do it."""
        counted = self._standby
        assert counted is not None
        counted.opened.labels("cart").inc()
        counted.resolved.labels("cart", "healed").inc()
        counted.recover_seconds.labels("cart").observe(200)
        counted.actions.labels("cart", "restart", "succeeded").inc()
        counted.actions.labels("cart", "restart", "indeterminate").inc()
        counted.action_seconds.labels("restart").observe(20)
        counted.blocks.labels("cart", "cooldown").inc(2)
        counted.diagnosis_seconds.observe(8)
        counted.requests.labels("202").inc(3)
        counted.requests.labels("503").inc()
        counted.alerts.labels("firing").inc(2)
        counted.truncated.inc(4)

    def fails(self, service: str) -> None:
        """The service falls silent, and Alertmanager says so."""
        self.world.silent(service)
        self._since[service] = datetime.fromtimestamp(self.world.clock.now, UTC).isoformat()
        self._notify(service, "firing")

    def ends(self, service: str) -> None:
        """Alertmanager says that it is over."""
        self._notify(service, "resolved")

    def sets_mode(self, mode: str) -> None:
        """A person decides how much the fabric may do."""
        assert self.client.put("/api/v1/mode", json={"mode": mode, "by": "test"}).status_code == 200

    def _notify(self, service: str, status: str) -> None:
        labels = {
            "alertname": "ShfHeartbeatMissed",
            "service": service,
            "signal": "heartbeat",
            "severity": "critical",
        }
        alert = {
            "status": status, "labels": labels, "annotations": {"summary": f"{service} is silent"},
            "startsAt": self._since[service], "fingerprint": service,
        }  # fmt: skip
        answer = self.client.post("/api/v1/alerts", json={"version": "4", "alerts": [alert]})
        assert answer.status_code == 202, answer.text

    def _scrape(self) -> None:
        now = self._scraped = self.world.clock.now
        # Comparing with the servers is no part of the story; a fabric does it all the time.
        self.world.context.metrics.last_reconcile.set(now - 5)
        self._keep(self.world.context.metrics, self._target, now)
        if self._standby is not None:
            self._keep(self._standby, {**self._target, "instance": "fabric-2:9931"}, now, leader=False)

    def _keep(self, metrics: Metrics, target: Labels, now: float, *, leader: bool = True) -> None:
        for family in metrics.registry.collect():
            for sample in family.samples:
                if sample.name.startswith("shf_"):
                    value = sample.value if leader or sample.name != "shf_leader" else 0.0
                    self.samples.append(Sample(sample.name, {**sample.labels, **target}, value, now))
        cpu = {"process_cpu_seconds_total": 0.1 * (now - self.begin)}
        for name, value in {**MACHINE, **cpu}.items():
            self.samples.append(Sample(name, target, value, now))
            # Other processes export the same.
            self.samples.append(Sample(name, {**target, "job": "shop/cart"}, 2 * value, now))


def calm(directory: Path, server: HTTPServer) -> list[Sample]:
    """Nothing ever happened, to someone whose targets have no label `cluster`."""
    with _steady_timers():
        recording = Recording(directory, server, CALM, FABRIC, standby=False)
        recording.until(LENGTH / 60)
        recording.world.close()
    return recording.samples


def incidents(directory: Path, server: HTTPServer) -> list[Sample]:
    """What happens is told in the order in which it happens; the last minutes are what people look at."""
    with _steady_timers():
        recording = Recording(directory, server, START, {**FABRIC, **IN_CLUSTER}, standby=True)
        _live(recording)
        recording.world.close()
    return recording.samples


def _live(story: Recording) -> None:
    world = story.world
    story.until(10)
    # Twice cart is restarted and healed; the first time it needs half a minute to come up.
    story.fails("cart")
    story.until(10.5, tick=1)
    world.healthy("cart")
    story.until(12, tick=1)
    story.ends("cart")
    world.targets["cart"].on_restart = lambda: world.healthy("cart")
    story.until(20)
    story.fails("cart")
    story.until(21, tick=1)
    story.ends("cart")
    # search cannot be restarted: people are called, and mend it 20 minutes later.
    world.targets["search"].answer = 500
    story.until(23)
    story.fails("search")
    story.until(25, tick=1)
    story.until(30)
    story.standby_works()
    story.until(44)
    world.healthy("search")
    story.ends("search")
    # pay heals by itself before anything is done.
    story.until(46)
    story.fails("pay")
    world.healthy("pay")
    story.until(47, tick=1)
    story.ends("pay")
    # stock is silent while everything is paused; then the target refuses its restart, and people are called.
    story.sets_mode("paused")
    story.until(50)
    world.targets["stock"].answer = 404
    story.fails("stock")
    story.until(52, tick=1)
    story.sets_mode("automatic")
    story.until(54, tick=1)
    # Someone sends nonsense. Someone asks before acting from now on, and nobody answers for mail.
    assert story.client.post("/api/v1/alerts", data="nonsense").status_code == 400
    story.sets_mode("approval")
    story.until(57)
    story.fails("mail")
    story.until(58, tick=1)
    # A notification cannot be worked in, and in the end the loop hangs.
    story.breaks_a_notification()
    story.until(59.25)
    story.stalls(LENGTH / 60)


def _steady_timers() -> Any:
    """Every timed step takes 0.2 s."""
    ticks = (number * 0.2 for number in range(10**9))
    return mock.patch.object(context_managers, "default_timer", side_effect=ticks)


# --- what the rules record ---


def recorded(directory: Path, begin: float, exported: list[Sample], *, faults: bool) -> list[Sample]:
    """What the shipped rules make of the sample services and of what the fabric exported.

    promtool runs them on its own clock, which begins at 0. It prints what it found where a test of it expects
    something else; here all of its tests expect nothing.
    """
    adapters = ("scrape", "pushed", "prometheus_client", "process")  # those that these services use
    parameters = RuleParameters(scrape_interval=15, heartbeat=75, error_window=120, adapters=adapters)
    rules = write_rules(parameters, directory)
    steps = LENGTH // SCRAPE
    known = r'{__name__=~".+:shf_.+|ALERTS|ALERTS_FOR_STATE"}'
    cluster = IN_CLUSTER if faults else {}
    series = [
        *_services(steps, cluster, faults=faults),
        *_fabric(exported, steps, cluster),
        *_monitoring(steps, cluster, faults=faults),
    ]
    test = {
        "rule_files": [str(path) for path in rules],
        "evaluation_interval": f"{SCRAPE}s",
        "tests": [
            {
                "interval": f"{SCRAPE}s",
                "input_series": [{"series": name, "values": values} for name, values in series],
                "promql_expr_test": [
                    {"expr": known, "eval_time": f"{at}s"} for at in range(60, LENGTH + 1, 2 * SCRAPE)
                ],
            }
        ],
    }
    path = directory / "story.yml"
    path.write_text(yaml.safe_dump(test))
    done = subprocess.run(
        ["promtool", "test", "rules", str(path)], capture_output=True, text=True, timeout=120, check=False
    )
    return list(_printed(done.stdout + done.stderr, begin))


_AT = re.compile(r'expr: ".*", time: (\S+),?')
_SAMPLE = re.compile(r'(?:([a-zA-Z_:][\w:]*))?\{((?:\w+="(?:[^"\\]|\\.)*"(?:, ?)?)*)\} (\S+?)(?:,|$)')
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


def _printed(text: str, begin: float) -> Iterator[Sample]:
    at = None
    for line in text.splitlines():
        if found := _AT.search(line):
            at = _seconds(found[1])
        elif at is not None and line.strip().startswith("got:"):
            for name, labels, value in _SAMPLE.findall(line):
                known = dict(_LABEL.findall(labels))
                name = name or known.pop("__name__")
                known.pop("__name__", None)
                moment = name == "ALERTS_FOR_STATE" or name.endswith("timestamp_seconds")
                yield Sample(name, known, float(value) + (begin if moment else 0.0), begin + at)
    assert at is not None, text


def _seconds(text: str) -> float:
    units = {"h": 3600, "m": 60, "s": 1}
    return float(sum(int(number) * units[unit] for number, unit in re.findall(r"(\d+)([hms])", text)))


def _name(metric: str, labels: Labels) -> str:
    """A series as promtool reads it."""
    return metric + "{" + ", ".join(f'{name}="{value}"' for name, value in labels.items()) + "}"


def _services(steps: int, cluster: Labels, *, faults: bool) -> Iterator[tuple[str, str]]:
    """Sample services: cart fails a tenth of its requests for ten minutes, stock is silent at the end."""
    for service in SERVICES:
        target = {**cluster, "job": f"shop/{service}", "instance": f"{service}:80", "service": service}
        answering = 49 * 60 // SCRAPE if faults and service == "stock" else steps
        yield _name("up", target), f"1x{answering} 0x{steps - answering}"
        failing = 15 if faults and service == "cart" else 0  # of 150 in 15 s
        for code, each in (("200", 150 - failing), ("500", failing)):
            usual = 150 if code == "200" else 0
            parts = [(80, usual), (40, each), (steps - 120, usual)]
            yield _name("http_request_duration_seconds_count", {**target, "code": code}), _rising(parts)
        yield _name("http_request_duration_seconds_sum", target), f"0+15x{steps}"
        for edge, share in (("0.05", 75), ("0.1", 135), ("0.25", 148), ("+Inf", 150)):
            yield _name("http_request_duration_seconds_bucket", {**target, "le": edge}), f"0+{share}x{steps}"
        busy = 14 if faults and service == "search" else 3  # of 15 seconds
        yield _name("process_cpu_seconds_total", target), f"0+{busy}x{steps}"
        yield _name("go_sched_gomaxprocs_threads", target), f"1x{steps}"
        yield _name("process_virtual_memory_bytes", target), f"500000000x{steps}"
        yield _name("process_virtual_memory_max_bytes", target), f"1000000000x{steps}"
        yield _name("process_start_time_seconds", target), f"1x{steps}"


def _rising(parts: list[tuple[int, int]]) -> str:
    text, value = [], 0
    for number, each in parts:
        text.append(f"{value}+{each}x{number - 1}")
        value += each * number
    return " ".join(text)


def _fabric(exported: list[Sample], steps: int, cluster: Labels) -> Iterator[tuple[str, str]]:
    """What the rules read of the fabric does not change in these stories."""
    wanted = ("shf_signal_threshold", "shf_build_info", "shf_config_drift", "shf_webhook_requests_total")
    first = min(sample.at for sample in exported)
    for sample in exported:
        if sample.at == first and sample.name in wanted:
            yield _name(sample.name, sample.labels), f"{sample.value}x{steps}"
    target = {**FABRIC, **cluster}
    yield _name("shf_last_reconcile_timestamp_seconds", target), f"0+{SCRAPE}x{steps}"
    yield _name("up", target), f"1x{steps}"


def _monitoring(steps: int, cluster: Labels, *, faults: bool) -> Iterator[tuple[str, str]]:
    """Prometheus and Alertmanager themselves; with faults a fifth of the notifications fails."""
    alertmanager = {
        **cluster,
        "job": "alertmanager",
        "instance": "alertmanager:9093",
        "integration": "webhook",
    }
    sent, failed = (10, 2) if faults else (0, 0)
    yield _name("alertmanager_notifications_total", alertmanager), f"0+{sent}x{steps}"
    yield _name("alertmanager_notifications_failed_total", alertmanager), f"0+{failed}x{steps}"
    prometheus = {**cluster, "job": "prometheus", "instance": "prometheus:9090"}
    group = {**prometheus, "rule_group": "rules;shf-requests"}
    for name, labels in (
        ("prometheus_rule_evaluation_failures_total", group),
        ("prometheus_rule_group_iterations_missed_total", group),
        ("prometheus_notifications_dropped_total", prometheus),
        ("prometheus_notifications_errors_total", prometheus),
    ):
        yield _name(name, labels), f"0x{steps}"


# --- a Prometheus that remembers it ---


def open_metrics(samples: list[Sample]) -> list[str]:
    """All samples as lines of OpenMetrics."""
    return [str(sample) for sample in samples]
