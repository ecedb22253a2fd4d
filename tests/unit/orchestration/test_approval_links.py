"""Links that approve or reject: what they were made for, once, in time, and never by being opened."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from itsdangerous import URLSafeSerializer

from self_healing_fabric.app import create_app
from self_healing_fabric.errors import DecisionRefused
from self_healing_fabric.incidents.lifecycle import State
from self_healing_fabric.orchestration.approval_links import approval_links
from self_healing_fabric.orchestration.decisions import DECISIONS, decide
from self_healing_fabric.orchestration.questions import KEY
from self_healing_fabric.store import statements

URL = "https://shf.example.com"


def path_of(link: str) -> str:
    """The path of a link."""
    assert link.startswith(f"{URL}/approvals/")
    return link.removeprefix(URL)


def browser(world: Any) -> Any:
    """A client of the world's application."""
    world.fabric.context = world.context
    return create_app(world.fabric).test_client()


@pytest.fixture(params=["sqlite", "postgresql"])
def waiting(request: pytest.FixtureRequest, make_world: Callable[..., Any]) -> Any:
    """A fabric that asks for approval to restart cart, on either store."""
    changes = {"mode": "approval", "external_url": URL}
    if request.param == "postgresql":
        changes["store"] = request.getfixturevalue("postgresql_url")
    world = make_world(**changes)
    world.silent()
    world.receive(world.alert())
    world.run(1)
    assert world.incident().state is State.AWAITING_APPROVAL
    return world


def links(world: Any, to: str = "on-call") -> dict[str, str]:
    """The links for what the only incident asks now, as paths."""
    found = approval_links(world.context, world.incident().id, to)
    return {name: path_of(link) for name, link in found.items()}


def test_opening_a_link_shows_what_would_be_done_and_does_nothing(waiting: Any) -> None:
    """Whatever scans mail opens links, and asks for their heads too."""
    client = browser(waiting)
    for link in links(waiting).values():
        for method in ("GET", "HEAD", "OPTIONS"):
            assert client.open(link, method=method).status_code == 200
        page = client.get(link)
        assert f"restart of {waiting.target.restart_url}, for cart" in page.text
        assert page.headers["Referrer-Policy"] == "no-referrer"
        assert "form-action 'self'" in page.headers["Content-Security-Policy"]
    waiting.run(1)
    assert waiting.incident().state is State.AWAITING_APPROVAL
    assert waiting.restarts() == {}


def test_approving_by_a_link_restarts_once_and_tells_who_it_was(waiting: Any) -> None:
    """The second press finds nothing to approve any more; nor does the other link."""
    client, both = browser(waiting), links(waiting, "ada's phone")
    answer = client.post(both["approve"], data={"name": "Ada <b>\nL."})
    assert (answer.status_code, "Approved." in answer.text) == (200, True)
    assert [client.post(link).status_code for link in both.values()] == [410, 410]
    waiting.run(1)
    assert waiting.restarts() == {"cart": 1}
    assert waiting.incident().approved_by == "Ada <b> L. (by the link sent to ada's phone)"
    assert any("(by the link sent to ada's phone) approved it." in line for line in waiting.story())


def test_rejecting_by_a_link_goes_to_people(waiting: Any) -> None:
    """Nothing is restarted, and a name may be left out."""
    assert browser(waiting).post(links(waiting)["reject"]).status_code == 200
    waiting.run(1)
    assert waiting.incident().state is State.ESCALATED
    assert waiting.restarts() == {}
    assert any("whoever has the link sent to on-call rejected the plan" in line for line in waiting.story())


def test_a_link_expires_with_the_deadline_and_the_incident_escalates(waiting: Any) -> None:
    """Nobody answered: people are called, once, and the link opens nothing any more."""
    link, client = links(waiting)["approve"], browser(waiting)
    due = waiting.incident().verification["deadline"]
    waiting.clock.now = due - 1
    assert client.get(link).status_code == 200
    waiting.clock.now = due
    assert [client.open(link, method=method).status_code for method in ("GET", "POST")] == [410, 410]
    waiting.run(1)
    assert waiting.incident().state is State.ESCALATED
    assert sum("nobody approved the plan in time" in line for line in waiting.story()) == 1
    assert waiting.restarts() == {}


def test_a_link_is_for_one_proposal_only(waiting: Any) -> None:
    """When the fabric asks anew, for the same or for something else, the older link is void."""
    old, client = links(waiting)["approve"], browser(waiting)
    changes = {"state": "recovering", "due_at": waiting.clock.now, "plan": ["restart"]}
    incident = waiting.incident().id
    waiting.context.store.write(lambda c: statements.annotate(c, incident, changes))
    assert client.post(old).status_code == 410, "nothing is asked"
    waiting.run(1)
    assert waiting.incident().state is State.AWAITING_APPROVAL
    assert client.post(old).status_code == 410, "another one is asked"
    assert client.post(links(waiting)["approve"]).status_code == 200


def test_a_link_is_void_when_the_target_is_another_one(waiting: Any) -> None:
    """The fabric came back with another configuration: what the person saw is not what would happen."""
    old = links(waiting)["approve"]
    recovery = waiting.values["services"]["cart"]["recovery"]["http"]
    recovery["restart"] = recovery["restart"].replace("/cart/", "/db/")
    waiting.crash()
    answer = browser(waiting).post(old)
    assert (answer.status_code, "this link is void: it is for" in answer.text) == (410, True)
    assert waiting.incident().state is State.AWAITING_APPROVAL


def test_links_hold_across_restarts_and_are_the_same_for_all_replicas(waiting: Any) -> None:
    """The key is the store's."""
    before = links(waiting)
    waiting.crash()
    assert links(waiting) == before
    assert browser(waiting).post(before["approve"]).status_code == 200


def test_a_link_that_was_changed_is_none(waiting: Any) -> None:
    """Another incident, answer or deadline, another key, a part of it: 404 and nothing happens."""
    link, client = links(waiting)["reject"], browser(waiting)
    token = link.removeprefix("/approvals/")
    payload, signature = token.rsplit(".", 1)
    content = URLSafeSerializer("").loads_unsafe(token)[1]
    forged = URLSafeSerializer("guessed", salt="self-healing-fabric approval").dumps(content)
    key = waiting.context.store.read(lambda c: statements.control(c, KEY)).value
    of_another_kind = URLSafeSerializer(key, salt="something else").dumps(content)
    for each in (forged, of_another_kind, payload, f"{payload}x.{signature}", f"{token}x", "x", "x.y", "%00"):
        assert client.post(f"/approvals/{each}").status_code == 404, each
        assert client.get(f"/approvals/{each}").status_code == 404, each
    assert waiting.incident().state is State.AWAITING_APPROVAL


def test_what_stands_in_labels_is_text_on_the_page(make_world: Callable[..., Any]) -> None:
    """A title that is markup is shown as what it is."""
    world = make_world(mode="approval", external_url=URL)
    world.silent()
    hostile = '"><script>alert(1)</script>{{ 7777*7777 }}'
    world.receive(world.alert(annotations={"summary": hostile}, labels={"alertname": hostile}))
    world.run(1)
    page = browser(world).get(links(world)["approve"]).text
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "{{ 7777*7777 }}" in page
    assert "60481729" not in page


def test_without_an_address_or_a_question_there_are_no_links(make_world: Callable[..., Any]) -> None:
    """Nobody could open them, or they would answer nothing."""
    world = make_world(mode="approval")
    world.silent()
    world.receive(world.alert())
    world.run(1)
    assert approval_links(world.context, world.incident().id, "x") == {}
    assert approval_links(world.context, "unknown", "x") == {}


def test_a_hundred_approvals_at_once_restart_once(waiting: Any) -> None:
    """By links, over the API and in the program, mixed and all at once; counted at the target."""
    link, incident = links(waiting)["approve"], waiting.incident().id
    client_of = create_app(waiting.fabric)
    waiting.fabric.context = waiting.context
    start, answers, lock = threading.Barrier(100), [], threading.Lock()

    def approve(number: int) -> None:
        client = client_of.test_client()
        start.wait()
        if number % 3 == 0:
            status = client.post(link, data={"name": f"p{number}"}).status_code
        elif number % 3 == 1:
            status = client.post(
                f"/api/v1/incidents/{incident}/approve", json={"by": f"p{number}"}
            ).status_code
        else:
            try:
                decide(waiting.context, incident, DECISIONS["approve"], by=f"p{number}")
                status = 200
            except DecisionRefused:
                status = 409
        with lock:
            answers.append(status)

    threads = [threading.Thread(target=approve, args=(number,)) for number in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 100
    assert set(answers) <= {200, 409, 410}
    waiting.run(2)
    assert waiting.restarts() == {"cart": 1}
    assert sum("approved it." in line for line in waiting.story()) == 1
