"""One repeat of a scenario, from the decoy to the calm after it."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bench.scenarios.plan import Planned
from bench.scenarios.results import Result, Told
from bench.scenarios.shop import ShopStack, lane_of, name_of, services_of
from shf_demo.errors import DemoError

POLL = 0.5  # seconds
DETECTION = 45.0  # seconds from the fault to the first notification, and from a notification to a diagnosis
SETTLED = (
    5.0  # seconds without a change of what was diagnosed; the alert of the cause may come after a symptom's
)
QUIET_WINDOW = 45.0  # seconds in which nothing is wrong
CALM = 10.0  # seconds without any alert; longer than what is kept
CALM_DEADLINE = 180.0  # seconds after the end of a fault
KEPT = 8.0  # seconds before the end of the calm that stay in Prometheus, so that no rule looks into a gap
_UNDECIDED = ("detected", "diagnosing")


@dataclass(frozen=True)
class Trial:
    """A planned repeat in a lane; `lanes` are those that it may disturb."""

    planned: Planned
    lane: str
    lanes: tuple[str, ...]
    seed: int

    @property
    def service(self) -> str:
        return name_of(self.planned.role, self.lane)

    def run(self, shop: ShopStack) -> Result:
        """Break, wait for the diagnosis, mend, wait for calm, forget. Raises DemoError when it does not
        calm down."""
        shop.close_incidents(self.lanes)  # of an alert between two scenarios: it would be re-opened
        shop.wait_until_measured(self.lanes)
        begin = time.time()
        for lane in self.lanes:
            shop.relay.arm(lane, self.planned.delay)
        if self.planned.decoy:
            shop.deploy(name_of(self.planned.decoy, self.lane))
            time.sleep(self.planned.lead)
        stories, fault_at = self._diagnosed(shop, begin)
        gates = {lane: shop.relay.disarm(lane) for lane in self.lanes}
        notified = [at for lane in self._watched(shop) if (at := gates[lane]) is not None]
        self._calm_down(shop, begin)
        return self._result(shop, stories, fault_at, min(notified, default=None))

    def _diagnosed(self, shop: ShopStack, begin: float) -> tuple[list[dict[str, Any]], float]:
        """The stories of the incidents when their diagnoses have settled, and when the fault began."""
        scenario = self.planned.scenario
        with ExitStack() as broken:
            fault_at = time.time()
            broken.enter_context(scenario.fault(shop, self.service, random.Random(self.planned.seed)))
            if scenario.lasts is not None:
                time.sleep(scenario.lasts)
                broken.close()
            deadline = fault_at + (QUIET_WINDOW if scenario.is_quiet else self.planned.delay + 2 * DETECTION)
            stories: list[dict[str, Any]] = []
            seen, changed_at = _state_of(stories), time.time()
            while time.time() < deadline:
                time.sleep(POLL)
                shop.check_servers()
                stories = shop.incidents(self._watched(shop), begin)
                if _state_of(stories) != seen:
                    seen, changed_at = _state_of(stories), time.time()
                if scenario.is_quiet or not _decided(stories):
                    continue
                if time.time() > changed_at + SETTLED:
                    break
        return stories, fault_at

    def _watched(self, shop: ShopStack) -> list[str]:
        """The lanes whose incidents are about the fault: what it takes from others is no case."""
        services = self.planned.scenario.labelled_services(self.service, shop.lanes)
        return sorted({lane_of(service) for service in services} or {self.lane})

    def _calm_down(self, shop: ShopStack, begin: float) -> None:
        shop.seem_old([name for lane in self.lanes for name in services_of(lane)])
        deadline, quiet_since = time.monotonic() + CALM_DEADLINE, time.monotonic()
        while time.monotonic() < quiet_since + CALM:
            time.sleep(POLL)
            if shop.alerts(self.lanes) or any(shop.relay.listed(lane) for lane in self.lanes):
                quiet_since = time.monotonic()
            if time.monotonic() > deadline:
                raise DemoError(f"{self.planned.scenario.name}: {self.lane} does not calm down")
        shop.close_incidents(self.lanes)
        shop.forget(self.lanes, begin, time.time() - KEPT)

    def _result(
        self, shop: ShopStack, stories: Sequence[Mapping[str, Any]], fault_at: float, notified: float | None
    ) -> Result:
        scenario = self.planned.scenario
        diagnosed = [story for story in stories if story["diagnosis"]]
        first: Mapping[str, Any] = diagnosed[0]["diagnosis"] if diagnosed else {}
        return Result(
            scenario=scenario.name,
            repeat=self.planned.repeat,
            seed=self.seed,
            failure_class=scenario.failure_class,
            pattern=scenario.pattern,
            services=tuple(scenario.labelled_services(self.service, shop.lanes)),
            decoy=name_of(self.planned.decoy, self.lane) if self.planned.decoy else "",
            delay=round(self.planned.delay, 1),
            notified=None if notified is None else round(notified - fault_at, 1),
            told=tuple(Told.of_story(story, fault_at, _told_at(story)) for story in diagnosed),
            incidents=len(stories),
            rules_version=str(first.get("rules_version", "")),
            findings=tuple(first.get("localization", {}).get("findings", ())),
        )


def _decided(stories: Sequence[Mapping[str, Any]]) -> bool:
    return bool(stories) and all(story["diagnosis"] and story["state"] not in _UNDECIDED for story in stories)


def _state_of(stories: Sequence[Mapping[str, Any]]) -> list[tuple[Any, ...]]:
    return [(story["id"], story["state"] in _UNDECIDED, _told_at(story)) for story in stories]


def _told_at(story: Mapping[str, Any]) -> float:
    """When the newest diagnosis was made; 0 before there is one."""
    times = [entry["at"] for entry in story["timeline"] if entry["kind"] == "diagnosis"]
    return max((datetime.fromisoformat(at).timestamp() for at in times), default=0.0)
