"""Telemetry: every series of a configured service exists at 0 before its first event."""

import json
import logging

import pytest
import structlog
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from self_healing_fabric import __version__, telemetry
from self_healing_fabric.guardrails import GUARDRAILS
from self_healing_fabric.guardrails.outside import BOUNDARY
from self_healing_fabric.incidents.lifecycle import Outcome
from self_healing_fabric.recovery.outcomes import Status
from self_healing_fabric.recovery.strategies import UNDO, strategies, usable
from self_healing_fabric.settings import Settings
from self_healing_fabric.telemetry import Metrics, configure_logging

ENDS = set(Outcome) - {Outcome.MERGED}  # a merged incident is counted as such and goes on in another one


def samples(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Everything that Prometheus would scrape."""
    text = generate_latest(metrics.registry).decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def series(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    """The key of one series."""
    return name, frozenset(labels.items())


@pytest.mark.parametrize("service", ["cart", "unknown"])
def test_counters_of_a_service_exist_at_zero_from_start(service: str) -> None:
    """`increase()` must see the first event, so it must have seen the 0 before."""
    found = samples(Metrics(["cart"]))
    expected = [
        series("shf_incidents_opened_total", service=service),
        series("shf_incidents_merged_total", service=service),
        series("shf_time_to_recover_seconds_count", service=service),
        *(series("shf_incidents_resolved_total", service=service, outcome=each.value) for each in ENDS),
        *(
            series("shf_recovery_actions_total", service=service, strategy=strategy, outcome=outcome)
            for strategy in ("retry", "restart")
            for outcome in ("succeeded", "failed", "indeterminate")
        ),
        *(
            series("shf_guardrail_blocks_total", service=service, guardrail=guardrail)
            for guardrail in ("mode", "one_at_a_time", "cooldown", "max_actions")
        ),
    ]
    assert {key: found.get(key) for key in expected} == dict.fromkeys(expected, 0.0)


def test_counters_of_the_webhook_exist_at_zero_from_start() -> None:
    """Each code that the contract names and each status of an alert."""
    found = samples(Metrics([]))
    expected = [
        *(
            series("shf_webhook_requests_total", code=code)
            for code in ("202", "400", "401", "403", "413", "422", "503")
        ),
        *(series("shf_alerts_received_total", status=status) for status in ("firing", "resolved")),
        series("shf_alerts_truncated_total"),
        series("shf_diagnosis_duration_seconds_count"),
    ]
    assert {key: found.get(key) for key in expected} == dict.fromkeys(expected, 0.0)


def test_the_version_is_a_label_of_a_one() -> None:
    """As everywhere: shf_build_info{version} 1."""
    assert samples(Metrics([]))[series("shf_build_info", version=__version__)] == 1.0


def test_the_prepared_labels_are_the_real_ones() -> None:
    """A strategy, outcome or guardrail that is added or renamed needs its zero too."""
    assert set(telemetry.STRATEGIES) == {*strategies(Settings()), UNDO}
    assert set(telemetry.RESOLVED_OUTCOMES) == {outcome.value for outcome in ENDS}
    ends = {status.value for status in Status} - {"intended", "started"}
    assert set(telemetry.ACTION_OUTCOMES) == ends
    assert set(telemetry.GUARDRAILS) - {BOUNDARY} == {
        "mode" if guardrail.__name__ == "not_stricter" else guardrail.__name__ for guardrail in GUARDRAILS
    }


def test_two_fabrics_share_no_counter() -> None:
    """Each has a registry of its own, so tests and embedders do not disturb each other."""
    one, two = Metrics(["cart"]), Metrics(["cart"])
    one.opened.labels("cart").inc()
    key = series("shf_incidents_opened_total", service="cart")
    assert (samples(one)[key], samples(two)[key]) == (1.0, 0.0)


def test_every_metric_has_our_prefix_or_is_a_standard_one() -> None:
    """The prefix is `shf_`; process_ and python_ are the client library's."""
    names = {name for name, _ in samples(Metrics(["cart"]))}
    assert {name for name in names if not name.startswith(("shf_", "process_", "python_"))} == set()


def test_json_logs_are_one_object_a_line_for_libraries_too(capsys: pytest.CaptureFixture[str]) -> None:
    """Our events and warnings of other libraries have the same form, with level and time."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        configure_logging(json=True)
        structlog.get_logger().info("started", services=2)
        logging.getLogger("library").warning("something %s", "odd")
        logging.getLogger("library").info("chatter")
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        structlog.reset_defaults()
    ours, theirs = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert (ours["event"], ours["services"], ours["level"]) == ("started", 2, "info")
    assert (theirs["event"], theirs["level"]) == ("something odd", "warning")
    assert ours["timestamp"].endswith("Z")


def test_strategies_that_a_service_cannot_have_have_no_series_of_it() -> None:
    """A container can be restarted; nobody scales it, and 2,000 of them would be 40,000 lines of zeros."""
    docker, http = {"docker": {"container": "c"}}, {"http": {"scale": "http://127.0.0.1:9/n"}}
    settings = Settings(
        services={
            "one": {"recovery": docker},
            "two": {"recovery": {**http, "scale": {"max": 3}}},
            "three": {},
        }  # type: ignore[arg-type]
    )
    found = samples(Metrics(settings.services, usable(settings, strategies(settings))))
    names = {
        service: {dict(labels)["strategy"] for name, labels in found
                  if name == "shf_recovery_actions_total" and dict(labels)["service"] == service}
        for service in settings.services
    }  # fmt: skip
    assert names == {"one": {"restart"}, "two": {"scale", "undo"}, "three": set()}
