"""The state machine: every way leads to an end, and the end is one."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from self_healing_fabric.incidents.lifecycle import TRANSITIONS, IllegalTransition, State, check_transition
from self_healing_fabric.orchestration.steps import STEPS

STATES = st.sampled_from(State)
PEOPLE = State.ESCALATED


def reachable(start: State) -> set[State]:
    """All states that can follow, directly or not."""
    seen: set[State] = set()
    waiting = [start]
    while waiting:
        for state in TRANSITIONS[waiting.pop()]:
            if state not in seen:
                seen.add(state)
                waiting.append(state)
    return seen


@given(STATES, STATES)
def test_only_the_drawn_ways_are_allowed(old: State, new: State) -> None:
    """Staying is always allowed; any other way must be in the table."""
    if new == old or new in TRANSITIONS[old]:
        check_transition(old, new)
    else:
        with pytest.raises(IllegalTransition, match=f"from {old} to {new}"):
            check_transition(old, new)


def test_every_state_can_be_reached_from_the_first() -> None:
    """There is no state that no incident can be in."""
    assert reachable(State.DETECTED) | {State.DETECTED} == set(State)


def test_closed_is_the_only_end_and_can_always_be_reached() -> None:
    """A closed incident never changes again, and no other state is a trap."""
    assert TRANSITIONS[State.CLOSED] == frozenset()
    for state in set(State) - {State.CLOSED}:
        assert State.CLOSED in TRANSITIONS[state], f"a person cannot close what is {state}"
        assert State.CLOSED in reachable(state)


def test_people_can_be_called_from_everywhere() -> None:
    """Each state that is neither closed nor escalated already can be escalated."""
    for state in set(State) - {State.CLOSED, PEOPLE}:
        assert PEOPLE in TRANSITIONS[state], state


def test_nothing_is_resolved_without_having_been_watched() -> None:
    """Only verifying and escalated, which look at fresh samples, lead to resolved."""
    ways = {state for state in State if State.RESOLVED in TRANSITIONS[state]}
    assert ways == {State.VERIFYING, State.ESCALATED}


def test_the_way_of_a_repair_and_of_a_relapse_are_drawn() -> None:
    """The product's main way, with approval and with a relapse, passes the check."""
    main = [State.DETECTED, State.DIAGNOSING, State.RECOVERING, State.VERIFYING, State.RESOLVED, State.CLOSED]
    asked = [State.RECOVERING, State.AWAITING_APPROVAL, State.RECOVERING]
    relapse = [State.RESOLVED, State.DIAGNOSING]
    for way in (main, asked, relapse):
        for old, new in pairwise(way):
            check_transition(old, new)


def test_every_state_but_the_last_has_a_step() -> None:
    """An incident that is due always has something to do."""
    assert set(STEPS) == set(State) - {State.CLOSED}
