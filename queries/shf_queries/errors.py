"""What can go wrong between us and Prometheus, in three words that decide what the caller does.

The client library raises requests' errors, its own and plain KeyErrors. None of them may pass upwards:
whoever asks for evidence must only know whether to wait (`PrometheusUnavailable`), to mend the query
(`QueryRejected`) or to treat the answer as missing (`PartialResult`).
"""


class QueryError(Exception):
    """Base of all errors of this package; its text is fit for a person."""


class PrometheusUnavailable(QueryError):
    """No usable answer: refused, timed out, 401, 403, 5xx, or not Prometheus. Nothing is known; ask again."""


class QueryRejected(QueryError):
    """Prometheus understood the request and refused it (4xx): the query is wrong."""


class PartialResult(QueryError):
    """Prometheus answered with warnings: some data is missing, so the rest proves nothing."""
