"""What is too much of an alert is cut off, and nothing that decides anything is lost by that."""

import json
from typing import Any

from self_healing_fabric.incidents.limits import (
    CUT,
    MAX_ANNOTATIONS,
    MAX_LABELS,
    MAX_NAME,
    MAX_VALUE,
    bounded,
)
from self_healing_fabric.incidents.notifications import WebhookMessage
from self_healing_fabric.store import statements

READ = {"alertname": "ShfHeartbeatMissed", "service": "cart", "severity": "critical", "signal": "heartbeat"}


def test_an_alert_within_the_limits_is_as_it_was() -> None:
    """Also at the limits."""
    labels = READ | {f"l{i}": "v" for i in range(MAX_LABELS - 5)} | {"n" * MAX_NAME: "v" * MAX_VALUE}
    annotations = {f"a{i}": "v" for i in range(MAX_ANNOTATIONS)}
    assert bounded(labels, annotations) == (labels, annotations)


def test_too_many_labels_leave_those_that_the_fabric_reads() -> None:
    """A thousand that sort first do not push the service out."""
    labels, _ = bounded({f"a{i:04}": "v" for i in range(1000)} | READ, {})
    assert len(labels) == MAX_LABELS + 1
    assert READ.items() <= labels.items()
    assert labels[CUT] == "940 labels and 0 annotations are missing or cut off"


def test_a_long_value_is_cut_and_is_no_configured_service() -> None:
    """Whatever is cut says so at its end, so a name cannot be cut down to that of a service."""
    labels, annotations = bounded(READ | {"service": "cart" + " " * MAX_VALUE}, {"summary": "x" * 10**6})
    assert len(labels["service"]) == MAX_VALUE
    assert labels["service"].endswith("(cut off)")
    assert len(annotations["summary"]) == MAX_VALUE
    assert labels[CUT] == "1 labels and 1 annotations are missing or cut off"


def test_a_long_name_leaves_the_label_out() -> None:
    """Two that begin alike cannot be told apart when they are cut."""
    labels, _ = bounded(READ | {"n" * (MAX_NAME + 1): "v"}, {})
    assert set(labels) == {*READ, CUT}


def test_an_alert_that_is_too_large_is_stored_and_opens_its_incident(
    take_in: Any, correlate: Any, store: Any
) -> None:
    """It is taken like any other; the one beside it is as it was."""
    take_in(fingerprint="big", service="cart", **{f"x{i}": "y" * 10_000 for i in range(100)})
    take_in(fingerprint="small", service="db")
    assert correlate() == ["cart", "db"]
    stored = {row.fingerprint: row.labels for row in store.read(statements.firing_alerts)}
    assert CUT not in stored["small"]
    assert stored["big"][CUT] == "100 labels and 0 annotations are missing or cut off"
    assert len(json.dumps(stored["big"])) < (MAX_VALUE + MAX_NAME) * (MAX_LABELS + 2)


def test_the_shape_of_a_notification_is_not_limited_by_this() -> None:
    """A label of a megabyte is no reason to refuse the other alerts of the notification."""
    labels = {"a": "b" * 10**6}
    alert = {"status": "firing", "startsAt": "2026-01-01T00:00:00Z", "fingerprint": "1", "labels": labels}
    assert WebhookMessage.model_validate({"version": "4", "alerts": [alert]})
