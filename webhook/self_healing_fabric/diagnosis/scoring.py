"""Which service, and which of its series, explains an alert best: arithmetic on the series around it.

Every series gets what its shift is worth (`shifts`), and then less where something else explains it better: a
caller's latency that its callee's explains, a CPU that only follows the load, errors of three requests. What
is left adds up to a score for each service. No model is learned and nothing is drawn at random: the same
series give the same ranking, and every factor is kept beside the series, so that a person can recompute it.

The graph is used as in MicroRCA (Wu et al., NOMS 2020) and the share of the alert's volume as in PetShop's
baselines (Hardt et al., CLeaR 2024), both without random walks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass

import numpy as np

from self_healing_fabric.diagnosis.call_graph import CallGraph
from self_healing_fabric.diagnosis.kinds import SYMPTOMS, Family, Kind
from self_healing_fabric.diagnosis.onsets import ALERTED, Onset, already_so, find_onset, first_shifts
from self_healing_fabric.diagnosis.shifts import (
    CLEAR,
    Baseline,
    FloatArray,
    Shifts,
    baseline_of,
    quantiles,
    shifts_of,
)
from self_healing_fabric.diagnosis.windows import Window

EXPLAINED_AWAY = 0.85  # of a caller's symptom, when its callees explain all of it
LEAST_SHARE = 0.25  # what a symptom still counts that adds nothing to the alert
OTHER_STATISTIC = 0.6  # for a symptom of the alert's family but another statistic
OTHER_SYMPTOM = 0.5  # for a symptom of another family than the alert's
FEW_REQUESTS = 20.0  # requests; n of them count n / (n + 20)
NOT_NEW = 0.85  # of a shift that was there already before the onset
MORE_LOAD = 0.2  # growth of the load from which on a resource may follow it
FOLLOWS_LOAD = 0.7  # of a resource's growth, when the load grew as much
BYTES = 1e6  # memory above it is counted in bytes
MATERIAL_MEMORY = 100e6  # bytes
LITTLE_MEMORY = 0.4  # what less growth counts
NEXT_FAMILY = 0.3  # what each further family of series of a service counts beside the one before
FAMILIES = 5  # that count
FIRST_BONUS = 0.15  # for the service that shifted first
SUFFERED = SYMPTOMS | {Family.LOAD, Family.NETWORK}  # what somebody else's trouble shows as
_ON_THE_WAY = {Family.LATENCY: Family.CLIENT_LATENCY, Family.ERRORS: Family.CLIENT_LOSS}
UNEXPLAINED_ALERT = 0.3  # more, for the alerting service, as far as no callee explains the alert
ALERTING = 0.5  # bits for the service that alerts: where nothing else is found, it is the strongest lead
UNREACHABLE_VIEW = 0.3  # and that only suffers: a gateway or a prober, which sees trouble and makes none
UNREACHABLE = 0.6  # for a service that the alerting one does not call, directly or indirectly


@dataclass(frozen=True)
class Symptom:
    """What alerted: a service, what was measured there (a kind of series; empty when unknown), and when."""

    service: str
    kind: str
    at: float


@dataclass(frozen=True)
class Factor:
    """One reason to count a series for more or less than its shift: the sentence, and the factor."""

    reason: str
    factor: float


@dataclass(frozen=True)
class Scored:
    """Series with what each is worth, and services with what those add up to.

    `order` are the services, best first; `scores` and `load` (requests by the second or step) by service;
    `bits` and `factors` by series.
    """

    shifts: Shifts
    load: Mapping[str, float]
    bits: FloatArray
    factors: tuple[tuple[Factor, ...], ...]
    scores: Mapping[str, float]
    service_factors: Mapping[str, tuple[Factor, ...]]

    @property
    def order(self) -> tuple[str, ...]:
        """The services, best explanation first; equal ones by name."""
        return tuple(sorted(self.scores, key=lambda service: (-self.scores[service], service)))


class Scorer:
    """Scores the services of one window around one alert.

    Keeps what does not change between the alert's window and the quiet ones that it is compared with.
    `alerting` are the series that the alert names.
    """

    def __init__(self, window: Window, symptom: Symptom, graph: CallGraph) -> None:
        self.window = window
        self.symptom = symptom
        self.graph = graph
        self.kinds = window.kinds
        self.services = window.services
        named = (symptom.service, symptom.kind)
        self.alerting = tuple(row for row, key in enumerate(window.keys) if (key.service, key.kind) == named)
        self.onset: Onset = find_onset(window, symptom.at, self.alerting)
        self.baseline: Baseline = baseline_of(window.values[:, : self.onset.index], self.kinds)
        self._rows: dict[str, list[int]] = {service: [] for service in self.services}
        for row, key in enumerate(window.keys):
            self._rows[key.service].append(row)
        families, services = list(Family), list(self._rows)
        self._family_of = np.array([families.index(kind.family) for kind in self.kinds], dtype=np.intp)
        self._service_of = np.array([services.index(key.service) for key in window.keys], dtype=np.intp)
        self._load_rows = {
            service: _load_row(rows, window, self.kinds) for service, rows in self._rows.items()
        }
        self._callees = {service: graph.callees(service, self.services) for service in self.services}
        self._calls = {service: graph.reachable(service) for service in self.services}
        self._reachable = graph.reachable(symptom.service) if symptom.service in graph.services else None

    @property
    def onset_at(self) -> float:
        """When the failure began, in seconds since 1970."""
        times = self.window.times
        return float(times[self.onset.index]) if self.onset.index < len(times) else self.symptom.at

    def without(self, start: int, stop: int, thinned_to: int) -> Scorer:
        """The same, with a baseline that knows nothing of the samples from `start` to before `stop`.

        A window that was part of its own baseline always looks calmer than one that was not, which the
        alert's never was. Of long histories every n-th sample is taken, so that at most about `thinned_to`
        remain: their quantiles are the same, but for chance.
        """
        known = np.r_[0:start, stop : self.onset.index]
        known = known[:: max(1, len(known) // thinned_to)]
        other = copy(self)
        other.baseline = baseline_of(self.window.values[:, known], self.kinds)
        return other

    def rows_of(self, service: str) -> Sequence[int]:
        """The series of a service."""
        return self._rows.get(service, ())

    def score(self, start: int, stop: int, *, by_onset: bool = True) -> Scored:
        """Score the services by the samples from `start` to before `stop`.

        Without `by_onset` the window begins anywhere and not where something began: then nobody is early, and
        what began a little before counts all the same.
        """
        part = self.window.values[:, start:stop]
        shifts = shifts_of(part, self.baseline, self.kinds)
        load, requests = self._traffic(start, stop)
        bits = shifts.bits.copy()
        factors: list[tuple[Factor, ...]] = [()] * len(self.kinds)
        alert_row = self._alert_row(shifts)
        before = (
            already_so(self.window.values[:, :start], self.baseline, shifts)
            if by_onset
            else np.zeros(len(self.kinds))
        )
        for row in np.flatnonzero(np.abs(shifts.deviations) > CLEAR):
            found = tuple(self._factors(int(row), shifts, load, requests, alert_row))
            if before[row] > 0:
                found += (Factor("it was so before the onset", 1.0 - NOT_NEW * float(before[row])),)
            factors[row] = found
            for factor in found:
                bits[row] *= factor.factor
        earliness = self._earliness(bits) if by_onset else {}
        own_part = 0.0 if alert_row is None else 1.0 - self._explained(alert_row, shifts, load)
        scores, of_service, worth = {}, {}, self._sums_of_families(bits)
        for place, service in enumerate(self._rows):
            reasons = tuple(self._service_factors(service, earliness))
            total = float(worth[place])
            for reason in reasons:
                total *= reason.factor
            if service == self.symptom.service:
                total = total * (1.0 + UNEXPLAINED_ALERT * own_part) + ALERTING
            scores[service], of_service[service] = float(total), reasons
        return Scored(shifts, load, bits, tuple(factors), scores, of_service)

    def _traffic(self, start: int, stop: int) -> tuple[dict[str, float], dict[str, float]]:
        """By service: the rate of its requests within the samples, and how many there were."""
        rows = {service: row for service, row in self._load_rows.items() if row is not None}
        values = self.window.values[list(rows.values()), start:stop]
        (middle,) = quantiles(values, (0.5,))
        sums, step = np.nansum(values, axis=1), self.window.step
        load, requests = {}, {}
        for place, (service, row) in enumerate(rows.items()):
            if np.isfinite(middle[place]):
                load[service] = float(middle[place])
                requests[service] = float(sums[place]) * (1.0 if self.kinds[row].counted else step)
        return load, requests

    def families(self, scored: Scored, service: str) -> list[float]:
        """What each family of the service's series is worth, in bits, the best first; 0 for what is not
        measured."""
        place = list(self._rows).index(service)
        return [float(bits) for bits in self._best_of_families(scored.bits)[:, place]]

    def _sums_of_families(self, bits: FloatArray) -> FloatArray:
        """By service, sum over k of 0.3^k x the k-th best family, each family being worth its best series."""
        shares = NEXT_FAMILY ** np.arange(FAMILIES)
        return np.asarray(np.sum(shares[:, None] * self._best_of_families(bits)[:FAMILIES], axis=0))

    def _best_of_families(self, bits: FloatArray) -> FloatArray:
        """The bits of each family's best series, by service, the best family first: (family, service)."""
        best = np.zeros((len(Family), len(self._rows)))
        np.maximum.at(best, (self._family_of, self._service_of), bits)
        return -np.sort(-best, axis=0)

    def suffers_from(self, scored: Scored, service: str, cause: str) -> bool:
        """Whether a service calls the cause, directly or through others, and shows no more than symptoms.

        That it shifted too is then what the cause predicts, and no other explanation.
        """
        rows = self._rows[service]
        best = max(rows, key=lambda row: (scored.bits[row], -row))
        return self.kinds[best].family in SUFFERED and cause in self._calls[service]

    def explains(self, scored: Scored, service: str) -> float:
        """Which part of the alert's volume the service's series of the same kind account for, from 0 to 1; 0
        where the alert's series is not known or did not move."""
        alert_row = self._alert_row(scored.shifts)
        if alert_row is None:
            return 0.0
        return max(
            (
                self._part_of_alert(row, scored.shifts, scored.load, alert_row)
                for row in self._rows[service]
                if self.kinds[row].name == self.kinds[alert_row].name
                and abs(scored.shifts.deviations[row]) > CLEAR
            ),
            default=0.0,
        )

    def _part_of_alert(self, row: int, shifts: Shifts, load: Mapping[str, float], alert_row: int) -> float:
        """min(1, |d_s| x req_s / (|d_alert| x req_alert))."""
        here, there = load.get(self.window.keys[row].service), load.get(self.symptom.service)
        traffic = here / there if here is not None and there else 1.0
        return min(1.0, float(abs(shifts.delta[row]) / abs(shifts.delta[alert_row])) * traffic)

    def _alert_row(self, shifts: Shifts) -> int | None:
        """The series that alerted, if it is among those measured and shifted; of several the farthest."""
        rows = [row for row in self.alerting if abs(shifts.deviations[row]) > ALERTED]
        return max(rows, key=lambda row: (abs(shifts.deviations[row]), -row)) if rows else None

    def _factors(
        self,
        row: int,
        shifts: Shifts,
        load: Mapping[str, float],
        requests: Mapping[str, float],
        alert_row: int | None,
    ) -> list[Factor]:
        kind, service = self.kinds[row], self.window.keys[row].service
        found = []
        if kind.family in SYMPTOMS:
            explained = self._explained(row, shifts, load)
            if explained > 0:
                found.append(Factor("its callees explain it", 1.0 - EXPLAINED_AWAY * explained))
            if alert_row is not None and alert_row != row:
                found.append(self._share(row, shifts, load, alert_row))
            if service in requests:
                count = requests[service]
                few = "1 request" if round(count) == 1 else f"{count:.0f} requests"
                found.append(Factor(f"it was measured on {few} only", count / (count + FEW_REQUESTS)))
        elif kind.family in (Family.CPU, Family.NETWORK, Family.SATURATION):
            follows = self._follows_load(row, shifts)
            if follows > 0:
                found.append(Factor("it follows the load", 1.0 - FOLLOWS_LOAD * follows))
            waits = self._waiting_explained(service, shifts, load)
            if kind.family is Family.SATURATION and waits > 0:
                found.append(Factor("its callees explain why it is slow", 1.0 - EXPLAINED_AWAY * waits))
        elif kind.family is Family.MEMORY and self._little_memory(service, shifts):
            found.append(Factor("its memory grew by less than 100 MB", LITTLE_MEMORY))
        return found

    def _explained(self, row: int, shifts: Shifts, load: Mapping[str, float]) -> float:
        """How much of a symptom the callees' same symptom explains, from 0 to 1.

        explained = min(1, sum over callees c of min(1, |d_c| x min(1, req_c / req_s) / |d_s|)), d being the
        shifts of the same kind of series. Where no callee has that kind, of any of its family, in deviations,
        because units may differ; or more, when the caller measured more on its way to the callee.
        """
        key, kind = self.window.keys[row], self.kinds[row]
        total = 0.0
        for callee in self._callees[key.service]:
            same = [
                other
                for other in self._rows[callee]
                if self.kinds[other].family is kind.family
                and abs(shifts.deviations[other]) > CLEAR
                and self.window.keys[other].peer in ("", key.service)
            ]
            named = [other for other in same if self.window.keys[other].kind == key.kind]
            part = 1.0
            if load.get(key.service, 0.0) > 0 and callee in load:
                part = min(1.0, load[callee] / load[key.service])
            size = 0.0
            if named:
                size = max(abs(shifts.delta[other]) for other in named) / abs(shifts.delta[row])
            elif same:
                size = max(abs(shifts.deviations[other]) for other in same) / abs(shifts.deviations[row])
            total += min(1.0, max(size, self._explained_on_the_way(row, callee, shifts)) * part)
        return min(1.0, total)

    def _explained_on_the_way(self, row: int, callee: str, shifts: Shifts) -> float:
        """How large what the caller measured on its way to the callee is, relative to its own symptom: time
        that it waited explains that it is slow, calls without an answer that it fails.

        Compared are shifts of the same statistic; where none is recorded, deviations.
        """
        family, service = _ON_THE_WAY.get(self.kinds[row].family), self.window.keys[row].service
        edges = [
            other
            for other in self._rows[callee]
            if self.kinds[other].family is family
            and self.window.keys[other].peer == service
            and abs(shifts.deviations[other]) > CLEAR
        ]
        alike = [other for other in edges if self.kinds[other].statistic == self.kinds[row].statistic]
        if alike:
            return float(max(abs(shifts.delta[other]) for other in alike) / abs(shifts.delta[row]))
        sizes = (abs(shifts.deviations[other]) / abs(shifts.deviations[row]) for other in edges)
        return float(max(sizes, default=0.0))

    def _waiting_explained(self, service: str, shifts: Shifts, load: Mapping[str, float]) -> float:
        """How much of a service's latency its callees explain, from 0 to 1.

        Requests under way = rate x latency (Little, Operations Research 9, 1961): what makes requests slow
        also makes them queue.
        """
        slow = [
            row
            for row in self._rows[service]
            if self.kinds[row].family is Family.LATENCY and abs(shifts.deviations[row]) > CLEAR
        ]
        worst = max(slow, key=lambda row: (abs(shifts.deviations[row]), -row), default=None)
        return 0.0 if worst is None else self._explained(worst, shifts, load)

    def _share(self, row: int, shifts: Shifts, load: Mapping[str, float], alert_row: int) -> Factor:
        """How much of the alert's added time or errors happen here.

        share = min(1, |d_s| x req_s / (|d_alert| x req_alert)); factor = 0.25 + 0.75 share for the alert's
        kind of series, x 0.6 for another statistic of it, 0.5 for another symptom.
        """
        kind, alerted = self.kinds[row], self.kinds[alert_row]
        if kind.family is not alerted.family:
            return Factor("it is another symptom than the alert's", OTHER_SYMPTOM)
        if kind.name != alerted.name:
            return Factor("it is another statistic than the alert's", OTHER_STATISTIC)
        share = self._part_of_alert(row, shifts, load, alert_row)
        return Factor(
            f"it accounts for {share:.0%} of the alert's volume", LEAST_SHARE + (1 - LEAST_SHARE) * share
        )

    def _follows_load(self, row: int, shifts: Shifts) -> float:
        """min(1, relative growth of the load / relative growth of the series), if the load grew by over 20
        %."""
        load_row = self._load_rows[self.window.keys[row].service]
        if load_row is None or shifts.delta[row] <= 0:
            return 0.0
        growth = _growth(shifts.delta[load_row], self.baseline.median[load_row])
        own = _growth(shifts.delta[row], self.baseline.median[row])
        return min(1.0, growth / own) if growth > MORE_LOAD and own > 0 else 0.0

    def _little_memory(self, service: str, shifts: Shifts) -> bool:
        """Whether a service's memory in bytes grew by what a restart or a warm cache takes: it exhausts
        nothing."""
        growths = [
            abs(shifts.delta[row])
            for row in self._rows[service]
            if self.kinds[row].family is Family.MEMORY and self.baseline.median[row] > BYTES
        ]
        return bool(growths) and max(growths) < MATERIAL_MEMORY

    def _earliness(self, bits: FloatArray) -> dict[str, float]:
        """By service, 1 for the one whose best series shifted first and 0 for the last."""
        best = {
            service: max(rows, key=lambda row: (bits[row], -row))
            for service, rows in self._rows.items()
            if rows
        }
        best = {service: row for service, row in best.items() if bits[row] > np.log2(1 + CLEAR) / 2}
        started = first_shifts(self.window, self.onset.index, np.array(list(best.values()), dtype=np.intp))
        known = {
            service: float(time) for service, time in zip(best, started, strict=True) if np.isfinite(time)
        }
        if len(set(known.values())) < 2:
            return {}
        first, last = min(known.values()), max(known.values())
        return {service: (last - time) / (last - first) for service, time in known.items()}

    def _service_factors(self, service: str, earliness: Mapping[str, float]) -> list[Factor]:
        found = []
        if earliness.get(service, 0.0) > 0:
            found.append(Factor("it shifted early", 1.0 + FIRST_BONUS * earliness[service]))
        if self._reachable is not None and service not in self._reachable:
            suffers = all(self.kinds[row].family in SUFFERED for row in self._rows[service])
            factor = UNREACHABLE_VIEW if suffers else UNREACHABLE
            found.append(Factor(f"{self.symptom.service} does not call it", factor))
        return found


def _load_row(rows: Sequence[int], window: Window, kinds: Sequence[Kind]) -> int | None:
    """The series that says how many requests a service gets: the first by name, of the service as a whole."""
    return next((row for row in rows if kinds[row].family is Family.LOAD and not window.keys[row].peer), None)


def _growth(delta: float, median: float) -> float:
    return float(delta / median) if np.isfinite(median) and median > 0 else 0.0
