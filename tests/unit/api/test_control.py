"""Decisions of people: each once, with a name, and refused where it makes no sense."""

from collections.abc import Callable
from typing import Any

import pytest

from self_healing_fabric.incidents.telling import verdict_in_words
from self_healing_fabric.store import statements

NAMES = ["acknowledge", "approve", "reject", "escalate", "close"]


def decide(api: Any, incident_id: str, decision: str, **body: Any) -> Any:
    """Post a decision."""
    return api.client.post(f"/api/v1/incidents/{incident_id}/{decision}", json=body)


def story_of(api: Any, incident_id: str) -> list[str]:
    """The messages of the timeline."""
    return [row.message for row in api.store.read(lambda c: statements.timeline_of(c, incident_id))]


@pytest.mark.parametrize(
    ("state", "decision", "expected"),
    [
        ("awaiting_approval", "approve", "recovering"),
        ("awaiting_approval", "reject", "escalated"),
        ("awaiting_approval", "close", "closed"),
        ("verifying", "acknowledge", "verifying"),
        ("detected", "escalate", "escalated"),
        ("escalated", "close", "closed"),
        ("resolved", "close", "closed"),
    ],
)
def test_a_decision_changes_the_state_and_tells_who_and_why(
    api: Any, state: str, decision: str, expected: str
) -> None:
    """The answer is the incident; the timeline names the person and the reason."""
    incident_id = api.open("cart", state=state, plan=["restart"])
    response = decide(api, incident_id, decision, by="ada", reason="because of reasons")
    assert response.status_code == 200, response.text
    assert response.get_json()["state"] == expected
    told = " ".join(story_of(api, incident_id))
    assert "ada" in told
    assert "ada: because of reasons" in told


@pytest.mark.parametrize(
    ("state", "decision"),
    [
        ("awaiting_approval", "approve"),
        ("awaiting_approval", "reject"),
        ("verifying", "acknowledge"),
        ("verifying", "close"),
        ("verifying", "escalate"),
    ],
)
def test_deciding_twice_is_the_same_as_deciding_once(api: Any, state: str, decision: str) -> None:
    """A double click or a retry changes nothing and tells nothing."""
    incident_id = api.open("cart", state=state, plan=["restart"])
    first = decide(api, incident_id, decision, by="ada")
    before, told = api.incident(incident_id), story_of(api, incident_id)
    second = decide(api, incident_id, decision, by="ada")
    assert (first.status_code, second.status_code) == (200, 200)
    assert api.incident(incident_id) == before
    assert story_of(api, incident_id) == told


def test_who_acknowledged_may_hand_on_to_the_next_level(api: Any) -> None:
    """Escalating again after an acknowledgement is a new decision."""
    incident_id = api.open("cart", state="verifying")
    decide(api, incident_id, "escalate", by="ada")
    decide(api, incident_id, "acknowledge", by="ada")
    assert api.incident(incident_id).acknowledged_by == "ada"
    decide(api, incident_id, "escalate", by="ada")
    after = api.incident(incident_id)
    assert (after.level, after.acknowledged_by) == (2, None)


@pytest.mark.parametrize(
    ("state", "decision"),
    [
        ("recovering", "approve"),
        ("diagnosing", "reject"),
        ("resolved", "acknowledge"),
        ("closed", "acknowledge"),
        ("resolved", "escalate"),
        ("closed", "escalate"),
        ("closed", "approve"),
        ("closed", "reject"),
    ],
)
def test_a_decision_that_does_not_fit_is_a_409_and_changes_nothing(
    api: Any, state: str, decision: str
) -> None:
    """The answer says in which state the incident is."""
    incident_id = api.open("cart", state=state)
    before, told = api.incident(incident_id), story_of(api, incident_id)
    response = decide(api, incident_id, decision)
    assert response.status_code == 409
    assert response.content_type == "application/problem+json"
    assert state in response.get_json()["detail"]
    assert api.incident(incident_id) == before
    assert story_of(api, incident_id) == told


@pytest.mark.parametrize("decision", ["close", "escalate"])
def test_a_decision_during_an_action_is_a_409(api: Any, decision: str) -> None:
    """The end of an effect must be recorded by the step that began it."""
    incident_id = api.open("cart", state="recovering")
    action = {
        "id": "a",
        "incident_id": incident_id,
        "strategy": "restart",
        "platform": "http",
        "target": "http:cart",
        "disruptive": True,
        "attempt": 1,
        "status": "started",
        "before": {},
        "intended_at": 1.0,
    }
    api.store.write(lambda connection: statements.insert_action(connection, action))
    response = decide(api, incident_id, decision)
    assert response.status_code == 409
    assert "under way" in response.get_json()["detail"]


def test_a_decision_overtakes_the_step_in_hand(api: Any) -> None:
    """What the step wanted to write is dropped: people can stop the machine."""
    incident_id = api.open("cart", state="verifying")
    (row,) = api.store.write(
        lambda c: statements.claim_due(c, owner="w", now=api.clock(), lease=60.0, limit=1)
    )
    decide(api, incident_id, "close")
    after = api.incident(incident_id)
    assert after.epoch > row.epoch
    assert (after.state, after.due_at, after.lease_until) == ("closed", None, None)


@pytest.mark.parametrize("decision", NAMES)
def test_an_unknown_incident_is_a_404(api: Any, decision: str) -> None:
    """For each decision."""
    assert decide(api, "nobody", decision).status_code == 404


def test_an_unknown_decision_is_a_404(api: Any) -> None:
    """Only the five of the contract exist."""
    assert decide(api, api.open("cart"), "explode").status_code == 404


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"{", 400),
        (b"[]", 422),
        (b'{"by": ""}', 422),
        (b'{"by": 5}', 422),
        (b'{"who": "ada"}', 422),
        (b'{"reason": "' + b"x" * 1001 + b'"}', 422),
        (b"", 200),
        (b"{}", 200),
    ],
)
def test_the_body_of_a_decision_may_be_left_out_but_not_be_wrong(api: Any, data: bytes, status: int) -> None:
    """A misspelt key is not ignored."""
    incident_id = api.open("cart")
    response = api.client.post(f"/api/v1/incidents/{incident_id}/close", data=data)
    assert response.status_code == status
    assert (api.incident(incident_id).state == "closed") is (status == 200)


def test_the_mode_is_kept_across_restarts(make_api: Callable[..., Any]) -> None:
    """PUT, restart, GET: still paused."""
    first = make_api()
    assert first.client.get("/api/v1/mode").get_json() == {"mode": "automatic"}
    response = first.client.put("/api/v1/mode", json={"mode": "paused", "by": "ada"})
    assert (response.status_code, response.get_json()) == (200, {"mode": "paused"})
    assert first.metric("shf_mode", mode="paused") == 1.0
    assert first.metric("shf_mode", mode="automatic") == 0.0
    first.fabric.stop()
    second = make_api()
    assert second.client.get("/api/v1/mode").get_json() == {"mode": "paused"}
    assert second.client.get("/api/v1/status").get_json()["mode"] == "paused"


@pytest.mark.parametrize("word", ["configured", None])
def test_a_mode_is_taken_back_by_the_word_of_the_command_line(
    make_api: Callable[..., Any], word: str | None
) -> None:
    """Of everything and of a service, as the configuration says from then on."""
    api = make_api(mode="approval", services={"cart": {}})
    for scope in ({}, {"service": "cart"}):
        api.client.put("/api/v1/mode", json={"mode": "paused", **scope})
        answer = api.client.put("/api/v1/mode", json={"mode": word, **scope})
        assert (answer.status_code, answer.get_json()) == (200, {"mode": "approval"})


@pytest.mark.parametrize("word", ["configured", None])
def test_the_mode_of_a_service_that_has_gone_can_be_taken_back(
    make_api: Callable[..., Any], word: str | None
) -> None:
    """It is told as long as it is kept, and nobody can set another one."""
    first = make_api()
    first.client.put("/api/v1/mode", json={"mode": "paused", "service": "cart"})
    first.fabric.stop()
    second = make_api(services={"db": {}})
    assert second.client.get("/api/v1/mode").get_json()["services"] == {"cart": "paused"}
    assert second.client.put("/api/v1/mode", json={"mode": "paused", "service": "cart"}).status_code == 422
    taken_back = second.client.put("/api/v1/mode", json={"mode": word, "service": "cart"})
    assert (taken_back.status_code, taken_back.get_json()) == (200, {"mode": "automatic"})


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"service": "cart", "strategy": "restart"}, "body: name a service or a strategy, not both"),
        ({"strategy": "reboot"}, "strategy: no strategy is called so"),
    ],
)
def test_what_is_wrong_with_a_mode_is_told_in_our_words(api: Any, body: dict[str, str], told: str) -> None:
    """Without what the library puts before them."""
    answer = api.client.put("/api/v1/mode", json={"mode": "paused", **body})
    assert answer.status_code == 422
    assert answer.get_json()["detail"].startswith(told)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"{", 400),
        (b"", 422),
        (b"{}", 422),
        (b'{"mode": "turbo"}', 422),
        (b'{"mode": "paused", "x": 1}', 422),
    ],
)
def test_a_wrong_mode_changes_nothing(api: Any, data: bytes, status: int) -> None:
    """The kill switch does not flip by accident."""
    response = api.client.put("/api/v1/mode", data=data)
    assert response.status_code == status
    assert api.client.get("/api/v1/mode").get_json() == {"mode": "automatic"}


def test_the_status_tells_what_the_fabric_is_doing(api: Any) -> None:
    """Incidents by state, and whether the orchestrator runs."""
    api.open("cart", state="verifying")
    status = api.client.get("/api/v1/status").get_json()
    assert status["incidents"] == {"verifying": 1}
    assert (status["orchestrator"], status["draining"], status["services"]) == ("stopped", False, 2)


@pytest.fixture
def merged(make_api: Callable[..., Any]) -> Any:
    """A fabric in which `cart` depends on `db`, and an incident of `db` with `cart` as a symptom."""
    api = make_api(services={"cart": {"depends_on": ["db"]}, "db": {}})
    api.receive("db", "cart")
    return api


def split(api: Any, incident_id: str, **body: Any) -> Any:
    """Post a split."""
    return api.client.post(f"/api/v1/incidents/{incident_id}/split", json=body)


def test_a_split_answers_with_the_new_incident(merged: Any) -> None:
    """Whole, with where it comes from; the timeline names the person and the reason."""
    (incident,) = merged.client.get("/api/v1/incidents").get_json()["incidents"]
    response = split(merged, incident["id"], service="cart", by="ada", reason="its own release")
    assert response.status_code == 200, response.text
    story = response.get_json()
    assert (story["service"], story["split_from"], story["state"]) == ("cart", incident["id"], "detected")
    assert [alert["service"] for alert in story["alerts"]] == ["cart"]
    assert "ada decided so: its own release" in story["timeline"][0]["message"]


def test_a_split_that_is_asked_for_again_answers_the_same(merged: Any) -> None:
    """A double click, or a retry whose first answer got lost: one incident, told and counted once."""
    (incident,) = merged.client.get("/api/v1/incidents").get_json()["incidents"]
    opened = merged.metric("shf_incidents_opened_total", service="cart")
    first, again = (split(merged, incident["id"], service="cart", by="ada") for _ in range(2))
    assert (again.status_code, again.get_json()) == (200, first.get_json())
    decide(merged, incident["id"], "close")
    assert split(merged, incident["id"], service="cart").get_json()["id"] == first.get_json()["id"]
    assert merged.metric("shf_incidents_opened_total", service="cart") == opened + 1
    assert len(merged.client.get("/api/v1/incidents?merged=true").get_json()["incidents"]) == 2


@pytest.mark.parametrize(
    ("body", "status", "detail"),
    [
        ({}, 422, "service"),
        ({"service": ""}, 422, "service"),
        ({"service": "cart", "x": 1}, 422, "x"),
        ({"service": "db"}, 409, "db is no symptom"),
        ({"service": "stranger"}, 409, "those that are: cart"),
    ],
)
def test_a_split_that_makes_no_sense_changes_nothing(
    merged: Any, body: dict[str, Any], status: int, detail: str
) -> None:
    """A wrong body is a 422, a service that is no symptom a 409; the answer says what is wrong."""
    (incident,) = merged.client.get("/api/v1/incidents").get_json()["incidents"]
    response = split(merged, incident["id"], **body)
    assert response.status_code == status
    assert response.content_type == "application/problem+json"
    assert detail in response.get_json()["detail"]
    assert len(merged.client.get("/api/v1/incidents?merged=true").get_json()["incidents"]) == 1


def test_a_split_of_what_is_not_there_or_over_is_refused(merged: Any) -> None:
    """404 for an unknown incident, 409 for a closed one."""
    (incident,) = merged.client.get("/api/v1/incidents").get_json()["incidents"]
    assert split(merged, "nobody", service="cart").status_code == 404
    decide(merged, incident["id"], "close")
    assert split(merged, incident["id"], service="cart").status_code == 409


DIAGNOSIS = {
    "abstained": False,
    "lead": "db",
    "cause": {"service": "db", "pattern": "network_issue", "confidence": 0.6},
    "calibration": {"uncalibrated": 0.6},
}


def judge(api: Any, incident_id: str, **body: Any) -> Any:
    """Post a verdict on the diagnosis."""
    return api.client.post(f"/api/v1/incidents/{incident_id}/verdict", json=body)


def test_a_verdict_is_shown_with_the_incident_and_counts_at_once(api: Any) -> None:
    """Who, when and what; the next diagnosis knows it."""
    incident_id = api.open("cart", state="closed", diagnosis=DIAGNOSIS)
    assert api.client.get("/api/v1/status").get_json()["calibration"]["verdicts"] == 0
    answer = judge(api, incident_id, by="ada", right=False, service="web", pattern="code_bug", reason="Log.")
    assert answer.status_code == 200, answer.text
    assert answer.get_json()["verdict"] == {
        "source": "person",
        "by": "ada",
        "at": "2027-01-15T08:00:00.000Z",
        "service_right": False,
        "pattern_right": False,
        "service": "web",
        "pattern": "code_bug",
        "known_service": False,
    }
    assert "ada: the diagnosis was network_issue in db, and it was code_bug in web. Log." in story_of(
        api, incident_id
    )
    assert api.client.get("/api/v1/status").get_json()["calibration"]["verdicts"] == 1


def test_a_verdict_tells_when_nobody_knows_the_service_that_it_names(api: Any) -> None:
    """A misspelt name speaks against a diagnosis that was right; yet what is not watched may be the cause."""
    incident_id = api.open("cart", state="closed", diagnosis=DIAGNOSIS)
    asked = (
        "verdict of ada: service wrong, pattern not judged (it was crat; no service is called crat here: is"
    )
    for name, told in (
        ("crat", asked),
        ("cart", "verdict of ada: service wrong, pattern not judged (it was cart)"),
    ):
        answer = judge(api, incident_id, by="ada", right=False, service=name).get_json()
        assert verdict_in_words(answer["verdict"]).startswith(told)
    assert judge(api, incident_id, by="ada", right=True).get_json()["verdict"]["known_service"]


@pytest.mark.parametrize(
    ("body", "code", "told"),
    [
        ({}, 422, "right: Field required"),
        ({"right": True, "pattern": "gremlins"}, 422, "pattern: "),
        ({"right": True, "extra": 1}, 422, "extra: "),
        ({"right": False, "service": ""}, 422, "service: "),
        ({"right": True, "service": "web"}, 409, "not right if it was something else"),
    ],
)
def test_a_verdict_that_makes_no_sense_is_refused(api: Any, body: Any, code: int, told: str) -> None:
    """With what is wrong about it, and nothing is stored."""
    incident_id = api.open("cart", diagnosis=DIAGNOSIS)
    answer = judge(api, incident_id, **body)
    assert answer.status_code == code
    assert told in answer.get_json()["detail"]
    assert api.client.get(f"/api/v1/incidents/{incident_id}").get_json()["verdict"] is None


def test_a_verdict_needs_an_incident_with_a_diagnosis(api: Any) -> None:
    """404 and 409."""
    assert judge(api, "missing", right=True).status_code == 404
    assert judge(api, api.open("cart"), right=True).status_code == 409
