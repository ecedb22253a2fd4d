"""POST /api/v1/alerts: what is answered with 202 is on disk, what is not will be sent again or never."""

import json
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from structlog.testing import capture_logs
from werkzeug import Request, Response
from werkzeug.test import TestResponse

from self_healing_fabric.store import sqlite

PATH = "/api/v1/alerts"
BODIES = sorted((Path(__file__).parents[2] / "data" / "webhook").glob("*.json"))
FIRING = json.loads(next(path for path in BODIES if path.stem == "firing_single").read_text())


def body(**changes: Any) -> dict[str, Any]:
    """The body of one firing alert, with changes to that alert."""
    return {**FIRING, "alerts": [{**FIRING["alerts"][0], **changes}]}


def assert_problem(response: TestResponse, status: int) -> dict[str, Any]:
    """The response is a problem document of this status; returns it."""
    assert response.status_code == status, response.text
    assert response.content_type == "application/problem+json"
    document: dict[str, Any] = response.get_json()
    assert document["status"] == status
    assert document["title"]
    assert document["detail"]
    return document


def test_there_are_bodies_of_a_real_alertmanager() -> None:
    """The next test would pass with an empty folder."""
    assert len(BODIES) >= 12


@pytest.mark.parametrize("path", BODIES, ids=lambda path: path.stem)
def test_what_alertmanager_sends_is_stored(api: Any, path: Path) -> None:
    """202, every alert of the body, labels and annotations unchanged."""
    sent = json.loads(path.read_text())
    response = api.client.post(PATH, data=path.read_bytes(), content_type="application/json")
    assert response.status_code == 202
    assert response.get_json() == {"stored": len(sent["alerts"]), "truncated": sent["truncatedAlerts"]}
    # Alerts of one notification are stored in the order of their identity, not in the one they came in.
    sent["alerts"].sort(key=lambda alert: (alert["fingerprint"], alert["startsAt"]))
    assert api.alerts() == [(alert["fingerprint"], alert["status"]) for alert in sent["alerts"]]
    columns = "SELECT labels, annotations FROM alerts ORDER BY id"
    rows = api.store.read(lambda connection: connection.exec_driver_sql(columns).all())
    assert [json.loads(row.labels) for row in rows] == [alert["labels"] for alert in sent["alerts"]]
    assert [json.loads(row.annotations) for row in rows] == [alert["annotations"] for alert in sent["alerts"]]


def test_what_was_answered_with_202_is_in_the_file(api: Any, tmp_path: Path) -> None:
    """Another process that opens the database sees it as it came: the commit came before the answer."""
    data = json.dumps(FIRING).encode()
    assert api.client.post(PATH, data=data).status_code == 202
    with closing(sqlite3.connect(tmp_path / "shf.db")) as other:
        assert other.execute("SELECT body FROM inbox").fetchall() == [(data,)]


def test_a_repeated_body_is_stored_once_and_accepted_again(api: Any) -> None:
    """Retries, repeats and HA pairs get 202 each time."""
    for _ in range(3):
        assert api.client.post(PATH, json=FIRING).status_code == 202
    assert len(api.alerts()) == 1


def test_both_peers_of_a_pair_tell_of_one_alert(api: Any) -> None:
    """Bodies A and B of a real HA pair are one alert."""
    for name in ("ha_duplicate_from_a", "ha_duplicate_from_b"):
        path = next(path for path in BODIES if path.stem == name)
        assert api.client.post(PATH, data=path.read_bytes()).status_code == 202
    assert len(api.alerts()) == 1


def test_keys_of_newer_versions_are_ignored(api: Any) -> None:
    """An Alertmanager that says more is still understood."""
    sent = body(newer=1) | {"alsoNewer": {"a": []}}
    assert api.client.post(PATH, json=sent).status_code == 202


def test_an_empty_list_of_alerts_is_accepted(api: Any) -> None:
    """Nothing to store is no error."""
    assert api.client.post(PATH, json={**FIRING, "alerts": []}).get_json() == {"stored": 0, "truncated": 0}


@pytest.mark.parametrize("data", [b"", b"not json", b"{", b'{"version": "4"', b"\xff\xfe", b'"\\ud800"'])
def test_what_is_not_json_is_a_400(api: Any, data: bytes) -> None:
    """It will never parse, so it is not asked for again; nothing is stored."""
    assert_problem(api.client.post(PATH, data=data, content_type="application/json"), 400)
    assert api.alerts() == []


WRONG: list[tuple[Any, str]] = [
    ([], ""),
    ("text", ""),
    (None, ""),
    ({}, "version"),
    ({**FIRING, "version": "3"}, "version"),
    ({**FIRING, "version": 4}, "version"),
    ({**FIRING, "alerts": None}, "alerts"),
    ({**FIRING, "truncatedAlerts": -1}, "truncatedAlerts"),
    ({**FIRING, "truncatedAlerts": 10**400}, "truncatedAlerts"),
    (body(status="suppressed"), "alerts.0.status"),
    (body(labels=None), "alerts.0.labels"),
    (body(labels={"a": 1}), "alerts.0.labels.a"),
    (body(annotations=[]), "alerts.0.annotations"),
    (body(fingerprint=""), "alerts.0.fingerprint"),
    (body(fingerprint="f" * 65), "alerts.0.fingerprint"),
    (body(startsAt="yesterday"), "alerts.0.startsAt"),
    (body(startsAt="2026-11-22T07:31:33"), "alerts.0.startsAt"),
    (body(startsAt="0001-01-01T00:00:00+14:00"), "alerts.0.startsAt"),
    (body(startsAt="9999-12-31T23:59:59-14:00"), "alerts.0.startsAt"),
    ({**FIRING, "alerts": [*FIRING["alerts"], {}]}, "alerts.1.status"),
]


@pytest.mark.parametrize(
    ("sent", "path"), WRONG, ids=[f"{path or 'body'}-{n}" for n, (_, path) in enumerate(WRONG)]
)
def test_another_shape_is_a_422_with_the_path(api: Any, sent: Any, path: str) -> None:
    """The first wrong place is named, and not even the sound alerts of the body are stored."""
    document = assert_problem(api.client.post(PATH, data=json.dumps(sent)), 422)
    assert document["errors"][0]["path"] == path
    assert api.alerts() == []


def test_a_422_does_not_repeat_what_was_sent(api: Any) -> None:
    """Labels can hold secrets, and logs are read by many."""
    response = api.client.post(PATH, json=body(labels={"password": 1234567890}))
    assert "1234567890" not in response.text


def test_a_422_is_bounded(api: Any) -> None:
    """A thousand wrong alerts are not a thousand lines."""
    document = assert_problem(api.client.post(PATH, json={**FIRING, "alerts": [{}] * 1000}), 422)
    assert len(document["errors"]) == 20


def test_a_body_over_the_limit_is_a_413(make_api: Callable[..., Any]) -> None:
    """At the limit it is taken, one byte over it is not."""
    api = make_api(max_body_bytes=2048)
    data = json.dumps(FIRING).encode()
    assert api.client.post(PATH, data=data.ljust(2048)).status_code == 202
    assert_problem(
        api.client.post(PATH, data=json.dumps(body(fingerprint="other")).encode().ljust(2049)), 413
    )
    assert len(api.alerts()) == 1


def test_while_draining_it_is_a_503_that_asks_to_come_again(api: Any) -> None:
    """Alertmanager repeats a 5xx; nothing is stored."""
    api.fabric.drain()
    response = api.client.post(PATH, json=FIRING)
    assert_problem(response, 503)
    assert int(response.headers["Retry-After"]) > 0
    assert api.alerts() == []


def test_a_store_that_cannot_be_written_is_a_503(
    make_api: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not stored, not 2xx; when the database is free again the repetition is stored."""
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT", 0.05)
    api = make_api()
    with closing(sqlite3.connect(tmp_path / "shf.db", isolation_level=None)) as shell:
        shell.execute("BEGIN IMMEDIATE")
        response = api.client.post(PATH, json=FIRING)
        shell.execute("ROLLBACK")
    document = assert_problem(response, 503)
    assert "locked" in document["detail"]
    assert response.headers["Retry-After"]
    assert api.alerts() == []
    assert api.client.post(PATH, json=FIRING).status_code == 202
    assert len(api.alerts()) == 1


def test_a_closed_store_is_a_503(api: Any) -> None:
    """A request that comes too late is sent to somebody else."""
    api.store.close()
    assert_problem(api.client.post(PATH, json=FIRING), 503)


def test_every_answer_is_counted_by_its_code(make_api: Callable[..., Any], tmp_path: Path) -> None:
    """All seven codes of the contract, wherever in the application they arise."""
    token = tmp_path / "token"
    token.write_text("abc")
    (tmp_path / "reader").write_text("reader")
    callers = {"reader": {"rights": ["read"], "token_file": tmp_path / "reader"}}
    api = make_api(auth={"token_file": token, "callers": callers}, max_body_bytes=4096)
    codes = ("202", "400", "401", "403", "413", "422", "503")
    assert {code: api.metric("shf_webhook_requests_total", code=code) for code in codes} == dict.fromkeys(
        codes, 0
    )
    headers = {"Authorization": "Bearer abc"}
    api.client.post(PATH, json=FIRING, headers=headers)
    api.client.post(PATH, data=b"x", headers=headers)
    api.client.post(PATH, json=FIRING)
    api.client.post(PATH, json=FIRING, headers={"Authorization": "Bearer reader"})
    api.client.post(PATH, data=b" " * 5000, headers=headers)
    api.client.post(PATH, json={}, headers=headers)
    full = "CREATE TRIGGER full BEFORE INSERT ON inbox BEGIN SELECT RAISE(ABORT, 'the disk is full'); END"
    api.store.write(lambda connection: connection.exec_driver_sql(full) and None)
    api.client.post(PATH, json=FIRING, headers=headers)
    assert {code: api.metric("shf_webhook_requests_total", code=code) for code in codes} == dict.fromkeys(
        codes, 1
    )


def test_a_refusal_is_told_in_the_log_and_not_at_every_try(
    make_api: Callable[..., Any], tmp_path: Path
) -> None:
    """Why and whose, once a minute for each status: who wonders why nothing arrives looks here."""
    (tmp_path / "token").write_text("abc")
    api = make_api(auth={"token_file": tmp_path / "token"})

    def refused(**request: Any) -> list[Any]:
        with capture_logs() as logs:
            assert api.client.post(PATH, json={}, **request).status_code in (401, 422)
        return [line for line in logs if line["event"] == "notification_refused"]

    (line,) = refused(headers={"Authorization": "Bearer wrong"})
    assert (line["status"], line["sender"]) == (401, "127.0.0.1")
    assert line["reason"] == "send `Authorization: Bearer <token>` that the fabric knows"
    assert refused() == []
    assert [line["status"] for line in refused(headers={"Authorization": "Bearer abc"})] == [422]
    api.clock.now += 60
    assert len(refused(headers={"Accept": "text/html"})) == 1


def test_other_paths_are_not_counted_as_notifications(api: Any) -> None:
    """The counter is of the webhook only."""
    api.client.get("/api/v1/mode")
    api.client.get("/nothing")
    assert api.metric("shf_webhook_requests_total", code="404") is None


def test_alerts_are_counted_by_status_when_stored(api: Any) -> None:
    """Refused bodies count nothing."""
    path = next(path for path in BODIES if path.stem == "group_partly_resolved")
    sent = json.loads(path.read_text())["alerts"]
    api.client.post(PATH, data=path.read_bytes())
    api.client.post(PATH, json=body(status="x"))
    for status in ("firing", "resolved"):
        expected = sum(alert["status"] == status for alert in sent)
        assert api.metric("shf_alerts_received_total", status=status) == expected


def test_only_post_is_taken(api: Any) -> None:
    """A redirect turns the POST into a GET that would count as delivered: it must fail."""
    assert_problem(api.client.get(PATH), 405)


class Alertmanager:
    """Lists what it did not send, and counts how often it was asked."""

    def __init__(self, server: HTTPServer) -> None:
        self.url = server.url_for("/am")
        self.asked = 0
        server.expect_request("/am/api/v2/alerts").respond_with_handler(self._list)
        receivers = [{"name": "self-healing-fabric"}]
        server.expect_request("/am/api/v2/receivers").respond_with_json(receivers)
        server.expect_request("/am/api/v2/silences").respond_with_json([])

    def _list(self, _: Request) -> Response:
        self.asked += 1
        alert = {
            "fingerprint": "cut-off",
            "startsAt": "2026-11-22T07:31:33.778Z",
            "labels": {"alertname": "ShfLatencyHigh", "service": "cart"},
            "receivers": [{"name": "self-healing-fabric"}],
            "status": {"state": "active"},
        }
        return Response(json.dumps([alert] if self.asked > 1 else []), mimetype="application/json")


def eventually(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    """Whether it becomes true in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False


def test_what_was_cut_off_is_fetched_at_once(make_api: Callable[..., Any], httpserver: HTTPServer) -> None:
    """`max_alerts` cut alerts off: they are counted, and fetched long before the next comparison is due."""
    alertmanager = Alertmanager(httpserver)
    api = make_api(alertmanager={"url": alertmanager.url}, reconcile_interval=3600)
    api.fabric.start()
    assert eventually(lambda: alertmanager.asked == 1)
    api.client.post(PATH, json=FIRING)
    assert not eventually(lambda: alertmanager.asked > 1, seconds=1.5)
    api.client.post(PATH, json={**FIRING, "truncatedAlerts": 7})
    assert eventually(lambda: ("cut-off", "firing") in api.alerts())
    assert alertmanager.asked == 2
    assert api.metric("shf_alerts_truncated_total") == 7.0


def test_nothing_cut_off_is_nothing_counted(api: Any) -> None:
    """The counter exists at 0 and stays there."""
    api.client.post(PATH, json=FIRING)
    assert api.metric("shf_alerts_truncated_total") == 0.0
