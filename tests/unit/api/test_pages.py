"""The pages as any client gets them: what they say, what they refuse, and how they fail."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from self_healing_fabric.api import pages
from self_healing_fabric.api.pages import forms
from self_healing_fabric.errors import StoreUnavailable
from self_healing_fabric.escalation.calls import new_row
from self_healing_fabric.incidents import timeline
from self_healing_fabric.incidents.timeline import Entry, Kind
from self_healing_fabric.store import call_statements, statements

BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
HOSTILE = "\"><script>alert(1)</script>'{{ 7777 * 7777 }}"
ALWAYS = ("acknowledge", "escalate", "close")
DIAGNOSIS = {
    "failure_class": "service_failure",
    "reason": "the service does not answer",
    "cause": {
        "pattern": "code_bug", "service": "cart", "confidence": 0.62,
        "evidence": [{"statement": "cart is silent.", "query": 'up{service="cart"}', "value": 0.0,
                      "at": 1_800_000_000.0, "baseline": 1.0, "weight": 4.1}],
    },
    "alternatives": [{"pattern": "network_issue", "service": "db", "confidence": 0.21, "evidence": [],
                      "told_apart_by": "up == 0"}],
    "against": ["its health endpoint answers"],
    "missing": ["cart: cpu"],
    "next_query": "sum(up)",
    "impact": {"users_affected": 0.5, "requests_affected": 10.0, "tier": "standard",
               "business_tier": "critical", "dependants": ["frontend"], "budget_burn": 20.0,
               "urgency": "now"},
}  # fmt: skip


def get(api: Any, path: str) -> Any:
    """A page as a browser asks for it."""
    return api.client.get(path, headers=BROWSER)


def token(page: Any) -> str:
    """The secret in a page's forms."""
    found = re.search(rf'name="{forms.FIELD}" value="([^"]+)"', page.text)
    assert found is not None
    return found[1]


def post(api: Any, path: str, **fields: str) -> Any:
    """Send a form as our own page does."""
    fields = {forms.FIELD: token(get(api, "/login")), **fields}
    return api.client.post(path, data=fields, headers=BROWSER)


def told(api: Any, incident_id: str) -> list[str]:
    """The timeline's messages."""
    rows = api.store.read(lambda connection: statements.timeline_of(connection, incident_id))
    return [row.message for row in rows]


def test_nothing_going_on_is_said_in_words(api: Any) -> None:
    """An empty list says what that means."""
    page = get(api, "/")
    assert page.status_code == 200
    for text in ("Nobody is needed now", "No incident is open", "No incident has ended yet", "Automatic"):
        assert text in page.text


def test_who_waits_for_a_person_comes_first_and_then_the_most_urgent(api: Any) -> None:
    """Not the newest, and not by name."""
    api.open("a", state="recovering", diagnosis={**DIAGNOSIS, "impact": {"urgency": "later"}})
    api.clock.now += 1
    api.open("cart", state="recovering", diagnosis=DIAGNOSIS)
    api.clock.now += 1
    api.open("db", state="escalated", diagnosis={**DIAGNOSIS, "impact": {"urgency": "soon"}})
    api.clock.now += 1
    api.open("z", state="awaiting_approval", diagnosis=DIAGNOSIS)
    text = get(api, "/").text
    waiting, working = text.index('id="waiting-title"'), text.index('id="working-title"')
    shown = re.findall(r'<span class="tag">(a|cart|db|z)</span>', text)
    assert shown == ["z", "db", "cart", "a"]
    assert waiting < text.index(">db<") < working < text.index(">cart<")


def test_the_page_of_a_message_shows_what_it_told_of_and_nothing_else(
    api: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who still waits first, then what is in hand, then what is over, also as part of another incident."""
    states = {"cart": "recovering", "db": "closed", "a": "escalated", "z": "escalated"}
    ids = {service: api.open(service, state=state) for service, state in states.items()}
    api.store.write(lambda found: statements.annotate(found, ids["db"], {"merged_into": ids["a"]}))
    common = {"incident_id": "", "level": 1, "level_name": "one", "called": ["human"], "reason": "it fails"}
    for service in ("db", "cart", "a"):
        common |= {"incident_id": ids[service], "service": service, "kind": "escalation", "created_at": 1.0}
        row = new_row(common, contact="human", channel="mail", due_at=None, message=f"{ids['cart']}/call-1")
        api.store.write(lambda found, row=row: call_statements.insert_calls(found, [row]))
    page = get(api, f"/messages/{ids['cart']}/call-1")
    assert page.status_code == 200
    assert re.findall(r'href="/incidents/([^"]+)"', page.text) == [ids[each] for each in ("a", "cart", "db")]
    assert "3 incidents, as they are now: 1 waiting for a person, 1 over.</p>" in page.text
    monkeypatch.setattr(pages, "MOST_TOLD", 2)
    page = get(api, f"/messages/{ids['cart']}/call-1")
    assert re.findall(r'href="/incidents/([^"]+)"', page.text) == [ids["cart"], ids["db"]]
    assert "It told of more: these are the newest." in page.text
    assert get(api, f"/messages/{ids['cart']}/call-2").status_code == 404


def test_of_more_than_fit_who_waits_for_a_person_is_shown_and_everyone_is_counted(
    api: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest of a storm may be the one that waits; then the most severe are shown, and the oldest."""
    monkeypatch.setattr(pages, "MOST_OPEN", 3)
    columns = {
        "asks": {"state": "awaiting_approval", "severity": "info"},
        "taken": {"acknowledged_by": "ada"},
    }
    for service in ("asks", "called", "taken", "light", "grave", "newest"):
        severity = "warning" if service in ("taken", "light") else "critical"
        state = "escalated" if service in ("called", "taken") else "recovering"
        api.clock.now += 1
        api.open(service, **{"state": state, "severity": severity, **columns.get(service, {})})
    page = get(api, "/")
    assert re.findall(r'<span class="tag">(asks|called|taken|light|grave|newest)</span>', page.text) == [
        "called",
        "asks",
        "grave",
    ]
    assert re.findall(r'<span class="count">(\d+)</span>', page.text) == ["2", "4"]
    assert "<title>(2) Now" in page.text
    assert "6 are open; 3 are shown: who waits for a person" in page.text


def test_a_long_summary_leaves_room_for_the_others(api: Any) -> None:
    """The first page shows its beginning, up to a word; the page of the incident shows it whole."""
    title = "checkout of the shop fails nine of ten orders, " * 20 + "at last"
    incident_id = api.open("cart", state="escalated", title=title, waiting_for=title)
    page = get(api, "/").text
    assert title[:100] in page
    assert title[:170] not in page
    assert title in get(api, f"/incidents/{incident_id}").text


def test_an_acknowledged_incident_waits_for_nobody(api: Any) -> None:
    """Somebody has it in hand."""
    api.open("db", state="escalated", acknowledged_by="ada")
    page = get(api, "/").text
    assert "Nobody is needed now" in page
    assert "taken by ada" in page


def test_what_ended_says_when_and_how_long_and_presses_nobody(api: Any) -> None:
    """No urgency of something that is over."""
    ended = {"state": "resolved", "outcome": "healed", "resolved_at": api.clock() + 65}
    api.open("cart", diagnosis=DIAGNOSIS, **ended)
    text = get(api, "/").text
    assert re.search(
        r'ended <time datetime="2027-01-15T08:01:05Z" data-near>.*lasted 1 minute 5 seconds', text
    )
    assert "urgent: now" not in text


def test_runbook_and_dashboard_are_where_one_looks_first(make_api: Callable[..., Any]) -> None:
    """The alert's runbook beside the state, if it is a link; the service in Grafana, around that time."""
    api = make_api(grafana={"url": "https://grafana.example/g/"})
    for service, runbook, shown in (
        ("cart", "https://runbooks.example/silent", True),
        ("db", "javascript:silent", False),
    ):
        page = get(api, f"/incidents/{api.open(service, annotations={'runbook_url': runbook})}").text
        state = page[page.index('data-live="state"') : page.index('data-live="next"')]
        assert (f'<a href="{runbook}" rel="noreferrer">silent</a>' in state) is shown
    link = "https://grafana.example/g/d/shf-service-healing?var-service=db&amp;from=1799999100000&amp;to=now"
    assert f'href="{link}"' in page


def test_a_pause_is_the_first_thing_said(api: Any) -> None:
    """Paused by a form, it is told on top, with the way back."""
    assert post(api, "/mode", mode="paused", by="ada").status_code == 303
    page = get(api, "/?done=mode").text
    assert page.index("Paused: nothing is repaired") < page.index("Waiting for a person")
    assert "The mode is changed." in page
    assert api.client.get("/api/v1/mode").get_json() == {"mode": "paused"}
    assert post(api, "/mode", mode="configured").status_code == 303
    assert api.client.get("/api/v1/mode").get_json() == {"mode": "automatic"}


def test_an_incident_tells_its_diagnosis_with_queries_that_lead_to_prometheus(
    make_api: Callable[..., Any],
) -> None:
    """Cause, confidence, alternatives, what speaks against it, and each query as a link at its time."""
    api = make_api(prometheus={"url": "http://127.0.0.1:9", "external_url": "https://prometheus.example/p"})
    page = get(api, f"/incidents/{api.open('cart', diagnosis=DIAGNOSIS)}").text
    for text in (
        *("Cause: code bug in cart", "62 %", "cart is silent.", "4.1 bits", "network issue in db, 21 %"),
        *("its health endpoint answers", "cart: cpu", "at least 50 % of the requests suffer"),
        *("services that depend on it: frontend", "20.0 times too fast", "What tells it apart"),
    ):
        assert text in page, text
    assert 'href="https://prometheus.example/p/graph?g0.expr=up%7Bservice%3D%22cart%22%7D' in page
    assert "g0.end_input=2027-01-15+08%3A15%3A00" in page


@pytest.mark.parametrize(
    ("share", "rate", "told"),
    [
        (None, None, "an unknown share of the requests suffers<"),
        (0.0, 0.0, "no request is known to suffer<"),
        (0.004, 0.0312, "at least 0.4 % of the requests suffer, 0.0312 each second<"),
        (0.996, 1500.4, "at least 99 % of the requests suffer, 1500 each second<"),
        (1.0, 12.34, "all requests suffer, 12.3 each second<"),
    ],
)
def test_whom_it_hurts_is_told_in_numbers_that_people_read(
    api: Any, share: float | None, rate: float | None, told: str
) -> None:
    """Neither powers of ten nor more than what is known: at least 99 % is true of 99.6 %, 100 % is not."""
    impact = {**DIAGNOSIS["impact"], "users_affected": share, "requests_affected": rate}
    page = get(api, f"/incidents/{api.open('cart', diagnosis={**DIAGNOSIS, 'impact': impact})}").text
    assert told in page


def test_what_comes_next_is_said_with_its_time(api: Any) -> None:
    """The deadline of the level, and which one is called then."""
    api.open("cart", state="escalated", level=1, level_due_at=api.clock() + 300)
    (incident,) = api.client.get("/api/v1/incidents").get_json()["incidents"]
    page = get(api, f"/incidents/{incident['id']}").text
    assert re.search(
        r"Unless somebody acknowledges it, level 2 \(memory and alignment\) is called.*?"
        r'datetime="2027-01-15T08:05:00Z"',
        page,
        re.S,
    )


def test_a_guardrail_that_spoke_and_an_action_are_shown(api: Any) -> None:
    """With the reason, the verdict and how long it took."""
    incident_id = api.open("cart", state="verifying", verification={"since": api.clock(), "deadline": 1.0})
    action = {
        "id": "a", "incident_id": incident_id, "strategy": "restart", "platform": "http",
        "target": "http:cart", "disruptive": True, "attempt": 2, "status": "succeeded",
        "verdict": "not_healed", "detail": "answered 202", "before": {"password": "canary"},
        "intended_at": api.clock(), "started_at": api.clock(), "finished_at": api.clock() + 65,
    }  # fmt: skip
    data = {"guardrail": "max_heals", "reason": "healed too often", "retry_at": None}

    def write(connection: Any) -> None:
        statements.insert_action(connection, action)
        timeline.append(connection, incident_id, [Entry(Kind.GUARDRAIL, "m", data)], api.clock())

    api.store.write(write)
    page = get(api, f"/incidents/{incident_id}").text
    for text in ("restart http:cart", "verdict not healed", "took 1 minute 5 seconds", "attempt 2",
                 "max heals", "healed too often"):  # fmt: skip
        assert text in page, text
    assert "canary" not in page


@pytest.mark.parametrize(
    ("state", "columns", "offered"),
    [
        ("awaiting_approval", {"plan": ["restart"]}, {"approve", "reject", *ALWAYS}),
        ("recovering", {"plan": ["restart"]}, {*ALWAYS}),
        ("escalated", {}, {*ALWAYS}),
        ("escalated", {"acknowledged_by": "ada"}, {"escalate", "close"}),
        ("resolved", {}, {"close"}),
        ("closed", {}, set()),
    ],
)  # fmt: skip
def test_only_what_is_possible_is_offered(
    api: Any, state: str, columns: dict[str, Any], offered: set[str]
) -> None:
    """Every button would do something, and the API says the same."""
    incident_id = api.open("cart", state=state, **columns)
    page = get(api, f"/incidents/{incident_id}").text
    assert set(re.findall(rf'<button formaction="/incidents/{incident_id}/(\w+)"', page)) == offered
    story = api.client.get(f"/api/v1/incidents/{incident_id}").get_json()
    # To reject what was given up already changes nothing, so neither offers it.
    assert set(story["next"]["decisions"]) == offered


def test_during_an_action_only_an_acknowledgement_is_offered(api: Any) -> None:
    """The others would be refused."""
    incident_id = api.open("cart", state="recovering", plan=["restart"])
    action = {
        "id": "a", "incident_id": incident_id, "strategy": "restart", "platform": "http", "target": "t",
        "disruptive": True, "attempt": 1, "status": "started", "before": {}, "intended_at": api.clock(),
    }  # fmt: skip
    api.store.write(lambda connection: statements.insert_action(connection, action))
    page = get(api, f"/incidents/{incident_id}").text
    assert re.findall(rf'<button formaction="/incidents/{incident_id}/(\w+)"', page) == ["acknowledge"]
    assert "An action is under way" in page


@pytest.mark.parametrize(
    ("decision", "state", "becomes"),
    [
        ("acknowledge", "escalated", "escalated"),
        ("approve", "awaiting_approval", "recovering"),
        ("reject", "awaiting_approval", "escalated"),
        ("escalate", "recovering", "escalated"),
        ("close", "escalated", "closed"),
    ],
)
def test_a_button_does_what_the_api_does(api: Any, decision: str, state: str, becomes: str) -> None:
    """The state changes, the timeline names the person and the reason, and the browser is sent back."""
    incident_id = api.open("cart", state=state, plan=["restart"])
    answer = post(api, f"/incidents/{incident_id}/{decision}", by="ada", reason="I know it")
    assert (answer.status_code, answer.location) == (303, f"/incidents/{incident_id}?done={decision}")
    assert api.incident(incident_id).state == becomes
    assert any("ada" in message for message in told(api, incident_id))
    assert "ada: I know it" in told(api, incident_id)
    assert 'role="status"' in get(api, answer.location).text


def asking(api: Any) -> str:
    """An incident that asks for an approval."""
    incident_id = api.open("cart", state="awaiting_approval", plan=["rollback"])
    asks = Entry(Kind.PLAN, "Asks for approval.", {"action": "cart/rollback-1", "strategy": "rollback"})
    api.store.write(lambda connection: timeline.append(connection, incident_id, [asks], api.clock()))
    return str(incident_id)


@pytest.mark.parametrize("shown", ["cart/restart-0", ""])
def test_what_is_asked_for_is_approved_only_as_it_was_shown(api: Any, shown: str) -> None:
    """Something else is asked for meanwhile: nothing is approved, and the page shows that."""
    incident_id = asking(api)
    typed = {"by": "ada", "reason": 'it "hangs"'}
    answer = post(api, f"/incidents/{incident_id}/approve", **typed, asked_for=shown)
    assert answer.status_code == 409
    assert re.search(r'id="decide-by" [^>]* value="ada">', answer.text)
    assert re.search(r'id="decide-reason" [^>]* value="it &#34;hangs&#34;">', answer.text)
    assert 'value="ada"' not in get(api, f"/incidents/{incident_id}").text
    assert "something else is asked for by now" in answer.text
    assert "Approve rollback" in answer.text
    assert 'name="asked_for" value="cart/rollback-1"' in answer.text
    assert api.incident(incident_id).state == "awaiting_approval"


def test_over_the_api_too_only_what_was_seen_is_approved(api: Any) -> None:
    """The incident tells what it asks for; a body that names something else approves nothing."""
    incident_id = asking(api)
    url = f"/api/v1/incidents/{incident_id}"
    seen = api.client.get(url).get_json()["asked_for"]
    assert seen == "cart/rollback-1"
    refused = api.client.post(f"{url}/approve", json={"by": "ada", "asked_for": "cart/restart-0"})
    assert (refused.status_code, api.incident(incident_id).state) == (409, "awaiting_approval")
    assert api.client.post(f"{url}/approve", json={"by": "ada", "asked_for": seen}).status_code == 200
    assert api.client.get(url).get_json()["asked_for"] is None


def test_a_decision_that_does_not_fit_shows_the_incident_and_why(api: Any) -> None:
    """A double click on what is over by now is no error page without a way back."""
    incident_id = api.open("cart", state="closed")
    answer = post(api, f"/incidents/{incident_id}/escalate")
    assert answer.status_code == 409
    assert "Nothing was changed: the incident is closed already." in answer.text


def test_who_approves_what_was_approved_and_failed_is_not_told_that_it_is_carried_out(api: Any) -> None:
    """Somebody was faster, and by now it is over: the stale button changes nothing and says so."""
    incident_id = asking(api)
    approve = f"/incidents/{incident_id}/approve"
    assert post(api, approve, by="ada", asked_for="cart/rollback-1").location.endswith("?done=approve")
    api.store.write(
        lambda connection: statements.overtake(connection, incident_id, {"state": "escalated", "plan": []})
    )
    answer = post(api, approve, by="bob", asked_for="cart/rollback-1", reason="it is safe")
    page = get(api, answer.location).text
    assert "That had been decided before, and nothing was changed." in page
    assert "being carried out" not in page
    assert told(api, incident_id)[-1] == "bob: it is safe"


def test_a_verdict_is_given_on_the_page(api: Any) -> None:
    """It is stored as over the API, and shown."""
    incident_id = api.open("cart", state="resolved", diagnosis=DIAGNOSIS)
    answer = post(api, f"/incidents/{incident_id}/verdict", answer="wrong", service="db", by="ada",
                  pattern="network_issue", reason="the switch")  # fmt: skip
    assert answer.status_code == 303
    verdict = api.client.get(f"/api/v1/incidents/{incident_id}").get_json()["verdict"]
    assert (verdict["service"], verdict["pattern"], verdict["by"]) == ("db", "network_issue", "ada")
    page = get(api, answer.location).text
    assert "service wrong, pattern wrong (it was db, network_issue)" in page
    for fields in ({"answer": "perhaps"}, {"answer": "wrong", "pattern": "bad luck"}):
        refused = post(api, f"/incidents/{incident_id}/verdict", reason="a graph", **fields)
        assert refused.status_code == 409
        assert re.findall(r'id="([a-z]+)-reason" [^>]* value="a graph">', refused.text) == ["verdict"]


def test_a_symptom_is_split_off_on_the_page(make_api: Callable[..., Any]) -> None:
    """The browser is sent to the new incident."""
    api = make_api(services={"front": {"depends_on": ["db"]}, "db": {}})
    api.receive("db", "front")
    (incident,) = api.client.get("/api/v1/incidents").get_json()["incidents"]
    page = get(api, f"/incidents/{incident['id']}").text
    assert "front is no symptom" in page
    answer = post(api, f"/incidents/{incident['id']}/split", service="front", by="ada")
    assert answer.status_code == 303
    new_id = answer.location.removeprefix("/incidents/").partition("?")[0]
    assert api.incident(new_id).service == "front"
    assert post(api, f"/incidents/{incident['id']}/split").status_code == 409
    assert post(api, f"/incidents/{incident['id']}/split", service="nobody").status_code == 409


def test_a_service_is_paused_from_its_incident(api: Any) -> None:
    """Only that service, and the browser comes back to the incident."""
    incident_id = api.open("cart", state="recovering")
    answer = post(api, "/mode", pause="cart", back=f"/incidents/{incident_id}", by="ada")
    assert answer.location == f"/incidents/{incident_id}?done=mode"
    assert api.client.get("/api/v1/mode").get_json() == {
        "mode": "automatic",
        "services": {"cart": "paused"},
    }
    page = get(api, f"/incidents/{incident_id}").text
    assert "Paused: nothing is begun before somebody lifts that" in page
    assert post(api, "/mode", pause="", back="https://evil.example/").location == "/?done=mode"
    assert api.client.get("/api/v1/mode").get_json()["mode"] == "paused"
    assert post(api, "/mode", pause="stranger").status_code == 409
    assert post(api, "/mode", mode="reckless").status_code == 409


def test_what_was_paused_on_a_page_goes_on_by_a_page(make_api: Callable[..., Any]) -> None:
    """Of a service and of a strategy whose mode a person has set; a configured one stays as it is."""
    api = make_api(services={"cart": {}, "db": {"mode": "approval"}})
    post(api, "/mode", pause="cart")
    api.client.put("/api/v1/mode", json={"mode": "paused", "strategy": "rollback"})
    page = get(api, "/").text
    assert "cart is on paused, db is on approval, rollback is on paused" in page
    offered = re.findall(r'name="take_back" value="([^"]+)"', page)
    assert offered == ["service cart", "strategy rollback"]
    for each in offered:
        assert post(api, "/mode", take_back=each).location == "/?done=mode"
    assert api.client.get("/api/v1/mode").get_json() == {"mode": "automatic", "services": {"db": "approval"}}
    assert post(api, "/mode", take_back="everything").status_code == 409


@pytest.mark.parametrize("field", ["", "0" * 43])
@pytest.mark.parametrize("path", ["/mode", "/incidents/{}/close", "/login", "/logout", "/incidents/{}/split"])
def test_a_form_without_our_secret_changes_nothing(api: Any, path: str, field: str) -> None:
    """Missing or wrong, with a cookie and without."""
    incident_id = api.open("cart", state="escalated")
    for _ in range(2):  # the second time with a cookie
        answer = api.client.post(
            path.format(incident_id), data={forms.FIELD: field, "mode": "paused"}, headers=BROWSER
        )
        assert answer.status_code == 403
        assert "Nothing was changed" in answer.text
        get(api, "/")
    assert api.incident(incident_id).state == "escalated"
    assert api.client.get("/api/v1/mode").get_json() == {"mode": "automatic"}


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:1"},
    ],
)
def test_a_form_of_another_site_changes_nothing(api: Any, headers: dict[str, str]) -> None:
    """Even with the secret, which it cannot know."""
    incident_id = api.open("cart", state="escalated")
    fields = {forms.FIELD: token(get(api, "/login"))}
    answer = api.client.post(f"/incidents/{incident_id}/close", data=fields, headers={**BROWSER, **headers})
    assert answer.status_code == 403
    assert api.incident(incident_id).state == "escalated"


def test_text_of_strangers_is_text(api: Any) -> None:
    """Labels, annotations, queries, names and messages: nowhere markup, nowhere a template, no other link."""
    incident_id = api.open(HOSTILE, diagnosis={
        **DIAGNOSIS, "reason": HOSTILE, "against": [HOSTILE], "missing": [HOSTILE], "next_query": HOSTILE,
        "cause": {"pattern": HOSTILE, "service": HOSTILE, "confidence": 0.5, "evidence": [
            {"statement": HOSTILE, "query": HOSTILE, "value": 1.0, "at": 2.0, "source": HOSTILE}]},
    }, waiting_for=HOSTILE, acknowledged_by=HOSTILE, plan=[HOSTILE], title=HOSTILE)  # fmt: skip

    def write(connection: Any) -> None:
        told = [Entry(Kind.NOTE, HOSTILE, {"diff": [f"-{HOSTILE}"]}), Entry(Kind.GUARDRAIL, HOSTILE)]
        timeline.append(connection, incident_id, told, api.clock())
        connection.exec_driver_sql(
            'UPDATE alerts SET annotations = \'{"summary": "<script>", '
            '"runbook_url": "javascript:alert(1)"}\''
        )

    api.store.write(write)
    for path in ("/", f"/incidents/{incident_id}", f"/incidents/{incident_id}/signals"):
        page = get(api, path).text
        assert "<script>" not in page.replace('<script src="/static/', "")
        assert "&lt;script&gt;" in page
        assert "60481729" not in page
        assert "javascript:" not in page


def test_an_unknown_incident_is_a_friendly_404(api: Any) -> None:
    """With a way on, for a browser; a problem document for a client of the API."""
    page = get(api, "/incidents/20260101-000000-abcdef")
    assert page.status_code == 404
    assert "No incident has this id" in page.text
    assert 'href="/"' in page.text
    missing = get(api, "/no/such/page")
    assert (missing.status_code, "There is no such page" in missing.text) == (404, True)
    asked = api.client.get("/no/such/page")
    assert asked.content_type == "application/problem+json"
    assert get(api, "/api/v1/incidents/nobody").content_type == "application/problem+json"


def test_a_store_that_is_away_is_said_on_a_page(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """503 with what it means, for a browser."""

    def away(*_: object) -> None:
        raise StoreUnavailable("the store does not answer")

    fields = {forms.FIELD: token(get(api, "/login")), "mode": "approval"}
    monkeypatch.setattr(api.fabric.store, "read", away)
    monkeypatch.setattr(api.fabric.store, "write", away)
    for page in (get(api, "/"), get(api, "/incidents/x"), get(api, "/live"),
                 api.client.post("/mode", data=fields, headers=BROWSER)):  # fmt: skip
        assert (page.status_code, page.headers["Retry-After"]) == (503, "5")
        assert "nothing was changed" in page.text
    paused = api.client.post("/mode", data=fields | {"mode": "paused"}, headers=BROWSER)
    assert (paused.status_code, paused.headers["Retry-After"]) == (503, "5")
    assert "Paused, but not everywhere: nothing more begins here" in paused.text


@pytest.mark.parametrize(
    "path", ["/", "/login", "/incidents/nobody", "/static/pages.js", "/static/none", "/x"]
)
def test_every_answer_protects_its_reader(api: Any, path: str) -> None:
    """No script or style but ours, in no frame, kept by no cache but the static files."""
    headers = get(api, path).headers
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "same-origin"
    kept = "immutable" in headers["Cache-Control"]
    assert kept is (path == "/static/pages.js")
    assert kept or headers["Cache-Control"] == "no-store"


def test_static_files_are_ours_only(api: Any) -> None:
    """No way out of their folder."""
    assert get(api, "/static/pages.css").content_type.startswith("text/css")
    for path in (
        "/static/../__init__.py",
        "/static/%2e%2e/__init__.py",
        "/static/%2fetc%2fpasswd",
        "/static/x",
    ):
        assert get(api, path).status_code == 404


def test_the_cookie_of_forms_is_out_of_reach_of_scripts(make_api: Callable[..., Any], tmp_path: Path) -> None:
    """HttpOnly and SameSite; for TLS only where browsers come by TLS; not made anew at every page."""
    api = make_api(external_url="https://localhost")
    cookie = get(api, "/").headers["Set-Cookie"]
    for attribute in ("HttpOnly", "SameSite=Lax", "Secure", "Path=/"):
        assert attribute in cookie
    plain = make_api(external_url="http://localhost", store=f"sqlite:///{tmp_path}/other.db")
    assert "Secure" not in get(plain, "/").headers["Set-Cookie"]
    assert "Set-Cookie" not in get(plain, "/").headers


@pytest.mark.parametrize("path", ["/live", "/incidents/{}/live"])
def test_news_are_told_only_when_there_are_some(api: Any, path: str) -> None:
    """The same state has the same tag, and is answered by 304 without a body; a change is not."""
    incident_id = api.open("cart", state="escalated")
    path = path.format(incident_id)
    first = get(api, path)
    again = api.client.get(path, headers={**BROWSER, "If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")
    assert "<html" not in first.text
    api.clock.now += 1000
    assert get(api, path).headers["ETag"] == first.headers["ETag"]  # what passes is the reader's time only
    post(api, f"/incidents/{incident_id}/acknowledge", by="ada")
    changed = api.client.get(path, headers={**BROWSER, "If-None-Match": first.headers["ETag"]})
    assert changed.status_code == 200
    assert "ada" in changed.text


def test_a_long_timeline_is_cut_and_says_so(api: Any) -> None:
    """The newest entries, and where the others are."""
    incident_id = api.open("cart")
    entries = [Entry(Kind.NOTE, f"note {number}") for number in range(450)]
    api.store.write(lambda connection: timeline.append(connection, incident_id, entries, api.clock()))
    page = get(api, f"/incidents/{incident_id}").text
    assert "51 older entries are left out" in page
    assert "note 449" in page
    assert "<p>note 50</p>" in page
    assert "<p>note 49</p>" not in page


def test_a_page_asks_prometheus_nothing(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is there at once, whatever Prometheus does; the plot is a picture of its own."""

    def asked(*_: object, **__: object) -> None:
        raise AssertionError("a page waited for Prometheus")

    for name in ("instant", "range", "raw", "together", "alerts"):
        monkeypatch.setattr(api.fabric.context.prometheus, name, asked)
    incident_id = api.open("cart", state="recovering", diagnosis=DIAGNOSIS)
    for path in ("/", "/live", f"/incidents/{incident_id}", f"/incidents/{incident_id}/live"):
        assert get(api, path).status_code == 200
    assert f'src="/incidents/{incident_id}/signals.svg"' in get(api, f"/incidents/{incident_id}").text
