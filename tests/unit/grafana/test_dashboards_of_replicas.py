"""What the dashboards show between the scrapes of two replicas, and when one of them starts anew."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import pytest
from story import FABRIC, LENGTH, SCRAPE, Sample, open_metrics
from viewer import Shown, Span, dashboards, parts, request, require, show

from past_prometheus import past_prometheus
from self_healing_fabric.incidents.lifecycle import State
from world import START

pytestmark = pytest.mark.e2e

DASHBOARD = dashboards()["incident-overview.json"]
LATER = 7.0  # seconds; how much later than the first replica the second one is scraped
RESTART = START + 1_800
LAST = START + LENGTH - SCRAPE  # the last scrape of the first replica that is looked at


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    """The overview just after the second replica has told that an incident is in its next state."""
    require("prometheus", "promtool", "node")
    samples = sorted(_samples(), key=lambda sample: (sample.name, sorted(sample.labels.items()), sample.at))
    folder = tmp_path_factory.mktemp("replicas")
    # What a replica does not export any more ends with its scrape; in what is imported only age ends it.
    with past_prometheus(folder, open_metrics(samples), lookback=SCRAPE) as url:
        span = Span(url, LAST + LATER + 1 - LENGTH, LAST + LATER + 1)
        yield show([request(name, kind, part, span) for kind, name, part in parts(DASHBOARD)])


def _samples() -> Iterator[Sample]:
    for (replica, later), scrape in product(
        (("fabric-1", 0.0), ("fabric-2", LATER)), range(LENGTH // SCRAPE)
    ):
        at = START + scrape * SCRAPE + later
        target = {**FABRIC, "instance": replica}
        counted = 0 if replica == "fabric-1" and at >= RESTART else 3
        moved = at > LAST
        state = State.RECOVERING if moved else State.DIAGNOSING
        service = {**target, "service": "cart"}
        incident = {**service, "incident": "20250101-000000-00000001"}
        known = {"severity": "critical" if moved else "warning", "failure_class": "unknown"}
        started = {**incident, "severity": known["severity"], "signal": "heartbeat"}
        yield Sample("shf_build_info", target, 1, at)
        yield Sample("shf_external_url_info", {**target, "url": "https://fabric.example"}, 1, at)
        yield Sample("shf_incidents", {**service, **known, "state": state.value}, 1, at)
        yield Sample("shf_incident_start_timestamp_seconds", started, START, at)
        for each in (State.DIAGNOSING, State.RECOVERING):
            yield Sample("shf_incident_state", {**incident, "state": each.value}, float(each is state), at)
        action = {**service, "strategy": "restart", "outcome": "succeeded"}
        yield Sample("shf_incidents_opened_total", service, counted, at)
        yield Sample("shf_recovery_actions_total", action, counted, at)


def test_one_incident_is_one_while_the_replicas_differ(shown: Shown) -> None:
    """The first replica has not been scraped since the incident went on: its old state is no second one."""
    assert shown["Open incidents"][0].startswith("1 |")


def test_an_incident_has_one_row_with_the_state_of_the_newest_scrape(shown: Shown) -> None:
    """Two states of one incident would be an error instead of the whole table."""
    _, row, *_ = shown["Open incidents in detail"]
    assert "recovering" in row
    assert sum("INCIDENT" in line for line in shown["Open incidents in detail"]) == 1


@pytest.mark.parametrize("marks", ["annotation Incidents", "annotation Actions"])
def test_a_fabric_that_starts_anew_is_marked_as_no_incident_and_no_action(marks: str, shown: Shown) -> None:
    """Its counters begin at 0 again."""
    assert shown[marks] == []
