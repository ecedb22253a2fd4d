"""Asking a running Prometheus again for what a diagnosis or a proof rests on, at the time that it names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx

from shf_demo.stack import Stack

TOLERANCE = 0.05  # of a value
LATE = 10  # seconds by which a busy machine evaluated its rules after the fabric had asked


def ask(stack: Stack, path: str, **asked: Any) -> list[Any]:
    """What Prometheus answers for times gone by."""
    answer = httpx.get(f"{stack.prometheus_url}/api/v1/{path}", params=asked, timeout=30).json()
    assert answer["status"] == "success", (asked, answer)
    return list(answer["data"]["result"])


def is_shown_again(stack: Stack, query: str, value: float, at: float) -> bool:
    """Whether a query gives this value at its time, or the value lies between those of the seconds before.

    Rules of that very second may have been under way when the fabric asked; then it saw what they had found
    before. `tests/e2e/test_claims_on_prometheus.py` has no rules, and compares to the last digit.
    """
    values = [
        float(sample["value"][1])
        for late in range(LATE + 1)
        for sample in ask(stack, "query", query=query, time=at - late)
    ]
    slack = 0.02 + TOLERANCE * abs(value)
    return bool(values) and min(values) - slack <= value <= max(values) + slack


def is_fact_shown_again(stack: Stack, fact: Mapping[str, Any]) -> bool:
    """Whether Prometheus still says what evidence of it says."""
    return is_shown_again(stack, fact["query"], fact["value"], fact["at"])
