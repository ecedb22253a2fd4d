"""No claim without evidence: every diagnosis of the stack is walked, and its queries are asked again.

The module's name puts it behind the others, so that it finds their incidents too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import httpx
import pytest
from asked_again import ask, is_fact_shown_again, is_shown_again

from shf_demo.stack import Stack

pytestmark = pytest.mark.e2e

SERVICE = "guardian-four"


def asked_of_prometheus(fact: Mapping[str, Any]) -> bool:
    """Not of the service itself or its platform."""
    return "source" not in fact


def facts_of(diagnosis: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """All evidence of a diagnosis that is a value at one moment."""
    yield from diagnosis["evidence"]
    yield from diagnosis["impact"]["evidence"]
    located = {
        claim["query"] for suspect in diagnosis["localization"]["suspects"] for claim in suspect["claims"]
    }
    for cause in (diagnosis["cause"], *diagnosis["alternatives"]):
        yield from (each for each in cause["evidence"] if each["query"] not in located)


@pytest.fixture(scope="module")
def diagnoses(stack: Stack) -> list[Mapping[str, Any]]:
    """Of all incidents of the stack, one of failing requests at least."""
    # Enough of a history to compare with: there is, unless this module runs alone.
    usual = f'count_over_time(service:shf_errors:ratio{{service="{SERVICE}"}}[5m])'
    stack.wait_for("a history", lambda: (stack.ask_prometheus(usual) or 0) >= 75, 150)
    stack.inject(SERVICE, "errors")
    with httpx.Client(base_url=stack.fabric_url, timeout=10, trust_env=False) as http:

        def stories() -> list[Any]:
            page = http.get("/api/v1/incidents", params={"limit": 500}).raise_for_status().json()
            return [http.get(f"/api/v1/incidents/{row['id']}").json() for row in page["incidents"]]

        stack.wait_for(
            f"{SERVICE} diagnosed",
            lambda: any(each["service"] == SERVICE and each["diagnosis"] for each in stories()),
            90,
        )
        return [each["diagnosis"] for each in stories() if each["diagnosis"]]


def test_every_cause_rests_on_evidence(diagnoses: list[Mapping[str, Any]]) -> None:
    """A cause that is named has evidence, with query, value, time, and how much it counted."""
    for diagnosis in diagnoses:
        for cause in (diagnosis["cause"], *diagnosis["alternatives"]):
            if cause["pattern"] != "unknown":
                assert cause["evidence"], cause
                assert all(fact["query"] and fact["weight"] > 0 for fact in cause["evidence"])
        assert diagnosis["abstained"] is (diagnosis["cause"]["pattern"] == "unknown")
        assert diagnosis["evidence"] or diagnosis["failure_class"] == "unknown"
        assert not diagnosis["abstained"] or diagnosis["next_query"]


def test_every_fact_can_be_asked_again(stack: Stack, diagnoses: list[Mapping[str, Any]]) -> None:
    """Pasted into Prometheus, each query shows the value at its time."""
    asked = 0
    for diagnosis in diagnoses:
        for fact in filter(asked_of_prometheus, facts_of(diagnosis)):
            assert is_fact_shown_again(stack, fact), fact
            asked += 1
    assert asked >= len(diagnoses) > 0


def test_every_shift_can_be_seen_again(stack: Stack, diagnoses: list[Mapping[str, Any]]) -> None:
    """Each claim about a series over time: its value and its baseline, each by its own query."""
    asked = 0
    for diagnosis in diagnoses:
        located = diagnosis["localization"]
        for suspect in located["suspects"]:
            for claim in suspect["claims"]:
                assert is_shown_again(stack, claim["query"], claim["value"], claim["at"]), claim
                assert is_shown_again(stack, claim["baseline_query"], claim["baseline"], claim["at"]), claim
                # Over a while: at that very second the series of a service that has just gone may have ended.
                course = {"start": claim["at"] - 300, "end": claim["at"], "step": 5}
                assert ask(stack, "query_range", query=claim["series"], **course), claim
                asked += 1
        apart = [each["told_apart_by"] for each in diagnosis["alternatives"]]
        for query in (located["next_query"], *apart):
            if query:
                ask(stack, "query", query=query)
    assert asked > 0, [each["localization"]["missing"] for each in diagnoses]
