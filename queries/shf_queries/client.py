"""Calls to Prometheus through prometheus-api-client, with the defaults that a healer needs.

As it comes the library waits for ever, repeats a failing GET four times with seconds of sleep between, and
drops the warnings that tell of partial results. Here every call has a timeout, is tried once (the
orchestrator's timers repeat it), and an answer with warnings counts as no answer. Only errors of
`shf_queries.errors` leave this module.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar

import requests
from prometheus_api_client import PrometheusConnect
from prometheus_api_client.exceptions import PrometheusApiClientException
from requests.adapters import HTTPAdapter
from urllib3.util.retry import Retry
from urllib3.util.ssl_ import create_urllib3_context

from shf_queries.answers import whole_answers
from shf_queries.certificates import Authority, Certificates
from shf_queries.errors import PartialResult, PrometheusUnavailable, QueryRejected
from shf_queries.results import Sample, Series, matrix, vector

T = TypeVar("T")

_NUMBER = "shf_expression"  # the label by which the answers to expressions of one request are told apart
_NOT_LET_IN = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
LONGEST_IN_URL = 4_000  # characters of a query; longer ones are posted
POOL_SIZE = 16  # connections: at least one for every worker thread, or they wait for each other


class PrometheusClient:
    """Asks one Prometheus. Safe to share between threads.

    Raises OSError when `ca_file`, `cert_file` or `key_file` cannot be used.

    Args:
        url: base URL, with the path prefix if Prometheus has one.
        timeout: seconds for one call.
        headers: asked anew for those to send with each call, so that a secret can be rotated.
        ca_file: PEM with the certificates of authorities that are trusted beside the public ones; like the
            following two, read anew when it has changed.
        cert_file: PEM with the certificate to show when asked for one.
        key_file: PEM with its key.
        on_call: told the seconds that each call took, and the error when it was not answered.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 5.0,
        headers: Callable[[], Mapping[str, str]] = dict,
        ca_file: Path | None = None,
        cert_file: Path | None = None,
        key_file: Path | None = None,
        on_call: Callable[[float, str | None], None] | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self._on_call = on_call
        self._timeout = timeout
        self._warnings = threading.local()
        self._session = requests.Session()
        # A proxy or .netrc of the host must not decide where evidence comes from.
        self._session.trust_env = False
        # Nor may an answer: a redirect would carry the question to a host that nobody has configured.
        self._session.max_redirects = 0
        self._session.hooks["response"].append(self._keep_warnings)
        self._session.auth = _Headers(headers)
        self._connection = PrometheusConnect(self.url, retry=Retry(0), session=self._session)
        # PrometheusConnect has just mounted an adapter with a pool of ten. There is to be one for this URL,
        # as requests spells it, and none else: a call to another place fails before a connection is opened.
        self._session.adapters.clear()
        spelt = str(requests.Request("GET", f"{self.url}/").prepare().url)
        self._session.mount(spelt, _Adapter(ca_file, cert_file, key_file))

    def instant(self, promql: str, *, at: float | None = None) -> tuple[Sample, ...]:
        """Evaluate `promql` at one time (seconds since 1970; now when None) and return its vector."""
        return self._query(promql, at, vector)

    def together(self, queries: Sequence[str], *, at: float | None = None) -> tuple[tuple[Sample, ...], ...]:
        """Evaluate several expressions at one time in one request; return their vectors in the same order.

        A request costs several times what the evaluation of a small expression does. When one of them cannot
        be evaluated, none is.
        """
        marked = (f'label_replace({query}, "{_NUMBER}", "{n}", "", "")' for n, query in enumerate(queries))
        return self._query(" or ".join(marked), at, lambda result: _apart(vector(result), len(queries)))

    def clock(self) -> float:
        """Return the server's own time, in seconds since 1970.

        Asked without `nocache`, VictoriaMetrics tells of the moment half a minute ago up to which its samples
        are there; and it has no scalars.
        """
        return self._query("vector(time())", None, lambda result: vector(result)[0].value, nocache="1")

    def raw(self, selector: str, *, seconds: float, at: float | None = None) -> tuple[Series, ...]:
        """Return the samples of the last `seconds` as stored, with their own times: no look-back."""
        return self._query(f"{selector}[{max(1, round(seconds * 1000))}ms]", at, matrix)

    def range(self, promql: str, *, start: float, end: float, step: float) -> tuple[Series, ...]:
        """Evaluate `promql` at every `step` seconds from `start` to `end` (seconds since 1970).

        Unlike `raw`, a value is repeated for up to five minutes after its sample, unless its series was
        marked stale.
        """
        if len(promql) > LONGEST_IN_URL:
            params = {"query": promql, "start": f"{start:.3f}", "end": f"{end:.3f}", "step": f"{step:.3f}"}
            return self._ask(lambda: matrix(self._post("query_range", params)))
        return self._ask(
            lambda: matrix(
                self._connection.custom_query_range(
                    promql,
                    datetime.fromtimestamp(start, UTC),
                    datetime.fromtimestamp(end, UTC),
                    f"{step:.3f}",
                    timeout=self._timeout,
                )
            )
        )

    def names(self, *, start: float, end: float) -> Sequence[str]:
        """Return the names of all series that have samples between two times (seconds since 1970)."""

        def ask() -> Sequence[str]:
            params = {"start": f"{start:.3f}", "end": f"{end:.3f}"}
            url = f"{self.url}/api/v1/label/__name__/values"
            return [
                str(name) for name in self._data(self._session.get(url, params=params, timeout=self._timeout))
            ]

        return self._ask(ask)

    def alerts(self) -> Sequence[Mapping[str, Any]]:
        """Return the pending and firing alerts as `GET /api/v1/alerts` lists them."""

        def ask() -> Sequence[Mapping[str, Any]]:
            response = self._session.get(f"{self.url}/api/v1/alerts", timeout=self._timeout)
            if response.status_code != requests.codes.ok:
                raise PrometheusApiClientException(f"HTTP Status Code {response.status_code}")
            return [dict(alert) for alert in response.json()["data"]["alerts"]]

        return self._ask(ask)

    def version(self) -> str | None:
        """Return the version that `GET /api/v1/status/buildinfo` tells; None for a server that tells none.

        Not told to `on_call`: not everything that answers queries knows this path.
        """

        def ask() -> str | None:
            url = f"{self.url}/api/v1/status/buildinfo"
            told = self._data(self._session.get(url, timeout=self._timeout))["version"]
            return told if isinstance(told, str) and told else None

        return self._asked(ask)

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def _query(self, promql: str, at: float | None, convert: Callable[[Any], T], **params: str) -> T:
        if at is not None:
            params["time"] = f"{at:.3f}"
        # Converted under the same roof: an answer of another shape is no answer, wherever that shows.
        if len(promql) > LONGEST_IN_URL:
            return self._ask(lambda: convert(self._post("query", {"query": promql, **params})))
        return self._ask(
            lambda: convert(self._connection.custom_query(promql, params=params, timeout=self._timeout))
        )

    def _post(self, path: str, form: Mapping[str, str]) -> Any:
        """The library puts even what it posts into the URL, which proxies cut."""
        answer = self._session.post(f"{self.url}/api/v1/{path}", data=form, timeout=self._timeout)
        return self._data(answer)["result"]

    def _data(self, response: requests.Response) -> Any:
        if response.status_code != requests.codes.ok:
            reason = response.content[:500].decode(errors="replace")
            raise PrometheusApiClientException(f"HTTP Status Code {response.status_code} ({reason})")
        return response.json()["data"]

    def _ask(self, call: Callable[[], T]) -> T:
        began = time.monotonic()
        error: str | None = None
        try:
            return self._asked(call)
        except PrometheusUnavailable as unavailable:
            error = str(unavailable)
            raise
        finally:
            if self._on_call is not None:
                self._on_call(time.monotonic() - began, error)

    def _asked(self, call: Callable[[], T]) -> T:
        self._warnings.last = self._warnings.status = None
        try:
            answer = call()
        except requests.RequestException as error:
            raise PrometheusUnavailable(
                f"Prometheus at {self.url} does not answer: {_reason(error)}"
            ) from error
        except PrometheusApiClientException as error:
            if self._warnings.status in _NOT_LET_IN:
                told = f"{self._warnings.status:d} {HTTPStatus(self._warnings.status).phrase}"
                raise PrometheusUnavailable(
                    f"Prometheus at {self.url} does not let us in: it answers {told}"
                ) from error
            if self._warnings.status is not None and 400 <= self._warnings.status < 500:
                raise QueryRejected(f"Prometheus at {self.url} refused: {error}") from error
            raise PrometheusUnavailable(f"Prometheus at {self.url} failed: {error}") from error
        except OSError as error:  # requests' own errors are OSErrors too and were caught above
            raise PrometheusUnavailable(f"Prometheus at {self.url} cannot be asked: {error}") from error
        except (LookupError, TypeError, ValueError) as error:
            raise PrometheusUnavailable(
                f"{self.url} does not answer as Prometheus does: {error!r}"
            ) from error
        if self._warnings.last:
            raise PartialResult(f"Prometheus at {self.url} warns: {'; '.join(map(str, self._warnings.last))}")
        return answer

    def _keep_warnings(self, response: requests.Response, *_: Any, **__: Any) -> None:
        self._warnings.status = response.status_code
        # The body is parsed a second time only in the rare case that the word occurs in it.
        if response.ok and b'"warnings"' in response.content:
            try:
                self._warnings.last = response.json().get("warnings")
            except (ValueError, AttributeError):
                self._warnings.last = None  # not Prometheus's JSON: the caller finds that out by itself


def _apart(samples: Sequence[Sample], count: int) -> tuple[tuple[Sample, ...], ...]:
    """The samples of each expression, without the label that told them apart."""
    found: list[list[Sample]] = [[] for _ in range(count)]
    for sample in samples:
        labels = {name: value for name, value in sample.labels.items() if name != _NUMBER}
        found[int(sample.labels[_NUMBER])].append(replace(sample, labels=labels))
    return tuple(map(tuple, found))


class _Adapter(HTTPAdapter):
    """Tries once, on as many connections as there are workers, gives up what takes longer in all than its
    timeout, and may trust authorities and show a certificate of one's own."""

    def __init__(self, ca_file: Path | None, cert_file: Path | None, key_file: Path | None) -> None:
        self._certificates = Certificates(
            create_urllib3_context,  # requests loads the public authorities into it
            () if ca_file is None else (Authority(ca_file),),
            None if cert_file is None or key_file is None else (cert_file, key_file),
        )
        super().__init__(max_retries=Retry(0), pool_maxsize=POOL_SIZE)

    def build_connection_pool_key_attributes(self, *arguments: Any, **options: Any) -> tuple[Any, Any]:
        # With another context come other connections: none goes on with certificates that were replaced.
        host, pool = super().build_connection_pool_key_attributes(*arguments, **options)
        return host, {**pool, "ssl_context": self._certificates.context()}

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, **options)
        whole_answers(self.poolmanager)


class _Headers(requests.auth.AuthBase):
    def __init__(self, headers: Callable[[], Mapping[str, str]]) -> None:
        self._headers = headers

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers.update(self._headers())
        return request


def _reason(error: requests.RequestException) -> str:
    """The innermost cause: requests wraps 'Connection refused' into two lines of its own names."""
    cause: BaseException = error
    while (inner := cause.__cause__ or cause.__context__) is not None:
        cause = inner
    return str(cause) or type(cause).__name__
