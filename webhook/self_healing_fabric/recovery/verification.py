"""Did it heal? Only fresh samples can say so.

"Resolved" is not "healed": a series that vanishes with its target resolves the alert one second after the
target died. So the samples are read as Prometheus stored them, each with its own time, and only those count
whose whole window lies after the action. Healed means: every signal of the incident inside its limit, without
a gap, up to now, for the whole stability window, and where the target tells its start time, a start after the
action. Everything else is some kind of no, and at the deadline it is said which; that a service is worse
than before the action is said at once, for then there may be something to take back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from self_healing_fabric.incidents.evidence import Evidence, Limit, compared, is_outside, limit_of
from self_healing_fabric.settings import Settings
from shf_queries import PrometheusClient, QueryError, Sample, Series, catalogue
from shf_queries.catalogue import HEARTBEAT, SIGNALS, Signal

SHORT_WINDOW_SCRAPES = 4  # the rules' short window, in scrape intervals
MAX_GAP_INTERVALS = 3  # missing evaluations that are still no gap
SCRAPES_BEGIN = 10.0  # seconds after the rules: a Prometheus that starts hands its targets on twice, each 5 s
MAX_LOOK_BACK = 1800.0  # seconds of raw samples asked for at most
MUCH_WORSE = 1.5  # times as far as before; what failed already must grow by so much to be called worse


class Verdict(StrEnum):
    """Of a verification."""

    HEALED = "healed"
    NOT_HEALED = "not_healed"
    RELAPSED = "relapsed"
    NO_EVIDENCE = "no_evidence"


class Health(StrEnum):
    """What the newest samples say, before an action."""

    FAILING = "failing"
    CALM = "calm"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Look:
    """One look: `verdict` is None while it is too early to tell."""

    verdict: Verdict | None
    statement: str
    evidence: tuple[Evidence, ...]
    worse: bool = False  # than before the action

    def as_dict(self) -> dict[str, Any]:
        """The look as JSON, for the timeline."""
        return {
            "verdict": self.verdict.value if self.verdict else None,
            "worse": self.worse,
            "evidence": [evidence.as_dict() for evidence in self.evidence],
        }


@dataclass(frozen=True)
class Run:
    """What the fresh samples of one signal say.

    Attributes:
        good_for, bad_for: seconds for which the newest samples have been inside the limit, or outside,
            without a gap, up to now.
        good_now, bad_now: on which side of the limit a current sample lies; both False without one.
        ever_good, ever_bad: whether any fresh sample was inside or outside.
    """

    signal: Signal
    evidence: Evidence | None
    good_for: float = 0.0
    bad_for: float = 0.0
    good_now: bool = False
    bad_now: bool = False
    ever_good: bool = False
    ever_bad: bool = False


Restarted = tuple[bool, Evidence | None]  # whether the target runs a new process, and what shows it


class Verifier:
    """Asks Prometheus about the signals of one service.

    Args:
        client: for the questions.
        settings: the configuration.
        require_clocks: raises QueryError where the times of samples and of actions cannot be compared.
        live: whether Prometheus records as time passes, and may have been away meanwhile; what a replay
            computes is whole.
    """

    def __init__(
        self,
        client: PrometheusClient,
        settings: Settings,
        require_clocks: Callable[[], None] = lambda: None,
        *,
        live: bool = True,
    ) -> None:
        self._client = client
        self._require_clocks = require_clocks
        self._settings = settings
        self._live = live
        prometheus = settings.prometheus
        self._max_gap = MAX_GAP_INTERVALS * max(prometheus.scrape_interval, prometheus.evaluation_interval)

    def health(
        self, service: str, signals: Collection[str], now: float
    ) -> tuple[Health, tuple[Evidence, ...]]:
        """Does it still fail? Ask the newest samples again, right before an effect. Raises QueryError.

        The first ones after a gap do not know: a Prometheus that was away evaluates its rules at once, on
        what it had scraped and recorded before, up to 5 min old.
        """
        self._require_credible(service, now)
        watched = [SIGNALS[name] for name in sorted(signals)]
        # Between two requests of a seldom used service nothing is in the window, and that is no gap: then the
        # heartbeat tells, if the service has one.
        telling = [HEARTBEAT if signal.windowed else signal for signal in watched]
        # A scrape that fails is seen when its timeout is over.
        late = self._settings.prometheus.scrape_interval + SCRAPES_BEGIN
        unsure = [self._settle(signal) + late for signal in watched]
        seconds = max(unsure, default=0.0) + 2 * self._max_gap
        stored = {signal.name: self._stored(service, signal, seconds, now) for signal in {*watched, *telling}}
        runs = [self._run_of(service, signal, stored[signal.name], now) for signal in watched]
        known = [
            run
            for run, teller, least in zip(runs, telling, unsure, strict=True)
            if self._recorded_for(stored[teller.name]) >= least
        ]
        evidence = tuple(run.evidence for run in runs if run.evidence)
        if any(run.bad_now for run in known):
            return Health.FAILING, evidence
        if runs and len(known) == len(runs) and all(run.good_now for run in known):
            return Health.CALM, evidence
        return Health.UNKNOWN, evidence

    def _require_credible(self, service: str, now: float) -> None:
        """Raise QueryError where the samples of a stability window tell of other times than their own."""
        self._require_clocks()
        window = self._settings.verification.stability + self._max_gap
        step = self._settings.prometheus.evaluation_interval
        if self._live and self._client.instant(
            catalogue.left_over_of(service, self._max_gap, within=window, step=step), at=now
        ):
            raise QueryError(
                f"Prometheus was away, and what it records of {service} still comes in part from before"
            )

    def _recorded_for(self, stored: Sequence[Series]) -> float:
        """Seconds for which Prometheus has recorded it without a gap, up to the newest sample."""
        return min((self._lasted(np.full(each.times.size, True), each) for each in stored), default=math.inf)

    def failing(self, signals: Mapping[str, Collection[str]], now: float) -> frozenset[str]:
        """The services of which one of these signals is outside its limit now, in one query. Raises
        QueryError."""
        self._require_clocks()
        samples = self._client.instant(catalogue.all_signals_of(sorted(signals)), at=now)
        by_name: dict[tuple[str, str], list[Sample]] = {}
        for sample in samples:
            place = sample.labels.get("service", ""), sample.labels.get("__name__", "")
            by_name.setdefault(place, []).append(sample)

        def is_failing(service: str, signal: Signal) -> bool:
            limit_for = self._limits_by(
                service, signal, by_name.get((service, signal.baseline_series or ""), [])
            )
            return any(
                (limit := limit_for(sample.labels)) is not None
                and math.isfinite(sample.value)
                and is_outside(signal, sample.value, limit.value)
                for sample in by_name.get((service, signal.fresh_series), [])
            )

        return frozenset(
            service
            for service, names in signals.items()
            if any(is_failing(service, SIGNALS[n]) for n in names)
        )

    def relapse(
        self, service: str, signals: Collection[str], *, since: float, now: float
    ) -> tuple[Evidence, ...]:
        """What shows that it fails again: signals that have been outside their limits for the whole stability
        window; nothing when none has. Raises QueryError.

        Failing must last as long as healing must, so that a blip is none.
        """
        self._require_credible(service, now)
        runs = [self._run(service, SIGNALS[name], since, now) for name in sorted(signals)]
        stability = self._settings.verification.stability
        return tuple(run.evidence for run in runs if run.evidence and run.bad_for >= stability)

    def look(
        self, service: str, signals: Collection[str], *, since: float, deadline: float | None, now: float,
        acted: bool = False, started_before: float | None = None, before: Mapping[str, float] | None = None,
    ) -> Look:  # fmt: skip
        """Look at the fresh samples since an action (or since watching began). Raises QueryError.

        Args:
            service: a configured service.
            signals: names of the signals that must be inside their limits; the heartbeat always must.
            since: when the action ended, seconds since 1970.
            deadline: when to say what it is if it is not healed; None to watch without end.
            now: seconds since 1970.
            acted: whether it began with an action; else nobody is told of one.
            started_before: the start time that the target must have left behind, or None.
            before: the signals' values before the action, from `condition`; without them nothing is called
                worse.
        """
        self._require_credible(service, now)
        watched = [SIGNALS[name] for name in sorted({HEARTBEAT.name, *signals})]
        runs = [self._run(service, signal, since + self._settle(signal), now) for signal in watched]
        evidence = [run.evidence for run in runs if run.evidence]
        stability = self._settings.verification.stability
        shortest = min(run.good_for for run in runs)
        restarted = self._restarted(service, started_before, now)
        if restarted is not None and restarted[1] is not None:
            evidence.append(restarted[1])
        worse = [] if before is None else self._worse(service, before, since, now)
        if worse:
            told = ", ".join(
                f"{each.signal.name} was {(before or {})[each.signal.name]:.3g}" for each in worse
            )
            statement = f"Not healed, and worse than before the action: {told}."
            evidence += [each.evidence for each in worse if each.evidence and each.evidence not in evidence]
            return Look(Verdict.NOT_HEALED, statement, tuple(evidence), worse=True)
        if shortest >= stability and (restarted is None or restarted[0]):
            samples = "samples newer than the action" if acted else "fresh samples"
            statement = f"Healed: inside all limits for {shortest:.0f} s, on {samples}."
            return Look(Verdict.HEALED, statement, tuple(evidence))
        # What has just come inside may still fill its window: that is neither in turns nor no evidence.
        filling = all(run.good_now for run in runs) and (restarted is None or restarted[0])
        if deadline is None or now < deadline + filling * (stability + self._max_gap):
            statement = f"Inside all limits for {shortest:.0f} of {stability:.0f} s."
            return Look(None, statement, tuple(evidence))
        verdict, why = _at_deadline(runs, restarted)
        return Look(verdict, why, tuple(evidence))

    def condition(self, service: str, now: float) -> Mapping[str, float]:
        """The value of each signal that has one now, the worst of several series. Raises QueryError."""
        samples = self._client.instant(catalogue.all_signals_of([service]), at=now)
        found: dict[str, float] = {}
        for signal in SIGNALS.values():
            values = [
                sample.value
                for sample in samples
                if sample.labels.get("__name__") == signal.fresh_series and math.isfinite(sample.value)
            ]
            if values:
                found[signal.name] = max(values) if signal.higher_is_worse else min(values)
        return found

    def _worse(self, service: str, before: Mapping[str, float], since: float, now: float) -> list[Run]:
        """The signals that have been outside their limits for a whole stability window since the action, and
        were inside before it or not nearly as far out. What was not measured before is not compared."""
        stability, found = self._settings.verification.stability, []
        for name, value in self.condition(service, now).items():
            signal, fresh_from = SIGNALS[name], since + self._settle(SIGNALS[name])
            if name not in before or now - fresh_from < stability or not _grew(signal, before[name], value):
                continue
            run = self._run(service, signal, fresh_from, now)
            limit = self._limits(service, signal, now)({"service": service})
            newly = limit is not None and not is_outside(signal, before[name], limit.value)
            far = abs(value) >= MUCH_WORSE * abs(before[name]) if signal.higher_is_worse else True
            if run.bad_now and not run.ever_good and (newly or far):
                found.append(run)
        return found

    def start_time(self, service: str, now: float) -> float | None:
        """When the newest process of the service started, or None when it does not export that."""
        samples = self._client.instant(catalogue.start_time_of(service), at=now)
        return samples[0].value if samples else None

    def _settle(self, signal: Signal) -> float:
        """Seconds after an action in which a sample may still contain what was before it."""
        prometheus = self._settings.prometheus
        scrapes = SHORT_WINDOW_SCRAPES if signal.windowed else 1
        return scrapes * prometheus.scrape_interval + prometheus.evaluation_interval

    def _restarted(self, service: str, before: float | None, now: float) -> Restarted | None:
        if before is None:
            return None
        current = self.start_time(service, now)
        if current is None:
            return False, None  # it told its start before: silence is no proof of a new one
        statement = f"{service} was started {'anew' if current > before else 'before the action'}."
        return current > before, Evidence(statement, catalogue.start_time_of(service), current, now)

    def _run(self, service: str, signal: Signal, fresh_from: float, now: float) -> Run:
        seconds = min(now - fresh_from, MAX_LOOK_BACK)
        if seconds <= 0:
            return Run(signal, None)
        return self._run_of(service, signal, self._stored(service, signal, seconds, now), now)

    def _stored(self, service: str, signal: Signal, seconds: float, now: float) -> Sequence[Series]:
        query = catalogue.series_of(signal.fresh_series, service)
        return [item for item in self._client.raw(query, seconds=seconds, at=now) if item.times.size]

    def _run_of(self, service: str, signal: Signal, stored: Sequence[Series], now: float) -> Run:
        if not stored:
            return Run(signal, None)
        limit_for = self._limits(service, signal, now)
        query = catalogue.series_of(signal.fresh_series, service)
        runs = [self._run_of_one(item, signal, limit_for(item.labels), query, now) for item in stored]
        # The worst of several series (clusters, namespaces) speaks for the service.
        return min(runs, key=lambda run: (run.good_for, not run.bad_now))

    def _run_of_one(self, series: Series, signal: Signal, limit: Limit | None, query: str, now: float) -> Run:
        if limit is None:
            return Run(signal, None)
        good = np.array([not is_outside(signal, value, limit.value) for value in series.values], dtype=bool)
        finite = np.isfinite(series.values)
        good &= finite
        last, value = float(series.times[-1]), float(series.values[-1])
        current = now - last <= self._max_gap
        # JSON knows neither NaN nor infinity, and neither is a measurement.
        evidence = Evidence(f"{compared(signal, value, limit)}.", query, value, last)
        return Run(
            signal,
            evidence if math.isfinite(value) else None,
            good_for=self._lasted(good, series) if current else 0.0,
            bad_for=self._lasted(~good & finite, series) if current else 0.0,
            good_now=bool(good[-1] and current),
            bad_now=bool(not good[-1] and current and math.isfinite(value)),
            ever_good=bool(good.any()),
            ever_bad=bool((~good).any()),
        )

    def _lasted(self, so: npt.NDArray[np.bool_], series: Series) -> float:
        """Seconds for which the newest samples have all been so, without a gap."""
        if not so[-1]:
            return 0.0
        breaks = np.flatnonzero(~so[:-1] | (np.diff(series.times) > self._max_gap))
        return float(series.times[-1] - series.times[int(breaks[-1]) + 1 if breaks.size else 0])

    def _limits(
        self, service: str, signal: Signal, now: float
    ) -> Callable[[Mapping[str, str]], Limit | None]:
        """The limit for the series with the given labels: each namespace is held against its own baseline."""
        if signal.baseline_series is None:
            return self._limits_by(service, signal, ())
        samples = self._client.instant(catalogue.series_of(signal.baseline_series, service), at=now)
        return self._limits_by(service, signal, samples)

    def _limits_by(
        self, service: str, signal: Signal, baseline: Iterable[Sample]
    ) -> Callable[[Mapping[str, str]], Limit | None]:
        thresholds = self._settings.thresholds_of(service)
        # Nothing is outside a limit of NaN: such a baseline is none.
        baselines = {_identity(each.labels): each.value for each in baseline if math.isfinite(each.value)}
        return lambda labels: limit_of(signal, thresholds, baselines.get(_identity(labels)))


def _grew(signal: Signal, before: float, now: float) -> bool:
    return now > before if signal.higher_is_worse else now < before


def _identity(labels: Mapping[str, str]) -> frozenset[tuple[str, str]]:
    return frozenset((name, value) for name, value in labels.items() if name != "__name__")


def _at_deadline(runs: list[Run], restarted: Restarted | None) -> tuple[Verdict, str]:
    bad = [run for run in runs if run.bad_now]
    if bad:
        names = ", ".join(run.signal.name for run in bad)
        if all(run.ever_good for run in bad):
            return Verdict.RELAPSED, f"Relapsed: {names} had recovered and is outside its limit again."
        return Verdict.NOT_HEALED, f"Not healed: {names} is still outside its limit at the deadline."
    silent = [run.signal.name for run in runs if not (run.good_now or run.bad_now)]
    if silent:
        return Verdict.NO_EVIDENCE, f"No evidence: no fresh, unbroken samples of {', '.join(silent)}."
    if restarted == (False, None):
        return Verdict.NO_EVIDENCE, "No evidence: the target no longer tells when it was started."
    if restarted is not None and not restarted[0]:
        return Verdict.NOT_HEALED, "Not healed: the target still runs the process from before the action."
    if any(run.ever_bad for run in runs):
        return Verdict.RELAPSED, "Relapsed: inside and outside the limits in turns until the deadline."
    return Verdict.NO_EVIDENCE, "No evidence: the samples inside the limits do not fill the stability window."


def watched_signals(alert_labels: Collection[Mapping[str, str]]) -> tuple[str, ...]:
    """The known signals that the alerts of an incident name."""
    return tuple(sorted({labels["signal"] for labels in alert_labels if labels.get("signal") in SIGNALS}))
