"""Who may call: with a token configured nobody without it, except for what tells no secrets."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Make = Callable[..., Any]
CALLS = [
    ("POST", "/api/v1/alerts"),
    ("GET", "/api/v1/incidents"),
    ("GET", "/api/v1/incidents/x"),
    ("POST", "/api/v1/incidents/x/close"),
    ("GET", "/api/v1/mode"),
    ("PUT", "/api/v1/mode"),
    ("GET", "/api/v1/status"),
    ("GET", "/nothing"),
    ("POST", "/healthz/../api/v1/alerts"),
    ("GET", "//metrics"),
]


@pytest.fixture
def token(tmp_path: Path) -> Path:
    """A file with the token `s3cret`."""
    path = tmp_path / "token"
    path.write_text("s3cret\n")
    return path


@pytest.fixture
def guarded(make_api: Make, token: Path) -> Any:
    """A fabric that wants the token."""
    return make_api(auth={"token_file": token})


@pytest.mark.parametrize(("method", "path"), CALLS)
def test_without_a_token_it_is_a_401(guarded: Any, method: str, path: str) -> None:
    """Every path but the open ones, existing or not, with the scheme to use."""
    response = guarded.client.open(path, method=method, json={})
    assert response.status_code == 401
    assert response.content_type == "application/problem+json"
    assert response.headers["WWW-Authenticate"].startswith("Bearer")
    assert guarded.alerts() == []


@pytest.mark.parametrize("header", ["", "s3cret", "Basic s3cret", "Bearer", "Bearer "])
def test_a_header_without_a_bearer_token_is_a_401(guarded: Any, header: str) -> None:
    """Another scheme or an empty token is no token."""
    assert guarded.client.get("/api/v1/mode", headers={"Authorization": header}).status_code == 401


@pytest.mark.parametrize("given", ["wrong", "s3cre", "s3crets", "S3CRET", "s3cret x", "sécret", "\x80"])
def test_a_wrong_token_is_a_403(guarded: Any, given: str) -> None:
    """Nearly right is wrong."""
    response = guarded.client.get("/api/v1/mode", headers={"Authorization": f"Bearer {given}"})
    assert response.status_code == 403
    assert "s3cret" not in response.text


@pytest.mark.parametrize("header", ["Bearer s3cret", "bearer s3cret", "Bearer  s3cret"])
def test_the_right_token_passes(guarded: Any, header: str) -> None:
    """The name of the scheme is not case-sensitive."""
    assert guarded.client.get("/api/v1/mode", headers={"Authorization": header}).status_code == 200


def test_a_rotated_token_holds_at_once(guarded: Any, token: Path) -> None:
    """The old one is refused without a restart."""
    token.write_text("next")
    old, new = (
        guarded.client.get("/api/v1/mode", headers={"Authorization": f"Bearer {value}"}).status_code
        for value in ("s3cret", "next")
    )
    assert (old, new) == (403, 200)


@pytest.mark.parametrize("header", ["Bearer s3cret", "Bearer ", "Bearer x", "Bearer \xa0"])
def test_an_emptied_token_file_lets_nobody_in(guarded: Any, token: Path, header: str) -> None:
    """An empty token is no key."""
    token.write_text(" \n")
    response = guarded.client.get("/api/v1/mode", environ_overrides={"HTTP_AUTHORIZATION": header})
    assert response.status_code in (401, 403)


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_token_file_that_cannot_be_read_is_a_503(guarded: Any, token: Path, content: bytes | None) -> None:
    """Nobody gets in, and Alertmanager sends it again."""
    token.unlink()
    if content:
        token.write_bytes(content)
    response = guarded.client.post("/api/v1/alerts", headers={"Authorization": "Bearer s3cret"}, json={})
    assert response.status_code == 503
    assert response.headers["Retry-After"]


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
def test_probes_and_scrapes_need_no_token(guarded: Any, path: str) -> None:
    """They tell no secrets and change nothing."""
    assert guarded.client.get(path).status_code in (200, 503)


def test_on_loopback_without_a_token_everyone_may_call(api: Any) -> None:
    """The default: only this machine can reach it."""
    assert api.client.get("/api/v1/mode").status_code == 200
