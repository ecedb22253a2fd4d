"""Which alerts are one problem, and which of their services is suspected to be its cause.

A service that hangs misses its heartbeat, answers late and fails its callers' requests; healing each alert by
itself would restart half of the fleet. So the alerts of one service are one incident, and so are those of
services that depend on each other, when they come within a window. The incident's service is the suspected
cause: of all that alert, the one that the others depend on. A symptom's alert joins and is not healed by
itself; when the cause has healed and the symptom has not, it gets an incident of its own (`split`).

People are called for what is known when they are called. So an alert with a signal that an escalated incident
has not had yet begins it anew, once for each signal, and those who were called hear of it: an outage must not
pass for more of a doubt that was told before. Where a person has decided that nothing is done by itself, they
only hear of it.

An alert that names no configured service becomes an incident of its own that people see, and that nothing
acts on: a label is a stranger's text and never chooses a target.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Row

from self_healing_fabric.incidents import timeline
from self_healing_fabric.incidents.lifecycle import Outcome, State
from self_healing_fabric.incidents.models import Alert, alert_of
from self_healing_fabric.incidents.timeline import Entry, Kind
from self_healing_fabric.incidents.topology import Topology
from self_healing_fabric.incidents.unfinished import finishes
from self_healing_fabric.store import statements
from shf_queries.catalogue import SIGNALS

BATCH = 500  # alerts in one transaction
SEVERITIES = ("critical", "warning", "info", "none")  # worst first

HANDS_OFF = "hands_off"  # in what is watched of an escalated incident: who decided that nothing more is done

OUTLIVED = "outlived"  # likewise: that it was proved to have healed, and an alert of it fires all the same

# In these states nothing is under way that a change of the suspected cause would disturb.
MOVABLE = frozenset(
    {State.DETECTED, State.DIAGNOSING, State.AWAITING_APPROVAL, State.RECOVERING, State.ESCALATED}
)


@dataclass(frozen=True)
class Opened:
    """What one round of correlation did: the services of opened (None: unknown) and of merged incidents, and
    of what more those have to hear who were called for an incident, by its id."""

    services: tuple[str | None, ...]
    merged: tuple[str, ...]
    more: Mapping[str, str]


def open_incidents(connection: Connection, topology: Topology, window: float, now: float) -> Opened:
    """Give new firing alerts their incidents, at most `BATCH` of them.

    Args:
        connection: inside a transaction that has serialized "correlation": other replicas wait for its end.
        topology: the configured services and what depends on what.
        window: seconds after an incident's newest alert within which one of another service may join it.
        now: seconds since 1970.
    """
    rows = statements.unassigned_alerts(connection, BATCH)
    correlation = _Round(connection, topology, window, now)
    correlation.read(rows)
    for row in sorted(rows, key=correlation.causes_first):
        correlation.place(row)
    correlation.write()
    return Opened(tuple(correlation.opened), tuple(correlation.merged), correlation.more)


@dataclass
class _Open:
    """An open incident as this round knows it."""

    id: str
    subject: str
    service: str | None
    state: State
    severity: str
    opened_at: float
    newest_alert: float
    resolved_at: float | None = None
    relapses: int = 0
    split_from: str | None = None
    plan: Sequence[str] = ()
    waiting: bool = False
    watched: Mapping[str, Any] = field(default_factory=dict)  # how, while it is escalated
    new: bool = False
    signals: set[str] | None = None  # that alerts of its service have named; None until somebody asks
    values: dict[str, Any] = field(default_factory=dict)  # of one that this round opened


def _known(row: Row[Any], newest_alert: float) -> _Open:
    return _Open(
        id=row.id,
        subject=row.subject,
        service=row.service if row.known_service else None,
        state=State(row.state),
        severity=row.severity,
        opened_at=row.opened_at,
        newest_alert=newest_alert,
        resolved_at=row.resolved_at,
        relapses=row.relapses,
        split_from=row.split_from,
        plan=row.plan,
        waiting=row.waiting_for is not None,
        watched=(row.verification or {}) if row.state == State.ESCALATED.value else {},
    )


class _Round:
    """One batch of alerts against the open incidents: read once, decided in memory, written at once."""

    def __init__(self, connection: Connection, topology: Topology, window: float, now: float) -> None:
        self._connection = connection
        self._topology = topology
        self._window = window
        self._now = now
        self._by_subject: dict[str, _Open] = {}
        self._by_id: dict[str, _Open] = {}
        self._members: dict[str, set[str]] = defaultdict(set)  # service -> incidents it is a symptom in
        self._assigned: list[dict[str, Any]] = []
        self._entries: list[tuple[str, Entry]] = []
        self._severities: dict[str, str] = {}
        self.opened: list[str | None] = []
        self.merged: list[str] = []
        self.more: dict[str, str] = {}

    def read(self, rows: Collection[Row[Any]]) -> None:
        """Load the open incidents that the alerts may belong to."""
        services = {name for row in rows if (name := self._service(row.labels)) is not None}
        related = set(services)
        for name in services:
            related.update(self._topology.dependencies(name))
            related.update(self._topology.dependants(name))
        subjects = {subject_of(name) for name in related}
        subjects |= {_stranger(row) for row in rows if self._service(row.labels) is None}
        found = statements.open_incidents_of(self._connection, subjects, lock=True)
        memberships = statements.memberships(self._connection, services)
        missing = {row.incident_id for row in memberships} - {row.id for row in found}
        found = [*found, *filter(None, (statements.incident(self._connection, each) for each in missing))]
        newest = statements.last_alert_times(self._connection, [row.id for row in found])
        for row in found:
            self._add(_known(row, newest.get(row.id, row.opened_at)))
        for row in memberships:
            self._members[row.service].add(row.incident_id)

    def causes_first(self, row: Row[Any]) -> tuple[int, int]:
        """The order in which alerts are placed: what depends on least first, so that symptoms find causes."""
        service = self._service(row.labels)
        return (len(self._topology.dependencies(service)) if service else 0, row.id)

    def place(self, row: Row[Any]) -> None:
        """Find or open the incident of one alert."""
        alert, service = alert_of(row), self._service(row.labels)
        subject = _stranger(row) if service is None else subject_of(service)
        home = self._by_subject.get(subject)
        if home is not None:
            self._join(home, alert)
        elif service is not None and (home := self._incident_of_a_cause(service)) is not None:
            self._join(home, alert, symptom=service)
            self._members[service].add(home.id)
        elif service is not None and (found := self._incidents_of_symptoms(service)):
            home = found[0]
            self._move(home, service, alert)
            for other in found[1:]:
                self._merge(other, home)
        else:
            home = self._open(alert, subject, service)
        home.newest_alert = self._now
        self._assigned.append({"alert_id": row.id, "to_incident": home.id, "to_service": service})

    def write(self) -> None:
        """Write all that was decided."""
        new = [incident for incident in self._by_id.values() if incident.new]
        statements.insert_incidents(self._connection, [incident.values for incident in new])
        statements.assign_alerts(self._connection, self._assigned)
        for incident_id, severity in self._severities.items():
            # Only the severity: the step in hand keeps its lease, and reads all alerts when it diagnoses.
            statements.annotate(self._connection, incident_id, {"severity": severity})
        timeline.append_all(self._connection, self._entries, self._now)

    def _service(self, labels: Mapping[str, str]) -> str | None:
        """The configured service that an alert names."""
        name = labels.get("service")
        return name if name in self._topology.services else None

    def _add(self, incident: _Open) -> None:
        self._by_subject[incident.subject] = self._by_id[incident.id] = incident

    def _incident_of_a_cause(self, service: str) -> _Open | None:
        """The open incident that this service is a symptom of: it is one already, or its dependency fails."""
        current = [self._by_id[each] for each in self._members.get(service, ()) if each in self._by_id]
        for incident in sorted(current, key=lambda each: each.opened_at):
            if incident.resolved_at is None:
                return incident
        for cause in self._topology.dependencies(service):
            incident_of_cause = self._by_subject.get(subject_of(cause))
            if incident_of_cause is not None and self._is_recent(incident_of_cause):
                return incident_of_cause
        return None

    def _incidents_of_symptoms(self, service: str) -> list[_Open]:
        """Open incidents of services that depend on this one, their likelier cause; oldest first.

        None of them was opened in this round: causes are placed first, and in a circle the later service
        joins the earlier one.
        """
        callers = (self._by_subject.get(subject_of(name)) for name in self._topology.dependants(service))
        found = [
            incident
            for incident in callers
            if incident is not None
            and self._is_recent(incident)
            and incident.state in MOVABLE
            and incident.split_from is None
            and HANDS_OFF not in incident.watched
            and not self._has_begun(incident)
        ]
        return sorted(found, key=lambda incident: (incident.opened_at, incident.id))

    def _has_begun(self, incident: _Open) -> bool:
        """Whether an effect of it is under way, or comes next that finishes an earlier one."""
        actions = statements.actions_held_by(self._connection, incident.id)
        if any(row.status in statements.UNFINISHED for row in actions):
            return True
        acts = incident.state in (State.RECOVERING, State.AWAITING_APPROVAL)
        return acts and finishes(incident.plan, str(incident.service), actions)

    def _is_recent(self, incident: _Open) -> bool:
        return incident.resolved_at is None and self._now - incident.newest_alert <= self._window

    def _open(self, alert: Alert, subject: str, service: str | None) -> _Open:
        name, title = _names(alert)
        values = {
            **_NEW,
            "id": new_id(self._now, subject),
            "subject": subject,
            "service": alert.labels.get("service"),
            "known_service": service is not None,
            "title": title[: timeline.MAX_MESSAGE],
            "severity": _severity(alert),
            "signal": alert.labels.get("signal"),
            "opened_at": self._now,
            "updated_at": self._now,
            "due_at": self._now,
        }
        incident = _Open(
            values["id"], subject, service, State.DETECTED, values["severity"], self._now, self._now,
            new=True, values=values,
        )  # fmt: skip
        self._add(incident)
        self.opened.append(service)
        self._entries.append((incident.id, _alert_entry(alert, f"{name} opened the incident: {title}")))
        return incident

    def _join(self, incident: _Open, alert: Alert, symptom: str | None = None) -> None:
        name, _ = _names(alert)
        why = (
            "" if symptom is None else f": {symptom} depends on {incident.service} and is taken for a symptom"
        )
        over = self._is_over(incident)
        if over and self._is_proved(incident, alert):
            # What fails again all the same is seen by its samples: `orchestration.relapse_watch`.
            over, why = False, ": it began before that was resolved, and what it tells of has healed since"
        self._entries.append((incident.id, _alert_entry(alert, f"{name} joined the incident{why}.")))
        worst = min(incident.severity, _severity(alert), key=SEVERITIES.index)
        if incident.service is None and (service := self._service(alert.labels)) is not None:
            incident.service = service
            self._add_more(incident, alert, f"{service} is configured again")
        elif over:
            told = Entry(Kind.STATE, "Re-opened: an alert came back after the incident was resolved.")
            self._entries.append((incident.id, told))
            changes = reopened(incident.relapses, self._now) | {"severity": worst}
            if symptom is None:  # what it was named after is over
                changes |= _told_by(alert)
            statements.overtake(self._connection, incident.id, changes)
            incident.state, incident.relapses = State.DIAGNOSING, incident.relapses + 1
            incident.resolved_at = None
        elif symptom is None and incident.state is State.ESCALATED and self._is_new(incident, alert):
            signal = alert.labels["signal"]
            self._add_more(incident, alert, f"{signal} is reported too, which nobody was told of")
        elif incident.waiting and symptom is None and incident.state is State.DIAGNOSING:
            # It may have waited for this very alert: the next step looks at once.
            statements.annotate(self._connection, incident.id, {"due_at": self._now})
        if worst != incident.severity:
            self._change_severity(incident, worst)

    def _is_over(self, incident: _Open) -> bool:
        """Whether it was proved to have healed, and nothing is under way that takes back what was lent."""
        if incident.state is State.VERIFYING or incident.resolved_at is None:
            return False
        return statements.unfinished_action_of(self._connection, incident.id) is None

    def _is_proved(self, incident: _Open, alert: Alert) -> bool:
        """Whether the alert tells late of what the incident was about, such as that of the second server of a
        pair: newer samples have shown since that it is over."""
        # While something is taken back nobody looks for what fails again.
        if incident.service is None or incident.resolved_at is None or incident.state is not State.RESOLVED:
            return False
        began, signal = started_at(alert.starts_at), alert.labels.get("signal")
        early = began is not None and began < incident.resolved_at
        return early and signal in SIGNALS and signal in self._signals(incident, incident.service)

    def _is_new(self, incident: _Open, alert: Alert) -> bool:
        """Whether the alert names a signal that no other of its service has named in this incident, since it
        was proved to have healed if that was."""
        signal = alert.labels.get("signal")
        if incident.service is None or signal not in SIGNALS:
            return False
        known = self._signals(incident, incident.service)
        new = signal not in known or OUTLIVED in incident.watched
        known.add(str(signal))
        return new

    def _signals(self, incident: _Open, service: str) -> set[str]:
        if incident.signals is None:
            incident.signals = statements.signals_of(self._connection, incident.id, service)
        return incident.signals

    def _add_more(self, incident: _Open, alert: Alert, reason: str) -> None:
        self.more[incident.id] = reason
        changes: dict[str, Any] = {"known_service": True, "outcome": None, "resolved_at": None}
        if SEVERITIES.index(_severity(alert)) <= SEVERITIES.index(incident.severity):
            changes |= _told_by(alert)
        if HANDS_OFF in incident.watched:
            statements.annotate(self._connection, incident.id, changes)
            return
        self._entries.append((incident.id, Entry(Kind.STATE, f"Begun anew: {reason}.")))
        changes |= moved_to(str(incident.service), self._now)
        statements.overtake(self._connection, incident.id, changes)
        incident.state, incident.resolved_at = State.DIAGNOSING, None

    def _change_severity(self, incident: _Open, severity: str) -> None:
        incident.severity = severity
        if incident.new:
            incident.values["severity"] = severity
        else:
            self._severities[incident.id] = severity

    def _move(self, incident: _Open, service: str, alert: Alert) -> None:
        """Another service of the incident is the likelier cause: begin again with it."""
        name, _ = _names(alert)
        message = (
            f"{name} joined the incident: {incident.service} depends on {service}, which is now suspected."
        )
        self._entries.append((incident.id, _alert_entry(alert, message)))
        self._members[str(incident.service)].add(incident.id)
        del self._by_subject[incident.subject]
        worst = min(incident.severity, _severity(alert), key=SEVERITIES.index)
        changes = moved_to(service, self._now) | _told_by(alert) | {"severity": worst}
        statements.overtake(self._connection, incident.id, changes)
        incident.subject, incident.service, incident.severity = subject_of(service), service, worst
        incident.state = State.DIAGNOSING
        self._add(incident)

    def _merge(self, incident: _Open, into: _Open) -> None:
        """Fold an incident that turned out to be a symptom into that of its cause."""
        self._members[str(incident.service)].add(into.id)
        del self._by_subject[incident.subject]
        del self._by_id[incident.id]
        merge(self._connection, incident.id, str(incident.service), into.id, str(into.service), self._now)
        statements.overtake(self._connection, incident.id, merged_changes(into.id, self._now))
        self._severities.pop(incident.id, None)
        worst = min(incident.severity, into.severity, key=SEVERITIES.index)
        if worst != into.severity:
            self._change_severity(into, worst)
        self.merged.append(str(incident.service))


_NEW: Mapping[str, Any] = {
    "state": State.DETECTED.value,
    "plan": [],
    "level": 0,
    "epoch": 0,
    "relapses": 0,
    "faults": 0,
}


def cause_among(
    connection: Connection, incident: Any, topology: Topology, window: float, now: float
) -> Row[Any] | None:
    """The open incident of a service that this incident's service depends on, nearest first, or None.

    To be asked before anything disruptive is done: the cause's alert may have come while this incident was
    already at work. One that was split off stays by itself.
    """
    if incident.split_from is not None or incident.service is None:
        return None
    causes = topology.dependencies(incident.service)
    rows = statements.open_incidents_of(connection, {subject_of(name) for name in causes})
    newest = statements.last_alert_times(connection, [row.id for row in rows])
    for row in sorted(rows, key=lambda row: (causes[row.service], row.opened_at, row.id)):
        mutual = incident.service in topology.dependencies(row.service)
        recent = now - newest.get(row.id, row.opened_at) <= window
        if row.resolved_at is None and recent and not (mutual and row.opened_at >= incident.opened_at):
            return row
    return None


def merge(
    connection: Connection, incident_id: str, service: str, into_id: str, into_service: str, now: float
) -> None:
    """Move what is a symptom's incident's, and tell both timelines; the caller closes it.

    What it has done is taken back by the other one, in its time.
    """
    statements.move_alerts(connection, from_incident=incident_id, to_incident=into_id)
    statements.hand_over_actions(connection, from_incident=incident_id, to_incident=into_id)
    data = {"from": incident_id, "into": into_id}
    here = f"Merged into {into_id}: {service} depends on {into_service}, which fails too and is suspected."
    there = f"Took in {incident_id}: {service} depends on {into_service} and is taken for a symptom."
    timeline.append_all(
        connection,
        [(incident_id, Entry(Kind.STATE, here, data)), (into_id, Entry(Kind.STATE, there, data))],
        now,
    )


def merged_changes(into_id: str, now: float) -> dict[str, Any]:
    """The columns of an incident that is merged into another one."""
    return {
        "state": State.CLOSED.value,
        "outcome": Outcome.MERGED.value,
        "merged_into": into_id,
        "updated_at": now,
        "resolved_at": now,
        "closed_at": now,
        "due_at": None,
        "level_due_at": None,
        "waiting_for": None,
        "waiting_since": None,
    }


def split(
    connection: Connection, incident: Row[Any], service: str, reason: str, now: float
) -> tuple[str, bool]:
    """Give a symptom's alerts an incident of their own, which is never merged again; return its id, and
    whether that was opened for it.

    Where the service has an open incident already, they go there, and what fires is taken in as if it came
    now. What was done to the service goes with them, unless something is under way.
    """
    rows = [row for row in statements.alerts_of(connection, incident.id) if row.service == service]
    alerts = [alert_of(row) for row in rows]
    worst = min((_severity(alert) for alert in alerts), key=SEVERITIES.index)
    _, title = _names(alerts[0])
    existing = statements.open_incidents_of(connection, {subject_of(service)}, lock=True)
    split_id = existing[0].id if existing else new_id(now, subject_of(service))
    values = {
        **_NEW,
        "id": split_id,
        "subject": subject_of(service),
        "service": service,
        "known_service": True,
        "title": title[: timeline.MAX_MESSAGE],
        "severity": worst,
        "signal": alerts[0].labels.get("signal"),
        "opened_at": now,
        "updated_at": now,
        "due_at": now,
        "split_from": incident.id,
    }
    if existing:
        statements.annotate(connection, split_id, {"split_from": incident.id})
        statements.unassign_alerts(connection, [row.id for row in rows if row.status == "firing"])
    else:
        statements.insert_incidents(connection, [values])
    statements.move_alerts(connection, from_incident=incident.id, to_incident=split_id, service=service)
    if statements.unfinished_action_of(connection, incident.id) is None:
        statements.hand_over_actions(
            connection, from_incident=incident.id, to_incident=split_id, service=service
        )
    data = {"from": incident.id, "into": split_id, "service": service}
    here = Entry(Kind.STATE, f"{service} was split off into {split_id}: {reason}", data)
    there = Entry(Kind.STATE, f"Split off from {incident.id}: {reason}", data)
    timeline.append_all(connection, [(incident.id, here), (split_id, there)], now)
    return split_id, not existing


def silenced(alerts: Collection[Row[Any]], service: str | None) -> bool:
    """Whether people have silenced all that still fires of an incident, or, between two alerts, all that did:
    then nothing is done and nobody is called. Of a cause that does not alert (any more) its symptoms tell."""
    told = [row for row in alerts if row.status == "firing"] or alerts
    own = [row for row in told if row.service in (None, service)]
    return bool(told) and all(row.suppressed for row in own or told)


def moved_to(service: str, now: float) -> dict[str, Any]:
    """The columns of an incident that begins again with another suspected cause."""
    return {
        "subject": subject_of(service),
        "service": service,
        "state": State.DIAGNOSING.value,
        "updated_at": now,
        "due_at": now,
        "plan": [],
        "verification": None,
        "approved_by": None,
        "waiting_for": None,
        "waiting_since": None,
    }


def reopened(relapses: int, now: float) -> dict[str, Any]:
    """The columns of an incident that starts over after a relapse.

    Whoever was called for it was told that it is over, and does not look at it any more: the levels begin
    anew, too.
    """
    return {
        "state": State.DIAGNOSING.value,
        "relapses": relapses + 1,
        "level": 0,
        "level_due_at": None,
        "outcome": None,
        "resolved_at": None,
        "verification": None,
        "approved_by": None,
        "acknowledged_by": None,
        "updated_at": now,
        "due_at": now,
        "waiting_for": None,
        "waiting_since": None,
    }


def started_at(starts_at: str) -> float | None:
    """When an alert says that it started, in seconds since 1970: a notification may be minutes late, its own
    time is not."""
    try:
        return datetime.fromisoformat(starts_at).timestamp()
    except ValueError:
        return None


def subject_of(service: str) -> str:
    """What makes the alerts of a service one open incident."""
    return f"service/{service}"


def _stranger(row: Row[Any]) -> str:
    return f"alert/{row.fingerprint}"


def _names(alert: Alert) -> tuple[str, str]:
    name = alert.labels.get("alertname", "an alert without a name")
    return name, alert.annotations.get("summary") or name


def _told_by(alert: Alert) -> dict[str, Any]:
    """The columns that say what people read first."""
    return {"title": _names(alert)[1][: timeline.MAX_MESSAGE], "signal": alert.labels.get("signal")}


def _severity(alert: Alert) -> str:
    severity = alert.labels.get("severity", "warning")
    return severity if severity in SEVERITIES else "warning"


def _alert_entry(alert: Alert, message: str) -> Entry:
    data = {"fingerprint": alert.fingerprint, "starts_at": alert.starts_at, "labels": dict(alert.labels)}
    return Entry(Kind.ALERT, message, data | {"annotations": dict(alert.annotations)})


def new_id(now: float, subject: str) -> str:
    """An id that sorts by time and can be read out on the telephone: 20261122-130512-a3f1c2d4.

    It follows from what it names, as one subject has one open incident at a time: so the same history, told
    again, gives the same ids.
    """
    told_apart = hashlib.blake2s(f"{now!r} {subject}".encode(), digest_size=4).hexdigest()
    return f"{datetime.fromtimestamp(now, UTC):%Y%m%d-%H%M%S}-{told_apart}"
