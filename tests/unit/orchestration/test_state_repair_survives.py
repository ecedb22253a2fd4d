"""A repair of diverged replicas in the life of an incident: proved, refused, and interrupted at any point."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from killed import Killed, killed_at
from self_healing_fabric.incidents.lifecycle import State
from self_healing_fabric.orchestration.leases import steady
from self_healing_fabric.recovery.strategies import repair
from self_healing_fabric.recovery.strategies.repair import StateRepair
from shf_queries.catalogue import STATE_DIVERGENCE
from state_replica import StateReplica

GOOD, BAD = b"good", b"bad"
FOR_LONG = 10_000  # reads


class Ledger:
    """A world with replicas, whose digests Prometheus sees."""

    def __init__(
        self, make_world: Callable[..., Any], directory: Path, running: ExitStack, states: dict[str, bytes]
    ) -> None:
        self.replicas = {
            name: running.enter_context(StateReplica(name, state, on_put=self._written))
            for name, state in states.items()
        }
        replicas = [
            {"name": name, "url": replica.url, "failure_domain": name}
            for name, replica in self.replicas.items()
        ]
        self.aside = directory / "aside"
        state = {"replicas": replicas, "keep_aside": str(self.aside), "pause": 0, "timeout": 2}
        self.world = make_world(services={"cart": {"recovery": {"state": state}}})
        self.world.measure(STATE_DIVERGENCE, 2.0)
        self.world.receive(self.world.alert(signal=STATE_DIVERGENCE.name))

    def _written(self) -> None:
        self.world.measure(STATE_DIVERGENCE, 1.0)

    @property
    def puts(self) -> list[int]:
        """How many orders each replica got."""
        return [len(replica.puts) for replica in self.replicas.values()]

    def die_after_the_repair(self) -> None:
        """Between the effect and its record."""
        with killed_at(StateRepair, done=True):
            self.world.run()
        self.world.crash()


@pytest.fixture
def make_ledger(make_world: Callable[..., Any], tmp_path: Path) -> Iterator[Callable[..., Ledger]]:
    """An incident that is about to be opened, of replicas with these states."""
    with ExitStack() as running:
        yield lambda **states: Ledger(make_world, tmp_path, running, states)


@pytest.fixture
def ledger(make_ledger: Callable[..., Ledger]) -> Ledger:
    """Three replicas, of which c differs."""
    return make_ledger(a=GOOD, b=GOOD, c=BAD)


class Passing:
    """Lets time pass for what has a limit; leases are prolonged meanwhile, as ever."""

    def __init__(self, world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self._world, self._passed = world, 0
        for name in ("leases", "journal", "steps.recovering"):
            module = importlib.import_module(f"self_healing_fabric.orchestration.{name}")
            monkeypatch.setattr(module, "steady", lambda: steady() + self._passed)

    def seconds(self, number: int) -> None:
        for _ in range(number):
            self._passed += 1
            self._world.context.leases.renew()


def test_diverged_replicas_are_repaired_once_and_proved_healed(ledger: Ledger) -> None:
    """Alert, data_corruption, plan, vote, repair, proof; the timeline tells each."""
    ledger.world.run(seconds=60)
    incident = ledger.world.incident()
    assert (incident.outcome, incident.failure_class) == ("healed", "data_corruption")
    assert ledger.puts == [0, 0, 1]
    assert ledger.replicas["c"].state == GOOD
    assert [row.status for row in ledger.world.actions()] == ["succeeded"]
    assert any("repair succeeded: c holds" in told for told in ledger.world.story())


@pytest.mark.parametrize("killed", [False, True])
def test_a_replica_that_is_away_with_its_new_state_is_asked_when_it_is_back(
    ledger: Ledger, killed: bool
) -> None:
    """It starts anew for longer than an order may take: no reason to call people, nor to send it again."""
    replica = ledger.replicas["c"]
    replica.answer, replica.away = 502, 10**6
    if killed:
        ledger.die_after_the_repair()
    ledger.world.run(seconds=120)
    assert "whether repair happened is not known yet" in ledger.world.incident().waiting_for
    assert ledger.world.calls == []
    replica.away = 0
    ledger.world.run(seconds=120)
    assert (ledger.puts, replica.state) == ([0, 0, 1], GOOD)
    assert (ledger.world.incident().outcome, ledger.world.calls) == ("healed", [])


def test_a_replica_that_shows_its_new_state_late_is_not_told_again(ledger: Ledger) -> None:
    """A proxy gave it up, and it carries out what it got all the same."""
    replica = ledger.replicas["c"]
    replica.answer, replica.deaf = 504, True
    ledger.world.run(seconds=5)
    replica.state, replica.deaf = GOOD, False
    ledger.world.run(seconds=240)
    assert ledger.puts == [0, 0, 1]
    assert (ledger.world.incident().outcome, ledger.world.calls) == ("healed", [])


def test_without_a_majority_people_are_called_with_the_reason(ledger: Ledger) -> None:
    """A third state makes a tie: nothing is sent and nothing is kept."""
    ledger.replicas["b"].state = b"another"
    ledger.world.run(seconds=60)
    assert ledger.world.incident().state is State.ESCALATED
    assert ledger.puts == [0, 0, 0]
    assert not ledger.aside.exists()
    assert any("repair is not possible: a tie: at most 1 of 3" in told for told in ledger.world.story())
    assert ledger.world.calls


def test_killed_after_the_effect_does_not_repeat_it(ledger: Ledger) -> None:
    """Between the effect and its record: the replica's bytes tell that it happened."""
    ledger.die_after_the_repair()
    ledger.world.run(seconds=120)
    assert ledger.puts == [0, 0, 1]
    assert ledger.world.incident().outcome == "healed"
    assert [row.status for row in ledger.world.actions()] == ["succeeded"]


@pytest.mark.parametrize("took", [True, False], ids=["with the state", "without"])
def test_a_replica_that_goes_away_with_the_order_tells_when_it_is_back(ledger: Ledger, took: bool) -> None:
    """It took its state, or never heard of it, and nobody can read it for a minute: it is asked again."""
    c = ledger.replicas["c"]
    c.answer, c.deaf, c.away = 502, not took, FOR_LONG
    written = c.on_put
    if not took:
        c.on_put = lambda: None
    ledger.world.run(seconds=40)
    assert [row.status for row in ledger.world.actions()] == ["started"]
    assert "whether repair happened is not known yet" in ledger.world.incident().waiting_for
    c.answer, c.deaf, c.away, c.on_put = None, False, 0, written
    ledger.world.run(seconds=300)
    assert ledger.puts == [0, 0, 1 if took else 2]
    assert c.state == GOOD
    assert (ledger.world.incident().outcome, ledger.world.calls) == ("healed", [])


def test_killed_before_the_effect_does_it_once(ledger: Ledger) -> None:
    """After it was announced: it did not happen, so it is done later."""
    with killed_at(StateRepair, done=False):
        ledger.world.run()
    ledger.world.crash()
    assert ledger.puts == [0, 0, 0]
    ledger.world.run(seconds=180)
    assert ledger.puts == [0, 0, 1]
    assert [row.status for row in ledger.world.actions()] == ["failed", "succeeded"]
    assert ledger.world.incident().outcome == "healed"


@pytest.mark.parametrize("step", range(1, 9))
def test_killed_at_any_commit_heals_with_one_order(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Killed right before the n-th write of the incident's life: one PUT at the replica, then healed."""
    writes = 0
    write = ledger.world.context.store.write

    def count(function: Any) -> Any:
        nonlocal writes
        writes += 1
        if writes == step:
            raise Killed
        return write(function)

    with monkeypatch.context() as patch:
        patch.setattr(ledger.world.context.store, "write", count)
        with pytest.raises(Killed):
            ledger.world.run(seconds=20)
    ledger.world.crash()
    ledger.world.run(seconds=240)
    assert ledger.puts == [0, 0, 1]
    assert ledger.world.incident().outcome == "healed"


def test_a_repair_that_does_not_last_is_not_called_healed(ledger: Ledger) -> None:
    """The replica holds its old state again at the end: the target itself is asked."""
    ledger.world.run(seconds=3)
    assert ledger.puts == [0, 0, 1]
    ledger.replicas["c"].state = BAD
    ledger.world.run(seconds=60)
    assert ledger.world.incident().outcome != "healed"
    assert any("c still holds" in told for told in ledger.world.story())


# What takes long, because the state is large.


def test_to_keep_the_old_state_may_take_longer_than_an_order(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that is far away: it is kept, and then replaced at the first try."""
    passing, keep = Passing(ledger.world, monkeypatch), repair.keep

    def keep_slowly(path: str, data: bytes) -> None:
        keep(path, data)
        passing.seconds(9)

    monkeypatch.setattr(repair, "keep", keep_slowly)
    ledger.world.run(seconds=3)
    assert ledger.puts == [0, 0, 1]
    assert [row.status for row in ledger.world.actions()] == ["succeeded"]


def test_to_read_what_was_kept_may_take_longer_than_an_order(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The repair made it worse: the old state is fetched from far away and put back, at the first try."""
    passing, read = Passing(ledger.world, monkeypatch), repair.read_file

    def read_slowly(path: str, most: int) -> bytes:
        passing.seconds(9)
        return read(path, most)

    monkeypatch.setattr(repair, "read_file", read_slowly)
    ledger.replicas["c"].on_put = lambda: ledger.world.measure(STATE_DIVERGENCE, 4.0)
    ledger.world.run(seconds=20)
    assert ledger.replicas["c"].state == BAD
    assert [(row.strategy, row.status) for row in ledger.world.actions()] == [
        ("repair", "succeeded"),
        ("undo", "succeeded"),
    ]


def test_a_replica_may_wait_for_the_order_to_the_one_before_it(
    make_ledger: Callable[..., Ledger], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each takes its time to be sent; none is left out for that."""
    ledger = make_ledger(a=GOOD, b=GOOD, c=GOOD, d=BAD, e=b"another")
    passing = Passing(ledger.world, monkeypatch)
    ledger.replicas["d"].on_put = lambda: passing.seconds(6)
    ledger.world.run(seconds=3)
    assert ledger.puts == [0, 0, 0, 1, 1]
    assert [row.status for row in ledger.world.actions()] == ["succeeded"]
