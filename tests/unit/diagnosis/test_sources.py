"""Asking the sources: at once, within the time, and without ever failing the diagnosis."""

import threading
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deadline import within_deadline
from missing_extra import take_away
from self_healing_fabric.diagnosis.patterns import Pattern
from self_healing_fabric.diagnosis.sources import (
    LONGEST_QUOTE,
    Fact,
    Report,
    Source,
    SourceUnusable,
    quoted,
    sources_of,
)
from self_healing_fabric.diagnosis.sources.inquiry import Inquiry
from self_healing_fabric.incidents.evidence import Evidence
from self_healing_fabric.settings import KubernetesSettings, ServiceSettings


class Scripted:
    """A source that answers what it was told to, once it may."""

    name = "scripted"

    def __init__(self, answer: Report | Exception, waits: Callable[[], object]) -> None:
        self._answer, self._waits = answer, waits

    def look(self, at: float, within: float) -> Report:
        self._waits()
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer


def maker(answer: Report | Exception, waits: Callable[[], object] = bool) -> Callable[[], Source]:
    return lambda: Scripted(answer, waits)


def fact(sentence: str) -> Fact:
    return Fact(Evidence(sentence, "docker inspect cart", 1.0, 5.0), {Pattern.CODE_BUG: 0.5})


def test_sources_are_asked_at_once() -> None:
    """Three of which each waits until all are asked, and they keep their order."""
    together = threading.Barrier(3)
    makers = {name: maker(Report((fact(name),)), together.wait) for name in "abc"}
    report = Inquiry(makers, at=5.0, within=30.0).report()
    assert [each.evidence.statement for each in report.facts] == ["a", "b", "c"]
    assert report.missing == ()


def test_a_late_source_is_missing_and_the_others_are_not() -> None:
    """The diagnosis goes on when the time is over, and says who did not answer."""
    given_up = threading.Event()
    makers = {
        "slow": maker(Report((fact("late"),)), lambda: given_up.wait(60.0)),
        "fast": maker(Report((fact("in time"),))),
    }
    try:
        report = within_deadline(Inquiry(makers, at=5.0, within=0.3).report)
    finally:
        given_up.set()
    assert [each.evidence.statement for each in report.facts] == ["in time"]
    assert report.missing == ("slow: no answer within 0.3 s",)


def test_no_source_can_fail_a_diagnosis() -> None:
    """What cannot be asked is said, whether it was expected or is a defect of ours."""
    makers = {"shut": maker(SourceUnusable("no engine")), "broken": maker(KeyError("State"))}
    report = Inquiry(makers, at=5.0, within=5.0).report()
    assert report.missing == ("shut: no engine", "broken: its answer could not be read: KeyError")


def test_only_what_is_configured_is_asked() -> None:
    """No target and no health endpoint: nothing to ask, and an empty report."""
    bare = ServiceSettings()
    assert sources_of("cart", bare, KubernetesSettings(), ()) == {}
    assert Inquiry({}, at=5.0, within=1.0).report() == Report()
    everything = ServiceSettings.model_validate(
        {
            "health": "http://cart/health",
            "recovery": {"docker": {"container": "cart"}, "kubernetes": {"name": "cart"}},
        }
    )
    assert list(sources_of("cart", everything, KubernetesSettings(), ())) == [
        "docker",
        "kubernetes",
        "health",
    ]


@pytest.mark.parametrize("extra", ["docker", "kubernetes"])
def test_a_missing_extra_is_named(extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has configured a target and not installed its client learns what to install."""
    take_away(extra, monkeypatch)
    target = {"container": "cart"} if extra == "docker" else {"name": "cart"}
    service = ServiceSettings.model_validate({"recovery": {extra: target}})
    makers = sources_of("cart", service, KubernetesSettings(), ())
    (missing,) = Inquiry(makers, at=5.0, within=10.0).report().missing
    assert f"pip install 'self-healing-fabric[{extra}]'" in missing


@given(st.text())
def test_a_strangers_words_become_one_short_line(text: str) -> None:
    """No control characters, no line breaks, no more than a sentence's length."""
    line = quoted(text)
    assert len(line) <= LONGEST_QUOTE
    assert line.isprintable()
