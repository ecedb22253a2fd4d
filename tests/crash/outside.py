"""The world around one process: Prometheus, Alertmanager and people, as the story has them.

What was acknowledged is noted in a file as soon as the answer is there, as Alertmanager would remember it:
the next process finds the same world.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from board import START, Board
from flask.testing import FlaskClient
from sqlalchemy import Row, select
from stories import NEVER, Event, Member, Story

from self_healing_fabric.incidents.lifecycle import State
from self_healing_fabric.orchestration.decisions import DECISIONS
from self_healing_fabric.store import Store, statements
from self_healing_fabric.store.schema import incidents
from shf_queries import PrometheusUnavailable, Sample, Series
from shf_queries.catalogue import HEARTBEAT

SENT_AGAIN_AFTER = 1.0  # seconds, when it was not acknowledged
_FRESH = f"{HEARTBEAT.fresh_series}{{service="


class Prometheus:
    """Answers what a real one would, about heartbeats only: one sample a second."""

    def __init__(self, story: Story, board: Board) -> None:
        self._story, self._board = story, board
        self._back = next((i for i, each in enumerate(story.events) if each.do == "prometheus"), None)

    def instant(self, promql: str, *, at: float | None = None) -> tuple[Sample, ...]:
        self._ask()
        at = self._board.now() if at is None else at
        return tuple(self._signals(at)) if promql.startswith("{__name__=") else ()

    def together(self, queries: Sequence[str], *, at: float | None = None) -> tuple[tuple[Sample, ...], ...]:
        return tuple(self.instant(query, at=at) for query in queries)

    def _signals(self, at: float) -> Iterator[Sample]:
        for member in self._story.members:
            value = float(self._story.well(self._board, member.name, at))
            for series in (HEARTBEAT.series, HEARTBEAT.fresh_series):
                yield Sample({"__name__": series, "service": member.name}, at, value)

    def raw(self, selector: str, *, seconds: float, at: float | None = None) -> tuple[Series, ...]:
        self._ask()
        if not selector.startswith(_FRESH):
            return ()
        service = json.loads(selector.removeprefix(_FRESH).removesuffix("}"))
        at = self._board.now() if at is None else at
        times = np.arange(np.ceil(at - seconds), np.floor(at) + 1, 1.0)
        values = [float(self._story.well(self._board, service, float(each))) for each in times]
        return (Series({}, times, np.array(values)),) if values else ()

    def range(self, promql: str, *, start: float, end: float, step: float) -> tuple[Series, ...]:
        self._ask()
        return ()  # no history: what a diagnosis makes of it is none of the stories' business

    def alerts(self) -> Sequence[Mapping[str, Any]]:
        self._ask()
        now = self._board.now()
        failing = [each for each in self._story.members if not self._story.well(self._board, each.name, now)]
        return [{"labels": labels_of(member), "state": "firing"} for member in failing]

    def version(self) -> None: ...

    def close(self) -> None: ...

    def _ask(self) -> None:
        away = self._story.prometheus_away
        if away and (self._back is None or not self._board.event_done(self._back)):
            raise PrometheusUnavailable("Prometheus is away")


@dataclass(frozen=True)
class Glance:
    """What stands in the store at one moment."""

    incidents: Sequence[Row[Any]]
    waiting: bool  # something is to be worked in

    def due_at(self) -> float:
        """When a timer ends and no lease, which a dead process may have left, is in its way."""
        timers = (each for each in self.incidents if each.due_at is not None)
        return min((max(each.due_at, each.lease_until or 0.0) for each in timers), default=NEVER)


def glance(store: Store) -> Glance:
    """Look into the store."""
    return Glance(*store.read(lambda at: (at.execute(_INCIDENTS).all(), statements.anything_new(at))))


_INCIDENTS = select(
    *(incidents.c[name] for name in ("id", "service", "state", "waiting_for", "due_at", "lease_until")),
    incidents.c.closed_at,
)


class Outside:
    """Sends alerts and decides, when it is time for it."""

    def __init__(self, story: Story, board: Board, folder: Path, dice: random.Random) -> None:
        self._story, self._board, self._dice = story, board, dice
        self._path, self._tried = folder / "acknowledged", folder / "tried"
        self._acknowledged = {(line[0], line[1], line[2]) for line in acknowledged(folder)}
        self._again: dict[tuple[str, str, str], float] = {}  # when a notification is sent once more
        self._given_up: set[tuple[str, str, str]] = set()

    def act(self, now: float, client: FlaskClient, seen: Glance) -> bool:
        """Do all that is due; whether anything was."""
        acted = False
        for member in self._story.members:
            for starts_at in self._episodes(member, now):
                acted |= self._notify(member, starts_at, now, client)
        return self.decide(now, client, seen) or acted

    def decide(self, now: float, client: FlaskClient, seen: Glance) -> bool:
        """Let the events happen whose time has come; whether any did."""
        over = [
            index
            for index, event in enumerate(self._story.events)
            if not self._board.event_done(index) and self._happens(index, event, now, client, seen)
        ]
        for index in over:
            self._board.finish_event(index)
        return bool(over)

    def next_at(self, now: float) -> float:
        """When something is due next."""
        moments = [moment for moment in self._again.values() if moment > now]
        for index, member in enumerate(self._story.members):
            fails_at = self._board.fails_at(index)
            moments.append(self._story.well_from(self._board, member.name))
            if fails_at is not None and member.alert_after is not None:
                times = self._board.effects(index)
                moments.append(fails_at + member.alert_after)
                if member.relapse is not None and times:
                    moments.append(times[0] + member.relapse + member.alert_after)
        return min((moment for moment in moments if moment > now), default=NEVER)

    def over(self, now: float, seen: Glance) -> bool:
        """Whether the story has come to its end: nothing is to be sent, and nothing changes any more."""
        if seen.waiting or not all(self._at_its_end(row, now) for row in seen.incidents):
            return False
        for index, member in enumerate(self._story.members):
            if self._board.held_until(index) is not None:
                return False
            for starts_at in self._episodes(member, now):
                key = (member.name, _moment(starts_at), "firing")
                if key not in self._acknowledged and key not in self._given_up:
                    return False
        left = [i for i in range(len(self._story.events)) if not self._board.event_done(i)]
        newest = max((row.closed_at for row in seen.incidents if row.closed_at), default=START)
        # What people waited for may never come to pass, when a death changed the course of things.
        return not left or now - newest > 60.0

    def _at_its_end(self, row: Row[Any], now: float) -> bool:
        if row.state != State.ESCALATED.value:
            return bool(row.state == State.CLOSED.value)
        member = next((each for each in self._story.members if each.name == row.service), None)
        # Who will be well, or is, is not at the end: the fabric is to see that.
        return (
            member is not None
            and self._story.well_from(self._board, member.name) == NEVER
            and (not self._story.well(self._board, member.name, now))
        )

    def _episodes(self, member: Member, now: float) -> list[float]:
        """When the service began to fail, each time."""
        index = self._story.index(member.name)
        fails_at = self._board.fails_at(index)
        if fails_at is None or member.alert_after is None:
            return []
        found, times = [fails_at], self._board.effects(index)
        if member.relapse is not None and times and now >= times[0] + member.relapse:
            found.append(times[0] + member.relapse)
        return found

    def _notify(self, member: Member, starts_at: float, now: float, client: FlaskClient) -> bool:
        key = (member.name, _moment(starts_at), "firing")
        if key in self._given_up:
            return False
        well = self._story.well(self._board, member.name, now)
        if key not in self._acknowledged:
            if now < max(starts_at + (member.alert_after or 0.0), self._again.get(key, 0.0)):
                return False
            if well or self._is_lost(key):
                self._given_up.add(key)
                return False
            self._send(member, key, now, client)
            return True
        repeats = now >= self._again.get(key, NEVER)
        if repeats:
            self._again.pop(key)
            self._send(member, key, now, client)
        ended = (*key[:2], "resolved")
        tells_end = sum(map(ord, member.name)) % 4 != 0  # the ends of the others are found at Prometheus
        if well and tells_end and ended not in self._acknowledged:
            self._send(member, ended, now, client)
            return True
        return repeats

    def _is_lost(self, key: tuple[str, str, str]) -> bool:
        """A notification whose answer never came is not sent again where the story says so."""
        if self._story.resend:
            return False
        lines = self._tried.read_text().splitlines() if self._tried.exists() else []
        return json.dumps(key) in lines

    def _send(self, member: Member, key: tuple[str, str, str], now: float, client: FlaskClient) -> None:
        _append(self._tried, key)
        item = {
            "status": key[2],
            "labels": labels_of(member),
            "annotations": {"summary": f"{member.name} is silent"},
            "startsAt": key[1],
            "fingerprint": f"f-{member.name}",
        }
        answer = client.post("/api/v1/alerts", json={"version": "4", "alerts": [item]})
        if answer.status_code != 202:
            self._again[key] = now + SENT_AGAIN_AFTER
            return
        _append(self._path, key)
        self._acknowledged.add(key)
        if self._dice.random() < self._story.repeats:
            self._again[key] = now + self._dice.choice((0.01, self._dice.uniform(0.0, 8.0)))

    def _happens(self, index: int, event: Event, now: float, client: FlaskClient, seen: Glance) -> bool:
        """Let it happen if its time has come; whether it is over."""
        others = (i for i, each in enumerate(self._story.events) if each is not event)
        if event.last and not all(self._board.event_done(i) for i in others):
            return False
        ids = [
            row.id
            for row in seen.incidents
            if (row.service, row.state) == (event.service, event.state)
            and event.waiting in (row.waiting_for or "")
        ]
        if not ids:
            # A process that died has done it, or it healed before anybody came to it.
            closed = {row.state for row in seen.incidents if row.service == event.service} == {State.CLOSED}
            return self._board.event_begun(index) or (event.do in DECISIONS and closed)
        self._board.begin_event(index)
        return self._do(event, ids[0], now, client)

    def _do(self, event: Event, incident_id: str, now: float, client: FlaskClient) -> bool:
        if event.do == "fail":
            self._board.fail(self._story.index(event.about), now)
            return True
        if event.do == "prometheus":
            return True
        if event.do == "mode":
            return client.put("/api/v1/mode", json={"mode": event.about, "by": "ana"}).status_code == 200
        url = f"/api/v1/incidents/{incident_id}/{event.do}"
        return client.post(url, json={"by": "ana"}).status_code == 200


def labels_of(member: Member) -> dict[str, str]:
    """The labels of a service's alert."""
    return {"alertname": "Silent", "signal": "heartbeat", "severity": "critical", "service": member.name}


def acknowledged(folder: Path) -> list[list[str]]:
    """(service, startsAt, status) of every notification that was answered with 202."""
    path = folder / "acknowledged"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _append(path: Path, content: Any) -> None:
    """One line, in one write: a death leaves it whole or not at all."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, json.dumps(content).encode() + b"\n")
    finally:
        os.close(descriptor)


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{int(at % 1 * 1000):03d}Z"
