"""Loopback ports that belong to this run until it ends, also while the service behind one is down.

The usual trick, bind to port 0, close, and use the number, has two holes. The kernel may give the number
away again, to an outgoing connection or to another run that starts in the same second; and a service that
is being restarted leaves its port unbound for a moment. Each makes one start in some hundreds fail. So the
ports are taken from below the ephemeral ranges of Linux (32768) and macOS (49152), in random order, and on
Linux a socket that never listens stays bound to each: servers, which all set SO_REUSEADDR, can bind beside
it, connections are refused as if it were not there, and nobody else gets the port. Elsewhere such a socket
would be in the server's way, so it is closed at once.
"""

from __future__ import annotations

import random
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

_RANGE = range(20_000, 32_000)


@contextmanager
def reserved_ports(count: int) -> Iterator[list[int]]:
    """Ports on 127.0.0.1 that nobody else has, for as long as the block lasts."""
    with ExitStack() as held:
        found: list[int] = []
        for port in random.sample(_RANGE, len(_RANGE)):
            if len(found) == count:
                break
            with suppress(OSError):
                holder = _bind(port)
                held.callback(holder.close)
                found.append(port)
        else:
            raise OSError(f"fewer than {count} free loopback ports from {_RANGE.start} to {_RANGE.stop}")
        if sys.platform != "linux":
            held.close()
        yield found


def free_ports(count: int) -> list[int]:
    """Ports that nobody has at this moment, for a server that cannot share them with a holder."""
    with reserved_ports(count) as ports:
        return ports


def _bind(port: int) -> socket.socket:
    holder = socket.socket()
    try:
        # First without SO_REUSEADDR, which would let two holders share a port.
        holder.bind(("127.0.0.1", port))
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    except OSError:
        holder.close()
        raise
    return holder
