"""Rules over stretches: what they remember of themselves, and whose samples are whose.

That expressions give what Prometheus gives is tried on a real one:
tests/e2e/test_evaluation_on_prometheus.py.
"""

from __future__ import annotations

import numpy as np
import pytest

from shf_queries.evaluation import Evaluator, Grid, RecordingRule, Recordings, Vector
from shf_queries.parsing import NotReplayable, Selector, parse

NAN = float("nan")
GRID = Grid(5.0, 100, 107)
NEXT = Grid(5.0, 108, 111)
CART = (("service", "cart"),)
TIMES = [*GRID.times, *NEXT.times]


def sourced(**series: list[float]) -> Evaluator:
    """Evaluates rules over raw series of the service cart, whose values begin at GRID's first evaluation."""

    def source(query: str, grid: Grid) -> Vector:
        values = np.array(series[query])[grid.first - GRID.first :][: len(grid)]
        return {} if np.all(np.isnan(values)) else {CART: values}

    return Evaluator(Recordings(), source)


def recorded(evaluator: Evaluator, rule: RecordingRule, *grids: Grid) -> list[float]:
    for grid in grids:
        evaluator.record(rule, "0", grid)
    found = evaluator.vector(parse(rule.name), Grid(5.0, grids[0].first, grids[-1].last))
    return [None if np.isnan(value) else float(value) for value in found.get(CART, [])]  # type: ignore[misc]


def test_a_rule_that_reads_a_range_of_itself_remembers_while_its_condition_holds() -> None:
    """As `target:shf_probe:seen` does; from one stretch to the next too."""
    seen = RecordingRule("seen", "probe or last_over_time(seen[1h]) and up", 5.0)
    evaluator = sourced(probe=[NAN, 1] + 10 * [NAN], up=[1, 1, 1, 0, NAN] + 7 * [1])
    assert recorded(evaluator, seen, GRID, NEXT) == [None, 1, 1, 1, None, 1, 1, 1, 1, 1, 1, 1]


def test_a_rule_that_reads_its_newest_value_keeps_it() -> None:
    """As the time of a service's last answer does: it stands while the service is watched."""
    rule = RecordingRule("at", "answered or at and up or now", 5.0)
    answered = [NAN, NAN, 510, 515, NAN, NAN, 530, NAN, NAN, NAN, NAN, NAN]
    evaluator = sourced(answered=answered, up=12 * [0.0], now=TIMES)
    assert recorded(evaluator, rule, GRID, NEXT) == [
        500,
        500,
        510,
        515,
        515,
        515,
        530,
        530,
        530,
        530,
        530,
        530,
    ]


def test_what_never_was_counts_from_when_it_was_first_seen() -> None:
    rule = RecordingRule("at", "answered or at and up or now", 5.0)
    evaluator = sourced(answered=12 * [NAN], up=[NAN, NAN] + 10 * [0.0], now=[NAN, NAN, *TIMES[2:]])
    assert recorded(evaluator, rule, GRID, NEXT) == [None, None] + 10 * [510]


@pytest.mark.parametrize("expression", ["up + own", "own or up", "max_over_time(own[1h]) or up"])
def test_other_ways_of_reading_oneself_are_refused(expression: str) -> None:
    with pytest.raises(NotReplayable):
        recorded(sourced(up=12 * [1.0]), RecordingRule("own", expression, 5.0), GRID)


def test_a_slower_rule_keeps_its_value_for_a_faster_reader() -> None:
    evaluator = sourced(up=[1, 2, 3, 4, 5, 6, 7, 8])
    evaluator.record(RecordingRule("fast", "up", 5.0), "0", GRID)
    evaluator.record(RecordingRule("slow", "fast", 20.0), "1", Grid(20.0, 25, 26))
    found = evaluator.vector(parse("slow"), GRID)[CART]
    assert found.tolist() == [1, 1, 1, 1, 5, 5, 5, 5]


def test_what_a_rule_gave_before_is_replaced_and_others_are_not() -> None:
    """A stretch may be evaluated again; several rules record one name."""
    recordings = Recordings()
    one, other = np.ones(len(GRID)), np.full(len(GRID), 2.0)
    recordings.put("x", "0", GRID, {CART: one, (("service", "pay"),): one})
    recordings.put("x", "1", GRID, {(("service", "mail"),): other})
    recordings.put("x", "0", GRID, {CART: other})
    found = recordings.instant(Selector("x"), at=GRID.last * 5.0 + 4.9)
    assert {sample.labels["service"]: sample.value for sample in found} == {"cart": 2.0, "mail": 2.0}
    assert recordings.instant(Selector("x"), at=GRID.last * 5.0 + 5.1) == ()


def test_what_is_forgotten_is_gone_and_the_rest_stays() -> None:
    recordings = Recordings({"y"})
    recordings.put("x", "0", GRID, {CART: np.arange(8.0)})
    recordings.forget(105 * 5.0)
    (series,) = recordings.raw(Selector("x", window=1000.0), at=1000.0)
    assert (series.times.tolist(), series.values.tolist()) == ([525.0, 530.0, 535.0], [5.0, 6.0, 7.0])
    assert recordings.names == {"x", "y"}
