"""Channels against real servers: what arrives, signed and once, and how failures are told without secrets."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from structlog.testing import capture_logs
from werkzeug import Request, Response

from self_healing_fabric.errors import ShfError
from self_healing_fabric.escalation.calls import Call, Kind
from self_healing_fabric.escalation.channels import CallFailed, channels
from self_healing_fabric.escalation.channels.people import shortened
from self_healing_fabric.escalation.messages import Message
from self_healing_fabric.settings import Settings

SECRET = "0123456789abcdef0123"
CALL = Call("i1/call-1", Kind.ESCALATION, "i1", "cart", 2, "memory", "human", ("human",), "not healed")
STORY = {"severity": "critical", "acknowledged_by": None, "alerts": []}
MESSAGE = Message("i1/call-1", "title", "body", {"incident": "ü", "links": {}}, (CALL,), {"i1": STORY})


def guardian(server: HTTPServer, tmp_path: Path, secret: str = SECRET, **options: Any) -> Any:
    """A channel to the path /five."""
    (tmp_path / "secret").write_text(secret + "\n")
    settings = {"url": server.url_for("/five"), "secret_file": tmp_path / "secret", **options}
    return channels(Settings(escalation={"channels": {"five": {"guardian": settings}}}))["five"]


def people(tmp_path: Path, *urls: str) -> Any:
    """A channel to apprise's URLs."""
    (tmp_path / "urls").write_text("# on call\n\n" + "\n".join(urls) + "\n")
    settings = {"apprise": {"urls_file": tmp_path / "urls"}}
    return channels(Settings(escalation={"channels": {"chat": settings}}))["chat"]


def test_the_log_always_hears_of_a_call() -> None:
    """A log pipeline can page on the event `escalated`."""
    with capture_logs() as lines:
        channels(Settings())["log"].send(MESSAGE, {})
    (line,) = lines
    assert (line["event"], line["log_level"], line["incident"]) == ("escalated", "warning", "i1")
    assert (line["level"], line["called"], line["reason"]) == (2, ["human"], "not healed")


@pytest.mark.parametrize("secret", [SECRET, "whsec_" + base64.b64encode(SECRET.encode()).decode()])
def test_a_guardian_can_verify_the_call(httpserver: HTTPServer, tmp_path: Path, secret: str) -> None:
    """Signed over id, timestamp and body, as Standard Webhooks says: computed here from what arrived."""
    httpserver.expect_request("/five", method="POST").respond_with_json({"decision": "acknowledge"})
    receipt = guardian(httpserver, tmp_path, secret).send(MESSAGE, {})
    ((request, _),) = httpserver.log
    identity, timestamp = request.headers["webhook-id"], request.headers["webhook-timestamp"]
    signed = f"{identity}.{timestamp}.".encode() + request.get_data()
    digest = base64.b64encode(hmac.new(SECRET.encode(), signed, hashlib.sha256).digest()).decode()
    assert request.headers["webhook-signature"] == f"v1,{digest}"
    assert identity == request.headers["Idempotency-Key"] == "i1/call-1"
    assert abs(int(timestamp) - time.time()) < 60
    assert request.get_json()["incident"] == "ü"
    assert receipt.answer == {"decision": "acknowledge"}


def test_a_redirect_is_not_followed(httpserver: HTTPServer, tmp_path: Path) -> None:
    """It would become a GET somewhere else, unsigned by anybody."""
    httpserver.expect_request("/five").respond_with_data(status=302, headers={"Location": "/elsewhere"})
    httpserver.expect_request("/elsewhere").respond_with_data()
    with pytest.raises(CallFailed, match="answered 302") as caught:
        guardian(httpserver, tmp_path).send(MESSAGE, {})
    assert caught.value.final
    assert [request.path for request, _ in httpserver.log] == ["/five"]


def test_a_guardian_that_hangs_is_given_up(httpserver: HTTPServer, tmp_path: Path) -> None:
    """Its timeout ends the try, which may be tried again."""
    httpserver.expect_request("/five").respond_with_handler(lambda _: time.sleep(1) or Response())  # type: ignore[func-returns-value]
    with pytest.raises(CallFailed, match="ReadTimeout") as caught:
        guardian(httpserver, tmp_path, timeout=0.2).send(MESSAGE, {})
    assert not caught.value.final


@pytest.mark.parametrize(
    ("body", "kind", "answer"),
    [
        (b"", "application/json", None),
        (b"OK", "text/plain", None),
        (b"{", "application/json", {"unreadable": "{"}),
        (b'"yes"', "application/json", {"unreadable": "yes"}),
        (b"[" * 50_000, "application/json", {"unreadable": "[" * 200}),
        (
            b"[" + b"1," * 40_000 + b"1]",
            "application/json",
            {"unreadable": "more than 65536 bytes, or too slow"},
        ),
    ],
)
def test_what_is_no_answer_is_none(
    httpserver: HTTPServer, tmp_path: Path, body: bytes, kind: str, answer: Any
) -> None:
    """A guardian need not answer; what cannot be read is handed on as such, to be noted."""
    httpserver.expect_request("/five").respond_with_data(body, content_type=kind)
    assert guardian(httpserver, tmp_path).send(MESSAGE, {}).answer == answer


@pytest.mark.parametrize(("secret", "told"), [("short", "at least 16"), ("whsec_*", "no base64")])
def test_a_weak_secret_signs_nothing(httpserver: HTTPServer, tmp_path: Path, secret: str, told: str) -> None:
    """The check says so, and nothing is sent."""
    channel = guardian(httpserver, tmp_path, secret)
    with pytest.raises(ShfError, match=told):
        channel.check()
    with pytest.raises(CallFailed, match=told):
        channel.send(MESSAGE, {})
    assert httpserver.log == []


def test_people_are_reached_through_apprise(httpserver: HTTPServer, tmp_path: Path) -> None:
    """Title and body as plain text, once for each URL, and only once when it is tried again."""
    httpserver.expect_request("/a", method="POST").respond_with_data()
    answers = [503, 200]
    httpserver.expect_request("/b", method="POST").respond_with_handler(
        lambda _: Response(status=answers.pop(0))
    )
    base = httpserver.url_for("").replace("http://", "json://user:token-of-ours@")
    channel = people(tmp_path, f"{base}/a", f"{base}/b")
    with capture_logs() as lines, pytest.raises(CallFailed, match="line 4") as caught:
        channel.send(MESSAGE, {})
    assert caught.value.partly
    channel.send(MESSAGE, caught.value.progress)
    assert sorted(request.path for request, _ in httpserver.log) == ["/a", "/b", "/b"]
    content = httpserver.log[0][0].get_json()
    assert (content["title"], content["message"]) == ("title", "body")
    assert "token-of-ours" not in json.dumps([lines, caught.value.progress, str(caught.value)])


def test_what_is_too_long_for_a_service_is_cut_and_keeps_its_links(
    httpserver: HTTPServer, tmp_path: Path
) -> None:
    """A service refuses it whole, for ever; who wants all of it says so in the URL."""
    httpserver.expect_request("/a", method="POST").respond_with_data()
    httpserver.expect_request("/b", method="POST").respond_with_data()
    lines = [f"incident {number} needs help" for number in range(2000)]
    body = "\n".join([*lines, "All: https://shf.example/"])
    base = httpserver.url_for("").replace("http://", "json://")
    channel = people(tmp_path, f"{base}/a", f"{base}/b?overflow=split")
    channel.send(replace(MESSAGE, body=body), {})
    (cut,) = [request.get_json() for request, _ in httpserver.log if request.path == "/a"]
    assert len(cut["title"]) + len(cut["message"]) < 32_768  # as apprise knows of this kind of service
    assert cut["message"].startswith("incident 0 needs help\nincident 1 needs help")
    assert cut["message"].endswith("\nincident 1999 needs help\nAll: https://shf.example/")
    split = [request.get_json()["message"] for request, _ in httpserver.log if request.path == "/b"]
    assert len(split) == 2
    assert all(any(line in part for part in split) for line in lines[::100])


@pytest.mark.parametrize(("limit", "characters"), [(1000, 900), (1000, 1001), (1022, 5000)])
def test_a_shortened_text_fits(limit: int, characters: int) -> None:
    """Also one of a single line, which has no end to keep."""
    text = "x" * characters
    assert len(shortened(text, limit)) == min(limit, characters)
    assert len(shortened(f"{text}\nlink", limit)) == min(limit, characters + 5)


def test_a_line_that_apprise_does_not_know_keeps_nobody_else_from_hearing(
    httpserver: HTTPServer, tmp_path: Path
) -> None:
    """Who stands before and behind it is told once; the line is named until somebody mends it."""
    httpserver.expect_request("/a", method="POST").respond_with_data()
    httpserver.expect_request("/b", method="POST").respond_with_data()
    base = httpserver.url_for("").replace("http://", "json://")
    channel = people(tmp_path, f"{base}/a", "nonsense", f"{base}/b")
    progress: dict[str, Any] = {}
    for _ in range(2):
        with pytest.raises(CallFailed, match="line 4: not a URL that apprise knows") as caught:
            channel.send(MESSAGE, progress)
        assert caught.value.partly
        progress = dict(caught.value.progress)
    assert sorted(request.path for request, _ in httpserver.log) == ["/a", "/b"]
    with pytest.raises(ShfError, match="line 4"):
        channel.check()


def test_whom_an_earlier_try_reached_stays_reached_when_the_file_is_gone(
    httpserver: HTTPServer, tmp_path: Path
) -> None:
    """A call that ends like this was heard: the next level must not be told that nobody was."""
    httpserver.expect_request("/a", method="POST").respond_with_data()
    base = httpserver.url_for("").replace("http://", "json://")
    channel = people(tmp_path, f"{base}/a", "nonsense")
    with pytest.raises(CallFailed, match="line 4") as first:
        channel.send(MESSAGE, {})
    (tmp_path / "urls").unlink()
    with pytest.raises(CallFailed, match="cannot be read") as second:
        channel.send(MESSAGE, first.value.progress)
    assert second.value.partly
    assert second.value.progress == first.value.progress


@pytest.mark.parametrize(
    ("urls", "told"),
    [([], "holds no URL"), (["nonsense://token-of-ours"], "line 3: not a URL that apprise knows")],
)
def test_urls_that_cannot_work_are_told_without_them(
    tmp_path: Path,
    urls: list[str],
    told: str,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """They hold secrets: neither our words nor apprise's log may show them."""
    channel = people(tmp_path, *urls)
    with pytest.raises(ShfError, match=told) as caught:
        channel.check()
    with pytest.raises(CallFailed, match=told):
        channel.send(MESSAGE, {})
    assert "token-of-ours" not in str(caught.value) + "".join(capfd.readouterr()) + caplog.text


def test_a_file_that_is_gone_is_told(tmp_path: Path) -> None:
    """By its name."""
    channel = people(tmp_path)
    (tmp_path / "urls").unlink()
    with pytest.raises(ShfError, match=r"urls cannot be read: No such file"):
        channel.check()


def test_no_alertmanager_takes_the_alert(httpserver: HTTPServer) -> None:
    """Each answer is told; one of a cluster is enough."""
    httpserver.expect_request("/bad/api/v2/alerts").respond_with_data("no labels", status=400)
    httpserver.expect_request("/good/api/v2/alerts").respond_with_data()
    bad, good = httpserver.url_for("/bad"), httpserver.url_for("/good")

    def on_call(*urls: str) -> Any:
        return channels(Settings(escalation={"channels": {"on-call": {"alertmanager": {"urls": urls}}}}))[
            "on-call"
        ]

    with pytest.raises(CallFailed, match="answered 400: no labels"):
        on_call(bad).send(MESSAGE, {})
    on_call(bad, good).send(MESSAGE, {})


def test_the_alert_says_level_and_place(httpserver: HTTPServer) -> None:
    """Labels that routes and inhibitions compare; it begins once and lives until it is over."""
    posted: list[dict[str, Any]] = []

    def take(request: Request) -> Response:
        posted.extend(request.get_json())
        return Response()

    httpserver.expect_request("/api/v2/alerts", method="POST").respond_with_handler(take)
    urls = [httpserver.url_for("").rstrip("/")]
    channel = channels(Settings(escalation={"channels": {"on-call": {"alertmanager": {"urls": urls}}}}))[
        "on-call"
    ]
    labels = {"cluster": "c", "namespace": "n", "pod": "p"}
    stories = {"i1": {**STORY, "alerts": [{"service": "cart", "labels": labels, "annotations": {}}]}}
    kept = Message("k", "title", "body", {"links": {"runbook": "https://run"}}, (CALL,), stories)
    receipt = channel.send(kept, {})
    channel.send(kept, receipt.progress)
    ended = Call(**{**vars(CALL), "kind": Kind.ENDED, "id": "k2"})
    channel.send(Message("k2", "over", "body", {"links": {}}, (ended,), stories), receipt.progress)
    assert [alert["labels"] for alert in posted] == [
        {
            "alertname": "ShfEscalation", "escalation_level": "2", "contact": "human", "service": "cart",
            "incident": "i1", "call": CALL.id, "severity": "critical", "page": "now", "cluster": "c",
            "namespace": "n",
        }
    ] * 3  # fmt: skip
    assert posted[0]["startsAt"] == posted[1]["startsAt"]
    assert posted[0]["endsAt"] > posted[2]["endsAt"]
    assert posted[0]["annotations"]["runbook_url"] == "https://run"
