"""Calls into code that is not ours: it may raise anything and may never return.

Python cannot end a thread. So such a call has a thread of its own that nobody waits for after its time: the
worker goes on, and the thread ends with the process. Threads left behind are counted, for a plugin that hangs
at every call would fill the memory: after a few of them it is not called any more until one has returned.
"""

from __future__ import annotations

import contextvars
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from self_healing_fabric.errors import ShfError

T = TypeVar("T")

MOST_LEFT_BEHIND = 8  # calls of one name that hang at the same time; more are refused at once

_left_behind: Counter[str] = Counter()
_lock = threading.Lock()


class Misbehaved(ShfError):
    """Code that is not ours raised, hangs, cannot be called now, or answered what nobody can read; the text
    says who and what."""


class Begun(Generic[T]):
    """A call that `begin` has begun."""

    def __init__(self, who: str) -> None:
        self._who = who
        self._since = time.monotonic()
        self._done = threading.Event()
        self._value: Any = None
        self._error: BaseException | None = None
        self._late = False

    def run(self, function: Callable[[], T]) -> None:
        """Call it, in the thread that `begin` made."""
        try:
            self._value = function()
        except BaseException as error:  # noqa: BLE001 - SystemExit of a plugin must not end a worker either
            self._error = error
        with _lock:
            self._done.set()
            if self._late:
                _left_behind[self._who] -= 1

    def value(self, *, within: float, passes: tuple[type[Exception], ...] = ()) -> T:
        """What it returns, at the latest `within` seconds after it began. To be asked for once.

        Raises:
            Misbehaved: it raised something else than `passes`, or did not return in time.
        """
        self._done.wait(self._since + within - time.monotonic())
        with _lock:
            if not self._done.is_set():
                self._late = True
                _left_behind[self._who] += 1
                raise Misbehaved(f"{self._who} did not return within {within:g} s")
        error = self._error
        if error is None:
            return self._value  # type: ignore[no-any-return]
        if isinstance(error, passes):
            raise error
        raise Misbehaved(f"{self._who} raised {type(error).__name__}: {error}") from error


def begin(who: str, function: Callable[[], T]) -> Begun[T]:
    """Begin to call `function`, in a thread of its own with the caller's context variables.

    Args:
        who: whose code it is, as people are told: `plugin flush_cache`.
        function: what is called.

    Raises:
        Misbehaved: too many earlier calls hang, or the system allows no further thread.
    """
    with _lock:
        if _left_behind[who] >= MOST_LEFT_BEHIND:
            raise Misbehaved(f"{who} is not called: {MOST_LEFT_BEHIND} earlier calls still hang")
    begun, context = Begun[T](who), contextvars.copy_context()
    thread = threading.Thread(
        target=context.run, args=(begun.run, function), name=f"call of {who}", daemon=True
    )
    try:
        thread.start()
    except RuntimeError as error:
        raise Misbehaved(f"{who} is not called: {error}") from error
    return begun


def call(
    who: str, function: Callable[[], T], *, within: float, passes: tuple[type[Exception], ...] = ()
) -> T:
    """Call `function` and return its value, at the latest after `within` seconds.

    Args:
        who: as for `begin`.
        function: what is called.
        within: seconds.
        passes: errors that it may raise by its contract; they are raised as they are.

    Raises:
        Misbehaved: it cannot be called, raised something else, or did not return in time.
    """
    return begin(who, function).value(within=within, passes=passes)
