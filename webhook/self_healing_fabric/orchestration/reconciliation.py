"""Every 10 s: what do the servers say now? The webhook is a hint, Prometheus is the truth.

Alertmanager re-sends nothing for hours once a notification was answered with 2xx, and sends nothing at all
for an alert that came and went while delivery was broken. So its list of active alerts is read, and what was
never delivered is taken in as if it had been. A server that does not answer ends nothing, nor does one
without our receiver, whose empty list says nothing; and one that has just started lists nothing: what
Alertmanager no longer lists ends when Prometheus does not fire it, or, where another server may have sent it,
when nobody has sent it again for long enough.

Whoever silences a service and works on it makes its alerts come and go. So it is not only the alerts of the
moment that tell what is silenced: while an incident is open, a silence is held against those that have ended,
too, and against those that only Prometheus says fire.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache, cached_property
from http import HTTPStatus
from typing import Any

import httpx
import regex
import structlog
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from sqlalchemy import Connection

from self_healing_fabric import outbound
from self_healing_fabric.escalation.alerts import ESCALATION, UNLESS_HEALING, Place, place_of_page
from self_healing_fabric.incidents.ingestion import Moment, identity_time, store_alerts
from self_healing_fabric.incidents.limits import CUT
from self_healing_fabric.incidents.models import Alert
from self_healing_fabric.orchestration import waits
from self_healing_fabric.orchestration.context import Context
from self_healing_fabric.orchestration.health_watch import HealthWatch
from self_healing_fabric.orchestration.leases import CLOCK_SPREADS_WITHIN, LEASE
from self_healing_fabric.orchestration.relapse_watch import look_for_relapses
from self_healing_fabric.orchestration.version_watch import VersionWatch
from self_healing_fabric.quoting import quoted
from self_healing_fabric.servers_asked import asking
from self_healing_fabric.settings import AlertmanagerSettings
from self_healing_fabric.store import audit_statements, call_statements, statements
from self_healing_fabric.store.statements import AnyRow
from shf_queries import QueryError
from shf_queries.catalogue import SIGNALS

log = structlog.get_logger()

RETIRED_AT_ONCE = 200  # incidents in one transaction; the next comparison takes the next ones
MATCHED_WITHIN = 0.05  # seconds for a regular expression of a silence, once: then it cannot be evaluated
_NOT_SHOWN = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND)
GRACE = 30.0  # seconds; an alert just delivered may be missing from a list that was read before
# Seconds after which Alertmanager has been told again of all that fires: Prometheus sends it at the first
# evaluation after --rules.alert.resend-delay, and both are 1 min by default.
HEARD_AGAIN = 150.0


class _Receiver(BaseModel):
    name: str


class _Status(BaseModel):
    state: str
    silencedBy: list[str] = []  # noqa: N815 - Alertmanager's name


class _ListedAlert(BaseModel):
    """An alert of Alertmanager's GET /api/v2/alerts; keys that newer versions add are ignored."""

    model_config = ConfigDict(extra="ignore")

    fingerprint: str
    startsAt: Moment  # noqa: N815 - Alertmanager's name
    labels: dict[str, str]
    annotations: dict[str, str] = {}
    receivers: list[_Receiver] = []
    status: _Status

    @property
    def identity(self) -> tuple[str, str]:
        return self.fingerprint, identity_time(self.startsAt)


class _Matcher(BaseModel):
    name: str
    value: str
    isRegex: bool  # noqa: N815 - Alertmanager's name
    isEqual: bool = True  # noqa: N815 - likewise; older versions know nothing else

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether the labels are what it asks for; also where that cannot be told, which holds back."""
        value = labels.get(self.name, "")
        if not self.isRegex:
            return (self.value == value) is self.isEqual
        same = self._same(value)
        return same is None or same is self.isEqual

    @cached_property
    def _same(self) -> Callable[[str], bool | None]:
        """Whether a value is like the regular expression; None where that cannot be told."""
        readable = True

        def same(value: str) -> bool | None:
            nonlocal readable
            if readable:
                try:
                    return bool(regex.fullmatch(self.value, value, timeout=MATCHED_WITHIN))
                except (regex.error, TimeoutError):  # Go's syntax differs, and takes no exponential time
                    readable = False
            return None

        return cache(same)  # thousands of alerts share a few values


class _Silence(BaseModel):
    """A silence of Alertmanager's GET /api/v2/silences, which lists expired ones too."""

    matchers: list[_Matcher]
    status: _Status

    def mutes(self, labels: Mapping[str, str]) -> bool:
        return all(each.matches(labels) for each in self.matchers)


_LISTED = TypeAdapter(list[_ListedAlert])
_SILENCES = TypeAdapter(list[_Silence])
_RECEIVERS = TypeAdapter(list[_Receiver])


class ReceiverMissing(ValueError):
    """Alertmanager has no receiver of the configured name: name the one that leads to the fabric."""


class Reconciliation:
    """Compares the stored alerts with Alertmanager, or where that does not answer with Prometheus."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._http = outbound.client_for(context.settings.alertmanager)
        self._reachable: dict[str, bool] = {}
        # Since when each alert has been missing from all lists; whoever does not know that ends it later.
        self._missing_since: dict[int, float] = {}
        self.health = HealthWatch(context.settings, context.prometheus)
        self.versions = VersionWatch(context.settings, context.prometheus, self._http)
        self.compared_at: float | None = None  # seconds since 1970, by this replica
        self._silenced: Mapping[Place, float] = {}  # see `silenced`, and when that was last so

    def run(self) -> None:
        """Compare once, if this replica is the one that does. A server that is away changes nothing."""
        context = self._context
        context.graph.refresh(context.clock())
        self.health.refresh(context.clock())
        self.versions.refresh(context.clock())
        if not context.leases.lead():
            self._missing_since.clear()
            return
        self._housekeeping()
        settings = context.settings.alertmanager
        # Without Alertmanager's word only ends can be learnt; what is silenced, nobody else knows.
        compared = (settings is not None and self._with_alertmanager(settings)) or self._with_prometheus()
        if compared:
            self.compared_at = context.clock()
            context.metrics.last_reconcile.set(self.compared_at)
        look_for_relapses(context)

    def silenced(self) -> Collection[Place]:
        """Where people have silenced the page of a service together with an alert that is to be taken up when
        the silence ends, or had until a moment ago: one comparison takes it up, and it is begun with soon."""
        since = self._context.clock() - 2 * self._context.settings.reconcile_interval
        return [place for place, at in self._silenced.items() if at > since]

    def _housekeeping(self) -> None:
        """Timers that got lost or went out of reach, and incidents whose retention is over."""
        context = self._context
        now, retention = context.clock(), context.settings.retention
        # The replica that set a timer may be a little ahead of this one.
        furthest = now + waits.longest(context.settings) + CLOCK_SPREADS_WITHIN
        furthest_called = waits.furthest_called(context.settings, now) + CLOCK_SPREADS_WITHIN
        leases_to = now + 2 * LEASE

        def write(connection: Connection) -> tuple[int, int, tuple[int, str] | None]:
            stuck = statements.revive_stuck(connection, now)
            # The clock was set back: without this, work waits for the old time.
            stuck += statements.pull_in(
                connection, timers_to=furthest, levels_to=furthest_called, leases_to=leases_to
            )
            call_statements.pull_in_calls(connection, timers_to=furthest_called, leases_to=leases_to)
            statements.forget_ended_alerts(connection, now - retention)
            retired = statements.retire_incidents(
                connection, closed_before=now - retention, now=now, limit=RETIRED_AT_ONCE
            )
            return stuck, retired, audit_statements.seal(connection, now)

        stuck, retired, sealed = context.store.write(write)
        if stuck:
            log.warning("stuck_incidents_taken_up", number=stuck)
        if retired:
            log.info("incidents_retired", number=retired)
        if sealed:  # whoever keeps the log elsewhere can prove by it that nothing before was rewritten
            log.info("timelines_sealed", number=sealed[0], hash=sealed[1])

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _with_alertmanager(self, settings: AlertmanagerSettings) -> bool:
        alive = self._kept_alive(settings)  # before the list, which does not hold what is posted meanwhile
        try:
            listed, silences = self._list(settings)
        except (httpx.HTTPError, ValidationError, OSError, ValueError) as error:
            self._note("alertmanager", False, str(error) or type(error).__name__)
            self._missing_since.clear()  # it may be starting anew
            return False
        self._note("alertmanager", True)
        self._context.metrics.alertmanager_compared.set(self._context.clock())
        self._post_again(alive, listed)
        ours = [
            item for item in listed if settings.receiver in {receiver.name for receiver in item.receivers}
        ]
        # A silenced or inhibited alert is somebody's decision: it is not taken up, but it has not ended
        # either.
        active = [item for item in ours if item.status.state != "suppressed"]
        known = {(row.fingerprint, row.starts_at): row for row in self._firing()}
        self._note_silenced(listed, [item for item in ours if item.identity not in known])
        alerts = [
            Alert(*item.identity, "firing", item.labels, item.annotations)
            for item in active
            if item.identity not in known
        ]
        # What goes to others now fires all the same, and nobody may hear that it is over.
        here = {item.identity: item.status.state == "suppressed" for item in listed}
        unlisted = [row for identity, row in known.items() if identity not in here]
        ended = self._ended(
            [row for row in unlisted if self._settled(row)], {item.fingerprint for item in listed}
        )
        silenced = [row.id for identity, row in known.items() if here.get(identity) and not row.suppressed]
        loud = [row.id for identity, row in known.items() if here.get(identity) is False and row.suppressed]
        just_ended, over = set(ended), self._context.store.ask(statements.ended_alerts_of_open)
        muted = {row.id: any(each.mutes(row.labels) for each in silences) for row in (*unlisted, *over)}
        silenced += [row.id for row in (*unlisted, *over) if muted[row.id] and not row.suppressed]
        # What fires on unlisted may have been inhibited.
        over = [*(row for row in unlisted if row.id in just_ended), *over]
        loud += [row.id for row in over if not muted[row.id] and row.suppressed]
        self._store(alerts, ended, silenced, loud)
        return True

    def _note_silenced(self, listed: Collection[_ListedAlert], unknown: Collection[_ListedAlert]) -> None:
        pages = [item for item in listed if item.labels.get("page") == UNLESS_HEALING]
        waiting = [item for item in unknown if self._is_known_to_prometheus(item.labels)]
        of_pages, of_others = (
            {place_of_page(item.labels) for item in items if item.status.silencedBy}
            for items in (pages, waiting)
        )
        now = self._context.clock()
        before = {place: self._silenced[place] for place in self.silenced()}
        self._silenced = {**before, **dict.fromkeys(of_pages & of_others, now)}

    def _kept_alive(self, settings: AlertmanagerSettings) -> Sequence[AnyRow]:
        """The calls by which an alert fires in this Alertmanager."""
        channels = {
            name
            for name, channel in self._context.settings.escalation.channels.items()
            if (over := channel.alertmanager) is not None and (not over.urls or settings.url in over.urls)
        }
        alive = self._context.store.read(call_statements.calls_kept_alive) if channels else ()
        return [row for row in alive if row.channel in channels]

    def _post_again(self, alive: Collection[AnyRow], listed: Collection[_ListedAlert]) -> None:
        """What people were called by is posted now, and not at its next sign of life, where Alertmanager has
        forgotten it, as it does when it restarts: else what that holds would page meanwhile."""
        there = {item.labels.get("call") for item in listed if item.labels.get("alertname") == ESCALATION}
        forgotten = [row.id for row in alive if row.progress.get("call", row.id) not in there]
        if forgotten:
            now = self._context.clock()
            self._context.store.write(
                lambda connection: call_statements.hurry_calls(connection, forgotten, now)
            )
            log.warning("alertmanager_forgot_calls", number=len(forgotten))

    def _list(self, settings: AlertmanagerSettings) -> tuple[list[_ListedAlert], list[_Silence]]:
        def get(path: str) -> bytes:
            url = f"{settings.url}/api/v2/{path}"
            answer = self._http.get(url, headers=settings.headers(), timeout=settings.timeout)
            return outbound.succeeded(answer).content

        with asking("alertmanager", settings.url):
            listed = _LISTED.validate_json(get("alerts"))
            # Asked after the list, which may have been made before the receiver was renamed.
            known = _RECEIVERS.validate_json(get("receivers"))
            require_receiver(settings.receiver, [each.name for each in known])
            silences = self._silences(get)
        return listed, silences

    def _silences(self, get: Callable[[str], bytes]) -> list[_Silence]:
        """Those in force; none where a proxy shows only the alerts, which tell what of them is silenced."""
        try:
            listed = _SILENCES.validate_json(get("silences"))
        except httpx.HTTPStatusError as error:
            if error.response.status_code not in _NOT_SHOWN:
                raise
            self._note("alertmanager's silences", False, str(error))
            return []
        self._note("alertmanager's silences", True)
        return [each for each in listed if each.status.state == "active"]

    def _ended(self, unlisted: Collection[Any], fingerprints: Collection[str]) -> list[int]:
        """Those of the alerts that Alertmanager does not list (any more, or not yet) that have ended."""
        # What it lists under another start, it has not forgotten.
        ended = [row.id for row in unlisted if row.fingerprint in fingerprints]
        missing = [row for row in unlisted if row.fingerprint not in fingerprints]
        now = self._context.clock()
        self._missing_since = {row.id: self._missing_since.get(row.id, now) for row in missing}
        fires = self._fires_in_prometheus() if missing else None
        for row in missing:
            if self._is_known_to_prometheus(row.labels):
                over = fires is not None
            else:
                over = now - self._missing_since[row.id] >= HEARD_AGAIN
            if over and not (fires is not None and fires(row.labels)):
                ended.append(row.id)
        return ended

    def _with_prometheus(self) -> bool:
        """Without Alertmanager's list only the ends can be learnt: Prometheus does not know fingerprints."""
        fires = self._fires_in_prometheus()
        if fires is None:
            return False
        firing = self._firing()
        known = [row for row in firing if self._is_known_to_prometheus(row.labels)]
        ended = [row.id for row in known if self._settled(row) and not fires(row.labels)]
        marked: Collection[AnyRow] = ()
        if self._context.settings.alertmanager is None:  # it was configured once: nobody tells of an end now
            marked = (*firing, *self._context.store.ask(statements.ended_alerts_of_open))
        self._store([], ended, loud=[row.id for row in marked if row.suppressed])
        return True

    def _fires_in_prometheus(self) -> Callable[[Mapping[str, str]], bool] | None:
        """A function that tells whether Prometheus fires a stored alert; None when it does not answer."""
        try:
            listed = self._context.prometheus.alerts()
        except QueryError as error:
            self._note("prometheus", False, str(error))
            return None
        self._note("prometheus", True)
        return _lookup([item.get("labels", {}) for item in listed if item.get("state") == "firing"])

    def _is_known_to_prometheus(self, labels: Mapping[str, str]) -> bool:
        """Whether its rules fire the alert, as they record the signals; others may come from anywhere.

        What was cut cannot be compared: Prometheus lists it whole.
        """
        ours = labels.get("service") in self._context.settings.services and labels.get("signal") in SIGNALS
        return ours and CUT not in labels

    def _firing(self) -> list[Any]:
        return list(self._context.store.ask(statements.firing_alerts))

    def _settled(self, row: Any) -> bool:
        return bool(self._context.clock() - row.received_at > GRACE)

    def _store(
        self,
        alerts: list[Alert],
        ended: list[int],
        silenced: Collection[int] = (),
        loud: Collection[int] = (),
    ) -> None:
        if not alerts and not ended and not silenced and not loud:
            return
        now = self._context.clock()

        def write(connection: Connection) -> None:
            store_alerts(connection, alerts, now)
            for alert in alerts:
                statements.revive_alert(connection, alert.fingerprint, alert.starts_at)
            for alert_id in ended:
                statements.end_alert(connection, alert_id, now)
            if silenced:
                statements.set_suppressed(connection, silenced, True)
            if loud:
                statements.set_suppressed(connection, loud, False)

        self._context.store.write(write)
        log.info(
            "reconciled", found=len(alerts), ended=len(ended), silenced=len(silenced), no_longer=len(loud)
        )

    def _note(self, server: str, reachable: bool, error: str | None = None) -> None:
        """Log only when it changes: an outage must not fill the log every 10 s."""
        if self._reachable.get(server, True) is not reachable:
            log.warning(
                "server_unreachable" if not reachable else "server_reachable", server=server, error=error
            )
        self._reachable[server] = reachable


def require_receiver(receiver: str, names: Collection[str]) -> None:
    """Raises ReceiverMissing."""
    if receiver not in names:
        told = quoted(", ".join(names))
        raise ReceiverMissing(f"has no receiver {receiver} for alertmanager.receiver (it has: {told})")


def _lookup(listed: Collection[Mapping[str, str]]) -> Callable[[Mapping[str, str]], bool]:
    """A function that tells whether a stored alert is among those that Prometheus lists.

    Prometheus lists an alert without the external labels that it adds when it sends it, so the stored one has
    at least the listed labels. In a storm ten thousand are compared with ten thousand: they are looked up by
    the few different sets of label names, not one by one.
    """
    values_by_names: dict[tuple[str, ...], set[tuple[str, ...]]] = {}
    for labels in listed:
        names = tuple(sorted(labels))
        values_by_names.setdefault(names, set()).add(tuple(labels[name] for name in names))

    def is_listed(stored: Mapping[str, str]) -> bool:
        return any(
            tuple(stored.get(name) for name in names) in values for names, values in values_by_names.items()
        )

    return is_listed
