"""The levels: one up at a time, each with its names and deadline, and the last one is the end."""

from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from self_healing_fabric.escalation.calls import Call
from self_healing_fabric.escalation.channels import channels
from self_healing_fabric.escalation.levels import LAST_LEVEL, rise
from self_healing_fabric.incidents.lifecycle import State
from self_healing_fabric.incidents.models import Incident
from self_healing_fabric.settings import DEFAULT_LEVELS, EscalationSettings, LevelSettings

INCIDENT = Incident(
    id="i1",
    subject="service/cart",
    service="cart",
    known_service=True,
    title="t",
    severity="critical",
    signal="heartbeat",
    state=State.ESCALATED,
    outcome=None,
    failure_class=None,
    pattern=None,
    confidence=None,
    level=0,
    level_due_at=None,
    acknowledged_by=None,
    approved_by=None,
    opened_at=1.0,
    updated_at=1.0,
    resolved_at=None,
    closed_at=None,
    due_at=None,
    epoch=0,
    waiting_for=None,
    waiting_since=None,
    relapses=0,
    faults=0,
    plan=(),
    diagnosis=None,
    verification=None,
    merged_into=None,
    split_from=None,
)


@pytest.mark.parametrize("level", range(LAST_LEVEL))
def test_a_rise_is_one_level_and_calls_whom_it_names(level: int) -> None:
    """The call tells incident, level, whom and why; the next deadline is that of the new level."""
    step = rise(replace(INCIDENT, level=level), EscalationSettings(), reason="not healed", now=100.0)
    configured = DEFAULT_LEVELS[level + 1]
    assert step is not None
    assert step.call == Call("i1", "cart", level + 1, configured.name, configured.call, "not healed")
    assert step.due_at == (None if level + 1 == LAST_LEVEL else 400.0)


def test_there_is_nothing_above_the_last_level() -> None:
    """Everyone was called already."""
    assert rise(replace(INCIDENT, level=LAST_LEVEL), EscalationSettings(), reason="r", now=1.0) is None


def test_the_deadline_is_the_configured_one_of_the_new_level() -> None:
    """Levels may wait for different times."""
    levels = tuple(LevelSettings(name=f"l{number}", deadline=10.0 * (number + 1)) for number in range(5))
    step = rise(INCIDENT, EscalationSettings(levels=levels), reason="r", now=100.0)
    assert step is not None
    assert step.due_at == 120.0


def test_the_shipped_levels_are_five_and_end_with_a_human() -> None:
    """Level 0 calls nobody; the last one calls everyone and a human."""
    assert len(DEFAULT_LEVELS) == LAST_LEVEL + 1
    assert DEFAULT_LEVELS[0].call == ()
    assert DEFAULT_LEVELS[-1].call == ("all guardians", "human")


def test_the_log_always_hears_of_a_call() -> None:
    """A log pipeline can page on the event `escalated`."""
    call = Call("i1", "cart", 1, "execution orchestrator", ("guardian-five",), "not healed")
    with capture_logs() as lines:
        for channel in channels():
            channel.send(call)
    (line,) = lines
    assert (line["event"], line["log_level"], line["incident"]) == ("escalated", "warning", "i1")
    assert (line["level"], line["called"], line["reason"]) == (1, ["guardian-five"], "not healed")
