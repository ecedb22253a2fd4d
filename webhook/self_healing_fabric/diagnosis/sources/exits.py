"""What the way a process ended says of the cause: the same on every platform.

137 alone is the trap: it is 128 + SIGKILL, and only the kernel's own word makes it an end for want of memory.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping

from self_healing_fabric.diagnosis.patterns import Pattern

SIGNALLED = 128  # shells and container runtimes add the number of the signal to it
LAST_SIGNAL = 64
NOT_EXECUTABLE, NOT_FOUND = 126, 127
OUT_OF_MEMORY: Mapping[Pattern, float] = {Pattern.RESOURCE_EXHAUSTION: 0.95}
_FAULTS = {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP}


def how_it_ended(code: int) -> str:
    """The exit code in words, without a full stop: `code 139, SIGSEGV`."""
    if code == NOT_EXECUTABLE:
        return f"code {code}, its command cannot be executed"
    if code == NOT_FOUND:
        return f"code {code}, its command was not found"
    number = _signal_of(code)
    return f"code {code}" if number is None else f"code {code}, {number.name}"


def supported_by(code: int) -> Mapping[Pattern, float]:
    """The patterns that an exit code speaks for, where nobody says that memory was the reason."""
    if code in (NOT_EXECUTABLE, NOT_FOUND):
        return {Pattern.CONFIGURATION_ERROR: 0.8}
    number = _signal_of(code)
    if number in _FAULTS:
        return {Pattern.CODE_BUG: 0.75}
    if number is not None or code == 0:
        return {}  # somebody ended it, or it had nothing to do: neither says why
    return {Pattern.CODE_BUG: 0.45, Pattern.CONFIGURATION_ERROR: 0.4}


def _signal_of(code: int) -> signal.Signals | None:
    try:
        return signal.Signals(code - SIGNALLED) if SIGNALLED < code <= SIGNALLED + LAST_SIGNAL else None
    except ValueError:
        return None
