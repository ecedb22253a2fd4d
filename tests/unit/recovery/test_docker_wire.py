"""Restart of a container through what guards an engine's socket, on a scripted server."""

from __future__ import annotations

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Response

from deadline import within_deadline
from dripping_server import IN_BODY, IN_HEADERS, dripping_server
from self_healing_fabric.diagnosis.sources import SourceUnusable
from self_healing_fabric.diagnosis.sources.docker import DockerSource
from self_healing_fabric.recovery.effects import Effect, TargetAway, TargetUnreadable
from self_healing_fabric.recovery.outcomes import Status
from self_healing_fabric.recovery.platforms import docker
from self_healing_fabric.recovery.platforms.docker import DockerPlatform
from self_healing_fabric.settings import DockerRecovery

ID = "0123456789abcdef" * 4
BEFORE = {"id": ID, "started_at": "2026-11-30T03:24:23.46Z", "restart_count": 0}


def guarded(server: HTTPServer, status: str = "running") -> Effect:
    """A restart of `cart` over a proxy that lets nobody see more than the container."""
    state = {"Status": status, "Running": status == "running", "StartedAt": BEFORE["started_at"]}
    container = {"Id": ID, "Name": "/cart", "RestartCount": 0, "State": state, "Config": {}}
    answers = {"/version": {"ApiVersion": "1.41"}, "/v1.41/containers/cart/json": container}
    for path, answer in answers.items():
        server.expect_request(path, method="GET").respond_with_json(answer)
    server.no_handler_status_code = 403
    settings = DockerRecovery(container="cart", host=f"tcp://127.0.0.1:{server.port}")
    return DockerPlatform(settings).effect("restart")


def test_an_order_that_is_not_allowed_has_failed(httpserver: HTTPServer) -> None:
    """A socket for reading: nothing happened, for certain, and people hear what it must allow."""
    effect = guarded(httpserver)
    path = f"/v1.41/containers/{ID}/restart"
    httpserver.expect_request(path, method="POST").respond_with_data("<h1>Forbidden</h1>", 403)
    outcome = effect.perform(key="key", attempt=1, before=effect.snapshot(), permit=lambda: True)
    assert outcome.status is Status.FAILED
    assert "refused with 403" in outcome.detail
    assert "must allow POST /containers/cart/restart" in outcome.detail


def test_who_ended_a_container_must_be_told(httpserver: HTTPServer) -> None:
    """Without the engine's events it may be people who stopped it."""
    effect = guarded(httpserver, "exited")
    with pytest.raises(TargetUnreadable, match="whether somebody has stopped it is not told"):
        effect.snapshot()


def test_an_engine_that_is_away_may_be_asked_again_and_one_that_refuses_may_not(
    httpserver: HTTPServer,
) -> None:
    """An engine is away while it is updated; what guards it does not change its mind."""
    away = DockerPlatform(DockerRecovery(container="cart", host="tcp://127.0.0.1:1")).effect("restart")
    with pytest.raises(TargetAway):
        away.snapshot()
    httpserver.expect_request("/version").respond_with_json({"ApiVersion": "1.41"})
    settings = DockerRecovery(container="cart", host=f"tcp://127.0.0.1:{httpserver.port}")
    httpserver.no_handler_status_code = 403
    with pytest.raises(TargetUnreadable, match="403") as error:
        DockerPlatform(settings).effect("restart").snapshot()
    assert not isinstance(error.value, TargetAway)


def test_an_answer_of_a_proxy_in_the_middle_leaves_it_open(httpserver: HTTPServer) -> None:
    """504: the engine may still be at it."""
    effect = guarded(httpserver)
    path = f"/v1.41/containers/{ID}/restart"
    httpserver.expect_request(path, method="POST").respond_with_handler(lambda _: Response("", 504))
    outcome = effect.perform(key="key", attempt=1, before=BEFORE, permit=lambda: True)
    assert outcome.status is Status.INDETERMINATE


@pytest.mark.parametrize("begins", [IN_BODY, IN_HEADERS], ids=["body", "headers"])
def test_an_engine_whose_answer_comes_byte_by_byte_is_away(
    begins: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked for a repair and for a diagnosis: neither waits for ever, and what works goes on."""
    monkeypatch.setattr(docker, "ENGINE_TIMEOUT", 1.0)
    with dripping_server(begins) as url:
        settings = DockerRecovery(container="cart", host=url.replace("http", "tcp"))
        with pytest.raises(TargetAway):
            within_deadline(DockerPlatform(settings).effect("restart").snapshot)
        with pytest.raises(SourceUnusable):
            within_deadline(lambda: DockerSource("cart", settings).look(0.0, 1.0))
