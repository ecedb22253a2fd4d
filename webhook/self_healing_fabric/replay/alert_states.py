"""Pending, firing, resolved: how Prometheus turns the result of an expression into an alert.

An expression that is true is no alert yet (`for`), and one that is no longer true still is one for a while
(`keep_firing_for`). Both are counted in evaluations, not in seconds: an alert fires at the first evaluation
at which `for` has passed since it became pending, and ends at the first at which it may. So the states are
those of Prometheus's AlertingRule.Eval (rules/alerting.go, from 2.42 on, the first with `keep_firing_for`),
one evaluation after the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

Labels = tuple[tuple[str, str], ...]  # sorted


@dataclass(frozen=True)
class Episode:
    """One life of one alert. All times are of evaluations, in seconds since 1970.

    Attributes:
        active_at: since when the expression was true.
        fired_at: since when it fired; None: not yet.
        ended_at: the first evaluation at which it was no alert any more; None: not yet.
        value: of the expression when it fired, or else when it became true.
    """

    labels: Labels
    active_at: float
    value: float
    fired_at: float | None = None
    ended_at: float | None = None


@dataclass(frozen=True)
class _Active:
    episode: Episode
    missing_since: float | None = None


class AlertStates:
    """All alerts of one rule, from evaluation to evaluation.

    Args:
        hold: seconds of `for`.
        keep_firing: seconds of `keep_firing_for`.
    """

    def __init__(self, hold: float, keep_firing: float) -> None:
        self._hold = hold
        self._keep_firing = keep_firing
        self._active: dict[Labels, _Active] = {}
        self.told: list[Episode] = []  # each when it fires, and again when it ends

    def copy(self) -> AlertStates:
        """The same states, to be evaluated differently; nothing is told yet."""
        other = AlertStates(self._hold, self._keep_firing)
        other._active = dict(self._active)
        return other

    @property
    def active(self) -> Mapping[Labels, float]:
        """Since when each alert has been active, those that are pending included."""
        return {labels: alert.episode.active_at for labels, alert in self._active.items()}

    def evaluate(self, at: float, results: Mapping[Labels, float]) -> None:
        """The next evaluation, and what the expression gave."""
        for labels, value in results.items():
            known = self._active.get(labels)
            episode = Episode(labels, at, value) if known is None else known.episode
            if episode.fired_at is None and at - episode.active_at >= self._hold:
                episode = replace(episode, fired_at=at, value=value)
                self.told.append(episode)
            self._active[labels] = _Active(episode)
        for labels in [each for each in self._active if each not in results]:
            alert = self._active[labels]
            since = at if alert.missing_since is None else alert.missing_since
            if alert.episode.fired_at is not None and at - since < self._keep_firing:
                self._active[labels] = replace(alert, missing_since=since)
                continue
            del self._active[labels]
            if alert.episode.fired_at is not None:
                self.told.append(replace(alert.episode, ended_at=at))
