"""Every guardrail is tripped, and closed for every kind of doubt; one that is added belongs here too."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from self_healing_fabric import guardrails
from self_healing_fabric.errors import StoreUnavailable
from self_healing_fabric.guardrails import Measured, Proposal, Refusal, mode
from self_healing_fabric.orchestration.steps.recovering import _measured
from self_healing_fabric.settings import Mode, Settings
from self_healing_fabric.store import Store, statements
from self_healing_fabric.telemetry import GUARDRAILS
from shf_queries import PartialResult, PrometheusUnavailable, QueryError, Sample

NOW = 1_795_990_400.0  # 2026-11-29T22:13:20+00:00
WINDOW = {"start": "2026-11-29T22:00:00Z", "end": "2026-11-29T23:00:00Z"}
QUERY = "sum(rollouts)"
Acted = Callable[..., None]


@dataclass(frozen=True)
class Case:
    """What makes a guardrail refuse: settings of the guardrails, what was measured, what was done before."""

    limits: dict[str, Any] = field(default_factory=dict)
    measured: Measured = field(default_factory=Measured)
    before: tuple[dict[str, Any], ...] = ()  # actions on docker:cart, announced an hour ago
    service: str = "cart"
    paused: bool = False


FREE = {"cooldown": 0, "fleet": {"storm": 5, "targets": 5, "at_once": 5}}
TRIPS = {
    "mode": Case(paused=True),
    "maintenance": Case({"maintenance": [WINDOW]}),
    "storm": Case({"fleet": {"storm": 0}}),
    "one_at_a_time": Case(before=({"status": "started"},)),
    "fleet_at_once": Case(
        {"fleet": {"storm": 5, "at_once": 1}}, before=({"status": "intended"},), service="db"
    ),
    "max_failures": Case({"max_failures": 1}, before=({"verdict": "not_healed"},)),
    "max_heals": Case({"max_heals": 1}, before=({"verdict": "healed"},)),
    "max_actions": Case({"max_actions": 1, "per": "2h"}, before=({},)),
    "cooldown": Case({"cooldown": "2h"}, before=({},)),
    "fleet_targets": Case({"fleet": {"storm": 5, "targets": 1, "within": "2h"}}, before=({},), service="db"),
    "deploying": Case({"deploying": QUERY}, Measured(deploying=1.0)),
    "min_healthy": Case({"min_healthy": 2}, Measured(answering=1.0)),
    "boundary": Case(measured=Measured(refused=Refusal("boundary", "the program around it says no"))),
}
# Of these, one knows its configuration alone; the other's doubts are in test_outside.
READING = [name for name in GUARDRAILS if name not in ("maintenance", "boundary")]


def ask(store: Store, acted: Acted, case: Case, target: str | None = None) -> Refusal | None:
    """Do the guardrails let the service be restarted?"""
    for number, columns in enumerate(case.before):
        acted(NOW - 3600.0 - number, **columns)
    if case.paused:
        store.write(lambda connection: mode.change(connection, Mode.PAUSED, by="ada", now=NOW))
    settings = Settings(
        services={"cart": {}, "db": {}},  # type: ignore[dict-item]
        guardrails={**FREE, **case.limits},  # type: ignore[arg-type]
    )
    name = f"docker:{case.service}" if target is None else target
    proposal = Proposal(case.service, "restart", name, True, NOW, measured=case.measured)
    return store.write(lambda connection: guardrails.check(connection, proposal, settings))


def test_there_is_a_case_for_each() -> None:
    """In the order in which they are asked, which is that of the metrics too."""
    assert tuple(TRIPS) == GUARDRAILS
    assert len(guardrails.GUARDRAILS) == len(GUARDRAILS) - 1, "the boundary is asked before the others"


def test_without_a_reason_none_refuses(store: Store, acted: Acted) -> None:
    """What follows is tripped by what each case sets, and by nothing else."""
    assert ask(store, acted, Case()) is None


@pytest.mark.parametrize("name", GUARDRAILS)
def test_each_refuses_under_its_own_name(store: Store, acted: Acted, name: str) -> None:
    """And gives a reason that a person can read."""
    refusal = ask(store, acted, TRIPS[name])
    assert refusal is not None
    assert (refusal.guardrail, len(refusal.reason) > 10) == (name, True)


@pytest.mark.parametrize("name", READING)
def test_each_is_closed_when_what_it_reads_cannot_be_read(store: Store, acted: Acted, name: str) -> None:
    """Without the tables, or without the number that is measured, nothing is allowed."""
    if name in ("deploying", "min_healthy"):
        refusal = ask(store, acted, Case(TRIPS[name].limits, Measured()))
        assert refusal is not None
        assert refusal.guardrail == name
        return
    table = {"mode": "controls", "storm": "incidents"}.get(name, "actions")
    ask(store, acted, Case(before=TRIPS[name].before))
    store.write(lambda c: c.exec_driver_sql(f"ALTER TABLE {table} RENAME TO gone") and None)
    with pytest.raises(StoreUnavailable):
        ask(store, acted, Case(TRIPS[name].limits))


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf, -1.0])
@pytest.mark.parametrize("name", ["deploying", "min_healthy"])
def test_a_number_that_makes_no_sense_is_no_permission(
    store: Store, acted: Acted, name: str, value: float | None
) -> None:
    """Nor is one below zero: nobody knows what the query counts then."""
    measured = Measured(deploying=value) if name == "deploying" else Measured(answering=value)
    refusal = ask(store, acted, Case(TRIPS[name].limits, measured))
    assert refusal is not None
    assert refusal.guardrail == name


def test_a_target_without_a_name_is_refused(store: Store, acted: Acted) -> None:
    """What cannot be counted cannot be bounded."""
    refusal = ask(store, acted, Case(), target="")
    assert refusal is not None
    assert refusal.guardrail == "one_at_a_time"


def test_a_service_that_nobody_has_configured_has_the_bounds_of_all(store: Store, acted: Acted) -> None:
    """Not none."""
    case = TRIPS["max_actions"]
    refusal = ask(store, acted, Case(case.limits, before=case.before, service="stranger"), "docker:cart")
    assert refusal is not None
    assert refusal.guardrail == "max_actions"


@pytest.mark.parametrize(
    "answer",
    [
        QueryError("bad query"),
        PrometheusUnavailable("connection refused"),
        PartialResult("a store is away"),
        (),
        (Sample({"a": "1"}, NOW, 0.0), Sample({"a": "2"}, NOW, 0.0)),
        (Sample({}, NOW, math.nan),),
    ],
    ids=["query error", "away", "partial", "nothing", "more than one", "NaN"],
)
@pytest.mark.parametrize("name", ["deploying", "min_healthy"])
def test_an_answer_of_prometheus_that_is_no_number_is_no_permission(
    store: Store, acted: Acted, name: str, answer: Any
) -> None:
    """A query that fails, a selector that matches none, or more than what was meant."""

    def instant(_: str, at: float) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    limits = TRIPS[name].limits
    settings = Settings(services={"cart": {}}, guardrails=limits)  # type: ignore[dict-item,arg-type]
    context: Any = SimpleNamespace(
        settings=settings, prometheus=SimpleNamespace(instant=instant), clock=lambda: NOW
    )
    refusal = ask(store, acted, Case(limits, _measured(context, "cart", "restart")))
    assert refusal is not None
    assert refusal.guardrail == name


def test_a_storm_whose_note_cannot_be_understood_stays_a_storm(store: Store, acted: Acted) -> None:
    """The time counts, and one that lies in the future counts too; what else stands there does not matter."""
    store.write(
        lambda c: statements.set_control(c, name="storm", value="\x00?", by="somebody", now=NOW + 10_000)
    )
    refusal = ask(store, acted, Case())
    assert refusal is not None
    assert refusal.guardrail == "storm"
