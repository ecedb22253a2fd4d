"""Whatever happens to services, servers and the fabric, in whichever order: nothing that is well is touched,
nobody is called again and again for what is well, and when all is well every incident ends.

The other tests each tell one story. These are drawn: failures that a repair ends or does not, a Prometheus
that is away, targets that refuse, people who decide, modes, silences, other targets and crashes.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from pytest_httpserver import HTTPServer

from self_healing_fabric.errors import DecisionRefused
from self_healing_fabric.guardrails import mode
from self_healing_fabric.incidents.lifecycle import State
from self_healing_fabric.orchestration.decisions import DECISIONS, decide
from self_healing_fabric.orchestration.relapse_watch import look_for_relapses
from self_healing_fabric.settings import Mode
from self_healing_fabric.store import statements
from shf_queries.catalogue import ERROR_RATIO, HEARTBEAT
from world import Target

DEPENDS_ON = {"cart": ("db",), "db": ()}
SIGNALS = {"heartbeat": (HEARTBEAT, 1.0, 0.0), "error_ratio": (ERROR_RATIO, 0.0, 0.1)}  # well, and failing
REPLICAS = 2
STALE = 10.0  # seconds for which what was seen before may still be acted on
LONG_WELL = 60.0  # seconds; all that is decided later knows that it is well
GAPS = (0, 5, 20, 60, 300, 500)  # seconds between two events
EVENTS = 10


class History:
    """Two services, and what happens to them; what is done to them is checked when it is done."""

    def __init__(self, world: Any, elsewhere: Target, seed: int) -> None:
        self.draw = random.Random(seed)  # noqa: S311 (draws stories, no secrets)
        self.world, self.elsewhere = world, elsewhere
        self.failing: dict[tuple[str, str], bool] = {}  # whether a repair ends it
        self.firing: dict[tuple[str, str], str] = {}  # since when, as the rules say
        self.well_since = dict.fromkeys(DEPENDS_ON, world.clock.now)
        self.mode, self.alerts, self.heard = Mode.AUTOMATIC, 0, 0
        self.needless: Counter[tuple[str, float]] = Counter()  # calls for what was well, by its beginning
        self.faults: list[str] = []
        for service, target in world.targets.items():
            target.on_restart = lambda service=service: self._repaired("restart", service)
            target.on_scale = lambda service=service: self._scaled(service)
            world.measure(ERROR_RATIO, 0.0, service)

    def _repaired(self, what: str, service: str) -> None:
        if self.mode in (Mode.PAUSED, Mode.DRY_RUN):
            self.faults.append(f"{what} of {service} in mode {self.mode}")
        if self._well_for(service) > STALE:
            self.faults.append(f"{what} of {service}, which was well")
        for failure in [each for each, heals in self.failing.items() if each[0] == service and heals]:
            self.end(*failure)

    def _scaled(self, service: str) -> None:
        if self.world.targets[service].replicas > REPLICAS:
            self._repaired("scale", service)

    def _well_for(self, service: str) -> float:
        fails = any(name == service for name, _ in self.failing)
        return 0.0 if fails else self.world.clock.now - self.well_since[service]

    def fail(self, service: str, signal: str, *, heals: bool) -> None:
        measured, _, bad = SIGNALS[signal]
        self.failing[service, signal] = heals
        self.world.measure(measured, bad, service)

    def end(self, service: str, signal: str) -> None:
        measured, well, _ = SIGNALS[signal]
        self.failing.pop((service, signal), None)
        self.world.measure(measured, well, service)
        self.well_since[service] = self.world.clock.now

    def happen(self) -> None:
        """One event, then some time."""
        events = {
            self._fail: 6, self._end: 4, self._prometheus: 1, self._decide: 2, self._mode: 3,
            self._refuse: 3, self._crash: 1, self._silence: 1, self._move: 1,
        }  # fmt: skip
        (event,) = self.draw.choices([*events], [*events.values()])
        event()
        self.pass_time(self.draw.choice(GAPS))

    def _fail(self) -> None:
        service, signal = self.draw.choice([*DEPENDS_ON]), self.draw.choice([*SIGNALS])
        self.fail(service, signal, heals=self.draw.random() < 0.7)

    def _end(self) -> None:
        for failure in [*self.failing]:
            self.end(*failure)

    def _prometheus(self) -> None:
        self.world.prometheus.away = None if self.world.prometheus.away else "it does not answer"

    def _decide(self) -> None:
        for incident in self.open()[:1]:
            with suppress(DecisionRefused):
                decide(self.world.context, incident.id, DECISIONS[self.draw.choice([*DECISIONS])], by="ada")

    def _mode(self) -> None:
        self.set_mode(self.draw.choice([*Mode]))

    def set_mode(self, wanted: Mode) -> None:
        self.mode, now = wanted, self.world.clock.now
        self.world.context.store.write(lambda each: mode.change(each, wanted, by="ada", now=now))

    def _refuse(self) -> None:
        target = self.world.targets[self.draw.choice([*DEPENDS_ON])]
        target.answer, target.scale_answer = self.draw.choice([200, 403]), self.draw.choice([200, 403])

    def _crash(self) -> None:
        self.world.crash()

    def _silence(self) -> None:
        self.silence(self.draw.random() < 0.5)

    def silence(self, on: bool) -> None:
        alerts = [row.id for incident in self.open() for row in self.world.alerts_of(incident)]
        self.world.context.store.write(lambda each: statements.set_suppressed(each, alerts, on))

    def _move(self) -> None:
        """Another target in the configuration of the database, and back at the next time."""
        self.world.close()
        recovery = self.world.values["services"]["db"]["recovery"]
        target = self.world.targets["db"]
        if recovery["http"]["restart"] == target.restart_url:
            target = self.elsewhere
        recovery["http"] = urls_of(target)
        self.world.open()

    def open(self) -> list[Any]:
        return [each for each in self.world.incidents() if each.state is not State.CLOSED]

    def pass_time(self, seconds: float) -> None:
        """The rules are evaluated every 5 s, and the loop looks for relapses."""
        end = self.world.clock.now + seconds
        while self.world.clock.now < end:
            self._tell()
            self.world.run(seconds=min(5.0, end - self.world.clock.now), tick=2.5)
            look_for_relapses(self.world.context)
            self._hear()

    def _tell(self) -> None:
        for each in self.failing.keys() - self.firing.keys():
            self.alerts += 1
            self.firing[each] = f"alert {self.alerts}"
            self._notify(each, self.firing[each], "firing")
        for each in self.firing.keys() - self.failing.keys():
            self._notify(each, self.firing.pop(each), "resolved")

    def _notify(self, failure: tuple[str, str], starts_at: str, status: str) -> None:
        service, signal = failure
        alert = self.world.alert(signal=signal, service=service, starts_at=starts_at, status=status)
        self.world.receive(alert)

    def _hear(self) -> None:
        new, self.heard = self.world.calls[self.heard :], len(self.world.calls)
        if self.world.prometheus.away or min(map(self._well_for, DEPENDS_ON)) <= LONG_WELL:
            return
        for call in new:  # one that is about something else that is left to do, one when nobody answers
            self.needless[call.incident_id, max(self.well_since.values())] += 1

    def hinder(self) -> None:
        """The services are well, and something keeps the fabric from taking back what it has lent."""
        self._end()
        self.world.prometheus.away = None
        self.set_mode(self.draw.choice([*Mode]))
        self.world.targets["cart"].scale_answer = 403

    def calm_down(self) -> None:
        """All is well, everything answers, nobody stands in the way."""
        self._end()
        self.world.prometheus.away = None
        self.set_mode(Mode.AUTOMATIC)
        for target in self.world.targets.values():
            target.answer = target.scale_answer = 200
        self._tell()
        self.silence(False)


def urls_of(target: Target) -> dict[str, str]:
    """How a target is restarted and scaled."""
    return {
        "restart": target.restart_url,
        "started_at": target.started_at_url,
        "scale": target.replicas_url,
    }


@pytest.fixture
def history(make_world: Callable[..., Any], httpserver: HTTPServer) -> Callable[[int], History]:
    """Draw one."""

    def drawn(seed: int) -> History:
        world = make_world(
            DEPENDS_ON, plans={"degradation": ["scale", "restart"]}, guardrails={"cooldown": 10}
        )
        world.close()
        for service, target in world.targets.items():
            recovery = {"http": urls_of(target), "scale": {"max": 3, "calm": 100}}
            world.values["services"][service]["recovery"] = recovery
        world.values["relapse_window"] = 60
        world.open()
        return History(world, Target(httpserver, "elsewhere"), seed)

    return drawn


@pytest.mark.parametrize("seed", range(4))
def test_any_history_ends(history: Callable[[int], History], seed: int) -> None:
    """When all is well nothing is left of it: no incident, nobody who waits for the end, no endless calls."""
    drawn = history(seed)
    for _ in range(EVENTS):
        drawn.happen()
    drawn.calm_down()
    drawn.pass_time(300)
    drawn.fail("cart", "error_ratio", heals=True)  # it is lent a replica, where that is possible
    drawn.pass_time(40)
    drawn.hinder()
    drawn.pass_time(900)
    drawn.calm_down()
    for _ in range(20):
        drawn.pass_time(60)
        if not drawn.open():
            break
    assert drawn.faults == []
    assert [(each.service, each.state, each.waiting_for) for each in drawn.open()] == []
    assert {each: number for each, number in drawn.needless.items() if number > 2} == {}
    called = {call.incident_id for call in drawn.world.calls}
    assert called == {call.incident_id for call in drawn.world.ends}
