"""Does every configuration still say what it should? Looked at every minute, by the replica that leads.

Reading a configuration means asking a service, an API server or git, and any of them may take its ten
seconds. So it has threads of its own and no part in the 10 s comparison, which must not wait for the slowest
service. One that hangs delays nobody else, and is not asked a second time before it has answered.

What could not be read is not known. Neither 0 nor the last value is exported for it: a drift that nobody can
see any more has not ended. A configuration that drifts is looked at more often, so that its repair is seen
soon: `verification` wants samples that were measured after the action.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import structlog

from self_healing_fabric.errors import ShfError
from self_healing_fabric.recovery.configuration import configuration_of
from self_healing_fabric.settings import Settings
from self_healing_fabric.threads import start_all

log = structlog.get_logger()

THREADS = 4  # configurations that are read at a time
TICK = 0.5  # seconds between two looks at which are due
OVERDUE = 3  # intervals after which a reading is no longer believed


@dataclass(frozen=True)
class Reading:
    """In how many places it differed, NaN when that is not known; `at` on the monotonic clock."""

    places: float
    at: float
    problem: str | None = None


class DriftWatch:
    """Compares the configurations of all services that have one, from `start` to `stop`."""

    def __init__(self, settings: Settings, leads: Callable[[], bool]) -> None:
        self._settings = settings
        self._leads = leads
        self._watched = {
            name: service.recovery.configuration
            for name, service in settings.services.items()
            if service.recovery.configuration is not None
        }
        self._readings: dict[str, Reading] = {}
        self._due = dict.fromkeys(self._watched, 0.0)
        self._under_way: set[str] = set()
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="drift")
        self._thread = threading.Thread(target=self._run, name="drift-watch", daemon=True)

    def start(self) -> None:
        """Begin to look, where there is anything to look at.

        Raises:
            RuntimeError: the system allows not as many threads.
        """
        if self._watched:
            start_all(self._pool, THREADS)
            self._thread.start()

    def stop(self) -> None:
        """Begin nothing more. What is being read ends by its timeout: no step in hand waits for that."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def places(self) -> Mapping[str, float]:
        """Of each configured service, in how many places it differs; NaN when nobody knows that now."""
        now = time.monotonic()
        with self._lock:
            return {name: self._believed(name, now) for name in self._watched}

    def _believed(self, name: str, now: float) -> float:
        reading, interval = self._readings.get(name), self._watched[name].interval
        # Another replica that leads has newer ones: two answers for one service would be a quarrel.
        if reading is None or not self._leads() or now - reading.at > OVERDUE * interval:
            return math.nan
        return reading.places

    def _run(self) -> None:
        while not self._stopping.wait(TICK):
            if self._leads():
                self.look()

    def look(self) -> None:
        """Have everything read that is due and not being read already."""
        now = time.monotonic()
        with self._lock:
            due = [name for name, at in self._due.items() if at <= now and name not in self._under_way]
            self._under_way.update(due)
        for name in due:
            self._pool.submit(self._read, name)

    def _read(self, name: str) -> None:
        try:
            reading = self._compared(name)
        except Exception:
            log.exception("drift_watch_failed", service=name)
            reading = Reading(math.nan, time.monotonic(), "unexpected error")
        interval = self._watched[name].interval
        if reading.places > 0:
            interval = min(interval, self._settings.verification.interval)
        with self._lock:
            before = self._readings.get(name)
            self._readings[name] = reading
            self._due[name] = time.monotonic() + interval
            self._under_way.discard(name)
        _tell(name, before, reading)

    def _compared(self, name: str) -> Reading:
        # What was read is true for the moment at which the reading began, at the latest.
        at = time.monotonic()
        try:
            configuration = configuration_of(name, self._settings)
            places = 0 if configuration is None else configuration.compare().drift.places
        except ShfError as error:
            return Reading(math.nan, at, str(error))
        return Reading(float(places), at)


def _tell(name: str, before: Reading | None, reading: Reading) -> None:
    """Log only what is new: a drift that lasts, or an outage, must not fill the log every minute."""
    if reading.problem is not None:
        if before is None or before.problem is None:
            log.warning("configuration_unreadable", service=name, error=reading.problem)
    elif before is None or before.places != reading.places:
        if reading.places > 0:
            log.warning("configuration_drifts", service=name, places=int(reading.places))
        elif before is not None:
            log.info("configuration_as_wanted", service=name)
