"""What must end by itself although the other side never does, shown without timing it.

A bound of seconds that is right on a quiet machine is wrong on a busy one. So what hangs in these tests hangs
until the test lets it go; that the call ended before is the proof. The bound here only turns a wait for ever
into a failure.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


def within_deadline(function: Callable[[], T], within: float = 30.0) -> T:
    """What the call returns or raises, made in a thread of its own.

    Raises
    ------
    TimeoutError
        It still waits after `within` seconds; the thread is left behind.
    """
    pool = ThreadPoolExecutor(1, thread_name_prefix="within-deadline")
    try:
        return pool.submit(function).result(within)
    finally:
        pool.shutdown(wait=False)


def wait_until(condition: Callable[[], Any], within: float = 60.0) -> None:
    """Until the condition holds; AssertionError when it does not within so many seconds."""
    end = time.monotonic() + within
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)
