"""Signals become exceptions that unwind the `with` blocks, so that everything that was started ends.

While those unwind, more signals are ignored, because an impatient second Ctrl-C would leave behind what the
first one was about to stop. One that comes while a process is being started waits until somebody knows the
process: of one that runs already and is known to nobody, nobody could wait for the end.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _Hold:
    """What the main thread has in hand."""

    held = False
    came = False


@contextmanager
def signals_interrupt() -> Iterator[None]:
    """The first signal unwinds, as KeyboardInterrupt; what unwinds is not disturbed by another one.

    Call it from the main thread.
    """

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        ignore_signals()
        if _Hold.held:
            _Hold.came = True
        else:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def ignore_signals() -> None:
    """By a handler that does nothing: SIG_IGN is inherited, and a child just starting would keep it."""
    for number in _SIGNALS:
        signal.signal(number, lambda _number, _frame: None)


@contextmanager
def signals_wait() -> Iterator[None]:
    """A signal that comes meanwhile unwinds afterwards. Other threads than the main one get none anyway."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _Hold.held = True
    try:
        yield
    finally:
        _Hold.held = False
        came, _Hold.came = _Hold.came, False
    if came:
        raise KeyboardInterrupt
