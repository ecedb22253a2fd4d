"""The page of the fabric's own metrics, from the registry that it exports."""

from __future__ import annotations

from collections.abc import Collection

from prometheus_client import Metric
from prometheus_client.metrics import MetricWrapperBase

from generators.throwaway import fabric

HEAD = """\
# Metrics

What `GET /metrics` of the fabric exports, besides `process_*` and `python_*` of the Prometheus client. Every series of a configured
service exists at 0 from the start, so that the first `increase()` is not lost. Replicas that share a store export the same gauges of
incidents: take `max by` of gauges and `sum by` of counters.

This page is generated from the code (`docs/generate_reference.py`).

| metric | type | labels | meaning |
|---|---|---|---|
"""


def page() -> str:
    """The whole page."""
    with fabric() as (made, _):
        metrics = made.context.metrics
        found = sorted(metrics.registry.collect(), key=lambda each: each.name)
        declared = {
            each._name: each._labelnames
            for each in vars(metrics).values()
            if isinstance(each, MetricWrapperBase)
        }
    ours = (each for each in found if each.name.startswith("shf_"))
    return HEAD + "".join(_row(each, declared.get(each.name, ())) for each in ours)


def _row(family: Metric, declared: Collection[str]) -> str:
    name = f"{family.name}_total" if family.type == "counter" else family.name
    labels = sorted({label for sample in family.samples for label in sample.labels} - {"le"})
    # What has no series yet shows no labels: they are where it was declared.
    labels = sorted(getattr(family, "_labelnames", ()) or declared) or labels
    shown = ", ".join(f"`{label}`" for label in labels)
    return f"| `{name}` | {family.type} | {shown} | {family.documentation} |\n"
