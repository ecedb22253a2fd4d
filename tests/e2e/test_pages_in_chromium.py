"""The pages in a real Chromium: for everybody, with a keyboard, without scripts, and against hostile text."""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright
from pytest_httpserver import HTTPServer
from served_fabric import healing_settings, one_alert_each, served_fabric, stubbed_world

import page_stories
from past_prometheus import past_prometheus
from shf_queries import PrometheusClient
from shf_queries.catalogue import ERROR_RATIO, HEARTBEAT
from world import World

pytestmark = pytest.mark.e2e

FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
PHONE = {"width": 320, "height": 640}
WITHIN = 20_000.0  # milliseconds, for busy machines
STANDARD = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """One browser for all tests of this file; each has a context of its own."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        if os.environ.get("CI"):
            pytest.fail("chromium is not on PATH")
        pytest.skip("NOT TESTED IN A BROWSER: chromium is not on PATH")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, str]]:
    """The incidents of `page_stories`, and where they are served."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    targets = HTTPServer()
    targets.start()
    world = page_stories.a_night(tmp_path_factory.mktemp("night"), targets)
    with page_stories.served(world) as url:
        yield world, url
    world.close()
    targets.stop()


@pytest.fixture
def open_page(chromium: Browser) -> Iterator[Callable[..., Page]]:
    """Open a page in a context of its own, closed with the test."""
    contexts = []

    def opened(**options: Any) -> Page:
        contexts.append(chromium.new_context(**options))
        page = contexts[-1].new_page()
        page.set_default_timeout(WITHIN)
        return page

    yield opened
    for context in contexts:
        context.close()


def paths(world: World) -> dict[str, str]:
    """A page of each kind."""
    found = {"home": "/", "login": "/login", "missing": "/incidents/none"}
    for incident in world.incidents():
        found[incident.service if incident.known_service else "stranger"] = f"/incidents/{incident.id}"
    return {**found, "signals": f"{found['cart']}/signals"}


def test_nothing_stands_in_anybodys_way(open_page: Callable[..., Page], night: tuple[World, str]) -> None:
    """Every kind of page, all of its parts unfolded, passes axe-core's rules of WCAG 2.2 AA and its best
    practices: names, labels, landmarks, headings, contrast."""
    complaints = judged(open_page(), night, STANDARD, *paths(night[0]).keys() - {"payment", "search", "mail"})
    assert not complaints, "\n".join(complaints)


def test_the_dark_is_readable_and_a_phone_has_room(
    open_page: Callable[..., Page], night: tuple[World, str]
) -> None:
    """Contrast in dark colours, and nothing is cut off at 320 pixels."""
    page = open_page(color_scheme="dark", viewport=PHONE)
    complaints = judged(page, night, {"runOnly": ["cat.color"]}, "home", "cart", "signals", "stranger")
    assert not complaints, "\n".join(complaints)
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == "rgb(18, 22, 28)"


def judged(page: Page, night: tuple[World, str], options: dict[str, Any], *names: str) -> list[str]:
    """What axe-core complains of, and pages that are wider than the screen."""
    world, url = night
    complaints = []
    for name in sorted(names):
        page.goto(url + paths(world)[name])
        page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
        results = Axe().run(page, options=options)
        assert results.response["passes"]  # it has looked at something
        if results.violations_count:
            complaints.append(f"{name}: {results.generate_report()}")
        if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
            complaints.append(f"{name}: wider than the screen")
    return complaints


def test_text_of_strangers_runs_nothing_and_calls_nobody(
    open_page: Callable[..., Page], night: tuple[World, str]
) -> None:
    """No script of a label runs, no request leaves the origin, and the policy had nothing to stop."""
    world, url = night
    page = open_page()
    asked, complaints = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    for name in ("home", "stranger", "cart"):
        page.goto(url + paths(world)[name])
        page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
        page.wait_for_load_state("networkidle")
        assert page.title() != "owned"
    assert page_stories.HOSTILE in page_text(page, url, world)
    assert [each for each in asked if not each.startswith(url)] == []
    assert complaints == []


def page_text(page: Page, url: str, world: World) -> str:
    """All that the stranger's page says."""
    page.goto(url + paths(world)["stranger"])
    return page.inner_text("main")


def test_the_policy_stops_what_would_get_through(
    open_page: Callable[..., Page], night: tuple[World, str]
) -> None:
    """Were markup ever let in, it would neither run, nor load, nor be sent anywhere."""
    page = open_page()
    page.goto(night[1])
    page.evaluate(
        """() => {
            document.body.insertAdjacentHTML("beforeend", "<img src=x onerror='document.title=1'>");
            const script = document.createElement("script");
            script.textContent = "document.title = 'owned'";
            document.body.append(script);
            const style = document.createElement("style");
            style.textContent = "body { display: none }";
            document.head.append(style);
        }"""
    )
    page.wait_for_timeout(200)
    assert page.title().endswith("Now · Self-Healing Fabric")
    assert page.is_visible("h1")
    with pytest.raises(Exception, match="Failed to fetch"):
        page.evaluate("fetch('http://127.0.0.2:9/')")


def test_a_form_of_another_origin_changes_nothing(
    open_page: Callable[..., Page], night: tuple[World, str], httpserver: HTTPServer
) -> None:
    """A page on another port posts a form in the name of somebody who has our cookies: refused."""
    world, url = night
    target = f"{url}{paths(world)['payment']}/close"
    form = (
        f'<form method=post action="{target}"><input name=form value="{"x" * 43}"><input name=by value=eve>'
        "</form><script>document.forms[0].submit()</script>"
    )
    httpserver.expect_request("/").respond_with_data(form, content_type="text/html")
    page = open_page()
    page.goto(url)
    assert page.context.cookies()
    with page.expect_response(target) as answer:
        page.goto(httpserver.url_for("/"))
    assert answer.value.status == 403
    assert world.incident_of("payment").state == "escalated"


def test_everything_is_reached_by_keyboard(open_page: Callable[..., Page], night: tuple[World, str]) -> None:
    """The first Tab leads past the head, every control has a visible focus, and Enter in a field decides
    nothing."""
    world, url = night
    page = open_page(viewport={"width": 1000, "height": 800})
    page.goto(url + paths(world)["cart"])
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    assert page.evaluate("document.activeElement.getBoundingClientRect().left") > 0
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    reached = []
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate("document.activeElement.textContent.trim() || document.activeElement.name")
        )
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none", reached[-1]
        if reached[-1] == "Pause everything":
            break
    for control in ("by", "reason", "Approve restart", "Reject", "Acknowledge", "Escalate", "Close"):
        assert control in reached
    page.focus("input[name=reason]")
    page.keyboard.type("not yet")
    page.keyboard.press("Enter")
    page.wait_for_timeout(300)
    assert page.input_value("input[name=reason] >> nth=0") == "not yet"
    assert world.incident_of("cart").state == "awaiting_approval"


def test_without_scripts_everything_is_there_and_the_buttons_work(
    open_page: Callable[..., Page], night: tuple[World, str]
) -> None:
    """The story, the plot as a picture, the details, and a decision."""
    world, url = night
    page = open_page(java_script_enabled=False)
    page.goto(url)
    page.click("text=catalogue does not answer")
    expect(page.locator("h1")).to_have_text("catalogue does not answer")
    for text in ("What comes next", "Cause: code bug in catalogue", "What was done", "Timeline"):
        expect(page.get_by_text(text, exact=True).first).to_be_visible()
    page.locator("img.plot").scroll_into_view_if_needed()
    page.wait_for_load_state("networkidle")
    box = page.locator("img.plot").bounding_box()
    assert box is not None
    assert box["height"] > 200  # the picture came: it has curves, and an empty one is flat
    page.click("text=Give a verdict")
    page.fill("#verdict-by", "ada")
    page.click("text=It was right")
    expect(page.get_by_role("status").first).to_contain_text("Thank you")
    assert any("ada: the diagnosis was right" in line for line in world.story(world.incident_of("catalogue")))


def test_news_arrive_without_disturbing_who_reads(
    open_page: Callable[..., Page], night: tuple[World, str]
) -> None:
    """Somebody else acknowledges: it is shown and announced; what was unfolded stays so, what is half typed
    stays typed, and the focus stays where it was."""
    world, url = night
    page = open_page(viewport={"width": 1000, "height": 800})
    path = paths(world)["search"]
    page.goto(url + path)
    page.click("#alert-1 summary")
    page.focus("#decide-reason")
    page.keyboard.type("half a sen")
    form = {"form": "f" * 43, "by": "grace"}
    with httpx.Client(base_url=url, trust_env=False, cookies={"shf_form": form["form"]}) as other:
        assert other.post(f"{path}/acknowledge", data=form).status_code == 303
    expect(page.locator("section.state")).to_contain_text("taken by grace", timeout=WITHIN)
    expect(page.locator("#news")).to_contain_text("Changed:")
    expect(page.locator("[data-live=timeline]")).to_contain_text("grace acknowledged")
    assert page.evaluate("document.activeElement.id") == "decide-reason"
    page.keyboard.type("tence")
    assert page.input_value("#decide-reason") == "half a sentence"
    assert page.evaluate("document.querySelector('#alert-1').open")
    # The part in use was left alone; it follows when the person is done with it.
    expect(page.locator("[data-live=next]")).not_to_contain_text("grace has taken it")
    page.fill("#decide-reason", "")
    page.evaluate("document.activeElement.blur()")
    expect(page.locator("[data-live=next]")).to_contain_text("grace has taken it", timeout=WITHIN)


def test_what_is_shown_is_said_to_be_old_when_the_fabric_is_gone(
    open_page: Callable[..., Page], night: tuple[World, str]
) -> None:
    """And not any more when it is back."""
    page = open_page()
    page.goto(night[1])
    page.context.set_offline(True)
    expect(page.locator("#connection")).to_contain_text("No answer from the fabric", timeout=2 * WITHIN)
    page.context.set_offline(False)
    expect(page.locator("#connection")).to_be_hidden(timeout=2 * WITHIN)


def test_how_long_ago_is_told_and_is_no_news(
    open_page: Callable[..., Page], night: tuple[World, str]
) -> None:
    """The distance grows on the page by itself, and nobody is told that something changed."""
    page = open_page()
    page.clock.install()
    page.goto(night[1])
    began = page.locator("[data-live=waiting] time").first
    expect(began).to_contain_text(re.compile(r"UTC \(\d+ (second|minute)s ago\)"))
    page.clock.fast_forward("03:00:00")
    expect(began).to_contain_text(re.compile(r"UTC \(\d hours ago\)"))
    expect(page.locator("#news")).to_be_empty()
    began.evaluate("time => getSelection().selectAllChildren(time)")
    page.clock.fast_forward("00:30")
    assert str(page.evaluate("getSelection().toString()")).endswith("hours ago)")


def test_times_are_utc_and_local_on_demand(open_page: Callable[..., Page], night: tuple[World, str]) -> None:
    """The choice holds on the next page."""
    world, url = night
    page = open_page(timezone_id="Asia/Tokyo", locale="en-GB")
    page.goto(url + paths(world)["payment"])
    shown = page.locator("[data-live=state] time").first
    utc = shown.get_attribute("datetime") or ""
    expect(shown).to_contain_text(f"{utc[11:19]} UTC")
    page.click("#clock")
    hour = (int(utc[11:13]) + 9) % 24
    expect(shown).to_contain_text(f"{hour:02}{utc[13:19]}")
    page.goto(url)
    expect(page.locator("#clock")).to_have_text("Show UTC")


def test_a_plan_is_approved_by_a_click_and_carried_out_once(
    open_page: Callable[..., Page], tmp_path: Path
) -> None:
    """A served fabric that asks first: the page shows the plan, the click lets it act, the target counts one
    restart, and the page follows until it has healed."""
    with (
        stubbed_world(tmp_path, services=1, incurable=0, repair_seconds=0.1, alerts=1) as stubs,
        served_fabric(tmp_path, mode="approval", **healing_settings(stubs, 1)) as fabric,
    ):
        (delivery,) = one_alert_each(1)
        fabric.http.post("/api/v1/alerts", content=delivery.body()).raise_for_status()
        page = open_page()
        page.goto(fabric.url)
        page.locator(".card a").first.click(timeout=WITHIN)
        page.get_by_role("button", name="Approve restart").click(timeout=WITHIN)
        expect(page.get_by_role("status").first).to_contain_text("Approved")
        expect(page.locator(".badge.resolved")).to_contain_text("healed by the fabric", timeout=4 * WITHIN)
        assert sum(stubs.counts()["restarts"].values()) == 1


def test_a_form_that_outlives_its_session_leads_to_signing_in_and_back(
    open_page: Callable[..., Page], tmp_path: Path
) -> None:
    """Nothing was changed, the page says so and lets the person in, and then shows the incident again."""
    (tmp_path / "token").write_text("t" * 32)
    auth = {"token_file": str(tmp_path / "token")}
    with served_fabric(tmp_path, mode="paused", auth=auth, services={"s0000": {}}) as fabric:
        fabric.http.headers["Authorization"] = f"Bearer {'t' * 32}"
        (delivery,) = one_alert_each(1)
        fabric.http.post("/api/v1/alerts", content=delivery.body()).raise_for_status()
        fabric.wait("an incident", lambda: bool(fabric.incidents()), 30)
        (incident,) = fabric.incidents()
        address = f"{fabric.url}/incidents/{incident['id']}"
        page = open_page(java_script_enabled=False)

        def sign_in() -> None:
            page.get_by_label("Token").fill("t" * 32)
            page.get_by_role("button", name="Sign in").click()

        page.goto(address)
        sign_in()
        page.context.clear_cookies(name="shf_session")
        page.get_by_role("button", name="Acknowledge").click()
        expect(page.get_by_role("alert").first).to_contain_text("nothing was changed. Sign in")
        assert fabric.incidents()[0]["acknowledged_by"] is None
        sign_in()
        assert page.url == address
        page.get_by_role("button", name="Acknowledge").click()
        expect(page.get_by_role("status").first).to_contain_text("Acknowledged")


def test_the_plot_of_a_real_prometheus(
    open_page: Callable[..., Page], night: tuple[World, str], tmp_path: Path
) -> None:
    """Its samples are drawn and told in words, and it accepts every query that the page links to."""
    world, _ = night
    incident = world.incident_of("catalogue")
    lines = []
    for series, before, during in ((HEARTBEAT.fresh_series, 1, 0), (ERROR_RATIO.series, 0.01, 0.9)):
        lines.append(f"# TYPE {series} gauge")
        for second in range(-900, 300, 15):
            value = during if 0 <= second < 60 else before
            lines.append(f'{series}{{service="catalogue"}} {value} {incident.opened_at + second:.3f}')
    with past_prometheus(tmp_path, lines) as prometheus:
        client = PrometheusClient(prometheus)
        with page_stories.served(world, client) as url:
            page = open_page()
            page.goto(f"{url}/incidents/{incident.id}/signals")
            words = page.inner_text("main")
            assert "Targets that answer: from 0 % to 100 %, last 100 %, limit 100 %" in words
            assert "Requests that fail: from 1 % to 90 %, last 1 %, limit 5 %" in words
            picture = page.request.get(f"{url}/incidents/{incident.id}/signals.svg").text()
            assert picture.count('class="curve"') == 2
            page.goto(f"{url}/incidents/{incident.id}")
            links = page.locator("a.query").evaluate_all("all => all.map(each => each.href)")
        assert len(links) >= 3
        for link in links:
            query = parse_qs(urlsplit(link).query)["g0.expr"][0]
            answer = httpx.get(f"{prometheus}/api/v1/query", params={"query": query}, trust_env=False)
            assert answer.status_code == 200, query
        client.close()
