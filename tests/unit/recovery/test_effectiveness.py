"""Success rates with their intervals: known values, properties, and when an order changes."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from self_healing_fabric.recovery.effectiveness import ENOUGH, NEWEST, Attempt, Record, ordered, records_of


@pytest.mark.parametrize(
    ("tried", "healed", "lower", "upper"),
    [(10, 5, 0.2693, 0.7307), (5, 5, 0.6489, 1.0), (5, 0, 0.0, 0.3511), (0, 0, 0.0, 1.0)],
)
def test_the_interval_is_wilsons(tried: int, healed: int, lower: float, upper: float) -> None:
    """Values of the formula by hand; nothing tried is nothing known."""
    record = Record(tried, healed)
    assert record.lower == pytest.approx(lower, abs=1e-4)
    assert record.upper == pytest.approx(upper, abs=1e-4)


@given(st.integers(1, 200).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))))
def test_the_interval_holds_the_rate_and_narrows(counts: tuple[int, int]) -> None:
    """More of the same makes it narrower, never wider."""
    tried, healed = counts
    record, more = Record(tried, healed), Record(tried * 4, healed * 4)
    assert 0.0 <= record.lower <= healed / tried + 1e-9
    assert healed / tried - 1e-9 <= record.upper <= 1.0
    assert more.upper - more.lower <= record.upper - record.lower + 1e-12


def test_only_the_newest_attempts_count() -> None:
    """A strategy that worked for a year and stopped is demoted by its newest failures."""
    stopped = [Attempt("restart", "code_bug", "not_healed")] * NEWEST
    worked = [Attempt("restart", "code_bug", "healed")] * 100
    assert records_of([*stopped, *worked], "code_bug")["restart"] == Record(NEWEST, 0)


def test_attempts_without_evidence_do_not_count() -> None:
    """Nobody saw whether it healed."""
    assert records_of([Attempt("restart", None, "no_evidence")], None) == {}


def test_attempts_with_the_same_pattern_count_alone_when_there_are_enough() -> None:
    """A restart heals a leak and not a bad image: what was seen of the one says little of the other."""
    leaks = [Attempt("restart", "resource_exhaustion", "healed")] * ENOUGH
    others = [Attempt("restart", "configuration_error", "relapsed")] * 9
    assert records_of([*others, *leaks], "resource_exhaustion")["restart"] == Record(ENOUGH, ENOUGH)
    assert records_of([*others, *leaks[1:]], "resource_exhaustion")["restart"] == Record(13, 4)


names = st.lists(st.sampled_from("abcdef"), unique=True)
records = st.dictionaries(
    st.sampled_from("abcdef"),
    st.integers(0, 30).flatmap(lambda n: st.builds(Record, st.just(n), st.integers(0, n))),
)


@given(names, records)
def test_ordering_loses_nothing_and_moves_only_what_is_certainly_better(
    strategies: list[str], known: dict[str, Record]
) -> None:
    """Whoever overtakes another has an interval wholly above that of the one it stands before."""
    found = ordered(strategies, known)
    assert sorted(found) == sorted(strategies)
    for first, second in itertools.pairwise(found):
        if strategies.index(first) > strategies.index(second):
            upper = known.get(second, Record()).upper
            assert known.get(first, Record()).lower > upper
