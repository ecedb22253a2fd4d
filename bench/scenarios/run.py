"""A whole run: the servers anew again and again, the lanes side by side, then what may not have company.

Anew, because Prometheus is told to forget after every scenario: after some deletions in one lane a real
Prometheus 2.42 no longer showed what it had just recorded of some series there, and rules that read them were
blind. So a lane serves for about seven scenarios: one repeat of all of them when there are four lanes, two
when there are eight. A blind lane would look like a diagnosis that was not made, so every scenario begins by
looking whether its traffic is measured.
"""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from bench.scenarios.plan import Planned
from bench.scenarios.results import Result, ResultFile
from bench.scenarios.shop import ENTRY, ShopStack, name_of
from bench.scenarios.trial import Trial
from shf_demo.errors import DemoError

FORGOTTEN = 7  # times that a lane may be on the same servers
WARM_UP = 90.0  # seconds of usual traffic to compare with: 18 samples of a diagnosis
_POLL = 0.5  # seconds


def run(
    workdir: Path,
    whole: Sequence[Sequence[Planned]],
    file: ResultFile,
    *,
    lanes: int,
    seed: int,
    warm_up: float = WARM_UP,
) -> None:
    """Run what the file does not hold yet. Call it from the main thread: processes are tied to it.

    Raises DemoError when the servers do not come up or a scenario cannot be undone.
    """
    done = {
        (result.scenario, result.repeat)
        for result in file.read()
        if result.seed == seed and not result.spoiled
    }
    missing = [[each for each in some if (each.scenario.name, each.repeat) not in done] for some in whole]
    total = sum(len(some) for some in missing)
    if not total:
        return
    progress = _Progress(file, total)
    progress.say(f"{total} to run, {lanes} at once. Starting the servers ...")
    for number, some in enumerate(on_the_same_servers(missing, lanes)):
        directory = workdir / str(number)
        directory.mkdir()
        with ShopStack(directory, lanes=lanes) as shop:
            _warm_up(shop, progress, warm_up)
            _repeat(some, shop, progress, seed)


def on_the_same_servers(repeats: Sequence[Sequence[Planned]], lanes: int) -> list[list[Planned]]:
    """What runs between two starts of the servers: at least one repeat, and more while no lane is forgotten
    more than seven times. What may have no company takes all lanes."""
    groups: list[list[Planned]] = []
    used = 0.0
    for some in repeats:
        more = sum(1.0 if each.scenario.alone else 1.0 / lanes for each in some)
        if groups and used + more <= FORGOTTEN:
            groups[-1] += some
            used += more
        elif some:
            groups.append(list(some))
            used = more
    return groups


def _warm_up(shop: ShopStack, progress: _Progress, seconds: float) -> None:
    shop.wait_services_up()
    progress.say(f"Watching usual traffic for {seconds:.0f} s ...")
    time.sleep(seconds)
    for lane in shop.lanes:
        entry = name_of(ENTRY, lane)
        shop.wait_for(
            f"latency baseline of {entry}",
            partial(shop.has_latency_baseline, entry),
            shop.timings.baseline_deadline,
        )


def _repeat(some: Sequence[Planned], shop: ShopStack, progress: _Progress, seed: int) -> None:
    """Some repeats of every scenario: first side by side, then those that may not have company."""
    side_by_side([each for each in some if not each.scenario.alone], shop, seed, progress.over)
    for number, each in enumerate(each for each in some if each.scenario.alone):
        lane = shop.lanes[(each.repeat + number) % len(shop.lanes)]
        progress.over(Trial(each, lane, shop.lanes, seed).run(shop))


class _Progress:
    def __init__(self, file: ResultFile, total: int) -> None:
        self._file = file
        self._left = total
        self._begin = time.monotonic()
        self._lock = threading.Lock()

    def say(self, text: str) -> None:
        print(f"{time.monotonic() - self._begin:6.0f} s  {text}", file=sys.stderr, flush=True)

    def over(self, result: Result) -> None:
        """Keep a result and tell it."""
        self._file.append(result)
        with self._lock:
            self._left -= 1
            self.say(f"{_line(result)}  ({self._left} to go)")


def _line(result: Result) -> str:
    wanted = f"{result.failure_class}, {result.pattern} in {'|'.join(result.services[:1]) or '-'}"
    first = result.first
    told = "nothing"
    if first is not None:
        told = f"{first.failure_class}, {first.pattern} in {first.service} ({first.confidence:.2f})"
    return f"{result.scenario} {result.repeat}: {wanted} -> {told}"


def side_by_side(some: Sequence[Planned], shop: ShopStack, seed: int, over: Callable[[Result], None]) -> None:
    """Each lane takes the next one when it is calm again; `over` is called with every result, by threads.

    Raises DemoError after the first error, when all lanes have ended what they were at.
    """
    waiting: queue.SimpleQueue[Planned] = queue.SimpleQueue()
    for each in some:
        waiting.put(each)
    errors: list[Exception] = []

    def work(lane: str) -> None:
        while not errors:
            try:
                each = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                over(Trial(each, lane, (lane,), seed).run(shop))
            except Exception as error:  # noqa: BLE001  # told by the main thread, which waits for it
                errors.append(error)

    lanes = [
        threading.Thread(target=work, args=(lane,), name=f"lane-{lane}", daemon=True) for lane in shop.lanes
    ]
    for lane in lanes:
        lane.start()
    while any(lane.is_alive() for lane in lanes):
        time.sleep(_POLL)
    if errors:
        raise DemoError(f"a scenario could not be run: {errors[0]!r}") from errors[0]
