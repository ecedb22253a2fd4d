"""The timeline: entries in order, with their data, bounded in size."""

from collections.abc import Callable

import pytest
from sqlalchemy import Connection

from self_healing_fabric.incidents import timeline
from self_healing_fabric.incidents.timeline import Entry, Kind
from self_healing_fabric.store import Store, statements


def test_entries_keep_their_order_and_data(
    store: Store, take_in: Callable[..., None], correlate: Callable[..., list[str | None]]
) -> None:
    """What is written at one time is read in the order in which it was written."""
    take_in(service="cart")
    correlate()
    (incident,) = store.read(lambda connection: statements.list_incidents(connection))
    entries = [
        Entry(Kind.EVIDENCE, "fact", {"query": "up", "value": 0.0}),
        Entry(Kind.DIAGNOSIS, "x" * (timeline.MAX_MESSAGE + 1)),
    ]
    store.write(lambda connection: timeline.append(connection, incident.id, entries, 105.0))
    rows = store.read(lambda connection: statements.timeline_of(connection, incident.id))[-2:]
    assert [(row.kind, row.at) for row in rows] == [("evidence", 105.0), ("diagnosis", 105.0)]
    assert rows[0].data == {"query": "up", "value": 0.0}
    assert len(rows[1].message) == timeline.MAX_MESSAGE


def test_nothing_to_append_is_no_error(store: Store) -> None:
    """A step may have nothing to tell."""
    store.write(lambda connection: timeline.append(connection, "nobody", [], 1.0))


def test_a_transaction_that_fails_leaves_no_entry(
    store: Store, take_in: Callable[..., None], correlate: Callable[..., list[str | None]]
) -> None:
    """The timeline cannot tell of a step that did not happen."""
    take_in(service="cart")
    correlate()
    (incident,) = store.read(lambda connection: statements.list_incidents(connection))

    def half(connection: Connection) -> None:
        timeline.append(connection, incident.id, [Entry(Kind.STATE, "moved")], 105.0)
        raise LookupError("the step failed")

    with pytest.raises(LookupError):
        store.write(half)
    rows = store.read(lambda connection: statements.timeline_of(connection, incident.id))
    assert [row.kind for row in rows] == ["alert"]


def test_the_kinds_are_those_of_the_contract() -> None:
    """Readers of the API rely on these words."""
    assert {kind.value for kind in Kind} == {
        *("alert", "state", "evidence", "diagnosis", "plan", "guardrail"),
        *("action", "verification", "escalation", "waiting", "note"),
    }
