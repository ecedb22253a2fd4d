"""What names no cluster is shown whichever is chosen, and what names another one is not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from story import LENGTH, SCRAPE, Sample, open_metrics
from viewer import Shown, Span, dashboards, parts, request, require, show

from past_prometheus import past_prometheus
from world import START

pytestmark = pytest.mark.e2e

DASHBOARDS = dashboards()
SERVICE_OF = {"": "cart", "eu": "mail", "us": "pay"}  # one with an alert that names this cluster


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    """All dashboards with the cluster `eu` chosen."""
    require("prometheus", "promtool", "node")
    samples = sorted(_samples(), key=lambda sample: (sample.name, sorted(sample.labels.items()), sample.at))
    with past_prometheus(tmp_path_factory.mktemp("clusters"), open_metrics(samples)) as url:
        span = Span(url, START, START + LENGTH - SCRAPE)
        asked = [
            request(f"{dashboard} {name}", kind, part, span)
            for dashboard, content in DASHBOARDS.items()
            for kind, name, part in parts(content)
        ]
        yield show([{**each, "variables": {**each["variables"], "cluster": "eu"}} for each in asked])


def _samples() -> Iterator[Sample]:
    for at in range(int(START), int(START) + LENGTH, SCRAPE):
        yield Sample("ALERTS", {"alertname": "ShfWatchdog", "alertstate": "firing"}, 1, at)
        yield Sample("job:shf_alert_losses:increase", {"job": "prometheus"}, 3, at)  # not one of a cluster's
        for cluster, service in SERVICE_OF.items():
            alert = {"alertname": "ShfConfigDrift", "service": service, "severity": "warning"}
            alert |= {"cluster": cluster} if cluster else {}
            yield Sample("ALERTS", {**alert, "alertstate": "firing"}, 1, at)
            yield Sample("ALERTS_FOR_STATE", alert, START, at)


@pytest.mark.parametrize(
    "table", ["incident-overview.json Alerts that fire", "service-healing.json Alerts of the services"]
)
def test_an_alert_that_names_no_cluster_is_shown_in_each(table: str, shown: Shown) -> None:
    """The registry's services have none: what is absent or has drifted would be said to be fine."""
    rows = [line for line in shown[table] if "ShfConfigDrift" in line]
    assert {service for service in SERVICE_OF.values() if service in " ".join(rows)} == {"cart", "mail"}


def test_what_a_prometheus_outside_of_all_clusters_says_of_itself_is_known_in_each(shown: Shown) -> None:
    """Its own target has no cluster."""
    assert shown["healer.json Alerts that Prometheus lost"][0].startswith("3 |")
