"""An approval covers the one action that was asked for, as people saw it, and nothing else."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from test_sync_healing import CANARY, WANTED, Configured

from self_healing_fabric.app import create_app
from self_healing_fabric.errors import DecisionRefused
from self_healing_fabric.guardrails import mode
from self_healing_fabric.incidents.lifecycle import State
from self_healing_fabric.incidents.timeline import Kind
from self_healing_fabric.orchestration.approval_links import approval_links
from self_healing_fabric.orchestration.decisions import DECISIONS, decide
from self_healing_fabric.recovery.outcomes import forbidden
from self_healing_fabric.recovery.platforms.http import HttpRestart
from self_healing_fabric.settings import Mode
from self_healing_fabric.store import statements
from shf_queries.catalogue import ERROR_RATIO

URL = "https://shf.example.com"


def approve(world: Any, **seen: str) -> None:
    """As a person would."""
    decide(world.context, world.incident().id, DECISIONS["approve"], by="ada", **seen)


def questions(world: Any) -> list[Any]:
    """What the only incident has asked so far."""
    lines = world.context.store.read(lambda c: statements.timeline_of(c, world.incident().id))
    return [each for each in lines if each.kind == Kind.PLAN and "action" in each.data]


def browser(world: Any) -> Any:
    """A client of the world's application."""
    world.fabric.context = world.context
    return create_app(world.fabric).test_client()


@pytest.fixture(params=["sqlite", "postgresql"])
def stored(request: pytest.FixtureRequest) -> dict[str, str]:
    """The settings of either store."""
    return {} if request.param == "sqlite" else {"store": request.getfixturevalue("postgresql_url")}


@pytest.fixture
def drifting(
    make_world: Callable[..., Any], stored: dict[str, str], httpserver: HTTPServer, tmp_path: Path
) -> Callable[..., Configured]:
    """A fabric that asks for approval to sync the configuration of cart."""

    def make(*, restart: bool = False) -> Configured:
        world = make_world(mode="approval", external_url=URL, **stored)
        made = Configured(world, httpserver, tmp_path / "cart.yaml", restart=restart)
        made.drift()
        made.world.run(2)
        assert made.world.incident().state is State.AWAITING_APPROVAL
        return made

    return make


@pytest.fixture
def planned(make_world: Callable[..., Any], stored: dict[str, str]) -> Callable[..., Any]:
    """A fabric that asks for approval of the first strategy of a plan for cart, which may be scaled to 4."""

    def make(*plan: str) -> Any:
        world = make_world(
            mode="approval",
            external_url=URL,
            plans={"degradation": plan},
            guardrails={"cooldown": 0},
            **stored,
        )
        world.close()
        cart = world.values["services"]["cart"]
        http = {**cart["recovery"]["http"], "scale": world.target.replicas_url}
        scale = {"max": 4, "calm": 30}
        world.values["services"] = {"cart": {**cart, "recovery": {"http": http, "scale": scale}}}
        world.open()
        world.measure(ERROR_RATIO, 0.1)
        world.receive(world.alert(signal="error_ratio"))
        world.run(2)
        assert world.incident().state is State.AWAITING_APPROVAL
        return world

    return make


@pytest.mark.parametrize("wanted", [b"pool: 0\npassword: x\nadmin: open\n", b"pool: 20\npassword: other\n"])
def test_what_changed_since_it_was_asked_is_asked_again(
    drifting: Callable[..., Configured], tmp_path: Path, wanted: bytes
) -> None:
    """Nothing is written that nobody saw, not even where the diff hides it; approved anew, it is written."""
    made = drifting()
    (tmp_path / "cart.yaml").write_bytes(wanted)
    approve(made.world)
    made.world.run(5)
    assert made.puts == []
    assert made.world.incident().state is State.AWAITING_APPROVAL
    assert "It is no longer what ada approved." in questions(made.world)[-1].message
    approve(made.world)
    made.world.run(5)
    assert made.puts == [wanted]


def test_what_was_asked_is_written_once(drifting: Callable[..., Configured]) -> None:
    """The same as it was asked for, also by another process: nobody is asked again."""
    made = drifting()
    made.world.crash()
    approve(made.world)
    made.world.run(60)
    assert made.puts == [WANTED]
    assert len(questions(made.world)) == 1


@pytest.mark.parametrize("waited", [False, True])
def test_one_that_changes_while_the_approved_action_waits_is_asked_again(
    drifting: Callable[..., Configured], tmp_path: Path, waited: bool
) -> None:
    """A pause holds what was approved, and it is compared once more when the pause is over."""
    made = drifting()
    change = mode.change
    made.world.context.store.write(lambda c: change(c, Mode.PAUSED, by="ada", now=made.world.clock.now))
    approve(made.world)
    made.world.run(5)
    if waited:
        (tmp_path / "cart.yaml").write_bytes(b"pool: 0\n")
    made.world.context.store.write(lambda c: change(c, Mode.APPROVAL, by="ada", now=made.world.clock.now))
    made.world.run(5)
    assert made.puts == ([] if waited else [WANTED])


def test_an_approval_covers_what_completes_it_and_what_takes_it_back(
    drifting: Callable[..., Configured],
) -> None:
    """The restart is named in the question; a configuration that heals nothing waits for nobody."""
    made = drifting(restart=True)
    made.heals = False
    (asked,) = questions(made.world)
    assert asked.message.endswith(", then restart.")
    approve(made.world)
    made.world.run(200)
    assert made.order == ["put", "restart", "put", "restart"]
    assert len(questions(made.world)) == 1


def test_the_seal_tells_no_secret(drifting: Callable[..., Configured]) -> None:
    """Whoever reads the timeline can try no guess: without the store's key the same gives another seal."""
    made = drifting()
    (asked,) = questions(made.world)
    assert CANARY not in json.dumps(asked.data)
    seal = asked.data["seal"]
    made.world.context.store.write(
        lambda c: statements.set_control(
            c, name="approval links key", value="another", by="test", now=made.world.clock.now
        )
    )
    approve(made.world)
    made.world.run(5)
    assert (made.puts, questions(made.world)[-1].data["seal"] != seal) == ([], True)


@pytest.mark.parametrize("by_link", [True, False])
def test_the_rest_of_the_plan_is_asked_for_by_itself(planned: Callable[..., Any], by_link: bool) -> None:
    """Who saw a restart has not allowed the scaling after it, which is done when that is allowed, too."""
    world = planned("restart", "scale")
    if by_link:
        link = approval_links(world.context, world.incident().id, "ada")["approve"]
        assert browser(world).post(link.removeprefix(URL)).status_code == 200
    else:
        approve(world)
    world.run(seconds=70)
    assert (world.restarts(), world.target.scalings) == ({"cart": 1}, [])
    assert [each.data["strategy"] for each in questions(world)] == ["restart", "scale"]
    assert questions(world)[-1].message.startswith("Asks for approval to scale cart")
    assert questions(world)[-1].data["diff"] == ["- replicas: 2", "+ replicas: 3"]
    approve(world)
    world.run(5)
    assert (world.restarts(), world.target.scalings) == ({"cart": 1}, [3])


def test_what_the_plans_name_no_more_is_not_asked_for(planned: Callable[..., Any]) -> None:
    """The fabric starts with another file while people are asked: they are asked for what that names."""
    world = planned("restart", "scale")
    seen = questions(world)[-1].data["action"]
    world.values["plans"] = {"degradation": ["scale"]}
    world.crash()
    world.run(seconds=30)
    assert world.incident().state is State.AWAITING_APPROVAL
    assert [each.data["strategy"] for each in questions(world)] == ["restart", "scale"]
    assert "plan: the plans do not name restart for this any more." in world.story()
    with pytest.raises(DecisionRefused, match="something else is asked for by now"):
        approve(world, seen=seen)
    approve(world)
    world.run(5)
    assert (world.restarts(), world.target.scalings) == ({}, [3])


def test_a_number_of_replicas_that_nobody_saw_is_not_set(planned: Callable[..., Any]) -> None:
    """From 2 to 3 was asked for, and somebody has scaled to 3 meanwhile."""
    world = planned("scale")
    world.target.replicas = 3
    approve(world)
    world.run(5)
    assert world.target.scalings == []
    assert questions(world)[-1].data["diff"] == ["- replicas: 3", "+ replicas: 4"]


def test_an_approval_is_used_up(planned: Callable[..., Any]) -> None:
    """The same strategy once more, on the same target, is one more question."""
    world = planned("restart")
    approve(world)
    world.run(seconds=70)
    once_more = {"state": "recovering", "plan": ["restart"], "verification": None, "due_at": world.clock.now}
    world.context.store.write(lambda c: statements.annotate(c, world.incident().id, once_more))
    world.run(5)
    assert world.restarts() == {"cart": 1}
    assert len(questions(world)) == 2
    approve(world)
    world.run(5)
    assert world.restarts() == {"cart": 2}


def test_what_did_not_happen_may_be_tried_again(
    planned: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The permit was over when all was ready: the same approval holds for the next try."""
    world = planned("restart")
    perform, tries = HttpRestart.perform, []

    def late_at_first(effect: HttpRestart, **order: Any) -> Any:
        tries.append(order["key"])
        return forbidden() if len(tries) == 1 else perform(effect, **order)

    monkeypatch.setattr(HttpRestart, "perform", late_at_first)
    approve(world)
    world.run(10)
    assert (world.restarts(), len(questions(world))) == ({"cart": 1}, 1)


def test_replicas_that_were_lent_by_approval_come_back_by_themselves(planned: Callable[..., Any]) -> None:
    """What takes back what was approved is not asked for, long after it was resolved."""
    world = planned("scale")
    world.target.on_scale = lambda: world.measure(ERROR_RATIO, 0.0)
    approve(world)
    world.run(seconds=30)
    world.receive(world.alert(signal="error_ratio", status="resolved", starts_at=f"{world.clock.now:.0f}"))
    for alert in world.alerts_of(world.incident()):
        world.context.store.write(lambda c, i=alert.id: statements.end_alert(c, i, world.clock.now))
    world.run(seconds=400, tick=5)
    assert world.target.scalings == [3, 2]
    assert len(questions(world)) == 1


def test_a_page_approves_only_what_it_showed(drifting: Callable[..., Configured], tmp_path: Path) -> None:
    """The same strategy of the same plan, with other contents: the page that was loaded before is refused."""
    made = drifting()
    client, incident = browser(made.world), made.world.incident().id
    page = client.get(f"/incidents/{incident}").text
    form = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', page))
    form = {name: html.unescape(value) for name, value in form.items()}
    (tmp_path / "cart.yaml").write_bytes(b"pool: 0\n")
    approve(made.world)
    made.world.run(5)
    headers = {"Sec-Fetch-Site": "same-origin", "Accept": "text/html"}
    assert client.post(f"/incidents/{incident}/approve", data=form, headers=headers).status_code == 409
    made.world.run(5)
    assert made.puts == []


def test_who_names_what_was_seen_approves_nothing_else(planned: Callable[..., Any]) -> None:
    """Between looking and answering another question may have been asked."""
    world = planned("restart", "scale")
    first = questions(world)[0].data["action"]
    approve(world, seen=first)
    world.run(seconds=70)
    with pytest.raises(DecisionRefused, match="something else is asked for"):
        approve(world, seen=first)
    approve(world, seen=questions(world)[-1].data["action"])


def test_the_page_of_a_link_shows_all_that_it_allows(drifting: Callable[..., Configured]) -> None:
    """The lines that change, and what follows; no secret."""
    made = drifting(restart=True)
    link = approval_links(made.world.context, made.world.incident().id, "ada")["approve"]
    page = html.unescape(browser(made.world).get(link.removeprefix(URL)).text)
    for shown in ("sync of configuration:", ", then restart", "- pool: 5\n+ pool: 20", "password: ******"):
        assert shown in page, shown
    assert "canary" not in page
