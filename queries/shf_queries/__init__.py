"""All that is asked of Prometheus: a client that fails clearly, results as NumPy, a catalogue of PromQL."""

from shf_queries.client import PrometheusClient
from shf_queries.errors import PartialResult, PrometheusUnavailable, QueryError, QueryRejected
from shf_queries.results import Sample, Series

__all__ = [
    "PartialResult",
    "PrometheusClient",
    "PrometheusUnavailable",
    "QueryError",
    "QueryRejected",
    "Sample",
    "Series",
]
