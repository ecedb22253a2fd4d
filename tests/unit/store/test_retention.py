"""Retention: what is old and closed goes, with all that belongs to it; a timeline that counts does not."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select, text

from self_healing_fabric.errors import StoreUnavailable
from self_healing_fabric.incidents import timeline
from self_healing_fabric.incidents.timeline import Entry, Kind
from self_healing_fabric.store import Store, schema, statements

Opens = Callable[..., str]


@pytest.fixture
def whole(store: Store, open_incident: Opens) -> Opens:
    """Open an incident with an alert, an action and two entries in its timeline."""

    def make(incident_id: str, **columns: Any) -> str:
        open_incident(incident_id, **columns)
        alert = {
            "fingerprint": incident_id,
            "starts_at": "s",
            "status": "firing",
            "labels": {},
            "annotations": {},
            "received_at": 1.0,
            "ended_at": None,
            "incident_id": incident_id,
        }
        action = {
            "id": f"{incident_id}/restart",
            "incident_id": incident_id,
            "strategy": "restart",
            "platform": "http",
            "target": "http:cart",
            "disruptive": True,
            "attempt": 1,
            "status": "succeeded",
            "before": {},
            "intended_at": 1.0,
        }

        def write(connection: statements.Connection) -> None:
            statements.upsert_alerts(connection, [alert])
            statements.insert_action(connection, action)
            told = [Entry(Kind.NOTE, "it happened"), Entry(Kind.NOTE, "and ended")]
            timeline.append(connection, incident_id, told, 1.0)

        store.write(write)
        return incident_id

    return make


def execute(statement: str) -> Callable[[statements.Connection], None]:
    """A job that does only this."""
    return lambda connection: connection.execute(text(statement)) and None


def retire(store: Store, closed_before: float = 100.0, limit: int = 10) -> int:
    """Retire what was closed before; how many."""
    return store.write(
        lambda c: statements.retire_incidents(c, closed_before=closed_before, now=1000.0, limit=limit)
    )


def left(store: Store) -> dict[str, set[str]]:
    """The incidents that each table knows."""
    columns = [schema.incidents.c.id]
    columns += [table.c.incident_id for table in (schema.alerts, schema.actions, schema.timeline)]
    return {
        column.table.name: set(store.read(lambda c, column=column: c.execute(select(column)).scalars().all()))
        for column in columns
    }


def test_an_old_closed_incident_leaves_one_line(store: Store, whole: Opens) -> None:
    """Incident, alerts, actions and timeline are gone; what is left says what it was and how it ended."""
    whole("old", state="closed", outcome="healed", opened_at=10.0, closed_at=99.9)
    assert retire(store) == 1
    assert left(store) == {"incidents": set(), "alerts": set(), "actions": set(), "timeline": set()}
    (line,) = store.read(lambda c: c.execute(text("SELECT * FROM retired")).mappings().all())
    assert dict(line) == {
        "incident_id": "old",
        "service": "cart",
        "outcome": "healed",
        "opened_at": 10.0,
        "closed_at": 99.9,
        "retired_at": 1000.0,
    }


def test_the_open_and_the_young_stay_whole(store: Store, whole: Opens) -> None:
    """However old an open one is; a closed one until its time is over."""
    whole("open", opened_at=1.0)
    whole("resolved", state="resolved", resolved_at=2.0, opened_at=1.0)
    whole("young", state="closed", outcome="healed", opened_at=1.0, closed_at=100.0)
    whole("old", state="closed", outcome="healed", opened_at=1.0, closed_at=99.0)
    assert retire(store) == 1
    stay = {"open", "resolved", "young"}
    assert left(store) == {"incidents": stay, "alerts": stay, "actions": stay, "timeline": stay}
    assert retire(store) == 0


def test_what_an_open_incident_answers_for_stays(store: Store, whole: Opens) -> None:
    """What was done to a symptom is to be taken back when its cause has healed, however long that lasts."""
    whole("cause", opened_at=1.0)
    whole("symptom", state="closed", outcome="merged", merged_into="cause", opened_at=1.0, closed_at=5.0)
    store.write(lambda c: statements.hand_over_actions(c, from_incident="symptom", to_incident="cause"))
    assert retire(store) == 0
    held = store.read(lambda c: statements.actions_held_by(c, "cause"))
    assert [row.incident_id for row in held] == ["cause", "symptom"]
    store.write(execute("UPDATE incidents SET state = 'closed', closed_at = 6.0"))
    assert retire(store) == 2


def test_a_merged_incident_goes_by_its_own_end(store: Store, whole: Opens) -> None:
    """Whether it or that into which it was merged goes first, the other one is not harmed."""
    whole("cause", opened_at=1.0)
    whole("symptom", state="closed", outcome="merged", merged_into="cause", opened_at=1.0, closed_at=50.0)
    whole("gone", state="closed", outcome="healed", opened_at=1.0, closed_at=40.0)
    whole("late", state="closed", outcome="merged", merged_into="gone", opened_at=1.0, closed_at=500.0)
    assert retire(store) == 2
    assert left(store)["incidents"] == left(store)["timeline"] == {"cause", "late"}
    row = store.read(lambda connection: statements.incident(connection, "late"))
    assert row is not None
    assert row.merged_into == "gone"


def test_the_oldest_go_first_and_only_so_many_at_once(store: Store, whole: Opens) -> None:
    """A backlog of years is worked off in small transactions."""
    for number in (3, 1, 2):
        whole(f"i{number}", state="closed", opened_at=1.0, closed_at=float(number))
    assert retire(store, limit=2) == 2
    assert left(store)["incidents"] == {"i3"}
    assert retire(store, limit=2) == 1


def test_retirement_is_all_or_nothing(store: Store, whole: Opens) -> None:
    """A failure after it, in the same transaction, brings everything back."""
    whole("old", state="closed", opened_at=1.0, closed_at=2.0)

    def fail(connection: statements.Connection) -> None:
        statements.retire_incidents(connection, closed_before=100.0, now=1000.0, limit=10)
        raise LookupError("a defect")

    with pytest.raises(LookupError):
        store.write(fail)
    everything = {"incidents": {"old"}, "alerts": {"old"}, "actions": {"old"}, "timeline": {"old"}}
    assert left(store) == everything
    assert store.read(lambda c: c.execute(text("SELECT count(*) FROM retired")).scalar()) == 0


def test_an_alert_that_still_fires_gets_a_new_incident(store: Store, whole: Opens) -> None:
    """Its incident was closed by a person long ago and is retired: the next notification starts afresh."""
    whole("old", state="closed", outcome="closed_by_person", opened_at=1.0, closed_at=2.0)
    retire(store)
    again = {
        "fingerprint": "old",
        "starts_at": "s",
        "status": "firing",
        "labels": {},
        "annotations": {},
        "received_at": 2000.0,
        "ended_at": None,
    }
    store.write(lambda connection: statements.upsert_alerts(connection, [again]))
    assert len(store.read(lambda connection: statements.unassigned_alerts(connection, 10))) == 1


def test_an_incident_with_something_left_behind_cannot_be_deleted(store: Store, whole: Opens) -> None:
    """The foreign keys hold: nothing points to an incident that is not there."""
    whole("i1")
    for table in ("timeline", "actions", "alerts"):
        with pytest.raises(StoreUnavailable, match=r"(?i)foreign key|append-only"):
            store.write(execute("DELETE FROM incidents"))
        if table != "timeline":
            store.write(execute(f"DELETE FROM {table}"))  # noqa: S608
    assert left(store) == {"incidents": {"i1"}, "alerts": set(), "actions": set(), "timeline": {"i1"}}


CHANGES = [
    "DELETE FROM timeline",
    "DELETE FROM timeline WHERE incident_id = 'stays'",
    "DELETE FROM timeline WHERE incident_id IN (SELECT incident_id FROM retired UNION SELECT 'stays')",
    "UPDATE timeline SET message = 'it did not' WHERE incident_id = 'stays'",
    "UPDATE timeline SET incident_id = 'old' WHERE incident_id = 'stays'",
]


def test_a_timeline_that_is_not_retired_cannot_be_changed(store: Store, whole: Opens) -> None:
    """Not even beside one that may be deleted; TRUNCATE, which only PostgreSQL has, takes all or nothing."""
    whole("stays")
    whole("old", state="closed", opened_at=1.0, closed_at=2.0)
    store.write(execute("INSERT INTO retired VALUES ('old', 'cart', 'healed', 1, 2, 3)"))
    truncate = ["TRUNCATE timeline", "TRUNCATE incidents CASCADE"] if store.shared else []
    for statement in (*CHANGES, *truncate):
        with pytest.raises(StoreUnavailable, match="the timeline is append-only"):
            store.write(execute(statement))
        rows = store.read(lambda connection: statements.timeline_of(connection, "stays"))
        assert [row.message for row in rows] == ["it happened", "and ended"]
    store.write(execute("DELETE FROM timeline WHERE incident_id = 'old'"))
    assert left(store)["timeline"] == {"stays"}


def test_the_entries_of_a_retired_incident_cannot_be_rewritten(store: Store, whole: Opens) -> None:
    """They may go, and not become something else."""
    whole("old", state="closed", opened_at=1.0, closed_at=2.0)
    store.write(execute("INSERT INTO retired VALUES ('old', 'cart', 'healed', 1, 2, 3)"))
    with pytest.raises(StoreUnavailable, match="the timeline is append-only"):
        store.write(execute("UPDATE timeline SET message = 'it did not'"))


def test_alerts_that_ended_without_an_incident_are_forgotten(store: Store, whole: Opens) -> None:
    """Only those: what fires, what ended lately and what belongs to an incident stays."""
    whole("i1")
    for fingerprint, ended_at in (("old", 99.0), ("late", 100.0), ("fires", None)):
        alert = {
            "fingerprint": fingerprint,
            "starts_at": "s",
            "status": "firing" if ended_at is None else "resolved",
            "labels": {},
            "annotations": {},
            "received_at": 1.0,
            "ended_at": ended_at,
        }
        store.write(lambda c, alert=alert: statements.upsert_alerts(c, [alert]))
    store.write(lambda c: statements.end_alert(c, 1, 5.0))
    assert store.write(lambda connection: statements.forget_ended_alerts(connection, 100.0)) == 1
    query = text("SELECT fingerprint FROM alerts ORDER BY id")
    assert store.read(lambda c: c.execute(query).scalars().all()) == ["i1", "late", "fires"]
