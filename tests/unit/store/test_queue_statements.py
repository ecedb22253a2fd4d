"""How much work waits: what is due and in nobody's hands, and for how long the first of it has been."""

from collections.abc import Callable

from self_healing_fabric.store import Store, statements
from self_healing_fabric.store.queue_statements import due_incidents

Opens = Callable[..., str]


def test_nothing_waits_in_an_empty_store(store: Store) -> None:
    """Zero of both, which is not unknown."""
    assert store.read(lambda connection: due_incidents(connection, 100.0)) == (0, 0.0)


def test_what_is_due_waits_until_it_is_taken(store: Store, open_incident: Opens) -> None:
    """What is in somebody's hands, due later, or waits for an event, does not wait for a worker."""
    for name, due in (("first", 40.0), ("second", 90.0), ("later", 101.0), ("never", None)):
        open_incident(name, due_at=due)
    assert store.read(lambda connection: due_incidents(connection, 100.0)) == (2, 60.0)
    store.write(lambda c: statements.claim_due(c, owner="w", now=100.0, lease=10.0, limit=1))
    assert store.read(lambda connection: due_incidents(connection, 100.0)) == (1, 10.0)


def test_what_a_dead_worker_held_waits_again(store: Store, open_incident: Opens) -> None:
    """Its lease has run out."""
    open_incident("first", due_at=40.0)
    store.write(lambda c: statements.claim_due(c, owner="w", now=100.0, lease=10.0, limit=1))
    assert store.read(lambda connection: due_incidents(connection, 110.5)) == (1, 70.5)
