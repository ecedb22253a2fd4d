"""SIGKILL at every named point of the state machine: nothing is lost, and nothing is done twice.

The processes, the store's file and the target are real; only time and Prometheus are ours. How a failed story
is told once more by itself: see `jobs_for` with the point and the seed that the failure names.
"""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from crew import Crew, Report, Told, assert_well_told
from plans import SEEDS, Reached, hand_over, points_asked_for
from points import POINTS, PRECEDED, STAYING, STOPPING, UNREACHED, WAYS
from stories import STORIES

from self_healing_fabric.incidents.lifecycle import TRANSITIONS


@pytest.fixture(scope="module")
def told(request: pytest.FixtureRequest, crew: Crew, reached: Reached) -> Told:
    """The stories of all points that this run asks for, all handed over at once: no core waits for a test."""
    return hand_over(crew, points_asked_for(request), range(SEEDS), reached)


def test_every_way_of_the_state_machine_is_a_point_or_has_a_reason() -> None:
    """A way that is added to the table gets its points at once; one that no story goes is named, and why."""
    table = {f"{old}->{new}" for old, ways in TRANSITIONS.items() for new in ways}
    stays = {f"{state}->{state}" for state in STAYING}
    assert set(WAYS) - stays == table - set(UNREACHED)
    assert set(UNREACHED) <= table
    assert all(UNREACHED.values())


def test_stories_come_by_every_point(reached: Reached) -> None:
    """No point is only a name: without any death the stories come by all that do not need one."""
    come_by = {point for counts in reached.values() for point, count in counts.items() if count}
    assert set(POINTS) - come_by == set(PRECEDED) | STOPPING


def test_stories_go_no_way_that_is_said_to_be_closed(undisturbed: Mapping[str, Report]) -> None:
    """Undisturbed, every story comes to its end with the effects that it demands."""
    assert undisturbed.keys() == set(STORIES)
    assert [problem for report in undisturbed.values() for problem in report["problems"]] == []


@pytest.mark.parametrize("point", POINTS)
def test_killed_at(point: str, told: Told) -> None:
    """Killed there, and perhaps again: every alert ends in an incident, every repair is done at most once."""
    assert_well_told(told[point])


def test_matrix_has_teeth(crew: Crew, told: Told) -> None:
    """The matrix really kills, and also while the answer of a target that cannot tell is on its way."""
    for futures in told.values():
        for future in futures:
            future.result()
    assert crew.counts["kills"] >= len(told) * SEEDS
    if len(told) == len(POINTS):
        assert crew.counts["indeterminate"] > 0
