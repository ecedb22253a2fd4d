"""What one life costs the store: in a burst every statement and every commit is paid by each incident."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import event

from world import World

STATEMENTS = 36  # from the claim of a new incident to its end, with a restart; BEGIN and COMMIT not counted
WRITES = 6  # two claims, the diagnosis, announcement and end of the action, the verdict
TAKEN_IN = 16  # from the inbox to the first step
READS = 6  # what three steps know, the calibration, what has helped before, the mode right before the effect


@contextmanager
def noted(world: World) -> Iterator[tuple[list[str], list[str], list[str]]]:
    """The statements, and the names of the calls that write and that read."""
    backend: Any = world.context.store._backend
    executed: list[str] = []
    called: dict[str, list[str]] = {"write": [], "read": []}

    def note(_: Any, __: Any, statement: str, *___: Any) -> None:
        executed.append(statement)

    def calling(name: str) -> Callable[[Any], Any]:
        original = getattr(backend, name)

        def call(function: Any) -> Any:
            called[name].append(function.__qualname__)
            return original(function)

        return call

    for engine in (backend.engine, backend.readers):
        event.listen(engine, "before_cursor_execute", note)
    with pytest.MonkeyPatch.context() as patch:
        for name in called:
            patch.setattr(backend, name, calling(name))
        yield executed, called["write"], called["read"]
    for engine in (backend.engine, backend.readers):
        event.remove(engine, "before_cursor_execute", note)


def test_a_life_takes_few_statements_and_commits(world: World) -> None:
    """From the claim to resolved: what a step needs is read once, and nobody reads what was just written."""
    world.target.on_restart = world.healthy
    world.silent()
    world.clock.now += 30
    world.receive(world.alert())
    world.orchestrator.take_in()
    with noted(world) as (executed, writes, reads):
        (incident,) = world.orchestrator.claim(8)
        world.orchestrator.work(incident)
        world.clock.now += 12
        (incident,) = world.orchestrator.claim(8)
        world.orchestrator.work(incident)
    assert [(each.state, each.outcome) for each in world.incidents()] == [("resolved", "healed")]
    assert world.restarts() == {"cart": 1}
    assert len(writes) <= WRITES, writes
    assert len(reads) <= READS, reads
    assert len(executed) <= STATEMENTS, "\n".join(executed)


def test_taking_in_takes_few_statements_and_one_commit(make_world: Callable[..., World]) -> None:
    """From what was stored to the first step: nothing is read that the same round has written."""
    world = make_world({"cart": (), "payment": ()})
    for service in ("payment", "cart"):  # with the first one the process learns where the audit chain ends
        world.keep(service, service)
        with noted(world) as (executed, writes, reads):
            claimed = world.orchestrator.take_in_and_claim(8)
        assert [(each.service, each.state) for each in claimed] == [(service, "diagnosing")]
        assert (len(writes), len(reads)) == (1, 0)
    assert len(executed) <= TAKEN_IN, "\n".join(executed)
