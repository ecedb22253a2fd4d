"""Which alerts the rules would have raised, stretch by stretch of the history.

The rules are held against what the fabric would have exported with this configuration: the registry of its
services and their thresholds (`shf_signal_threshold`) are given, whatever Prometheus has of them.

Rules may read the alerts themselves: what is slow while it alerts is not learnt as normal. What alerts do in
a stretch is known only when it has been replayed, so what reads them is replayed again with what came out,
until nothing changes any more. That ends soon, because what was learnt counts only minutes later.

Memory is bounded by the stretch and by the longest window of the rules, not by the length of the history.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from self_healing_fabric.replay.alert_states import AlertStates, Episode
from self_healing_fabric.replay.history import Coverage, History, HistoryUnavailable, longest_reach
from self_healing_fabric.replay.rule_sets import AlertingRule, RuleSet
from self_healing_fabric.settings import Settings
from shf_queries import QueryError
from shf_queries.catalogue import HEARTBEAT
from shf_queries.evaluation import Evaluator, Grid, Labels, RecordingRule, Recordings, Vector
from shf_queries.parsing import NotReplayable, parse, selectors

STRETCH = 6 * 3600.0  # seconds that are evaluated at once
LEAST_KEPT = 2 * 3600.0  # seconds of recorded series that a diagnosis may look back on
SIGNAL_SERIES = "service:shf_"  # what diagnosis and verification read begins so
ALERT_STATES = "ALERTS_FOR_STATE"  # Prometheus's own series: since when each alert has been active
THRESHOLDS = "shf_signal_threshold"
PUSHED = "shf_heartbeat_timestamp_seconds"
FABRIC = {"instance": "replay", "job": "self-healing-fabric"}  # of the target that exports the thresholds
MOST_PASSES = 40  # over what reads alerts, for one stretch; ten minutes settle with each, or more


@dataclass(frozen=True)
class Told:
    """An alert that fires, or one that ends, and its rule."""

    rule: AlertingRule
    episode: Episode

    @property
    def at(self) -> float:
        """When, in seconds since 1970."""
        return self.episode.ended_at or self.episode.fired_at or self.episode.active_at


@dataclass(frozen=True)
class Stretch:
    """What happened in a part of the history that ends at `end`, in the order of time."""

    end: float
    told: tuple[Told, ...]


class Detector:
    """Replays rules over a history. `recordings` hold the recorded series of the last stretch and a while."""

    def __init__(
        self,
        rules: RuleSet,
        settings: Settings,
        history: History,
        coverage: Coverage,
        metrics: frozenset[str],
    ) -> None:
        self._history = history
        self._coverage = coverage
        self._alerting = rules.alerting
        self._recording = _needed(rules)
        self._keep = reach_of(rules)
        self._thresholds = thresholds_of(settings, metrics)
        intervals = [rule.interval for rule in rules.alerting]
        self._fastest = min([*intervals, *(rule.interval for rule in self._recording)])
        self.recordings = Recordings({THRESHOLDS, ALERT_STATES, *(rule.name for rule in rules.recording)})
        self._evaluator = Evaluator(self.recordings, history)
        late = _reading(self._recording, ALERT_STATES)
        self._late_rules = [rule for rule in self._recording if rule.name in late]
        late.add(ALERT_STATES)
        self._late_alerts = [rule for rule in rules.alerting if _reads(rule.expression, late)]
        self._states = [AlertStates(rule.hold, rule.keep_firing) for rule in rules.alerting]
        self.settled = True

    def stretches(self) -> Iterator[Stretch]:
        """Replay the history from its beginning. Raises HistoryUnavailable."""
        begin = self._coverage.start
        while begin < self._coverage.end:
            end = min(begin + STRETCH, self._coverage.end)
            try:
                told = self._replay(begin, end)
            except QueryError as error:
                raise HistoryUnavailable(str(error)) from error
            yield Stretch(end, told)
            self._history.forget()
            self.recordings.forget(end - self._keep)
            begin = end

    def _replay(self, begin: float, end: float) -> tuple[Told, ...]:
        given = _grid(self._fastest, begin, end)
        constant = {labels: np.full(len(given), limit) for labels, limit in self._thresholds.items()}
        self.recordings.put(THRESHOLDS, "given", given, constant)
        before = list(self._states)
        for record in self._recording:
            if record not in self._late_rules:
                self._record(record, begin, end)
        told, late = {}, []
        for number, rule in enumerate(self._alerting):
            if rule in self._late_alerts:
                late.append(number)
                self._note(number, rule, {}, begin, end)
            else:
                told[number], _ = self._alert(number, rule, before[number], begin, end)
        self._settle(late, told, before, begin, end)
        found = [Told(self._alerting[number], each) for number in sorted(told) for each in told[number]]
        return tuple(sorted(found, key=lambda each: (each.at, each.episode.labels)))

    def _settle(
        self, late: Sequence[int], told: dict[int, list[Episode]], before: Sequence[AlertStates],
        begin: float, end: float,
    ) -> None:  # fmt: skip
        """Replay what reads alerts until they are what it was told that they are."""
        known: list[Vector] = [{} for _ in late]
        for _ in range(MOST_PASSES):
            for rule in self._late_rules:
                self._record(rule, begin, end)
            active = []
            for number in late:
                told[number], vector = self._alert(number, self._alerting[number], before[number], begin, end)
                active.append(vector)
            if all(_same(one, other) for one, other in zip(known, active, strict=True)):
                return
            known = active
        self.settled = False

    def _record(self, rule: RecordingRule, begin: float, end: float) -> None:
        grid = _grid(rule.interval, begin, end)
        if not len(grid):
            return
        try:
            self._evaluator.record(rule, f"{self._recording.index(rule)}", grid)
        except NotReplayable as error:
            raise NotReplayable(f"the rule {rule.name} cannot be replayed: {error}") from error

    def _alert(
        self, number: int, rule: AlertingRule, before: AlertStates, begin: float, end: float
    ) -> tuple[list[Episode], Vector]:
        """Evaluate an alerting rule; return what it tells, and since when its alerts were active."""
        grid, states = _grid(rule.interval, begin, end), before.copy()
        self._states[number] = states
        if not len(grid):
            return [], {}
        try:
            vector = self._evaluator.vector(parse(rule.expression), grid)
        except NotReplayable as error:
            raise NotReplayable(f"the rule {rule.name} cannot be replayed: {error}") from error
        rows = {labels_of(rule, labels): values for labels, values in sorted(vector.items())}
        active: Vector = {}
        here = np.flatnonzero(~np.all(np.isnan(np.array(list(rows.values()))), axis=0)) if rows else ()
        place = 0
        for following in (*here, len(grid)):
            while place < following and states.active:
                self._evaluate(states, grid, place, {}, active)
                place += 1
            if following < len(grid):
                results = {
                    labels: float(values[following])
                    for labels, values in rows.items()
                    if not math.isnan(values[following])
                }
                self._evaluate(states, grid, int(following), results, active)
            place = int(following) + 1
        self._note(number, rule, active, begin, end)
        return states.told, active

    def _evaluate(
        self, states: AlertStates, grid: Grid, place: int, results: Mapping[Labels, float], active: Vector
    ) -> None:
        at = (grid.first + place) * grid.interval
        if self._coverage.evaluated(at):
            states.evaluate(at, results)
        for labels, since in states.active.items():
            active.setdefault(labels, np.full(len(grid), np.nan))[place] = since

    def _note(self, number: int, rule: AlertingRule, active: Vector, begin: float, end: float) -> None:
        self.recordings.put(ALERT_STATES, f"{number}", _grid(rule.interval, begin, end), active)


def reach_of(rules: RuleSet) -> float:
    """Seconds of the past that must be known before rules say what they would have said."""
    expressions = [rule.expression for rule in rules.recording]
    expressions += [rule.expression for rule in rules.alerting]
    try:
        return max(LEAST_KEPT, longest_reach(expressions))
    except QueryError as error:
        raise HistoryUnavailable(f"a rule cannot be replayed: {error}") from error


def labels_of(rule: AlertingRule, labels: Labels) -> Labels:
    """The labels of the alert that a series makes."""
    return tuple(sorted({**dict(labels), **rule.labels, "alertname": rule.name}.items()))


def thresholds_of(settings: Settings, metrics: Iterable[str]) -> dict[Labels, float]:
    """`shf_signal_threshold` as the fabric would have exported it.

    A threshold for the heartbeat says that a service is expected. What pushes its heartbeats pushes them to
    the fabric: where none ran, nothing is known of them, and the service is not expected.
    """
    heard = PUSHED in set(metrics)
    return {
        tuple(sorted({**FABRIC, "exported_service": name, "signal": signal}.items())): limit
        for name, service in settings.services.items()
        for signal, limit in settings.thresholds_of(name).by_signal.items()
        if heard or signal != HEARTBEAT.name or not service.pushes_heartbeats
    }


def _grid(interval: float, begin: float, end: float) -> Grid:
    """The evaluations after `begin` and up to `end`."""
    return Grid(interval, math.floor(begin / interval + 1e-9) + 1, math.floor(end / interval + 1e-9))


def _needed(rules: RuleSet) -> list[RecordingRule]:
    """The rules that alerts, diagnosis or verification read, each after those that it reads itself."""
    by_name: dict[str, list[RecordingRule]] = {}
    for rule in rules.recording:
        by_name.setdefault(rule.name, []).append(rule)
    ordered: list[RecordingRule] = []
    visited: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            if path[-1] != name:
                circle = " -> ".join((*path[path.index(name) :], name))
                raise HistoryUnavailable(f"{circle}: these rules read each other and cannot be replayed")
            return
        if name in visited or name not in by_name:
            return
        for rule in by_name[name]:
            for read in _names(rule.expression):
                visit(read, (*path, name))
        visited.add(name)
        ordered.extend(by_name[name])

    wanted = [name for rule in rules.alerting for name in _names(rule.expression)]
    for name in (*wanted, *(each for each in by_name if each.startswith(SIGNAL_SERIES))):
        visit(name, ())
    return ordered


def _names(expression: str) -> list[str]:
    try:
        return [each.name for each in selectors(parse(expression)) if each.name is not None]
    except QueryError as error:
        raise HistoryUnavailable(f"a rule cannot be replayed: {error}") from error


def _reads(expression: str, names: set[str]) -> bool:
    return not names.isdisjoint(_names(expression))


def _reading(ordered: Sequence[RecordingRule], name: str) -> set[str]:
    """The names whose rules read a series, directly or through others."""
    found: set[str] = set()
    for rule in ordered:
        if _reads(rule.expression, {name, *found}):
            found.add(rule.name)
    return found


def _same(one: Vector, other: Vector) -> bool:
    return one.keys() == other.keys() and all(
        np.array_equal(values, other[labels], equal_nan=True) for labels, values in one.items()
    )
