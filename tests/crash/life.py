"""One process of the fabric, from its start to its death or to the end of the story.

Either the loop is gone through by hand: the test's own loop does what the fabric's loop would, in an order
that the seed chooses, and moves the clock to where something is due. Or the fabric runs as it is, with its
threads, and time runs faster than the real one.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from board import START, Board
from flask.testing import FlaskClient
from outside import Outside, Prometheus, glance
from points import Death, Kill, install
from sqlalchemy import Connection
from stories import EFFECT_TIMEOUT, NEVER, Story

from self_healing_fabric.app import create_app
from self_healing_fabric.escalation.channels import Receipt
from self_healing_fabric.escalation.messages import Message
from self_healing_fabric.integration.lifecycle import Fabric
from self_healing_fabric.orchestration import caller, healing_orchestrator, journal, leases
from self_healing_fabric.orchestration.caller import Caller
from self_healing_fabric.orchestration.healing_orchestrator import HealingOrchestrator
from self_healing_fabric.orchestration.leases import Leases
from self_healing_fabric.orchestration.reconciliation import Reconciliation
from self_healing_fabric.orchestration.service_graph import ServiceGraph
from self_healing_fabric.recovery.verification import Verifier
from self_healing_fabric.settings import Settings
from self_healing_fabric.store import Store, call_statements, statements
from self_healing_fabric.telemetry import configure_logging
from shf_demo.tether import die_with

OVER, STOPPED, FAILED = 0, 3, 4  # exit statuses
LONGEST = 1500.0  # virtual seconds that a story may take
DEADLINE = 120  # seconds that a life may take
RENEW_EVERY = 2.0  # virtual seconds
SLOW_CONNECTIONS = 0.3  # share of the effects
TOGETHER = 0.7  # share of the looks at which what came is claimed in the transaction that takes it in


class _Phone:
    """The channel of escalation: notes every call as it arrives."""

    gathers, alive_for = False, None

    def __init__(self, death: Death, folder: Path) -> None:
        self._death, self._path = death, folder / "calls"

    def send(self, message: Message, _: object) -> Receipt:
        self._death.pass_by("people called: before")
        with self._path.open("a") as file:
            for call in message.calls:
                file.write(f"{call.kind} {call.incident_id} {call.level} {message.key}\n")
        self._death.pass_by("people called")
        return Receipt()

    def check(self) -> str:
        """Nothing can be wrong with a file."""
        return ""


class Life:
    """What a child process is born with."""

    def __init__(
        self, story: Story, board: Board, folder: Path, dice: random.Random, *, target: str, store: str
    ) -> None:
        self._story, self._board, self._folder, self._dice = story, board, folder, dice
        self._values = story.values(target, store)

    def fork(self, kill: Kill | None, stop_after: int | None = None) -> int:
        """Begin it in a child; its pid.

        Args:
            kill: where it dies.
            stop_after: the number of claims after which it is told to stop.
        """
        parent = os.getpid()
        pid = os.fork()
        if pid:
            return pid
        status = FAILED
        try:
            die_with(parent)
            signal.alarm(DEADLINE)  # nothing may hang: the signal's default ends the process
            log = os.open(self._folder / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            os.dup2(log, 1)
            os.dup2(log, 2)
            status = self._live(kill, stop_after)
        except BaseException:  # noqa: BLE001 - it is told in the log, and by the status
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)

    def _live(self, kill: Kill | None, stop_after: int | None) -> int:
        configure_logging(json=True)
        print(f"--- {kill or 'no kill'}, stop after {stop_after}", file=sys.stderr, flush=True)
        death = Death(self._board, kill)
        install(death, self._hold, lambda: self._connect(fabric))
        _make_steady(self._board)
        if self._board.runs:
            _quicken(self._board)
        fabric = self._fabric(death)
        death.pass_by("store opened")
        client = create_app(fabric).test_client()
        outside = Outside(self._story, self._board, self._folder, self._dice)
        if self._board.runs:
            return self._run(fabric, client, outside, death, stop_after)
        return self._step(fabric, client, outside, death, stop_after)

    def _fabric(self, death: Death) -> Fabric:
        settings = Settings(**self._values)
        fabric = Fabric(settings)
        prometheus: Any = Prometheus(self._story, self._board)
        fabric.context = replace(
            fabric.context,
            prometheus=prometheus,
            verifier=Verifier(prometheus, settings),
            channels={"log": _Phone(death, self._folder)},
            leases=Leases(fabric.store, self._board.now),
            graph=ServiceGraph(settings, prometheus),
            clock=self._board.now,
        )
        fabric.orchestrator = HealingOrchestrator(fabric.context)
        fabric.caller = Caller(fabric.context)
        return fabric

    def _hold(self, url: str, seconds: float) -> None:
        service = int(url.split("/")[-3])
        self._board.hold(service, self._board.now() + seconds)

    def _connect(self, fabric: Fabric) -> None:
        """The way to the target may be slow: as slow as the configured timeout allows."""
        if self._dice.random() > SLOW_CONNECTIONS:
            return
        seconds = self._dice.choice((self._dice.uniform(0.0, EFFECT_TIMEOUT), 0.99 * EFFECT_TIMEOUT))
        if self._board.runs:
            time.sleep(seconds / self._board.speed)
            return
        until = self._board.now() + seconds
        while (now := self._board.now()) < until:
            self._advance(min(until, now + RENEW_EVERY))
            fabric.context.leases.renew()

    def _step(
        self, fabric: Fabric, client: FlaskClient, outside: Outside, death: Death, stop_after: int | None
    ) -> int:
        """Go through the loop by hand."""
        board, dice, store, orchestrator = self._board, self._dice, fabric.store, fabric.orchestrator
        reconciliation = Reconciliation(fabric.context)
        if not store.shared:
            store.write(statements.release_all_leases)
        reconcile_at = board.now() + dice.uniform(0.0, 5.0)
        claims = 0
        while True:
            now, seen, claimed = board.now(), glance(store), []
            limit, together = dice.choice((1, 2, 8)), dice.random() < TOGETHER
            if outside.act(now, client, seen) or seen.waiting:
                if together:
                    claimed = orchestrator.take_in_and_claim(limit)
                else:  # as when all workers are busy
                    orchestrator.take_in()
                seen = glance(store)
                outside.decide(now, client, seen)  # people may be quick
            if not claimed and seen.due_at() <= now:
                claimed = orchestrator.claim(limit)
            claims += bool(claimed)
            if claimed and claims == stop_after:
                orchestrator.stop()
                store.close()
                return STOPPED
            if claimed and dice.random() < 0.3:
                fabric.context.leases.renew()
            dice.shuffle(claimed)
            for incident in claimed:
                orchestrator.work(incident)
            called = fabric.caller.look()
            for batch in called:
                fabric.caller.send(batch)
            if now >= reconcile_at:
                reconciliation.run()
                reconcile_at = now + 5.0
            elif not claimed and not called and not seen.waiting:
                if outside.over(now, seen):
                    return OVER
                if now - START > LONGEST:
                    raise TimeoutError(f"the story is not over after {LONGEST:g} virtual seconds")
                self._advance(min(seen.due_at(), reconcile_at, outside.next_at(now), _next_call(store, now)))

    def _advance(self, moment: float) -> None:
        """Move the clock, but not past an effect that the target has in hand."""
        board = self._board
        for service in range(len(self._story.members)):
            held = board.held_until(service)
            if held is not None and held <= moment:
                board.move_to(held)
                _wait(lambda each=service: board.held_until(each) is None)  # type: ignore[misc]
                return
        board.move_to(max(moment, board.now() + 0.01))

    def _run(
        self, fabric: Fabric, client: FlaskClient, outside: Outside, death: Death, stop_after: int | None
    ) -> int:
        """Let the fabric run with its threads."""
        board = self._board
        fabric.start()
        while True:
            now, seen = board.now(), glance(fabric.store)
            acted = outside.act(now, client, seen)
            if stop_after is not None and death.count("claim, committed") >= stop_after:
                fabric.stop()
                return STOPPED
            if not acted and outside.over(now, seen):
                fabric.stop()
                return OVER
            if now - START > LONGEST:
                raise TimeoutError(f"the story is not over after {LONGEST:g} virtual seconds")
            time.sleep(0.02)


def _next_call(store: Store, now: float) -> float:
    """When the caller has something to do."""

    def read(connection: Connection) -> float:
        due = call_statements.next_level_due(connection, now), call_statements.next_due_call(connection, now)
        return min((each for each in due if each is not None), default=NEVER)

    return store.read(read)


def _wait(condition: Callable[[], bool]) -> None:
    while not condition():  # the life's own deadline ends it
        time.sleep(0.0005)


def _make_steady(board: Board) -> None:
    """Let the product's steady clock be the virtual one too."""
    # By its name: the package of the steps has a function that is called like its module.
    recovering = sys.modules["self_healing_fabric.orchestration.steps.recovering"]
    for module in (leases, journal, recovering):
        assert module.steady is leases.steady
    for module in (leases, journal, recovering):
        module.steady = board.now


def _quicken(board: Board) -> None:
    """Shorten what the product measures on the real clock by as much as the virtual one is faster."""
    healing_orchestrator.time = SimpleNamespace(monotonic=board.now)  # type: ignore[assignment]
    leases.RENEWAL = RENEW_EVERY / board.speed
    healing_orchestrator.LONGEST_SLEEP = 0.5 / board.speed
    caller.POLL = 0.5 / board.speed
