"""Memory that outlives the killed: the clock, what the target did, and by which points the process came.

A process that dies by SIGKILL tells nobody anything. So everything that the next process, the target and the
judge must know of it stands in memory that they share, written as it happens. Only the store is what the
product itself left behind; the rest is the world around it, which does not die.

Time is virtual: it stands still until a process moves it, or runs at a multiple of the real one, for the
lives whose threads are real. It never goes back, and it goes on over deaths.
"""

from __future__ import annotations

import mmap
import struct
import time
from collections.abc import Mapping

START = 1_800_000_000.0  # seconds since 1970: when every story begins
SERVICES = 8  # at most, in one story
POINTS = 200  # at most
EVENTS = 8  # at most, in one story
EFFECTS = 12  # whose times are kept, of one service

_CLOCK, _SPEED, _ANCHOR, _DIED_AT = range(4)
_EVENTS = 8
_SERVICES = _EVENTS + EVENTS
_FAILS_AT, _HELD_UNTIL, _HEALTHY, _EFFECTS, _TIMES = range(5)
_WIDTH = _TIMES + EFFECTS
_REACHED = _SERVICES + SERVICES * _WIDTH
_CELLS = _REACHED + POINTS


class Board:
    """Cells of shared memory, each a double: read and written whole. Made before the processes fork."""

    def __init__(self) -> None:
        self._cells = memoryview(mmap.mmap(-1, _CELLS * struct.calcsize("d"))).cast("d")

    def clear(self, *, speed: float = 0.0) -> None:
        """Begin a story. `speed` is virtual seconds in a real one; 0: the clock is moved by hand."""
        for index in range(_CELLS):
            self._cells[index] = 0.0
        self._cells[_CLOCK], self._cells[_ANCHOR] = START, time.monotonic()
        self._cells[_SPEED] = speed

    @property
    def runs(self) -> bool:
        """Whether the clock runs by itself."""
        return self._cells[_SPEED] > 0.0

    @property
    def speed(self) -> float:
        """Virtual seconds in a real one."""
        return self._cells[_SPEED]

    def now(self) -> float:
        """Virtual seconds since 1970."""
        ran = (time.monotonic() - self._cells[_ANCHOR]) * self._cells[_SPEED]
        return self._cells[_CLOCK] + ran

    def move_to(self, moment: float) -> None:
        """Move a clock that is moved by hand."""
        self._cells[_CLOCK] = max(moment, self._cells[_CLOCK])

    def event_begun(self, index: int) -> bool:
        """Whether this event of the story may have happened: a process that died has tried."""
        return self._cells[_EVENTS + index] != 0.0

    def event_done(self, index: int) -> bool:
        """Whether this event of the story is over."""
        return self._cells[_EVENTS + index] == 2.0

    def begin_event(self, index: int) -> None:
        """It is tried."""
        self._cells[_EVENTS + index] = 1.0

    def finish_event(self, index: int) -> None:
        """It has happened."""
        self._cells[_EVENTS + index] = 2.0

    def fails_at(self, service: int) -> float | None:
        """When the service begins to fail, or None while that is not known."""
        return self._of(service, _FAILS_AT) or None

    def fail(self, service: int, moment: float) -> None:
        """Let the service fail from then on."""
        self._put(service, _FAILS_AT, moment)

    def held_until(self, service: int) -> float | None:
        """When the effect that the target has taken in will happen, or None when it has none in hand."""
        return self._of(service, _HELD_UNTIL) or None

    def hold(self, service: int, moment: float) -> None:
        """Let the target's next effect on the service happen only then; 0: at once."""
        self._put(service, _HELD_UNTIL, moment)

    def always_healthy(self, service: int) -> bool:
        """Whether its health endpoint says that all is well, whatever is the case."""
        return self._of(service, _HEALTHY) != 0.0

    def pretend_healthy(self, service: int) -> None:
        """Let its health endpoint lie."""
        self._put(service, _HEALTHY, 1.0)

    def effects(self, service: int) -> list[float]:
        """When the target was restarted."""
        number = int(self._of(service, _EFFECTS))
        return [self._of(service, _TIMES + index) for index in range(min(number, EFFECTS))]

    def note_effect(self, service: int, moment: float) -> int:
        """The target has done it: only the target calls this. Returns how often by now."""
        number = int(self._of(service, _EFFECTS))
        if number < EFFECTS:
            self._put(service, _TIMES + number, moment)
        self._put(service, _EFFECTS, number + 1.0)
        return number + 1

    def reach(self, point: int) -> None:
        """A process comes by a point."""
        self._cells[_REACHED + point] += 1.0

    def reached(self) -> Mapping[int, int]:
        """How often the processes of this story have come by each point."""
        counts = {index: int(self._cells[_REACHED + index]) for index in range(POINTS)}
        return {index: count for index, count in counts.items() if count}

    def die_at(self, point: int) -> None:
        """The last thing that a process does."""
        self._cells[_DIED_AT] = point + 1.0

    def take_death(self) -> int | None:
        """At which point the process died, told once; None: at none."""
        point = int(self._cells[_DIED_AT]) - 1
        self._cells[_DIED_AT] = 0.0
        return point if point >= 0 else None

    def _of(self, service: int, cell: int) -> float:
        return self._cells[_SERVICES + service * _WIDTH + cell]

    def _put(self, service: int, cell: int, value: float) -> None:
        self._cells[_SERVICES + service * _WIDTH + cell] = value
