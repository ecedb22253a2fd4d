"""The answer to a COMMIT gets lost: it is on disk, and the worker hears that the store is away.

The commits are a real PostgreSQL's; the connection is cut right after each in turn.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from self_healing_fabric.errors import StoreUnavailable
from self_healing_fabric.incidents.lifecycle import State
from self_healing_fabric.orchestration import healing_orchestrator
from self_healing_fabric.store import statements

STEPS = range(1, 9)  # the writes of an incident under its lease, until it is resolved


class Network:
    """Cuts the connection after the n-th commit of a step."""

    def __init__(self, world: Any, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
        self.cut = False
        self._number, self._count = number, 0
        self._update = statements.update_claimed
        dialect = world.context.store._backend.engine.dialect
        self._commit = dialect.do_commit
        monkeypatch.setattr(statements, "update_claimed", self._of_a_step)
        monkeypatch.setattr(dialect, "do_commit", self._after_commit)

    def _of_a_step(self, connection: Any, *arguments: Any) -> None:
        connection.info["of_a_step"] = True
        self._update(connection, *arguments)

    def _after_commit(self, connection: Any) -> None:
        self._commit(connection)
        if not connection.info.pop("of_a_step", False):
            return
        self._count += 1
        if self._count == self._number:
            self.cut = True
            connection.driver_connection.close()
            raise psycopg.OperationalError("server closed the connection unexpectedly")


@pytest.fixture
def failing(make_world: Callable[..., Any], postgresql_url: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A world on PostgreSQL whose service is down until it is restarted."""
    monkeypatch.setattr(healing_orchestrator, "STORE_RETRY", 0.01)
    world = make_world(store=postgresql_url)
    world.silent()
    world.target.on_restart = world.healthy
    world.receive(world.alert())
    return world


def told(world: Any) -> Counter[str]:
    """What the timeline tells of states, actions and verdicts, and how often."""
    return Counter(line for line in world.story() if line.startswith(("state:", "action:", "verification:")))


@pytest.mark.parametrize("number", STEPS)
def test_a_step_whose_answer_got_lost_is_told_once(
    failing: Any, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Whichever it is: one restart at the target, healed, and no line of the timeline stands there twice."""
    network = Network(failing, monkeypatch, number)
    with contextlib.suppress(StoreUnavailable):  # of a claim: the loop looks again
        failing.run()
    failing.run(seconds=150)
    assert network.cut
    assert len(failing.target.restarts) == 1
    assert (failing.incident().state, failing.incident().outcome) == (State.RESOLVED, "healed")
    assert set(told(failing).values()) == {1}


def test_people_are_called_once_when_the_answer_to_the_end_of_an_action_got_lost(
    failing: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step goes on as stored: its escalation is sent, and neither counted nor told twice."""
    failing.target.answer = 403
    network = Network(failing, monkeypatch, 4)
    failing.run()
    assert network.cut
    assert [row.status for row in failing.actions()] == ["failed"]
    assert failing.incident().state is State.ESCALATED
    assert [call.level for call in failing.calls] == [1]
    assert set(told(failing).values()) == {1}
