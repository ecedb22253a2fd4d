"""The plot of an incident's signals: what is drawn, and that nobody waits for a slow Prometheus."""

from __future__ import annotations

import threading
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from self_healing_fabric.api.pages import drawing, signals
from self_healing_fabric.api.pages.signals import SignalHistory
from self_healing_fabric.incidents.telling import tell
from self_healing_fabric.settings import Settings
from shf_queries import PrometheusUnavailable, Series
from shf_queries.catalogue import ERROR_RATIO, HEARTBEAT, LATENCY_P95, SIGNALS

OPENED = 1_800_000_000.0
SVG = "{http://www.w3.org/2000/svg}"


def story(**changes: Any) -> Any:
    """An incident of `cart` that was repaired after ten seconds and is over after a minute."""
    action = {
        "strategy": "restart", "service": "cart", "target": "http:<cart>", "attempt": 1,
        "status": "succeeded", "verdict": "healed", "detail": None, "intended_at": "2027-01-15T08:00:10Z",
        "started_at": "2027-01-15T08:00:10Z", "finished_at": "2027-01-15T08:00:12Z",
    }  # fmt: skip
    raw = {
        "id": "i1", "service": "cart", "known_service": True, "state": "resolved", "outcome": "healed",
        "signal": "latency_p95", "opened_at": "2027-01-15T08:00:00Z",
        "resolved_at": "2027-01-15T08:01:00Z", "closed_at": None, "diagnosis": None, "verdict": None,
        "merged_into": None, "waiting_for": None, "acknowledged_by": None, "plan": [], "timeline": [],
        "actions": [action], "calls": [],
        "alerts": [{"service": "cart", "labels": {"signal": "latency_p95"}}],
        "next": {"due_at": None, "level_due_at": None, "next_level": None, "verification": None,
                 "mode": "automatic", "decisions": []},
        **changes,
    }  # fmt: skip
    return tell(raw)


class Prometheus:
    """Answers with these series, once it may."""

    def __init__(self, *series: Series) -> None:
        self.series = series
        self.asked: list[str] = []
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.error: Exception | None = None

    def range(self, promql: str, *, start: float, end: float, step: float) -> tuple[Series, ...]:
        """Every series as it is, wherever it begins."""
        self.asked.append(promql)
        self.may_answer.wait(20)
        if self.error is not None:
            raise self.error
        return self.series


def series(name: str | None, *values: float, start: float = OPENED - 300, step: float = 60) -> Series:
    """A value a minute, from five minutes before the incident."""
    times = start + step * np.arange(len(values))
    return Series({"__name__": str(name), "service": "cart"}, times, np.array(values))


LATENCY = series(LATENCY_P95.series, 0.1, 0.1, 0.1, 0.1, 0.1, 0.9, 0.1)
BASELINE = series(LATENCY_P95.baseline_series, *([0.2] * 7))
ANSWERING = series(HEARTBEAT.fresh_series, 1, 1, 1, 1, 1, 0, 1)


def parsed(picture: str) -> ElementTree.Element:
    """The picture as XML, which it must be."""
    return ElementTree.fromstring(picture)  # noqa: S314 - we have just made it


def history(prometheus: Prometheus) -> SignalHistory:
    """With the default limits."""
    return SignalHistory(prometheus, Settings(services={"cart": {}}))  # type: ignore[arg-type]


def test_the_signal_that_alerted_comes_first_with_its_limit_and_its_baseline() -> None:
    """The limit of the latency follows its baseline; where there is none, what was usual before is drawn."""
    plot = history(Prometheus(ANSWERING, BASELINE, LATENCY)).plot(story(), OPENED + 400)
    first, second = plot.curves
    assert (first.signal, second.signal) == (LATENCY_P95, HEARTBEAT)
    assert first.limit.values.tolist() == pytest.approx([0.4] * 7)
    assert first.baseline.values.tolist() == [0.2] * 7
    assert second.limit.values.tolist() == [1.0, 1.0]
    assert (second.baseline_text, second.baseline.values.tolist()) == ("usual before it opened", [1.0, 1.0])


def test_it_shows_what_was_before_and_after() -> None:
    """Ten minutes before, five after, and never the future; longer for a long incident."""
    plot = history(Prometheus(ANSWERING)).plot(story(), OPENED + 10_000)
    assert (plot.start, plot.end) == (OPENED - 600, OPENED + 60 + 300)
    open_still = story(state="escalated", outcome=None, resolved_at=None)
    plot = history(Prometheus(ANSWERING)).plot(open_still, OPENED + 4000)
    assert (plot.start, plot.end) == (OPENED - 1000, OPENED + 4000)
    assert plot.step == pytest.approx(5000 / signals.POINTS)


def test_the_marks_are_the_opening_the_actions_and_the_end() -> None:
    """In the order in which they happened, numbered as in the list beside the plot."""
    plot = history(Prometheus(ANSWERING)).plot(story(), OPENED + 400)
    assert [(mark.at - OPENED, mark.kind) for mark in plot.marks] == [
        (0.0, "opened"), (10.0, "action"), (60.0, "ended")
    ]  # fmt: skip
    picture = parsed(drawing.draw(plot))
    titles = [element.text for element in picture.iter(f"{SVG}title")]
    assert titles[1] == "2. 08:00:10 UTC restart http:<cart>: succeeded, healed"
    assert [element.text for element in picture.iter(f"{SVG}text") if element.get("class") == "number"] == [
        "1", "2", "3"
    ]  # fmt: skip


def test_no_mark_is_cut_off_at_an_edge() -> None:
    """What was done a moment ago stands at the right edge: its number stays inside, beside the others."""
    action = story().raw["actions"][0]
    actions = [{**action, "started_at": f"2027-01-15T08:00:{10 + number}Z"} for number in range(4)]
    busy = story(state="verifying", outcome=None, resolved_at=None, actions=actions)
    plot = history(Prometheus(ANSWERING)).plot(busy, OPENED + 15)
    for width in (drawing.WIDE, drawing.NARROW):
        picture = parsed(drawing.draw(plot, width=width))
        knobs = [float(each.get("cx", "")) for each in picture.iter(f"{SVG}circle")]
        assert len(knobs) == 5
        assert all(later - earlier >= 16 for earlier, later in pairwise(knobs))
        assert knobs[-1] + 8 <= width


def test_a_gap_is_a_gap_and_a_lone_sample_is_a_dot() -> None:
    """No line leads over what was not measured, and NaN is not measured."""
    values = [1.0, 1.0, float("nan"), float("nan"), float("nan"), float("nan"), 0.0]
    plot = history(Prometheus(series(HEARTBEAT.fresh_series, *values, step=10.0))).plot(story(), OPENED + 400)
    picture = parsed(drawing.draw(plot))
    (path,) = [each.get("d", "") for each in picture.iter(f"{SVG}path") if each.get("class") == "curve"]
    assert path.count("M") == 2
    assert path.count("L") == 1
    assert path.endswith("h0")


def test_a_picture_says_in_words_what_it_shows() -> None:
    """Lowest, highest, last, limit, and how much of the time it was outside."""
    plot = history(Prometheus(ANSWERING, LATENCY, BASELINE)).plot(story(), OPENED + 400)
    label = parsed(drawing.draw(plot)).get("aria-label")
    assert label == (
        "Latency (P95): from 100 ms to 900 ms, last 100 ms, limit 400 ms, outside it in 14 % of the samples. "
        "Targets that answer: from 0 % to 100 %, last 100 %, limit 100 %, outside it in 14 % of the samples."
    )
    assert list(drawing.rows(plot.curves[0]))[5] == (OPENED, ["900 ms"])


@pytest.mark.parametrize(
    ("prometheus", "changes", "told"),
    [
        (Prometheus(), {}, "Prometheus holds no signals of cart for this time."),
        (Prometheus(), {"known_service": False}, "names no such service"),
    ],
)
def test_why_nothing_is_drawn_is_in_the_picture(
    prometheus: Prometheus, changes: dict[str, Any], told: str
) -> None:
    """In words, in a picture that is one."""
    plot = history(prometheus).plot(story(**changes), OPENED + 400)
    picture = parsed(drawing.draw(plot, width=drawing.NARROW))
    assert told in str(picture.get("aria-label"))
    assert told.split()[0] in "".join(text.text or "" for text in picture.iter(f"{SVG}text"))


def test_a_prometheus_that_is_away_is_said_and_asked_again_only_later() -> None:
    """Its error is the picture's text, and reloading does not hammer it."""
    prometheus = Prometheus()
    prometheus.error = PrometheusUnavailable("Prometheus at http://p does not answer: refused")
    kept = history(prometheus)
    for _ in range(3):
        assert kept.plot(story(), OPENED + 400).told.startswith("Prometheus at http://p does not answer")
    assert len(prometheus.asked) == 1


def test_one_answer_serves_all_who_look_and_marks_are_the_newest() -> None:
    """The series are kept, what the store knows is not."""
    prometheus = Prometheus(ANSWERING)
    kept = history(prometheus)
    kept.plot(story(), OPENED + 400)
    plot = kept.plot(story(actions=[]), OPENED + 401)
    assert len(prometheus.asked) == 1
    assert [mark.kind for mark in plot.marks] == ["opened", "ended"]


def test_a_slow_prometheus_holds_only_a_few_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ask, a few wait for a moment, all others are told at once to come back."""
    monkeypatch.setattr(signals, "PATIENCE", 0.05)
    prometheus = Prometheus(ANSWERING)
    prometheus.may_answer.clear()
    kept = history(prometheus)
    asking = [
        threading.Thread(target=kept.plot, args=(story(id=f"i{number}"), OPENED + 400)) for number in range(2)
    ]
    for thread in asking:
        thread.start()
    while len(prometheus.asked) < 2:
        threading.Event().wait(0.01)
    waited = kept.plot(story(id="i3"), OPENED + 400)
    assert "takes long" in waited.told
    for _ in range(signals.QUEUEING):
        kept._queue.acquire()
    assert "asked by others" in kept.plot(story(id="i4"), OPENED + 400).told
    prometheus.may_answer.set()
    for thread in asking:
        thread.join()
    assert len(prometheus.asked) == 2
    assert kept.plot(story(id="i0"), OPENED + 400).curves  # and what they got is there for all


def test_every_signal_has_a_title() -> None:
    """None is shown by its technical name."""
    assert drawing.TITLES.keys() == SIGNALS.keys()
    assert ERROR_RATIO.name in drawing.SHARES


def test_the_picture_alone_allows_exactly_its_own_style() -> None:
    """Opened by itself it is a page: its policy names the digest of the style that it brings."""
    plot = history(Prometheus(ANSWERING)).plot(story(), OPENED + 400)
    style = parsed(drawing.draw(plot)).find(f"{SVG}style")
    assert style is not None
    assert style.text == drawing.STYLE
    assert "unsafe" not in drawing.POLICY
