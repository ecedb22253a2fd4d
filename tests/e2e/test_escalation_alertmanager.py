"""What the fabric posts to a real Alertmanager with the shipped routes, and what reaches the pager.

Only the waits of the page's route are shortened; `test_escalation_page_hold` shows all of it with none.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from alert_flood import Flood
from receivers import Pager, set_pager
from rules_server import prometheus_with_rules
from served_fabric import healing_settings, one_alert_each, served_fabric, stubbed_world
from stub_world import labels_of, service_names

from self_healing_fabric.escalation.alerts import HEALING, Alertmanagers, PostedAlert
from self_healing_fabric.escalation.calls import Call, Kind
from self_healing_fabric.escalation.channels import channels
from self_healing_fabric.escalation.channels.alertmanager import AlertmanagerChannel as Channel
from self_healing_fabric.escalation.messages import Message
from self_healing_fabric.rules import RuleParameters
from self_healing_fabric.settings import AlertmanagerChannel, Settings
from shf_demo import configuration
from shf_demo.ports import reserved_ports
from shf_demo.servers import Programs, Server

pytestmark = pytest.mark.e2e

PLACE = {"cluster": "eu", "namespace": "shop", "service": "cart"}
PATIENCE = 30.0  # seconds, for busy machines
HOLD = 4.0  # seconds until a hold that nobody keeps alive ends


@pytest.fixture(scope="module")
def pager() -> Iterator[Pager]:
    """Whom the receiver `pager` calls."""
    with Pager() as running:
        yield running


@contextmanager
def alertmanager(programs: Programs, folder: Path, pager: Pager) -> Iterator[tuple[str, Server]]:
    """An Alertmanager with the shipped configuration, whose page waits for one second and not for thirty."""
    content = configuration.alertmanager("http://127.0.0.1:1")
    set_pager(content, pager.url)
    for route in content["route"]["routes"]:
        if route["receiver"] == "pager":
            route.update(group_wait="1s" if "unless" in route["matchers"][0] else "0s", group_interval="1s")
    (folder / "alertmanager.yml").write_text(yaml.safe_dump(content))
    with reserved_ports(1) as (port,):
        address = f"127.0.0.1:{port}"
        command = [
            programs.alertmanager,
            f"--config.file={folder / 'alertmanager.yml'}",
            f"--storage.path={folder / 'data'}",
            f"--web.listen-address={address}",
            "--cluster.listen-address=",
        ]
        ready = f"http://{address}/-/ready"
        with Server("alertmanager", command, ready, folder / "log", environment=os.environ) as server:
            server.wait_ready()
            yield f"http://{address}", server


@pytest.fixture(scope="module")
def url(programs: Programs, tmp_path_factory: pytest.TempPathFactory, pager: Pager) -> Iterator[str]:
    """That of one for all tests."""
    with alertmanager(programs, tmp_path_factory.mktemp("alertmanager"), pager) as (address, _):
        yield address


def fails(url: str, service: str, *, since: float = 0.0, over: bool = False) -> None:
    """The page of a service fires, as Prometheus would say; for some seconds, or no more."""
    labels = {**PLACE, "service": service, "alertname": "ShfServiceFailing", "severity": "critical"}
    now = time.time()
    ends_at = now if over else now + 300
    posted = PostedAlert({**labels, "page": "unless_healing"}, now - since, ends_at)
    Alertmanagers(AlertmanagerChannel(urls=(url,)), 5, Settings()).post([posted])


def state_of(url: str, **labels: str) -> str | None:
    """Active, suppressed, or not there."""
    asked = {"filter": [f'{name}="{value}"' for name, value in labels.items()]}
    found = httpx.get(f"{url}/api/v2/alerts", params=asked, trust_env=False).raise_for_status().json()
    return found[0]["status"]["state"] if found else None


def wait(what: str, condition: Any) -> None:
    """Until it holds."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.1)


def test_a_hold_that_nobody_keeps_alive_lets_the_page_out(url: str, pager: Pager) -> None:
    """Held while ShfHealing lives, paged when it has expired by itself: nobody had to end it."""
    now = time.time()
    hold = PostedAlert({**PLACE, "alertname": HEALING}, now, now + HOLD)
    Alertmanagers(AlertmanagerChannel(urls=(url,)), 5, Settings()).post([hold])
    fails(url, "cart")
    wait("held", lambda: state_of(url, alertname="ShfServiceFailing", service="cart") == "suppressed")
    wait("paged", lambda: pager.first("cart") is not None)
    at, alert = pager.first("cart") or (0.0, "")
    assert alert == "ShfServiceFailing"
    assert at >= now + HOLD


def test_a_hold_of_another_place_holds_nothing(url: str, pager: Pager) -> None:
    """The same service in another cluster is another one."""
    now = time.time()
    Alertmanagers(AlertmanagerChannel(urls=(url,)), 5, Settings()).post(
        [PostedAlert({**PLACE, "cluster": "us", "service": "other", "alertname": HEALING}, now, now + 60)]
    )
    fails(url, "other")
    wait("paged", lambda: pager.first("other") is not None)


def test_an_escalation_pages_at_once_and_ends_with_the_incident(url: str, pager: Pager) -> None:
    """One page for the incident: it holds the service's other page. Over, the alert is ended."""
    settings = Settings(escalation={"channels": {"on-call": {"alertmanager": {"urls": [url]}}}})
    channel = channels(settings)["on-call"]
    call = Call("c", Kind.ESCALATION, "i1", "shop", 4, "everyone", "human", ("human",), "not healed")
    alert = {"service": "shop", "labels": {"cluster": "eu", "namespace": "shop"}, "annotations": {}}
    stories = {"i1": {"severity": "critical", "acknowledged_by": None, "alerts": [alert]}}
    receipt = channel.send(Message("c", "title", "body", {"links": {}}, (call,), stories), {})
    fails(url, "shop")
    wait("paged", lambda: pager.first("shop") is not None)
    wait("held", lambda: state_of(url, alertname="ShfServiceFailing", service="shop") == "suppressed")
    ended = Call(**{**vars(call), "kind": Kind.ENDED})
    channel.send(Message("e", "over", "body", {"links": {}}, (ended,), stories), receipt.progress)
    wait("ended", lambda: state_of(url, alertname="ShfEscalation", service="shop") is None)
    assert {alert for _, service, alert in pager.pages if service == "shop"} >= {"ShfEscalation"}
    assert (pager.first("shop") or (0.0, ""))[1] == "ShfEscalation"


def escalate(url: str, service: str) -> None:
    """People are called for a service, over Alertmanager."""
    settings = Settings(escalation={"channels": {"on-call": {"alertmanager": {"urls": [url]}}}})
    alert = {"service": service, "labels": {**PLACE, "service": service}, "annotations": {}}
    stories = {"i": {"severity": "critical", "acknowledged_by": None, "alerts": [alert]}}
    call = Call("c", Kind.ESCALATION, "i", service, 4, "everyone", "human", ("human",), "not healed")
    message = Message("c", "title", "body", {"links": {}}, (call,), stories)
    channels(settings)["on-call"].send(message, {})


def test_a_page_that_went_out_before_people_were_called_is_ended(url: str, pager: Pager) -> None:
    """The fabric's own does not hold it: an alert that is held does not tell its end."""
    fails(url, "paged", since=60)
    wait("paged", lambda: pager.first("paged") is not None)
    escalate(url, "paged")
    wait("called", lambda: any(told[1:] == ("paged", "ShfEscalation") for told in pager.pages))
    fails(url, "paged", since=60, over=True)
    wait("its end", lambda: ("paged", "ShfServiceFailing") in pager.ends)
    assert state_of(url, alertname="ShfEscalation", service="paged") == "active"


def test_a_page_that_was_held_until_people_were_called_never_goes_out(url: str, pager: Pager) -> None:
    """However long it has failed: they have been told already."""
    now = time.time()
    labels = {**PLACE, "service": "held", "alertname": HEALING}
    managers = Alertmanagers(AlertmanagerChannel(urls=(url,)), 5, Settings())
    managers.post([PostedAlert(labels, now - 120, now + 60)])
    fails(url, "held", since=120)
    wait("held", lambda: state_of(url, alertname="ShfServiceFailing", service="held") == "suppressed")
    escalate(url, "held")
    managers.post([PostedAlert(labels, now - 120, time.time())])
    wait("called", lambda: pager.first("held") is not None)
    wait("the hold is over", lambda: state_of(url, alertname=HEALING, service="held") is None)
    assert state_of(url, alertname="ShfServiceFailing", service="held") == "suppressed"
    assert {alert for _, service, alert in pager.pages if service == "held"} == {"ShfEscalation"}


def test_who_is_called_again_is_paged_again(url: str, pager: Pager) -> None:
    """Although the first call's alert still fires, which Alertmanager repeats after four hours."""
    settings = Settings(escalation={"channels": {"on-call": {"alertmanager": {"urls": [url]}}}})
    channel = channels(settings)["on-call"]
    stories = {"i2": {"severity": "critical", "acknowledged_by": None, "alerts": []}}

    def pages() -> int:
        return sum(service == "again" for _, service, _ in pager.pages)

    for number, name in enumerate(("c1", "c2")):
        call = Call(name, Kind.ESCALATION, "i2", "again", 4, "everyone", "human", ("human",), "not healed")
        before = pages()
        channel.send(Message(name, "title", "body", {"links": {}}, (call,), stories), {})
        wait(f"page {number}", lambda before=before: pages() > before)


def test_what_an_alertmanager_has_forgotten_is_posted_again(
    programs: Programs, tmp_path: Path, pager: Pager
) -> None:
    """It restarts and knows no alert any more: people's is back at the next comparison, long before it would
    have been kept alive; what it holds would page meanwhile."""
    levels = [{"name": f"level {number}", "call": ["human"] if number else []} for number in range(5)]
    channel = {"alertmanager": {"expires": "1h"}}
    with ExitStack() as stack:
        address, server = stack.enter_context(alertmanager(programs, tmp_path, pager))
        world = stack.enter_context(
            stubbed_world(tmp_path, services=1, incurable=1, alerts=1, repair_seconds=0.1)
        )
        fabric = stack.enter_context(
            served_fabric(
                tmp_path,
                prometheus={"url": world.url, "scrape_interval": "500ms", "evaluation_interval": "500ms"},
                alertmanager={"url": address},
                services={"s0000": {}},
                escalation={
                    "levels": levels,
                    "channels": {"on-call": channel},
                    "contacts": {"human": ["on-call"]},
                },
            )
        )
        with Flood(fabric.url, one_alert_each(1), connections=1) as flood:
            flood.join(PATIENCE)
        known = {"alertname": "ShfEscalation", "service": "s0000"}
        wait("called", lambda: state_of(address, **known) == "active")
        server.stop()
        server.start()
        server.wait_ready()
        wait("called again", lambda: state_of(address, **known) == "active")


@contextmanager
def silence(url: str, **labels: str) -> Iterator[None]:
    """People want to hear nothing of what has these labels, until the block ends."""
    now = datetime.now(UTC)
    asked = {
        "matchers": [{"name": name, "value": value, "isRegex": False} for name, value in labels.items()],
        "startsAt": now.isoformat(), "endsAt": (now + timedelta(hours=1)).isoformat(),
        "createdBy": "ada", "comment": "at work",
    }  # fmt: skip
    answer = httpx.post(f"{url}/api/v2/silences", json=asked, trust_env=False).raise_for_status()
    yield
    httpx.delete(f"{url}/api/v2/silence/{answer.json()['silenceID']}", trust_env=False).raise_for_status()


def test_what_is_healed_after_a_silence_pages_nobody(programs: Programs, tmp_path: Path) -> None:
    """Its end lets the page out at once, and the fabric may hear of it ten seconds later: the page is held
    before. Where people have silenced only what the fabric hears, it goes out as if there were no fabric."""
    with ExitStack() as stack:
        pager = stack.enter_context(Pager())
        address, _ = stack.enter_context(alertmanager(programs, tmp_path, pager))
        world = stack.enter_context(
            stubbed_world(tmp_path, services=2, incurable=0, alerts=1, repair_seconds=0.1)
        )
        both, unheard = service_names(2)
        settings = healing_settings(world, 2) | {
            "alertmanager": {"url": address},
            "escalation": {"hold_page": {}},
        }
        fabric = stack.enter_context(served_fabric(tmp_path, **settings))
        stack.enter_context(silence(address, service=unheard, signal="error_ratio"))
        with silence(address, service=both):
            now, managers = time.time(), Alertmanagers(AlertmanagerChannel(urls=(address,)), 5, Settings())
            for service in (both, unheard):
                managers.post([PostedAlert({**PLACE, **labels_of(service, 0)}, now, now + 300)])
                fails(address, service)
            held = {"alertname": "ShfServiceFailing", "service": both}
            wait("paged", lambda: pager.first(unheard) is not None)
            wait("held", lambda: state_of(address, alertname=HEALING, service=both) is not None)
        wait("healed", lambda: [each["state"] for each in fabric.incidents()] == ["resolved"])
        assert world.counts()["restarts"] == {both: 1}
        assert state_of(address, **held) == "suppressed"
        assert pager.first(both) is None
        assert state_of(address, alertname=HEALING, service=unheard) is None


def ends_received(url: str) -> float:
    """How many alerts this Alertmanager was told that had ended by its clock."""
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    told = [line for line in lines if line.startswith("alertmanager_alerts_received_total{")]
    return sum(float(line.split()[-1]) for line in told if 'status="resolved"' in line)


@pytest.mark.parametrize("ahead", [-600.0, -250.0, 600.0])
def test_who_is_called_by_a_clock_that_differs_is_paged(url: str, pager: Pager, ahead: float) -> None:
    """Ten minutes behind Alertmanager, the call had ended before it came: taken with 200, told to nobody.
    Four minutes behind, it ended before each sign of life. None of these ends it, be it for a moment."""
    settings = AlertmanagerChannel(urls=(url,))
    channel = Channel(settings, Settings(), clock=lambda: time.time() + ahead)
    service = f"clock{ahead:+.0f}"
    call = Call(service, Kind.ESCALATION, service, service, 4, "all", "human", ("human",), "not healed")
    stories = {service: {"severity": "critical", "acknowledged_by": None, "alerts": []}}
    progress: dict[str, Any] = {}
    for number in range(2):  # and kept alive
        before = ends_received(url)
        message = Message(service, "title", "body", {"links": {}}, (call,), stories)
        progress = dict(channel.send(message, progress).progress)
        (alert,) = httpx.get(f"{url}/api/v2/alerts", params={"filter": f'service="{service}"'}).json()
        lasts = datetime.fromisoformat(alert["endsAt"]).timestamp() - time.time()
        assert lasts > settings.expires * 2 / 3  # two signs of life may get lost
        assert number == 0 or ends_received(url) == before
    wait("paged", lambda: pager.first(service) is not None)
    ended = Call(**{**vars(call), "kind": Kind.ENDED})
    channel.send(Message("e", "over", "body", {"links": {}}, (ended,), stories), progress)
    wait("ended", lambda: state_of(url, alertname="ShfEscalation", service=service) is None)


@pytest.mark.parametrize("ahead", [-600.0, 600.0])
def test_a_hold_by_a_clock_that_differs_holds_and_lets_go(url: str, pager: Pager, ahead: float) -> None:
    """Behind Alertmanager, it had expired before it came; ahead, a dead fabric held pages for minutes."""
    service = f"hold{ahead:+.0f}"
    managers = Alertmanagers(AlertmanagerChannel(urls=(url,)), 5, Settings(), lambda: time.time() + ahead)
    now = time.time()
    managers.post(
        [PostedAlert({**PLACE, "service": service, "alertname": HEALING}, now + ahead, now + ahead + HOLD)]
    )
    fails(url, service)
    wait("held", lambda: state_of(url, alertname="ShfServiceFailing", service=service) == "suppressed")
    wait("paged", lambda: pager.first(service) is not None)


def test_a_call_stays_one_alert_whatever_changes_meanwhile(url: str, pager: Pager) -> None:
    """A graver alert joins, others end: with other labels the next sign of life was another page, and the
    first one ended minutes later, as if it had healed."""
    channel = Channel(AlertmanagerChannel(urls=(url,)), Settings())
    call = Call("changes", Kind.ESCALATION, "i7", "changes", 4, "all", "human", ("human",), "not healed")
    alert = {"service": "changes", "labels": {**PLACE, "service": "changes"}, "annotations": {}}
    story = {"severity": "warning", "acknowledged_by": None, "alerts": [alert]}
    message = Message("changes", "title", "body", {"links": {}}, (call,), {"i7": story})
    progress = channel.send(message, {}).progress
    story |= {"severity": "critical", "alerts": []}
    progress = channel.send(message, progress).progress
    asked = {"filter": 'service="changes"'}
    (listed,) = httpx.get(f"{url}/api/v2/alerts", params=asked, trust_env=False).json()
    assert listed["labels"]["severity"] == "warning"
    ended = Call(**{**vars(call), "kind": Kind.ENDED})
    channel.send(Message("e", "over", "body", {"links": {}}, (ended,), {"i7": story}), progress)
    wait("ended", lambda: state_of(url, alertname="ShfEscalation", service="changes") is None)


def test_where_no_fabric_was_ever_started_people_are_paged(url: str, pager: Pager, tmp_path: Path) -> None:
    """The shipped rules and routes alone: no series of a fabric has ever been there, no alert of one."""
    rules = RuleParameters(scrape_interval=1, evaluation_interval=1, heartbeat=6)
    with reserved_ports(2) as (port, nobody):
        alive, dead = url.removeprefix("http://"), f"127.0.0.1:{nobody}"
        targets = [
            {"targets": [alive], "labels": {"service": "unfailing"}},
            {"targets": [dead], "labels": {"service": "orphan"}},
        ]
        jobs = [{"job_name": "services", "static_configs": targets}]
        with prometheus_with_rules(tmp_path, port, rules, jobs, alertmanager=alive) as prometheus:
            wait("paged", lambda: pager.first("orphan") is not None)
            exported = {"match[]": '{__name__=~"shf_[^:]+"}'}
            ours = prometheus.get("/api/v1/series", params=exported).json()["data"]
    assert ours == []
    assert (pager.first("orphan") or (0.0, ""))[1] == "ShfServiceFailing"
    assert pager.first("unfailing") is None
