"""Rules over a stretch of history, each evaluated once: recorded series as arrays.

The history of a recording rule begins when the rule is loaded. Replacing the names of recorded series by
their expressions, so that Prometheus computes them from what was scraped, is right and useless: the shipped
latency alert becomes 160 kB of PromQL with every rate in it a hundred times (measured: half a day of three
services had not ended after 7 min). So the work is divided. Whatever reads raw series only is asked of
Prometheus, once, as it is written in the rule. What joins, compares and averages recorded series is computed
here, on arrays that hold one value for each evaluation; a NaN is no sample. It is the same language
(https://prometheus.io/docs/prometheus/latest/querying/), as far as it is needed above recorded series; a rule
that needs more of it is refused with a sentence, never guessed at.

Time is the number of an evaluation: `n` stands for the time n * interval of the rule's group. A rule that
reads one of another interval reads the newest value. Windows are open at their beginning, as in Prometheus 3.

A rule that reads what it recorded itself depends on every evaluation before. Two forms are known, those of
which the shipped rules are made:

    last_over_time(name[1h])   what the rest of the rule gave last, however long ago
    first or name or last      the newest of `first`; where there was none yet, the oldest of `last`
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from shf_queries.parsing import (
    Aggregation,
    Binary,
    Call,
    Matcher,
    Node,
    NotReplayable,
    Number,
    Selector,
    Text,
    parse,
    selectors,
)
from shf_queries.results import FloatArray, Sample, Series

MOST_CELLS = 1_000_000  # of windows that are laid out at once: 8 MB

Labels = tuple[tuple[str, str], ...]  # sorted, without the name
Mask = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.int64]
Vector = dict[Labels, FloatArray]
Value = Vector | FloatArray | str


@dataclass(frozen=True)
class Grid:
    """The evaluations `first` to `last`, every `interval` seconds; evaluation n is at n * interval."""

    interval: float
    first: int
    last: int

    @property
    def times(self) -> FloatArray:
        """Of the evaluations, in seconds since 1970."""
        return np.arange(self.first, self.last + 1, dtype=np.float64) * self.interval

    def __len__(self) -> int:
        return self.last - self.first + 1


class Source(Protocol):
    """Evaluates what reads raw series only."""

    def __call__(self, query: str, grid: Grid) -> Vector:
        """The query's vector at each evaluation."""
        ...


@dataclass(frozen=True)
class RecordingRule:
    """One rule: `interval` of its group in seconds, `labels` that it sets."""

    name: str
    expression: str
    interval: float
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass
class _Kept:
    """A series as far as it is kept: `values[i]` is that of evaluation `first + i`."""

    interval: float
    first: int
    values: FloatArray

    def at(self, numbers: Numbers) -> FloatArray:
        """The values of these evaluations; NaN outside."""
        found = np.full(len(numbers), np.nan)
        index = numbers - self.first
        inside = (index >= 0) & (index < len(self.values))
        found[inside] = self.values[index[inside]]
        return found


class Recordings:
    """Recorded series of the last while. `names`: those that are known from the start, without a sample.

    Several rules may record one name; `owner` tells whose a series is, so that a rule that is evaluated again
    replaces its own.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._series: dict[str, dict[tuple[str, Labels], _Kept]] = {name: {} for name in names}

    @property
    def names(self) -> frozenset[str]:
        """Of all series that are known here, those without a sample included."""
        return frozenset(self._series)

    def put(self, name: str, owner: str, grid: Grid, vector: Mapping[Labels, FloatArray]) -> None:
        """Set the samples of these evaluations; the owner's other series have none there."""
        known = self._series.setdefault(name, {})
        others = {labels for whose, labels in known if whose == owner}
        for labels in {*others, *vector}:
            new = vector.get(labels, np.full(len(grid), np.nan))
            kept = known.get((owner, labels))
            before = np.empty(0) if kept is None else kept.at(np.arange(kept.first, grid.first))
            known[owner, labels] = _Kept(
                grid.interval, grid.first - len(before), np.concatenate([before, new])
            )

    def newest(self, name: str, owner: str, before: int) -> dict[Labels, float]:
        """The last sample of each of the owner's series before an evaluation, however old."""
        found = {}
        for (whose, labels), kept in self._series.get(name, {}).items():
            values = kept.values[: max(0, before - kept.first)]
            there = np.flatnonzero(~np.isnan(values))
            if whose == owner and there.size:
                found[labels] = float(values[there[-1]])
        return found

    def forget(self, before: float) -> None:
        """Drop what is older than this time, and series of which nothing is left."""
        for known in self._series.values():
            for key, kept in list(known.items()):
                drop = max(0, math.ceil(before / kept.interval) - kept.first)
                kept.values, kept.first = kept.values[drop:], kept.first + drop
                if not np.any(np.isfinite(kept.values)):
                    del known[key]

    def select(self, selector: Selector) -> list[tuple[str, Labels, _Kept]]:
        """The series that a selector means."""
        named = [each for each in selector.matchers if each.label == "__name__"]
        others = [each for each in selector.matchers if each.label != "__name__"]
        if selector.name is not None:
            names = [selector.name] if selector.name in self._series else []
        else:
            names = [name for name in sorted(self._series) if all(each.matches(name) for each in named)]
        return [
            (name, labels, kept)
            for name in names
            for (_, labels), kept in sorted(self._series[name].items(), key=lambda item: item[0])
            if _passes(labels, others)
        ]

    def reads(self, node: Node) -> bool:
        """Whether a query reads any of these series."""
        return any(self._knows(each) for each in selectors(node))

    def _knows(self, selector: Selector) -> bool:
        if selector.name is not None:
            return selector.name in self._series
        named = [each for each in selector.matchers if each.label == "__name__"]
        return bool(named) and any(all(each.matches(name) for each in named) for name in self._series)

    # Queries at one time, as the HTTP API answers them.

    def instant(self, selector: Selector, at: float) -> tuple[Sample, ...]:
        """The newest sample of each series, at most one evaluation old."""
        found = []
        for name, labels, kept in self.select(selector):
            value = float(kept.at(np.array([math.floor(at / kept.interval + 1e-9)]))[0])
            if not math.isnan(value):
                found.append(Sample({"__name__": name, **dict(labels)}, at, value))
        return tuple(found)

    def raw(self, selector: Selector, at: float) -> tuple[Series, ...]:
        """The samples in the selector's window before `at`, with their own times."""
        found = []
        for name, labels, kept in self.select(selector):
            last = math.floor(at / kept.interval + 1e-9)
            first = math.ceil((at - (selector.window or 0.0)) / kept.interval - 1e-9)
            window = Grid(kept.interval, first, last)
            found += _series_of(name, labels, window.times, kept.at(np.arange(first, last + 1)))
        return tuple(found)

    def over(self, selector: Selector, times: FloatArray) -> tuple[Series, ...]:
        """The newest sample of each series at each time."""
        found = []
        for name, labels, kept in self.select(selector):
            numbers = np.floor(times / kept.interval + 1e-9).astype(np.int64)
            found += _series_of(name, labels, times, kept.at(numbers))
        return tuple(found)


def _series_of(name: str, labels: Labels, times: FloatArray, values: FloatArray) -> list[Series]:
    there = ~np.isnan(values)
    if not np.any(there):
        return []
    return [Series({"__name__": name, **dict(labels)}, times[there], values[there])]


def _passes(labels: Labels, matchers: Iterable[Matcher]) -> bool:
    values = dict(labels)
    return all(each.matches(values.get(each.label, "")) for each in matchers)


class Evaluator:
    """Evaluates expressions over recorded series; what reads none is asked of `source`."""

    def __init__(self, recordings: Recordings, source: Source) -> None:
        self._recordings = recordings
        self._source = source
        self._own: tuple[str, Vector] | None = None  # a rule's name, and what it reads as its own series

    def record(self, rule: RecordingRule, owner: str, grid: Grid) -> None:
        """Evaluate a rule and keep what it gives. Raises NotReplayable and other QueryErrors."""
        node = parse(rule.expression)
        own = [each for each in selectors(node) if each.name == rule.name and _may_be(rule, each)]
        self._recordings.put(rule.name, owner, grid, {})
        if not own:
            vector = self.vector(node, grid)
        elif all(each.window is not None for each in own):
            vector = self._remembering(rule, owner, node, grid)
        else:
            vector = self._carrying_on(rule, owner, node, grid)
        self._recordings.put(rule.name, owner, grid, _labelled(vector, rule.labels))

    def _remembering(self, rule: RecordingRule, owner: str, node: Node, grid: Grid) -> Vector:
        """A rule that reads a range of its own series: what the rest of it gives, and that for ever after."""
        rest = _labelled(self._with_own(rule.name, {}, node, grid), rule.labels)
        carried = self._recordings.newest(rule.name, owner, grid.first)
        remembered = {}
        for labels in {*rest, *carried}:
            values = rest.get(labels, np.full(len(grid), np.nan)).copy()
            if labels in carried and math.isnan(values[0]):
                values[0] = carried[labels]
            remembered[labels] = _filled_forward(values)
        return self._with_own(rule.name, remembered, node, grid)

    def _carrying_on(self, rule: RecordingRule, owner: str, node: Node, grid: Grid) -> Vector:
        """A rule that reads its own newest value, as one of several alternatives."""
        operands = _alternatives(node)
        own = [
            number
            for number, operand in enumerate(operands)
            if any(each.name == rule.name and _may_be(rule, each) for each in selectors(operand))
        ]
        if len(own) != 1 or own[0] == 0:
            raise NotReplayable(f"{rule.name} reads its own series in a way that cannot be replayed")
        first = _labelled(self._either(operands[: own[0]], grid), rule.labels)
        last = _labelled(self._either(operands[own[0] + 1 :], grid), rule.labels)
        carried = self._recordings.newest(rule.name, owner, grid.first)
        newest = {}
        for labels in {*first, *last, *carried}:
            values = first.get(labels, np.full(len(grid), np.nan)).copy()
            known = np.flatnonzero(~np.isnan(values))
            begins = (
                np.flatnonzero(~np.isnan(last[labels])) if labels in last else np.empty(0, dtype=np.int64)
            )
            if labels in carried:
                values[0] = carried[labels] if math.isnan(values[0]) else values[0]
            elif begins.size and (not known.size or begins[0] < known[0]):
                values[begins[0]] = last[labels][begins[0]]
            newest[labels] = _filled_forward(values)
        return self._with_own(rule.name, newest, node, grid)

    def _either(self, operands: Sequence[Node], grid: Grid) -> Vector:
        found: Vector = {}
        for operand in operands:
            for labels, values in self.vector(operand, grid).items():
                _merge(found, labels, values)
        return found

    def _with_own(self, name: str, vector: Vector, node: Node, grid: Grid) -> Vector:
        self._own = (name, vector)
        try:
            return self.vector(node, grid)
        finally:
            self._own = None

    def vector(self, node: Node, grid: Grid) -> Vector:
        """The vector of a node at each evaluation. Raises NotReplayable where it gives no vector."""
        value = self._value(node, grid)
        if not isinstance(value, dict):
            raise NotReplayable(f"{node.text} gives no series")
        return {labels: values for labels, values in value.items() if not np.all(np.isnan(values))}

    def _value(self, node: Node, grid: Grid) -> Value:
        if next(selectors(node), None) is not None and not self._recordings.reads(node):
            return self._source(node.text, grid)
        if isinstance(node, Number):
            return np.full(len(grid), node.value)
        if isinstance(node, Text):
            return node.value
        if isinstance(node, Selector) and node.window is None:
            return self._selected(node, grid)
        if isinstance(node, Call):
            return self._call(node, grid)
        if isinstance(node, Aggregation):
            return self._aggregated(node, grid)
        if isinstance(node, Binary):
            return self._binary(node, grid)
        raise NotReplayable(f"{node.text} cannot be replayed over recorded series")

    def _selected(self, node: Selector, grid: Grid) -> Vector:
        if self._own is not None and node.name == self._own[0]:
            own = {
                labels: values for labels, values in self._own[1].items() if _passes(labels, node.matchers)
            }
            if own or not self._recordings.select(node):
                return own
        found: Vector = {}
        for _, labels, kept in self._recordings.select(node):
            numbers = np.floor((grid.times - node.offset) / kept.interval + 1e-9).astype(np.int64)
            _merge(found, labels, kept.at(numbers))
        return found

    def _call(self, node: Call, grid: Grid) -> Value:
        name, arguments = node.function, node.arguments
        window = next((each for each in arguments if isinstance(each, Selector) and each.window), None)
        if window is not None:
            return self._over_time(node, window, grid)
        if name == "time" and not arguments:
            return grid.times
        if name == "vector" and len(arguments) == 1:
            return {(): self._scalar(arguments[0], grid)}
        if name == "scalar" and len(arguments) == 1:
            only = list(self.vector(arguments[0], grid).values())
            return only[0] if len(only) == 1 else np.full(len(grid), np.nan)
        if name in ("label_replace", "label_join"):
            texts = [each.value for each in arguments[1:] if isinstance(each, Text)]
            change = _replacing(texts) if name == "label_replace" else _joining(texts)
            return _relabelled(self.vector(arguments[0], grid), change)
        if name == "timestamp" and len(arguments) == 1:
            return {
                labels: np.where(np.isnan(values), np.nan, grid.times)
                for labels, values in self.vector(arguments[0], grid).items()
            }
        if name in _OF_ELEMENTS and arguments:
            limits = [self._scalar(each, grid) for each in arguments[1:]]
            return {
                labels: _OF_ELEMENTS[name](values, *limits)
                for labels, values in self.vector(arguments[0], grid).items()
            }
        raise NotReplayable(f"the function {name} cannot be replayed over recorded series")

    def _scalar(self, node: Node, grid: Grid) -> FloatArray:
        value = self._value(node, grid)
        if not isinstance(value, np.ndarray):
            raise NotReplayable(f"{node.text} is no number")
        return value

    def _over_time(self, node: Call, selector: Selector, grid: Grid) -> Vector:
        if self._own is not None and selector.name == self._own[0]:
            if node.function != "last_over_time" or selector.offset:
                raise NotReplayable(f"{node.text}: of its own series a rule may only read the last")
            return self._selected(Selector(selector.name, selector.matchers), grid)
        if node.function not in _OVER_TIME:
            raise NotReplayable(f"the function {node.function} cannot be replayed over recorded series")
        reduce = _OVER_TIME[node.function]
        parameters = [self._scalar(each, grid)[0] for each in node.arguments if each is not selector]
        found: Vector = {}
        for _, labels, kept in self._recordings.select(selector):
            numbers = np.floor((grid.times - selector.offset) / kept.interval + 1e-9).astype(np.int64)
            width = max(1, math.ceil((selector.window or 0.0) / kept.interval - 1e-9))
            _merge(found, labels, _windowed(kept, numbers, width, reduce, parameters))
        return found

    def _aggregated(self, node: Aggregation, grid: Grid) -> Vector:
        if node.operation not in _AGGREGATED or node.parameter is not None:
            raise NotReplayable(f"{node.operation} cannot be replayed over recorded series")
        groups: dict[Labels, list[FloatArray]] = {}
        for labels, values in self.vector(node.argument, grid).items():
            key = tuple((name, value) for name, value in labels if (name in node.labels) is not node.without)
            groups.setdefault(key, []).append(values)
        return {key: _AGGREGATED[node.operation](np.array(rows)) for key, rows in groups.items()}

    def _binary(self, node: Binary, grid: Grid) -> Value:
        left, right = self._value(node.left, grid), self._value(node.right, grid)
        if isinstance(left, str) or isinstance(right, str):
            raise NotReplayable(f"{node.text}: a text is no operand")
        if node.operator in ("and", "or", "unless"):
            if not isinstance(left, dict) or not isinstance(right, dict):
                raise NotReplayable(f"{node.text}: {node.operator} needs vectors")
            return _set_operation(node, left, right, len(grid))
        if isinstance(left, dict):
            if isinstance(right, dict):
                return _matched(node, left, right)
            return {labels: _applied(node, values, right, values) for labels, values in left.items()}
        if isinstance(right, dict):
            return {labels: _applied(node, left, values, values) for labels, values in right.items()}
        return _applied(node, left, right, left)


def _may_be(rule: RecordingRule, selector: Selector) -> bool:
    return all(
        each.matches(rule.labels[each.label]) for each in selector.matchers if each.label in rule.labels
    )


def _alternatives(node: Node) -> list[Node]:
    if isinstance(node, Binary) and node.operator == "or":
        return [*_alternatives(node.left), node.right]
    return [node]


def _merge(found: Vector, labels: Labels, values: FloatArray) -> None:
    """Add a series; where there is one with the same labels, each fills the other's gaps."""
    known = found.get(labels)
    found[labels] = values if known is None else np.where(np.isnan(known), values, known)


def _labelled(vector: Vector, labels: Mapping[str, str]) -> Vector:
    found: Vector = {}
    for own, values in vector.items():
        merged = {**dict(own), **labels}
        _merge(found, tuple(sorted((name, value) for name, value in merged.items() if value)), values)
    return found


def _filled_forward(values: FloatArray) -> FloatArray:
    there = ~np.isnan(values)
    last = np.maximum.accumulate(np.where(there, np.arange(len(values)), -1))
    return np.where(last >= 0, values[np.maximum(last, 0)], np.nan)


Relabelling = Callable[[dict[str, str]], tuple[str, str] | None]


def _relabelled(vector: Vector, change: Relabelling) -> Vector:
    found: Vector = {}
    for labels, values in vector.items():
        changed = change(dict(labels))
        _merge(found, labels if changed is None else _with(labels, *changed), values)
    return found


def _with(labels: Labels, name: str, value: str) -> Labels:
    others = [(each, text) for each, text in labels if each != name]
    return tuple(sorted([*others, (name, value)] if value else others))


def _replacing(texts: Sequence[str]) -> Relabelling:
    target, replacement, source, pattern = texts
    compiled = re.compile(pattern, re.DOTALL)

    def change(labels: dict[str, str]) -> tuple[str, str] | None:
        match = compiled.fullmatch(labels.get(source, ""))
        if match is None:
            return None
        return target, re.sub(r"\$(?:(\$)|(\w+)|\{(\w+)\})", lambda part: _group(match, part), replacement)

    return change


def _group(match: re.Match[str], part: re.Match[str]) -> str:
    """`$$` is a dollar, `$1` a group; one that does not exist or took no part is empty."""
    if part[1]:
        return "$"
    name = part[2] or part[3]
    try:
        return match[int(name) if name.isdigit() else name] or ""
    except IndexError:
        return ""


def _joining(texts: Sequence[str]) -> Relabelling:
    target, separator, *sources = texts
    return lambda labels: (target, separator.join(labels.get(source, "") for source in sources))


_OF_ELEMENTS: Mapping[str, Callable[..., FloatArray]] = {
    "abs": np.abs,
    "ceil": np.ceil,
    "floor": np.floor,
    "round": lambda values, to=1.0: np.floor(values / to + 0.5) * to,
    "clamp_min": np.maximum,
    "clamp_max": np.minimum,
    "sqrt": np.sqrt,
    "ln": np.log,
}


def _present(rows: FloatArray) -> Mask:
    return np.asarray(~np.all(np.isnan(rows), axis=0))


def _kept_where(rows: FloatArray, values: FloatArray) -> FloatArray:
    return np.where(_present(rows), values, np.nan)


_AGGREGATED: Mapping[str, Callable[[FloatArray], FloatArray]] = {
    "sum": lambda rows: _kept_where(rows, np.nansum(rows, axis=0)),
    "count": lambda rows: _kept_where(rows, np.sum(~np.isnan(rows), axis=0).astype(np.float64)),
    "group": lambda rows: _kept_where(rows, np.ones(rows.shape[1])),
    "min": lambda rows: np.fmin.reduce(rows, axis=0),
    "max": lambda rows: np.fmax.reduce(rows, axis=0),
    "avg": lambda rows: _kept_where(
        rows, np.nansum(rows, axis=0) / np.maximum(np.sum(~np.isnan(rows), axis=0), 1)
    ),
}


def _newest(rows: FloatArray) -> FloatArray:
    """The last of each row that is there; a row is one window, oldest first."""
    there = ~np.isnan(rows)
    place = rows.shape[1] - 1 - np.argmax(there[:, ::-1], axis=1)
    return np.asarray(rows[np.arange(len(rows)), place])


def _changes(rows: FloatArray, happened: Callable[[FloatArray, FloatArray], Mask]) -> FloatArray:
    filled = np.array([_filled_forward(row) for row in rows])
    return np.asarray(np.sum(happened(filled[:, :-1], filled[:, 1:]), axis=1), dtype=np.float64)


_OVER_TIME: Mapping[str, Callable[..., FloatArray]] = {
    "last_over_time": _newest,
    "max_over_time": lambda rows: np.fmax.reduce(rows, axis=1),
    "min_over_time": lambda rows: np.fmin.reduce(rows, axis=1),
    "sum_over_time": lambda rows: np.nansum(rows, axis=1),
    "count_over_time": lambda rows: np.sum(~np.isnan(rows), axis=1).astype(np.float64),
    "avg_over_time": lambda rows: np.nansum(rows, axis=1) / np.sum(~np.isnan(rows), axis=1),
    "present_over_time": lambda rows: np.ones(len(rows)),
    "quantile_over_time": lambda rows, quantile: np.nanquantile(rows, quantile, axis=1),
    "resets": lambda rows: _changes(rows, lambda before, after: after < before),
    "changes": lambda rows: _changes(
        rows, lambda before, after: ~np.isnan(before) & ~np.isnan(after) & (after != before)
    ),
}


def _windowed(
    kept: _Kept,
    numbers: Numbers,
    width: int,
    reduce: Callable[..., FloatArray],
    parameters: Sequence[float],
) -> FloatArray:
    """Reduce the `width` samples up to each number; NaN where there is none of them."""
    found = np.full(len(numbers), np.nan)
    at_once = max(1, MOST_CELLS // width)
    back = np.arange(1 - width, 1)
    for begin in range(0, len(numbers), at_once):
        part, places = np.unique(numbers[begin : begin + at_once], return_inverse=True)
        rows = kept.at((part[:, None] + back).ravel()).reshape(len(part), width)
        some = ~np.all(np.isnan(rows), axis=1)
        reduced = np.full(len(part), np.nan)
        if np.any(some):
            reduced[some] = reduce(rows[some], *parameters)
        found[begin : begin + at_once] = reduced[places]
    return found


def _applied(node: Binary, left: FloatArray, right: FloatArray, kept: FloatArray) -> FloatArray:
    """The operator on two arrays; a comparison without `bool` keeps the vector's own values."""
    absent = np.isnan(left) | np.isnan(right)
    with np.errstate(all="ignore"):
        if node.operator in _COMPARED:
            true = _COMPARED[node.operator](left, right)
            if node.as_number:
                return np.where(absent, np.nan, true.astype(np.float64))
            return np.where(true & ~absent, kept, np.nan)
        return np.where(absent, np.nan, _CALCULATED[node.operator](left, right))


_COMPARED: Mapping[str, Callable[[FloatArray, FloatArray], Mask]] = {
    "==": np.equal, "!=": np.not_equal, "<": np.less, "<=": np.less_equal, ">": np.greater,
    ">=": np.greater_equal,
}  # fmt: skip
_CALCULATED: Mapping[str, Callable[[FloatArray, FloatArray], FloatArray]] = {
    "+": np.add, "-": np.subtract, "*": np.multiply, "/": np.divide, "%": np.fmod, "^": np.power,
    "atan2": np.arctan2,
}  # fmt: skip


def _signature(labels: Labels, node: Binary) -> Labels:
    named = node.matching.labels
    return tuple((name, value) for name, value in labels if (name in named) is node.matching.on)


def _set_operation(node: Binary, left: Vector, right: Vector, length: int) -> Vector:
    """`and`, `or`, `unless`: what is there decides, at each evaluation anew."""
    other = left if node.operator == "or" else right
    there: dict[Labels, Mask] = {}
    for labels, values in other.items():
        key = _signature(labels, node)
        there[key] = there.get(key, np.zeros(length, dtype=bool)) | ~np.isnan(values)
    nowhere = np.zeros(length, dtype=bool)
    found: Vector = {}
    if node.operator == "or":
        found = dict(left)
        for labels, values in right.items():
            hidden = there.get(_signature(labels, node), nowhere)
            _merge(found, labels, np.where(hidden, np.nan, values))
        return found
    for labels, values in left.items():
        matched = there.get(_signature(labels, node), nowhere)
        found[labels] = np.where(matched if node.operator == "and" else ~matched, values, np.nan)
    return found


def _matched(node: Binary, left: Vector, right: Vector) -> Vector:
    """Arithmetic and comparison of two vectors, element by element of the same signature."""
    turned = node.matching.many == "right"
    many, one = (right, left) if turned else (left, right)
    partners: dict[Labels, list[tuple[Labels, FloatArray]]] = {}
    for labels, values in one.items():
        partners.setdefault(_signature(labels, node), []).append((labels, values))
    found: Vector = {}
    for labels, values in many.items():
        for partner, others in partners.get(_signature(labels, node), ()):
            pair = (others, values) if turned else (values, others)
            result = _applied(node, *pair, kept=pair[0])
            _merge(found, _result_labels(node, labels, partner), result)
    return found


def _result_labels(node: Binary, labels: Labels, partner: Labels) -> Labels:
    matching = node.matching
    if not matching.many:
        if matching.on:
            return tuple(each for each in labels if each[0] in matching.labels)
        return tuple(each for each in labels if each[0] not in matching.labels)
    taken = dict(partner)
    for name in matching.include:
        labels = _with(labels, name, taken.get(name, ""))
    return labels
