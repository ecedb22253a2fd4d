"""The page of the fabric's own metrics, from the registry that it exports."""

from __future__ import annotations

from prometheus_client import Metric

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
        found = sorted(made.context.metrics.registry.collect(), key=lambda each: each.name)
    return HEAD + "".join(_row(each) for each in found if each.name.startswith("shf_"))


def _row(family: Metric) -> str:
    name = f"{family.name}_total" if family.type == "counter" else family.name
    labels = sorted({label for sample in family.samples for label in sample.labels} - {"le"})
    labels = sorted(getattr(family, "_labelnames", ())) or labels  # of gauges that have no series yet
    shown = ", ".join(f"`{label}`" for label in labels)
    return f"| `{name}` | {family.type} | {shown} | {family.documentation} |\n"
