"""Notifications that are lost, cut, silenced, repeated and late, on real Prometheus and Alertmanager servers.

Alertmanager says a thing once and then, once somebody has answered 2xx, not again for hours. So this stack's
Alertmanager repeats nothing within the test, and what the fabric learns nevertheless it has asked for itself.
Repairs are counted at the supervisor, notifications at Alertmanager.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from receivers import LatePeer, LossyReceiver
from served_fabric import served_fabric

from shf_demo import configuration
from shf_demo.fleet import GUARDIANS
from shf_demo.ports import reserved_ports
from shf_demo.servers import Programs, Server
from shf_demo.stack import Stack

pytestmark = pytest.mark.e2e

SERVICES = ("guardian-one", "guardian-two", "guardian-three", "guardian-four", "guardian-five")
LOST, ENDED, SILENCED, SILENCED_LATE, TWICE = SERVICES  # each test breaks its own
AWAY = 60.0  # seconds for which the fabric is dead
DEADLINE = 90.0  # seconds, for busy machines
RELAPSE_WINDOW = "45s"
QUICK_LOOP = "2s"  # between two comparisons, where a test waits for several
PEER_TIMEOUT = "2s"  # how long the second Alertmanager waits for the first; 15 s by default
CUT = 6  # services of which the receiver's max_alerts lets two through


@pytest.fixture(scope="module")
def stack(programs: Programs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack whose Alertmanager never repeats, and in which nothing can be done about one service."""
    assert programs
    services = [service for service in GUARDIANS if service.name in SERVICES]
    with Stack(tmp_path_factory.mktemp("lossy"), services=services) as running:
        change_file(running.workdir / "alertmanager.yml", never_repeat)
        httpx.post(f"{running.alertmanager_url}/-/reload", trust_env=False).raise_for_status()

        def settings(content: dict[str, Any]) -> None:
            content["relapse_window"] = RELAPSE_WINDOW
            del content["services"][ENDED]["recovery"]

        reconfigure(running, settings)
        running.wait_services_up()
        yield running


def change_file(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a configuration file."""
    content = yaml.safe_load(path.read_text())
    change(content)
    path.write_text(yaml.safe_dump(content))


def never_repeat(content: dict[str, Any]) -> None:
    """What was acknowledged is not sent again within a test."""
    for route in content["route"]["routes"]:
        route["repeat_interval"] = "4h"


def reconfigure(stack: Stack, change: Callable[[dict[str, Any]], None]) -> None:
    """Start the fabric anew with other settings."""
    stack.fabric.stop()
    change_file(stack.configuration_file, change)
    stack.fabric.start()
    stack.fabric.wait_ready()


def metric(url: str, pattern: str) -> float:
    """The sum of the series in a server's /metrics whose lines begin with the pattern."""
    text = httpx.get(f"{url}/metrics", trust_env=False, timeout=10).raise_for_status().text
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if re.match(pattern, line))


FIRING = r'shf_alerts_received_total\{status="firing"\}'


def notifications(stack: Stack) -> float:
    """How many the stack's Alertmanager has sent to its webhooks, tries that failed included."""
    return metric(stack.alertmanager_url, r"alertmanager_notification_requests_total.*webhook")


def listed(alertmanager_url: str, service: str) -> list[dict[str, Any]]:
    """The alerts of a service that Alertmanager holds for active or silenced, for the fabric."""
    asked = {"filter": f'service="{service}"', "receiver": "self-healing-fabric"}
    answer = httpx.get(f"{alertmanager_url}/api/v2/alerts", params=asked, trust_env=False)
    return list(answer.raise_for_status().json())


def states(alertmanager_url: str, service: str) -> set[str]:
    """The states of these alerts."""
    return {alert["status"]["state"] for alert in listed(alertmanager_url, service)}


def wait_compared(stack: Stack, number: int = 2) -> None:
    """Wait until the fabric has compared itself with the servers so many times from now on.

    The first one may have begun before now; so two tell that it has seen what is there now.
    """
    name = "shf_last_reconcile_timestamp_seconds"
    for _ in range(number):
        before = metric(stack.fabric_url, name)
        stack.wait_for("compared", lambda: metric(stack.fabric_url, name) > before, DEADLINE)  # noqa: B023


@dataclass(frozen=True)
class Absence:
    """What happened while the fabric was dead, and right after its return."""

    lost: frozenset[tuple[str, str]]  # notifications that were acknowledged in its place
    sent_before_return: float
    sent_at_restart: float  # when the target had been restarted
    restarts_before: int


@pytest.fixture(scope="module")
def absence(stack: Stack) -> Absence:
    """The fabric is killed and dead for a minute, in which one alert ends and another one begins.

    Somebody answers in its place and forgets everything. Returns once the fabric is back and has acted.
    """
    with httpx.Client(base_url=stack.fabric_url, trust_env=False, timeout=10) as http:
        stack.inject(ENDED, "exit")
        with_people = {"service": ENDED, "state": "escalated"}
        stack.wait_for(
            "with people",
            lambda: bool(http.get("/api/v1/incidents", params=with_people).json()["incidents"]),
            DEADLINE,
        )
    stack.fabric.kill()
    died = time.monotonic()
    port = int(stack.fabric_url.rpartition(":")[2])
    with LossyReceiver(port) as receiver:
        stack.supervisor.restart(ENDED)  # by a person
        stack.inject(LOST, "exit")
        expected = {("firing", LOST), ("resolved", ENDED)}
        stack.wait_for("lost", lambda: expected <= set(receiver.lost), DEADLINE)
        stack.wait_for("a minute", lambda: time.monotonic() - died >= AWAY, DEADLINE)
    assert states(stack.alertmanager_url, LOST) == {"active"}
    assert listed(stack.alertmanager_url, ENDED) == []
    sent, restarts = notifications(stack), stack.restarts(LOST)
    stack.fabric.start()
    stack.fabric.wait_ready()
    stack.wait_for("restarted", lambda: stack.restarts(LOST) > restarts, DEADLINE)
    return Absence(frozenset(receiver.lost), sent, notifications(stack), restarts)


def test_a_fault_during_an_absence_is_healed_without_a_new_notification(
    stack: Stack, fabric: Any, absence: Absence
) -> None:
    """The fabric is dead for a minute, a fault begins and its only notification is lost: after its return the
    fabric heals it, once, before Alertmanager has sent anything more.
    """
    assert ("firing", LOST) in absence.lost
    assert absence.sent_at_restart == absence.sent_before_return
    story = fabric.wait_resolved(LOST)
    assert story["outcome"] == "healed"
    assert absence.restarts_before == 0
    assert stack.restarts(LOST) == 1
    assert stack.is_healthy(LOST)


def test_an_alert_that_ended_during_an_absence_is_closed(stack: Stack, fabric: Any, absence: Absence) -> None:
    """An open incident's alert ends while the fabric is dead and nobody tells it: it finds out, sees that the
    service recovered, and closes the incident, instead of opening it again because of a dead alert.
    """
    assert ("resolved", ENDED) in absence.lost
    story = fabric.story(fabric.incidents(ENDED)[-1]["id"])

    def closed() -> bool:
        return bool(fabric.story(story["id"])["state"] == "closed")

    stack.wait_for("closed", closed, DEADLINE + 60)
    (incident,) = fabric.incidents(ENDED)
    assert (incident["outcome"], incident["relapses"]) == ("recovered", 0)
    alerts = fabric.story(story["id"])["alerts"]
    assert {alert["status"] for alert in alerts} == {"resolved"}
    assert stack.restarts(ENDED) == 1  # by the person


@pytest.fixture
def quick_loop(stack: Stack) -> None:
    """The fabric compares itself with the servers so often that a test can wait for it."""

    def settings(content: dict[str, Any]) -> None:
        content["reconcile_interval"] = QUICK_LOOP

    reconfigure(stack, settings)


class Silence:
    """A silence in Alertmanager, as a person sets it."""

    def __init__(self, alertmanager_url: str, service: str) -> None:
        self._url = f"{alertmanager_url}/api/v2"
        now = datetime.now(UTC)
        order = {
            "matchers": [{"name": "service", "value": service, "isRegex": False, "isEqual": True}],
            "startsAt": now.isoformat(),
            "endsAt": (now + timedelta(hours=1)).isoformat(),
            "createdBy": "a person",
            "comment": "works on it",
        }
        answer = httpx.post(f"{self._url}/silences", json=order, trust_env=False)
        self._id = answer.raise_for_status().json()["silenceID"]

    def expire(self) -> None:
        """End it now."""
        httpx.delete(f"{self._url}/silence/{self._id}", trust_env=False).raise_for_status()


@pytest.mark.usefixtures("quick_loop")
def test_a_silenced_alert_is_left_alone_until_the_silence_ends(stack: Stack, fabric: Any) -> None:
    """A service that fails under a silence gets no incident and no restart; when the silence has expired it
    is healed.
    """
    silence = Silence(stack.alertmanager_url, SILENCED)
    stack.inject(SILENCED, "exit")
    stack.wait_for("silenced", lambda: states(stack.alertmanager_url, SILENCED) == {"suppressed"}, DEADLINE)
    wait_compared(stack)
    assert fabric.incidents(SILENCED) == []
    assert stack.restarts(SILENCED) == 0
    silence.expire()
    assert fabric.wait_resolved(SILENCED)["outcome"] == "healed"
    assert stack.restarts(SILENCED) == 1


@pytest.mark.usefixtures("quick_loop")
def test_a_silence_in_the_middle_of_an_incident_stops_it_until_it_ends(stack: Stack, fabric: Any) -> None:
    """An incident is open and nothing was done yet when people silence its alert: it is left alone, although
    nothing else holds it back, and healed when the silence has expired, without a new notification.
    """
    fabric.http.put("/api/v1/mode", json={"mode": "paused", "by": "test"}).raise_for_status()
    stack.inject(SILENCED_LATE, "exit")

    def waits_for(what: str) -> bool:
        rows = fabric.incidents(SILENCED_LATE)
        return bool(rows) and what in (rows[0]["waiting_for"] or "")

    stack.wait_for("paused", lambda: waits_for("mode"), DEADLINE)
    silence = Silence(stack.alertmanager_url, SILENCED_LATE)
    stack.wait_for(
        "silent", lambda: states(stack.alertmanager_url, SILENCED_LATE) == {"suppressed"}, DEADLINE
    )
    wait_compared(stack)
    fabric.http.put("/api/v1/mode", json={"mode": "automatic", "by": "test"}).raise_for_status()
    stack.wait_for("left alone", lambda: waits_for("silenced"), DEADLINE)
    wait_compared(stack)
    assert waits_for("silenced")
    assert stack.restarts(SILENCED_LATE) == 0
    # Not all notifications: that what was healed before is resolved may be told at any time.
    told = metric(stack.fabric_url, FIRING)
    silence.expire()
    stack.wait_for("restarted", lambda: stack.restarts(SILENCED_LATE) > 0, DEADLINE)
    assert metric(stack.fabric_url, FIRING) == told > 0
    assert fabric.wait_resolved(SILENCED_LATE)["outcome"] == "healed"
    assert stack.restarts(SILENCED_LATE) == 1


def test_people_called_for_a_silenced_cause_read_that_its_alert_fires(stack: Stack, fabric: Any) -> None:
    """A service fails because of another one, which people have silenced: that one is left alone, and who is
    called is not told that it does not alert.
    """

    def depends(content: dict[str, Any]) -> None:
        content["services"][ENDED]["depends_on"] = [SILENCED]
        content["correlation"] = {"wait_for_cause": "2s"}

    reconfigure(stack, depends)
    restarts, before = stack.restarts(SILENCED), {each["id"] for each in fabric.incidents(SILENCED)}
    silence = Silence(stack.alertmanager_url, SILENCED)
    stack.inject(SILENCED, "exit")
    stack.wait_for("silenced", lambda: states(stack.alertmanager_url, SILENCED) == {"suppressed"}, DEADLINE)
    stack.inject(ENDED, "errors")

    def suspected() -> list[dict[str, Any]]:
        return [each for each in fabric.incidents(SILENCED) if each["id"] not in before]

    def called() -> bool:
        return bool(suspected()) and suspected()[0]["state"] == "escalated"

    stack.wait_for("called", called, DEADLINE)
    (told,) = [
        entry["message"]
        for entry in fabric.story(suspected()[0]["id"])["timeline"]
        if entry["kind"] == "escalation"
    ]
    assert "ShfHeartbeatMissed fires in Prometheus, and is silenced" in told
    assert stack.restarts(SILENCED) == restarts
    silence.expire()


@contextmanager
def alertmanager(
    workdir: Path, programs: Programs, port: int, content: Mapping[str, Any], *flags: str
) -> Iterator[str]:
    """One more Alertmanager; its URL."""
    workdir.mkdir(exist_ok=True)
    file = configuration.write(workdir / "alertmanager.yml", content)
    url = f"http://127.0.0.1:{port}"
    command = [
        programs.alertmanager,
        f"--config.file={file}",
        f"--storage.path={workdir / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
        *flags,
    ]
    log = workdir / "alertmanager.log"
    with Server("alertmanager", command, f"{url}/-/ready", log, environment=os.environ) as server:
        server.wait_ready()
        yield url


def test_alerts_that_max_alerts_cut_off_are_fetched_at_once(programs: Programs, tmp_path: Path) -> None:
    """The receiver lets two alerts of a group of six through: all six become incidents, each once, although
    the next comparison with Alertmanager is minutes away.
    """
    services = [f"s{number}" for number in range(CUT)]
    with ExitStack() as stack:
        fabric_port, port = stack.enter_context(reserved_ports(2))
        content = configuration.alertmanager(f"http://127.0.0.1:{fabric_port}")
        (receiver,) = [each for each in content["receivers"] if each["name"] == "self-healing-fabric"]
        receiver["webhook_configs"][0]["max_alerts"] = 2
        content["route"]["routes"][0] |= {"group_by": ["alertname"], "group_wait": "1s"}
        flags = ["--cluster.listen-address="]
        url = stack.enter_context(alertmanager(tmp_path / "cut", programs, port, content, *flags))
        fabric = stack.enter_context(
            served_fabric(
                tmp_path,
                listen=f"127.0.0.1:{fabric_port}",
                alertmanager={"url": url},
                prometheus={"url": "http://127.0.0.1:1"},
                reconcile_interval="5m",
                services={name: {} for name in services},
            )
        )
        last = "shf_last_reconcile_timestamp_seconds"
        fabric.wait("compared at start", lambda: metric(fabric.url, last) > 0, DEADLINE)
        compared = metric(fabric.url, last)
        alerts = [
            {"labels": {"alertname": "Many", "service": name, "signal": "heartbeat", "severity": "warning"}}
            for name in services
        ]
        httpx.post(f"{url}/api/v2/alerts", json=alerts, trust_env=False).raise_for_status()
        fabric.wait("all there", lambda: len(fabric.incidents()) >= CUT, DEADLINE)
        assert sorted(incident["service"] for incident in fabric.incidents()) == services
        assert metric(fabric.url, "shf_alerts_truncated_total") == CUT - 2
        assert metric(fabric.url, last) > compared


def test_two_alertmanagers_that_both_deliver_are_one_incident(
    programs: Programs, stack: Stack, fabric: Any, tmp_path: Path
) -> None:
    """A pair of Alertmanagers delivers the same alert twice, and the second one arrives when the incident is
    resolved and the alert has ended: one incident, one restart, and the stale `firing` revives nothing.
    """
    with ExitStack() as running:
        between = running.enter_context(LatePeer(stack.fabric_url))
        running.callback(between.release)
        pair = running.enter_context(alertmanager_pair(tmp_path, programs, between.url))
        running.enter_context(notified_by(stack, pair))
        stack.inject(TWICE, "exit")
        stack.wait_for("both delivered", lambda: between.both_came, DEADLINE)
        story = fabric.wait_resolved(TWICE)
        assert {each.peer for each in between.forwarded} != {"/0", "/1"}  # the late one is still on its way

        def alerts() -> list[tuple[str, str | None]]:
            return [(each["status"], each["ended_at"]) for each in fabric.story(story["id"])["alerts"]]

        stack.wait_for("ended", lambda: {status for status, _ in alerts()} == {"resolved"}, DEADLINE)
        before = alerts()
        between.release()
        stack.wait_for("late", lambda: {each.peer for each in between.forwarded} == {"/0", "/1"}, DEADLINE)
        first, late = between.forwarded[0], between.forwarded[-1]
        stack.wait_for(
            "worked in", lambda: fabric.http.get("/api/v1/status").json()["inbox"]["waiting"] == 0, DEADLINE
        )
        wait_compared(stack)
        assert late.peer != first.peer
        assert late.alerts == first.alerts  # the very same alert, firing
        assert (first.status, late.status) == (202, 202)
        (incident,) = fabric.incidents(TWICE)
        assert incident["relapses"] == 0
        assert alerts() == before  # not even revived and ended once more by the next comparison
        assert stack.restarts(TWICE) == 1


@contextmanager
def alertmanager_pair(workdir: Path, programs: Programs, receiver: str) -> Iterator[tuple[str, str]]:
    """Two Alertmanagers that know each other, each with its own way to the fabric; their URLs."""
    with ExitStack() as running:
        ports = running.enter_context(reserved_ports(4))
        urls = []
        for number in (0, 1):
            content = configuration.alertmanager(receiver)
            never_repeat(content)
            for each in content["receivers"]:
                for webhook in each.get("webhook_configs", ()):
                    webhook["url"] = f"{receiver}/{number}"
            flags = [
                f"--cluster.listen-address=127.0.0.1:{ports[number]}",
                f"--cluster.peer=127.0.0.1:{ports[1 - number]}",
                f"--cluster.peer-timeout={PEER_TIMEOUT}",
            ]
            one = alertmanager(workdir / f"peer{number}", programs, ports[2 + number], content, *flags)
            urls.append(running.enter_context(one))
        for url in urls:
            wait_settled(url)
        yield urls[0], urls[1]


def wait_settled(url: str) -> None:
    """Until an Alertmanager of a pair has found the other one; before that it sends nothing."""
    end = time.monotonic() + DEADLINE
    while True:
        cluster = httpx.get(f"{url}/api/v2/status", trust_env=False).raise_for_status().json()["cluster"]
        if cluster["status"] == "ready" and len(cluster["peers"]) == 2:
            return
        assert time.monotonic() < end, f"the pair does not settle: {cluster}"
        time.sleep(0.2)


@contextmanager
def notified_by(stack: Stack, urls: tuple[str, ...]) -> Iterator[None]:
    """Let Prometheus send to these Alertmanagers, and the fabric ask the first one."""
    prometheus = stack.workdir / "prometheus.yml"
    originals = {path: path.read_text() for path in (prometheus, stack.configuration_file)}

    def targets(content: dict[str, Any]) -> None:
        addresses = [url.removeprefix("http://") for url in urls]
        content["alerting"]["alertmanagers"] = [{"static_configs": [{"targets": addresses}]}]

    def settings(content: dict[str, Any]) -> None:
        content["alertmanager"]["url"] = urls[0]
        content["reconcile_interval"] = QUICK_LOOP

    change_file(prometheus, targets)
    os.kill(stack.prometheus.pid, signal.SIGHUP)

    def known() -> bool:
        answer = httpx.get(f"{stack.prometheus_url}/api/v1/alertmanagers", trust_env=False).json()
        return len(answer["data"]["activeAlertmanagers"]) == len(urls)

    stack.wait_for("Prometheus knows both", known, DEADLINE)
    reconfigure(stack, settings)
    try:
        yield
    finally:
        for path, text in originals.items():
            path.write_text(text)
        os.kill(stack.prometheus.pid, signal.SIGHUP)
        reconfigure(stack, lambda _: None)
