"""Alerts that the fabric itself posts to Alertmanager, through its API v2.

An alert lives until its `endsAt`, so whoever posts one keeps it alive, and it ends by itself when the fabric
is dead. The Alertmanagers of a cluster do not pass alerts on to each other: each is told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from self_healing_fabric import outbound
from self_healing_fabric.quoting import quoted
from self_healing_fabric.settings import AlertmanagerChannel, PageHoldSettings, Settings, bearer_headers

ESCALATION = "ShfEscalation"
HEALING = "ShfHealing"


@dataclass(frozen=True)
class PostedAlert:
    """One alert; times in seconds since 1970. It has ended when `ends_at` is not after now."""

    labels: Mapping[str, str]
    starts_at: float
    ends_at: float
    annotations: Mapping[str, str] = field(default_factory=dict)
    link: str | None = None

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
        self, named: AlertmanagerChannel | PageHoldSettings, timeout: float, settings: Settings
    ) -> None:
        """Those that `named` names, else the one that the fabric compares with."""
        known = settings.alertmanager
        self.urls = named.urls or ((known.url,) if known is not None else ())
        self._timeout = timeout
        self._bearer_token_file: Path | None = known.bearer_token_file if known is not None else None
        self._named = (named, known)

    def post(self, alerts: Sequence[PostedAlert]) -> None:
        """Tell all of them. Raises NotPosted when one did not take it."""
        failures = []
        with outbound.client_for(*self._named, timeout=self._timeout) as client:
            for url in self.urls:
                try:
                    headers = bearer_headers(self._bearer_token_file)
                    content = [alert.as_dict() for alert in alerts]
                    answer = client.post(f"{url}/api/v2/alerts", json=content, headers=headers)
                    if not answer.is_success:
                        failures.append(f"{url} answered {answer.status_code}: {quoted(answer.text)}")
                except (httpx.HTTPError, OSError, ValueError) as error:
                    failures.append(f"{url}: {type(error).__name__}: {quoted(error)}")
        if failures:
            raise NotPosted("; ".join(failures), taken=len(failures) < len(self.urls))

    def check(self) -> str:
        """Ask each for its status. Raises NotPosted when one does not answer."""
        with outbound.client_for(*self._named, timeout=self._timeout) as client:
            for url in self.urls:
                try:
                    headers = bearer_headers(self._bearer_token_file)
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


def _rfc3339(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
