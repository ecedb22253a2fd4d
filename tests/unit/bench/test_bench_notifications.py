"""The bodies of the benchmark are what Alertmanager sends, and each alert in them is a new one."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from self_healing_fabric.api.alerts import WebhookMessage
from shf_bench.notifications import LAST, Notifications, last, service_name

REAL = Path(__file__).parents[2] / "data" / "webhook" / "rule_error_rate.json"


def bodies(notifications: Notifications, count: int) -> list[bytes]:
    """The first so many bodies."""
    template = notifications.template()
    return [notifications.body(template, number) for number in range(count)]


@pytest.mark.parametrize("alerts", [1, 20, 500])
def test_no_alert_is_sent_twice(alerts: int) -> None:
    """Fingerprints differ within a body, between bodies, and from those of a later load."""
    sent = [*bodies(Notifications(alerts, 50), 5), *bodies(Notifications(alerts, 50, first=5), 5), last()]
    messages = [WebhookMessage.model_validate_json(body) for body in sent]
    fingerprints = [alert.fingerprint for message in messages for alert in message.alerts]
    assert len(set(fingerprints)) == len(fingerprints) == 10 * alerts + 1
    assert all(re.fullmatch(r"[0-9a-f]{16}", each) for each in fingerprints)


def test_services_take_turns() -> None:
    """One alert a body: body by body; several: within the body, from the first that was asked for."""
    single = [json.loads(body) for body in bodies(Notifications(1, 3, first=2), 4)]
    assert [each["alerts"][0]["labels"]["service"] for each in single] == [
        service_name(number) for number in (2, 0, 1, 2)
    ]
    (many,) = [json.loads(body) for body in bodies(Notifications(3, 50, first_service=10), 1)]
    assert [each["labels"]["service"] for each in many["alerts"]] == ["s00010", "s00011", "s00012"]
    (strangers,) = [json.loads(body) for body in bodies(Notifications(2, 50, stranger=True), 1)]
    assert [each["labels"]["service"] for each in strangers["alerts"]] == ["x00000", "x00001"]
    assert json.loads(last())["alerts"][0]["labels"]["service"] == LAST


def test_they_are_as_large_as_real_ones() -> None:
    """All keys of a real notification are there, and an alert is as long as a real one, to a third."""
    real, ours = json.loads(REAL.read_bytes()), json.loads(bodies(Notifications(1, 1), 1)[0])
    assert real.keys() == ours.keys()
    assert real["alerts"][0].keys() == ours["alerts"][0].keys()
    size, aim = (len(json.dumps(each["alerts"][0])) for each in (ours, real))
    assert 2 / 3 < size / aim < 4 / 3
