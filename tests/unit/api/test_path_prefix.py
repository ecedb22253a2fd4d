"""Below a path of a host that belongs to others too: every link, form, redirect and cookie stays below it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from test_pages import BROWSER, token

from self_healing_fabric.api.pages import forms
from self_healing_fabric.app import BackgroundServer
from shf_demo.ports import reserved_ports

PREFIX = "/shf"
ADDRESSES = re.compile(r'(?:href|src|srcset|action|formaction|data-from|data-login)="(/[^"]*)"')


@pytest.fixture
def outside(make_api: Callable[..., Any], tmp_path: Path) -> Iterator[tuple[Any, httpx.Client]]:
    """A fabric that people reach below a path, and a browser."""
    (tmp_path / "token").write_text("secret-of-ops")
    with reserved_ports(1) as (port,), ExitStack() as leaving:
        api = make_api(
            listen=f"127.0.0.1:{port}",
            external_url=f"http://127.0.0.1:{port}{PREFIX}/",
            auth={"token_file": tmp_path / "token"},
        )
        server = BackgroundServer(api.app, api.fabric)
        server.start()
        leaving.callback(server.stop)
        url = f"http://127.0.0.1:{port}"
        yield api, leaving.enter_context(httpx.Client(base_url=url, headers=BROWSER, trust_env=False))


def send(browser: httpx.Client, page: httpx.Response, action: str, **fields: str) -> httpx.Response:
    """Send a form of a page."""
    return browser.post(action, data={forms.FIELD: token(page), **fields})


def test_a_person_signs_in_looks_and_decides_below_a_path(outside: tuple[Any, httpx.Client]) -> None:
    """What is outside of the path belongs to another program: nothing leads there, no cookie is for it."""
    api, browser = outside
    incident = api.open("cart", state="escalated")
    asked = browser.get(f"{PREFIX}/incidents/{incident}")
    assert asked.status_code == 401
    (action,) = re.findall(r'<form method="post" action="([^"]*/login)"', asked.text)
    back = re.findall(r'name="next" value="([^"]*)"', asked.text)[0]
    signed_in = send(browser, asked, action, secret="secret-of-ops", next=back)
    assert signed_in.headers["Location"] == f"{PREFIX}/incidents/{incident}"
    assert {cookie.path for cookie in browser.cookies.jar} == {PREFIX}

    for path in ("/", f"/incidents/{incident}", f"/incidents/{incident}/signals", "/login", "/nothing"):
        page = browser.get(f"{PREFIX}{path}")
        led = set(ADDRESSES.findall(page.text))
        assert led
        for address in led:
            assert address.startswith(f"{PREFIX}/"), (path, address)
            assert browser.get(address).status_code in (200, 405), (path, address)  # 405: for forms only

    page = browser.get(f"{PREFIX}/incidents/{incident}")
    (action,) = set(re.findall(r'formaction="([^"]*/acknowledge)"', page.text))
    done = send(browser, page, action)
    assert done.headers["Location"] == f"{PREFIX}/incidents/{incident}?done=acknowledge"
    assert api.incident(incident).acknowledged_by
    paused = send(browser, page, f"{PREFIX}/mode", pause="", back=f"/incidents/{incident}")
    assert paused.headers["Location"] == f"{PREFIX}/incidents/{incident}?done=mode"
    assert "Sign in" in browser.get(send(browser, page, f"{PREFIX}/logout").headers["Location"]).text
    assert browser.get(f"{PREFIX}/").status_code == 401


def test_a_proxy_may_take_the_path_away(outside: tuple[Any, httpx.Client]) -> None:
    """The same pages, and Alertmanager need not know of the path."""
    _, browser = outside
    browser.headers["Authorization"] = "Bearer secret-of-ops"
    assert set(ADDRESSES.findall(browser.get("/").text)) == set(
        ADDRESSES.findall(browser.get(f"{PREFIX}/").text)
    )
    for path in ("/healthz", f"{PREFIX}/healthz", "/api/v1/mode", f"{PREFIX}/api/v1/mode"):
        assert browser.get(path).status_code == 200


def test_a_fabric_named_with_a_slash_is_linked_without_two(outside: tuple[Any, httpx.Client]) -> None:
    """`https://ops.example/shf/` is how browsers show it."""
    api, _ = outside
    assert api.settings.external_url.endswith(PREFIX)
