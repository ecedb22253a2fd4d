"""Alertmanager as a channel: an alert `ShfEscalation`, for the routes, silences and on-call rotas that exist.

It is kept alive for as long as the incident is not over, and ended then. An acknowledgement does not end it:
Alertmanager would say `resolved` of what nobody has healed.

It takes the place of the page that says less, `ShfServiceFailing`: its label `holds` inhibits that, unless
that has gone out before.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import structlog

from self_healing_fabric.errors import ShfError
from self_healing_fabric.escalation.alerts import (
    ESCALATION,
    Alertmanagers,
    NotPosted,
    PostedAlert,
    place_of,
    place_of_page,
)
from self_healing_fabric.escalation.calls import Call, Kind
from self_healing_fabric.escalation.channels.delivery import CallFailed, Receipt
from self_healing_fabric.escalation.messages import Message
from self_healing_fabric.settings import AlertmanagerChannel as AlertmanagerSettings
from self_healing_fabric.settings import Settings

log = structlog.get_logger()

HOLDS = "holds"  # in the progress of a call: the place whose page its alert holds, or None
SIGNS_OF_LIFE = 3  # while an alert lives: one may get lost


def _labels(call: Call, of_call: str, story: Mapping[str, Any]) -> dict[str, str]:
    return {
        "alertname": ESCALATION,
        "escalation_level": str(call.level),
        "contact": call.contact,
        "service": call.service or "",
        "incident": call.incident_id,
        # By it a second call of the same people is another alert: of one that fires already they do not hear.
        "call": of_call,
        "severity": story["severity"],
        "page": "now",
        **place_of(story, call.service),
    }


class AlertmanagerChannel:
    """Posts one alert for each call. Alertmanager groups them by its own routes."""

    gathers = False

    def __init__(
        self, settings: AlertmanagerSettings, whole: Settings, clock: Callable[[], float] = time.time
    ) -> None:
        self._alertmanagers = Alertmanagers(settings, settings.timeout, whole, clock)
        self._expires = settings.expires
        self._clock = clock
        self.alive_for: float | None = settings.expires / SIGNS_OF_LIFE

    def send(self, message: Message, progress: Mapping[str, Any]) -> Receipt:
        """Post it, keep it alive, or end it. Raises CallFailed."""
        now = self._clock()
        started = float(progress.get("started", now))
        (call,) = message.calls
        story = message.stories[call.incident_id]
        # Decided once: with other labels it would be another alert.
        labels, holds = progress.get("labels"), progress.get(HOLDS)
        of_call = str(progress.get("call", call.id))
        if labels is None:
            labels = _labels(call, of_call, story)
            place = place_of_page(labels)
            if not progress and not self._alertmanagers.may_have_paged(place, now):
                holds = list(place)
            if holds is not None:
                labels["holds"] = "page"
        links = message.document["links"]
        names = {"incident": "incident_url", "dashboard": "dashboard_url", "runbook": "runbook_url"}
        annotations = {"summary": message.title, "description": message.body, "reason": call.reason}
        annotations |= {names[name]: url for name, url in links.items()}
        if story["acknowledged_by"]:
            annotations["acknowledged_by"] = story["acknowledged_by"]
        over = call.kind is Kind.ENDED
        ends_at = now if over else now + self._expires
        kept = {"started": started, "call": of_call, "labels": labels, HOLDS: holds}
        alert = PostedAlert(labels, min(started, ends_at), ends_at, annotations, links.get("incident"))
        try:
            self._alertmanagers.post([alert])
        except NotPosted as error:
            if not error.taken:
                raise CallFailed(str(error), progress=kept) from error
            log.warning("alertmanager_not_told", call=call.id, error=str(error))
        return Receipt(progress=kept)

    def check(self) -> str:
        """Ask every Alertmanager for its status."""
        try:
            return self._alertmanagers.check()
        except NotPosted as error:
            raise ShfError(str(error)) from error
