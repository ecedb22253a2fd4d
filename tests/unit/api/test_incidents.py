"""Reading incidents: pages that neither repeat nor skip, filters, and one incident's whole story."""

from base64 import urlsafe_b64encode
from collections.abc import Callable
from typing import Any

import pytest

from self_healing_fabric.incidents import timeline
from self_healing_fabric.incidents.timeline import Entry, Kind
from self_healing_fabric.store import statements

PATH = "/api/v1/incidents"
SUMMARY = {
    *("id", "service", "state", "severity", "signal", "failure_class", "pattern", "confidence"),
    *("opened_at", "updated_at", "resolved_at", "outcome", "level", "title", "waiting_for"),
    *("merged_into", "split_from"),
}


def ids(api: Any, query: str = "") -> list[str]:
    """The ids that a list answers with."""
    response = api.client.get(f"{PATH}?{query}")
    assert response.status_code == 200, response.text
    return [incident["id"] for incident in response.get_json()["incidents"]]


def test_no_incident_is_an_empty_page(api: Any) -> None:
    """And there is no next one."""
    assert api.client.get(PATH).get_json() == {"incidents": [], "next_cursor": None}


def test_the_list_has_the_keys_of_the_contract(api: Any) -> None:
    """Times are RFC 3339 in UTC."""
    api.open("cart", failure_class="service_failure", pattern="code_bug", confidence=0.5)
    (incident,) = api.client.get(PATH).get_json()["incidents"]
    assert incident.keys() >= SUMMARY
    assert (incident["service"], incident["state"], incident["signal"]) == ("cart", "detected", "heartbeat")
    assert incident["opened_at"] == "2027-01-15T08:00:00.000Z"
    assert incident["resolved_at"] is None


def test_pages_follow_each_other_while_incidents_open(api: Any) -> None:
    """The cursor is a place, not an offset: what opens in between moves nothing."""
    opened = []
    for number in range(5):
        api.clock.now += number % 2  # some open in the same second
        opened.append(api.open(f"stranger-{number}"))
    seen: list[str] = []
    cursor = ""
    while True:
        page = api.client.get(f"{PATH}?limit=2{cursor}").get_json()
        seen += [incident["id"] for incident in page["incidents"]]
        api.clock.now += 100
        api.open(f"late-{len(seen)}")
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert len(seen) == len(set(seen))
    assert set(seen) == set(opened)


def test_a_last_page_that_is_just_full_has_no_next(api: Any) -> None:
    """Two incidents on a page of two."""
    api.open("cart")
    api.open("db")
    assert api.client.get(f"{PATH}?limit=2").get_json()["next_cursor"] is None


def test_filters_by_state_service_and_time(api: Any) -> None:
    """States may repeat; `since` compares with the opening."""
    cart = api.open("cart", state="escalated")
    api.clock.now += 60
    db = api.open("db", state="verifying")
    assert ids(api) == [db, cart]
    assert ids(api, "state=escalated") == [cart]
    assert ids(api, "state=escalated&state=verifying") == [db, cart]
    assert ids(api, "state=closed") == []
    assert ids(api, "service=db") == [db]
    assert ids(api, "service=other") == []
    assert ids(api, "since=2027-01-15T08:00:01Z") == [db]
    assert ids(api, "since=2027-01-15T09:00:00%2B01:00") == [db, cart]
    assert ids(api, "since=2027-01-15T08:00:00") == [db, cart]


@pytest.mark.parametrize(
    "query",
    [
        "state=broken",
        "limit=0",
        "limit=501",
        "limit=many",
        "limit=-1",
        "since=yesterday",
        "cursor=x",
        "cursor=",
        "cursor=W10=",
        "cursor=" + urlsafe_b64encode(b"[%d, 1]" % 10**400).decode(),
        "cursor=WzEsICJcdWQ4MDAiXQ==",  # [1, "\\ud800"]
        "cursor=NQ==",
        "cursor=e30=",
        "cursor=WyJ4IiwgInkiXQ==",
        "cursor=%ff",
        "cursor=" + "W1tb" * 4_000,  # [[[...
    ],
)
def test_wrong_arguments_are_a_400(api: Any, query: str) -> None:
    """The answer says which, as a problem document."""
    response = api.client.get(f"{PATH}?{query}")
    assert response.status_code == 400
    assert response.content_type == "application/problem+json"


def test_a_misspelt_filter_is_no_filter_left_out(api: Any) -> None:
    """It was answered with all incidents, which looks like an answer; now the known ones are named."""
    api.open("cart")
    response = api.client.get(f"{PATH}?sate=resolved")
    assert response.status_code == 400
    known = "state, service, since, merged, message, limit, cursor"
    told = response.get_json()["detail"]
    assert told == f"sate: no parameter is called so; known here: {known}"


def test_a_service_name_is_a_value_and_no_sql(api: Any) -> None:
    """A quote in the filter finds nothing and breaks nothing."""
    api.open("cart")
    assert ids(api, "service=cart' OR '1'='1") == []


@pytest.mark.parametrize("path", [f"{PATH}/nobody", f"{PATH}/%00", f"{PATH}/a%2Fb", "/api/v1/nothing"])
def test_an_unknown_incident_is_a_404(api: Any, path: str) -> None:
    """A problem document, here too."""
    response = api.client.get(path)
    assert response.status_code == 404
    assert response.content_type == "application/problem+json"


def test_what_was_merged_is_listed_only_on_demand(make_api: Callable[..., Any]) -> None:
    """One problem is one line; `merged=true` shows what was folded into it, and where it went."""
    api = make_api(services={"a": {"depends_on": ["db"]}, "b": {"depends_on": ["db"]}, "db": {}})
    for service in ("a", "b", "db"):
        api.receive(service)
        api.clock.now += 1
    (left,) = api.client.get(PATH).get_json()["incidents"]
    assert (left["service"], left["merged_into"]) == ("db", None)
    shown = api.client.get(f"{PATH}?merged=true").get_json()["incidents"]
    assert [each["merged_into"] for each in shown] == [left["id"], None]
    assert (shown[0]["service"], shown[0]["state"], shown[0]["outcome"]) == ("b", "closed", "merged")
    assert ids(api, "state=closed") == []
    story = api.client.get(f"{PATH}/{left['id']}").get_json()
    assert sorted(alert["service"] for alert in story["alerts"]) == ["a", "b", "db"]


def test_one_incident_is_its_whole_story(api: Any) -> None:
    """Timeline in order, diagnosis, actions, and the alerts with their labels."""
    incident_id = api.open("cart", diagnosis={"failure_class": "service_failure"}, plan=["restart"])
    action = {
        "id": f"{incident_id}/restart-1",
        "incident_id": incident_id,
        "strategy": "restart",
        "platform": "http",
        "target": "http:cart",
        "disruptive": True,
        "attempt": 1,
        "status": "succeeded",
        "verdict": "healed",
        "detail": "answered 202",
        "before": {"started_at": 1},
        "intended_at": api.clock(),
        "started_at": api.clock(),
        "finished_at": api.clock() + 1,
    }
    entries = [Entry(Kind.EVIDENCE, "fact", {"query": "up"}), Entry(Kind.ACTION, "did it")]

    def write(connection: Any) -> None:
        statements.insert_action(connection, action)
        timeline.append(connection, incident_id, entries, api.clock())

    api.store.write(write)
    story = api.client.get(f"{PATH}/{incident_id}").get_json()
    assert story.keys() >= SUMMARY | {"timeline", "diagnosis", "actions", "alerts"}
    assert [entry["kind"] for entry in story["timeline"]] == ["alert", "evidence", "action"]
    assert story["timeline"][1]["data"] == {"query": "up"}
    assert [entry["id"] for entry in story["timeline"]] == sorted(entry["id"] for entry in story["timeline"])
    assert story["diagnosis"] == {"failure_class": "service_failure"}
    (told,) = story["actions"]
    assert (
        told.items()
        >= {
            "id": action["id"],
            "status": "succeeded",
            "verdict": "healed",
            "finished_at": "2027-01-15T08:00:01.000Z",
        }.items()
    )
    (alert,) = story["alerts"]
    assert alert["labels"]["service"] == "cart"
    assert (alert["fingerprint"], alert["status"]) == ("cart", "firing")
