"""Restart over HTTP, on a real server: what the answer does not tell is learnt from the target."""

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from deadline import within_deadline
from self_healing_fabric.recovery.effects import Effect, TargetAway, TargetUnreadable
from self_healing_fabric.recovery.outcomes import BEGINS_WITHIN, Status, Untold
from self_healing_fabric.recovery.platforms import platform_of
from self_healing_fabric.recovery.platforms.http import HttpPlatform
from self_healing_fabric.recovery.strategies import strategies
from self_healing_fabric.settings import HttpRecovery, Settings

SEVERAL_LINES = "holds more than one line, or control characters: write only the secret"


class Target:
    """A service whose restart URL answers as told, and whose start time changes when it restarts."""

    def __init__(self, server: HTTPServer) -> None:
        self.server = server
        self.started_at: Any = 1
        self.status = 202
        self.restarts = True
        self.keys: list[str | None] = []
        self.hang: threading.Event | None = None
        server.expect_request("/restart", method="POST").respond_with_handler(self._restart)
        server.expect_request("/state", method="GET").respond_with_handler(self._state)

    def _restart(self, request: Request) -> Response:
        self.keys.append(request.headers.get("Idempotency-Key"))
        if self.restarts:
            self.started_at += 1
        if self.hang:
            self.hang.wait(30)
        return Response("", self.status, {"Location": self.server.url_for("/elsewhere")})

    def _state(self, _: Request) -> Response:
        if isinstance(self.started_at, Response):
            return self.started_at
        return Response(json.dumps({"started_at": self.started_at}), mimetype="application/json")

    def platform(self, *, state: bool = True, **more: Any) -> Effect:
        """The restart that is configured for it."""
        started_at = self.server.url_for("/state") if state else None
        return restart_of(
            HttpRecovery(restart=self.server.url_for("/restart"), started_at=started_at, **more)
        )


def restart_of(settings: HttpRecovery) -> Effect:
    """The restart of a service that is configured so."""
    return HttpPlatform("cart", settings).effect("restart")


def allowed() -> bool:
    """A permit that is not over."""
    return True


@pytest.fixture
def target(httpserver: HTTPServer) -> Target:
    """A target that accepts and restarts."""
    return Target(httpserver)


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port on which nobody listens."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        yield unused.getsockname()[1]


@pytest.mark.parametrize("status", [200, 202, 204])
def test_a_2xx_is_a_restart_with_the_key_of_the_action(target: Target, status: int) -> None:
    """One POST, with the idempotency key."""
    target.status = status
    platform = target.platform()
    outcome = platform.perform(key="i1/restart-ab", attempt=1, before=platform.snapshot(), permit=allowed)
    assert outcome.status is Status.SUCCEEDED
    assert target.keys == ["i1/restart-ab"]


def test_without_a_permit_nothing_is_sent() -> None:
    """The permit is asked when the connection stands, which can take seconds; then not one byte goes out."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(5)
        arrived: list[socket.socket] = []

        def forbid() -> bool:
            arrived.append(listener.accept()[0])
            return False

        url = f"http://127.0.0.1:{listener.getsockname()[1]}/restart"
        outcome = restart_of(HttpRecovery(restart=url)).perform(key="k", attempt=1, before={}, permit=forbid)
        (connection,) = arrived
        with connection:
            connection.settimeout(5)
            assert connection.recv(1) == b""
    assert (outcome.status, outcome.retry_in) == (Status.FAILED, 0.0)
    assert "nothing was done" in outcome.detail


@pytest.mark.parametrize("status", [400, 401, 404, 409, 429])
def test_a_4xx_is_a_refusal(target: Target, status: int) -> None:
    """The target says that it did nothing."""
    target.status, target.restarts = status, False
    platform = target.platform()
    outcome = platform.perform(key="k", attempt=1, before=platform.snapshot(), permit=allowed)
    assert outcome.status is Status.FAILED
    assert str(status) in outcome.detail
    assert len(target.keys) == 1


def test_a_target_that_restarts_itself_is_asked_until_it_is_back(target: Target) -> None:
    """It breaks off its answer and answers nobody until it is back: no reason to call people."""
    platform, asked = target.platform(timeout=30.0), []

    def state(_: Request) -> Response:
        asked.append(target.started_at)
        return Response("", 503) if len(asked) < 3 else Response(json.dumps({"started_at": 2}))

    before, target.status = platform.snapshot(), 502
    target.server.clear()
    target.server.expect_request("/restart", method="POST").respond_with_handler(target._restart)
    target.server.expect_request("/state").respond_with_handler(state)
    outcome = platform.perform(key="k", attempt=1, before=before, permit=allowed)
    assert outcome.status is Status.SUCCEEDED
    assert (len(target.keys), len(asked)) == (1, 3)


def test_a_conflict_over_an_order_that_was_carried_out_is_no_refusal(target: Target) -> None:
    """A proxy has sent the POST twice, and the target, which knows the key, answers the second one."""
    target.status = 409
    platform = target.platform()
    outcome = platform.perform(key="k", attempt=1, before=platform.snapshot(), permit=allowed)
    assert outcome.status is Status.SUCCEEDED
    assert "refused with 409; the target says it was started anew" in outcome.detail


@pytest.mark.parametrize("status", [500, 503, 302, 307])
def test_what_another_answer_means_is_learnt_from_the_start_time(target: Target, status: int) -> None:
    """Restarted although it answered 500: succeeded. No change: not known, and never done a second time."""
    target.status = status
    platform = target.platform()
    assert (
        platform.perform(key="k", attempt=1, before=platform.snapshot(), permit=allowed).status
        is Status.SUCCEEDED
    )
    target.restarts = False
    assert (
        platform.perform(key="k", attempt=1, before=platform.snapshot(), permit=allowed).status
        is Status.INDETERMINATE
    )
    assert len(target.keys) == 2
    assert all(request.path != "/elsewhere" for request, _ in target.server.log)


def test_without_a_start_time_a_lost_answer_is_not_known(target: Target) -> None:
    """It goes to a human."""
    target.status = 500
    platform = target.platform(state=False)
    assert platform.snapshot() == {}
    outcome = platform.perform(key="k", attempt=1, before={}, permit=allowed)
    assert outcome.status is Status.INDETERMINATE
    assert "no `started_at` is configured" in outcome.detail


def test_an_answer_that_never_comes_is_learnt_from_the_start_time() -> None:
    """The request arrived, the answer did not: the target tells that it restarted."""
    with HTTPServer(threaded=True) as server:
        target = Target(server)
        target.hang = threading.Event()
        platform = target.platform(timeout=0.3)
        try:
            outcome = platform.perform(key="k", attempt=1, before=platform.snapshot(), permit=allowed)
        finally:
            target.hang.set()
    assert outcome.status is Status.SUCCEEDED
    assert "no answer" in outcome.detail


def test_a_refused_connection_never_carried_the_request(closed_port: int) -> None:
    """Nothing happened, so it failed and may be tried again."""
    url = f"http://127.0.0.1:{closed_port}/restart"
    outcome = restart_of(HttpRecovery(restart=url)).perform(key="k", attempt=1, before={}, permit=allowed)
    assert outcome.status is Status.FAILED
    assert "cannot be reached" in outcome.detail


def test_a_target_that_cannot_tell_after_a_lost_answer_is_not_known(target: Target) -> None:
    """The start time was known before and cannot be read now."""
    platform = target.platform(timeout=0.2)
    before = platform.snapshot()
    target.status, target.restarts = 500, False
    target.started_at = Response("starting", 503)
    assert platform.perform(key="k", attempt=1, before=before, permit=allowed).status is Status.INDETERMINATE


@pytest.mark.parametrize(
    "answer",
    [
        ("", 500),
        ("", 404),
        ("no json", 200),
        ("[]", 200),
        ("{}", 200),
        ('"started_at"', 200),
        ("5", 200),
        ("", 302),
    ],
)
def test_a_start_time_that_cannot_be_read_stops_the_action_before_it_begins(
    target: Target, answer: tuple[str, int]
) -> None:
    """An effect that could not be accounted for is not begun."""
    target.started_at = Response(*answer)
    with pytest.raises(TargetUnreadable, match="/state"):
        target.platform().snapshot()
    assert target.keys == []


def test_a_start_time_on_a_closed_port_is_unreadable(closed_port: int) -> None:
    """The text names the URL; the process is down, so nobody waits for its answer."""
    url = f"http://127.0.0.1:{closed_port}/state"
    with pytest.raises(TargetUnreadable, match=url) as error:
        restart_of(HttpRecovery(restart=url, started_at=url)).snapshot()
    assert not isinstance(error.value, TargetAway)


def test_after_an_order_a_closed_port_may_tell_later(closed_port: int) -> None:
    """Who restarts, or whose host does, listens again in a while."""
    url = f"http://127.0.0.1:{closed_port}/state"
    restart = restart_of(HttpRecovery(restart=url, started_at=url, timeout=0.2))
    assert isinstance(restart.observe({"started_at": 1}), Untold)
    assert not isinstance(restart.observe({}), Untold)


def test_after_a_crash_the_target_tells_what_became_of_it(target: Target) -> None:
    """Observing compares and never acts."""
    platform = target.platform(timeout=0.2)
    before = platform.snapshot()
    assert platform.observe(before).status is Status.FAILED
    target.started_at = "another"
    assert platform.observe(before).status is Status.SUCCEEDED
    target.started_at = Response("", 500)
    assert platform.observe(before).status is Status.INDETERMINATE
    assert platform.observe({}).status is Status.INDETERMINATE
    assert target.keys == []


def test_checking_asks_and_does_not_restart(target: Target) -> None:
    """`shf check` learns the start time, or says what is missing."""
    url = target.server.url_for("/restart")
    checked = [
        HttpRecovery(restart=url, started_at=target.server.url_for("/state")),
        HttpRecovery(restart=url),
    ]
    told = [HttpPlatform("cart", settings).check() for settings in checked]
    assert told[0] == "started_at is 1"
    assert "goes to a human" in told[1]
    assert target.keys == []


def test_the_token_goes_to_both_urls_and_is_read_anew(target: Target, tmp_path: Path) -> None:
    """A rotated token is used; without the file nothing is sent."""
    token = tmp_path / "token"
    token.write_text("one\n")
    platform = target.platform(bearer_token_file=token)
    platform.snapshot()
    token.write_text("two\n")
    platform.perform(key="k", attempt=1, before={}, permit=allowed)
    sent = [request.headers.get("Authorization") for request, _ in target.server.log]
    assert sent == ["Bearer one", "Bearer two"]
    token.unlink()
    with pytest.raises(TargetUnreadable, match="token cannot be read"):
        platform.snapshot()


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "is empty: write the secret into it"),
        (b"canary\nof a second line", SEVERAL_LINES),
        (b"canary\x07", SEVERAL_LINES),
        ("canäry".encode(), "holds no token: an HTTP header takes ASCII only"),
        (b"can\xe4ry", "cannot be read: not UTF-8"),
    ],
)
def test_what_is_no_token_is_neither_sent_nor_told(
    target: Target, tmp_path: Path, content: bytes, what: str
) -> None:
    """The client said what it could not send, all of it, and the timeline and the messages repeated that."""
    token = tmp_path / "token"
    token.write_bytes(content)
    recovery = {"http": {"restart": target.server.url_for("/restart"), "bearer_token_file": token}}
    settings = Settings(services={"cart": {"recovery": recovery}})  # type: ignore[dict-item]
    effect = strategies(settings)["restart"].on("cart")
    outcome = effect.perform(key="k", attempt=1, before={}, permit=allowed)
    assert (outcome.status, outcome.detail) == (Status.FAILED, f"{token} {what}")
    with pytest.raises(TargetUnreadable, match=what):
        target.platform(bearer_token_file=token).snapshot()
    assert target.server.log == []


def test_the_strategy_fails_without_its_token_and_sends_nothing(target: Target, tmp_path: Path) -> None:
    """A token that vanished after the announcement is a failure of the action, not of the fabric."""
    recovery = {"http": {"restart": target.server.url_for("/restart"), "bearer_token_file": tmp_path / "no"}}
    settings = Settings(services={"cart": {"recovery": recovery}})  # type: ignore[dict-item]
    effect = strategies(settings)["restart"].on("cart")
    outcome = effect.perform(key="k", attempt=1, before={}, permit=allowed)
    assert outcome.status is Status.FAILED
    assert target.keys == []


def test_the_target_is_named_by_what_is_acted_on(target: Target) -> None:
    """Two services with one restart URL are one target for the guardrails."""
    recovery = {"recovery": {"http": {"restart": target.server.url_for("/restart")}}}
    settings = Settings(services={"cart": recovery, "shop": recovery, "lamp": {}})  # type: ignore[dict-item]
    one, two = platform_of("cart", settings), platform_of("shop", settings)
    assert one is not None
    assert two is not None
    assert one.target == two.target == f"http:{target.server.url_for('/restart')}"
    assert platform_of("lamp", settings) is None


def test_the_longest_effect_covers_the_call(target: Target) -> None:
    """A restart that is still running must not be observed yet, also one that began as late as it may."""
    assert target.platform(timeout=7.0).longest_effect >= BEGINS_WITHIN + 7.0


def test_an_order_whose_answer_never_ends_is_learnt_from_the_target(
    target: Target, server_that_drips: str
) -> None:
    """It says 200 and never comes to its end: whether it has restarted, its start time tells."""
    restart = {"restart": server_that_drips, "started_at": target.server.url_for("/state")}
    effect = restart_of(HttpRecovery(timeout=0.5, **restart))
    before = effect.snapshot()
    target.started_at = 2
    outcome = within_deadline(lambda: effect.perform(key="k", attempt=1, before=before, permit=lambda: True))
    assert outcome.status is Status.SUCCEEDED
    assert "its answer takes longer than 0.5 s" in outcome.detail


def test_a_start_time_that_never_ends_is_not_waited_for(
    server_that_drips: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The target cannot be asked, so nothing is done to it."""
    monkeypatch.setattr("self_healing_fabric.recovery.platforms.http.READ_TIMEOUT", 0.5)
    effect = restart_of(HttpRecovery(restart=server_that_drips, started_at=server_that_drips))
    with pytest.raises(TargetUnreadable, match=r"its answer takes longer than 0\.5 s"):
        within_deadline(effect.snapshot)
