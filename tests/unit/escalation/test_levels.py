"""The levels: one up at a time, each with its names and deadline, and the last one is the end."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scratch_store import scratch_store
from self_healing_fabric.escalation.levels import LAST_LEVEL, Risen, rise
from self_healing_fabric.incidents.lifecycle import Rise
from self_healing_fabric.settings import DEFAULT_LEVELS, EscalationSettings, LevelSettings, Settings
from self_healing_fabric.store import Store, call_statements, statements

NOW = 100.0


@pytest.fixture
def store() -> Iterator[Store]:
    """An empty store."""
    with scratch_store() as opened:
        yield opened


def opened(store: Store, **columns: Any) -> None:
    """An incident of the service cart."""
    values = {
        "id": "i1", "subject": "service/cart", "service": "cart", "known_service": True, "title": "t",
        "severity": "critical", "state": "escalated", "plan": [], "opened_at": 1.0, "updated_at": 1.0,
    }  # fmt: skip
    store.write(lambda connection: statements.insert_incidents(connection, [{**values, **columns}]))


def raised(store: Store, settings: Settings | None = None, **wanted: Any) -> Risen:
    """Rise by one level."""
    asked = Rise(**{"reason": "not healed", **wanted})
    return store.write(lambda connection: rise(connection, "i1", asked, settings or Settings(), NOW))


def incident(store: Store) -> Any:
    """The incident as it is stored."""
    return store.read(lambda connection: statements.incident(connection, "i1"))


def calls(store: Store) -> list[tuple[str, str]]:
    """Contact and channel of every call."""
    rows = store.read(lambda connection: call_statements.calls_of(connection, "i1"))
    return [(row.contact, row.channel) for row in rows]


@pytest.mark.parametrize("level", range(LAST_LEVEL))
def test_a_rise_is_one_level_and_calls_whom_it_names(store: Store, level: int) -> None:
    """The entry tells level, whom and why; the next deadline is that of the new level."""
    opened(store, level=level, acknowledged_by="ada")
    risen = raised(store)
    configured = DEFAULT_LEVELS[level + 1]
    (entry,) = risen.entries
    assert entry.data["called"] == list(configured.call)
    assert entry.message.endswith("not healed")
    stored = incident(store)
    assert (stored.level, stored.acknowledged_by) == (level + 1, None)
    assert stored.level_due_at == (None if level + 1 == LAST_LEVEL else 400.0)
    assert calls(store) == [(", ".join(configured.call), "log")]


def test_there_is_nothing_above_the_last_level(store: Store) -> None:
    """Everyone was called already; the reason is noted, and an acknowledgement stays."""
    opened(store, level=LAST_LEVEL, acknowledged_by="ada")
    (entry,) = raised(store).entries
    assert entry.message == "Stays at the last level: not healed"
    assert (incident(store).acknowledged_by, calls(store)) == ("ada", [])


def test_a_first_call_is_made_once(store: Store) -> None:
    """Two who want the first call to be made make one."""
    opened(store)
    raised(store, first=True)
    assert raised(store, first=True) == Risen({}, ())
    assert (incident(store).level, len(calls(store))) == (1, 1)


def test_a_rise_that_does_not_climb_has_no_deadline(store: Store) -> None:
    """People are told once, and nobody after them."""
    opened(store)
    raised(store, climbs=False)
    assert (incident(store).level, incident(store).level_due_at) == (1, None)


def test_the_deadline_is_the_configured_one_of_the_new_level(store: Store) -> None:
    """Levels may wait for different times."""
    levels = tuple(LevelSettings(name=f"l{number}", deadline=10.0 * (number + 1)) for number in range(5))
    opened(store)
    raised(store, Settings(escalation=EscalationSettings(levels=levels)))
    assert incident(store).level_due_at == 120.0


def test_a_contact_is_called_over_each_of_its_channels(store: Store, tmp_path: Path) -> None:
    """By name, or by the channels that are listed for it; `all guardians` is everyone over HTTP, once."""
    guardian = {"guardian": {"url": "http://127.0.0.1:1/", "secret_file": tmp_path / "secret"}}
    escalation = {
        "channels": {
            "guardian-five": guardian,
            "six": guardian,
            "chat": {"apprise": {"urls_file": tmp_path / "urls"}},
            "on-call": {"alertmanager": {"urls": ["http://127.0.0.1:1"]}},
        },
        "contacts": {"guardian-six": ["six"], "human": ["chat", "on-call"]},
    }
    opened(store, level=3)
    raised(store, Settings(escalation=escalation))
    assert sorted(calls(store)) == [
        ("guardian-five", "guardian-five"),
        ("guardian-six", "six"),
        ("guardian-six, guardian-five, human", "log"),
        ("human", "chat"),
        ("human", "on-call"),
    ]


def test_the_shipped_levels_are_five_and_end_with_a_human() -> None:
    """Level 0 calls nobody; the last one calls everyone and a human."""
    assert len(DEFAULT_LEVELS) == LAST_LEVEL + 1
    assert DEFAULT_LEVELS[0].call == ()
    assert DEFAULT_LEVELS[-1].call == ("all guardians", "human")


@pytest.mark.parametrize(
    ("escalation", "message"),
    [
        ({"contacts": {"human": ["chat"]}}, "no channel is called `chat`"),
        ({"channels": {"chat": {}}}, "give exactly one of"),
        ({"channels": {"log": {"alertmanager": {"urls": ["http://a"]}}}}, "the log hears of every call"),
        ({"channels": {"on-call": {"alertmanager": {}}}}, "or `alertmanager.url`"),
        ({"hold_page": {}}, "or `alertmanager.url`"),
    ],
)
def test_channels_that_cannot_work_are_refused(escalation: Any, message: str) -> None:
    """A call that would reach nobody is found at the start and not at night."""
    with pytest.raises(ValueError, match=message):
        Settings(escalation=escalation)
