"""The named points at which a process can be killed, and how they are put into the product from outside.

There are no hooks in the product. In a child, before it starts, the product's functions are wrapped: what a
transaction writes is noted while it runs, so each kind of write is two points, right before its commit and
right after it; an effect is four, from the last look before the request to the answer.

The list follows from the state machine's own table. A way that no story goes must be named here with a
reason, and a test compares.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx
from board import Board
from sqlalchemy import Connection, select

from self_healing_fabric.incidents.lifecycle import TRANSITIONS, State
from self_healing_fabric.orchestration.healing_orchestrator import HealingOrchestrator
from self_healing_fabric.recovery.platforms.http import Calls, HttpRestart
from self_healing_fabric.recovery.strategies.retry import SafeCall
from self_healing_fabric.store import Store, statements
from self_healing_fabric.store.schema import incidents

# Ways that the table allows and no story goes, and why.
UNREACHED: Mapping[str, str] = {
    "diagnosing->awaiting_approval": "no step goes it: approval is asked for right before the effect",
    "awaiting_approval->verifying": "healed while it was asked; told in unit tests with a clock of their own",
    "diagnosing->verifying": "no step goes it: recovering asks the samples again and goes on from there",
    "escalated->recovering": "a guardian's proposal; told in unit tests with a guardian of their own",
    "resolved->recovering": "what is scaled back after a calm; told in unit tests with a clock of their own",
    "verifying->diagnosing": "scaled back too early; told in unit tests with a clock of their own",
    "resolved->escalated": "no step goes it: a decision to escalate is refused; nothing else calls people",
}
# Staying in a state is a commit too; in these a story waits.
STAYING = (State.DIAGNOSING, State.AWAITING_APPROVAL, State.RECOVERING, State.VERIFYING, State.ESCALATED)

WAYS = tuple(
    f"{old}->{new}" for old in State for new in sorted(TRANSITIONS[old]) if f"{old}->{new}" not in UNREACHED
) + tuple(f"{state}->{state}" for state in STAYING)

WRITES = (
    "leases of the dead released",
    "inbox",
    "notifications worked in",
    "incident opened",
    "claim",
    "lease renewed",
    "action announced",
    "action ended",
    "merge",
    "split",
    "person's decision noted",
    "alert ended",
    "leases given back",
)
UNCOMMITTED, COMMITTED = "before the commit", "committed"
BEFORE_REQUEST = "effect: before the request"
UNDER_WAY = "effect: request under way"
DONE = "effect: done, answer unread"
ANSWERED = "effect: answered"
_OTHERS = (
    "store opened",
    BEFORE_REQUEST,
    UNDER_WAY,
    DONE,
    ANSWERED,
    "probe: before",
    "probe: answered",
    "target asked: before",
    "target asked: answered",
    "people called: before",
    "people called",
    "stop: before",
    "stopped",
)

POINTS: tuple[str, ...] = (
    *(f"{name}, {moment}" for name in (*WRITES, *WAYS) for moment in (UNCOMMITTED, COMMITTED)),
    *_OTHERS,
)

# These come only after another death: what has to happen first.
PRECEDED: Mapping[str, tuple[str, ...]] = {
    "target asked: before": (BEFORE_REQUEST, UNDER_WAY, DONE, ANSWERED),
    "target asked: answered": (BEFORE_REQUEST, UNDER_WAY, DONE, ANSWERED),
}
# These come only when a process is told to stop.
STOPPING = frozenset(
    {"stop: before", "stopped", *(f"leases given back, {each}" for each in (UNCOMMITTED, COMMITTED))}
)


@dataclass(frozen=True)
class Kill:
    """Die when a point is come by for the so-many-th time.

    `hold`: what is under way happens so many seconds later.
    """

    point: str
    occurrence: int
    hold: float = 0.0


class Death:
    """Counts the points of this process, and ends it at the planned one."""

    def __init__(self, board: Board, kill: Kill | None) -> None:
        self._board = board
        self._kill = kill
        self._counts: dict[str, int] = {}
        self._lock = threading.Lock()

    def next_is(self, point: str) -> Kill | None:
        """The kill that is planned for the next time this point is come by."""
        if self._kill is None or self._kill.point != point:
            return None
        return self._kill if self._counts.get(point, 0) + 1 == self._kill.occurrence else None

    def count(self, point: str) -> int:
        """How often this process has come by a point."""
        return self._counts.get(point, 0)

    def pass_by(self, point: str) -> None:
        """Come by a point, and no further if it is the planned one."""
        index = _INDEX[point]
        with self._lock:
            self._counts[point] = self._counts.get(point, 0) + 1
            self._board.reach(index)
            if self._kill is not None and (point, self._counts[point]) == (
                self._kill.point,
                self._kill.occurrence,
            ):
                self._board.die_at(index)
                os.kill(os.getpid(), signal.SIGKILL)
                signal.pause()  # another thread may run on until the kernel has ended all


_INDEX = {point: index for index, point in enumerate(POINTS)}


def install(death: Death, hold: Callable[[str, float], None], connected: Callable[[], None]) -> None:
    """Put the points into the product, in this process only.

    Args:
        death: who counts them.
        hold: told the URL and the seconds, lets the target's next effect happen only then.
        connected: called when the target has accepted the connection for an effect.
    """
    _into_writes(death)
    _into_statements()
    _into_effects(death, hold, connected)
    _around(death, HealingOrchestrator, "stop", "stop: before", "stopped")
    _around(death, HttpRestart, "observe", "target asked: before", "target asked: answered")
    _around(death, SafeCall, "_try", "probe: before", "probe: answered")


def _around(death: Death, owner: Any, name: str, before: str, after: str) -> None:
    original = getattr(owner, name)

    def wrapped(*arguments: Any, **options: Any) -> Any:
        death.pass_by(before)
        answer = original(*arguments, **options)
        death.pass_by(after)
        return answer

    setattr(owner, name, wrapped)


def _into_writes(death: Death) -> None:
    original = Store.write

    def write(store: Store, function: Callable[[Connection], Any]) -> Any:
        noted: list[str] = []

        def job(connection: Connection) -> Any:
            noted.clear()  # it may run a second time
            connection.info["noted"] = noted
            try:
                value = function(connection)
            finally:
                connection.info.pop("noted", None)
            for name in noted:
                death.pass_by(f"{name}, {UNCOMMITTED}")
            return value

        answer = original(store, job)
        for name in noted:
            death.pass_by(f"{name}, {COMMITTED}")
        return answer

    Store.write = write  # type: ignore[method-assign, assignment]


def _note(connection: Connection, name: str) -> None:
    noted = connection.info.get("noted")
    if noted is not None and name not in noted:
        noted.append(name)


def _into_statements() -> None:
    for name, told in _NOTED.items():
        setattr(statements, name, _noting(getattr(statements, name), told))
    for name in ("update_claimed", "overtake"):
        setattr(statements, name, _noting_way(getattr(statements, name)))


def _noting(original: Callable[..., Any], told: Callable[..., str | None]) -> Callable[..., Any]:
    def wrapped(connection: Connection, *arguments: Any, **options: Any) -> Any:
        answer = original(connection, *arguments, **options)
        name = told(answer, *arguments, **options)
        if name is not None:
            _note(connection, name)
        return answer

    return wrapped


def _noting_way(original: Callable[..., Any]) -> Callable[..., Any]:
    def wrapped(connection: Connection, incident_id: str, *arguments: Any, **options: Any) -> Any:
        query = select(incidents.c.state).where(incidents.c.id == incident_id)
        old = connection.execute(query).scalar()
        answer = original(connection, incident_id, *arguments, **options)
        new = arguments[-1].get("state")
        if new is not None and f"{old}->{new}" in WAYS:
            _note(connection, f"{old}->{new}")
        return answer

    return wrapped


_NOTED: Mapping[str, Callable[..., str | None]] = {
    "release_all_leases": lambda *_: "leases of the dead released",
    "put_in_inbox": lambda *_: "inbox",
    "take_from_inbox": lambda rows, *_: "notifications worked in" if rows else None,
    "insert_incidents": lambda _, rows: "incident opened" if rows else None,
    "claim_due": lambda rows, **_: "claim" if rows else None,
    "renew_leases": lambda kept, **_: "lease renewed" if kept else None,
    "insert_action": lambda *_: "action announced",
    "end_action": lambda ended, *_: "action ended" if ended else None,
    "move_alerts": lambda _, **moved: "split" if moved.get("service") else "merge",
    "annotate": lambda _, __, changes: "person's decision noted" if changes.get("acknowledged_by") else None,
    "end_alert": lambda *_: "alert ended",
    "release_leases": lambda *_: "leases given back",
}


def _into_effects(death: Death, hold: Callable[[str, float], None], connected: Callable[[], None]) -> None:
    original_send, original_build = Calls.send, httpx.Client.build_request

    def send(calls: Calls, method: str, url: str, **options: Any) -> Any:
        outcome = original_send(calls, method, url, **options)
        death.pass_by(ANSWERED)
        return outcome

    def build_request(client: httpx.Client, method: str, url: str, **options: Any) -> httpx.Request:
        if "trace" not in (options.get("extensions") or {}):
            return original_build(client, method, url, **options)
        products = options["extensions"]["trace"]

        def trace(event: str, info: Mapping[str, Any]) -> None:
            if event == "connection.connect_tcp.complete":
                connected()
            products(event, info)
            if event == "http11.send_request_headers.started":
                death.pass_by(BEFORE_REQUEST)
                planned = death.next_is(UNDER_WAY)
                if planned is not None:
                    hold(url, planned.hold)
            elif event == "http11.send_request_body.complete":
                death.pass_by(UNDER_WAY)
            elif event == "http11.receive_response_headers.complete":
                death.pass_by(DONE)

        return original_build(client, method, url, **{**options, "extensions": {"trace": trace}})

    Calls.send = send  # type: ignore[method-assign]
    # What sends a request in one piece and what reads its answer in parts build it alike.
    httpx.Client.build_request = build_request  # type: ignore[method-assign, assignment]


def split_name(point: str) -> tuple[str, str]:
    """What is written at a point, and the moment; the moment is empty where nothing is written."""
    name, _, moment = point.rpartition(", ")
    return (name, moment) if name and moment in (UNCOMMITTED, COMMITTED) else (point, "")


def ways_of(points: Iterable[str]) -> set[str]:
    """The ways of the state machine among the points."""
    return {name for point in points if (name := split_name(point)[0]) in WAYS}
