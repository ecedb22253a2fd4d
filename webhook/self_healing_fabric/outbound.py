"""The one place where HTTP clients of the fabric are made: each reaches what its configuration names.

What an alert says ends up near URLs: in messages, queries, names. So that no mistake in putting one together
can send a call, with its token, to somewhere else, a client is made for a section of the configuration, and
its transport refuses every other scheme, host and port before a connection is opened. A client that is made
for nothing reaches nothing. Redirects are not followed, and neither proxies nor .netrc of the environment are
used. A rule of the linter forbids to make clients elsewhere (pyproject.toml, `banned-api`).

Nor is an answer unpacked: a few kilobytes that were packed twice would become gigabytes, before anybody could
look at how long it is.

A client's timeout is for an answer as a whole, from its first byte to its last one. For httpx it is for each
part: whoever got one byte now and then, be it of the headers, would wait for ever and work on nothing else.

The authorities' certificates are loaded once, and when their files have changed: anew for every client they
would cost 30 ms of CPU, also for plain HTTP, which in a storm of a thousand repairs leaves nothing for taking
notifications in.
"""

from __future__ import annotations

import contextlib
import re
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpcore
import httpx
from pydantic import BaseModel

from self_healing_fabric.errors import ConfigurationError, Problem
from self_healing_fabric.quoting import quoted
from self_healing_fabric.settings import Settings, called_urls
from shf_queries.certificates import Authority, Certificates, CertificateUnusable
from shf_queries.client import PrometheusClient

Client = httpx.Client
Origin = tuple[str, str, int]  # scheme, host, port
OnCall = Callable[[float, str | None], None]  # seconds, error

LARGEST_ANSWER = 64 * 1024  # bytes
_REFUSED = "CERTIFICATE_VERIFY_FAILED"  # stands in the error when a certificate does not convince
_REMEDIES = {  # by what OpenSSL says
    "has expired": "Its certificate has to be renewed.",
    "not yet valid": "Compare the clocks of both machines: its certificate is from the future.",
    "mismatch": "Call it by a name that stands in its certificate.",
}

# TLS alerts by which a server refuses the certificate that a client shows, or that it shows none: Go says
# BAD_CERTIFICATE of either, and before TLS 1.3 others say HANDSHAKE_FAILURE of none.
_NOT_TAKEN = re.compile(
    "ALERT_(BAD_CERTIFICATE|UNSUPPORTED_CERTIFICATE|CERTIFICATE_(REQUIRED|UNKNOWN|EXPIRED|REVOKED)"
    "|UNKNOWN_CA|ACCESS_DENIED|HANDSHAKE_FAILURE)"
)

_PACKED = "shf_packed"  # of an answer's extensions
_PORTS = {"http": 80, "https": 443}
_KEPT = httpx.Limits(max_connections=100, max_keepalive_connections=20)  # httpx's default


class NotConfigured(httpx.ConnectError):
    """A call to somewhere that the client is not made for: nothing was connected to, nothing was sent."""


def certificate_remedy(error: str, *, authority: str, own: str) -> str | None:
    """What to do where an error is a certificate that was refused, the server's or ours; None where it is
    something else.

    Args:
        error: its text.
        authority: how to name one, where it is the authority that nobody knows.
        own: how to name the certificate to show.
    """
    if _NOT_TAKEN.search(error):
        if _own.pair is None:
            return f"It asks for a certificate: name yours {own}."
        return (
            "It does not take the certificate that it is shown: that has to be valid, for clients, and of "
            "an authority which it trusts."
        )
    if _REFUSED not in error:
        return None
    return next(
        (told for said, told in _REMEDIES.items() if said in error), f"Name its authority {authority}."
    )


def trust(ca_file: Path | None, cert_file: Path | None = None, key_file: Path | None = None) -> None:
    """Let all clients of this process trust the authorities in a PEM file, too, and show a certificate to
    servers that ask for one; None changes nothing.

    Raises:
        ConfigurationError: a file cannot be used.
    """
    problems = []
    authorities, pair = dict(_own.authorities), _own.pair
    try:
        if ca_file is not None and ca_file not in authorities:
            authorities[ca_file] = Authority(ca_file)
    except CertificateUnusable as error:
        problems += _problems(error)
    if cert_file is not None and key_file is not None:
        pair = cert_file, key_file
    try:
        certificates = Certificates(_public_authorities, authorities.values(), pair)
    except CertificateUnusable as error:
        problems += _problems(error)
    if problems:
        raise ConfigurationError("certificates", problems)
    _own.authorities, _own.pair, _own.certificates = authorities, pair, certificates


def _problems(error: CertificateUnusable) -> list[Problem]:
    return [Problem(name, mistake) for name, mistake in error.mistakes.items()]


def prometheus_client(
    settings: Settings, *, timeout: float | None = None, on_call: OnCall | None = None
) -> PrometheusClient:
    """A client for the configured Prometheus; from now on all clients of this process trust `ca_file`, and
    show `cert_file`.

    Args:
        settings: the configuration.
        timeout: seconds for one call; None: `prometheus.timeout`.
        on_call: told the seconds that each call took, and the error when it was not answered.

    Raises:
        ConfigurationError: `ca_file`, `cert_file` or `key_file` cannot be used.
    """
    trust(settings.ca_file, settings.cert_file, settings.key_file)
    asked = settings.prometheus
    return PrometheusClient(
        asked.url,
        timeout=timeout or asked.timeout,
        headers=asked.headers,
        ca_file=settings.ca_file,
        cert_file=settings.cert_file,
        key_file=settings.key_file,
        on_call=on_call,
    )


def client_for(
    *sections: BaseModel | None, timeout: float = 5.0, headers: Mapping[str, str] | None = None
) -> Client:
    """A client that reaches the origins of the URLs in these sections of the configuration, and nothing else.

    Args:
        sections: of a validated configuration; one that is None names nothing.
        timeout: seconds to connect, and again for the whole answer.
        headers: sent with each call.
    """
    named = [url for section in sections if section is not None for url in called_urls(section)]
    return _client(frozenset(map(origin, named)), timeout=timeout, headers=headers)


def client_to(url: str, *, timeout: httpx.Timeout, headers: Mapping[str, str] | None = None) -> Client:
    """A client for the URL that a person gave on the command line; who asks once leaves nothing open.

    Raises httpx.InvalidURL, ValueError.
    """
    named, limits = frozenset({origin(url)}), httpx.Limits(max_keepalive_connections=0)
    return _client(named, limits, base_url=url, timeout=timeout, headers=headers)


def answer_to(
    client: Client, method: str, url: str, *, largest: int = LARGEST_ANSWER, **options: Any
) -> httpx.Response:
    """The answer; of one that is larger only the beginning is kept.

    Raises:
        httpx.HTTPError: there is none, or it does not end in time.
    """
    body = bytearray()
    with client.stream(method, url, **options) as answer:
        for part in answer.iter_bytes():
            body += part[: largest - len(body)]
    # What describes the bytes that were sent is not true of those that are kept.
    told = [
        each for each in answer.headers.multi_items() if not each[0].startswith(("content-", "transfer-"))
    ]
    return httpx.Response(answer.status_code, headers=told, content=bytes(body), request=answer.request)


def succeeded(answer: httpx.Response) -> httpx.Response:
    """The answer, if it is a success. httpx tells of others in several lines, which lead to a dictionary.

    Raises httpx.HTTPStatusError.
    """
    if answer.is_success:
        return answer
    place = urlsplit(answer.headers.get("Location", "")).netloc
    led = f" and leads to {quoted(place)}" if place else ""
    told = f"it answers {answer.status_code} {quoted(answer.reason_phrase)}".rstrip() + led
    raise httpx.HTTPStatusError(told, request=answer.request, response=answer)


def refuse_packed(answer: httpx.Response) -> None:
    """Where the bytes of an answer are compared: packed ones are others, and would be taken for a change.

    Raises httpx.DecodingError.
    """
    encoding = answer.extensions.get(_PACKED)
    if encoding is not None:
        told = f"its answer is packed ({encoding}), which was not asked for"
        raise httpx.DecodingError(told, request=answer.request)


def origin(url: str | httpx.URL) -> Origin:
    """Scheme, host and port of a URL. Raises httpx.InvalidURL, ValueError."""
    parts = httpx.URL(url)
    if parts.scheme not in _PORTS or not parts.host:
        raise ValueError("give an absolute URL that starts with http:// or https://")
    return parts.scheme, parts.host, parts.port or _PORTS[parts.scheme]


class _Bounded(httpx.HTTPTransport):
    """Connects to the named origins only."""

    def __init__(self, named: frozenset[Origin], limits: httpx.Limits) -> None:
        super().__init__(verify=tls_context(), trust_env=False, limits=limits)
        self._pool._network_backend = _Timed(self._pool._network_backend)
        self._named = named

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        try:
            allowed = origin(request.url) in self._named
        except ValueError:
            allowed = False
        if not allowed:
            place = f"{request.url.scheme}://{request.url.netloc.decode('ascii', 'replace')}"
            raise NotConfigured(f"{place} is not what the configuration names for this call", request=request)
        request.headers["Accept-Encoding"] = "identity"
        answer = self._answer(request)
        encoding = answer.headers.pop("Content-Encoding", "identity")  # by which httpx would unpack
        if encoding.strip().lower() != "identity":
            answer.extensions[_PACKED] = encoding
        return answer

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self._pool._ssl_context = tls_context()
        try:
            return super().handle_request(request)
        except (httpx.ReadError, httpx.WriteError) as error:
            # In TLS 1.3 a client sends before it hears that its certificate is not taken. The server hands
            # nothing on that came so, and what was asked for has certainly not been done.
            if _NOT_TAKEN.search(str(error)):
                raise httpx.ConnectError(str(error), request=request) from error
            raise


class _Timed(httpcore.NetworkBackend):
    """Connections on which a timeout is for a whole answer."""

    def __init__(self, backend: httpcore.NetworkBackend) -> None:
        self._backend = backend

    def connect_tcp(self, *place: Any, **options: Any) -> httpcore.NetworkStream:
        return _TimedStream(self._backend.connect_tcp(*place, **options))


class _TimedStream(httpcore.NetworkStream):
    """What was sent last is what the next answer is to; its time begins then."""

    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream
        self._sent = time.monotonic()

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if timeout is None:
            return self._stream.read(max_bytes)
        left = self._sent + timeout - time.monotonic()
        with contextlib.suppress(httpcore.ReadTimeout):
            if left > 0:
                return self._stream.read(max_bytes, left)
        raise httpcore.ReadTimeout(f"its answer takes longer than {timeout:g} s")

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, timeout)
        self._sent = time.monotonic()

    def close(self) -> None:
        self._stream.close()

    def start_tls(self, *arguments: Any, **options: Any) -> httpcore.NetworkStream:
        return _TimedStream(self._stream.start_tls(*arguments, **options))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _client(named: frozenset[Origin], limits: httpx.Limits = _KEPT, **options: Any) -> Client:
    return Client(transport=_Bounded(named, limits), follow_redirects=False, trust_env=False, **options)


@dataclass
class _Own:
    """What `trust` was told for all clients of this process."""

    authorities: dict[Path, Authority] = field(default_factory=dict)
    pair: tuple[Path, Path] | None = None
    certificates: Certificates | None = None


_own = _Own()


def tls_context() -> ssl.SSLContext:
    """For connections that are opened now: it trusts and shows what `trust` was told."""
    if _own.certificates is None:
        _own.certificates = Certificates(_public_authorities)
    return _own.certificates.context()


def _public_authorities() -> ssl.SSLContext:
    """The certificates that httpx trusts by default; the environment changes nothing."""
    return httpx.create_ssl_context(trust_env=False)
