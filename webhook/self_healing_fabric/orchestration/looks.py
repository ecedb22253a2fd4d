"""Who looks at targets behind one server: an engine or a cluster has many, and they fall silent together.

Each look at a silent server keeps a worker until its timeout, and an incident for each target would keep them
all: what stands elsewhere and could be healed would wait for that. So while a server does not answer, a few
look at it for all.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from self_healing_fabric import servers_asked
from self_healing_fabric.recovery.effects import Effect, TargetAway

AT_ONCE = 2  # looks at a silent server


class Looks:
    """The looks at servers that are under way. Safe to share between threads."""

    def __init__(self) -> None:
        self._under_way: Counter[tuple[str, str | None]] = Counter()
        self._lock = threading.Lock()

    @contextmanager
    def of(self, effect: Effect) -> Iterator[None]:
        """While the target of an effect is looked at. Raises TargetAway when enough others look for it."""
        server = effect.server
        if server is None:
            yield
            return
        kind, url = server
        silent = any(each.answers is False for each in servers_asked.known(kind, url))
        with self._lock:
            if silent and self._under_way[server] >= AT_ONCE:
                raise TargetAway(f"{kind} does not answer: {AT_ONCE} others wait for its answer")
            self._under_way[server] += 1
        try:
            yield
        finally:
            with self._lock:
                self._under_way[server] -= 1
