"""Threads that exist before there is work for them.

A pool starts a thread when work comes. Where the system allows no more of them (the limit of a container, a
machine without memory) it refuses the work then, which has been claimed already: nobody would do it any more.
So a fabric has all of its threads when it starts, or does not start.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor


def start_all(pool: ThreadPoolExecutor, number: int) -> None:
    """Start all threads of a pool that has so many, and has had no work yet.

    Raises:
        RuntimeError: the system allows no more.
    """
    together = threading.Barrier(number + 1)  # whoever waits takes no more work, which needs another thread
    try:
        for _ in range(number):
            pool.submit(together.wait)
        together.wait()
    except RuntimeError:
        together.abort()
        raise
