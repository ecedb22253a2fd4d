"""The fabric at work on a history: its own steps, on a clock that jumps from one event to the next.

Correlation, diagnosis, planning, guardrails and escalation are the product's own; they find a store of the
replay's own, the replayed time, and a Prometheus that answers for it. Only one thing cannot be replayed: what
would have become of a service that was acted on. So from a disruptive action on nothing more is done for the
incident. It is watched as the product watches what people took over, until history says that the service is
inside its limits again, and nobody is called for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import blake2s
from pathlib import Path
from tempfile import TemporaryDirectory

from self_healing_fabric.incidents.ingestion import identity_time, store_alerts
from self_healing_fabric.incidents.lifecycle import Outcome, State, Transition
from self_healing_fabric.incidents.models import Alert, Incident
from self_healing_fabric.incidents.timeline import Entry, Kind
from self_healing_fabric.integration.lifecycle import Fabric
from self_healing_fabric.orchestration.context import Context
from self_healing_fabric.orchestration.diagnosis_verdicts import Calibrator
from self_healing_fabric.orchestration.escalation_manager import watch_from
from self_healing_fabric.orchestration.healing_orchestrator import HealingOrchestrator
from self_healing_fabric.orchestration.leases import Leases
from self_healing_fabric.orchestration.service_graph import ServiceGraph
from self_healing_fabric.orchestration.steps.common import Step, facts_of, look_interval
from self_healing_fabric.orchestration.steps.verifying import look_at, resolve, split_unhealed
from self_healing_fabric.recovery.verification import Verdict, Verifier
from self_healing_fabric.replay.detection import Told
from self_healing_fabric.replay.history import HistoricalPrometheus
from self_healing_fabric.replay.surroundings import ReplayedStrategy, unasked_sources
from self_healing_fabric.settings import Settings
from self_healing_fabric.store import statements

PUT_ASIDE = (
    "What would have become of it is unknown: a replay performs nothing. It is watched as history went."
)
GRAPH_AGE = 10.0  # seconds after which the service graph is asked again, as the fabric does
END_OF_LABEL = "\0"


class Clock:
    """The replayed time, in seconds since 1970. It only goes forward."""

    def __init__(self, now: float) -> None:
        self._now = now

    def __call__(self) -> float:
        return self._now

    def move(self, to: float) -> None:
        """Go on; back never."""
        self._now = max(self._now, to)


class _Orchestrator(HealingOrchestrator):
    """The product's, but for what follows an effect that never happened."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._replayed = context

    def decide(self, incident: Incident) -> Step:
        """The step of the incident's state; after an action that was not performed, only watching."""
        if incident.state is State.VERIFYING and self._follows_an_effect(incident):
            return _watch_history(incident, self._replayed)
        return super().decide(incident)

    def _follows_an_effect(self, incident: Incident) -> bool:
        action = (incident.verification or {}).get("action")
        rows = self._replayed.store.read(lambda connection: statements.actions_of(connection, incident.id))
        return any(row.id == action and row.disruptive for row in rows)


def _watch_history(incident: Incident, context: Context) -> Step:
    """As verification does, but no verdict is one on the action; at its end nobody is called."""
    facts = facts_of(incident, context)
    look = look_at(incident, context, facts)
    if look.verdict is Verdict.HEALED:
        calm = Entry(Kind.VERIFICATION, "In history it was inside all limits again.", look.as_dict())
        return Step(resolve(context, Outcome.RECOVERED, calm), also=split_unhealed(incident, context, facts))
    if context.clock() < (incident.verification or {})["deadline"]:
        return Step(Transition(State.VERIFYING, look_interval(context)))
    changes = {"plan": [], "level_due_at": None, **watch_from(context.clock())}
    aside = Transition(State.ESCALATED, look_interval(context), (Entry(Kind.NOTE, PUT_ASIDE),), changes)
    return Step(aside)


@contextmanager
def replayed_fabric(settings: Settings, prometheus: HistoricalPrometheus, clock: Clock) -> Iterator[Context]:
    """A fabric with a store of its own, which is gone afterwards, and surroundings that do nothing."""
    with TemporaryDirectory(prefix="shf-replay-") as directory:
        own = {
            "store": f"sqlite:///{Path(directory, 'shf.db')}",
            "store_password_file": None,
            "alertmanager": None,
        }
        fabric = Fabric(settings.model_copy(update=own))
        whole = fabric.context
        try:
            yield replace(
                whole,
                prometheus=prometheus,
                verifier=Verifier(prometheus, whole.settings, live=False),
                strategies={
                    name: ReplayedStrategy(strategy, whole.settings)
                    for name, strategy in whole.strategies.items()
                },
                channels={},
                outside=(),
                gate=None,
                leases=Leases(fabric.store, clock, clock),
                graph=ServiceGraph(whole.settings, prometheus),
                calibrator=Calibrator(fabric.store),
                clock=clock,
                sources=unasked_sources,
            )
        finally:
            fabric.stop()


class Course:
    """A fabric that lives through a history, stretch by stretch."""

    def __init__(self, context: Context, past: HistoricalPrometheus, clock: Clock) -> None:
        self._context = context
        self._past = past
        self._clock = clock
        self._orchestrator = _Orchestrator(context)
        self._asked_graph = -GRAPH_AGE

    def close(self) -> None:
        """End it."""
        self._orchestrator.stop()

    def live(self, told: Sequence[Told], until: float) -> None:
        """Let it hear these alerts, each at its time, and do what falls due, up to `until`.

        Raises HistoryUnavailable when Prometheus does not answer.
        """
        events = [(each.at, _alert(each)) for each in told if each.rule.for_the_fabric]
        position = 0
        while self._clock() <= until:
            position = self._take_in(events, position)
            while claimed := self._orchestrator.claim(1):
                self._orchestrator.work(claimed[0])
                self._past.raise_failure()
            following = self._following(events, position)
            if following is None or following > until:
                self._clock.move(until)
                return
            self._clock.move(following)

    def _following(self, events: Sequence[tuple[float, Alert]], position: int) -> float | None:
        now = self._clock()
        due = self._context.store.read(lambda connection: statements.next_due(connection, now))
        times = [] if due is None else [due]
        if position < len(events):
            times.append(events[position][0])
        return min(times, default=None)

    def _take_in(self, events: Sequence[tuple[float, Alert]], position: int) -> int:
        now, context, new = self._clock(), self._context, []
        while position < len(events) and events[position][0] <= now:
            new.append(events[position][1])
            position += 1
        if now - self._asked_graph >= GRAPH_AGE:
            context.graph.refresh(now)
            self._asked_graph = now
        if new:
            context.store.write(lambda connection: store_alerts(connection, new, now))
        while context.store.read(statements.anything_new):
            self._orchestrator.take_in()
        return position


def _alert(told: Told) -> Alert:
    """The alert as Alertmanager would tell of it."""
    episode = told.episode
    named = END_OF_LABEL.join(f"{name}={value}" for name, value in episode.labels)
    fingerprint = blake2s(named.encode(), digest_size=8).hexdigest()
    starts_at = identity_time(datetime.fromtimestamp(episode.fired_at or episode.active_at, UTC))
    status = "firing" if episode.ended_at is None else "resolved"
    return Alert(fingerprint, starts_at, status, dict(episode.labels), _annotations(told))


def _annotations(told: Told) -> dict[str, str]:
    """The annotations, with the labels and the value that the alert had when it fired."""
    labels = dict(told.episode.labels)
    return {
        name: _TEMPLATE.sub(lambda match: _filled_in(match[1], labels, told.episode.value), text)
        for name, text in told.rule.annotations.items()
        if name == "summary"
    }


def _filled_in(template: str, labels: Mapping[str, str], value: float) -> str:
    """Labels and the value; Prometheus's functions for them are not repeated here."""
    label = re.fullmatch(r"\$labels\.(\w+)", template.strip())
    if label is not None:
        return labels.get(label[1], "")
    return f"{value:.3g}" if template.strip().startswith("$value") else "..."


_TEMPLATE = re.compile(r"\{\{-?(.*?)-?\}\}", re.DOTALL)
