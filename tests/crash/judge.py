"""What must be true when a story is over, however often its processes were killed. Counted at the target.

Nothing here asks the product's code: the store is read as plain tables.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from outside import acknowledged
from sqlalchemy import Connection, Row, text
from stories import Story

_TERMINAL = ("resolved", "closed", "escalated")


def durable_alerts(connection: Connection) -> set[tuple[str, str]]:
    """(fingerprint, startsAt) of all that is in the store, worked in or not."""
    found = {(row.fingerprint, row.starts_at) for row in connection.execute(text("SELECT * FROM alerts"))}
    for row in connection.execute(text("SELECT body FROM inbox")):
        found |= {(each["fingerprint"], each["startsAt"]) for each in json.loads(bytes(row.body))["alerts"]}
    return found


class Verdict:
    """The problems that were found, and what was counted."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.indeterminate = 0

    def demand(self, condition: bool, problem: str) -> None:
        """Note the problem unless the condition holds."""
        if not condition:
            self.problems.append(problem)


def judge(
    story: Story,
    connection: Connection,
    folder: Path,
    effects: Iterable[tuple[str, str]],
    durable: Iterable[tuple[str, str]],
) -> Verdict:
    """Compare the store with the target's own record.

    Args:
        story: what was to happen.
        connection: to the store, when no process is left.
        folder: what the world has noted.
        effects: the target's record, (service, Idempotency-Key) of every effect.
        durable: alerts that stood in the store when one of the processes died.
    """
    verdict = Verdict()
    rows = _Tables(connection)
    _nothing_lost(verdict, rows, folder, durable)
    _nothing_twice(verdict, rows, list(effects))
    _nothing_open(verdict, rows, story)
    _as_demanded(verdict, rows, story, list(effects))
    _journal_is_whole(verdict, rows, folder)
    return verdict


class _Tables:
    """The store's rows."""

    def __init__(self, connection: Connection) -> None:
        self.incidents = {row.id: row for row in connection.execute(text("SELECT * FROM incidents"))}
        self.alerts = list(connection.execute(text("SELECT * FROM alerts")))
        self.actions = list(connection.execute(text("SELECT * FROM actions ORDER BY number")))
        self.timeline = list(connection.execute(text("SELECT * FROM timeline ORDER BY id")))
        self.calls = list(connection.execute(text("SELECT * FROM calls")))
        self.inbox = list(connection.execute(text("SELECT id, error FROM inbox")))

    def service_of(self, action: Row[Any]) -> str:
        """The service that an action was for; its incident may have moved to another one since."""
        return str(action.target).split("/")[-2] if action.strategy == "restart" else ""


def _nothing_lost(verdict: Verdict, rows: _Tables, folder: Path, durable: Iterable[tuple[str, str]]) -> None:
    verdict.demand(not rows.inbox, f"left in the inbox: {[tuple(row) for row in rows.inbox]}")
    stored = {(row.fingerprint, row.starts_at): row for row in rows.alerts}
    promised = {
        (f"f-{service}", starts_at)
        for service, starts_at, status in acknowledged(folder)
        if status == "firing"
    }
    for identity in promised | set(durable):
        row = stored.get(identity)
        if row is None:
            verdict.problems.append(f"lost: the alert {identity}")
        elif row.incident_id is None:
            verdict.problems.append(f"the alert {identity} belongs to no incident")
        else:
            state = rows.incidents[row.incident_id].state
            verdict.demand(state in _TERMINAL, f"the incident of {identity} is left in {state}")


def _nothing_twice(verdict: Verdict, rows: _Tables, effects: list[tuple[str, str]]) -> None:
    restarts = {row.id: row for row in rows.actions if row.strategy == "restart"}
    counted = Counter(key for _, key in effects)
    for key, number in counted.items():
        verdict.demand(number == 1, f"{number} effects of one action, {key}")
    for service, key in effects:
        if key not in restarts:
            verdict.problems.append(f"an effect on {service} that nobody had announced, {key}")
        else:
            found = rows.service_of(restarts[key])
            verdict.demand(found == service, f"an effect on {service} announced for {found}")
    for key, row in restarts.items():
        if row.status == "succeeded":
            verdict.demand(
                counted[key] == 1, f"{key} is said to have succeeded; the target knows nothing of it"
            )
        elif row.status == "failed":
            verdict.demand(counted[key] == 0, f"{key} is said not to have happened; the target did it")


def _nothing_open(verdict: Verdict, rows: _Tables, story: Story) -> None:
    for row in rows.incidents.values():
        verdict.demand(row.state in _TERMINAL, f"the incident of {row.service} is left in {row.state}")
        timer = row.due_at is not None or row.state == "closed"
        verdict.demand(timer, f"the incident of {row.service}, {row.state}, has no timer")
    states: Mapping[str, set[str]] = _states_of(rows)
    for action in rows.actions:
        verdict.demand(action.status not in ("intended", "started"), f"{action.id} is left {action.status}")
        if action.status != "indeterminate":
            continue
        verdict.indeterminate += 1
        service = rows.service_of(action)
        verdict.demand(not story.member(service).tells, f"{action.id} indeterminate, but {service} can tell")
        verdict.demand(
            "escalated" in states[action.incident_id], f"{action.id} indeterminate, and nobody was called"
        )


def _states_of(rows: _Tables) -> Mapping[str, set[str]]:
    """All states that each incident has been in, as its timeline tells."""
    states: dict[str, set[str]] = defaultdict(set)
    for entry in rows.timeline:
        if entry.kind == "state":
            data = json.loads(entry.data) if isinstance(entry.data, str) else entry.data
            states[entry.incident_id].add(data.get("to", ""))
    return states


def _as_demanded(verdict: Verdict, rows: _Tables, story: Story, effects: list[tuple[str, str]]) -> None:
    stored = {row.fingerprint for row in rows.alerts}
    untold = {rows.service_of(row) for row in rows.actions if row.status == "indeterminate"}
    counted = Counter(service for service, _ in effects)
    for member in story.members:
        least, most = member.effects
        if f"f-{member.name}" not in stored:
            least = most = 0  # its alert was never promised to anybody
        elif member.name in untold:
            least = 0
        number = counted[member.name]
        verdict.demand(
            least <= number <= most, f"{number} restarts of {member.name}; wanted {least} to {most}"
        )


def _journal_is_whole(verdict: Verdict, rows: _Tables, folder: Path) -> None:
    told: Counter[tuple[str, bool]] = Counter()
    for entry in rows.timeline:
        data = json.loads(entry.data) if isinstance(entry.data, str) else entry.data
        if entry.kind == "action" and "action" in data:
            told[data["action"], "status" in data] += 1
    for row in rows.actions:
        verdict.demand(told[row.id, False] == 1, f"{row.id} was announced {told[row.id, False]} times")
    keys: dict[str, set[str]] = {}
    for line in (folder / "calls").read_text().splitlines() if (folder / "calls").exists() else ():
        call, _, key = line.rpartition(" ")
        keys.setdefault(call, set()).add(key)
    for call, several in keys.items():
        verdict.demand(len(several) == 1, f"people were called under {len(several)} keys: {call}")
    for row in rows.calls:
        call = f"{row.kind} {row.incident_id} {row.level}"
        verdict.demand(call in keys or row.status == "withdrawn", f"nobody was told: {call}")
