"""`shf check`: each server is asked, each finding says what to do, and nothing is restarted by asking."""

import base64
import json
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from missing_extra import take_away
from postgresql_server import PostgresqlServer
from scripted_api_server import ScriptedApiServer
from self_healing_fabric.check import Finding, run_checks
from self_healing_fabric.deployment import deployment_files
from self_healing_fabric.rules import RuleParameters, configured_parameters, digest_of, render_rules
from self_healing_fabric.settings import Settings
from self_healing_fabric.store import Store
from self_healing_fabric.store.schema import VERSION
from shf_queries import catalogue
from state_replica import StateReplica

CLOSED = "http://127.0.0.1:9"  # the discard port: nobody listens


@pytest.fixture(autouse=True)
def _no_promtool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)


def prometheus(
    server: HTTPServer,
    *,
    rules: bool = True,
    services: tuple[str, ...] = ("cart",),
    scrape_interval: int = 5,
    by: str = "service",
    signals: tuple[str, ...] = (),
    fabric: bool = True,
    ahead: float = 0.0,
    digest: str = digest_of(render_rules(RuleParameters())),
) -> None:
    """Make the server answer the check's queries as Prometheus does; `by` tells what names the service,
    `signals` which series are recorded of cart, `fabric` whether the fabric is scraped,
    `ahead` how many seconds its clock is, and `digest` which rules are loaded."""

    def vector(*labels: dict[str, str]) -> dict[str, Any]:
        result = [{"metric": each, "value": [1, "1"]} for each in labels]
        return {"status": "success", "data": {"resultType": "vector", "result": result}}

    def tell_time(_: Request) -> Response:
        now = time.time() + ahead
        result = [{"metric": {}, "value": [now, str(now)]}]
        return Response(json.dumps({"status": "success", "data": {"result": result}}))

    server.expect_request(
        "/api/v1/query", query_string={"query": "vector(time())", "nocache": "1"}
    ).respond_with_handler(tell_time)
    watchdog = 'count(ALERTS{alertname="ShfWatchdog",alertstate="firing"})'
    server.expect_request("/api/v1/query", query_string={"query": watchdog}).respond_with_json(
        vector(*([{}] if rules else []))
    )
    server.expect_request("/api/v1/query", query_string={"query": "job:shf_fabric:up"}).respond_with_json(
        vector(*([{"job": "self-healing-fabric"}] if fabric else []))
    )
    server.expect_request("/api/v1/query", query_string={"query": "shf_rules:info"}).respond_with_json(
        vector(*([{"digest": digest}] if digest else []))
    )
    heartbeat = "service:shf_heartbeat:answered"
    server.expect_request("/api/v1/query", query_string={"query": heartbeat}).respond_with_json(
        vector(*({"service": service} for service in services))
    )

    times = range(0, 300, scrape_interval)
    scrapes = [{"metric": {by: "cart"}, "values": [[each, "1"] for each in times]}]
    for names in ("cart", "cart|db"):
        queries = {
            "service": f'up{{service=~"{names}"}}[300000ms]',
            "job": f'up{{service="",job=~"(?:.*/)?(?:{names})"}}[300000ms]',
        }
        server.expect_request(
            "/api/v1/query", query_string={"query": catalogue.recorded_lately(names.split("|"))}
        ).respond_with_json(vector(*({"service": "cart", "signal_series": each} for each in signals)))
        for kind, query in queries.items():
            server.expect_request("/api/v1/query", query_string={"query": query}).respond_with_json(
                {
                    "status": "success",
                    "data": {"resultType": "matrix", "result": scrapes if kind == by else []},
                }
            )


def alertmanager(
    server: HTTPServer,
    *routes: dict[str, Any],
    alerts: Sequence[dict[str, Any]] = ({"labels": {"alertname": "ShfWatchdog"}},),
    since: str = "2026-01-01T00:00:00.000Z",
    **request: Any,
) -> str:
    """Make the server answer the check as Alertmanager does; by default with the shipped routes."""
    shipped = yaml.safe_load((deployment_files("alert_rules") / "alertmanager.yml").read_text())
    if routes:
        shipped["route"]["routes"] = list(routes)
    configuration = {"original": yaml.safe_dump(shipped)}
    for path, answer in {
        "receivers": shipped["receivers"],
        "status": {"config": configuration, "uptime": since},
        "alerts": list(alerts),
        "silences": [],
    }.items():
        server.expect_request(f"/api/v2/{path}", **request).respond_with_json(answer)
    return server.url_for("").rstrip("/")


def settings(server: HTTPServer | None = None, **more: Any) -> Settings:
    """A configuration with one service that points at the server."""
    url = server.url_for("") if server else CLOSED
    return Settings(**{"prometheus": {"url": url}, "services": {"cart": {}}, **more})


def found(settings: Settings, subject: str) -> list[Finding]:
    """The findings of one subject."""
    return [finding for finding in run_checks(settings) if finding.subject.startswith(subject)]


def test_who_may_do_what_is_told_and_what_is_wrong_with_it(tmp_path: Path) -> None:
    """Each caller with its rights; a shared secret, a missing file, and a right that nobody has."""
    for name in ("am", "copy"):
        (tmp_path / name).write_text("one secret")
    callers = {
        name: {"rights": ["send"], "token_file": tmp_path / name} for name in ("am", "copy", "missing")
    }
    told = [(each.ok, each.message) for each in found(settings(auth={"callers": callers}), "access")]
    assert told[:2] == [
        (True, "am may: send"),
        (False, "copy has the secret of am: give each one of its own"),
    ]
    assert told[2][0] is False
    assert "cannot be read" in told[2][1]
    assert told[3:] == [(None, "nobody has the right `read`"), (None, "nobody has the right `control`")]


def test_a_sound_installation_has_no_failure(httpserver: HTTPServer) -> None:
    """Prometheus with the rules, Alertmanager with the receiver, health and recovery that answer."""
    prometheus(httpserver)
    alertmanager(httpserver)
    httpserver.expect_request("/health").respond_with_data("ok")
    httpserver.expect_request("/state").respond_with_json({"started_at": 5})
    url = httpserver.url_for
    recovery = {"http": {"restart": url("/restart"), "started_at": url("/state")}}
    findings = list(
        run_checks(
            settings(
                httpserver,
                alertmanager={"url": url("").rstrip("/")},
                services={"cart": {"health": url("/health"), "recovery": recovery}},
            )
        )
    )
    # Nobody is reached but through the log, and that is said.
    assert [finding.subject for finding in findings if finding.ok is not True] == ["escalation"]
    assert any("started_at is 5" in finding.message for finding in findings)
    assert all(request.method == "GET" for request, _ in httpserver.log)
    assert all(request.path != "/restart" for request, _ in httpserver.log)


def test_an_absent_prometheus_is_a_failure_with_its_address() -> None:
    """The text says which server, and that the connection was refused."""
    (finding,) = found(settings(), "prometheus")
    assert finding.ok is False
    assert f"{CLOSED} does not answer" in finding.message
    assert "Start it, or correct `prometheus.url`" in finding.message


def test_an_absent_engine_is_a_failure_with_the_remedy(tmp_path: Path) -> None:
    """At a socket that is not there, as in a container into which nobody has mounted it."""
    docker = {"container": "cart", "host": f"unix://{tmp_path}/none.sock"}
    configured = {"prometheus": {"url": CLOSED}, "services": {"cart": {"recovery": {"docker": docker}}}}
    (tmp_path / "shf.yaml").write_text(
        yaml.safe_dump({"store": f"sqlite:///{tmp_path}/shf.db", **configured})
    )
    shf = "import sys; from self_healing_fabric.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", shf, "check", "--config", str(tmp_path / "shf.yaml")]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert told.returncode == 1, told.stderr
    (line,) = [each for each in told.stdout.splitlines() if "the engine at" in each]
    assert "Start it, or correct `recovery.docker.host` of the service." in line
    assert "a container needs that mounted" in line


def test_rules_that_are_not_loaded_are_a_failure_with_the_remedy(httpserver: HTTPServer) -> None:
    """A Prometheus that answers but has no watchdog alert lacks our rules."""
    prometheus(httpserver, rules=False)
    _, finding = found(settings(httpserver), "prometheus")
    assert finding.ok is False
    assert "`shf rules` to `rule_files`" in finding.message


@pytest.mark.parametrize("digest", ["", "0123456789ab"])
def test_rules_of_another_version_or_configuration_are_noted(httpserver: HTTPServer, digest: str) -> None:
    """They load and fire, with the limits and queries of before; the first ones told no digest."""
    prometheus(httpserver, digest=digest)
    (finding,) = [each for each in found(settings(httpserver), "prometheus") if not each.ok]
    assert finding.ok is None
    assert finding.message.startswith("its rules are not those that `shf rules` writes for this version")


def test_the_configured_limits_are_those_that_are_looked_for(httpserver: HTTPServer) -> None:
    """Rules for other thresholds are noted until they are deployed."""
    configured = settings(httpserver, thresholds={"heartbeat": "45s"})
    written = RuleParameters(**configured_parameters(configured))
    prometheus(httpserver, digest=digest_of(render_rules(written)))
    assert all(each.ok for each in found(configured, "prometheus"))


def test_thresholds_that_no_rules_can_hold_are_a_failure(httpserver: HTTPServer) -> None:
    """Two samples make a heartbeat; said here, before `shf rules` refuses."""
    prometheus(httpserver, scrape_interval=30)
    server = {"url": httpserver.url_for("").rstrip("/"), "scrape_interval": "30s"}
    (failure,) = [each for each in found(settings(httpserver, prometheus=server), "rules") if not each.ok]
    assert failure.message.startswith("heartbeat is 30s but needs 2 times scrape_interval")


def test_a_configured_service_without_heartbeat_is_named(httpserver: HTTPServer) -> None:
    """A target without the label `service` would never be detected."""
    prometheus(httpserver, services=("cart",))
    finding = found(settings(httpserver, services={"cart": {}, "db": {}}), "prometheus")[-1]
    assert (finding.ok, finding.message.split(".")[0]) == (False, "no heartbeat of: db")


def test_a_prometheus_that_does_not_scrape_the_fabric_is_told(httpserver: HTTPServer) -> None:
    """Only by the fabric's registry do the rules know that a service whose target is gone should be there."""
    prometheus(httpserver, fabric=False)
    (finding,) = [each for each in found(settings(httpserver), "prometheus") if not each.ok]
    assert finding.ok is None
    assert finding.message.startswith(
        "has not scraped the fabric: so services whose targets vanish go unnoticed"
    )


def test_a_signal_that_is_detected_and_could_not_be_proved_is_named(httpserver: HTTPServer) -> None:
    """Recorded by people over the long window only: its incidents would only wait for evidence."""
    pairs = [(each.series, each.fresh_series) for each in (catalogue.CPU, catalogue.ERROR_RATIO)]
    (cpu, cpu_short), errors = pairs
    prometheus(httpserver, signals=(cpu, *errors, catalogue.MEMORY.series))
    failures = [each.message for each in found(settings(httpserver), "prometheus") if not each.ok]
    (failure,) = failures
    assert failure.startswith(f"cart: {cpu} is recorded and {cpu_short} is not")


@pytest.mark.parametrize("services", [("cart",), ()], ids=["recorded", "not recorded"])
@pytest.mark.parametrize("by", ["service", "job"])
def test_rules_that_are_too_fast_for_the_scrapes_are_the_one_failure(
    httpserver: HTTPServer, by: str, services: tuple[str, ...]
) -> None:
    """Whatever names the service; that nothing is recorded follows from it, and labels would not help."""
    prometheus(httpserver, scrape_interval=15, by=by, services=services)
    failures = [each.message for each in found(settings(httpserver), "prometheus") if not each.ok]
    assert len(failures) == 1
    assert "scrapes every 15 s, but prometheus.scrape_interval says 5 s" in failures[0]


@pytest.mark.parametrize(("real", "ok"), [(1, True), (5, True), (15, False)])
def test_a_slower_scrape_than_the_rules_were_made_for_is_a_failure(
    httpserver: HTTPServer, real: int, ok: bool
) -> None:
    """The rules would load, look right, and stay silent."""
    prometheus(httpserver, scrape_interval=real)
    finding = found(settings(httpserver), "prometheus")[-1]
    assert finding.ok is ok
    assert f"every {real} s" in finding.message


@pytest.mark.parametrize("store", ["sqlite", "postgresql"])
@pytest.mark.parametrize(
    ("ahead", "told"), [(1.0, None), (120.0, "120 s ahead of the"), (-60.0, "60 s behind the")]
)
def test_a_clock_that_differs_from_the_stores_is_a_failure(
    httpserver: HTTPServer, request: pytest.FixtureRequest, store: str, ahead: float, told: str | None
) -> None:
    """Everything else looks well, and no repair could be proved. With PostgreSQL its own clock counts."""
    prometheus(httpserver, ahead=ahead)
    more = {"store": request.getfixturevalue("postgresql_url")} if store == "postgresql" else {}
    wrong = [each.message for each in found(settings(httpserver, **more), "prometheus") if each.ok is False]
    assert [told is not None and told in each for each in wrong] == [True] * (told is not None)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (
            [{"name": "other"}],
            "has no receiver self-healing-fabric for alertmanager.receiver (it has: other)",
        ),
        ({"status": "x"}, "does not answer as Alertmanager does"),
        ([5], "does not answer as Alertmanager does"),
        ("text", "does not answer as Alertmanager does"),
    ],
)
def test_an_alertmanager_that_would_not_notify_us_is_a_failure(
    httpserver: HTTPServer, answer: Any, text: str
) -> None:
    """The receiver must be there by its name."""
    httpserver.expect_request("/api/v2/receivers").respond_with_json(answer)
    (finding,) = found(settings(alertmanager={"url": httpserver.url_for("").rstrip("/")}), "alertmanager")
    assert finding.ok is False
    assert text in finding.message


OURS = {"receiver": "self-healing-fabric", "matchers": ['signal=~"heartbeat|cpu"']}


@pytest.mark.parametrize(
    ("routes", "ok", "told"),
    [
        ([{"receiver": "people"}], False, "ShfHeartbeatMissed, ShfServiceAbsent, ShfErrorRateHigh"),
        ([{"receiver": "pager", "matchers": ['severity="critical"']}, OURS], False, "ShfHeartbeatMissed"),
        ([OURS | {"matchers": ['service="shop"']}], False, "ShfHeartbeatMissed"),
        ([OURS], None, ": ShfErrorRateHigh, ShfLatencyHigh, ShfMemoryExhausted"),
    ],
)
def test_an_alertmanager_whose_routes_do_not_lead_here_is_told(
    httpserver: HTTPServer, routes: list[dict[str, Any]], ok: bool | None, told: str
) -> None:
    """A receiver without a route gets nothing: services died, and all was said to be well."""
    url = alertmanager(httpserver, *routes)
    (finding,) = [each for each in found(settings(alertmanager={"url": url}), "alertmanager") if not each.ok]
    assert finding.ok is ok
    assert finding.message.startswith("no route leads these alerts of cart to self-healing-fabric: ")
    assert told in finding.message
    assert ("README" in finding.message) is (ok is False)


@pytest.mark.parametrize(
    ("since", "ok", "told"),
    [
        ("2026-01-01T00:00:00.000Z", False, "Name it in prometheus.yml, under `alerting`"),
        ("2999-01-01T00:00:00.000Z", None, "look again soon"),
    ],
)
def test_an_alertmanager_that_prometheus_does_not_tell_is_a_failure(
    httpserver: HTTPServer, since: str, ok: bool | None, told: str
) -> None:
    """What always fires in Prometheus is not in its list; one that has just started may not have it yet."""
    prometheus(httpserver)
    url = alertmanager(httpserver, alerts=[], since=since)
    *sound, finding = found(settings(httpserver, alertmanager={"url": url}), "alertmanager")
    assert [each.ok for each in sound] == [True, True]
    assert finding.ok is ok
    assert told in finding.message


def test_an_alertmanager_that_tells_no_routes_is_a_note(httpserver: HTTPServer) -> None:
    """What stands in for Alertmanager need not have its status."""
    httpserver.expect_request("/api/v2/receivers").respond_with_json([{"name": "self-healing-fabric"}])
    httpserver.expect_request("/api/v2/status").respond_with_json({"config": {"original": "route: ["}})
    httpserver.expect_request("/api/v2/silences").respond_with_json([])
    url = httpserver.url_for("").rstrip("/")
    findings = found(settings(alertmanager={"url": url}), "alertmanager")
    assert [finding.ok for finding in findings] == [True, None]


def test_an_alertmanager_that_shows_no_silences_is_a_note_with_the_remedy(httpserver: HTTPServer) -> None:
    """A proxy before it lets only the alerts through: the fabric works, and people should know the price."""
    httpserver.expect_request("/api/v2/receivers").respond_with_json([{"name": "self-healing-fabric"}])
    httpserver.expect_request("/api/v2/silences").respond_with_data("", status=403)
    url = httpserver.url_for("").rstrip("/")
    findings = found(settings(alertmanager={"url": url}), "alertmanager")
    assert [each.ok for each in findings] == [True, None, None]  # nor does it tell its routes
    assert findings[1].message == (
        "does not show its silences: it answers 403 FORBIDDEN. They do not hold between two alerts of an "
        "incident. Let the fabric `GET /api/v2/silences` too."
    )


def test_an_absent_alertmanager_is_said_not_to_answer() -> None:
    """That nobody listens says nothing of what would answer."""
    (finding,) = found(settings(alertmanager={"url": CLOSED}), "alertmanager")
    remedy = "Start it, or correct `alertmanager.url`: seen from a container, 127.0.0.1 is that container."
    assert finding.ok is False
    assert finding.message == f"does not answer: [Errno 111] Connection refused. {remedy}"


def test_what_refuses_or_leads_elsewhere_is_told_in_one_line(httpserver: HTTPServer) -> None:
    """A token that is missing, and the page to sign in of a proxy; no link to a dictionary of HTTP."""
    httpserver.expect_request("/api/v2/receivers").respond_with_data("", status=401)
    elsewhere = {"Location": "https://login.example/?state=secret"}
    httpserver.expect_request("/health").respond_with_data("", status=302, headers=elsewhere)
    url = httpserver.url_for("").rstrip("/")
    configured = settings(alertmanager={"url": url}, services={"cart": {"health": f"{url}/health"}})
    (refused,) = found(configured, "alertmanager")
    told = (
        "does not answer as Alertmanager does: it answers 401 UNAUTHORIZED. Say who asks, as it expects it: "
    )
    named = "`alertmanager.username` and `alertmanager.password_file`, or `alertmanager.bearer_token_file`."
    assert refused.message == f"{told}{named}"
    led = next(each.message for each in found(configured, "service cart") if each.ok is False)
    assert led == f"health {url}/health: it answers 302 FOUND and leads to login.example"


def test_alertmanager_is_asked_with_its_token(httpserver: HTTPServer, tmp_path: Path) -> None:
    """Where Alertmanager wants a token, the check sends the configured one."""
    token = tmp_path / "token"
    token.write_text("abc\n")
    url = alertmanager(httpserver, headers={"Authorization": "Bearer abc"})
    findings = found(settings(alertmanager={"url": url, "bearer_token_file": token}), "alertmanager")
    assert [finding.ok for finding in findings] == [True, True], findings
    missing = settings(alertmanager={"url": url, "bearer_token_file": tmp_path / "missing"})
    (finding,) = found(missing, "alertmanager")
    assert finding.ok is False
    assert "missing" in finding.message


def test_what_is_not_configured_is_a_note_and_no_failure() -> None:
    """No Alertmanager and no recovery target are allowed, and said."""
    assert found(settings(), "alertmanager")[0].ok is None
    assert found(settings(), "service cart")[0].ok is None


def test_a_sick_service_is_a_failure_of_its_own(httpserver: HTTPServer) -> None:
    """A 500, a refused connection and an unreadable target are told per service."""
    httpserver.expect_request("/health").respond_with_data("broken", status=500)
    services = {
        "sick": {"health": httpserver.url_for("/health")},
        "gone": {
            "health": f"{CLOSED}/health",
            "recovery": {"http": {"restart": f"{CLOSED}/r", "started_at": f"{CLOSED}/s"}},
        },
    }
    configured = settings(services=services)
    assert [finding.ok for finding in found(configured, "service sick")] == [False, None]
    health, recovery = found(configured, "service gone")
    assert (health.ok, recovery.ok) == (False, False)
    assert "it does not answer: " in health.message
    assert "Start it, or correct `health` of the service: seen from a container" in health.message


def test_a_workload_that_cannot_be_read_is_a_failure(tmp_path: Path) -> None:
    """Evidence that would be missing in an incident is missed before, with what to do about it."""
    configured = settings(
        services={"cart": {"recovery": {"kubernetes": {"name": "cart"}}}},
        kubernetes={"kubeconfig": tmp_path / "nowhere"},
    )
    findings = found(configured, "service cart")
    assert [finding.ok for finding in findings] == [False, False]  # as evidence, and for its repair
    for finding in findings:
        assert "set kubernetes.kubeconfig to a file that can be read" in finding.message


def test_a_kubeconfig_whose_certificates_find_no_room_is_not_called_unreadable(tmp_path: Path) -> None:
    """Its client needs them as files. On a read-only or full disk people were sent to what is well."""
    authority = {"certificate-authority-data": base64.b64encode(b"a certificate").decode()}
    parts = {
        "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:9", **authority}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "users": [{"name": "u", "user": {}}],
    }
    (tmp_path / "kubeconfig").write_text(
        json.dumps({"apiVersion": "v1", "kind": "Config", "current-context": "c", **parts})
    )
    configured = {
        "store": f"sqlite:///{tmp_path}/shf.db",
        "prometheus": {"url": CLOSED},
        "services": {"cart": {"recovery": {"kubernetes": {"name": "cart"}}}},
        "kubernetes": {"kubeconfig": str(tmp_path / "kubeconfig")},
    }
    (tmp_path / "shf.yaml").write_text(yaml.safe_dump(configured))
    checked = f"{sys.executable} -m self_healing_fabric.cli check --json --config {tmp_path}/shf.yaml"
    told = subprocess.run(  # no file can be written
        ["sh", "-c", f"ulimit -f 0; exec {checked}"], capture_output=True, timeout=60, check=False
    )
    findings = [each["message"] for each in json.loads(told.stdout) if each["subject"] == "service cart"]
    assert len(findings) == 2
    for finding in findings:
        assert "No usable temporary directory" in finding
        assert "make room there, or name another one by TMPDIR" in finding


def test_rights_that_a_plan_needs_and_the_fabric_has_not_are_named(tmp_path: Path) -> None:
    """Each with the strategies that need it; those of no plan are not asked for."""
    with ScriptedApiServer(tmp_path) as server:
        recovery = {"kubernetes": {"namespace": "shop", "name": "cart"}, "scale": {"max": 3}}
        configured = settings(
            services={"cart": {"recovery": recovery}},
            kubernetes={"kubeconfig": server.kubeconfig},
            plans={"service_failure": ["evict", "restart"], "degradation": ["restart"]},
        )
        evidence, repair = found(configured, "service cart")
        assert (evidence.ok, repair.ok) == (True, True)
        assert repair.message == (
            "kubernetes recovery: Deployment shop/cart can be repaired by restart, evict"
        )
        server.denied = {
            ("create", "pods/eviction"),
            ("patch", "deployments"),
            ("patch", "deployments/scale"),
        }
        _, repair = found(configured, "service cart")
        assert repair.ok is False
        assert "may not patch deployments (restart), create pods/eviction (evict): grant" in repair.message
        server.denied = {("create", "events")}
        _, repair = found(configured, "service cart")
        assert repair.ok is True
        assert "may not write events" in repair.message


def test_a_state_that_cannot_be_repaired_is_a_failure(tmp_path: Path) -> None:
    """Every voter is asked for its digest and named when it cannot tell it; no other target is needed."""
    with StateReplica("a") as a, StateReplica("b") as b, StateReplica("c") as c:
        replicas = [{"name": each.name, "url": each.url, "failure_domain": each.name} for each in (a, b, c)]
        state = {"replicas": replicas, "keep_aside": str(tmp_path)}
        configured = settings(None, services={"ledger": {"recovery": {"state": state}}})
        (sound,) = found(configured, "service ledger")
        b.vanish()
        (failed,) = found(configured, "service ledger")
    assert (sound.ok, sound.message) == (True, "state repair: 3 voters tell 1 state")
    assert failed.ok is False
    assert "b: http" in failed.message


def test_no_service_at_all_is_a_failure() -> None:
    """A fabric without services would act on nothing."""
    (finding,) = found(settings(services={}), "services")
    assert finding.ok is False


def test_the_shipped_rules_are_checked() -> None:
    """The first finding is about the files that the package carries."""
    finding = next(iter(run_checks(settings())))
    assert (finding.subject, finding.ok) == ("rules", True)
    assert "promtool is not on PATH" in finding.message


def test_docker_recovery_without_the_docker_package_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra that is missing is named, and the other findings are still told."""
    take_away("docker", monkeypatch)
    services = {"cart": {"recovery": {"docker": {"container": "cart"}}}, "db": {}}
    findings = found(settings(services=services), "service")
    assert [finding.ok for finding in findings] == [False, None]
    assert "self-healing-fabric[docker]" in findings[0].message


def test_a_store_that_is_to_be_created_is_not_created_by_asking(tmp_path: Path) -> None:
    """The folder is looked at; no file appears."""
    (finding,) = found(settings(store=f"sqlite:///{tmp_path}/new/shf.db"), "store")
    assert finding == Finding("store", True, "sqlite: will be created")
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_cannot_be_created_is_a_failure(tmp_path: Path) -> None:
    """A file stands where the folder should be."""
    (tmp_path / "file").touch()
    (finding,) = found(settings(store=f"sqlite:///{tmp_path}/file/shf.db"), "store")
    assert finding.ok is False
    assert "cannot be written" in finding.message


def test_a_store_in_use_is_looked_at_and_its_version_told(tmp_path: Path) -> None:
    """Asking takes no lock: the fabric may be running."""
    url = f"sqlite:///{tmp_path}/shf.db"
    with closing(Store(url)):
        (finding,) = found(settings(store=url), "store")
    assert finding == Finding("store", True, f"sqlite: version {VERSION}")


def test_a_store_of_a_newer_program_is_a_failure(tmp_path: Path) -> None:
    """Said by `shf check`, before `shf serve` refuses to start."""
    url = f"sqlite:///{tmp_path}/shf.db"
    Store(url).close()
    with closing(sqlite3.connect(tmp_path / "shf.db")) as shell, shell:
        shell.execute("UPDATE alembic_version SET version_num = '9999'")
    (finding,) = found(settings(store=url), "store")
    assert finding.ok is False
    assert "use a newer program" in finding.message


def test_a_postgresql_store_is_asked_with_its_password_and_not_changed(
    postgresql: PostgresqlServer, tmp_path: Path
) -> None:
    """An empty database is fit and stays empty; one that does not exist is a failure without the password."""
    (tmp_path / "password").write_text("sesame\n")
    where = {"store": postgresql.create_database("check"), "store_password_file": tmp_path / "password"}
    for _ in range(2):
        (finding,) = found(settings(**where), "store")
        assert finding.ok
        assert finding.message.endswith("version none yet")
    (finding,) = found(settings(**{**where, "store": f"{postgresql.url}-nonexistent"}), "store")
    assert finding.ok is False
    assert "does not exist" in finding.message
    assert "sesame" not in finding.message


def test_a_configuration_is_read_once_and_its_drift_told(httpserver: HTTPServer, tmp_path: Path) -> None:
    """Where it is, in how many places it differs, and nothing of what it holds."""
    wanted = tmp_path / "cart.yaml"
    wanted.write_text("pool: 20\npassword: canary-1\n")
    httpserver.expect_request("/config").respond_with_data(
        "pool: 5\npassword: canary-2\n", headers={"ETag": '"1"'}
    )
    live = {"http": httpserver.url_for("/config")}
    configuration = {"desired": {"file": wanted}, "live": live, "format": "yaml"}
    services = {"cart": {"recovery": {"configuration": configuration}}}
    configured = settings(services=services)
    told = [each for each in found(configured, "service cart") if each.message.startswith("configuration")]
    assert told == [
        Finding(
            "service cart",
            True,
            f"configuration: configuration:{live['http']} differs from {wanted} in 2 places",
        )
    ]
    wanted.unlink()
    (finding,) = [each for each in found(configured, "service cart") if each.ok is False]
    assert "No such file" in finding.message
