"""What is computed over recorded series here, and by Prometheus over the same samples, is the same."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest

from past_prometheus import past_prometheus
from shf_queries import PrometheusClient
from shf_queries.evaluation import Evaluator, Grid, Recordings, Vector
from shf_queries.parsing import parse

pytestmark = pytest.mark.e2e

STEP, COUNT = 5.0, 240
FIRST = 359_000_000  # the number of the first sample: times are multiples of the step
NAMES = ("level", "other", "limit")

EXPRESSIONS = (
    "level > 3",
    "level > bool 3",
    "1 - level",
    "level * 2 + 1 ^ 2 ^ 0.5",
    "-level ^ 2",
    "level / other",
    'level{service="a"} % 3',
    'level{service!~"a|b"}',
    'level{kind="x"} - on (service) other{kind="x"}',
    "level > on (service) group_left () limit",
    "limit < on (service) group_right () level",
    "level / on (service) group_left (zone) limit",
    "level and other > 5",
    "level unless on (service) (other > 5)",
    "other > 5 or level",
    'level{kind="x"} or on (service) other',
    "max by (service) (level)",
    "sum(level) without (kind)",
    "avg by (kind) (level)",
    "count(level == 0) or vector(0)",
    "min(level)",
    "group by (service) (level)",
    "last_over_time(other[32s])",
    "max_over_time(level[32s]) - min_over_time(level[17s])",
    "avg_over_time(level[61s])",
    "60 * sum_over_time(level[47s])",
    "count_over_time(other[33s]) >= 3",
    "quantile_over_time(0.5, level[2m1s] offset 30s)",
    "resets(level[3m1s])",
    "changes(level[1m1s])",
    "present_over_time(other[13s])",
    "level offset 25s",
    "timestamp(level)",
    "time() - level",
    'label_replace(level, "name", "$1-$$", "service", "(.).*")',
    'label_replace(level, "kind", "", "kind", "x")',
    'label_join(level, "both", ";", "service", "kind")',
    "clamp_max(round(level / 3), 2)",
    'sum by (service) (level{kind="x"} and on (service) limit) or 0 * max by (service) (other)',
)


def samples() -> dict[str, Vector]:
    """Series with gaps, resets and zeros; whole numbers, so that sums have one value only."""
    steps = np.arange(COUNT)
    level = np.mod(steps, 11.0)
    gappy = np.where((steps % 37 < 9) | (steps > 200), np.nan, np.mod(steps * 3.0, 13.0))
    four, late = np.full(COUNT, 4.0), np.where(steps > 90, level, np.nan)
    levels = {("a", "x"): level, ("a", "y"): np.mod(level * 2, 7), ("b", "x"): late}
    return {
        "level": {(("kind", kind), ("service", name)): values for (name, kind), values in levels.items()},
        "other": {(("kind", "x"), ("service", "a")): gappy, (("kind", "x"), ("service", "c")): level + 1},
        "limit": {(("service", "a"), ("zone", "n")): four, (("service", "b"), ("zone", "s")): level},
    }


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrometheusClient]:
    """A Prometheus that holds these samples. Where a series pauses, it is gone at once, as a rule's is."""
    lines = []
    for name, vector in samples().items():
        lines.append(f"# TYPE {name} gauge")
        for labels, values in vector.items():
            told = ",".join(f'{label}="{value}"' for label, value in labels)
            lines += [
                f"{name}{{{told}}} {value} {(FIRST + n) * STEP}"
                for n, value in enumerate(values)
                if not math.isnan(value)
            ]
    with past_prometheus(tmp_path_factory.mktemp("evaluation"), lines, lookback=4) as url:
        client = PrometheusClient(url)
        yield client
        client.close()


def _asked_of_prometheus(client: PrometheusClient, query: str, grid: Grid) -> Vector:
    times = grid.times
    found: Vector = {}
    for series in client.range(query, start=times[0], end=times[-1], step=grid.interval):
        labels = tuple(sorted((name, value) for name, value in series.labels.items() if name != "__name__"))
        values = found.setdefault(labels, np.full(len(grid), np.nan))
        values[np.round(series.times / grid.interval).astype(int) - grid.first] = series.values
    return {labels: values for labels, values in found.items() if not np.all(np.isnan(values))}


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_a_rule_gives_what_prometheus_gives(prometheus: PrometheusClient, expression: str) -> None:
    """At every evaluation, to the last digit but rounding."""
    recordings, whole = Recordings(), Grid(STEP, FIRST, FIRST + COUNT - 1)
    for name, vector in samples().items():
        recordings.put(name, "test", whole, vector)

    def nothing(query: str, grid: Grid) -> Vector:
        raise AssertionError(f"{query} reads recorded series only")

    grid = Grid(STEP, FIRST + 70, FIRST + COUNT - 1)
    computed = Evaluator(recordings, nothing).vector(parse(expression), grid)
    expected = _asked_of_prometheus(prometheus, expression, grid)
    assert computed.keys() == expected.keys()
    for labels, values in expected.items():
        np.testing.assert_allclose(computed[labels], values, rtol=1e-12, err_msg=f"{labels}")
