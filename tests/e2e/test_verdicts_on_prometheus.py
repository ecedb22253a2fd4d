"""Did it heal? Each way in which it can seem so, told apart by a real Prometheus's own samples.

One service for each case, all at once: what each exports is a script in the time since the action. The
verifier is asked as the orchestrator asks it, every second, until it gives its verdict.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from rules_server import prometheus_with_rules

from self_healing_fabric.recovery.verification import Health, Look, Verdict, Verifier
from self_healing_fabric.rules import RuleParameters
from self_healing_fabric.settings import Settings
from shf_demo.ports import reserved_ports
from shf_queries import PrometheusClient, PrometheusUnavailable

pytestmark = pytest.mark.e2e

FAST = RuleParameters(
    scrape_interval=1, evaluation_interval=1, heartbeat=6, error_window=8, latency_window=4, latency_for=2,
    resource_window=5, resource_for=3, state_for=3, restart_window=20, slow_interval=1, keep_firing=5,
    baseline_window=12, baseline_offset=2, dashboard_base_url="https://grafana.example/d/shf",
)  # fmt: skip
BEFORE = 12.0  # seconds of failing before the action
STABILITY = 6.0  # seconds
DEADLINE = 40.0  # seconds after the action, for busy machines: what is worse is seen before it
PATIENCE = 30.0  # seconds more than the deadline, for busy machines

Script = Callable[[float], float]  # seconds since the action (negative before it) to a value


@dataclass(frozen=True)
class Case:
    """What a service does, as rates in time, and what must be said of it."""

    verdict: Verdict
    says: str
    errors: Script = lambda t: 0.0 if t > 0 else 0.5
    cpu: Script = lambda t: 0.2
    answers: Callable[[float], bool] = lambda t: True
    counts: Callable[[float], bool] = lambda t: True  # whether its requests are exported at all
    renewed: bool = True
    worse: bool = False


CASES = {
    "healed": Case(Verdict.HEALED, "Healed"),
    "not-healed": Case(Verdict.NOT_HEALED, "error_ratio is still outside", errors=lambda t: 0.5),
    "series-vanished": Case(Verdict.NO_EVIDENCE, "samples of error_ratio", counts=lambda t: t < 0),
    "scrape-down": Case(Verdict.NOT_HEALED, "the action: heartbeat", answers=lambda t: t < 0, worse=True),
    "flapping": Case(Verdict.RELAPSED, "elapsed", errors=lambda t: 0.5 if t < 0 or int(t / 5) % 2 else 0.0),
    "relapse": Case(Verdict.RELAPSED, "had recovered", errors=lambda t: 0.0 if 0 < t < 9 else 0.5),
    "same-process": Case(Verdict.NOT_HEALED, "still runs the process from before", renewed=False),
    "worse": Case(
        Verdict.NOT_HEALED,
        "worse than before the action: cpu",
        errors=lambda t: 0.5,
        cpu=lambda t: 0.99 if t > 0 else 0.2,
        worse=True,
    ),
    "worse-errors": Case(
        Verdict.NOT_HEALED,
        "worse than before the action: error_ratio",
        errors=lambda t: 1.0 if t > 0 else 0.2,
        worse=True,
    ),
}


@dataclass
class Service:
    """Counters that grow by their script from one scrape to the next."""

    case: Case
    at: float
    good: float = 0.0
    failed: float = 0.0
    cpu: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def page(self, t: float, started: float) -> str:
        """The metrics at `t` seconds since the action; `started` is when the action was."""
        with self.lock:
            passed, self.at = t - self.at, t
            share = self.case.errors(t)
            self.good += 40 * passed * (1 - share)
            self.failed += 40 * passed * share
            self.cpu += passed * self.case.cpu(t)
            lines = [
                f"process_cpu_seconds_total {self.cpu}",
                "python_info 1",
                f"process_start_time_seconds {started + 0.5 if t > 0 and self.case.renewed else 1000.0}",
            ]
            if self.case.counts(t):
                name, status = "http_server_request_duration_seconds_count", "http_response_status_code"
                lines += [f'{name}{{{status}="200"}} {self.good}', f'{name}{{{status}="500"}} {self.failed}']
            return "\n".join([*lines, ""])


class Scripts:
    """The HTTP server of all services; their scripts begin when `act` is called."""

    def __init__(self) -> None:
        self.acted: float | None = None
        self.services = {name: Service(case, -BEFORE) for name, case in CASES.items()}
        self._born = time.time()
        scripts = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                service, t = scripts.services[self.path.strip("/")], scripts.since()
                body = service.page(t, scripts.acted or 0.0).encode()
                self.send_response(200 if service.case.answers(t) else 500)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def since(self) -> float:
        """Seconds since the action; before it, a time that does not pass zero."""
        if self.acted is None:
            return min(-1e-9, time.time() - self._born - 3600.0)
        return time.time() - self.acted

    def act(self) -> float:
        """What the fabric would have done, it has done now."""
        for service in self.services.values():
            service.at = 0.0
        self.acted = time.time()
        return self.acted

    def close(self) -> None:
        """End the server."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture(scope="module")
def scripts() -> Iterator[Scripts]:
    """The services."""
    scripts = Scripts()
    yield scripts
    scripts.close()


SETTINGS = Settings(
    services={name: {} for name in CASES},  # type: ignore[misc]
    prometheus={"scrape_interval": 1, "evaluation_interval": 1},  # type: ignore[arg-type]
    verification={"stability": STABILITY, "deadline": DEADLINE, "interval": 1},  # type: ignore[arg-type]
)


@pytest.fixture(scope="module")
def verdicts(scripts: Scripts, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What was said of each service; and of one that recovered before anything was done, and at the end of
    all, when Prometheus is gone."""
    workdir = tmp_path_factory.mktemp("verdicts")

    def targets_of(name: str) -> list[dict[str, Any]]:
        return [{"targets": [scripts.address], "labels": {"service": name}}]

    jobs = [
        {"job_name": name, "metrics_path": f"/{name}", "static_configs": targets_of(name)} for name in CASES
    ]
    found: dict[str, Any] = {}
    with reserved_ports(1) as (port,):
        client = PrometheusClient(f"http://127.0.0.1:{port}")
        verifier = Verifier(client, SETTINGS)
        with prometheus_with_rules(workdir, port, FAST, jobs):
            time.sleep(BEFORE)
            believed = time.time() + PATIENCE
            while Health.UNKNOWN in found.get("health before", {"": Health.UNKNOWN}).values():
                assert time.time() < believed
                time.sleep(1.0)
                found["health before"] = {
                    name: verifier.health(name, ["error_ratio"], time.time())[0] for name in CASES
                }
            before = {name: verifier.condition(name, time.time()) for name in CASES}
            starts = {name: verifier.start_time(name, time.time()) for name in CASES}
            acted = scripts.act()
            open_cases, end = set(CASES), acted + DEADLINE
            while open_cases and time.time() < end + PATIENCE:
                time.sleep(1.0)
                for name in sorted(open_cases):
                    look = verifier.look(
                        name, ["error_ratio"], since=acted, deadline=end, now=time.time(),
                        started_before=starts[name], before=before[name],
                    )  # fmt: skip
                    if look.verdict is not None:
                        found[name] = look
                        found[f"{name} after"] = time.time() - acted
                        open_cases.remove(name)
            found["health after"] = {
                name: verifier.health(name, ["error_ratio"], time.time())[0] for name in CASES
            }
        try:
            verifier.look("healed", [], since=acted, deadline=None, now=time.time())
        except PrometheusUnavailable as error:
            found["prometheus down"] = str(error)
        client.close()
    return found


@pytest.mark.parametrize("name", CASES)
def test_each_case_gets_its_verdict_and_its_reason(verdicts: dict[str, Any], name: str) -> None:
    """With evidence whose samples are newer than the action, or the reason why there is none."""
    look, case = verdicts[name], CASES[name]
    assert isinstance(look, Look)
    assert (look.verdict, look.worse) == (case.verdict, case.worse), look.statement
    assert case.says in look.statement
    assert look.evidence


def test_what_is_worse_is_told_before_the_deadline(verdicts: dict[str, Any]) -> None:
    """There is something to take back, so nobody waits for the deadline."""
    assert verdicts["worse after"] < DEADLINE
    assert verdicts["not-healed after"] >= DEADLINE


def test_it_fails_before_and_who_was_healed_by_someone_else_is_calm(verdicts: dict[str, Any]) -> None:
    """Asked right before an action: nothing would be done to a service that recovered meanwhile."""
    assert set(verdicts["health before"].values()) == {Health.FAILING}
    assert verdicts["health after"]["healed"] is Health.CALM
    assert verdicts["health after"]["not-healed"] is Health.FAILING
    assert verdicts["health after"]["series-vanished"] is Health.UNKNOWN


def test_without_prometheus_there_is_no_verdict(verdicts: dict[str, Any]) -> None:
    """An error, never a guess."""
    assert "does not answer" in verdicts["prometheus down"]
