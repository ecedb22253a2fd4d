"""Verdicts on diagnoses: what a person says, what a verified repair suggests, and what confidence learns."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scratch_store import put_empty_store
from self_healing_fabric.diagnosis import Pattern
from self_healing_fabric.diagnosis.evidence import worst_resource_query
from self_healing_fabric.errors import DecisionRefused, UnknownIncident
from self_healing_fabric.orchestration import diagnosis_verdicts
from self_healing_fabric.orchestration.diagnosis_verdicts import MAX_AGE, Calibrator, DiagnosisVerdict
from self_healing_fabric.store import Store, statements
from shf_queries.catalogue import MEMORY

NAMED = {
    "abstained": False,
    "lead": "db",
    "cause": {"service": "db", "pattern": "resource_exhaustion", "confidence": 0.6},
    "calibration": {"uncalibrated": 0.8},
}
ABSTAINED = NAMED | {"abstained": True, "cause": {"service": "cart", "pattern": "unknown", "confidence": 0.0}}
NOW = 1_800_000_000.0


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """An empty store of each kind."""
    if request.param == "sqlite":
        opened = Store(put_empty_store(tmp_path))
    else:
        opened = Store(request.getfixturevalue("postgresql_url"))
    yield opened
    opened.close()


def diagnosed(store: Store, diagnosis: Any = NAMED, name: str = "one") -> str:
    """An incident with this diagnosis."""
    row = {
        "id": name,
        "subject": name,
        "service": "cart",
        "known_service": True,
        "title": "",
        "severity": "critical",
        "state": "resolved",
        "opened_at": NOW,
        "updated_at": NOW,
        "plan": [],
        "diagnosis": diagnosis,
    }
    store.write(lambda connection: statements.insert_incidents(connection, [row]))
    return name


def give(store: Store, name: str, *said: Any, by: str = "ada", at: float = NOW) -> Any:
    """A person's verdict; what is stored then."""
    verdict = DiagnosisVerdict(*said)
    diagnosis_verdicts.give(store, name, verdict, by=by, reason="seen in the log", now=at)
    return store.read(lambda connection: statements.diagnosis_verdict(connection, name))


@pytest.mark.parametrize(
    ("said", "service_right", "pattern_right", "service", "pattern"),
    [
        ((True,), True, True, "db", "resource_exhaustion"),
        ((True, "db", Pattern.RESOURCE_EXHAUSTION), True, True, "db", "resource_exhaustion"),
        ((False,), False, None, None, None),
        ((False, "web"), False, None, "web", None),
        ((False, "web", Pattern.CODE_BUG), False, False, "web", "code_bug"),
        ((False, "web", Pattern.RESOURCE_EXHAUSTION), False, True, "web", "resource_exhaustion"),
        ((False, None, Pattern.CODE_BUG), True, False, "db", "code_bug"),
        ((False, "db"), True, False, "db", None),
        ((False, "db", Pattern.CODE_BUG), True, False, "db", "code_bug"),
    ],
)
def test_what_a_person_says_of_a_named_cause(
    store: Store, said: Any, service_right: bool, pattern_right: bool | None, service: Any, pattern: Any
) -> None:
    """Service and pattern are judged apart; learned from is the confidence before calibration."""
    row = give(store, diagnosed(store), *said)
    assert (row.service_right, row.pattern_right) == (service_right, pattern_right)
    assert (row.service, row.pattern) == (service, pattern)
    assert (row.named_service, row.named_pattern, row.confidence) == ("db", "resource_exhaustion", 0.8)
    assert (row.source, row.given_by, row.given_at) == ("person", "ada", NOW)
    (told,) = store.read(lambda connection: statements.timeline_of(connection, "one"))
    assert told.message.startswith("ada: the diagnosis was ")
    assert told.message.endswith(" seen in the log")


@pytest.mark.parametrize(("service", "right"), [("db", True), ("web", False)])
def test_of_a_cause_that_was_not_named_the_lead_is_judged(store: Store, service: str, right: bool) -> None:
    """The strongest lead was shown, so it can be right or wrong too."""
    row = give(store, diagnosed(store, ABSTAINED), False, service, Pattern.CODE_BUG)
    assert (row.service_right, row.pattern_right, row.named_service) == (right, None, "db")


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ((True, "db"), "it was in db."),
        ((False, "web"), "it was in web."),
        ((True, "db", Pattern.CODE_BUG), "it was code_bug in db."),
    ],
)
def test_who_names_the_cause_that_a_diagnosis_did_not_name_is_not_said_to_name_another_one(
    store: Store, said: Any, told: str
) -> None:
    """There was none that it could be something else than."""
    give(store, diagnosed(store, ABSTAINED), *said)
    (entry,) = store.read(lambda connection: statements.timeline_of(connection, "one"))
    assert entry.message == f"ada: the diagnosis named no cause; {told} seen in the log"


@pytest.mark.parametrize(
    ("diagnosis", "said", "told"),
    [
        (NAMED, (True, "web"), "not right if it was something else"),
        (NAMED, (True, None, Pattern.CODE_BUG), "not right if it was something else"),
        (NAMED, (False, "db", Pattern.RESOURCE_EXHAUSTION), "named just that"),
        (ABSTAINED, (True,), "say which service it was"),
        (ABSTAINED, (False, None, Pattern.CODE_BUG), "say which service it was"),
        (None, (True,), "has no diagnosis yet"),
    ],
)
def test_contradictions_are_refused(store: Store, diagnosis: Any, said: Any, told: str) -> None:
    """With the reason, and without a trace."""
    name = diagnosed(store, diagnosis)
    with pytest.raises(DecisionRefused, match=told):
        give(store, name, *said)
    assert store.read(lambda connection: statements.diagnosis_verdict(connection, name)) is None
    assert not store.read(lambda connection: statements.timeline_of(connection, name))


def test_of_no_incident_nothing_can_be_said(store: Store) -> None:
    """As for every decision."""
    with pytest.raises(UnknownIncident):
        give(store, "missing", True)


def test_the_same_again_is_told_once_and_another_one_replaces_it(store: Store) -> None:
    """A double click changes nothing; who thinks better of it is heard, and the timeline keeps both."""
    name = diagnosed(store)
    for _ in range(2):
        give(store, name, True)
    row = give(store, name, False, "web", by="bob", at=NOW + 60)
    assert (row.service_right, row.given_by) == (False, "bob")
    told = store.read(lambda connection: statements.timeline_of(connection, name))
    assert [entry.message.split(":")[0] for entry in told] == ["ada", "bob"]


def test_a_person_overrules_a_repair_and_not_the_other_way_round(store: Store) -> None:
    """Whatever comes first."""
    name = diagnosed(store)
    repair = {
        "incident_id": name,
        "source": "repair",
        "given_by": "restart",
        "given_at": NOW,
        "service_right": True,
        "pattern_right": None,
        "service": "db",
        "pattern": None,
        "named_service": "db",
        "named_pattern": "resource_exhaustion",
        "confidence": 0.8,
    }
    store.write(lambda connection: statements.put_diagnosis_verdict(connection, repair))
    assert give(store, name, False).source == "person"
    store.write(lambda connection: statements.put_diagnosis_verdict(connection, repair))
    row = store.read(lambda connection: statements.diagnosis_verdict(connection, name))
    assert (row.source, row.service_right) == ("person", False)


def test_confidence_learns_from_verdicts(store: Store) -> None:
    """Told that it is mostly wrong at 0.8, it says less; it reads what others gave within a minute."""
    calibrator = Calibrator(store)
    assert calibrator.calibration(NOW).apply(0.8) == 0.8
    for number in range(40):
        give(store, diagnosed(store, name=f"i{number}"), number % 4 == 0)
    assert calibrator.calibration(NOW + MAX_AGE - 1).verdicts == 0
    learned = calibrator.calibration(NOW + MAX_AGE)
    assert learned.verdicts == 40
    assert learned.apply(0.8) < 0.5


def test_what_was_given_here_counts_at_once(store: Store) -> None:
    """The next diagnosis of the process that took the verdict."""
    calibrator = Calibrator(store)
    assert calibrator.calibration(NOW).verdicts == 0
    give(store, diagnosed(store), True)
    calibrator.forget()
    assert calibrator.calibration(NOW).verdicts == 1


def test_a_clock_that_was_set_back_does_not_keep_old_verdicts(store: Store) -> None:
    """It reads again."""
    calibrator = Calibrator(store)
    calibrator.calibration(NOW)
    give(store, diagnosed(store), True)
    assert calibrator.calibration(NOW - 3600).verdicts == 1


def test_a_repair_counts_less_than_a_person(store: Store) -> None:
    """A fifth."""
    weights = diagnosis_verdicts.WEIGHTS
    assert weights["repair"] < weights["person"] / 2


def test_a_diagnosis_of_an_older_version_can_be_judged(store: Store) -> None:
    """It holds no calibration: its confidence was the one before it."""
    old = {"cause": {"service": "cart", "pattern": "code_bug", "confidence": 0.4}}
    row = give(store, diagnosed(store, old), True)
    assert (row.service_right, row.confidence) == (True, 0.4)


def out_of_memory(world: Any) -> None:
    """An alert of a service that fell silent with its memory full: the cause is named."""
    world.silent()
    world.prometheus.set(worst_resource_query(MEMORY, "cart"), 0.99)
    world.receive(world.alert())


def test_a_verified_repair_is_a_weak_verdict(world: Any) -> None:
    """Restarted, and proved healed: right, as far as that tells."""
    out_of_memory(world)
    world.target.on_restart = world.healthy
    world.run(seconds=15)
    (row,) = world.context.store.read(lambda connection: statements.newest_diagnosis_verdicts(connection, 9))
    assert (row.source, row.given_by, row.service_right, row.service) == ("repair", "restart", True, "cart")
    diagnosis = world.incident().diagnosis
    assert row.confidence == diagnosis["calibration"]["uncalibrated"] > 0


def test_a_repair_in_vain_is_one_too(world: Any) -> None:
    """Restarted, and proved not to have helped: wrong, as far as that tells."""
    out_of_memory(world)
    world.run(seconds=70)
    (row,) = world.context.store.read(lambda connection: statements.newest_diagnosis_verdicts(connection, 9))
    assert (row.service_right, row.service) == (False, None)


def test_a_recovery_by_itself_says_nothing(world: Any) -> None:
    """Nothing was repaired, so nothing was learned about the cause."""
    world.silent()
    world.receive(world.alert())
    world.healthy()
    world.run(seconds=30)
    assert world.target.restarts == []
    assert not world.context.store.read(
        lambda connection: statements.newest_diagnosis_verdicts(connection, 9)
    )


def test_the_next_diagnosis_is_corrected(world: Any) -> None:
    """The wiring from the store to the step: what people said lowers what is stored of the next incident."""
    for number in range(30):
        values = {"incident_id": f"old{number}", "source": "person", "given_by": "ada", "given_at": NOW}
        judged = diagnosis_verdicts._judged(NAMED, DiagnosisVerdict(False, "web"))
        world.context.store.write(lambda c, row=values | judged: statements.put_diagnosis_verdict(c, row))
    out_of_memory(world)
    world.run(seconds=1)
    diagnosis = world.incident_of("cart").diagnosis
    assert diagnosis["calibration"]["verdicts"] == 30
    assert diagnosis["cause"]["confidence"] < diagnosis["calibration"]["uncalibrated"]
