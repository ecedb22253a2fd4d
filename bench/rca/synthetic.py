"""Systems that do not exist, with labelled faults and windows without any: as many as the statistics need.

The public sets hold a dozen cases of each system. With so few, a calibration error is mostly sampling noise,
and whatever is fitted to them is fitted to a handful of faults. Here a system is drawn at random (services
and who calls whom, traffic that swells, noise that is correlated and has heavy tails, restarts, sparse
requests, missing kinds of series, short or long histories), then its faults, strong and weak, some without
any trace; and alerts that mean nothing, half of them placed where the alerting series happens to be high. The
same numbers give the same cases. It is development data: what is chosen on it is judged on the public cases,
and how visible its faults are was set so that about as many are found as in all public cases together (0.7).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from bench.rca.cases import Case, FloatArray, Table

SEED = 20260601
BEGINS_AT = 1.7e9  # seconds since 1970
KINDS = ("cpu", "mem", "disk", "latency_average", "client_latency_p90", "error_ratio", "requests", "net_rx")
SHOWN_BY = {
    "cpu": {"cpu"},
    "memory": {"mem"},
    "disk": {"disk"},
    "slow": {"latency_average", "client_latency_p90"},
    "network": {"client_latency_p90"},
    "errors": {"error_ratio"},
    "overload": {"requests", "cpu", "net_rx"},
}
NO_TRACE = "no_trace"
SYMPTOMS = ("latency_average", "client_latency_p90", "error_ratio")
STEPS = (15.0, 30.0, 60.0, 60.0, 300.0)  # seconds
MEGABYTE = 1e6
LATE = (0, 0, 1, 2, 4)  # samples from a fault to its alert
ATTEMPTS = 8  # at a fault that makes the alert fire


@dataclass(frozen=True)
class System:
    """What stays the same in all cases of one system; arrays are by service, service 0 is the entry.

    `calls[i, j]` is how often a request of i calls j (always i < j), `noise` and `memory` by service, the
    rest for the system as a whole.
    """

    name: str
    calls: FloatArray
    rate: float  # requests per second at the entry
    swell: float  # of the rate: amplitude of the season
    season: float  # samples
    persistence: float  # of the noise from one sample to the next
    tails: float  # degrees of freedom of the noise
    noise: FloatArray
    own_latency: FloatArray  # seconds
    failing: FloatArray  # share of requests that usually fail
    cpu: FloatArray
    memory: FloatArray
    restarts: float  # per service and sample
    disturbances: float  # likewise: jobs, pauses, rollouts, troubles that nobody was called for
    disturbed_by: float  # the mean of the logarithm of their size
    warm_up: int  # samples at the beginning of what is known, while it had just started
    size: float  # of its faults: the mean of its logarithm
    traceless: float  # share of its faults that leave no trace
    kinds: tuple[str, ...]
    measured: tuple[int, ...]
    step: float
    before: int
    after: int
    names_alert: bool
    knows_graph: bool

    @property
    def services(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(f"s{number:02d}" for number in range(len(self.calls)))

    @property
    def faults(self) -> tuple[str, ...]:
        """Those that its kinds of series can show."""
        return tuple(fault for fault, kinds in SHOWN_BY.items() if kinds & {*self.kinds})


@dataclass(frozen=True)
class Labelled:
    """One case and its truth: the faulty service, empty where nothing was injected.

    `disturbed`: the services in which something else happened, from the earliest onset of an alert on.
    """

    case: Case
    service: str
    fault: str
    disturbed: frozenset[str] = frozenset()


def draw_system(number: int) -> System:
    """The system of this number."""
    draw = np.random.default_rng([SEED, number])
    count = int(np.round(np.exp(draw.uniform(np.log(2), np.log(25)))))
    calls = np.zeros((count, count))
    for callee in range(1, count):
        for caller in set(draw.integers(0, callee, size=1 + (draw.random() < 0.25)).tolist()):
            calls[caller, callee] = draw.uniform(0.2, 1.0)
    rich = draw.random()
    kinds = [kind for kind in KINDS if draw.random() < rich]
    kinds = sorted({*kinds, "latency_average" if draw.random() < 0.7 else "error_ratio"}, key=KINDS.index)
    short = draw.random() < 0.5
    return System(
        name=f"synthetic-{number:03d}",
        calls=calls,
        rate=float(np.exp(draw.uniform(np.log(0.2), np.log(200)))),
        swell=float(draw.choice([0.0, draw.uniform(0.05, 0.5)])),
        season=float(draw.uniform(20, 300)),
        persistence=float(draw.uniform(0.0, 0.9)),
        tails=float(draw.choice([2.5, 4.0, 30.0])),
        noise=np.exp(draw.uniform(np.log(0.01), np.log(0.3), size=count)),
        own_latency=np.exp(draw.uniform(np.log(0.003), np.log(0.3), size=count)),
        failing=draw.choice([0.0, 0.001, 0.01], size=count),
        cpu=draw.uniform(0.02, 0.6, size=count),
        memory=np.exp(draw.uniform(np.log(30), np.log(2000), size=count)) * MEGABYTE,
        restarts=float(draw.choice([0.0, 0.0005, 0.003])),
        disturbances=float(draw.choice([0.0, 0.0, 0.01, 0.05, 0.2])) / count,
        disturbed_by=float(draw.normal(0.7, 1.0)),
        warm_up=int(draw.choice([0, 0, 0, 3, 6])),
        size=float(draw.normal(1.5, 0.8)),
        traceless=float(draw.beta(0.5, 3.0)),
        kinds=tuple(kinds),
        measured=tuple(row for row in range(count) if row == 0 or draw.random() < 0.95),
        step=float(draw.choice(STEPS)),
        before=int(draw.integers(18, 60) if short else draw.integers(60, 200)),
        after=int(draw.integers(2, 12)),
        names_alert=bool(draw.random() < 0.6),
        knows_graph=bool(draw.random() < 0.85),
    )


def draw_cases(system: System, count: int, first: int = 0) -> Iterator[Labelled]:
    """Cases with a fault."""
    number = int(system.name.rpartition("-")[2])
    for index in range(first, first + count):
        name, found = f"{system.name}/{index:04d}", None
        for attempt in range(ATTEMPTS):
            draw = np.random.default_rng([SEED, number, 1, index, attempt])
            fault = str(draw.choice(system.faults))
            if np.random.default_rng([SEED, number, 3, index]).random() < system.traceless:
                fault = NO_TRACE
            found = _Story(system, draw, f"{name}_{fault}").faulty(fault)
            if fires(found.case):
                break
        if found is not None:
            yield found


def draw_quiet(system: System, count: int, first: int = 0) -> Iterator[Labelled]:
    """Windows without a fault, with an alert that means nothing."""
    number = int(system.name.rpartition("-")[2])
    for index in range(first, first + count):
        draw = np.random.default_rng([SEED, number, 2, index])
        yield _Story(system, draw, f"{system.name}/{index:04d}_quiet").quiet()


def fires(case: Case) -> bool:
    """Whether the series that alerts, if any, is high around the alert: else no rule would have fired."""
    if not case.alert_kind:
        return True
    course = case.table.values[:, case.table.columns.index(f"{case.alert_service}|{case.alert_kind}")]
    at = int(np.searchsorted(case.table.times, case.alerted_at))
    before, around = course[: at // 2], course[max(0, at - 1) : at + 2]
    before, around = before[np.isfinite(before)], around[np.isfinite(around)]
    if not len(before) or not len(around):
        return False
    spread = np.quantile(before, 0.84) - np.median(before)
    least = 0.01 if case.alert_kind == "error_ratio" else 0.1 * np.median(before)
    return bool(np.mean(around) > np.median(before) + max(3 * spread, least))


class _Story:
    """One stretch of a system's life: what happens in it, and the series that record it."""

    def __init__(self, system: System, draw: np.random.Generator, name: str) -> None:
        self.system, self.draw, self.name = system, draw, name
        self.length = system.before + system.after + (system.after if "quiet" in name else 0)
        shape = (self.length, len(system.calls))
        self.busy = np.ones(shape)  # times the usual traffic
        self.burnt = np.zeros(shape)  # cores
        self.hoarded = np.zeros(shape)  # bytes
        self.filled = np.zeros(shape)  # of the disk
        self.slower = np.zeros(shape)  # seconds of its own
        self.on_the_way = np.zeros(shape)  # seconds that its callers wait besides
        self.broken = np.zeros(shape)  # share of requests
        self.disturbed: list[tuple[int, slice]] = []  # service and samples
        self.unseen = -1  # the service whose symptoms nobody measures

    def faulty(self, fault: str) -> Labelled:
        """With a fault in one service, an alert at one that suffers, and perhaps a restart elsewhere."""
        system, draw = self.system, self.draw
        root = int(draw.choice(system.measured))
        alert_at = system.before
        late = int(draw.choice(LATE))
        began = max(alert_at - late, system.before // 2)
        lasts = self.length if draw.random() < 0.7 else began + max(2, late + int(draw.integers(1, 6)))
        ill = slice(began, min(lasts, self.length))
        size = float(np.exp(draw.normal(system.size, 0.7)))
        self._break(root, ill, fault, size)
        self._disturb()
        values = self._series()
        suffering = [row for row in self._callers_of(root) if row in system.measured]
        alerting = 0 if draw.random() < 0.6 else int(draw.choice(suffering))
        case = self._case(values, alert_at, alerting)
        return Labelled(case, system.services[root], fault)

    def quiet(self) -> Labelled:
        """An alert in the middle of nothing; half of them where the alerting series is at its highest."""
        system, draw = self.system, self.draw
        self._disturb()
        values = self._series()
        alerting = 0 if draw.random() < 0.6 else int(draw.choice(system.measured))
        alert_at = system.before
        case = self._case(values, alert_at, alerting)
        column = f"{case.alert_service}|{case.alert_kind}"
        if case.alert_kind and draw.random() < 0.5:
            course = np.nan_to_num(case.table.values[:, case.table.columns.index(column)])
            alert_at += int(np.argmax(course[alert_at : alert_at + system.after]))
        stop = alert_at + system.after
        table = Table(case.table.times[:stop], case.table.columns, case.table.values[:stop])
        case = replace(case, table=table, alerted_at=float(table.times[alert_at]))
        return Labelled(case, "", "quiet", self._disturbed(slice(alert_at - max(LATE), stop)))

    def _break(self, root: int, ill: slice, fault: str, size: float) -> None:
        system, draw = self.system, self.draw
        span = len(range(*ill.indices(self.length)))
        growing = np.linspace(1 / max(span, 1), 1.0, span) if draw.random() < 0.3 else np.ones(span)
        latency = system.own_latency[root]
        if fault == "cpu":
            self.burnt[ill, root] += growing * size * system.cpu[root]
            self.slower[ill, root] += growing * latency * size * draw.uniform(0, 1)
        elif fault == "memory":
            self.hoarded[ill, root] += growing * size * 0.4 * system.memory[root]
            self.slower[ill, root] += growing * latency * size * draw.uniform(0, 1)
        elif fault == "disk":
            self.filled[ill, root] += growing * min(0.2 * size, 0.9)
            self.slower[ill, root] += growing * latency * size * draw.uniform(0, 1)
        elif fault == "slow":
            self.slower[ill, root] += growing * latency * size
        elif fault == "network":
            self.on_the_way[ill, root] += growing * np.maximum(latency * size, 0.002 * size)
        elif fault == "errors":
            self.broken[ill, root] += growing * min(0.08 * size, 1.0)
            self.slower[ill, root] += growing * latency * draw.choice([0.0, 0.5])
        elif fault == NO_TRACE and system.names_alert:
            self.slower[ill, root] += growing * latency * size
            self.unseen = root
        elif fault == "overload":
            self.busy[ill, root] *= 1 + growing * size
            self.slower[ill, root] += growing * latency * size * draw.uniform(0, 1)

    def _disturb(self) -> None:
        """What happens anyway: a restart frees memory and costs a moment of CPU and some latency."""
        system, draw = self.system, self.draw
        warm = slice(0, system.warm_up)
        self.burnt[warm] += system.cpu * draw.uniform(0, 3, size=len(system.cpu))
        self.hoarded[warm] -= 0.3 * system.memory
        for at, row in zip(*np.nonzero(draw.random(self.busy.shape) < system.disturbances), strict=True):
            kind, size = (
                str(draw.choice(tuple(SHOWN_BY))),
                float(np.exp(draw.normal(system.disturbed_by, 0.6))),
            )
            span = slice(int(at), int(at) + int(draw.integers(1, 8)))
            self.disturbed.append((int(row), span))
            self._break(int(row), span, kind, size)
        for at, row in zip(*np.nonzero(draw.random(self.busy.shape) < system.restarts), strict=True):
            self.disturbed.append((int(row), slice(int(at), int(at) + 2)))
            self.hoarded[at:, row] -= 0.3 * system.memory[row] * draw.random()
            self.burnt[at : at + 2, row] += system.cpu[row] * draw.uniform(0.5, 3)
            self.slower[at : at + 2, row] += system.own_latency[row] * draw.uniform(0, 2)

    def _disturbed(self, window: slice) -> frozenset[str]:
        """The services in which something happened within these samples."""
        rows = {row for row, span in self.disturbed if span.start < window.stop and span.stop > window.start}
        return frozenset(self.system.services[row] for row in rows)

    def _callers_of(self, root: int) -> list[int]:
        """The service and all whose requests can reach it."""
        found = {root}
        for row in range(root, -1, -1):
            if any(self.system.calls[row, callee] > 0 for callee in found):
                found.add(row)
        return sorted(found)

    def _wander(self) -> FloatArray:
        """Factors around 1 by sample and service: correlated in time, with heavy tails and lone outliers."""
        system, draw = self.system, self.draw
        shocks = draw.standard_t(system.tails, size=self.busy.shape)
        shocks /= np.sqrt(system.tails / (system.tails - 2))
        held = system.persistence
        course = np.empty_like(shocks)
        course[0] = shocks[0]
        for at in range(1, self.length):
            course[at] = held * course[at - 1] + np.sqrt(1 - held**2) * shocks[at]
        return np.exp(np.clip(course, -8, 8) * system.noise)

    def _series(self) -> dict[str, FloatArray]:
        """What is recorded of every service, by kind: (sample, service)."""
        system, draw = self.system, self.draw
        count = len(system.calls)
        when = np.arange(self.length) + draw.uniform(0, system.season)
        arriving = np.zeros(self.busy.shape)
        arriving[:, 0] = system.rate * (1 + system.swell * np.sin(2 * np.pi * when / system.season))
        for row in range(count):
            arriving[:, row] *= self.busy[:, row]
            arriving += arriving[:, [row]] * system.calls[row]
        taken, seen, broken = (np.zeros(self.busy.shape) for _ in range(3))
        own = system.own_latency * self._wander() + self.slower
        for row in range(count - 1, -1, -1):
            callees = system.calls[row]
            taken[:, row] = own[:, row] + seen @ callees
            seen[:, row] = taken[:, row] + self.on_the_way[:, row]
            fine = np.prod(1 - broken * callees, axis=1)
            broken[:, row] = 1 - fine * (1 - np.clip(system.failing[row] + self.broken[:, row], 0, 1))
        requests = draw.poisson(np.clip(arriving * system.step, 0, 1e9))
        served = np.where(requests > 0, requests, np.nan)
        spread = 1 + 1.5 * draw.normal(size=self.busy.shape) / np.sqrt(np.maximum(served, 1))
        wide = 1 + 3.0 * draw.normal(size=self.busy.shape) / np.sqrt(np.maximum(served, 1))
        usual = arriving[: system.before].mean(axis=0) + 1e-9
        follows = draw.uniform(0.3, 1.0)
        return {
            "cpu": (system.cpu * (1 - follows + follows * arriving / usual) + self.burnt) * self._wander(),
            "mem": np.maximum(system.memory * (1 + 0.1 * np.log(self._wander())) + self.hoarded, MEGABYTE),
            "disk": 0.05 + 1e-4 * np.arange(self.length)[:, None] + self.filled,
            "latency_average": np.where(np.isnan(served), np.nan, taken * np.maximum(spread, 0.1)),
            "client_latency_p90": np.where(np.isnan(served), np.nan, 2 * seen * np.maximum(wide, 0.1)),
            "error_ratio": draw.binomial(requests, np.clip(broken, 0, 1)) / served,
            "requests": requests / system.step,
            "net_rx": arriving * 2e3 * self._wander(),
        }

    def _case(self, values: dict[str, FloatArray], alert_at: int, alerting: int) -> Case:
        system = self.system
        columns, parts = [], []
        for row in system.measured:
            for kind in system.kinds:
                if row == self.unseen and kind in SYMPTOMS and row != alerting:
                    continue
                columns.append(f"{system.services[row]}|{kind}")
                parts.append(values[kind][:, row])
        times = BEGINS_AT + system.step * np.arange(self.length)
        kind = next((name for name in ("latency_average", "error_ratio") if name in system.kinds), "")
        if kind == "latency_average" and "error_ratio" in system.kinds:
            broken = values["error_ratio"]
            worse = np.nanmean(broken[alert_at:, alerting]) - np.nanmean(broken[:alert_at, alerting])
            kind = "error_ratio" if worse > 0.01 else kind
        names = system.services
        calls = [(names[a], names[b]) for a, b in zip(*np.nonzero(system.calls), strict=True)]
        return Case(
            id=self.name,
            system=system.name,
            table=Table(times, tuple(columns), np.column_stack(parts)),
            alerted_at=float(times[alert_at]),
            alert_service=names[alerting],
            alert_kind=kind if system.names_alert else "",
            calls=tuple(calls) if system.knows_graph else (),
            changes=(),
            step=system.step,
        )
