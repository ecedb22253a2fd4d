"""People, as apprise reaches them: mail taken by a real SMTP server, chat by what Mattermost's API takes.

What arrives is read there, as the reader's program would: the words of labels must not become headers or
marks on the way, and what was taken is not sent again.
"""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
from pytest_httpserver import HTTPServer
from structlog.testing import capture_logs
from werkzeug import Request, Response

from deadline import within_deadline
from dripping_server import IN_GREETING, IN_HEADERS, dripping_server
from self_healing_fabric.escalation.calls import Call, Kind
from self_healing_fabric.escalation.channels import CallFailed, channels
from self_healing_fabric.escalation.channels import people as people_channel
from self_healing_fabric.escalation.messages import Message
from self_healing_fabric.settings import Settings
from shf_demo.ports import free_ports

PASSWORD = "password-of-ours"
TITLE = "cart: does not answer ü\r\nBcc: evil@example.org"
BODY = "Cause: code_bug.\n<script>alert(1)</script> <!channel> @all\n.\nNext: look at it."
CALL = Call("i1/call-1", Kind.ESCALATION, "i1", "cart", 2, "memory", "human", ("human",), "not healed")
MESSAGE = Message("i1/call-1", TITLE, BODY, {"links": {}}, (CALL,), {})


class Post:
    """An SMTP server that keeps what it takes; `refused` are mailboxes that it does not know."""

    def __init__(self) -> None:
        self.taken: list[Envelope] = []
        self.refused: set[str] = set()
        self.logins: list[LoginPassword] = []
        self.closed = False

    async def handle_RCPT(  # noqa: N802 - aiosmtpd's name
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address in self.refused:
            return "550 no such mailbox"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        if self.closed:
            return "451 try again later"
        self.taken.append(envelope)
        return "250 taken"

    def login(self, server: SMTP, session: Session, envelope: Envelope, how: str, data: Any) -> AuthResult:
        self.logins.append(data)
        return AuthResult(success=data.password == PASSWORD.encode())

    def mails(self) -> list[EmailMessage]:
        """As a mail program reads them."""
        return [message_from_bytes(each.content or b"", policy=policy.default) for each in self.taken]  # type: ignore[arg-type,misc]


@pytest.fixture
def post() -> Post:
    """What the mail server has."""
    return Post()


@pytest.fixture
def tls(tmp_path: Path) -> ssl.SSLContext:
    """For a server on localhost, by an authority that only those know who read `ca.crt`."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.crt")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    return context


@pytest.fixture
def mail(post: Post, tls: ssl.SSLContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The server's address; it speaks STARTTLS and wants a password, as a provider's does."""
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.crt"))
    (port,) = free_ports(1)
    server = Controller(
        post,
        hostname="127.0.0.1",
        port=port,
        authenticator=post.login,
        auth_required=True,
        require_starttls=True,
        tls_context=tls,
    )
    server.start()
    yield f"localhost:{port}"
    server.stop()


def mailto(address: str, to: str) -> str:
    return f"mailto://shf:{PASSWORD}@{address}?mode=starttls&from=shf@example.com&to={to}"


def people(tmp_path: Path, *urls: str) -> Any:
    """The channel."""
    (tmp_path / "urls").write_text("\n".join(urls) + "\n")
    settings = {"apprise": {"urls_file": tmp_path / "urls"}}
    return channels(Settings(escalation={"channels": {"people": settings}}))["people"]


def test_a_mail_arrives(mail: str, post: Post, tmp_path: Path) -> None:
    """Over TLS, with the password; the words as they are, and no header out of them."""
    people(tmp_path, mailto(mail, "ada@example.com")).send(MESSAGE, {})
    (envelope,), (arrived,) = post.taken, post.mails()
    assert envelope.rcpt_tos == ["ada@example.com"]
    assert post.logins[0].login == b"shf"
    assert arrived["From"].addresses[0].addr_spec == "shf@example.com"
    assert arrived["Bcc"] is None
    assert "cart: does not answer ü" in arrived["Subject"]
    text = arrived.get_body(("plain", "html"))
    assert text is not None
    shown = text.get_content()
    assert "Cause: code_bug." in shown
    assert "Next: look at it." in shown, "a line with a dot does not end the mail"
    if text.get_content_type() == "text/html":
        assert "<script>" not in shown
    assert PASSWORD not in str(arrived)


def test_a_mailbox_that_is_gone_is_tried_again_alone(mail: str, post: Post, tmp_path: Path) -> None:
    """Ada has her mail; the try that follows is for Bob only. No password is told."""
    post.refused = {"bob@example.com"}
    channel = people(tmp_path, mailto(mail, "ada@example.com"), mailto(mail, "bob@example.com"))
    with capture_logs() as lines, pytest.raises(CallFailed, match="line 2") as caught:
        channel.send(MESSAGE, {})
    assert caught.value.partly
    assert PASSWORD not in json.dumps([lines, caught.value.progress, str(caught.value)], default=str)
    post.refused = set()
    channel.send(MESSAGE, caught.value.progress)
    assert [each.rcpt_tos for each in post.taken] == [["ada@example.com"], ["bob@example.com"]]


@pytest.mark.parametrize("trouble", ["away", "later", "password"])
def test_a_mail_server_in_trouble_is_no_success(mail: str, post: Post, tmp_path: Path, trouble: str) -> None:
    """It does not answer, takes nothing just now, or does not know us: tried again, and people are told."""
    post.closed = trouble == "later"
    (nobody,) = free_ports(1)
    url = mailto(f"localhost:{nobody}" if trouble == "away" else mail, "ada@example.com")
    if trouble == "password":
        url = url.replace(PASSWORD, "wrong")
    with pytest.raises(CallFailed, match=r"line 1 of .* did not take it"):
        people(tmp_path, url).send(MESSAGE, {})
    assert post.taken == []


def test_a_chat_message_arrives(httpserver: HTTPServer, tmp_path: Path) -> None:
    """As Mattermost's incoming webhooks take it; a 500 of theirs is tried again."""
    answers = [500, 200]
    got: list[Any] = []

    def take(request: Request) -> Response:
        got.append(request.get_json())
        return Response("ok", status=answers.pop(0))

    token = "abcdefghijklmnopqrstuvwxyz"
    httpserver.expect_request(f"/hooks/{token}", method="POST").respond_with_handler(take)
    channel = people(tmp_path, f"mmost://127.0.0.1:{httpserver.port}/{token}")
    with pytest.raises(CallFailed, match="line 1") as caught:
        channel.send(MESSAGE, {})
    assert token not in str(caught.value)
    channel.send(MESSAGE, caught.value.progress)
    assert len(got) == 2
    assert "Cause: code_bug." in got[1]["text"]
    assert "Next: look at it." in got[1]["text"]


def test_a_chat_server_of_an_own_authority_is_trusted_when_the_environment_says_so(
    tls: ssl.SSLContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As docs/access.md says; nothing is sent to one that nobody vouches for."""
    token = "abcdefghijklmnopqrstuvwxyz"
    with HTTPServer("localhost", 0, ssl_context=tls) as server:
        server.expect_request(f"/hooks/{token}", method="POST").respond_with_data("ok")
        channel = people(tmp_path, f"mmosts://localhost:{server.port}/{token}")
        with pytest.raises(CallFailed, match="line 1"):
            channel.send(MESSAGE, {})
        assert server.log == []
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "ca.crt"))
        channel.send(MESSAGE, {})
        assert len(server.log) == 1


@pytest.mark.parametrize("begins", [IN_HEADERS, IN_GREETING], ids=["chat", "mail"])
def test_a_service_that_never_ends_its_answer_keeps_nobody_else_from_hearing(
    httpserver: HTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begins: bytes
) -> None:
    """It is given up after a time, is named, and alone is tried again."""
    monkeypatch.setattr(people_channel, "SENT_WITHIN", 3.0)
    httpserver.expect_request("/well", method="POST").respond_with_data("ok")
    with dripping_server(begins) as url:
        place = url.removeprefix("http://")
        mail = f"mailto://a:b@{place}?mode=insecure&from=shf@example.com&to=ada@example.com"
        sick = mail if begins == IN_GREETING else f"json://{place}/"
        channel = people(tmp_path, sick, f"json://127.0.0.1:{httpserver.port}/well")
        with pytest.raises(CallFailed, match=r"line 1 of .* did not return within 3 s") as caught:
            within_deadline(lambda: channel.send(MESSAGE, {}))
    assert caught.value.partly
    with pytest.raises(CallFailed, match="line 1"):
        within_deadline(lambda: channel.send(MESSAGE, caught.value.progress))
    assert len(httpserver.log) == 1


def test_who_is_not_told_for_want_of_a_thread_is_told_later_and_nobody_else_again(
    httpserver: HTTPServer, tmp_path: Path
) -> None:
    """Others of the same container may have taken all: each line needs one, in which it can be given up."""
    ada, bob = (f"json://127.0.0.1:{httpserver.port}/{name}" for name in ("ada", "bob"))
    httpserver.expect_request("/ada", method="POST").respond_with_data("ok")
    httpserver.expect_request("/bob", method="POST").respond_with_data("ok")
    reached = people(tmp_path, ada).send(MESSAGE, {}).progress
    channel = people(tmp_path, ada, bob)
    before = threading.stack_size(1 << 45)  # bytes, that no system has
    try:
        with pytest.raises(CallFailed, match=r"line 2 .* can't start new thread") as caught:
            channel.send(MESSAGE, reached)
    finally:
        threading.stack_size(before)
    assert caught.value.progress == reached
    channel.send(MESSAGE, caught.value.progress)
    assert [request.path for request, _ in httpserver.log] == ["/ada", "/bob"]
