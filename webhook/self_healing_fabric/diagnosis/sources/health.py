"""What a service says of itself at its health endpoint, where it says more than a status code.

Three ways of saying it are common: Spring Boot's `components`, the `checks` of the health+json draft (IETF,
draft-inadarei-api-health-check) and of MicroProfile Health, and plain objects of names and words. They differ
in names and agree in shape, so one walk reads them all: an object or list that holds named checks, each with
a word that is good or bad. A check that names something the service depends on is the service's own testimony
against it; that is worth more than our guess from latencies, but it is testimony and no proof.

The body is text of a stranger: it is read to a limit in bytes, depth and number of checks, and only shown.
"""

from __future__ import annotations

import json
import re
import shlex
import ssl
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from self_healing_fabric import outbound
from self_healing_fabric.diagnosis.patterns import Pattern
from self_healing_fabric.diagnosis.sources import Condition, Fact, Report, quoted
from self_healing_fabric.incidents.evidence import Evidence
from self_healing_fabric.settings import ServiceSettings

PATIENCE = 2.0  # seconds; a service that hangs must not keep its own repair waiting for longer
LARGEST_BODY = 65_536  # bytes; what is longer is not read at all
DEEPEST = 4  # checks within checks
MOST_CHECKS = 200  # that are looked at
MOST_TOLD = 8  # failing checks that become evidence
OF_DEPENDENCY = 0.75  # weight of a failing check that names a configured dependency

_BAD = {"down", "fail", "failed", "failing", "failure", "error", "unhealthy", "critical", "unavailable"} | {
    "out_of_service",
    "false",
    "dead",
    "offline",
    "not_ok",
}
_GOOD = {"up", "ok", "okay", "pass", "passed", "healthy", "true", "alive", "online", "ready", "success"}
_HOLDERS = ("components", "checks", "entries", "results", "dependencies", "services", "details")
_WORDS = ("status", "state", "health", "healthy", "ok", "result")
_REASONS = ("error", "output", "message", "description", "reason", "exception")
_NAMES: tuple[tuple[Pattern, float, re.Pattern[str]], ...] = tuple(
    (pattern, weight, re.compile(rf"(^|[^a-z])({words})", re.IGNORECASE))
    for pattern, weight, words in (
        (Pattern.DATA_CORRUPTION, 0.6, "integrity|checksum|corrupt|consisten|data_?quality"),
        (Pattern.CONFIGURATION_ERROR, 0.6, "migration|flyway|liquibase|alembic|schema"),
        (Pattern.CONFIGURATION_ERROR, 0.7, "config|setting|secret|cert|ssl|tls|licen|credential|vault"),
        (Pattern.RESOURCE_EXHAUSTION, 0.7, "disk|storage|space|memory|heap|ram|cpu|thread|fds?$|file_?desc"),
        (Pattern.SERVICE_OVERLOAD, 0.5, "queue|backlog|load|lag|pool"),
        (Pattern.NETWORK_ISSUE, 0.6, "network|dns|ping|connectivity"),
        (
            Pattern.DEPENDENCY_FAILURE,
            0.6,
            "db|database|datasource|postgres|mysql|mongo|redis|cache|kafka|rabbit|amqp|nats|elastic|"
            "cassandra|ldap|smtp|mail|s3|upstream|api|grpc",
        ),
    )
)
# What operating systems and databases say; the reason is more exact than the name. A disk whose blocks do not
# match their checksums is not full.
_REASONS_SAY: tuple[tuple[Pattern, float, re.Pattern[str]], ...] = tuple(
    (pattern, weight, re.compile(words, re.IGNORECASE))
    for pattern, weight, words in (
        (Pattern.DATA_CORRUPTION, 0.7, r"checksum|corrupt|malformed|(digest|hash) mismatch"),
        (
            Pattern.RESOURCE_EXHAUSTION,
            0.7,
            "no space left|out of memory|cannot allocate|too many open files|quota exceeded",
        ),
        (
            Pattern.CONFIGURATION_ERROR,
            0.7,
            "(invalid|missing|unknown) (config|setting|option|parameter|environment)|permission denied|"
            "access denied|authentication failed|certificate",
        ),
        (Pattern.NETWORK_ISSUE, 0.5, "no route to host|network is unreachable|name or service not known"),
    )
)


@dataclass(frozen=True)
class FailingCheck:
    """One check of a health body that is not passing: its name, and its own reason, if it gives one."""

    name: str
    reason: str


class HealthSource:
    """The health endpoint that a service's settings name; it depends on services of these names."""

    name = "health"

    def __init__(self, service: str, settings: ServiceSettings, depends_on: Collection[str]) -> None:
        self._service = service
        self._settings = settings
        self._url = url = str(settings.health)
        self._depends_on = tuple(depends_on)
        self._query = f"curl -s -i {shlex.quote(url)}"

    def look(self, at: float, within: float) -> Report:
        """GET the endpoint once."""
        began = time.monotonic()
        try:
            status, body = self._get(min(within, PATIENCE))
        except httpx.HTTPError as error:
            return Report((self._unanswered(error, at),))
        took = time.monotonic() - began
        return Report(tuple(self._answered(status, body, took, at)))

    def _get(self, within: float) -> tuple[int, bytes | None]:
        """The status and the body; None for a body that is longer than anything worth reading."""
        with (
            outbound.client_for(self._settings, timeout=within) as client,
            client.stream("GET", self._url, headers={"Accept": "application/json, */*;q=0.5"}) as answer,
        ):
            body = bytearray()
            for part in answer.iter_bytes():
                body += part
                if len(body) > LARGEST_BODY:
                    return answer.status_code, None
            return answer.status_code, bytes(body)

    def _unanswered(self, error: httpx.HTTPError, at: float) -> Fact:
        words = str(error) or type(error).__name__
        sentence = f"{self._service}: its health endpoint {self._url} does not answer: {quoted(words)}."
        supports, refused = _supported_by_error(error), _is_refused(error)
        return self._fact(sentence, 0.0, at, supports, condition=Condition.DOWN, is_gone=refused)

    def _answered(self, status: int, body: bytes | None, took: float, at: float) -> Iterator[Fact]:
        failing = failing_checks(_document(body)) if body else ()
        healthy = 200 <= status < 300
        sentence = f"{self._service}: its health endpoint answers {status} within {took:.3f} s"
        if failing:
            count = "1 check fails" if len(failing) == 1 else f"{len(failing)} checks fail"
            sentence += f", and by its body {count}"
        # A dead process does not answer at all: one that says it is not well still works in part.
        condition = Condition.WELL if healthy and not failing else Condition.PARTIAL
        yield self._fact(f"{sentence}.", float(status), at, condition=condition)
        for check in failing[:MOST_TOLD]:
            yield self._told(check, at)

    def _told(self, check: FailingCheck, at: float) -> Fact:
        sentence = f"{self._service}: its health check {check.name} fails" + (
            f": {check.reason}" if check.reason else ""
        )
        dependency = _dependency(check.name, self._depends_on)
        if dependency is not None:
            supports: Mapping[Pattern, float] = {Pattern.DEPENDENCY_FAILURE: OF_DEPENDENCY}
        else:
            supports = _supported_by(check)
        return self._fact(f"{sentence.rstrip('.')}.", 0.0, at, supports, service=dependency)

    def _fact(
        self,
        sentence: str,
        value: float,
        at: float,
        supports: Mapping[Pattern, float] | None = None,
        *,
        service: str | None = None,
        condition: Condition | None = None,
        is_gone: bool = False,
    ) -> Fact:
        evidence = Evidence(sentence, self._query, value, at)
        return Fact(evidence, supports or {}, service, condition, is_gone)


def failing_checks(document: Any) -> tuple[FailingCheck, ...]:
    """The checks of a health body that do not pass, in its order, without repetition.

    A check that only repeats that the checks within it fail is left out; so is a warning.
    """
    left = [MOST_CHECKS]
    found = list(_failing(document, "", DEEPEST, left)) if isinstance(document, Mapping) else []
    return tuple(dict.fromkeys(found))


def _failing(document: Mapping[str, Any], name: str, depth: int, left: list[int]) -> Iterator[FailingCheck]:
    within = []
    for inner_name, inner in _checks_in(document):
        left[0] -= 1
        if left[0] < 0:
            break
        if depth > 0 and isinstance(inner, Mapping):
            within += list(_failing(inner, inner_name, depth - 1, left))
        elif _is_bad(inner):
            within.append(FailingCheck(quoted(inner_name), ""))
    yield from within
    if not within and name and any(_is_bad(document.get(word)) for word in _WORDS):
        yield FailingCheck(quoted(name), _reason(document))


def _checks_in(document: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The named checks that an object holds: in one of the usual holders, or else in itself."""
    held = [key for key in _HOLDERS if isinstance(document.get(key), Mapping | list)]
    if not held:
        yield from _named(
            {key: value for key, value in document.items() if key not in (*_WORDS, *_REASONS)},
            words=not any(_is_good(document.get(word)) for word in _WORDS),
        )
    for key in held:
        # Among details, `enabled: false` is a setting and no check.
        yield from _named(document[key], words=key != "details")


def _named(holder: Any, *, words: bool) -> Iterator[tuple[str, Any]]:
    """The checks of a holder; with `words` also those that are only a word, as in `"db": "down"`."""
    if isinstance(holder, list):
        for entry in holder:
            if isinstance(entry, Mapping) and isinstance(entry.get("name"), str):
                yield entry["name"], entry
        return
    for name, value in holder.items():
        if isinstance(value, list):  # health+json: a list of measurements for each name
            yield from ((name, entry) for entry in value if isinstance(entry, Mapping))
        elif isinstance(value, Mapping) or (words and _is_bad(value)):
            yield name, value


def _is_bad(word: Any) -> bool:
    return word is False or (isinstance(word, str) and _plain(word) in _BAD)


def _is_good(word: Any) -> bool:
    return word is True or (isinstance(word, str) and _plain(word) in _GOOD)


def _plain(word: str) -> str:
    return re.sub(r"[\s-]+", "_", word[:40].strip().lower())


def _reason(document: Mapping[str, Any]) -> str:
    details = document.get("details")
    for holder in (document, details if isinstance(details, Mapping) else {}):
        for key in _REASONS:
            if isinstance(holder.get(key), str) and holder[key].strip():
                return quoted(holder[key])
    return ""


def _document(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _dependency(check: str, depends_on: Collection[str]) -> str | None:
    """The configured dependency that a check names: `postgres:connections` names `postgres`."""
    words = _words_of(check)
    fitting = [name for name in depends_on if (own := _words_of(name)) and _contains(words, own)]
    return max(fitting, key=len) if fitting else None


def _words_of(name: str) -> list[str]:
    # `orderDb` and `order-db` are the same two words.
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    return re.findall(r"[a-z0-9]+", apart.lower())


def _contains(words: list[str], part: list[str]) -> bool:
    return any(words[start : start + len(part)] == part for start in range(len(words) - len(part) + 1))


def _supported_by(check: FailingCheck) -> Mapping[Pattern, float]:
    apart = "_".join(_words_of(check.name))
    for text, said in ((check.reason, _REASONS_SAY), (apart, _NAMES)):
        for pattern, weight, words in said:
            if words.search(text):
                return {pattern: weight}
    return {}


def _causes(error: httpx.HTTPError) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _is_refused(error: httpx.HTTPError) -> bool:
    """Whether the host answered that nothing listens there: so the way to it is whole."""
    return any(isinstance(cause, ConnectionRefusedError) for cause in _causes(error))


def _supported_by_error(error: httpx.HTTPError) -> Mapping[Pattern, float]:
    if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in _causes(error)):
        return {Pattern.CONFIGURATION_ERROR: 0.6}
    if re.search(r"name (or service )?not known|name resolution|nodename", str(error), re.IGNORECASE):
        return {Pattern.NETWORK_ISSUE: 0.5}
    return {Pattern.NETWORK_ISSUE: 0.2} if isinstance(error, httpx.ConnectTimeout) else {}
