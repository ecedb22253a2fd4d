"""What is asked again and again must not cost more the more is kept of what is over.

How SQLite executes a statement does not depend on the rows, for nobody lets it count them: so a few do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import event

from self_healing_fabric.integration.status import StateCollector
from self_healing_fabric.orchestration.page_hold import PageHold
from self_healing_fabric.settings import PageHoldSettings
from self_healing_fabric.store import call_statements
from self_healing_fabric.store.schema import actions, alerts, calls, incidents, timeline
from world import World

KEPT = (incidents, alerts, actions, calls, timeline)  # until their retention is over


def reads_all(plan: str) -> bool:
    """Whether a line of a plan goes through all rows of a table of what is kept."""
    words = plan.split()
    partial = [
        index.name
        for table in KEPT
        for index in table.indexes
        if index.dialect_options["sqlite"]["where"] is not None
    ]
    of_kept = words[0] == "SCAN" and words[1] in [table.name for table in KEPT]
    of_channel = plan.endswith("calls_to_contact (channel=?)")
    return (of_kept and words[-1] not in partial) or of_channel


@contextmanager
def scanning(world: World) -> Iterator[dict[str, list[str]]]:
    """The statements that are executed meanwhile and go through all that is kept, each with its plan."""
    backend: Any = world.context.store._backend
    found: dict[str, list[str]] = {}

    def explain(connection: Any, cursor: Any, statement: str, parameters: Any, _: Any, many: bool) -> None:
        if statement.startswith(("SELECT", "UPDATE", "DELETE", "WITH")):
            asked = connection.connection.driver_connection.execute(
                f"EXPLAIN QUERY PLAN {statement}", parameters[0] if many else parameters
            )
            plan = [row[3] for row in asked]
            if any(map(reads_all, plan)):
                found[statement] = plan

    for engine in (backend.engine, backend.readers):
        event.listen(engine, "before_cursor_execute", explain)
    yield found
    for engine in (backend.engine, backend.readers):
        event.remove(engine, "before_cursor_execute", explain)


def test_no_round_reads_what_is_over(make_world: Callable[..., World]) -> None:
    """A life with an action and a call, a scrape, a comparison, a page that is held: all by indexes."""
    channels = {"on-call": {"alertmanager": {"urls": ["http://127.0.0.1:9"]}}}
    world = make_world({"cart": (), "db": ()}, escalation={"channels": channels})
    holding = PageHold(world.context, PageHoldSettings(urls=["http://127.0.0.1:9"]), world.clock)
    world.context.leases.lead()
    with scanning(world) as found:
        world.silent()
        world.receive(world.alert(), world.alert(service="unknown"))
        world.run(seconds=2)
        world.orchestrator.reconciliation.run()
        list(StateCollector(world.fabric).collect())
        world.context.store.read(holding._places)
        world.context.store.read(call_statements.calls_kept_alive)
        world.run(seconds=90)
    assert world.restarts() == {"cart": 1}
    assert len(world.calls) > 1
    assert found == {}
