"""A page only when healing fails: the fabric tells Alertmanager what it heals, and that holds the page.

It fails open. What holds a page is an alert, `ShfHealing`, that lives for half a minute and is posted again
and again; whatever kills, freezes or cuts off the fabric ends it, and the page goes out. It is said only of
incidents that the fabric may and does repair by itself right now, not for longer than a deadline, and of
those whose page was held until people were called over Alertmanager: it would tell them the same again, even
after the incident, for the alerts of a service outlive it. And of what people have silenced: the end of a
silence lets a page out at once, and the fabric hears of it later. It follows from the store and from what
Alertmanager lists each time, so a restart or another leader just goes on.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable

import structlog
from sqlalchemy import Connection

from self_healing_fabric.errors import StoreUnavailable
from self_healing_fabric.escalation.alerts import (
    HEALING,
    Alertmanagers,
    NotPosted,
    Place,
    PostedAlert,
    place_of_page,
)
from self_healing_fabric.escalation.channels.alertmanager import HOLDS
from self_healing_fabric.guardrails import mode
from self_healing_fabric.incidents.lifecycle import State
from self_healing_fabric.orchestration.context import Context
from self_healing_fabric.settings import Mode, PageHoldSettings
from self_healing_fabric.store import call_statements, statements
from self_healing_fabric.store.statements import AnyRow

log = structlog.get_logger()

EXPIRES = 30.0  # seconds after the last sign of life; a new leader takes 6 to be found
REFRESH = 10.0  # seconds between two signs of life
LOOK = 1.0  # seconds between two looks at what is healed: a page must be held before it goes out
TIMEOUT = 5.0  # seconds for one Alertmanager
CALL_TAKES = 5.0  # seconds for which a page waits for the call that takes its place
MOST = 2000  # incidents that hold; a storm beyond that pages

# In these the fabric works by itself; resolved: its alerts end a while after it has healed.
_HEALING = (State.DETECTED, State.DIAGNOSING, State.RECOVERING, State.VERIFYING)


class PageHold:
    """Runs from `start` to `stop`; `tell` is one round, for whoever drives it by hand."""

    def __init__(
        self,
        context: Context,
        settings: PageHoldSettings,
        clock: Callable[[], float] = time.time,
        silenced: Callable[[], Collection[Place]] = tuple,
    ) -> None:
        self._context = context
        self._settings = settings
        self._silenced = silenced
        self._clock = clock
        channels = context.settings.escalation.channels
        self._channels = {name for name, channel in channels.items() if channel.alertmanager is not None}
        self._alertmanagers = Alertmanagers(settings, TIMEOUT, context.settings, clock)
        self._held: dict[Place, float] = {}  # since when
        self._told = float("-inf")
        self._reachable = True
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="page-hold", daemon=True)

    def start(self) -> None:
        """Begin to hold pages."""
        self._thread.start()

    def stop(self) -> None:
        """Say nothing more. What is held expires: a fabric that was stopped heals nothing."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(LOOK):
            try:
                self.tell()
            except (StoreUnavailable, NotPosted) as error:
                if self._reachable:
                    log.error("page_not_held", error=str(error))
                self._reachable = False
            except Exception:
                log.exception("page_hold_failed")
            else:
                self._reachable = True

    def tell(self) -> None:
        """Post what is healed now, when that has changed or it is time for a sign of life.

        Raises StoreUnavailable, NotPosted.
        """
        if not self._context.leases.leader:
            self._held.clear()
            return
        places, now = self._context.store.read(self._places), self._clock()
        ended = [place for place in self._held if place not in places]
        new = [place for place in places if place not in self._held]
        if not ended and not new and now - self._told < REFRESH:
            return
        since = {place: self._held.get(place, now) for place in places}
        alerts = [_alert(place, at, now + EXPIRES) for place, at in since.items()]
        alerts += [_alert(place, self._held[place], now) for place in ended]
        try:
            if alerts:
                self._alertmanagers.post(alerts)
        except NotPosted as error:
            if error.taken:  # its end has to be told, and the others are told at the next look
                self._held, self._told = since, float("-inf")
            raise
        self._held, self._told = since, now

    def _places(self, connection: Connection) -> set[Place]:
        settings = self._context.settings
        unstored = self._context.unstored_pauses
        automatic = mode.current(connection, settings, unstored) is Mode.AUTOMATIC
        stricter, _ = mode.stricter(connection, settings, unstored)  # at once: thousands may be silenced

        def acts(service: str) -> bool:
            return automatic and service not in stricter

        silenced = {place for place in self._silenced() if acts(place[-1])}
        return self._healing(connection, acts) | self._called_for(connection) | silenced

    def _called_for(self, connection: Connection) -> set[Place]:
        """Whose page was held until people were called over Alertmanager: from then on that is their page."""
        now, found = self._context.clock(), set()
        for call in call_statements.calls_not_over(connection) if self._channels else ():
            if call.channel not in self._channels:
                continue
            # One that had ended before the incident resolved is of a failure before: it has relapsed since.
            of_now = call.ended_at is None or (call.resolved_at or now) <= call.ended_at
            if of_now and call.sent_at is not None and call.progress.get(HOLDS) is not None:
                cluster, namespace, service = call.progress[HOLDS]
                found.add((cluster, namespace, service))
            elif call.attempts == 0 and call.created_at > now - CALL_TAKES:
                found.update(place for place in self._held if place[-1] == call.service)
        return found

    def _healing(self, connection: Connection, acts: Callable[[str], bool]) -> set[Place]:
        """Where the fabric heals by itself, and nobody has to be called."""
        now, found = self._context.clock(), set()
        states = [each.value for each in (*_HEALING, State.RESOLVED)]
        for row in statements.list_incidents(connection, states=states, limit=MOST):
            if not row.known_service or not self._may_hold(row, now):
                continue
            if acts(row.service):
                found.update(_places(row, statements.alerts_of(connection, row.id)))
        return found

    def _may_hold(self, row: AnyRow, now: float) -> bool:
        """Whether its page waits, or has never gone out: the end of one that did would be held, too."""
        until = row.resolved_at if row.state == State.RESOLVED.value else now
        in_time = until < row.opened_at + self._settings.deadline
        return bool(in_time and row.level < self._settings.below_level)


def page_hold(context: Context, silenced: Callable[[], Collection[Place]]) -> PageHold | None:
    """What holds pages, where that is configured; `silenced` tells what people have silenced."""
    settings = context.settings.escalation.hold_page
    return None if settings is None else PageHold(context, settings, silenced=silenced)


def _places(incident: AnyRow, alerts: Iterable[AnyRow]) -> set[Place]:
    """Where the incident's alerts say that its services are: the page has the same labels."""
    found = {
        place_of_page({**alert.labels, "service": alert.service})
        for alert in alerts
        if alert.service is not None
    }
    return found or {("", "", incident.service)}


def _alert(place: Place, since: float, until: float) -> PostedAlert:
    cluster, namespace, service = place
    labels = {"alertname": HEALING, "cluster": cluster, "namespace": namespace, "service": service}
    why = (
        f"The Self-Healing Fabric heals {service}, will after a silence, or has called people: its page waits"
    )
    return PostedAlert({**labels, "severity": "none"}, min(since, until), until, {"summary": why})
