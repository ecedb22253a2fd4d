"""Whatever happens in whatever order: no bound is ever exceeded.

Random lives of a small fleet: actions are proposed, end or hang, heal or not, services fail and recover, the
fabric starts again, its clock jumps. What is allowed is compared with counts that the test keeps by itself.
`GUARDRAIL_SEQUENCES=10000` runs as many lives; `make crash` does.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from sqlalchemy import Connection, create_engine, text

from self_healing_fabric import guardrails
from self_healing_fabric.guardrails import Proposal
from self_healing_fabric.settings import Settings
from self_healing_fabric.store import sqlite, statements
from self_healing_fabric.store.migrations import migrate

SEQUENCES = int(os.environ.get("GUARDRAIL_SEQUENCES", "150"))
EVENTS = 50  # in each life
SERVICES = ("a", "b", "c", "d", "e")
MAX_ACTIONS, PER, COOLDOWN = 3, 1000.0, 60.0
MAX_FAILURES, MAX_HEALS = 2, 2
AT_ONCE, TARGETS, STORM = 2, 3, 2
WINDOW = 100_000.0

SETTINGS = Settings(
    services={name: {} for name in SERVICES},  # type: ignore[misc]
    guardrails={  # type: ignore[arg-type]
        "max_actions": MAX_ACTIONS,
        "per": PER,
        "cooldown": COOLDOWN,
        "max_failures": MAX_FAILURES,
        "failures_within": WINDOW,
        "max_heals": MAX_HEALS,
        "heals_within": WINDOW,
        "fleet": {"at_once": AT_ONCE, "targets": TARGETS, "within": WINDOW, "storm": STORM},
    },
    retention=2 * WINDOW,
)


@dataclass
class Done:
    """An action that was allowed, as the test remembers it."""

    id: str
    target: str
    strategy: str
    at: float
    running: bool = True
    verdict: str | None = None


@dataclass
class Life:
    """One random life."""

    store: Store
    random: random.Random
    now: float = 1_000_000.0
    newest: float = 1_000_000.0
    done: list[Done] = field(default_factory=list)
    failing: set[str] = field(default_factory=set)
    stormed_at: float | None = None

    def live(self) -> None:
        """So many events."""
        for _ in range(EVENTS):
            self.random.choice(
                (self._propose, self._propose, self._end, self._judge, self._wait, self._fail, self._restart)
            )()

    @property
    def connection(self) -> Connection:
        """To the store as it is open now."""
        return self.store.connection

    def _propose(self) -> None:
        service, strategy = self.random.choice(SERVICES), self.random.choice(("restart", "scale"))
        target = f"docker:{service}"
        refusal = guardrails.check(
            self.connection, Proposal(service, strategy, target, True, self.now), SETTINGS
        )
        if refusal is not None and refusal.remember is not None:
            statements.set_control(
                self.connection, name=refusal.guardrail, value=refusal.remember, by="test", now=self.now
            )
            self.stormed_at = self.now
        if refusal is None:
            self._must_be_allowed(service, strategy, target)
            action = Done(f"x{len(self.done)}", target, strategy, self.now)
            self.done.append(action)
            values = {
                "id": action.id, "incident_id": f"i-{service}", "strategy": strategy, "platform": "docker",
                "target": target, "disruptive": True, "attempt": 1, "status": "started", "before": {},
                "intended_at": self.now, "started_at": self.now,
            }  # fmt: skip
            statements.insert_action(self.connection, values)

    def _must_be_allowed(self, service: str, strategy: str, target: str) -> None:
        own = [each for each in self.done if each.target == target]
        running = [each for each in self.done if each.running]
        assert len([each for each in own if each.at >= self.now - PER]) < MAX_ACTIONS
        assert all(each.at <= self.now - COOLDOWN for each in own)
        assert all(each.target != target for each in running)
        assert len(running) < AT_ONCE
        recent = {each.target for each in self.done if each.at >= self.now - WINDOW}
        assert target in recent or len(recent) < TARGETS
        # At the same time the one that was announced later is the newer one.
        judged = sorted((each for each in own if each.verdict), key=lambda each: each.at, reverse=True)
        alike = [each.verdict for each in judged if each.strategy == strategy][:MAX_FAILURES]
        assert len(alike) < MAX_FAILURES or "healed" in alike
        assert sum(each.verdict == "healed" for each in judged) < MAX_HEALS
        assert len(self.failing) <= STORM
        assert self.stormed_at is None or self.stormed_at + 600.0 <= self.now

    def _end(self) -> None:
        running = [each for each in self.done if each.running]
        if running:
            action = self.random.choice(running)
            action.running = False
            ended = {"status": self.random.choice(("succeeded", "failed", "indeterminate"))}
            statements.end_action(self.connection, action.id, ended)

    def _judge(self) -> None:
        open_ones = [each for each in self.done if not each.running and each.verdict is None]
        if open_ones:
            action = self.random.choice(open_ones)
            action.verdict = self.random.choice(("healed", "not_healed", "relapsed"))
            statements.update_action(self.connection, action.id, {"verdict": action.verdict})

    def _wait(self) -> None:
        """Time passes, and now and then the clock is set back."""
        self.now += self.random.choice((1.0, 61.0, 200.0, 700.0, 1001.0, -500.0))

    def _restart(self) -> None:
        """What is not in the file is forgotten."""
        self.store.open_anew()

    def _fail(self) -> None:
        service = self.random.choice(SERVICES)
        state = "resolved" if service in self.failing else "recovering"
        (self.failing.discard if service in self.failing else self.failing.add)(service)
        self.connection.execute(
            text("UPDATE incidents SET state = :state WHERE service = :service"),
            {"state": state, "service": service},
        )


class Store:
    """The product's tables in a file, with a history that can be emptied."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.opened = 0
        self._connect()
        migrate(self.connection)
        rows = [
            {
                "id": f"i-{name}", "subject": f"service/{name}", "service": name, "known_service": True,
                "title": "t", "severity": "critical", "state": "resolved", "opened_at": 1.0,
                "updated_at": 1.0, "plan": [],
            }
            for name in SERVICES
        ]  # fmt: skip
        statements.insert_incidents(self.connection, rows)

    def open_anew(self) -> None:
        """As a fabric that starts: another connection of another engine, and only what is on the disk."""
        self.close()
        self._connect()

    def close(self) -> None:
        """Write what there is, and let go of the file."""
        self.connection.commit()
        self.connection.close()
        self._engine.dispose()

    def forget(self) -> None:
        """Empty the history."""
        for statement in (
            "DELETE FROM actions",
            "DELETE FROM controls",
            "UPDATE incidents SET state = 'resolved'",
        ):
            self.connection.execute(text(statement))

    def _connect(self) -> None:
        self.opened += 1
        self._engine = create_engine(
            f"sqlite:///{self._file}", json_serializer=lambda value: "{}" if value == {} else str(value)
        )
        self.connection = self._engine.connect()
        sqlite._configure(self.connection.connection.driver_connection, None)
        self.connection.exec_driver_sql("PRAGMA synchronous=OFF")  # processes end here, machines do not


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store without history."""
    store = Store(tmp_path / "shf.db")
    yield store
    store.close()


def test_no_bound_is_ever_exceeded(store: Store) -> None:
    """Each life begins on an empty history; the seed of a failing one is told."""
    allowed = 0
    for seed in range(SEQUENCES):
        life = Life(store, random.Random(seed))  # noqa: S311 - a life, no secret
        try:
            life.live()
        except AssertionError as error:
            raise AssertionError(f"life {seed}: {error}") from error
        allowed += len(life.done)
        store.forget()
    assert allowed > 2 * SEQUENCES  # a guardrail that always refuses would pass all the rest
    assert store.opened > 2 * SEQUENCES
