"""Alerts that the fabric itself posts to Alertmanager, through its API v2.

An alert lives until its `endsAt`, so whoever posts one keeps it alive, and it ends by itself when the fabric
is dead. The Alertmanagers of a cluster do not pass alerts on to each other: each is told.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
import structlog
from pydantic import AwareDatetime, BaseModel, TypeAdapter

from self_healing_fabric import outbound
from self_healing_fabric.quoting import quoted
from self_healing_fabric.settings import AlertmanagerChannel, PageHoldSettings, Settings
from shf_queries.catalogue import quote

log = structlog.get_logger()

ESCALATION = "ShfEscalation"
HEALING = "ShfHealing"
UNLESS_HEALING = "unless_healing"
PAGE = f'page="{UNLESS_HEALING}"'  # matches the pages that these two hold
PAGE_WAITS = 25.0  # seconds for which a page surely waits by itself; the shipped `group_wait` is 30 s
ALIKE = 5.0  # seconds by which two clocks may differ: what is told of one is rounded, and takes its time

Place = tuple[str, str, str]  # the values of these labels: which page is held
_PLACE = ("cluster", "namespace", "service")


class _Status(BaseModel):
    state: str


class _Listed(BaseModel):
    """An alert of Alertmanager's GET /api/v2/alerts, as far as it is of interest."""

    startsAt: AwareDatetime  # noqa: N815 - Alertmanager's name
    status: _Status

    def may_be_out(self, now: float) -> bool:
        """Whether it is held by nothing, and no longer waits by itself."""
        return self.status.state == "active" and self.startsAt.timestamp() < now - PAGE_WAITS


_LISTED = TypeAdapter(list[_Listed])


@dataclass(frozen=True)
class PostedAlert:
    """One alert; times in seconds since 1970. It has ended when `ends_at` is not after now."""

    labels: Mapping[str, str]
    starts_at: float
    ends_at: float
    annotations: Mapping[str, str] = field(default_factory=dict)
    link: str | None = None

    def on_clock(self, ahead: float) -> PostedAlert:
        """The same, in times of a clock that is so many seconds ahead."""
        return replace(self, starts_at=self.starts_at + ahead, ends_at=self.ends_at + ahead)

    def as_dict(self) -> dict[str, Any]:
        """As Alertmanager's API wants it; labels without a value are left out, for it refuses them."""
        link = {"generatorURL": self.link} if self.link else {}
        return {
            "labels": {name: value for name, value in self.labels.items() if value},
            "annotations": dict(self.annotations),
            "startsAt": _rfc3339(self.starts_at),
            "endsAt": _rfc3339(self.ends_at),
            **link,
        }


class NotPosted(Exception):
    """An Alertmanager did not take the alerts; says what each of those answered.

    `taken`: another one did.
    """

    def __init__(self, told: str, *, taken: bool = False) -> None:
        super().__init__(told)
        self.taken = taken


class Alertmanagers:
    """The Alertmanagers of one cluster."""

    def __init__(
        self,
        named: AlertmanagerChannel | PageHoldSettings,
        timeout: float,
        settings: Settings,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Those that `named` names, else the one that the fabric compares with."""
        known = settings.alertmanager
        self.urls = named.urls or ((known.url,) if known is not None else ())
        self._timeout = timeout
        self._headers: Callable[[], dict[str, str]] = known.headers if known is not None else dict
        self._named = (named, known)
        self._clock = clock
        self._ahead: dict[str, float] = {}  # seconds that their clocks are, as they told last

    def post(self, alerts: Sequence[PostedAlert]) -> None:
        """Tell all of them. Raises NotPosted when one did not take it.

        The times are those of our clock, and each is told them by its own: where that is ahead, alerts would
        end before they are told again, or have ended before they came, and would be taken and told to nobody;
        where it is behind, they would outlive who posts them.
        """
        failures = []
        with outbound.client_for(*self._named, timeout=self._timeout) as client:
            for url in self.urls:
                try:
                    answer = self._posted(client, url, alerts)
                    if not answer.is_success:
                        failures.append(f"{url} answered {answer.status_code}: {quoted(answer.text)}")
                except (httpx.HTTPError, OSError, ValueError) as error:
                    failures.append(f"{url}: {type(error).__name__}: {quoted(error)}")
        if failures:
            raise NotPosted("; ".join(failures), taken=len(failures) < len(self.urls))

    def _posted(self, client: outbound.Client, url: str, alerts: Sequence[PostedAlert]) -> httpx.Response:
        headers = self._headers()

        def post() -> httpx.Response:
            content = [alert.on_clock(self._ahead[url]).as_dict() for alert in alerts]
            answer = client.post(f"{url}/api/v2/alerts", json=content, headers=headers)
            self._note_clock(url, answer)
            return answer

        if url not in self._ahead:  # before: Alertmanager shortens the life of no alert that it was told
            self._note_clock(url, client.get(f"{url}/api/v2/status", headers=headers))
        before = self._ahead[url]
        answer = post()
        return post() if self._ahead[url] > before + ALIKE else answer

    def _note_clock(self, url: str, answer: httpx.Response) -> None:
        ahead = 0.0
        with contextlib.suppress(ValueError):  # it tells no time
            ahead = parsedate_to_datetime(answer.headers.get("Date", "")).timestamp() - self._clock()
        self._ahead[url] = ahead if abs(ahead) > ALIKE else 0.0

    def may_have_paged(self, place: Place, now: float) -> bool:
        """Whether people may have heard by a page of what fails there, or none of the Alertmanagers tells.

        What is held does not tell its end, so a page that went out must not be held any more.
        """
        labels = zip(_PLACE, place, strict=True)
        wanted = {"filter": [PAGE, *(f"{name}={quote(value)}" for name, value in labels)]}
        answers: list[_Listed] | None = None
        with outbound.client_for(*self._named, timeout=self._timeout) as client:
            for url in self.urls:
                try:
                    headers = self._headers()
                    answer = client.get(f"{url}/api/v2/alerts", params=wanted, headers=headers)
                    listed = _LISTED.validate_json(outbound.succeeded(answer).content)
                except (httpx.HTTPError, OSError, ValueError) as error:
                    log.warning("alertmanager_not_asked", url=url, error=quoted(error))
                else:
                    answers = [*(answers or ()), *listed]
        return answers is None or any(each.may_be_out(now) for each in answers)

    def check(self) -> str:
        """Ask each for its status. Raises NotPosted when one does not answer."""
        with outbound.client_for(*self._named, timeout=self._timeout) as client:
            for url in self.urls:
                try:
                    headers = self._headers()
                    outbound.succeeded(client.get(f"{url}/api/v2/status", headers=headers))
                except (httpx.HTTPError, OSError, ValueError) as error:
                    raise NotPosted(f"{url}: {type(error).__name__}: {quoted(error)}") from error
        return f"answers: {', '.join(self.urls)}"


def place_of(story: Mapping[str, Any], service: str | None) -> dict[str, str]:
    """The labels that say where a service is, as its own alerts have them: routes and inhibitions compare."""
    for alert in story["alerts"]:
        if alert["service"] == service:
            return {name: alert["labels"].get(name, "") for name in ("cluster", "namespace")}
    return {}


def place_of_page(labels: Mapping[str, Any]) -> Place:
    """Which page is held with an alert of these labels."""
    cluster, namespace, service = (str(labels.get(name, "")) for name in _PLACE)
    return cluster, namespace, service


def _rfc3339(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
