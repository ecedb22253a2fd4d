"""A Prometheus that was away tells at once of what it had scraped before: nothing is done on that."""

from __future__ import annotations

import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread

import pytest
from docker_engine import wait_until
from rules_server import prometheus_with_rules

from self_healing_fabric.recovery.verification import Health, Verdict, Verifier
from self_healing_fabric.rules import RuleParameters
from self_healing_fabric.settings import Settings
from shf_demo.ports import reserved_ports
from shf_queries import PrometheusClient, QueryError

pytestmark = pytest.mark.e2e

EVALUATIONS = 1  # seconds between two
AWAY = 17.0  # seconds: longer than what is no gap yet
SERVICES = [f"s{number}" for number in range(6)]
PATIENCE = 90.0  # seconds, for busy machines
LOOKS_BACK = 60.0  # seconds, by its own default 300


def health_of(verifier: Verifier, service: str, signal: str) -> Health:
    """What nothing is done about counts as unknown."""
    try:
        return verifier.health(service, [signal], time.time())[0]
    except QueryError:
        return Health.UNKNOWN


def counting_target(
    counts: dict[str, int], ends_with: Callable[[], str], *, answers: Callable[[], int] = lambda: 200
) -> ThreadingHTTPServer:
    """A service that counts ten requests by the code with which they end at each scrape, which it answers
    with a status."""

    class Target(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            counts[ends_with()] += 10
            samples = (
                f'http_request_duration_seconds_count{{code="{code}"}} {number}\n'
                for code, number in counts.items()
            )
            content = "".join(samples).encode()
            self.send_response(answers())
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    target = ThreadingHTTPServer(("127.0.0.1", 0), Target)
    Thread(target=target.serve_forever, daemon=True).start()
    return target


# Each target is scraped at a moment of its own. However often: it takes a while until that begins.
@pytest.mark.parametrize(("signal", "scrapes"), [("heartbeat", 5), ("heartbeat", 1), ("error_ratio", 1)])
def test_what_was_scraped_before_prometheus_was_away_fails_no_more(
    tmp_path: Path, signal: str, scrapes: int
) -> None:
    """The services fail, Prometheus is killed, they are mended, Prometheus comes back."""
    mended = Event()

    def answers() -> int:
        return 500 if signal == "heartbeat" and not mended.is_set() else 200

    target = counting_target(
        {"200": 0, "500": 0}, lambda: "200" if mended.is_set() else "500", answers=answers
    )
    jobs = [
        {
            "job_name": name,
            "scrape_interval": f"{scrapes}s",
            "static_configs": [{"targets": [f"127.0.0.1:{target.server_port}"]}],
        }
        for name in SERVICES
    ]
    timing = {"scrape_interval": scrapes, "evaluation_interval": EVALUATIONS}
    settings = Settings.model_validate({"services": {name: {} for name in SERVICES}, "prometheus": timing})
    parameters = RuleParameters(scrape_interval=scrapes, evaluation_interval=EVALUATIONS)
    with reserved_ports(1) as (port,):
        client = PrometheusClient(f"http://127.0.0.1:{port}")
        verifier = Verifier(client, settings)

        def health() -> list[Health]:
            return [health_of(verifier, name, signal) for name in SERVICES]

        with prometheus_with_rules(tmp_path, port, parameters, jobs):
            wait_until("all fail", lambda: set(health()) == {Health.FAILING}, PATIENCE)
        mended.set()
        time.sleep(AWAY)
        seen: set[Health] = set()

        def all_calm() -> bool:
            found = set(health())
            seen.update(found)
            return found == {Health.CALM}

        with prometheus_with_rules(tmp_path, port, parameters, jobs):
            wait_until("all are calm", all_calm, PATIENCE)
        client.close()
    target.shutdown()
    target.server_close()
    assert Health.FAILING not in seen


@pytest.mark.parametrize(("signal", "away"), [("heartbeat", 0.0), ("heartbeat", AWAY), ("error_ratio", AWAY)])
def test_what_has_ended_while_prometheus_was_away_is_not_believed(
    tmp_path: Path, signal: str, away: float
) -> None:
    """Nothing marks its end, and the rules read it on: who is not there any more went on answering, and
    failures that a mended service does not even count went on, too."""
    counts = {"200": 0, "500": 0}
    fails = signal == "error_ratio"
    target = counting_target(counts, lambda: "500" if fails and "500" in counts else "200")
    job = {
        "job_name": "cart",
        "scrape_interval": "1s",
        "static_configs": [{"targets": [f"127.0.0.1:{target.server_port}"]}],
    }
    timing = {"scrape_interval": 1, "evaluation_interval": EVALUATIONS}
    settings = Settings.model_validate(
        {"services": {"cart": {}}, "prometheus": timing, "verification": {"stability": 20}}
    )
    parameters = RuleParameters(scrape_interval=1, evaluation_interval=EVALUATIONS)
    looks_back = f"--query.lookback-delta={LOOKS_BACK:.0f}s"
    with reserved_ports(1) as (port,):
        client = PrometheusClient(f"http://127.0.0.1:{port}")
        verifier = Verifier(client, settings)

        def health() -> Health:
            return health_of(verifier, "cart", signal)

        def verdict() -> Verdict | None:
            try:
                now = time.time()
                return verifier.look("cart", [signal], since=ended, deadline=None, now=now).verdict
            except QueryError:
                return None

        before = Health.FAILING if signal == "error_ratio" else Health.CALM
        with prometheus_with_rules(tmp_path, port, parameters, [job], looks_back):
            wait_until("it is recorded", lambda: health() is before, PATIENCE)
            time.sleep(60.0)  # what is usual has to be known
        counts.clear()
        counts["200"] = 0
        ended = time.time()
        time.sleep(away)
        jobs = [] if signal == "heartbeat" else [job]
        seen: set[Health | Verdict | None] = set()
        with prometheus_with_rules(tmp_path, port, parameters, jobs, looks_back):
            until = time.time() + LOOKS_BACK
            while time.time() < until:
                seen |= {health(), verdict()}
                time.sleep(1.0)
            if signal == "error_ratio":
                wait_until("it is calm", lambda: health() is Health.CALM, PATIENCE)
        client.close()
    target.shutdown()
    target.server_close()
    assert (Health.FAILING if signal == "error_ratio" else Verdict.HEALED) not in seen
