"""/metrics says how much work waits, and where people reach the fabric."""

from typing import Any

import pytest


def test_waiting_work_is_zero_before_there_is_any(api: Any) -> None:
    """And not missing: a panel must tell zero from unknown."""
    assert (api.metric("shf_due_incidents"), api.metric("shf_step_delay_seconds")) == (0.0, 0.0)


def test_an_incident_that_nobody_takes_is_seen(api: Any) -> None:
    """With the time for which it has been due."""
    api.open("cart", due_at=api.clock.now - 30)
    assert (api.metric("shf_due_incidents"), api.metric("shf_step_delay_seconds")) == (1.0, 30.0)


@pytest.mark.parametrize(
    ("values", "url"),
    [
        ({}, "http://127.0.0.1:9931"),
        ({"external_url": "https://shf.example/fabric/"}, "https://shf.example/fabric"),
    ],
)
def test_the_address_is_exported(make_api: Any, values: dict[str, str], url: str) -> None:
    """Without a slash at its end, so that links can add a path."""
    api = make_api(**values)
    assert api.metric("shf_external_url_info", url=url) == 1.0
