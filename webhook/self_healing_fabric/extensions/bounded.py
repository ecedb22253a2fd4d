"""Calls into code that is not ours: it may raise anything and may never return.

Python cannot end a thread. So such a call has a thread of its own that nobody waits for after its time: the
worker goes on, and the thread ends with the process. Threads left behind are counted, for a plugin that hangs
at every call would fill the memory: after a few of them it is not called any more until one has returned.
"""

from __future__ import annotations

import contextvars
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

from self_healing_fabric.errors import ShfError

T = TypeVar("T")

MOST_LEFT_BEHIND = 8  # calls of one name that hang at the same time; more are refused at once

_left_behind: Counter[str] = Counter()
_lock = threading.Lock()


class Misbehaved(ShfError):
    """Code that is not ours raised, hangs, or answered what nobody can read; the text says who and what."""


class _Answer:
    def __init__(self) -> None:
        self.done = threading.Event()
        self.value: Any = None
        self.error: BaseException | None = None
        self.late = False


def call(
    who: str, function: Callable[[], T], *, within: float, passes: tuple[type[Exception], ...] = ()
) -> T:
    """Call `function` and return its value, at the latest after `within` seconds.

    Args:
        who: whose code it is, as people are told: `plugin flush_cache`.
        function: what is called, in a thread of its own with the caller's context variables.
        within: seconds.
        passes: errors that it may raise by its contract; they are raised as they are.

    Raises:
        Misbehaved: it raised something else, or did not return in time.
    """
    with _lock:
        if _left_behind[who] >= MOST_LEFT_BEHIND:
            raise Misbehaved(f"{who} is not called: {MOST_LEFT_BEHIND} earlier calls still hang")
    answer, context = _Answer(), contextvars.copy_context()

    def run() -> None:
        try:
            answer.value = context.run(function)
        except BaseException as error:  # noqa: BLE001 - SystemExit of a plugin must not end a worker either
            answer.error = error
        with _lock:
            answer.done.set()
            if answer.late:
                _left_behind[who] -= 1

    threading.Thread(target=run, name=f"call of {who}", daemon=True).start()
    answer.done.wait(within)
    with _lock:
        if not answer.done.is_set():
            answer.late = True
            _left_behind[who] += 1
            raise Misbehaved(f"{who} did not return within {within:g} s")
    if answer.error is None:
        return answer.value  # type: ignore[no-any-return]
    if isinstance(answer.error, passes):
        raise answer.error
    raise Misbehaved(f"{who} raised {type(answer.error).__name__}: {answer.error}") from answer.error
