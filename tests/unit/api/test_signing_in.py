"""Signing in to the pages: a secret once, then a cookie that ends with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_pages import BROWSER, get, post

from self_healing_fabric.api import sessions
from self_healing_fabric.settings import AuthSettings

Make = Callable[..., Any]


@pytest.fixture
def secrets(tmp_path: Path) -> dict[str, Any]:
    """One token for everything, somebody who only reads, and somebody with a password."""
    for name in ("everything", "looker", "ada", "sender"):
        (tmp_path / name).write_text(f"secret-of-{name}\n")
    return {
        "token_file": tmp_path / "everything",
        "callers": {
            "looker": {"rights": ["read"], "token_file": tmp_path / "looker"},
            "ada": {"rights": ["control"], "username": "ada", "password_file": tmp_path / "ada"},
            "sender": {"rights": ["send"], "token_file": tmp_path / "sender"},
        },
    }


@pytest.fixture
def guarded(make_api: Make, secrets: dict[str, Any]) -> Any:
    """A fabric that wants to know who asks."""
    return make_api(auth=secrets)


def sign_in(api: Any, secret: str, username: str = "", back: str = "/") -> Any:
    """Fill in the form."""
    return post(api, "/login", secret=secret, username=username, next=back)


def test_a_browser_without_a_session_gets_the_way_in(guarded: Any) -> None:
    """401 with a form instead of a dialog; a client of the API gets what it always got."""
    page = get(guarded, "/incidents/20260101-000000-abcdef")
    assert page.status_code == 401
    assert 'name="next" value="/incidents/20260101-000000-abcdef"' in page.text
    assert "User name" in page.text
    assert guarded.client.get("/").content_type == "application/problem+json"
    answer = guarded.client.post("/mode", data={"mode": "paused"}, headers=BROWSER)
    assert (answer.status_code, "nothing was changed" in answer.text) == (401, True)
    assert 'name="next" value="/"' in answer.text


@pytest.mark.parametrize("page", ["/", "/incidents/20260101-0-ab", "/messages/20260101-0-ab/call-01ab"])
def test_who_follows_a_link_of_a_message_comes_to_it_by_signing_in(guarded: Any, page: str) -> None:
    """Nobody has to look for the mail again."""
    assert f'name="next" value="{page}"' in get(guarded, page).text
    assert sign_in(guarded, "secret-of-looker", back=page).location == page


@pytest.mark.parametrize("path", ["/", "/login", "/nothing-here"])
def test_a_stranger_is_not_told_where_the_servers_are(guarded: Any, path: str) -> None:
    """Addresses of the inside are for those who were let in."""
    assert guarded.settings.prometheus.url not in get(guarded, path).text
    sign_in(guarded, "secret-of-looker")
    assert guarded.settings.prometheus.url in get(guarded, "/").text


def test_who_mistypes_an_address_is_not_asked_to_sign_in_again(guarded: Any) -> None:
    """There is no such page, which is told to whoever is signed in and to nobody else."""
    assert get(guarded, "/nothing-here").status_code == 401
    sign_in(guarded, "secret-of-looker")
    page = get(guarded, "/nothing-here")
    assert (page.status_code, "There is no such page." in page.text) == (404, True)


@pytest.mark.parametrize(
    ("secret", "username", "name"),
    [("secret-of-everything", "", None), ("secret-of-looker", "", "looker"), ("secret-of-ada", "ada", "ada")],
)
def test_a_secret_lets_in_and_brings_back(guarded: Any, secret: str, username: str, name: str | None) -> None:
    """A token or a password; then every page is there, and the page says as whom."""
    answer = sign_in(guarded, secret, username, "/incidents/x")
    assert (answer.status_code, answer.location) == (303, "/incidents/x")
    cookie = next(each for each in answer.headers.getlist("Set-Cookie") if each.startswith(sessions.COOKIE))
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    assert secret not in cookie
    page = get(guarded, "/")
    assert page.status_code == 200
    assert "Sign out" in page.text
    assert (f"Signed in as {name}" in page.text) is (name is not None)


@pytest.mark.parametrize(
    ("secret", "username"),
    [("wrong", ""), ("", ""), ("secret-of-ada", ""), ("secret-of-everything", "ada"),
     ("secret-of-ada", "bob"), ("ada:secret-of-ada", ""), ("x" * 5000, "")],
)  # fmt: skip
def test_a_wrong_secret_lets_nobody_in(guarded: Any, secret: str, username: str) -> None:
    """No cookie, and the same words whatever was wrong."""
    answer = sign_in(guarded, secret, username)
    assert answer.status_code == 403
    assert "That is no token or password that the fabric knows." in answer.text
    assert sessions.COOKIE not in answer.headers.get("Set-Cookie", "")
    assert get(guarded, "/").status_code == 401
    assert guarded.metric("shf_unknown_secrets_total") == 1


def test_who_may_only_read_is_offered_no_buttons_and_can_press_none(guarded: Any) -> None:
    """Neither on the page nor by a form sent anyway."""
    incident_id = guarded.open("cart", state="awaiting_approval", plan=["restart"], diagnosis=None)
    sign_in(guarded, "secret-of-looker")
    for path in ("/", f"/incidents/{incident_id}", f"/incidents/{incident_id}/live"):
        page = get(guarded, path)
        assert page.status_code == 200
        assert 'action="/mode"' not in page.text
        assert "formaction" not in page.text
    for path in ("/mode", f"/incidents/{incident_id}/approve", f"/incidents/{incident_id}/verdict"):
        answer = post(guarded, path, mode="paused", plan="restart", answer="right")
        assert answer.status_code == 403
        assert "needs the right" in answer.text
    assert guarded.incident(incident_id).state == "awaiting_approval"


def test_a_decision_bears_the_name_of_who_signed_in(guarded: Any) -> None:
    """A named caller is not asked for a name, and cannot take another one silently."""
    incident_id = guarded.open("cart", state="escalated")
    sign_in(guarded, "secret-of-ada", "ada")
    assert "Your name" not in get(guarded, f"/incidents/{incident_id}").text
    post(guarded, f"/incidents/{incident_id}/acknowledge")
    assert guarded.incident(incident_id).acknowledged_by == "ada"
    post(guarded, f"/incidents/{incident_id}/escalate", by="grace")
    story = guarded.client.get(f"/incidents/{incident_id}", headers=BROWSER).text
    assert "grace (as ada) asked for it" in story


def test_who_rotates_a_secret_ends_its_sessions(guarded: Any, tmp_path: Path) -> None:
    """And no other's; a lost file ends them too."""
    sign_in(guarded, "secret-of-looker")
    assert get(guarded, "/").status_code == 200
    (tmp_path / "everything").write_text("another")
    assert get(guarded, "/").status_code == 200
    (tmp_path / "looker").write_text("another")
    assert get(guarded, "/").status_code == 401
    (tmp_path / "looker").write_text("secret-of-looker")
    assert get(guarded, "/").status_code == 200
    (tmp_path / "looker").unlink()
    page = get(guarded, "/")
    assert (page.status_code, "cannot be read" in page.text) == (503, True)


def test_a_session_ends_with_the_shift(guarded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """After its lifetime the same cookie is worth nothing."""
    now = [1_800_000_000.0]
    monkeypatch.setattr(sessions, "time", SimpleNamespace(time=lambda: now[0]))
    answer = sign_in(guarded, "secret-of-everything")
    cookie = answer.headers["Set-Cookie"].partition("=")[2].partition(";")[0]
    guarded.client.delete_cookie(sessions.COOKIE)
    guarded.client.set_cookie(sessions.COOKIE, cookie)  # whatever the browser thinks of its age
    now[0] += sessions.LIFETIME - 1
    assert get(guarded, "/").status_code == 200
    now[0] += 2
    assert get(guarded, "/").status_code == 401


def test_signing_out_forgets_the_session(guarded: Any) -> None:
    """The next page is the way in."""
    sign_in(guarded, "secret-of-everything")
    assert post(guarded, "/logout").location == "/login"
    assert get(guarded, "/").status_code == 401


def test_a_session_works_on_every_replica_and_after_a_restart(secrets: dict[str, Any]) -> None:
    """Nothing is kept: whoever can read the secret can check the cookie."""
    here, there = (AuthSettings.model_validate(secrets).credentials() for _ in range(2))
    found = sessions.credential_of(sessions.value_of(here[1], 1000.0), there, 2000.0)
    assert found is not None
    assert found.caller == "looker"


@pytest.mark.parametrize("change", ["name", "time", "signature", "nonsense", "empty", "other"])
def test_a_cookie_that_was_changed_is_worth_nothing(secrets: dict[str, Any], change: str) -> None:
    """Another name, a later end, another signature: all of it is signed."""
    credentials = AuthSettings.model_validate(
        {**secrets, "callers": {**secrets["callers"], "sender": secrets["callers"]["looker"]}}
    ).credentials()
    value = sessions.value_of(credentials[1], 1000.0)
    payload, _, signature = value.partition(".")
    other = sessions.value_of(credentials[0], 1000.0).partition(".")
    later = sessions.value_of(credentials[1], 2000.0).partition(".")
    changed = {
        "name": f"{other[0]}.{signature}",
        "time": f"{later[0]}.{signature}",
        "signature": f"{payload}.{signature[:-2]}AA",
        "nonsense": "a.b\u20ac",
        "empty": "",
        "other": f"{payload}.{other[2]}",
    }[change]
    assert sessions.credential_of(value, credentials, 1500.0) is not None
    assert sessions.credential_of(changed, credentials, 1500.0) is None


def test_the_api_takes_no_cookie(guarded: Any) -> None:
    """What a browser sends by itself opens pages only, which guard their forms."""
    sign_in(guarded, "secret-of-everything")
    assert get(guarded, "/").status_code == 200
    assert guarded.client.get("/api/v1/mode").status_code == 401
    assert guarded.client.put("/api/v1/mode", json={"mode": "paused"}).status_code == 401


@pytest.mark.parametrize(
    "back", ["https://evil.example/", "//evil.example", "/\\evil", "/incidents/../x", "x"]
)
def test_nobody_is_sent_elsewhere_after_signing_in(guarded: Any, back: str) -> None:
    """A link to our page to sign in is no way to another site."""
    assert sign_in(guarded, "secret-of-everything", back=back).location == "/"
