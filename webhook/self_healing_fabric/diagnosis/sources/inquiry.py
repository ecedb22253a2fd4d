"""Asks all sources of a service at once, and goes on when the time is over.

A diagnosis waits for its slowest witness, and the witness is slowest exactly when the platform is in trouble.
So they are asked beside each other while Prometheus is asked, and the one that has not answered in time is
named as missing. Each source bounds its own calls by the same time, so a thread that is left behind ends.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait

import structlog

from self_healing_fabric.diagnosis.sources import Report, SourceMaker, SourceUnusable

SHARE = 0.9  # of the time is the source's; in the rest it puts together what it has seen in time
LEAST_TIME = 0.1  # seconds

log = structlog.get_logger()


class Inquiry:
    """Sources that are being asked. `at` is now, in seconds since 1970; `within` the seconds for them all."""

    def __init__(self, makers: Mapping[str, SourceMaker], *, at: float, within: float) -> None:
        self._within = within
        self._ends = time.monotonic() + within
        self._asked: dict[str, Future[Report]] = {}
        if not makers:
            return
        pool = ThreadPoolExecutor(len(makers), thread_name_prefix="shf-source")
        self._asked = {name: pool.submit(self._ask, name, make, at) for name, make in makers.items()}
        pool.shutdown(wait=False)  # the threads end with their questions

    def report(self) -> Report:
        """What was seen until the time was over, in the order in which the sources were given."""
        done, _ = wait(self._asked.values(), timeout=max(0.0, self._ends - time.monotonic()))
        whole = Report()
        for name, asked in self._asked.items():
            late = Report(missing=(f"{name}: no answer within {self._within:g} s",))
            whole += asked.result() if asked in done else late
        return whole

    def _ask(self, name: str, make: SourceMaker, at: float) -> Report:
        try:
            source = make()
            left = self._ends - time.monotonic()
            return source.look(at, max(LEAST_TIME, left * SHARE)).seen_by(name)
        except SourceUnusable as error:
            return Report(missing=(f"{name}: {error}",))
        except Exception as error:
            # A stranger's answer that we misread must not stop healing.
            log.exception("source_failed", source=name)
            return Report(missing=(f"{name}: its answer could not be read: {type(error).__name__}",))
