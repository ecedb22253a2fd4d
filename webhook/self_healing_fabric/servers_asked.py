"""When each server was asked last, whether it answered and how long that took, as seen by the real calls.

A status page that asks the servers itself is slowest exactly when somebody wants to know what is slow, and
ten people who reload it are load of their own. So the calls that are made anyway leave their time here, and
the page reads it. What is known is of this process, and of all fabrics in it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

LONGEST_ERROR = 300  # characters
MOST_SERVERS = 100  # a fabric asks a handful; a process must not keep every address it ever asked

_lock = threading.Lock()


@dataclass(frozen=True)
class Asked:
    """One server: `kind` is prometheus, alertmanager, kubernetes or docker. Times in seconds since 1970.

    Attributes:
        answered_at: when it answered last; None: never yet.
        latency: seconds of that call.
        failed_at: when it did not answer last; None: never yet.
        error: what it was then.
    """

    kind: str
    url: str
    answered_at: float | None = None
    latency: float | None = None
    failed_at: float | None = None
    error: str | None = None

    @property
    def answers(self) -> bool | None:
        """Whether the last call was answered; None: nobody has asked."""
        if self.answered_at is None and self.failed_at is None:
            return None
        return (self.answered_at or 0.0) > (self.failed_at or 0.0)


_servers: dict[tuple[str, str], Asked] = {}


def note(kind: str, url: str, seconds: float, error: str | None = None) -> None:
    """A call has ended after so many seconds, with an answer or with an error.

    Of more than `MOST_SERVERS`, the one that was not asked for the longest time is forgotten.
    """
    with _lock:
        known = _servers.pop((kind, url), None) or Asked(kind, url)
        if len(_servers) >= MOST_SERVERS:
            del _servers[next(iter(_servers))]
        if error is None:
            known = replace(known, answered_at=time.time(), latency=seconds)
        else:
            known = replace(known, failed_at=time.time(), error=error[:LONGEST_ERROR])
        _servers[kind, url] = known


@contextmanager
def asking(kind: str, url: str, *, answered: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """A call inside: note how long it takes. Errors in `answered` are answers too, such as "not found"."""
    began = time.monotonic()
    try:
        yield
    except answered:
        note(kind, url, time.monotonic() - began)
        raise
    except Exception as error:
        note(kind, url, time.monotonic() - began, str(error) or type(error).__name__)
        raise
    note(kind, url, time.monotonic() - began)


def known(kind: str, url: str | None = None) -> list[Asked]:
    """What is known of the servers of a kind, or of one of them, by URL."""
    with _lock:
        found = [each for each in _servers.values() if each.kind == kind and url in (None, each.url)]
    return sorted(found, key=lambda each: each.url)
