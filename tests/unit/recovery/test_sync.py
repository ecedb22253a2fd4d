"""Sync over HTTP on a real server: what is counted is what the target was told, byte for byte."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from deadline import within_deadline
from self_healing_fabric.recovery.configuration.desired import LARGEST
from self_healing_fabric.recovery.effects import (
    DIFF,
    Effect,
    NotApplicable,
    Progress,
    TargetAway,
    TargetUnreadable,
)
from self_healing_fabric.recovery.outcomes import BEGINS_WITHIN, Status
from self_healing_fabric.recovery.strategies import strategies
from self_healing_fabric.recovery.strategies.sync import CHANGE
from self_healing_fabric.settings import Settings

CANARY = "canary-of-the-configuration"
WANTED = f"pool: 20\npassword: {CANARY}\n".encode()
RUNNING = f"# by hand, in a hurry\r\npool: 5\r\npassword: {CANARY}\r\n".encode()


class Endpoint:
    """A service that tells and takes its configuration; it keeps every request that it was sent."""

    def __init__(self, server: HTTPServer) -> None:
        self.content = RUNNING
        self.puts: list[tuple[bytes, Mapping[str, str]]] = []
        self.status = 204
        self.takes = True
        self.away = 0  # how often it does not answer once it took a configuration
        self.tells_etag = True
        self.weak = False
        self.encoding: str | None = None
        self.before_put: Any = lambda: None
        self.after_put: Any = lambda: None
        self.url = server.url_for("/config")
        server.expect_request("/config", method="GET").respond_with_handler(self._get)
        server.expect_request("/config", method="PUT").respond_with_handler(self._put)

    @property
    def etag(self) -> str:
        return f'{"W/" if self.weak else ""}"{hashlib.sha256(self.content).hexdigest()[:12]}"'

    def _get(self, _: Request) -> Response:
        if self.puts and self.away:
            self.away -= 1
            return Response("", 503)
        headers = {"ETag": self.etag} if self.tells_etag else {}
        if self.encoding is not None:
            headers["Content-Encoding"] = self.encoding
        return Response(self.content, headers=headers, mimetype="application/yaml")

    def _put(self, request: Request) -> Response:
        self.before_put()
        body = request.get_data()
        self.puts.append((body, dict(request.headers)))
        if request.headers.get("If-Match") != self.etag:
            return Response("", 412)
        if self.takes:
            self.content = body
        self.after_put()
        return Response("", self.status)


@pytest.fixture
def endpoint(httpserver: HTTPServer) -> Endpoint:
    """A service whose pool is too small."""
    return Endpoint(httpserver)


@pytest.fixture
def wanted(tmp_path: Path) -> Path:
    """The file with the wanted configuration."""
    path = tmp_path / "cart.yaml"
    path.write_bytes(WANTED)
    return path


def sync(endpoint: Endpoint, wanted: Path, **more: Any) -> Effect:
    """The effect on a service that is configured so."""
    live = {"http": endpoint.url, **more.pop("live", {})}
    configuration = {"desired": {"file": wanted}, "live": live, "format": "yaml", **more}
    recovery = {"configuration": configuration, "http": {"restart": "http://127.0.0.1:9/restart"}}
    settings = Settings(services={"cart": {"recovery": recovery}})  # type: ignore[dict-item]
    return strategies(settings)["sync"].on("cart")


def perform(effect: Effect, before: Mapping[str, Any], permit: Any = lambda: True) -> Any:
    """Perform as the orchestrator does, with what came back from the store."""
    return effect.perform(
        key="i1/sync-ab", attempt=1, before=json.loads(json.dumps(before)), permit=permit
    )  # fmt: skip


def test_the_wanted_bytes_are_put_once_over_what_was_read(endpoint: Endpoint, wanted: Path) -> None:
    """One PUT with the very bytes of the file, If-Match of what was read, and the key of the action."""
    effect, etag = sync(endpoint, wanted), endpoint.etag
    before = effect.snapshot()
    assert before[DIFF] == ["- pool: 5", "+ pool: 20"]
    outcome = perform(effect, before)
    assert outcome.status is Status.SUCCEEDED
    ((body, headers),) = endpoint.puts
    assert body == WANTED == endpoint.content
    assert (headers["If-Match"], headers["Idempotency-Key"]) == (etag, "i1/sync-ab")
    assert headers["Content-Type"].startswith("application/yaml")
    assert effect.settled(before).progress is Progress.DONE
    assert effect.target == f"configuration:{endpoint.url}"


def test_the_previous_bytes_come_back_exactly(endpoint: Endpoint, wanted: Path) -> None:
    """Comments, line ends and all: what was there is there again."""
    effect = sync(endpoint, wanted)
    before = effect.snapshot()
    perform(effect, before)
    back = sync(endpoint, wanted).undo(json.loads(json.dumps(before)))
    assert back is not None
    assert perform(back, back.snapshot()).status is Status.SUCCEEDED
    assert endpoint.content == RUNNING
    assert len(endpoint.puts) == 2
    assert effect.undone_unless_healed


def test_what_somebody_changed_since_is_not_taken_back(endpoint: Endpoint, wanted: Path) -> None:
    """Neither before the undo looked nor after: the colleague's bytes stay."""
    effect = sync(endpoint, wanted)
    before = effect.snapshot()
    perform(effect, before)
    back = effect.undo(before)
    assert back is not None
    ready = back.snapshot()
    endpoint.content = b"pool: 7\n"
    assert perform(back, ready).status is Status.FAILED
    with pytest.raises(NotApplicable, match="somebody has changed"):
        back.snapshot()
    assert endpoint.content == b"pool: 7\n"


def test_no_drift_is_no_reason_to_write(endpoint: Endpoint, wanted: Path) -> None:
    """Another order and another comment are none; nothing is sent."""
    endpoint.content = f"# hello\npassword: '{CANARY}'\npool: 20".encode()
    with pytest.raises(NotApplicable, match="there is no drift"):
        sync(endpoint, wanted).snapshot()
    assert endpoint.puts == []


def test_whoever_comes_in_between_wins(endpoint: Endpoint, wanted: Path) -> None:
    """Changed between the look and the PUT: 412, failed, and the other's bytes stay."""
    effect = sync(endpoint, wanted)
    before = effect.snapshot()
    endpoint.before_put = lambda: setattr(endpoint, "content", b"pool: 9\n")
    outcome = perform(effect, before)
    assert outcome.status is Status.FAILED
    assert "somebody has changed" in outcome.detail
    assert endpoint.content == b"pool: 9\n"


@pytest.mark.parametrize("status", [409, 412])
def test_a_write_that_a_proxy_has_sent_twice_has_succeeded(
    endpoint: Endpoint, wanted: Path, status: int
) -> None:
    """The second is refused because of the first: it is in force, and will be proved or put back."""
    effect = sync(endpoint, wanted)
    before, endpoint.status = effect.snapshot(), status
    outcome = perform(effect, before)
    assert (outcome.status, endpoint.content) == (Status.SUCCEEDED, WANTED)


@pytest.mark.parametrize(
    ("status", "takes", "expected"),
    [
        (500, True, Status.SUCCEEDED),
        (500, False, Status.INDETERMINATE),
        (302, False, Status.INDETERMINATE),
        (200, False, Status.INDETERMINATE),
        (403, False, Status.FAILED),
    ],
)
def test_what_an_answer_leaves_open_the_target_tells(
    endpoint: Endpoint, wanted: Path, status: int, takes: bool, expected: Status
) -> None:
    """It is believed only when it reads as wanted; a 200 that changed nothing is no success."""
    endpoint.status, endpoint.takes = status, takes
    effect = sync(endpoint, wanted)
    assert perform(effect, effect.snapshot()).status is expected
    assert len(endpoint.puts) == 1


def test_an_answer_that_never_comes_is_learnt_from_the_target(wanted: Path) -> None:
    """The bytes arrived, the answer did not."""
    with HTTPServer(threaded=True) as server:
        endpoint, release = Endpoint(server), threading.Event()
        endpoint.after_put = lambda: release.wait(30)
        effect = sync(endpoint, wanted, live={"timeout": 0.3})
        try:
            outcome = perform(effect, effect.snapshot())
        finally:
            release.set()
    assert outcome.status is Status.SUCCEEDED
    assert "no answer" in outcome.detail


def test_a_target_that_restarts_itself_with_the_new_configuration_is_asked_when_it_is_back(
    endpoint: Endpoint, wanted: Path
) -> None:
    """It breaks off its answer and answers nobody until it is back: no reason to call people."""
    effect = sync(endpoint, wanted)
    before, endpoint.status, endpoint.away = effect.snapshot(), 502, 2
    outcome = perform(effect, before)
    assert (outcome.status, len(endpoint.puts)) == (Status.SUCCEEDED, 1)
    endpoint.away = 2
    assert effect.observe(before).status is Status.SUCCEEDED


def test_after_a_crash_the_target_is_compared_with_both_sides(endpoint: Endpoint, wanted: Path) -> None:
    """Also when the wanted file says something else by then. A third state is nobody's to judge."""
    before = json.loads(json.dumps(sync(endpoint, wanted).snapshot()))
    wanted.write_bytes(b"pool: 99\n")
    effect = sync(endpoint, wanted)
    assert effect.observe(before).status is Status.FAILED
    endpoint.content = WANTED
    assert effect.observe(before).status is Status.SUCCEEDED
    endpoint.content = f"password: {CANARY}\npool: 20".encode()  # the target writes it in its own words
    assert effect.observe(before).status is Status.SUCCEEDED
    endpoint.content = b"pool: 1\n"
    assert effect.observe(before).status is Status.INDETERMINATE
    assert effect.settled(before).progress is Progress.FAILED
    assert endpoint.puts == []


def test_without_a_permit_nothing_is_sent(endpoint: Endpoint, wanted: Path) -> None:
    """The permit is asked when the connection stands."""
    effect = sync(endpoint, wanted)
    outcome = perform(effect, effect.snapshot(), permit=lambda: False)
    assert (outcome.status, outcome.retry_in) == (Status.FAILED, 0.0)
    assert endpoint.puts == []


def test_a_target_without_versions_is_not_written(endpoint: Endpoint, wanted: Path) -> None:
    """Without a strong ETag nobody can tell whether somebody else's change would be overwritten."""
    effect = sync(endpoint, wanted)
    endpoint.tells_etag = False
    with pytest.raises(TargetUnreadable, match="no ETag"):
        effect.snapshot()
    endpoint.tells_etag = endpoint.weak = True
    with pytest.raises(TargetUnreadable, match="a weak ETag"):
        effect.snapshot()


def test_packed_bytes_are_no_other_configuration(endpoint: Endpoint, wanted: Path) -> None:
    """Who packs though nobody asked for it is not compared with, and not written to."""
    endpoint.encoding = "gzip"
    with pytest.raises(TargetUnreadable, match=r"packed \(gzip\), which was not asked for") as error:
        sync(endpoint, wanted).snapshot()
    assert not isinstance(error.value, TargetAway)


def test_what_is_too_large_to_be_kept_is_refused(endpoint: Endpoint, wanted: Path) -> None:
    """The previous bytes could not be restored; so nothing is begun."""
    endpoint.content = b"x" * (LARGEST + 1)
    with pytest.raises(TargetUnreadable, match="larger than"):
        sync(endpoint, wanted).snapshot()


def test_a_target_that_drips_is_not_waited_for(
    wanted: Path, endpoint: Endpoint, server_that_drips: str
) -> None:
    """Each byte comes in time, and the whole never does."""
    endpoint.url = server_that_drips
    with pytest.raises(TargetUnreadable, match=r"takes longer than 0\.5 s"):
        within_deadline(sync(endpoint, wanted, live={"timeout": 0.5}).snapshot)


def test_an_answer_to_the_write_that_drips_is_not_waited_for(
    wanted: Path, endpoint: Endpoint, server_that_drips: str
) -> None:
    """The target is asked what became of it, and does not tell: people are called."""
    before = sync(endpoint, wanted).snapshot()
    endpoint.url = server_that_drips
    effect = sync(endpoint, wanted, live={"timeout": 0.5})
    assert within_deadline(lambda: perform(effect, before)).status is Status.INDETERMINATE


def test_a_wanted_configuration_that_is_broken_has_no_effect(endpoint: Endpoint, wanted: Path) -> None:
    """Its place is told, its text is not."""
    wanted.write_bytes(f"pool: 20\npassword: [{CANARY}\n".encode())
    with pytest.raises(TargetUnreadable, match=r"cart\.yaml: it is no valid YAML at line 3") as raised:
        sync(endpoint, wanted).snapshot()
    assert CANARY not in str(raised.value)
    assert endpoint.puts == []


@pytest.mark.parametrize(
    ("form", "content"),
    [("yaml", b""), ("yaml", b"# later\n---\n"), ("json", b"null"), ("text", b" \r\n")],
)
def test_a_wanted_configuration_that_says_nothing_has_no_effect(
    endpoint: Endpoint, wanted: Path, form: str, content: bytes
) -> None:
    """A file that was truncated, or is just being written: what runs stays as it is."""
    wanted.write_bytes(content)
    with pytest.raises(TargetUnreadable, match=r"cart\.yaml: it is empty"):
        sync(endpoint, wanted, format=form).snapshot()
    assert endpoint.puts == []


def test_a_running_configuration_that_is_broken_is_replaced(endpoint: Endpoint, wanted: Path) -> None:
    """And comes back as broken as it was."""
    endpoint.content = broken = b"pool: [\n\xff"
    effect = sync(endpoint, wanted)
    before = effect.snapshot()
    assert perform(effect, before).status is Status.SUCCEEDED
    back = effect.undo(before)
    assert back is not None
    assert perform(back, back.snapshot()).status is Status.SUCCEEDED
    assert endpoint.content == broken


def test_a_target_that_is_away_is_said(wanted: Path, endpoint: Endpoint) -> None:
    """Before: it cannot be read. At the write: it never arrived. After it: not known."""
    effect = sync(endpoint, wanted)
    before = effect.snapshot()
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint.url = f"http://127.0.0.1:{unused.getsockname()[1]}/config"
        away = sync(endpoint, wanted)
        with pytest.raises(TargetUnreadable, match="cannot be asked"):
            away.snapshot()
        assert perform(away, before).status is Status.FAILED
        assert away.observe(before).status is Status.INDETERMINATE


def test_the_longest_effect_covers_the_call(endpoint: Endpoint, wanted: Path) -> None:
    """A PUT that is still under way must not be judged yet."""
    assert sync(endpoint, wanted, live={"timeout": 7.0}).longest_effect >= BEGINS_WITHIN + 7.0


def test_only_the_change_itself_holds_secrets(endpoint: Endpoint, wanted: Path) -> None:
    """The diff beside it may be shown to people."""
    wanted.write_bytes(b"pool: 20\npassword: another-canary-of-it\n")
    before = dict(sync(endpoint, wanted).snapshot())
    del before[CHANGE]
    assert "canary" not in json.dumps(before)
    assert "+ password: ****** (another value)" in before[DIFF]


def test_a_service_without_configuration_cannot_be_synced() -> None:
    """It says what is missing."""
    known = strategies(Settings(services={"cart": {}}))  # type: ignore[dict-item]
    with pytest.raises(NotApplicable, match=r"cart has no `recovery\.configuration`"):
        known["sync"].on("cart")


@pytest.mark.parametrize(
    "wrong",
    [
        {"live": {}},
        {"live": {"http": "http://a/", "configmap": {"name": "a", "key": "b"}}},
        {"live": {"object": {"kind": "ConfigMap", "name": "a"}}},
        {"desired": {"manifest": "a.yaml"}},
        {"force": True},
        {"restart": True},
    ],
)
def test_what_makes_no_sense_is_refused_at_start(wrong: dict[str, Any]) -> None:
    """No place or two, a file for an object, a manifest for a URL, a restart that nothing can do."""
    configuration = {"desired": {"file": "a"}, "live": {"http": "http://a/"}, **wrong}
    with pytest.raises(ValueError, match="configuration"):
        Settings(services={"cart": {"recovery": {"configuration": configuration}}})  # type: ignore[dict-item]
