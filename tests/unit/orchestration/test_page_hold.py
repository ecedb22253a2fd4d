"""Holding pages: only for what is healed now, never for long, and whatever fails lets the page go out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response
from werkzeug.serving import WSGIRequestHandler

from self_healing_fabric.escalation.alerts import NotPosted
from self_healing_fabric.guardrails import mode
from self_healing_fabric.incidents.lifecycle import State
from self_healing_fabric.orchestration.page_hold import EXPIRES, REFRESH, PageHold, page_hold
from self_healing_fabric.settings import Mode
from self_healing_fabric.store import statements

DEADLINE = 100.0


@dataclass
class Alertmanager:
    """What was posted, and until when each place is held."""

    posts: list[list[dict[str, Any]]] = field(default_factory=list)
    status: int = 200

    def take(self, request: Request) -> Response:
        """Note it."""
        if self.status == 200:
            self.posts.append(request.get_json())
        return Response(status=self.status)

    def holds(self, at: float) -> set[str]:
        """The services that are held at a time."""
        until: dict[str, float] = {}
        for post in self.posts:
            for alert in post:
                assert alert["labels"]["alertname"] == "ShfHealing"
                until[alert["labels"]["service"]] = datetime.fromisoformat(alert["endsAt"]).timestamp()
        return {service for service, end in until.items() if end > at + 0.001}


@pytest.fixture(autouse=True)
def untold_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of these tests is not that of the server that plays Alertmanager."""
    monkeypatch.setattr(WSGIRequestHandler, "date_time_string", lambda *_: "not told")


@pytest.fixture
def alertmanager(httpserver: HTTPServer) -> Alertmanager:
    """It listens."""
    made = Alertmanager()
    httpserver.expect_request("/api/v2/alerts", method="POST").respond_with_handler(made.take)
    return made


Holding = tuple[Any, PageHold]


@pytest.fixture
def holding(make_world: Callable[..., Any], httpserver: HTTPServer, alertmanager: Alertmanager) -> Holding:
    """A world that holds pages, and the hold, driven by hand on the world's clock."""
    assert alertmanager
    hold_page = {"urls": [httpserver.url_for("").rstrip("/")], "deadline": DEADLINE}
    world = make_world({"cart": (), "shop": ("cart",)}, escalation={"hold_page": hold_page})
    return world, PageHold(world.context, world.context.settings.escalation.hold_page, world.clock)


def healing(world: Any, **alert: Any) -> None:
    """The service was restarted, and nothing is proved yet."""
    world.silent()
    world.receive(world.alert(**alert))
    world.run()
    assert world.incident().state is State.VERIFYING


def test_a_page_is_held_while_the_fabric_heals(holding: Holding, alertmanager: Alertmanager) -> None:
    """From the first look, with the labels of the service's own alert; symptoms of the incident too."""
    world, hold = holding
    hold.tell()
    assert alertmanager.posts == []
    healing(world, labels={"cluster": "eu", "namespace": "shop"})
    world.receive(world.alert(service="shop", signal="error_ratio"))
    world.run()
    hold.tell()
    ((first, second),) = alertmanager.posts
    places = {tuple(sorted(alert["labels"].items())) for alert in (first, second)}
    common = (("alertname", "ShfHealing"),)
    assert places == {
        (*common, ("cluster", "eu"), ("namespace", "shop"), ("service", "cart"), ("severity", "none")),
        (*common, ("service", "shop"), ("severity", "none")),
    }
    assert alertmanager.holds(world.clock.now + EXPIRES - 1) == {"cart", "shop"}


def test_a_hold_ends_by_itself(holding: Holding, alertmanager: Alertmanager) -> None:
    """It lives for half a minute and is kept alive: a fabric that says no more holds nothing."""
    world, hold = holding
    healing(world)
    for _ in range(5):
        hold.tell()
        world.clock.now += REFRESH
    assert len(alertmanager.posts) == 5
    assert alertmanager.holds(world.clock.now) == {"cart"}
    assert alertmanager.holds(world.clock.now + EXPIRES) == set()


def test_it_is_not_said_again_before_its_time(holding: Holding, alertmanager: Alertmanager) -> None:
    """Looking every second must not post every second."""
    world, hold = holding
    healing(world)
    for _ in range(5):
        hold.tell()
        world.clock.now += 1
    assert len(alertmanager.posts) == 1


def test_the_deadline_ends_it(holding: Holding, alertmanager: Alertmanager) -> None:
    """Still at work, and yet: nobody waits for longer. A restart of the fabric begins no new deadline."""
    world, hold = holding
    healing(world)
    hold.tell()
    world.clock.now += DEADLINE - 1
    hold.tell()
    assert alertmanager.holds(world.clock.now) == {"cart"}
    world.clock.now += 1
    hold.tell()
    assert alertmanager.holds(world.clock.now) == set()
    PageHold(world.context, world.context.settings.escalation.hold_page, world.clock).tell()
    assert alertmanager.holds(world.clock.now) == set()


def test_calling_somebody_ends_it(holding: Holding, alertmanager: Alertmanager) -> None:
    """Level 1 was called while the fabric goes on."""
    world, hold = holding
    healing(world)
    hold.tell()
    incident_id = world.incident().id
    world.context.store.write(lambda connection: statements.annotate(connection, incident_id, {"level": 1}))
    hold.tell()
    assert alertmanager.holds(world.clock.now) == set()


def test_giving_up_ends_it(holding: Holding, alertmanager: Alertmanager) -> None:
    """Escalated: the fabric does nothing more."""
    world, hold = holding
    healing(world)
    hold.tell()
    world.run(seconds=63)
    assert world.incident().state is State.ESCALATED
    hold.tell()
    assert alertmanager.holds(world.clock.now) == set()


def test_what_was_healed_stays_held_until_its_alerts_have_ended(
    holding: Holding, alertmanager: Alertmanager
) -> None:
    """An alert outlives its cause: healed in time must not page a minute later. Closed, it is over."""
    world, hold = holding
    world.target.on_restart = world.healthy
    alert = world.alert()
    world.silent()
    world.receive(alert)
    world.run(seconds=10)
    assert world.incident().state is State.RESOLVED
    world.clock.now += DEADLINE
    hold.tell()
    assert alertmanager.holds(world.clock.now) == {"cart"}
    world.receive(world.alert(status="resolved", starts_at=alert.starts_at))
    world.run(seconds=400, tick=20)
    assert world.incident().state is State.CLOSED
    hold.tell()
    assert alertmanager.holds(world.clock.now) == set()


@pytest.mark.parametrize("late", ["the deadline", "a call"])
def test_a_page_that_went_out_is_ended(holding: Holding, alertmanager: Alertmanager, late: str) -> None:
    """An inhibited alert does not tell its end: held on after it healed, the pager would call for ever."""
    world, hold = holding
    healing(world)
    hold.tell()
    if late == "a call":
        level_1 = {"level": 1}
        world.context.store.write(
            lambda connection: statements.annotate(connection, world.incident().id, level_1)
        )
    else:
        world.clock.now = world.incident().opened_at + DEADLINE
    hold.tell()
    assert alertmanager.holds(world.clock.now) == set()
    world.healthy()
    world.run(seconds=10)
    assert world.incident().state is State.RESOLVED
    hold.tell()
    assert alertmanager.holds(world.clock.now) == set()


@pytest.mark.parametrize("other", [Mode.PAUSED, Mode.DRY_RUN, Mode.APPROVAL])
def test_who_may_not_act_holds_nothing(holding: Holding, alertmanager: Alertmanager, other: Mode) -> None:
    """Paused, dry run or waiting for a person: nobody heals."""
    world, hold = holding
    healing(world)
    hold.tell()
    world.context.store.write(
        lambda connection: mode.change(connection, other, by="ada", now=world.clock.now, service="cart")
    )
    hold.tell()
    assert alertmanager.holds(world.clock.now) == set()


def test_a_stranger_is_never_held(holding: Holding, alertmanager: Alertmanager) -> None:
    """A label that names no service of ours holds no page."""
    world, hold = holding
    world.receive(world.alert(service="nobody"))
    world.context.store.write(lambda _: None)
    world.orchestrator.take_in()
    hold.tell()
    assert alertmanager.posts == []


def test_an_alertmanager_that_is_away_is_told_at_the_next_look(
    holding: Holding, alertmanager: Alertmanager
) -> None:
    """Nothing is believed to be held that was not taken."""
    world, hold = holding
    healing(world)
    alertmanager.status = 503
    with pytest.raises(NotPosted, match="answered 503"):
        hold.tell()
    alertmanager.status = 200
    world.clock.now += 1
    hold.tell()
    assert alertmanager.holds(world.clock.now) == {"cart"}


def test_one_of_two_alertmanagers_that_was_not_told_is_told_at_the_next_look(
    make_world: Callable[..., Any], httpserver: HTTPServer
) -> None:
    """They do not pass alerts on to each other: the one that does not know of the hold would page. What the
    other one took has its end."""
    first, second = Alertmanager(), Alertmanager(status=503)
    for name, server in (("first", first), ("second", second)):
        httpserver.expect_request(f"/{name}/api/v2/alerts", method="POST").respond_with_handler(server.take)
    hold_page = {"urls": [httpserver.url_for(name) for name in ("first", "second")], "deadline": DEADLINE}
    world = make_world({"cart": ()}, escalation={"hold_page": hold_page})
    hold = PageHold(world.context, world.context.settings.escalation.hold_page, world.clock)
    healing(world)
    with pytest.raises(NotPosted, match="second answered 503"):
        hold.tell()
    assert (first.holds(world.clock.now), second.posts) == ({"cart"}, [])
    second.status = 200
    world.clock.now += 1
    hold.tell()
    assert second.holds(world.clock.now) == {"cart"}
    second.status = 503
    world.clock.now = world.incident().opened_at + DEADLINE
    with pytest.raises(NotPosted, match="second answered 503"):
        hold.tell()
    assert first.holds(world.clock.now) == set()


def calling_over_alertmanager(make_world: Callable[..., Any], httpserver: HTTPServer) -> Holding:
    """A world where every level calls over an Alertmanager, which is another one than that of the hold."""
    levels = [{"name": f"level {number}", "call": ["human"] if number else []} for number in range(5)]
    escalation = {
        "hold_page": {"urls": [httpserver.url_for("").rstrip("/")], "deadline": DEADLINE},
        "levels": levels,
        "channels": {"on-call": {"alertmanager": {"urls": [httpserver.url_for("/people")]}}},
        "contacts": {"human": ["on-call"]},
    }
    world = make_world({"cart": ()}, escalation=escalation)
    return world, PageHold(world.context, world.context.settings.escalation.hold_page, world.clock)


@pytest.mark.parametrize("state", ["suppressed", "active"])
def test_whom_people_were_called_for_over_alertmanager_pages_no_more(
    make_world: Callable[..., Any], httpserver: HTTPServer, alertmanager: Alertmanager, state: str
) -> None:
    """Their page was held until then, and would tell them the same again; also when the incident has healed,
    and the alerts that end later are all that is left. Had it gone out, it would have to tell its end."""
    page = {"startsAt": "2026-11-22T07:31:33.778Z", "status": {"state": state}}
    httpserver.expect_request("/people/api/v2/alerts", method="GET").respond_with_json([page])
    httpserver.expect_request("/people/api/v2/alerts", method="POST").respond_with_data()
    world, hold = calling_over_alertmanager(make_world, httpserver)
    healing(world, labels={"cluster": "eu"})
    hold.tell()
    world.run(seconds=63)
    assert (world.incident().state, world.incident().level) == (State.ESCALATED, 1)
    hold.tell()
    still = {"cart"} if state == "suppressed" else set()
    assert alertmanager.holds(world.clock.now) == still
    world.healthy()
    world.run(seconds=20)
    assert world.incident().state is State.RESOLVED
    hold.tell()
    assert alertmanager.holds(world.clock.now) == still
    world.silent()
    world.receive(world.alert(starts_at="later", labels={"cluster": "eu"}))
    world.clock.now += DEADLINE
    world.run(seconds=1)
    assert world.incident().relapses == 1
    hold.tell()
    assert alertmanager.holds(world.clock.now) == set()


def test_a_page_waits_for_the_call_that_takes_its_place(
    make_world: Callable[..., Any], httpserver: HTTPServer, alertmanager: Alertmanager
) -> None:
    """For a moment, and not for one that does not arrive: then the page is what people hear."""
    httpserver.expect_request("/people/api/v2/alerts").respond_with_data(status=503)
    world, hold = calling_over_alertmanager(make_world, httpserver)
    healing(world)
    hold.tell()
    while world.incident().level == 0:
        world.clock.now += 1
        world.orchestrator.take_in()
        for incident in world.orchestrator.claim(8):
            world.orchestrator.work(incident)
    hold.tell()
    assert alertmanager.holds(world.clock.now) == {"cart"}
    world.run()
    hold.tell()
    assert alertmanager.holds(world.clock.now) == set()


def test_only_the_leader_speaks(holding: Holding, alertmanager: Alertmanager, monkeypatch: Any) -> None:
    """A replica that is not, or no more, says nothing: what the others hold is theirs."""
    world, hold = holding
    healing(world)
    monkeypatch.setattr(type(world.context.leases), "leader", property(lambda _: False))
    hold.tell()
    assert alertmanager.posts == []


def test_without_the_setting_nothing_is_held(make_world: Callable[..., Any]) -> None:
    """The feature is off by default: pages go out as they did."""
    assert page_hold(make_world().context, tuple) is None


def test_the_fabrics_own_alerts_open_no_incident(make_world: Callable[..., Any]) -> None:
    """Whatever a route in Alertmanager sends back to the fabric."""
    world = make_world()
    for name in ("ShfEscalation", "ShfHealing"):
        world.receive(world.alert(labels={"alertname": name}))
    world.run()
    assert world.incidents() == []
